//! What of the host's streams and files a process can reach. It belongs to the host: nothing of it
//! gets into a snapshot.

use std::time::Duration;

use super::host::HostDirectory;
use super::input::Input;
use super::output::Output;
use crate::Errno;

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

    /// Waits until there is input (or the end of it) for the guest, but no longer than `patience`.
    /// Whether there is.
    pub fn wait_for_input(&mut self, patience: Duration) -> bool {
        self.input.is_ready(patience)
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
