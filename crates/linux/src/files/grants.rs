//! What of the host's streams and files a process can reach. It belongs to the host: nothing of it
//! gets into a snapshot.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::HostDirectory;
use super::input::Input;
use super::output::{Output, Standard};
use crate::{Errno, Streams};

/// What of the host's files and streams a process can reach: by default, nothing. Copies reach the
/// same.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    pub(super) input: Input,
    /// How far the guest had read when it was given this input.
    input_from: u64,
    pub(super) known: Known,
    pub(super) output: Output,
    pub(super) error: Output,
    /// Directories, by the path at which the guest has them.
    pub(super) directories: Vec<(Vec<u8>, HostDirectory)>,
}

/// What is known of whether the streams are ready, so that the host is asked once and not for every
/// descriptor that is looked at. A copy knows nothing.
#[derive(Debug, Default)]
pub(super) struct Known([AtomicU8; 3]);

impl Known {
    const NOTHING: u8 = 0;
    const WAITING: u8 = 1;
    const READY: u8 = 2;

    pub(super) fn set(&self, stream: usize, ready: bool) {
        let known = if ready { Known::READY } else { Known::WAITING };
        self.0[stream].store(known, Ordering::Relaxed);
    }

    fn get(&self, stream: usize) -> Option<bool> {
        match self.0[stream].load(Ordering::Relaxed) {
            Known::NOTHING => None,
            known => Some(known == Known::READY),
        }
    }
}

impl Clone for Known {
    fn clone(&self) -> Known {
        Known::default()
    }
}

impl Grants {
    /// Grants with an input that is read from its start, and no directories.
    pub(super) fn new(input: Input, output: Output, error: Output) -> Grants {
        Grants { input, output, error, ..Grants::default() }
    }

    /// Sets what a guest reads from descriptor 0 from now on, which has read so far before: see
    /// [`Process::input_position`](crate::Process::input_position).
    pub fn set_stdin(&mut self, input: Input, position: u64) {
        self.forget_readiness();
        (self.input, self.input_from) = (input, position);
    }

    /// Reads from descriptor 0, where the guest has read so far; `None` if that would have to wait.
    pub(super) fn read_input(
        &self,
        position: &mut u64,
        into: &mut [u8],
    ) -> Result<Option<usize>, Errno> {
        self.forget_readiness();
        let mut at = position.saturating_sub(self.input_from);
        let read = self.input.read(&mut at, into)?;
        *position = self.input_from.saturating_add(at);
        Ok(read)
    }

    /// Bytes that can be read at once from descriptor 0, where the guest has read so far.
    pub(super) fn input_available(&self, position: u64) -> u64 {
        self.input.available(position.saturating_sub(self.input_from))
    }

    /// Sets where what the guest writes to descriptor 1 goes.
    pub fn set_stdout(&mut self, output: Output) {
        self.output = output;
    }

    /// Sets where what the guest writes to descriptor 2 goes.
    pub fn set_stderr(&mut self, output: Output) {
        self.error = output;
    }

    /// Waits until one of these streams is ready, but no longer than `patience`: until there is input
    /// (or the end of it) for the guest, or an output takes something (or nothing ever again). Whether
    /// one is.
    pub fn wait_for(&mut self, streams: Streams, patience: Duration) -> bool {
        self.is_ready(streams, patience)
    }

    /// Whether one of these streams is ready, after at most so long.
    pub(super) fn is_ready(&self, streams: Streams, patience: Duration) -> bool {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let mut descriptors = Vec::with_capacity(3);
        if streams.input {
            match self.input.is_stdin() {
                true => descriptors.push(PollFd::new(&stdin, PollFlags::IN)),
                false => return true,
            }
        }
        for (asked, output) in [(streams.output, &self.output), (streams.error, &self.error)] {
            if !asked {
                continue;
            }
            match output.standard() {
                Some(Standard::Output) => descriptors.push(PollFd::new(&stdout, PollFlags::OUT)),
                Some(Standard::Error) => descriptors.push(PollFd::new(&stderr, PollFlags::OUT)),
                None => return true,
            }
        }
        // A patience beyond the range of a `timespec` is for ever.
        let patience = Timespec::try_from(patience).ok();
        poll(&mut descriptors, patience.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Whether one of these streams is ready: as the host said when it was asked last.
    pub(crate) fn is_any_ready(&self, streams: Streams) -> bool {
        let each = [
            (streams.input, Streams::INPUT),
            (streams.output, Streams::OUTPUT),
            (streams.error, Streams::ERROR),
        ];
        each.into_iter().enumerate().filter(|(_, (asked, _))| *asked).any(|(index, (_, stream))| {
            self.known.get(index).unwrap_or_else(|| {
                let ready = self.is_ready(stream, Duration::ZERO);
                self.known.set(index, ready);
                ready
            })
        })
    }

    /// Has the host asked again what is ready.
    pub(crate) fn forget_readiness(&self) {
        self.known.0.iter().for_each(|known| known.store(Known::NOTHING, Ordering::Relaxed));
    }

    /// Paths at which there are directories of the host.
    pub fn directories(&self) -> impl Iterator<Item = &[u8]> {
        self.directories.iter().map(|(path, _)| &path[..])
    }

    /// The directory that the guest has at this path.
    pub(super) fn directory(&self, path: &[u8]) -> Result<&HostDirectory, Errno> {
        let found = self.directories.iter().find(|(at, _)| at == path);
        found.map(|(_, directory)| directory).ok_or(Errno::EIO)
    }
}
