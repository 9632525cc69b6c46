//! What of the host a guest may reach, as options: for guests that are Linux programs. Without any of
//! them it reaches nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use glowbox::{Builder, Clock, Loader, Spawner};
use glowbox_linux::files::OptionsError;

use crate::failure::{self, Failure};
use crate::options;

/// Options of guests that are Linux programs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What a Linux program may reach")]
pub(crate) struct Grants {
    /// Lets it read a directory of the host, at the same path or at GUEST; may be given several times
    #[arg(long, value_name = "HOST[:GUEST]", value_parser = OsStringValueParser::new().try_map(directory))]
    dir: Vec<Directory>,
    /// Gives it a directory in memory to write to, with so much room, at /tmp or at GUEST; one of a
    /// snapshot has it already, and may have so much room
    #[arg(long, value_name = "SIZE[:GUEST]", value_parser = scratch)]
    scratch: Option<Scratch>,
    /// The directory that it starts in
    #[arg(long, value_name = "GUEST")]
    cwd: Option<String>,
    /// An environment variable: a new one, or with NAME alone this command's own; may be given several
    /// times
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Its clock: one of its own that starts in the year 2000, the host's, or one that stands still, now
    /// or at a number of seconds since 1970 [default: virtual]
    #[arg(long, value_name = "virtual|real|frozen[:SECONDS]", value_parser = clock)]
    clock: Option<Clock>,
    /// Lets it execute memory that it has written, as just-in-time compilers do
    #[arg(long)]
    jit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Directory {
    host: PathBuf,
    guest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Scratch {
    bytes: u64,
    guest: Option<String>,
}

impl Scratch {
    /// Where the guest has it.
    fn guest(&self) -> &str {
        self.guest.as_deref().unwrap_or("/tmp")
    }
}

impl Grants {
    pub(crate) fn builder(&self, mut builder: Builder) -> Builder {
        for Directory { host, guest } in &self.dir {
            builder = builder.directory(guest, host);
        }
        if let Some(scratch) = &self.scratch {
            builder = builder.scratch(scratch.guest(), scratch.bytes);
        }
        if let Some(path) = &self.cwd {
            builder = builder.current_directory(path);
        }
        for (name, value) in self.environment() {
            builder = builder.env(name, value);
        }
        if self.jit {
            builder = builder.allow_jit();
        }
        builder.clock(self.clock())
    }

    /// What can be given to a snapshot's guest; the rest is in the snapshot.
    pub(crate) fn loader(&self, mut loader: Loader) -> Loader {
        for Directory { host, guest } in &self.dir {
            loader = loader.directory(guest, host);
        }
        if let Some(scratch) = &self.scratch {
            loader = loader.scratch_limit(scratch.bytes);
        }
        if self.jit {
            loader = loader.allow_jit();
        }
        loader.clock(self.clock())
    }

    fn clock(&self) -> Clock {
        self.clock.unwrap_or(Clock::Virtual)
    }

    /// What can be given to a program of a snapshot that has not run yet.
    pub(crate) fn spawner<'a>(&self, spawner: Spawner<'a>) -> Spawner<'a> {
        self.environment().fold(spawner, |spawner, (name, value)| spawner.env(name, value))
    }

