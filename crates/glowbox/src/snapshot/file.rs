//! Saving a snapshot to a file, and loading it.
//!
//! What the file looks like is `glowbox_core::snapshot_file`'s business; here it is written, mapped,
//! and turned into a guest again. A file is not trusted. What runs in ring 0 and what maps memory
//! never comes from it: supervisor, resume page and page tables are made anew from the layout,
//! whenever its image is mapped. So a file that someone has made up can be no more than a hostile guest.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use glowbox_abi::mailbox::{ENTROPY_OFFSET, Entropy};
use glowbox_abi::wire::decode_all_within;
use glowbox_core::elf::Personality;
use glowbox_core::escape::misleads;
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::registers::{CpuState, ExtendedState};
use glowbox_core::snapshot_file::{
    Contents, FormatError, Header, ImageHasher, Metadata, Run as FileRun,
};
use glowbox_linux::files::{Input, Output};
use glowbox_linux::{Clock, Process};
use glowbox_mem::{Image, PAGE, Run};
use tempfile::NamedTempFile;

use super::{Captured, Snapshot};
use crate::builder::{DEFAULT_DEADLINE, HostFunctions, check_deadline};
use crate::capabilities::{Capabilities, Requested};
use crate::host_function::{HostFunction, Prototypes};
use crate::instance::{Instance, Own};
use crate::linux::Linux;
use crate::log::{self, Log, LogLevel, LogLimits, LogRecord};
use crate::randomness::Randomness;
use crate::setup::{Setup, SetupOptions};
use crate::{Engine, Error, ErrorKind, Guest};

/// The bits of MXCSR. Loading others would be an exception in the guest.
const MXCSR_BITS: u32 = 0xffff;
/// Most bytes of files that a Linux program was given, unless the loader is told otherwise.
const DEFAULT_FILES: u64 = 64 << 20;
/// Most bytes that a process takes in a file besides its files in memory and what there is of each of its
/// pages: threads, areas, descriptors, pipes.
const PROCESS_ROOM: u64 = 16 << 20;
/// Most bytes that a process takes in a file for a page of its memory: where it is.
const PAGE_ROOM: u64 = 64;
/// How much more than in a file a process may take when it is decoded. A name in a directory is the least that
/// counts for its files' limits, with 96 bytes, and makes an entry of a map: a key and a value.
const DECODED_ROOM: u64 = 4;
/// Bytes of an image that are read or written at once.
const CHUNK: usize = 1 << 20;

impl Snapshot {
    /// Saves the snapshot to a file, with the guest's program, so that [`Snapshot::load`] needs nothing
    /// else but the host functions.
    ///
    /// The file appears under its name when it is complete and on the disk, and replaces one that is
    /// there; whatever happens before, there is the old file or none. It can be read and written by this
    /// user only, since it holds all that the guest has in memory. `docs/snapshot-format.md` says what
    /// is in it.
    ///
    /// ```no_run
    /// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
    /// sandbox.snapshot()?.save("warm.glowbox")?;
    /// // Later, perhaps elsewhere:
    /// let snapshot = glowbox::Snapshot::load("warm.glowbox")?;
    /// let mut sandbox = snapshot.spawn()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) if it can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |source: io::Error| {
            let text = format!("the snapshot can't be saved to `{}`", path.display());
            Error::of_system(ErrorKind::Io, text, source)
        };
        let captured = self.captured();
        let mut hasher = ImageHasher::new();
        read_image(&captured.image, |chunk| {
            hasher.update(chunk);
            Ok(())
        })
        .map_err(failed)?;
        let process = match &captured.linux {
            Some((process, _)) => postcard::to_allocvec(&**process).map_err(|error| {
                let text = "the snapshot can't be saved: the guest's process can't be encoded";
                Error::with_source(ErrorKind::InvalidSnapshot, text, error)
            })?,
            None => Vec::new(),
        };
        let contents = Contents {
            process: &process,
            metadata: metadata(captured),
            runs: captured.image.runs().iter().map(to_file).collect(),
            program: captured.setup.guest.program().bytes(),
        };
        let beginning = contents.encode(hasher.finish()).map_err(|error| {
            let text = format!("the snapshot can't be saved: {error}");
            Error::with_source(ErrorKind::InvalidSnapshot, text, error)
        })?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = new_file(folder).map_err(failed)?;
        // Not through `file` itself, whose errors don't tell what the system said.
        let mut contents = file.as_file();
        contents.write_all(&beginning).map_err(failed)?;
        read_image(&captured.image, |chunk| contents.write_all(chunk)).map_err(failed)?;
        contents.sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        // The name is on the disk when the folder is.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Loads a snapshot that [`Snapshot::save`] has saved, for the shared engine, and verifies all of it.
    ///
    /// # Errors
    ///
    /// As [`Loader::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Snapshot, Error> {
        Snapshot::loader().load(path)
    }

    /// Chooses how a snapshot is loaded.
    pub fn loader() -> Loader {
        Loader {
            engine: None,
            verify: true,
            functions: HostFunctions::default(),
            deadline: Some(DEFAULT_DEADLINE),
            sink: Box::new(log::to_tracing),
            log_limits: LogLimits::default(),
            limits: Limits::DEFAULT,
            stack: None,
            scratch: 0,
            files: DEFAULT_FILES,
            requested: Requested::default(),
        }
    }
}

