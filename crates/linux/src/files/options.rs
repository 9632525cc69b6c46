//! What files a guest has when it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Files;
use super::content::Content;
use super::grants::Grants;
use super::host::HostDirectory;
use super::input::Input;
use super::node::{Device, Ino, Kind, NAME_MAX, Name, Node, Pool};
use super::output::Output;
use super::resolve::{HostPlace, Mount, Place};
use crate::Errno;
use crate::call::PATH_MAX;
use crate::clock::{Clock, Clocks};

/// What files and streams a guest has. By default there is no input, output goes nowhere, and there is
/// nothing to open but `/dev/null`, `/dev/zero`, `/dev/full`, `/dev/random` and `/dev/urandom`, and
/// what descriptors stand for: `/dev/stdin`, `/dev/stdout`, `/dev/stderr` and `/dev/fd/3`.
///
/// Paths of the guest's are absolute, and mount points may nest: what has the longer path covers what
/// was there.
///
/// ```
/// use glowbox_linux::Clock;
/// use glowbox_linux::files::{Input, Options, Output};
///
/// let (output, printed) = Output::buffer(1 << 20);
/// let (files, grants) = Options::new()
///     .stdin(Input::bytes("2 + 3\n"))
///     .stdout(output)
///     .file("/etc/calculator.conf", "digits = 10\n")
///     .scratch("/tmp", 64 << 20)
///     .build(&Clock::Virtual)?;
/// # let _ = files;
/// // `files` goes into the process, `grants` into its world. After it has run:
/// let text = printed.take();
/// # let _ = (grants, text);
/// # Ok::<(), glowbox_linux::files::OptionsError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Options {
    input: Input,
    output: Output,
    error: Output,
    files: Vec<(Vec<u8>, Vec<u8>)>,
    directories: Vec<(Vec<u8>, PathBuf)>,
    scratch: Option<(Vec<u8>, u64)>,
    current: Option<Vec<u8>>,
}

/// Why a guest can't have these files.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A path is not one for a guest.
    #[error(
        "the guest's path {path:?} can't be used: it has to be absolute, without `.` and `..`, with \
         names of at most 255 bytes, and must not stand for two things"
    )]
    Path {
        /// The path.
        path: String,
    },
    /// A directory of the host can't be opened.
    #[error("the directory {} can't be opened for the guest", path.display())]
    Directory {
        /// Its path on the host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file does not fit into the scratch directory.
    #[error("the file {path:?} does not fit into the scratch directory: raise its limit")]
    Full {
        /// The file's path.
        path: String,
    },
}

impl Options {
    /// No files, and no streams.
    pub fn new() -> Options {
        Options::default()
    }

    /// Sets what the guest reads from descriptor 0.
    pub fn stdin(&mut self, input: Input) -> &mut Options {
        self.input = input;
        self
    }

    /// Sets where descriptor 1 leads.
    pub fn stdout(&mut self, output: Output) -> &mut Options {
        self.output = output;
        self
    }

    /// Sets where descriptor 2 leads.
    pub fn stderr(&mut self, output: Output) -> &mut Options {
        self.error = output;
        self
    }

    /// Gives the guest a file that it can only read; or change, if it lies in the scratch directory.
    pub fn file(&mut self, path: impl AsRef<str>, bytes: impl Into<Vec<u8>>) -> &mut Options {
        self.files.push((path.as_ref().as_bytes().to_vec(), bytes.into()));
        self
    }

    /// Gives the guest a directory of the host, with all in it, to read.
    pub fn directory(&mut self, path: impl AsRef<str>, host: impl AsRef<Path>) -> &mut Options {
        let path = path.as_ref().as_bytes().to_vec();
        self.directories.push((path, host.as_ref().to_path_buf()));
        self
    }

    /// Gives the guest a directory that it can write to, in the host's memory. What is in there costs
    /// at most so many bytes; besides its contents, each file counts 512 bytes, and each name 96 and
    /// its length.
    ///
    /// That is what is asked of the host's allocator. It takes more if gaps are left that nothing fits
    /// into: 1.7 times as much for a guest that wrote and removed parts of files to that end. Have
    /// twice the limit to spare.
    pub fn scratch(&mut self, path: impl AsRef<str>, limit: u64) -> &mut Options {
        self.scratch = Some((path.as_ref().as_bytes().to_vec(), limit));
        self
    }

