//! What of the host's streams and files a process can reach. It belongs to the host: nothing of it
//! gets into a snapshot.

use std::io;
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
    pub(super) output: Output,
    pub(super) error: Output,
    /// Directories, by the path at which the guest has them.
    pub(super) directories: Vec<(Vec<u8>, HostDirectory)>,
}

impl Grants {
    /// Sets what the guest reads from descriptor 0.
    pub fn set_stdin(&mut self, input: Input) {
        self.input = input;
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

    /// The directory that the guest has at this path.
    pub(super) fn directory(&self, path: &[u8]) -> Result<&HostDirectory, Errno> {
        let found = self.directories.iter().find(|(at, _)| at == path);
        found.map(|(_, directory)| directory).ok_or(Errno::EIO)
    }
}