/// Makes a file in a folder, which is this user's only, and goes unless it is given a name.
fn new_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut refused = None;
    let made = tempfile::Builder::new().prefix(".glowbox-").make_in(folder, |path| {
        let opened = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        opened.inspect_err(|error| refused = error.raw_os_error())
    });
    // What the system said, which the error that is returned has as a text only.
    let file = made.map_err(|error| refused.map_or(error, io::Error::from_raw_os_error))?;
    Ok(file)
}

/// Chooses how a snapshot is loaded; made by [`Snapshot::loader`].
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// let snapshot = glowbox::Snapshot::loader()
///     .verify(false)
///     .host_function("weekday", || "Monday".to_string())
///     .load("warm.glowbox")?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a loader does nothing until `load` is called"]
pub struct Loader {
    engine: Option<Engine>,
    verify: bool,
    functions: HostFunctions,
    deadline: Option<Duration>,
    sink: Box<dyn log::Sink>,
    log_limits: LogLimits,
    limits: Limits,
    stack: Option<u64>,
    /// Most bytes of a Linux program's scratch directory, and of the files that it was given.
    scratch: u64,
    files: u64,
    requested: Requested,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("verify", &self.verify).finish_non_exhaustive()
    }
}

impl Loader {
    /// Uses this engine instead of the shared one.
    pub fn engine(mut self, engine: &Engine) -> Loader {
        self.engine = Some(engine.clone());
        self
    }

    /// Whether the memory image is read once and checked against its checksum, which is so by default
    /// and takes time in proportion to its size. Without it, loading takes the same time whatever the size;
    /// everything else in the file is checked all the same.
    ///
    /// What this can find is damage. It does not make a file trustworthy: whoever can write a file can
    /// write its checksums. But neither need it be trusted: a guest from an altered file is a guest
    /// like any other, which can do what any guest can.
    pub fn verify(mut self, verify: bool) -> Loader {
        self.verify = verify;
        self
    }

    /// Refuses a snapshot of a guest that may have a larger heap than this; 64 MiB by default, as a
    /// sandbox that is built. How much a guest may have is in the file, and who loads it decides
    /// whether that is too much.
    pub fn memory_limit(mut self, bytes: u64) -> Loader {
        self.limits.heap = bytes;
        self
    }

    /// Refuses a snapshot of a guest with a larger stack than this; 1 MiB by default, and 8 MiB for a
    /// Linux program.
    pub fn stack_size(mut self, bytes: u64) -> Loader {
        self.stack = Some(bytes);
        self
    }

    /// Refuses a snapshot of a guest with larger messages than this, either way; 16 MiB by default. See
    /// [`Builder::message_size`](crate::Builder::message_size) for what depends on it.
    pub fn message_size(mut self, bytes: u64) -> Loader {
        (self.limits.incoming, self.limits.outgoing) = (bytes, bytes);
        self
    }

