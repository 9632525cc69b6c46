//! A Linux guest's process, and what of the host it can reach.
//!
//! `glowbox-linux` answers the guest's system calls; here it is connected to a machine, to a layout
//! and to what the builder was told.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use glowbox_core::address::{PAGE_SIZE, Protection, index};
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, PAGE_TABLES_GPA};
use glowbox_core::paging::Privilege;
use glowbox_core::registers::ExtendedState;
use glowbox_linux::files::Output;
use glowbox_linux::space::{self, Initial, Rights};
use glowbox_linux::{Bases, Broken, Event, Hardware, Limits, Next, Process, World, process};
use glowbox_machine::{Machine, MachineError};

use crate::Error;
use crate::capabilities::Capabilities;
use crate::randomness::Randomness;

/// Pages by which a process's mappings may start lower.
const MMAP_PAGES: u64 = 1 << 26;
/// Bytes at which a line ends that has no end.
const MAX_LINE: usize = 64 << 10;
/// Most bytes of lines that wait for the log.
const MAX_LINES: usize = 1 << 20;

/// A Linux guest's side of an instance.
pub(crate) struct Linux {
    /// Shared with the snapshot until the guest does something that changes it.
    process: Arc<Process>,
    capabilities: Capabilities,
    world: World,
    lines: Lines,
    /// Whether it is a copy that has not been told where its random numbers come from.
    is_copy: bool,
}

impl Linux {
    /// A process that is about to start in a layout.
    pub(crate) fn new(
        program: &Program,
        layout: &Layout,
        capabilities: Capabilities,
        randomness: Randomness,
    ) -> Result<Linux, Error> {
        let base = space::MMAP_BASE - randomness.mappings()? % MMAP_PAGES * PAGE_SIZE;
        let options = process::Options {
            space: space_options(program, layout, base, capabilities.allows_jit()),
            files: capabilities.files(),
            seed: randomness.process_seed()?,
            limits: Limits::default(),
        };
        Ok(Linux::with(Arc::new(Process::new(options)), capabilities))
    }

    /// A process that exists already.
    pub(crate) fn with(process: Arc<Process>, capabilities: Capabilities) -> Linux {
        let lines = Lines::default();
        let world = capabilities.world(&lines);
        Linux { process, capabilities, world, lines, is_copy: false }
    }

    /// Checks that a process from a file is one of this program in this layout that may do no more than
    /// it could here; says what is wrong otherwise.
    pub(crate) fn check(
        process: &Process,
        program: &Program,
        layout: &Layout,
        allow_jit: bool,
    ) -> Result<(), &'static str> {
        let found = process.space_options();
        if found.allow_jit && !allow_jit {
            return Err("it may execute what it has written; if it is to, say so with \
                        Loader::allow_jit");
        }
        if *found != space_options(program, layout, found.mmap_base, found.allow_jit) {
            return Err("its address space is not one of this program with these limits");
        }
        if process.limits() != Limits::default() || !process.is_sound(layout.size()) {
            return Err("it contradicts itself");
        }
        Ok(())
    }

    /// Writes the page tables that the process needs, where only the layout's are.
    pub(crate) fn rebuild(&mut self, machine: &mut dyn Machine) -> Result<(), Broken> {
        Arc::make_mut(&mut self.process).rebuild(&mut Below(machine))
    }

    /// The process, to be kept in a snapshot.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The process and what it can reach, for a snapshot. From now on this one is a copy of that: whoever
    /// has the snapshot must not know the random numbers that this one will draw.
    pub(crate) fn capture(&mut self) -> (Arc<Process>, Capabilities) {
        self.is_copy = true;
        (Arc::clone(&self.process), self.capabilities.clone())
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Goes back to a process of a snapshot, or on to another one's.
    pub(crate) fn become_copy_of(&mut self, process: &Arc<Process>) {
        self.process = Arc::clone(process);
        self.is_copy = true;
        self.lines.clear();
        self.world = self.capabilities.world(&self.lines);
    }

    /// Whether it is a copy that has not been told where its random numbers come from.
    pub(crate) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Tells a copy where its random numbers come from; without a seed, from where the original's do.
    pub(crate) fn reseed(&mut self, seed: Option<[u8; 32]>) {
        self.is_copy = false;
        if let Some(seed) = seed {
            Arc::make_mut(&mut self.process).reseed(seed);
        }
    }

    /// Answers an exit.
    pub(crate) fn handle(&mut self, event: Event, machine: &mut dyn Machine) -> Next {
        Arc::make_mut(&mut self.process).handle(event, &mut Below(machine), &mut self.world)
    }

    /// How many page tables its address space has beside those of its layout.
    pub(crate) fn tables(&self) -> usize {
        self.process.tables_added()
    }

    /// Whether its threads have to take turns.
    pub(crate) fn needs_ticks(&self) -> bool {
        self.process.needs_ticks()
    }

    /// Nanoseconds on its monotonic clock.
    pub(crate) fn now(&mut self) -> u64 {
        Arc::make_mut(&mut self.process).now(&self.world)
    }

    pub(crate) fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// The lines that it has written to streams that go to the log: stream and text.
    pub(crate) fn lines(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.lines.take()
    }

    /// As `lines`, with what is no whole line yet.
    pub(crate) fn last_lines(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.lines.end();
        self.lines.take()
    }
}

