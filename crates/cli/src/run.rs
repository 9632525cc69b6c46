//! `glowbox run`: an ordinary program, with the command's own streams.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use glowbox::{ExitStatus, Guest, Input, Output, Process};

use crate::failure::{Failure, Status};
use crate::grants::Grants;
use crate::options::{Limits, Timeout};
use crate::{call, guest, interrupt, output};

/// Runs a program in a micro-VM.
///
/// The program is any statically linked x86-64 Linux executable, or a snapshot of one. Its standard
/// input, output and error are this command's, its exit status becomes this command's, and
/// everything else of the host is out of its reach but what the options say. Options come before the
/// program; all that follows it is the program's.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    grants: Grants,
    /// Shows on standard error what the run took
    #[arg(long)]
    stats: bool,
    /// Shows the statistics as JSON
    #[arg(long, requires = "stats")]
    json: bool,
    /// The program's file, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"])]
    command: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    interrupt::catch();
    let (program, arguments) = options.command.split_first().expect("one is required");
    let program = Path::new(program);
    let mut process = load(program, arguments, options)?;
    let ended = interrupt::stopping(process.interrupt_handle(), || process.run());
    if options.stats {
        call::show(&process.stats(), options.json);
    }
    Ok(status(&ended?, program).into())
}

fn load(program: &Path, arguments: &[OsString], options: &Options) -> Result<Process, Failure> {
    let Options { limits, grants, .. } = options;
    // A person can stop it; a script can say how long it may take.
    let limits =
        Limits { timeout: Some(limits.timeout.unwrap_or(Timeout(None))), ..limits.clone() };
    let arguments = arguments.iter().map(|argument| argument.clone().into_vec());
    let (input, out, errors) = (Input::stdin(), Output::stdout(), Output::stderr());
    if guest::is_snapshot(program)? {
        let snapshot = guest::load(program, &limits, grants, None)?;
        let spawner = grants.spawner(snapshot.spawner()).args(arguments);
        return Ok(spawner.stdin(input).stdout(out).stderr(errors).load()?);
    }
    let guest = Guest::from_file(program)?;
    let builder = guest::builder(&limits, grants, None)?.args(arguments);
    let builder = builder.stdin(input).stdout(out).stderr(errors);
    builder.load(&guest).map_err(|error| grants.failure(error))
}

/// The status of the command for a program's. Of a fault it says what is known, as a shell does.
fn status(status: &ExitStatus, program: &Path) -> Status {
    if status.fault().is_some() {
        output::complain(&format!("`{}` was ended by {status}", program.display()));
    }
    Status::of_exit(status)
}