    /// Sets the directory that the guest starts in; `/` by default.
    pub fn current_directory(&mut self, path: impl AsRef<str>) -> &mut Options {
        self.current = Some(path.as_ref().as_bytes().to_vec());
        self
    }

    /// Opens the host's directories.
    ///
    /// # Errors
    ///
    /// If one can't be opened.
    pub fn grants(&self) -> Result<Grants, OptionsError> {
        let mut grants = Grants::new(self.input.clone(), self.output.clone(), self.error.clone());
        for (at, path) in &self.directories {
            let directory = HostDirectory::open(path)
                .map_err(|source| OptionsError::Directory { path: path.clone(), source })?;
            grants.directories.push((normal(at)?, directory));
        }
        Ok(grants)
    }

    /// Makes what a process starts with, and what of the host it can reach. The clock gives the time
    /// of all files in memory.
    ///
    /// # Errors
    ///
    /// See [`OptionsError`].
    pub fn build(&self, clock: &Clock) -> Result<(Files, Grants), OptionsError> {
        let grants = self.grants()?;
        let now = Clocks::new().realtime(clock);
        let mut building = Building { files: Files::bare(now), now };
        building.files.tree.scratch.limit = self.scratch.as_ref().map_or(0, |(_, limit)| *limit);
        let mut mounts = Vec::new();
        for (path, _) in &self.directories {
            mounts.push((normal(path)?, false));
        }
        if let Some((path, _)) = &self.scratch {
            mounts.push((normal(path)?, true));
        }
        // What lies deeper is mounted on what lies above it.
        mounts.sort_by_key(|(path, _)| path.len());
        for (path, scratch) in mounts {
            building.mount(&path, scratch)?;
        }
        for (path, device) in Device::ALL {
            building.add(path.as_bytes(), Kind::Device(device), 0o666)?;
        }
        for (path, bytes) in &self.files {
            building.add(&normal(path)?, Kind::File(Content::whole(bytes.clone())), 0o444)?;
        }
        let mut files = building.files;
        if let Some(path) = &self.current {
            let target = files.resolve(&grants, files.root(), path, true);
            let found = target.and_then(|target| target.existing());
            let Ok((place, super::node::Type::Directory)) = found else { return Err(wrong(path)) };
            files.current = place;
        }
        Ok((files, grants))
    }
}

struct Building {
    files: Files,
    now: u64,
}

impl Building {
    /// Mounts the scratch directory, or a directory of the host.
    fn mount(&mut self, path: &[u8], scratch: bool) -> Result<(), OptionsError> {
        let mounts = &mut Arc::make_mut(&mut self.files.mounts);
        let index = if path == b"/" { 0 } else { mounts.len() };
        let root = match scratch {
            true => {
                let root = self.files.tree.add_root(Pool::Scratch, 0o755, self.now);
                Place::Memory(root.map_err(|_| full(path))?)
            }
            false => Place::Host(HostPlace { mount: index, path: Arc::from([].as_slice()) }),
        };
        let mount = Mount { path: Arc::from(path), at: None, root };
        if index == 0 {
            if !mounts[0].path.is_empty() {
                return Err(wrong(path));
            }
            // The root in memory that was there is not used.
            mounts[0] = mount;
            self.files.current = self.files.root().clone();
            return Ok(());
        }
        let (directory, name) = self.above(path)?;
        if let Place::Memory(ino) = directory {
            // What is covered by it keeps its name from being used.
            self.subdirectory(ino, &name).map_err(|_| wrong(path))?;
        }
        self.cover(Mount { at: Some((directory, name)), ..mount })
    }

    fn cover(&mut self, mount: Mount) -> Result<(), OptionsError> {
        let mounts = Arc::make_mut(&mut self.files.mounts);
        if mounts.iter().any(|there| there.path == mount.path) {
            return Err(wrong(&mount.path));
        }
        mounts.push(mount);
        Ok(())
    }