/// The machine below the process.
struct Below<'a>(&'a mut dyn Machine);

fn broken(error: MachineError) -> Broken {
    let what = error.to_string();
    match error {
        MachineError::Request { source, .. } => Broken { what, source: Some(source) },
        _ => Broken { what, source: None },
    }
}

fn indices(range: Range<u64>) -> Range<usize> {
    index(range.start)..index(range.end)
}

impl Hardware for Below<'_> {
    fn memory(&self) -> &[u8] {
        self.0.memory()
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        self.0.memory_mut()
    }

    fn reveal(&mut self, memory: Range<u64>) {
        self.0.reveal(indices(memory));
    }

    fn forget(&mut self, memory: Range<u64>) -> Result<(), Broken> {
        self.0.forget(indices(memory)).map_err(broken)
    }

    fn is_to_stop(&self) -> bool {
        self.0.control().stop_reason().is_some()
    }

    fn bases(&mut self) -> Result<Bases, Broken> {
        let bases = self.0.bases().map_err(broken)?;
        Ok(Bases { fs: bases.fs, gs: bases.gs })
    }

    fn extended(&mut self) -> Result<ExtendedState, Broken> {
        self.0.extended().map_err(broken)
    }
}

/// The address space that a program starts with.
fn space_options(
    program: &Program,
    layout: &Layout,
    mmap_base: u64,
    allow_jit: bool,
) -> space::Options {
    let mut initial = Vec::new();
    let mut reserved = Vec::new();
    for region in layout.regions() {
        let addresses = region.start.0..region.end().0;
        match region.backing {
            Some((gpa, protection, Privilege::User)) => initial.push(Initial {
                addresses,
                memory: gpa.0,
                rights: Rights {
                    read: true,
                    write: protection == Protection::ReadWrite,
                    execute: protection == Protection::ReadExecute,
                },
                fixed: region.is_ours(),
            }),
            _ => reserved.push(addresses),
        }
    }
    let program_break = layout.program_break(program);
    space::Options {
        root: PAGE_TABLES_GPA.0,
        initial,
        reserved,
        free: layout.pool(),
        program_break: program_break.start,
        break_limit: program_break.end,
        mmap_base,
        areas: Limits::default().areas,
        allow_jit,
    }
}

/// Lines that a guest has written to streams that go to the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    written: Arc<Mutex<Written>>,
}

#[derive(Debug, Default)]
struct Written {
    whole: Vec<(&'static str, Vec<u8>)>,
    bytes: usize,
    /// What is no whole line yet, of each stream.
    partial: [(&'static str, Vec<u8>); 2],
}

impl Lines {
    /// A stream whose lines go to the log with this target.
    pub(crate) fn output(&self, stream: LogStream) -> Output {
        let written = Arc::clone(&self.written);
        Output::callback(move |bytes: &[u8]| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                written.add(stream, piece);
            }
        })
    }

    fn take(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.bytes = written.partial.iter().map(|(_, line)| line.len()).sum();
        std::mem::take(&mut written.whole)
    }

    fn clear(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Written::default();
    }

    fn end(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [LogStream::Out, LogStream::Error] {
            if !written.partial[stream as usize].1.is_empty() {
                written.end_line(stream);
            }
        }
    }
}

/// The two streams that go to the log unless something else was said.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogStream {
    Out = 0,
    Error = 1,
}

