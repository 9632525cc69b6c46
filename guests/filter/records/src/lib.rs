//! The types that the `filter` guest and its host share.
//!
//! Host and guest each compile this crate. A type that both take from here can't differ between
//! them in its fields, which a comparison of names would not notice.

#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

/// How important a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// Something worth knowing.
    Info,
    /// For whoever looks for a mistake.
    Debug,
}

/// A log record without what must not be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, as the line has it.
    pub time: String,
    /// How important it is.
    pub level: Level,
    /// The user's name, if the line names a user that the host knows.
    pub user: Option<String>,
    /// What happened, redacted.
    pub message: String,
    /// Places in the message that were redacted.
    pub redacted: u32,
}

/// Why a line is no log record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Malformed {
    /// It ends in the middle.
    Truncated,
    /// It is not JSON.
    Syntax {
        /// Where it stops being JSON, counted from 1.
        column: u32,
    },
    /// It is JSON, but not of a record.
    NotARecord {
        /// What is wrong.
        reason: String,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Truncated => f.write_str("the line ends in the middle"),
            Malformed::Syntax { column } => write!(f, "no JSON from column {column} on"),
            Malformed::NotARecord { reason } => f.write_str(reason),
        }
    }
}

impl core::error::Error for Malformed {}
