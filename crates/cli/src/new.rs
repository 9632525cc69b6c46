//! later
use crate::failure::Failure;
/// later
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}
pub(crate) fn run(_: &Options) -> Result<std::process::ExitCode, Failure> { Ok(0.into()) }