    /// Refuses a snapshot of a Linux program whose scratch directory has room for more than this; by
    /// default, one with any scratch directory, since a program has none that was not granted one. It lies
    /// in the host's memory, of each sandbox. See [`Builder::scratch`](crate::Builder::scratch).
    pub fn scratch_limit(mut self, bytes: u64) -> Loader {
        self.scratch = bytes;
        self
    }

    /// Refuses a snapshot of a Linux program if the files that it was given
    /// ([`Builder::file`](crate::Builder::file)) take more of the host's memory than this, which the sandboxes
    /// share; 64 MiB by default. As in a scratch directory, names and bookkeeping count too.
    pub fn file_limit(mut self, bytes: u64) -> Loader {
        self.files = bytes;
        self
    }

    /// Limits how much the guests may write to the log. See
    /// [`Builder::log_limits`](crate::Builder::log_limits).
    pub fn log_limits(mut self, limits: LogLimits) -> Loader {
        self.log_limits = limits;
        self
    }

    /// Registers a function that the guest may call by this name, for all sandboxes that are spawned
    /// from the snapshot; host functions are not part of the file. See
    /// [`Builder::host_function`](crate::Builder::host_function).
    pub fn host_function<M: 'static>(
        mut self,
        name: impl Into<String>,
        function: impl HostFunction<M>,
    ) -> Loader {
        self.functions.add(name.into(), function);
        self
    }

    /// Ends every call after this time, unless the call has a deadline of its own; ten seconds by
    /// default.
    pub fn deadline(mut self, time: Duration) -> Loader {
        self.deadline = Some(time);
        self
    }

    /// Lets calls take as long as they take. They can still be interrupted.
    pub fn no_deadline(mut self) -> Loader {
        self.deadline = None;
        self
    }

    /// Hands the guests' log records to `sink` instead of `tracing`. See
    /// [`Builder::log_sink`](crate::Builder::log_sink).
    pub fn log_sink(mut self, sink: impl FnMut(&LogRecord<'_>) + Clone + Send + 'static) -> Loader {
        self.sink = Box::new(sink);
        self
    }

    /// What Linux programs read from standard input. Streams and the host's directories are not part of
    /// the file; what it has of a file tree in memory, it has. How far a program had read in
    /// [`Input::bytes`](crate::Input::bytes) is part of it too, and it goes on there in what is given here;
    /// what is given to a [`Spawner`](crate::Spawner) is read from its start. See
    /// [`Builder::stdin`](crate::Builder::stdin).
    pub fn stdin(mut self, input: Input) -> Loader {
        self.requested.files.stdin(input);
        self
    }

    /// Where Linux programs' standard output goes. See [`Builder::stdout`](crate::Builder::stdout).
    pub fn stdout(mut self, output: Output) -> Loader {
        self.requested.stdout = Some(output);
        self
    }

    /// Where Linux programs' standard error goes. See [`Builder::stderr`](crate::Builder::stderr).
    pub fn stderr(mut self, output: Output) -> Loader {
        self.requested.stderr = Some(output);
        self
    }

    /// Lets Linux programs read a directory of the host, at a path where they had one when the snapshot
    /// was taken. One that is not given again they find unreadable (`EIO`). See
    /// [`Builder::directory`](crate::Builder::directory).
    pub fn directory(mut self, path: impl AsRef<str>, host: impl AsRef<Path>) -> Loader {
        self.requested.files.directory(path, host);
        self
    }

    /// Where Linux programs' time comes from. See [`Builder::clock`](crate::Builder::clock).
    pub fn clock(mut self, clock: Clock) -> Loader {
        self.requested.clock = clock;
        self
    }

    /// Accepts a snapshot of a Linux program that may execute memory that it has written. See
    /// [`Builder::allow_jit`](crate::Builder::allow_jit).
    pub fn allow_jit(mut self) -> Loader {
        self.requested.allow_jit = true;
        self
    }

    /// Loads the file. Its memory image is mapped, not read (but see [`Loader::verify`]); that of a
    /// Linux program is copied.
    ///
    /// The file must stay as it is while the snapshot or a sandbox of it lives. If it is cut short,
    /// what needs the bytes that are gone ends with [`MemoryLost`](ErrorKind::MemoryLost). Replacing
    /// it by another file under its name, as [`Snapshot::save`] does, is safe.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) if it can't be read; [`InvalidSnapshot`](ErrorKind::InvalidSnapshot) with
    /// the field at fault if it is truncated, altered, of another version or architecture, or needs a
    /// CPU feature that is missing; [`InvalidGuest`](ErrorKind::InvalidGuest) for the program in it;
    /// [`SignatureMismatch`](ErrorKind::SignatureMismatch) and
    /// [`InvalidOption`](ErrorKind::InvalidOption) for the host functions and the deadline;
    /// [`HypervisorMissing`](ErrorKind::HypervisorMissing) and its like for the engine.
    pub fn load(self, path: impl AsRef<Path>) -> Result<Snapshot, Error> {
        let path = path.as_ref();
        check_deadline(self.deadline)?;
        let shown = path.display().to_string();
        let failed = |source: io::Error| {
            let text = format!("snapshot file `{shown}` can't be read");
            Error::of_system(ErrorKind::Io, text, source)
        };
        let invalid = |error: FormatError| {
            let text = format!("`{shown}` is not a snapshot that can be loaded here: {error}");
            Error::with_source(ErrorKind::InvalidSnapshot, text, error)
        };
        // Before it is opened: a pipe would block.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let text = format!("snapshot file `{shown}` is no regular file");
            return Err(Error::new(ErrorKind::InvalidSnapshot, text));
        }
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut first = vec![0; usize::try_from(length).unwrap_or(PAGE).min(Header::SIZE)];
        file.read_exact_at(&mut first, 0).map_err(failed)?;
        let header = Header::parse(&first, length).map_err(invalid)?;
        // Before it is read: of a file with holes, it need not even be on the disk.
        let room = [self.limits.heap / PAGE as u64 * PAGE_ROOM, self.scratch, self.files];
        let most = room.into_iter().fold(PROCESS_ROOM, u64::saturating_add);
        // Nothing in it becomes more than some times as large as that, decoded.
        let room_decoded = index(most.saturating_mul(DECODED_ROOM).min(usize::MAX as u64));
        let option = "scratch_limit or Loader::file_limit";
        refuse_more(path, &[("process length", header.process_length(), most, option)])?;
        let range = header.contents();
        let mut bytes = vec![0; index(range.end - range.start)];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        let contents = Contents::parse(&header, &bytes).map_err(invalid)?;
        let engine = self.engine.clone().map_or_else(Engine::shared, Ok)?;
        engine.check_process()?;
        let (features, xcr0) = engine.pool().cpu();
        contents.metadata.check_cpu(&features, xcr0).map_err(invalid)?;
        if self.verify {
            let mut hasher = ImageHasher::new();
            read_file(&file, header.image(), |chunk| hasher.update(chunk)).map_err(failed)?;
            header.check_image(hasher.finish()).map_err(invalid)?;
        }
        // The name is shown in errors, and is whatever the file says.
        let shown = |c: char| if misleads(c) { char::REPLACEMENT_CHARACTER } else { c };
        let name: String = contents.metadata.name.chars().map(shown).collect();
        let guest = Guest::from_bytes(&name, contents.program)?;
        self.check_limits(&guest, &contents.metadata, path)?;
        let layout = layout(&guest, &contents.metadata).map_err(invalid)?;
        let linux = match layout.personality() {
            Personality::Glowbox => None,
            Personality::Linux => {
                let capabilities = self.requested.open()?;
                let process =
                    process(contents.process, room_decoded, &guest, &layout, &capabilities);
                let process = process.map_err(|why| contradiction(path, &why))?;
                let (scratch, given) = (process.scratch_limit(), process.given_size());
                refuse_more(
                    path,
                    &[
                        ("scratch limit", scratch, self.scratch, "scratch_limit"),
                        ("files size", given, self.files, "file_limit"),
                    ],
                )?;
                capabilities.check_directories(&process)?;
                Some((Arc::new(process), capabilities))
            }
        };
        let given = self.functions.checked(&guest, false)?;
        check_runs(&contents.runs, &layout).map_err(invalid)?;
        let state = state(&contents.metadata).map_err(invalid)?;
        let runs = contents.runs.iter().map(from_file).collect();
        let image = Image::in_file(file, header.image().start, runs).map_err(failed)?;
        let control = index(layout.memory(RegionKind::Control).start);
        let generation = generation(&image, control).map_err(failed)?;
        let level = contents.metadata.log_level;
        let level = (level > 0).then(|| LogLevel::from_number(level));
        // What the guest was told, or less.
        let text = index(contents.metadata.log_text_limit).min(self.log_limits.text);
        let limits = LogLimits { text, ..self.log_limits };
        let options = SetupOptions {
            randomness: contents.metadata.seed.map_or(Randomness::System, Randomness::Fixed),
            log_level: contents.metadata.log_level,
            log_text_limit: contents.metadata.log_text_limit,
        };
        let setup = Setup::new(engine, guest, layout, options);
        let prototypes = Prototypes::for_slots(&setup.names, given);
        let captured = Arc::new(Captured {
            linux,
            setup: Arc::new(setup),
            image: Arc::new(image),
            state: Arc::new(state),
            generation,
            prototypes: Arc::new(prototypes),
            log: Log::new(self.sink, limits, level).into(),
            deadline: self.deadline,
        });
        match captured.linux {
            None => Ok(Snapshot::new(captured)),
            Some(_) => recaptured(&captured).map(Snapshot::new),
        }
    }

    /// Checks that the guest has no more of anything than is allowed here.
    fn check_limits(&self, guest: &Guest, metadata: &Metadata, path: &Path) -> Result<(), Error> {
        let stack = self.stack.unwrap_or(Limits::default_for(guest.program()).stack);
        let (found, most) = (metadata.limits, Limits { stack, ..self.limits });
        refuse_more(
            path,
            &[
                ("heap limit", found.heap, most.heap, "memory_limit"),
                ("stack limit", found.stack, most.stack, "stack_size"),
                ("incoming limit", found.incoming, most.incoming, "message_size"),
                ("outgoing limit", found.outgoing, most.outgoing, "message_size"),
            ],
        )
    }
}

