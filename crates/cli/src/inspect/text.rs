//! A report for people.

use std::fmt::Write;
use std::io::stdout;

use super::{Function, Kind, Memory, Report, SnapshotReport, program};
use crate::output::{Escaped, Style, size};

/// Writing to a `String` does not fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => { _ = writeln!($out, $($text)*) };
}

pub(super) fn write(report: &Report) -> String {
    let mut out = String::new();
    let of = match report.kind {
        Kind::Guest => "a guest",
        Kind::Snapshot => "a snapshot",
        Kind::StaticProgram => "a static Linux program",
        Kind::DynamicProgram => "a dynamically linked Linux program",
    };
    let (file, bytes) = (Escaped(&report.file), size(report.size));
    line!(out, "{file}: {of}, {bytes}");
    if let Some(problem) = &report.problem {
        let word = Style::Fail.paint("can't be run:", &stdout());
        line!(out, "{word} {}", Escaped(problem));
    }
    if let Some(advice) = advice(report) {
        line!(out, "{advice}");
    }
    if let Some(functions) = &report.functions {
        list(&mut out, "functions", functions);
    }
    if let Some(imports) = &report.imports {
        list(&mut out, "imports (functions of the host)", imports);
    }
    if let Some(snapshot) = &report.snapshot {
        add_snapshot(&mut out, snapshot);
    }
    if let Some(program) = &report.program {
        add_program(&mut out, program);
    }
    if let Some(memory) = &report.memory {
        add_memory(&mut out, memory);
    }
    out
}

/// What to do about a program that is no guest.
fn advice(report: &Report) -> Option<&'static str> {
    match report.kind {
        Kind::DynamicProgram => Some(
            "A micro-VM has no dynamic loader and no libraries. Link the program statically: \
             `cc -static-pie`, or for Rust `-C target-feature=+crt-static` or a musl target; or take \
             your distribution's static package of it (such as busybox-static).",
        ),
        Kind::StaticProgram if report.problem.is_none() => {
            Some("Run it with `glowbox run`. It has no functions for `glowbox call`.")
        }
        _ => None,
    }
}

fn heading(out: &mut String, text: &str) {
    line!(out, "\n{}", Style::Heading.paint(&format!("{text}:"), &stdout()));
}

fn list(out: &mut String, title: &str, functions: &[Function]) {
    heading(out, title);
    for function in functions {
        line!(out, "  {}{}", Escaped(&function.name), Escaped(&function.signature));
    }
    if functions.is_empty() {
        line!(out, "  none");
    }
}

fn add_snapshot(out: &mut String, snapshot: &SnapshotReport) {
    heading(out, "snapshot");
    line!(out, "  of guest    {}", Escaped(&snapshot.guest));
    line!(out, "  saved by    Glowbox {}", Escaped(&snapshot.creator));
    for section in &snapshot.sections {
        line!(out, "  {:<12}{:>12} bytes at {:#x}", section.name, section.length, section.offset);
    }
    let intact = if snapshot.image_intact { "intact" } else { "damaged" };
    let (pages, runs) = (snapshot.image_pages, snapshot.image_runs);
    line!(out, "  image       {pages} pages in {runs} runs, {intact}");
    let (rip, rsp) = (snapshot.instruction_pointer, snapshot.stack_pointer);
    line!(out, "  stands at   {rip:#x}, with its stack at {rsp:#x}");
    match snapshot.deterministic_seed {
        Some(seed) => line!(out, "  random      from the seed {seed}"),
        None => line!(out, "  random      anew in each sandbox"),
    }
    line!(out, "  needs CPU   {}", snapshot.cpu_features.join(", "));
}

fn add_program(out: &mut String, program: &program::Report) {
    let place = match program.position_independent {
        true => "position-independent",
        false => "at a fixed address",
    };
    heading(out, &format!("segments ({place}, entry {:#x})", program.entry));
    line!(out, "  {:<18} {:>10} {:>10}  protection", "address", "bytes", "in file");
    for segment in &program.segments {
        let address = format!("{:#018x}", segment.address);
        let (bytes, in_file) = (segment.size, segment.file_size);
        let protection = &segment.protection;
        let note = match segment.read_only_after_relocation {
            Some(bytes) => format!(" (r-- after relocation: {bytes} bytes)"),
            None => String::new(),
        };
        line!(out, "  {address} {bytes:>10} {in_file:>10}  {protection}{note}");
    }
    if let Some(loader) = &program.loader {
        line!(out, "  wants the dynamic loader {}", Escaped(loader));
    }
    if program.thread_local_storage {
        line!(out, "  has thread-local storage");
    }
}

fn add_memory(out: &mut String, memory: &Memory) {
    let (of, place) = match memory.is_example {
        true => (" with default limits", "; the program's own addresses are chosen anew each time"),
        false => ("", ""),
    };
    heading(out, &format!("memory{of} ({}{place})", size(memory.size)));
    line!(out, "  {:<18} {:>14}  {:<4} {:<4} what", "address", "size", "prot", "ring");
    for region in &memory.regions {
        let address = format!("{:#018x}", region.start);
        let (protection, ring) = match (&region.protection, region.user) {
            (None, _) => ("---", "-"),
            (Some(protection), true) => (protection.as_str(), "3"),
            (Some(protection), false) => (protection.as_str(), "0"),
        };
        let (bytes, name) = (size(region.length), region.name);
        line!(out, "  {address} {bytes:>14}  {protection:<4} {ring:<4} {name}");
    }
}
