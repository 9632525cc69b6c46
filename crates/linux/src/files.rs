//! Files: descriptors, streams, and trees of files.

use serde::{Deserialize, Serialize};

use crate::table::{Entry, entries};

/// What of the host's files and streams a process can reach.
#[derive(Debug, Default)]
pub struct Grants {}

/// A process's descriptors and files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {}

// STUB (threads): so is this.
impl Files {
    /// Whether they may be used as they stand: for a process that comes from a file.
    pub fn is_sound(&self, _limits: &crate::Limits) -> bool {
        true
    }
}

// STUB (space): the files helper's branch has the real one.
impl Files {
    /// Reads a file's bytes for a mapping.
    pub(crate) fn read_at_for_map(
        &mut self,
        _world: &mut crate::World,
        _fd: i32,
        _offset: u64,
        _into: &mut [u8],
    ) -> Result<usize, crate::Errno> {
        Err(crate::Errno::ENODEV)
    }
}

pub(crate) const CALLS: &[Entry] = entries! {};