/// Refuses a file with more of something than is allowed: each with its name, how much there is, how much
/// there may be, and the option of the loader that says so.
fn refuse_more(path: &Path, each: &[(&str, u64, u64, &str)]) -> Result<(), Error> {
    let Some((field, found, most, option)) = each.iter().find(|(_, found, most, _)| found > most)
    else {
        return Ok(());
    };
    let text = format!(
        "`{}` can't be loaded: its `{field}` is {found} bytes, and {most} are allowed; if that is what the \
         guest is to have, say so with Loader::{option}",
        path.display()
    );
    Err(Error::new(ErrorKind::InvalidSnapshot, text))
}

/// The process in a file, if it is one of this guest that may do no more than `capabilities` say.
fn process(
    bytes: &[u8],
    room: usize,
    guest: &Guest,
    layout: &Layout,
    capabilities: &Capabilities,
) -> Result<Process, String> {
    let process: Process = decode_all_within(bytes, room).map_err(|error| error.to_string())?;
    Linux::check(&process, guest.program(), layout, capabilities.allows_jit())?;
    Ok(process)
}

fn contradiction(path: &Path, why: &str) -> Error {
    let text = format!("`{}` can't be loaded: its `process` is none: {why}", path.display());
    Error::new(ErrorKind::InvalidSnapshot, text)
}

