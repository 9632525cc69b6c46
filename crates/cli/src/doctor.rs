//! `glowbox doctor`: whether guests run on this machine, how well, and what to do if not.
//!
//! Each finding is a line with one of three marks: all is well; it works, but could be better or safer;
//! guests can't run. What decides about the exit status is one of them, that a guest has been run.

use std::io::stdout;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::failure::{Failure, Status};
use crate::output::{self, Escaped, Style};

mod backends;
mod cpu;
mod hypervisor;
mod system;

/// Characters in a line of advice.
const TEXT_WIDTH: usize = 88;

/// Tells what this machine offers for running guests, and what to do about what it does not.
///
/// It looks at hypervisors, what else can run guests, permissions, the kernel, the CPU and settings that are known to be slow or
/// unsafe, and runs a small guest. The exit status is 0 if that worked, and 1 if not.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Writes JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    topic: &'static str,
    subject: String,
    mark: Mark,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Ok,
    Warn,
    Fail,
}

impl Finding {
    fn new(mark: Mark, subject: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { topic: "", subject: subject.into(), mark, found: found.into(), advice: None }
    }

    fn ok(subject: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Mark::Ok, subject, found)
    }

    fn warn(subject: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Mark::Warn, subject, found)
    }

    fn fail(subject: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Mark::Fail, subject, found)
    }

    fn advise(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }
}

#[derive(Debug, Serialize)]
struct Report {
    guests_can_run: bool,
    /// What they run on.
    backend: Option<&'static str>,
    /// Whether a program that asks for nothing runs them on that too, or only this command does.
    is_default: bool,
    findings: Vec<Finding>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let (backends, ran) = backends::findings();
    let (guests_can_run, backend) = (ran.is_some(), ran.map(|ran| ran.backend.name()));
    let is_default = ran.is_some_and(|ran| ran.is_default);
    let mut hypervisor = hypervisor::findings();
    if guests_can_run {
        // Not what they were run on, then.
        let failed = hypervisor.iter_mut().filter(|finding| finding.mark == Mark::Fail);
        failed.for_each(|finding| finding.mark = Mark::Warn);
    }
    let topics = [
        ("hypervisor", hypervisor),
        ("backends", backends),
        ("system", system::findings()),
        ("CPU", cpu::findings()),
    ];
    let findings = topics.into_iter().flat_map(|(topic, findings)| {
        findings.into_iter().map(move |finding| Finding { topic, ..finding })
    });
    let report = Report { guests_can_run, backend, is_default, findings: findings.collect() };
    match options.json {
        true => output::print_json(&report)?,
        false => output::print(&text(&report))?,
    }
    Ok(if guests_can_run { ExitCode::SUCCESS } else { Status::No.into() })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut topic = "";
    for finding in &report.findings {
        if finding.topic != topic {
            topic = finding.topic;
            out.push_str(&format!("{}\n", Style::Heading.paint(topic, &stdout())));
        }
        let (mark, style) = match finding.mark {
            Mark::Ok => ("ok  ", Style::Good),
            Mark::Warn => ("warn", Style::Warn),
            Mark::Fail => ("FAIL", Style::Fail),
        };
        let mark = style.paint(mark, &stdout());
        let (subject, found) = (Escaped(&finding.subject), Escaped(&finding.found));
        out.push_str(&format!("  {mark}  {subject}: {found}\n"));
        if let Some(advice) = &finding.advice {
            wrap(&mut out, &Escaped(advice).to_string());
        }
    }
    out.push_str(match (report.guests_can_run, report.is_default) {
        (true, true) => "\nGuests can run here.\n",
        (true, false) => "\nGuests can run here, in processes; not in virtual machines.\n",
        (false, _) => "\nGuests can't run here; see the lines marked FAIL.\n",
    });
    out
}

/// Adds a text in lines of readable length, below a finding.
fn wrap(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let separator = match width {
            0 => "        ",
            width if width + 1 + length > TEXT_WIDTH => "\n        ",
            _ => " ",
        };
        width = if separator == " " { width + 1 + length } else { length };
        out.push_str(separator);
        out.push_str(word);
    }
    out.push('\n');
}

/// What a small file of the kernel says; `None` if there is none.
fn read(path: impl AsRef<std::path::Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_wrapped_and_indented() {
        let mut out = String::new();
        wrap(&mut out, &"word ".repeat(40));
        assert!(out.lines().all(|line| line.starts_with("        word") && line.len() <= 96));
        assert_eq!((out.lines().count(), out.matches("word").count()), (3, 40));
    }
}