    /// Adds a file or a device.
    fn add(&mut self, path: &[u8], kind: Kind, mode: u32) -> Result<(), OptionsError> {
        let (directory, name) = self.above(path)?;
        let device = matches!(kind, Kind::Device(_));
        match directory {
            Place::Memory(ino) => {
                if self.files.tree.lookup(ino, &name).map_err(|_| wrong(path))?.is_some() {
                    return Err(wrong(path));
                }
                self.fill(ino, &name, kind, mode).map_err(|error| match error {
                    // No scratch directory is so small that it has no devices.
                    Errno::ENOSPC if !device => full(path),
                    _ => wrong(path),
                })
            }
            Place::Host(_) => {
                let node = Node::new(kind, Pool::Given, mode, self.now);
                let ino = self.files.tree.add(node).map_err(|_| full(path))?;
                let (path, root) = (Arc::from(path), Place::Memory(ino));
                self.cover(Mount { path, at: Some((directory, name)), root })
            }
        }
    }

    /// Makes a file in a directory in memory: one that can be written to, in the scratch directory.
    fn fill(&mut self, directory: Ino, name: &[u8], kind: Kind, mode: u32) -> Result<(), Errno> {
        let tree = &mut self.files.tree;
        let whole = match (tree.get(directory)?.pool, kind) {
            (Pool::Scratch, Kind::File(content)) => content,
            (_, kind) => return tree.create(directory, name, kind, mode, self.now).map(|_| ()),
        };
        let ino = tree.create(directory, name, Kind::File(Content::new()), 0o644, self.now)?;
        let mut bytes = vec![0; usize::try_from(whole.size()).map_err(|_| Errno::ENOSPC)?];
        whole.read(0, &mut bytes);
        match tree.write(ino, 0, &bytes, self.now)? == bytes.len() {
            true => Ok(()),
            false => Err(Errno::ENOSPC),
        }
    }

    /// The directory that a path's last name stands in, made if it lies in memory and is not there.
    fn above(&mut self, path: &[u8]) -> Result<(Place, Name), OptionsError> {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let last = names.next_back().ok_or_else(|| wrong(path))?;
        let mut here = self.files.root().clone();
        for name in names {
            here = self.descend(here, name).map_err(|error| match error {
                Errno::ENOSPC => full(path),
                _ => wrong(path),
            })?;
        }
        Ok((here, Name::from(last)))
    }

    fn descend(&mut self, from: Place, name: &[u8]) -> Result<Place, Errno> {
        let mounted = self.files.mounts.iter().find(|mount| {
            mount.at.as_ref().is_some_and(|(at, called)| *at == from && &**called == name)
        });
        if let Some(mount) = mounted {
            return Ok(mount.root.clone());
        }
        match from {
            Place::Memory(ino) => self.subdirectory(ino, name).map(Place::Memory),
            Place::Host(place) => Ok(Place::Host(place.child(name))),
        }
    }

    fn subdirectory(&mut self, directory: Ino, name: &[u8]) -> Result<Ino, Errno> {
        let tree = &mut self.files.tree;
        if let Some(there) = tree.lookup(directory, name)? {
            return tree.directory(there).map(|_| there);
        }
        let made = super::node::Directory::new(directory, Name::from(name));
        tree.create(directory, name, Kind::Directory(made), 0o755, self.now)
    }
}

/// A guest's path in its only form: names with a slash before each.
fn normal(path: &[u8]) -> Result<Vec<u8>, OptionsError> {
    if path.first() != Some(&b'/') || path.len() >= PATH_MAX || path.contains(&0) {
        return Err(wrong(path));
    }
    let mut normal = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        if name == b"." || name == b".." || name.len() > NAME_MAX {
            return Err(wrong(path));
        }
        normal.push(b'/');
        normal.extend_from_slice(name);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    Ok(normal)
}

fn wrong(path: &[u8]) -> OptionsError {
    OptionsError::Path { path: String::from_utf8_lossy(path).into_owned() }
}

fn full(path: &[u8]) -> OptionsError {
    OptionsError::Full { path: String::from_utf8_lossy(path).into_owned() }
}