impl LogStream {
    fn target(self) -> &'static str {
        match self {
            LogStream::Out => "stdout",
            LogStream::Error => "stderr",
        }
    }
}

impl Written {
    fn add(&mut self, stream: LogStream, piece: &[u8]) {
        let text = piece.strip_suffix(b"\n").unwrap_or(piece);
        // The log is bounded, and so is what waits for it.
        let room = MAX_LINES.saturating_sub(self.bytes);
        let text = &text[..text.len().min(room)];
        self.partial[stream as usize].1.extend_from_slice(text);
        self.bytes += text.len();
        let ends = piece.ends_with(b"\n") && self.bytes < MAX_LINES;
        // Or a line without an end would keep its bytes from all others for ever.
        if ends || self.partial[stream as usize].1.len() >= MAX_LINE {
            self.end_line(stream);
        }
    }

    fn end_line(&mut self, stream: LogStream) {
        let line = std::mem::take(&mut self.partial[stream as usize].1);
        // What a line takes besides its bytes counts too.
        self.bytes += size_of::<(&str, Vec<u8>)>();
        self.whole.push((stream.target(), line));
    }
}

#[cfg(test)]
mod tests {
    use glowbox_core::layout::Limits;
    use glowbox_testguest::GuestFile;

    use super::*;
    use crate::Guest;
    use crate::capabilities::Requested;

    #[test]
    fn what_a_snapshot_was_taken_of_draws_other_numbers_than_its_copies_would() {
        let file = GuestFile::of_code(&[0xf4]).to_bytes();
        let guest = Guest::from_bytes("hlt", file).unwrap();
        let layout = Layout::new(guest.program(), Limits::DEFAULT, 0).unwrap();
        let capabilities = Requested::default().open().unwrap();
        let randomness = Randomness::System;
        let mut linux = Linux::new(guest.program(), &layout, capabilities, randomness).unwrap();
        assert!(!linux.is_copy());
        let (kept, _) = linux.capture();
        assert!(linux.is_copy());
        linux.reseed(randomness.another_process_seed().unwrap());
        assert!(!linux.is_copy());
        assert_ne!(format!("{:?}", linux.process()), format!("{kept:?}"));
    }

    #[test]
    fn lines_wait_until_they_are_whole() {
        let mut written = Written::default();
        for piece in ["one\n", "tw", "o\n", "three"] {
            written.add(LogStream::Out, piece.as_bytes());
        }
        written.add(LogStream::Error, b"an error\n");
        let whole: Vec<_> =
            written.whole.iter().map(|(target, line)| (*target, &line[..])).collect();
        assert_eq!(whole, [("stdout", &b"one"[..]), ("stdout", b"two"), ("stderr", b"an error")]);
        assert_eq!(written.partial[0].1, b"three");
    }

    #[test]
    fn a_line_without_an_end_does_not_silence_what_follows() {
        let lines = Lines::default();
        let write = |stream, bytes: &[u8]| {
            let mut written = lines.written.lock().unwrap();
            bytes.chunks(4096).for_each(|piece| written.add(stream, piece));
        };
        write(LogStream::Out, &vec![b'x'; 3 << 20]);
        assert!(lines.take().len() > 1);
        write(LogStream::Error, b"a last word\n");
        assert_eq!(lines.take(), [("stderr", b"a last word".to_vec())]);
    }

    #[test]
    fn no_more_waits_than_the_limit() {
        let mut written = Written::default();
        for _ in 0..3 << 20 {
            written.add(LogStream::Out, b"\n");
        }
        assert!(written.whole.len() <= MAX_LINES.div_ceil(size_of::<(&str, Vec<u8>)>()));
        written.add(LogStream::Error, &vec![b'x'; 3 << 20]);
        assert!(written.bytes <= MAX_LINES + 100);
    }
}