    /// The option that a snapshot's guest can't be given, if there is one.
    pub(crate) fn fixed_in_snapshots(&self, has_run: bool) -> Option<&'static str> {
        match self {
            Grants { scratch: Some(Scratch { guest: Some(_), .. }), .. } => {
                Some("--scratch with a place")
            }
            Grants { cwd: Some(_), .. } => Some("--cwd"),
            Grants { env, .. } if has_run && !env.is_empty() => Some("--env"),
            _ => None,
        }
    }

    /// The option that a program is given when it is run, and not before, if there is one.
    pub(crate) fn given_when_run(&self) -> Option<&'static str> {
        match self {
            Grants { env, .. } if !env.is_empty() => Some("--env"),
            Grants { clock: Some(_), .. } => Some("--clock"),
            _ => None,
        }
    }

    /// Why a guest or a program with all this can't be made.
    pub(crate) fn failure(&self, error: glowbox::Error) -> Failure {
        match (failure::source(&error), &self.cwd) {
            (Some(OptionsError::Path { path }), Some(cwd))
                if path == cwd && !self.is_mounted(cwd) =>
            {
                Failure::usage(format!(
                    "there is no directory `{}` in the guest for --cwd; a guest has those that it is \
                     granted, with --dir HOST:GUEST or --scratch SIZE:GUEST",
                    cwd.escape_debug()
                ))
            }
            _ => error.into(),
        }
    }

    /// Whether something is granted at this path of the guest's.
    fn is_mounted(&self, path: &str) -> bool {
        let scratch = self.scratch.iter().map(Scratch::guest);
        let mut mounted = self.dir.iter().map(|dir| &*dir.guest).chain(scratch);
        mounted.any(|guest| guest.trim_end_matches('/') == path.trim_end_matches('/'))
    }

    /// Names and values. A variable that this command has not is none.
    fn environment(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.env.iter().filter_map(|given| {
            let bytes = given.as_bytes();
            match bytes.iter().position(|byte| *byte == b'=') {
                Some(at) => Some((bytes[..at].to_vec(), bytes[at + 1..].to_vec())),
                None => Some((bytes.to_vec(), std::env::var_os(given)?.into_vec())),
            }
        })
    }
}

/// `HOST` or `HOST:GUEST`, where `GUEST` is an absolute path.
fn directory(text: OsString) -> Result<Directory, String> {
    let bytes = text.as_bytes();
    if let Some(at) = bytes.windows(2).rposition(|pair| pair == b":/") {
        let guest =
            str::from_utf8(&bytes[at + 1..]).map_err(|_| "the path in the guest is not UTF-8")?;
        let host = PathBuf::from(OsStr::from_bytes(&bytes[..at]));
        return Ok(Directory { host, guest: guest.into() });
    }
    let host = std::fs::canonicalize(&text).map_err(|error| error.to_string())?;
    let guest =
        host.to_str().ok_or("the path is not UTF-8; give it one in the guest, HOST:GUEST")?;
    Ok(Directory { guest: guest.to_string(), host })
}

/// `SIZE` or `SIZE:GUEST`.
fn scratch(text: &str) -> Result<Scratch, String> {
    let (bytes, guest) = match text.split_once(':') {
        Some((bytes, guest)) => (bytes, Some(guest.to_string())),
        None => (text, None),
    };
    Ok(Scratch { bytes: options::size(bytes)?, guest })
}

fn clock(text: &str) -> Result<Clock, String> {
    match text.split_once(':') {
        None if text == "virtual" => Ok(Clock::Virtual),
        None if text == "real" => Ok(Clock::Real),
        None if text == "frozen" => Ok(Clock::Frozen(SystemTime::now())),
        Some(("frozen", seconds)) => {
            let seconds = seconds.parse().map_err(|_| "expected seconds since 1970")?;
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            Ok(Clock::Frozen(time.ok_or("that is too far away")?))
        }
        _ => Err("expected virtual, real, frozen or frozen:SECONDS".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_a_path_on_the_host_and_one_in_the_guest() {
        let of = |text: &str| directory(text.into()).map(|dir| (dir.host, dir.guest));
        assert_eq!(of("a:b:/data"), Ok(("a:b".into(), "/data".into())));
        assert_eq!(of("/:/data"), Ok(("/".into(), "/data".into())));
        assert_eq!(of("/"), Ok(("/".into(), "/".into())));
        assert!(of("/nonexistent").unwrap_err().contains("No such file"));
    }

    #[test]
    fn clocks_and_scratch_directories_are_parsed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(matches!(clock("frozen:7"), Ok(Clock::Frozen(time)) if time == at(7)));
        assert!(matches!(clock("real"), Ok(Clock::Real)));
        for text in ["", "slow", "frozen:", "frozen:x", "real:1", "frozen:99999999999999999999"] {
            assert!(clock(text).is_err(), "{text}");
        }
        assert_eq!(
            scratch("1M").map(|of| (of.bytes, of.guest().into())),
            Ok((1 << 20, "/tmp".to_string()))
        );
        assert_eq!(scratch("4K:/work").map(|of| of.guest), Ok(Some("/work".into())));
        assert!(scratch(":/work").is_err());
    }
}
