//! What of the host's streams and files a process can reach. It belongs to the host: nothing of it
//! gets into a snapshot.

use std::sync::atomic::{AtomicU8, Ordering};
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
    pub(super) input_known: Known,
    pub(super) output: Output,
    pub(super) error: Output,
    /// Directories, by the path at which the guest has them.
    pub(super) directories: Vec<(Vec<u8>, HostDirectory)>,
}

/// What is known of whether there is input, so that the host is asked once and not for every
/// descriptor that is looked at. A copy knows nothing.
#[derive(Debug, Default)]
pub(super) struct Known(AtomicU8);

impl Known {
    const NOTHING: u8 = 0;
    const ABSENT: u8 = 1;
    const THERE: u8 = 2;

    pub(super) fn forget(&self) {
        self.0.store(Known::NOTHING, Ordering::Relaxed);
    }

    pub(super) fn set(&self, there: bool) {
        self.0.store(if there { Known::THERE } else { Known::ABSENT }, Ordering::Relaxed);
    }

    fn get(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            Known::NOTHING => None,
            known => Some(known == Known::THERE),
        }
    }
}

impl Clone for Known {
    fn clone(&self) -> Known {
        Known::default()
    }
}

impl Grants {
    /// Sets what the guest reads from descriptor 0.
    pub fn set_stdin(&mut self, input: Input) {
        self.input_known.forget();
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

    /// Whether there is input, or the end of it: as the host said when it was asked last.
    pub(crate) fn has_input(&self) -> bool {
        self.input_known.get().unwrap_or_else(|| {
            let there = self.input.is_ready(Duration::ZERO);
            self.input_known.set(there);
            there
        })
    }

    /// Has the host asked again whether there is input.
    pub(crate) fn forget_input(&self) {
        self.input_known.forget();
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
