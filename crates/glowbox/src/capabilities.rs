//! What of the host a Linux guest can reach: nothing, until the builder is told.

use std::sync::Arc;

use glowbox_linux::files::{self, Files, Grants, Input, OptionsError, Output};
use glowbox_linux::{Clock, Process, World};

use crate::error::refused;
use crate::linux::{Lines, LogStream};
use crate::{Error, ErrorKind};

/// What the builder was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requested {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) files: files::Options,
    pub(crate) clock: Clock,
    pub(crate) allow_jit: bool,
}

/// What one sandbox of a snapshot is to have instead of what the snapshot has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replacements {
    pub(crate) arguments: Option<Vec<Vec<u8>>>,
    pub(crate) environment: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
}

/// What a guest can reach, checked and opened. Copies share it.
#[derive(Debug, Clone)]
pub(crate) struct Capabilities {
    arguments: Arc<[Vec<u8>]>,
    environment: Arc<[Vec<u8>]>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    files: Files,
    grants: Grants,
    clock: Clock,
    allow_jit: bool,
}

impl Requested {
    /// Checks what was asked for, and opens directories.
    pub(crate) fn open(self) -> Result<Capabilities, Error> {
        let arguments = checked_arguments(self.arguments)?;
        let environment = checked_environment(&self.environment)?;
        let (files, grants) = self.files.build(&self.clock).map_err(of_files)?;
        Ok(Capabilities {
            arguments: arguments.into(),
            environment: environment.into(),
            stdout: self.stdout,
            stderr: self.stderr,
            files,
            grants,
            clock: self.clock,
            allow_jit: self.allow_jit,
        })
    }
}

fn checked_arguments(arguments: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
    if let Some(argument) = arguments.iter().find(|argument| argument.contains(&0)) {
        let shown = String::from_utf8_lossy(argument).escape_debug().to_string();
        let text = format!("the argument `{shown}` has a zero byte in it, which none can");
        return Err(Error::new(ErrorKind::InvalidOption, text));
    }
    Ok(arguments)
}

/// Each variable as `NAME=value`.
fn checked_environment(variables: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Vec<u8>>, Error> {
    let pair = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let pair = [&name[..], b"=", value].concat();
        if !name.is_empty() && !name.contains(&b'=') && !pair.contains(&0) {
            return Ok(pair);
        }
        let text = format!(
            "the environment variable `{}` can't be: a name is not empty and has no `=`, and neither \
             name nor value has a zero byte",
            String::from_utf8_lossy(name).escape_debug()
        );
        Err(Error::new(ErrorKind::InvalidOption, text))
    };
    variables.iter().map(pair).collect()
}

fn of_files(error: OptionsError) -> Error {
    let (kind, text) = match &error {
        OptionsError::Directory { source, .. } => (ErrorKind::Io, refused(&error, source)),
        _ => (ErrorKind::InvalidOption, error.to_string()),
    };
    Error::with_source(kind, text, error)
}

impl Capabilities {
    pub(crate) fn arguments(&self) -> &[Vec<u8>] {
        &self.arguments
    }

    /// As `NAME=value`.
    pub(crate) fn environment(&self) -> &[Vec<u8>] {
        &self.environment
    }

    /// The files that a process starts with.
    pub(crate) fn files(&self) -> Files {
        self.files.clone()
    }

    /// Refuses a directory of the host where a process, which has its files already, has none.
    pub(crate) fn check_directories(&self, process: &Process) -> Result<(), Error> {
        let shown = |path: &[u8]| format!("`{}`", String::from_utf8_lossy(path).escape_debug());
        let has: Vec<&[u8]> = process.host_directories().collect();
        let Some(other) = self.grants.directories().find(|path| !has.contains(path)) else {
            return Ok(());
        };
        let listed = match &has[..] {
            [] => "none".to_string(),
            _ => has.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", "),
        };
        let text = format!(
            "the snapshot has no directory of the host at {}, and can't be given one there; it has {listed}",
            shown(other)
        );
        Err(Error::new(ErrorKind::InvalidOption, text))
    }

    pub(crate) fn allows_jit(&self) -> bool {
        self.allow_jit
    }

    /// The same with what is asked for in `other` instead, where something is; files stay. Another
    /// standard input is read from its start by a process that has read so far in this one.
    pub(crate) fn replaced_by(
        &self,
        other: Replacements,
        input_position: u64,
    ) -> Result<Capabilities, Error> {
        let mut replaced = self.clone();
        if let Some(arguments) = other.arguments {
            replaced.arguments = checked_arguments(arguments)?.into();
        }
        if let Some(environment) = other.environment {
            replaced.environment = checked_environment(&environment)?.into();
        }
        if let Some(input) = other.stdin {
            replaced.grants.set_stdin(input, input_position);
        }
        replaced.stdout = other.stdout.or(replaced.stdout);
        replaced.stderr = other.stderr.or(replaced.stderr);
        Ok(replaced)
    }

    /// A world for one process. Streams that nobody asked for go to the log.
    pub(crate) fn world(&self, lines: &Lines) -> World {
        let mut files = self.grants.clone();
        let log = |output: &Option<Output>, stream| {
            output.clone().unwrap_or_else(|| lines.output(stream))
        };
        files.set_stdout(log(&self.stdout, LogStream::Out));
        files.set_stderr(log(&self.stderr, LogStream::Error));
        World { clock: self.clock, files }
    }
}
