//! `glowbox call`: one function, arguments and result as JSON.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use glowbox::{CallOptions, Sandbox, Signature, Stats};
use glowbox_core::signature::TypeName;
use serde_json::json;

use crate::failure::Failure;
use crate::grants::Grants;
use crate::json::{self, Type};
use crate::options::{Limits, size};
use crate::{guest, interrupt, output};

/// Calls one function of a guest or a snapshot.
///
/// Arguments and result are JSON, checked against the signature in the file: a text is '"text"', with
/// the quotes. `@FILE` is an argument that stands in a file, `@-` one that comes from standard input.
/// The result goes to standard output; what the guest prints and logs to standard error.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    grants: Grants,
    /// Most bytes of all arguments, or of a result, encoded
    #[arg(long, value_name = "SIZE", value_parser = size)]
    message_size: Option<u64>,
    /// Shows on standard error what the call took
    #[arg(long)]
    stats: bool,
    /// Shows the statistics as JSON
    #[arg(long, requires = "stats")]
    json: bool,
    /// A guest's ELF file, or a snapshot
    guest: PathBuf,
    /// The function's name
    function: String,
    /// Its arguments
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    interrupt::catch();
    let texts =
        options.arguments.iter().map(|text| argument(text)).collect::<Result<Vec<_>, _>>()?;
    let mut sandbox =
        guest::sandbox(&options.guest, &options.limits, &options.grants, options.message_size)?;
    let result = call(&mut sandbox, &options.function, &texts);
    if options.stats {
        show(&sandbox.stats(), options.json);
    }
    output::print(&format!("{}\n", result?))?;
    Ok(ExitCode::SUCCESS)
}

/// An argument's text, from where it says that it stands.
fn argument(text: &str) -> Result<String, Failure> {
    let failed = |error| Failure::usage(format!("argument `{text}` can't be read: {error}"));
    match text.strip_prefix('@') {
        None => Ok(text.to_string()),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(failed)?;
            Ok(text)
        }
        Some(path) => std::fs::read_to_string(path).map_err(failed),
    }
}

/// Calls a function with arguments as JSON, and gives its value as JSON.
pub(crate) fn call<T: AsRef<str>>(
    sandbox: &mut Sandbox,
    name: &str,
    arguments: &[T],
) -> Result<String, Failure> {
    let found = sandbox.guest().functions().find(|(of, _)| *of == name);
    let signature = found.map(|(_, signature)| signature.clone());
    let (encoded, result) = match &signature {
        Some(signature) => (encode(name, signature, arguments)?, result_type(name, signature)?),
        // The library says which functions there are.
        None => (Vec::new(), Type::Tuple(Vec::new())),
    };
    let options = CallOptions::new();
    let value = interrupt::stopping(sandbox.interrupt_handle(), || {
        sandbox.call_encoded(&options, name, &encoded)
    })?;
    json::decode(&value, &result).map_err(|error| {
        let text = format!("the result of guest function `{name}` is not of its type: {error}");
        Failure::usage(text)
    })
}

/// The arguments as they stand in a message.
fn encode<T: AsRef<str>>(
    name: &str,
    signature: &Signature,
    arguments: &[T],
) -> Result<Vec<u8>, Failure> {
    let (wanted, given) = (signature.parameters.len(), arguments.len());
    if wanted != given {
        let wanted = match wanted {
            0 => "no argument".into(),
            1 => "one argument".into(),
            wanted => format!("{wanted} arguments"),
        };
        return Err(Failure::usage(format!("`{name}{signature}` takes {wanted}, not {given}")));
    }
    let mut bytes = Vec::new();
    for (index, ((parameter, of), text)) in signature.parameters.iter().zip(arguments).enumerate() {
        let parameter = match parameter.as_str() {
            "" => format!("argument {} of `{name}`, `{of}`", index + 1),
            parameter => format!("argument {} of `{name}`, `{parameter}: {of}`", index + 1),
        };
        let structure = Type::of(of)
            .map_err(|unknown| Failure::usage(format!("{parameter}, can't be given: {unknown}")))?;
        let text = text.as_ref();
        json::encode(text, &structure, &mut bytes).map_err(|error| {
            let failure = Failure::usage(format!("{parameter}: {error}"));
            match structure {
                Type::Text | Type::Char if error.is_syntax() || error.is_eof() => {
                    let quoted = format!("'{}'", serde_json::Value::from(text));
                    failure.with_hint(format_args!("a text is JSON too: {quoted}"))
                }
                _ => failure,
            }
        })?;
    }
    Ok(bytes)
}

/// The type of what a function gives: for a `Result`, of its value.
fn result_type(name: &str, signature: &Signature) -> Result<Type, Failure> {
    let of = match &signature.result {
        TypeName::Path(path, parameters) if path == "Result" => {
            parameters.first().unwrap_or(&signature.result)
        }
        other => other,
    };
    Type::of(of).map_err(|unknown| {
        Failure::usage(format!("the result of `{name}`, `{of}`, can't be shown: {unknown}"))
    })
}

pub(crate) fn show(stats: &Stats, as_json: bool) {
    if as_json {
        let stats = json!({
            "entries": stats.entries,
            "calls": stats.calls,
            "guest_time_us": u64::try_from(stats.guest_time.as_micros()).unwrap_or(u64::MAX),
        });
        return output::say(&format!("{stats}\n"));
    }
    output::say(&format!("{:?} in the guest, entered {} times\n", stats.guest_time, stats.entries));
}
