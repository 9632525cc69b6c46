//! Parses log lines, redacts what must not be kept, and counts.

#![no_std]
#![no_main]

mod redact;

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;

use glowbox_guest::{HostError, guest_function, host_function, log};
use records::{Level, Malformed, Record};
use redact::Rules;
use serde::Deserialize;
use serde_json::error::Category;
use spin::{Mutex, Once};

extern crate alloc;

/// A user's name.
#[host_function]
fn lookup(user: u32) -> Result<String, HostError>;

// A guest has one thread, but Rust has no way to know: a `static` has to be `Sync`, which
// `core::cell::OnceCell` and `RefCell` are not. The `spin` crate has both for `no_std`, without
// `unsafe` here; its locks are always free, and so cost one atomic instruction. The one thing to
// mind: never hold a lock over a host call that may call back into the guest. Locked twice, it
// spins until the call's deadline.

/// The patterns, compiled when the sandbox is built.
static RULES: Once<Rules> = Once::new();
/// Records so far.
static COUNTS: Mutex<BTreeMap<Level, u64>> = Mutex::new(BTreeMap::new());
/// What the host has answered to `lookup`.
static NAMES: Mutex<BTreeMap<u32, Option<String>>> = Mutex::new(BTreeMap::new());

/// A line, as it comes. What needs no unescaping is borrowed from it.
#[derive(Deserialize)]
struct Line<'a> {
    time: &'a str,
    level: Level,
    user: Option<u32>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

#[glowbox_guest::main]
fn main() -> Result<(), regex::Error> {
    RULES.try_call_once(Rules::new).map(drop)
}

/// Filters one line; a malformed one is an error of the call.
#[guest_function]
fn filter_line(line: &str) -> Result<Record, Malformed> {
    filter_one(line)
}

/// Filters many lines; each has a result of its own.
#[guest_function]
fn filter(lines: Vec<&str>) -> Vec<Result<Record, Malformed>> {
    lines.into_iter().map(filter_one).collect()
}

/// Records filtered so far.
#[guest_function]
fn counts() -> BTreeMap<Level, u64> {
    COUNTS.lock().clone()
}

fn filter_one(line: &str) -> Result<Record, Malformed> {
    let line: Line<'_> = serde_json::from_str(line).map_err(malformed)?;
    let rules = RULES.get().expect("main has compiled the rules");
    let (message, redacted) = rules.apply(&line.message);
    *COUNTS.lock().entry(line.level).or_default() += 1;
    Ok(Record {
        time: line.time.to_string(),
        level: line.level,
        user: line.user.and_then(name_of),
        message: message.into_owned(),
        redacted,
    })
}

fn malformed(error: serde_json::Error) -> Malformed {
    match error.classify() {
        Category::Eof => Malformed::Truncated,
        Category::Syntax | Category::Io => {
            Malformed::Syntax { column: error.column().try_into().unwrap_or(u32::MAX) }
        }
        Category::Data => Malformed::NotARecord { reason: error.to_string() },
    }
}

/// The user's name. The host is asked once for each user.
fn name_of(user: u32) -> Option<String> {
    let known = NAMES.lock().get(&user).cloned();
    if let Some(name) = known {
        return name;
    }
    let name =
        lookup(user).inspect_err(|error| log::warn!("no name for user {user}: {error}")).ok();
    NAMES.lock().insert(user, name.clone());
    name
}
