//! What goes to the terminal, and what does not.
//!
//! Texts of guests and files may hold anything. On standard output they stand in JSON, which escapes
//! them, or are shown by [`Escaped`]; everything that goes to standard error passes [`complain`] or
//! [`Escaped`] too.

use std::io::{self, IsTerminal, Write};

pub(crate) use glowbox_core::escape::Escaped;
use glowbox_core::escape::misleads;
use serde::Serialize;

use crate::failure::{Failure, Status};
use crate::json::for_terminals;

/// Writes to standard output. Whoever closed it knows why: the command ends without a word then.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Status::Glowbox, ""),
        _ => Failure::new(Status::Glowbox, format!("standard output can't be written to: {error}")),
    })
}

/// Writes a value as JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", to_json(value)))
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(value).expect("it has text keys and no failing part");
    for_terminals(&json)
}

/// Says on standard error what is wrong. Lines after the first are indented, so that none of them
/// passes for a line of somebody else.
pub(crate) fn complain(text: &str) {
    tell(Style::Fail, "glowbox:", text);
}

/// Says on standard error what is to be known, though it works.
pub(crate) fn warn(text: &str) {
    tell(Style::Warn, "glowbox: warning:", text);
}

fn tell(style: Style, name: &str, text: &str) {
    let mut shown = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character {
            '\n' => shown.push_str("\n  "),
            c if misleads(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    let name = style.paint(name, &io::stderr());
    say(&format!("{name} {shown}\n"));
}

/// Writes to standard error, which may be closed: there is nobody left to tell.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// How a word is set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Good,
    Warn,
    Fail,
    Heading,
}

impl Style {
    /// The text in this style, if `to` is a terminal that wants it (see `NO_COLOR`).
    pub(crate) fn paint(self, text: &str, to: &impl IsTerminal) -> String {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if plain || !to.is_terminal() {
            return text.to_string();
        }
        let code = match self {
            Style::Good => "32",
            Style::Warn => "33",
            Style::Fail => "1;31",
            Style::Heading => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A number of bytes for people: exact where it is a round one.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        let one = 1u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in
            [(0, "0 bytes"), (4096, "4 KiB"), (64 << 20, "64 MiB"), (4097, "4097 bytes")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