/// The same in memory, with page tables that do not come from the file. The guest changes those, so they
/// have to be part of its image.
fn recaptured(captured: &Arc<Captured>) -> Result<Arc<Captured>, Error> {
    let log = captured.log();
    let own = Own::new(Arc::clone(&captured.prototypes), log, captured.deadline);
    Instance::spawn(captured, own, None)?.recapture()
}

fn metadata(captured: &Captured) -> Metadata {
    let setup = &captured.setup;
    let (features, xcr0) = setup.engine.pool().cpu();
    Metadata {
        creator: env!("CARGO_PKG_VERSION").to_string(),
        features,
        xcr0,
        limits: setup.layout.limits(),
        load_base: setup.layout.load_base(),
        window_size: setup.layout.size(),
        registers: captured.state.registers,
        fs_base: captured.state.fs_base,
        gs_base: captured.state.gs_base,
        extended_state: captured.state.extended.bytes().to_vec(),
        name: setup.guest.name().to_string(),
        seed: match setup.randomness {
            Randomness::System => None,
            Randomness::Fixed(seed) => Some(seed),
        },
        log_level: setup.log_level,
        log_text_limit: setup.log_text_limit,
    }
}

fn layout(guest: &Guest, metadata: &Metadata) -> Result<Layout, FormatError> {
    let invalid = |field: &str, found, problem| FormatError::Invalid {
        field: field.to_string(),
        found,
        problem,
    };
    let base = metadata.load_base;
    if !Layout::accepts_load_base(guest.program(), base) {
        return Err(invalid("load base", base, "the program can't be loaded there"));
    }
    let layout = Layout::at(guest.program(), metadata.limits, base)
        .map_err(|error| invalid(error.name, error.found, "that is no limit that can be"))?;
    if layout.size() != metadata.window_size {
        let problem = "the program with these limits has memory of another size";
        return Err(invalid("window size", metadata.window_size, problem));
    }
    Ok(layout)
}

