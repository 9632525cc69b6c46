//! How the command fails: a text for people, a status for programs.

use std::fmt;
use std::io;
use std::process::ExitCode;

use glowbox::{ErrorKind, ExitStatus};
use glowbox_linux::files::OptionsError;

use crate::output;

/// The statuses that the command ends with, other than success. Those from 124 on are what `timeout`,
/// `env` and shells use for the same things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// What was asked for was done, and the answer is no: a guest's `Err`, a machine that can't run guests.
    No,
    /// It took too long.
    Timeout,
    /// The command line is wrong, or Glowbox failed.
    Glowbox,
    /// The file is there but can't be run.
    NotRunnable,
    /// There is no such file.
    NotFound,
    /// Ctrl-C.
    Interrupted,
    /// The guest ended as a process does that a signal kills.
    Signal(Signal),
    /// A program's own status, or 128 and the signal that ended it.
    Program(u8),
}

/// The signals that a guest's end is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A panic.
    Abort = 6,
    /// Too much memory.
    Kill = 9,
    /// A fault.
    Segv = 11,
}

impl Status {
    pub(crate) fn code(self) -> u8 {
        match self {
            Status::No => 1,
            Status::Timeout => 124,
            Status::Glowbox => 125,
            Status::NotRunnable => 126,
            Status::NotFound => 127,
            Status::Interrupted => 130,
            Status::Signal(signal) => 128 + signal as u8,
            Status::Program(code) => code,
        }
    }

    /// Of a program that has ended.
    pub(crate) fn of_exit(status: &ExitStatus) -> Status {
        let signal = || status.signal().map(|signal| signal.saturating_add(128));
        let code = status.code().or_else(signal).unwrap_or(0);
        Status::Program(u8::try_from(code).unwrap_or(u8::MAX))
    }

    fn of(error: &glowbox::Error) -> Status {
        match error.kind() {
            // What was granted, and not what was to be run.
            ErrorKind::Io if source::<OptionsError>(error).is_some() => Status::Glowbox,
            ErrorKind::Io => Status::of_io(error),
            ErrorKind::InvalidGuest
            | ErrorKind::InvalidSnapshot
            | ErrorKind::HostFunctionMissing => Status::NotRunnable,
            ErrorKind::Guest | ErrorKind::Start => Status::No,
            ErrorKind::Panic => Status::Signal(Signal::Abort),
            ErrorKind::OutOfMemory | ErrorKind::Deadlock => Status::Signal(Signal::Kill),
            // Of a guest that was to be called: no status of its own is an answer.
            ErrorKind::Exited => match error.exit_status().and_then(ExitStatus::signal) {
                Some(_) => error.exit_status().map_or(Status::No, Status::of_exit),
                None => Status::No,
            },
            ErrorKind::Fault | ErrorKind::StackOverflow => Status::Signal(Signal::Segv),
            ErrorKind::Deadline => Status::Timeout,
            ErrorKind::Interrupted => Status::Interrupted,
            _ => Status::Glowbox,
        }
    }

    fn of_io(error: &(dyn std::error::Error + 'static)) -> Status {
        match source::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => Status::NotFound,
            _ => Status::NotRunnable,
        }
    }
}

/// The error behind another one, if it is of this type.
pub(crate) fn source<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    error.source().and_then(|source| source.downcast_ref())
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// Why the command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    /// A mistake in what was asked for.
    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Status::Glowbox, text)
    }

    /// A file to be run or looked at that can't be read.
    pub(crate) fn unreadable(path: &std::path::Path, error: &io::Error) -> Failure {
        let status = match error.kind() {
            io::ErrorKind::NotFound => Status::NotFound,
            _ => Status::NotRunnable,
        };
        Failure::new(status, format!("`{}` can't be read: {error}", path.display()))
    }

    /// The same failure with another word about what to do.
    pub(crate) fn with_hint(mut self, hint: impl fmt::Display) -> Failure {
        self.text = format!("{}; {hint}", self.text);
        self
    }

    /// The same failure with another status.
    pub(crate) fn with_status(mut self, status: Status) -> Failure {
        self.status = status;
        self
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Says it on standard error. An interruption needs no words.
    pub(crate) fn show(&self) {
        if !self.text.is_empty() {
            output::complain(&self.text);
        }
    }
}

impl From<glowbox::Error> for Failure {
    fn from(error: glowbox::Error) -> Failure {
        if error.kind() == ErrorKind::Interrupted {
            return Failure::new(Status::Interrupted, "");
        }
        let failure = Failure::new(Status::of(&error), text(&error));
        match error.kind() {
            // What to do depends on the device's mode and group.
            ErrorKind::HypervisorDenied => failure.with_hint("`glowbox doctor` looks at it"),
            _ => failure,
        }
    }
}

/// An error's text, with what the system said where it does not say that already.
pub(crate) fn text(error: &glowbox::Error) -> String {
    let said = error.to_string();
    let mut text = in_options(&said);
    let sources = std::iter::successors(std::error::Error::source(error), |source| source.source());
    for source in sources.map(ToString::to_string) {
        if !text.contains(&source) && !said.contains(&source) {
            text = format!("{text}: {source}");
        }
    }
    text
}

/// What the library calls its options, and what they are here.
const OPTIONS: [(&str, &str); 18] = [
    ("CallOptions::deadline and Builder::deadline", "--timeout"),
    ("Builder::memory_limit", "--memory"),
    ("Builder::stack_size", "--stack"),
    ("Builder::message_size", "--message-size"),
    ("Loader::memory_limit", "--memory"),
    ("Loader::stack_size", "--stack"),
    ("Loader::message_size", "--message-size"),
    ("Loader::scratch_limit or Loader::file_limit", "--scratch"),
    ("Loader::scratch_limit", "--scratch"),
    // The command gives none, so no snapshot that it has made has them.
    ("; if that is what the guest is to have, say so with Loader::file_limit", ""),
    ("the memory limit", "--memory"),
    ("the stack size", "--stack"),
    ("run it, with Builder::load", "run it, with `glowbox run`"),
    ("run it, with Spawner::load", "run it, with `glowbox run`"),
    ("build a sandbox of it, with Builder::build", "call them, with `glowbox call`"),
    ("make a sandbox of it, with Spawner::spawn", "call them, with `glowbox call`"),
    ("Loader::allow_jit", "--jit"),
    ("EngineBuilder::backend(Backend::Process)", "`--backend process`"),
];

/// An error's text, with the options of the command in place of the library's.
fn in_options(text: &str) -> String {
    OPTIONS.iter().fold(text.to_string(), |text, (theirs, ours)| text.replace(theirs, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_shells() {
        assert_eq!(Status::Signal(Signal::Abort).code(), 134);
        assert_eq!(Status::Signal(Signal::Kill).code(), 137);
        assert_eq!(Status::Signal(Signal::Segv).code(), 139);
    }

    #[test]
    fn no_error_tells_of_options_that_the_command_does_not_have() {
        let text = in_options("it passed; see CallOptions::deadline and Builder::deadline");
        assert_eq!(text, "it passed; see --timeout");
        let text =
            "4 are allowed; if that is what the guest is to have, say so with Loader::file_limit";
        assert_eq!(in_options(text), "4 are allowed");
    }
}
