//! Files: descriptors, streams, and trees of files.

use serde::{Deserialize, Serialize};

use crate::table::{Entry, entries};

/// What of the host's files and streams a process can reach.
#[derive(Debug, Default)]
pub struct Grants {}

/// A process's descriptors and files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {}

pub(crate) const CALLS: &[Entry] = entries! {};
