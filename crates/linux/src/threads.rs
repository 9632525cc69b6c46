//! Threads, and what makes them wait and go on: scheduling, futexes, signals.

use serde::{Deserialize, Serialize};

use crate::table::{Entry, entries};

/// A process's threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Threads {}

pub(crate) const CALLS: &[Entry] = entries! {};