/// Checks that no page is one of those that no snapshot holds: the map table, the directories for what
/// is lent, which follow it, and the mailbox's buffers, which follow those.
fn check_runs(runs: &[FileRun], layout: &Layout) -> Result<(), FormatError> {
    let page = PAGE as u64;
    let first = layout.memory(RegionKind::MapTable).start;
    let own = first / page..layout.memory(RegionKind::Outgoing).end / page;
    let hit =
        runs.iter().find(|run| run.first_page < own.end && run.first_page + run.pages > own.start);
    match hit {
        None => Ok(()),
        Some(run) => Err(FormatError::Invalid {
            field: "runs table".to_string(),
            found: run.first_page,
            problem: "it has pages of the mailbox or of what is lent, which no snapshot holds",
        }),
    }
}

fn state(metadata: &Metadata) -> Result<CpuState, FormatError> {
    let area = &metadata.extended_state;
    let extended = ExtendedState::from_xsave(area, metadata.xcr0, MXCSR_BITS);
    let extended = extended.ok_or_else(|| FormatError::Invalid {
        field: "extended state length".to_string(),
        found: area.len() as u64,
        problem: "no CPU that Glowbox runs on has so much",
    })?;
    let (fs_base, gs_base) = (metadata.fs_base, metadata.gs_base);
    Ok(CpuState { registers: metadata.registers, fs_base, gs_base, extended })
}

/// The generation of random numbers that the memory of an image is of, as the memory says.
fn generation(image: &Image, control: usize) -> io::Result<u64> {
    let page = control / PAGE;
    let run = image.runs().iter().find(|run| (run.first..run.first + run.count).contains(&page));
    let Some(run) = run else { return Ok(0) };
    let mut bytes = [0; PAGE];
    image.read(run.at + page - run.first, &mut bytes)?;
    let entropy = bytes[ENTROPY_OFFSET..].first_chunk().expect("it lies in the page");
    Ok(Entropy::from_bytes(entropy).generation)
}

/// Hands an image's bytes to `take`, part by part.
fn read_image(image: &Image, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < image.pages() {
        let pages = (image.pages() - at).min(CHUNK / PAGE);
        image.read(at, &mut chunk[..pages * PAGE])?;
        take(&chunk[..pages * PAGE])?;
        at += pages;
    }
    Ok(())
}

/// Hands a part of a file to `take`, part by part.
fn read_file(
    file: &File,
    range: std::ops::Range<u64>,
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let part = &mut chunk[..index(range.end - at).min(CHUNK)];
        file.read_exact_at(part, at)?;
        take(part);
        at += part.len() as u64;
    }
    Ok(())
}

fn to_file(run: &Run) -> FileRun {
    let [first_page, pages, image_page] = [run.first, run.count, run.at].map(|page| page as u64);
    FileRun { first_page, pages, image_page }
}

fn from_file(run: &FileRun) -> Run {
    Run { first: index(run.first_page), count: index(run.pages), at: index(run.image_page) }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("checked to lie in a file or in guest memory")
}
