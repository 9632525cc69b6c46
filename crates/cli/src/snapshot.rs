//! `glowbox snapshot`: a guest that has started and warmed up, as a file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::de::IgnoredAny;

use crate::call::call;
use crate::failure::{Failure, Status};
use crate::grants::Grants;
use crate::guest::{self, Opened};
use crate::interrupt;
use crate::options::{Limits, size};

/// Starts a guest, warms it up, and saves it as a snapshot.
///
/// Of an ordinary program it is the moment before its first instruction; arguments, environment and
/// clock are given to it when it is run.
/// The snapshot can be given wherever a guest can. It holds the guest's program and all that the
/// guest has in memory, and replaces a file of that name when it is complete.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    grants: Grants,
    /// Most bytes of all arguments of a call, or of a result, encoded
    #[arg(long, value_name = "SIZE", value_parser = size)]
    message_size: Option<u64>,
    /// Where to save the snapshot
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// A function to call before, with its arguments as JSON, such as 'load "words" 100'; may be given
    /// several times
    #[arg(long, value_name = "CALL")]
    warm: Vec<String>,
    /// A guest's ELF file, or a snapshot to go on from
    guest: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    interrupt::catch();
    let calls = options.warm.iter().map(|text| split(text)).collect::<Result<Vec<_>, _>>()?;
    let snapshot = match guest::open(
        &options.guest,
        &options.limits,
        &options.grants,
        options.message_size,
    )? {
        Opened::Functions(mut sandbox) => {
            for (function, arguments) in calls {
                call(&mut sandbox, function, &arguments)?;
            }
            sandbox.snapshot()?
        }
        Opened::Program(_) if !calls.is_empty() => {
            let text = format!(
                "`{}` is a program, which has no functions for --warm to call",
                options.guest.display()
            );
            return Err(Failure::usage(text));
        }
        Opened::Program(mut process) => {
            if let Some(option) = options.grants.given_when_run() {
                let text = format!(
                    "`{}` is a program, whose snapshot does not hold what {option} sets; give {option} \
                     to `glowbox run`, along with the snapshot",
                    options.guest.display()
                );
                return Err(Failure::usage(text));
            }
            process.snapshot()?
        }
    };
    interrupt::finishing(|| {
        // It is no guest that can't be found or read.
        let saved = snapshot.save(&options.output);
        saved.map_err(|error| Failure::from(error).with_status(Status::Glowbox))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A function's name, and the JSON values after it.
fn split(text: &str) -> Result<(&str, Vec<&str>), Failure> {
    let text = text.trim();
    let (function, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if function.is_empty() {
        return Err(Failure::usage("--warm needs a function's name"));
    }
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    let mut arguments = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        value.map_err(|error| {
            Failure::usage(format!("the arguments of --warm `{text}` are not JSON: {error}"))
        })?;
        let end = values.byte_offset();
        arguments.push(rest[start..end].trim());
        start = end;
    }
    Ok((function, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_name_and_json_values() {
        let split = |text| split(text).map_err(|failure| format!("{failure:?}"));
        assert_eq!(split(" start "), Ok(("start", vec![])));
        assert_eq!(
            split("load \"a b\"  [1, 2]\n{\"x\": \"}\"} -1"),
            Ok(("load", vec!["\"a b\"", "[1, 2]", "{\"x\": \"}\"}", "-1"]))
        );
        assert!(split("").unwrap_err().contains("needs a function's name"));
        assert!(split("load a").unwrap_err().contains("are not JSON"));
    }
}
