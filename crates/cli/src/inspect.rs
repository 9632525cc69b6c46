//! `glowbox inspect`: what a file is, and what it holds, without running any of it.
//!
//! [`describe`] makes one [`Report`] of any file, which is then written as a text or as JSON, so the
//! two say the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use glowbox_core::elf::{self, Program};
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::paging::Privilege;
use glowbox_core::signature::Signature;
use glowbox_core::snapshot_file::{Contents, Header, ImageHasher, Metadata};
use serde::Serialize;

use crate::failure::{Failure, Status};
use crate::{guest, output};

mod program;
mod text;

/// Largest ELF file that is read; guests may not be larger.
const MAX_FILE: u64 = 512 << 20;

/// Shows what a file holds: functions, segments, memory, a snapshot's headers.
///
/// Nothing of the file is run, and it takes no hypervisor. Any 64-bit ELF program can be looked at,
/// with a word on what keeps it from being run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Writes JSON
    #[arg(long)]
    json: bool,
    /// A guest, a snapshot or a Linux program
    file: PathBuf,
}

/// What is known of a file.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    kind: Kind,
    size: u64,
    /// What keeps it from being run.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    functions: Option<Vec<Function>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imports: Option<Vec<Function>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotReport>,
    #[serde(flatten)]
    program: Option<program::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Has functions that a host can call.
    Guest,
    Snapshot,
    /// Needs nothing but the kernel.
    StaticProgram,
    /// Needs a loader and libraries.
    DynamicProgram,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    signature: String,
    parameters: Vec<Parameter>,
    result: String,
}

#[derive(Debug, Serialize)]
struct Parameter {
    name: String,
    #[serde(rename = "type")]
    of: String,
}

impl Function {
    fn of((name, signature): (&str, &Signature)) -> Function {
        let parameter =
            |(name, of): &(String, _)| Parameter { name: name.clone(), of: format!("{of}") };
        Function {
            name: name.to_string(),
            signature: signature.to_string(),
            parameters: signature.parameters.iter().map(parameter).collect(),
            result: signature.result.to_string(),
        }
    }

    fn sorted(functions: &[elf::Function]) -> Vec<Function> {
        let mut functions: Vec<_> =
            functions.iter().map(|of| Function::of((&of.name, &of.signature))).collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        functions.dedup_by(|a, b| a.name == b.name);
        functions
    }
}

/// The layout of guest memory.
#[derive(Debug, Serialize)]
struct Memory {
    /// Whether the addresses of the program are an example: the real ones are random.
    is_example: bool,
    limits: LimitsReport,
    size: u64,
    regions: Vec<Region>,
}

#[derive(Debug, Serialize)]
struct LimitsReport {
    heap: u64,
    stack: u64,
    incoming: u64,
    outgoing: u64,
}

#[derive(Debug, Serialize)]
struct Region {
    name: &'static str,
    start: u64,
    length: u64,
    /// What it permits; nothing is mapped there if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<String>,
    /// Whether ring 3 may use it.
    user: bool,
}

impl Memory {
    fn of(layout: &Layout, is_example: bool) -> Memory {
        let Limits { heap, stack, incoming, outgoing } = layout.limits();
        let mut regions: Vec<_> = layout
            .regions()
            .iter()
            .map(|region| Region {
                name: name(region.kind),
                start: region.start.0,
                length: region.length,
                protection: region.backing.map(|(_, protection, _)| protection.to_string()),
                user: region.backing.is_some_and(|(.., privilege)| privilege == Privilege::User),
            })
            .collect();
        regions.sort_by_key(|region| region.start);
        let limits = LimitsReport { heap, stack, incoming, outgoing };
        Memory { is_example, limits, size: layout.size(), regions }
    }
}

fn name(kind: RegionKind) -> &'static str {
    match kind {
        RegionKind::Null => "null page",
        RegionKind::Code => "code",
        RegionKind::ReadOnlyData => "read-only data",
        RegionKind::Data => "data",
        RegionKind::StackGuard => "stack guard",
        RegionKind::Stack => "stack",
        RegionKind::Control => "control page",
        RegionKind::Incoming => "messages to the guest",
        RegionKind::Outgoing => "messages to the host",
        RegionKind::Heap => "heap",
        RegionKind::Supervisor => "supervisor",
        RegionKind::PageTables => "page tables",
        RegionKind::Resume => "resume page",
        RegionKind::MapTable => "list of lent files",
        RegionKind::Lent => "lent files",
    }
}

/// What a snapshot's file says, beside its program.
#[derive(Debug, Serialize)]
struct SnapshotReport {
    guest: String,
    creator: String,
    sections: Vec<Section>,
    image_pages: u64,
    image_runs: usize,
    /// Whether the memory image is what was saved.
    image_intact: bool,
    load_base: u64,
    instruction_pointer: u64,
    stack_pointer: u64,
    deterministic_seed: Option<u64>,
    log_level: u32,
    xcr0: u64,
    cpu_features: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Section {
    name: &'static str,
    offset: u64,
    length: u64,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let report = describe(&options.file)?;
    match options.json {
        true => output::print_json(&report)?,
        false => output::print(&text::write(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(path: &Path) -> Result<Report, Failure> {
    let is_snapshot = guest::is_snapshot(path)?;
    let failed = |error| Failure::unreadable(path, &error);
    let size = fs::metadata(path).map_err(failed)?.len();
    if !is_snapshot && size > MAX_FILE {
        let text = format!("`{}` is larger than {} MiB", path.display(), MAX_FILE >> 20);
        return Err(Failure::new(Status::NotRunnable, text));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let mut report = Report {
        file: path.display().to_string(),
        kind: Kind::Guest,
        size: bytes.len() as u64,
        problem: None,
        functions: None,
        imports: None,
        snapshot: None,
        program: None,
        memory: None,
    };
    match is_snapshot {
        true => report.add_snapshot(path, &bytes)?,
        false => report.add_file(path, bytes.into())?,
    }
    Ok(report)
}

impl Report {
    fn add_snapshot(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let invalid = |problem: String| {
            let text =
                format!("`{}` is a snapshot that can't be loaded: {problem}", path.display());
            Failure::new(Status::NotRunnable, text)
        };
        let header = Header::parse(bytes, bytes.len() as u64);
        let header = header.map_err(|error| invalid(error.to_string()))?;
        let part = |range: std::ops::Range<u64>| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).ok());
            start.zip(end).and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default()
        };
        let contents = Contents::parse(&header, part(header.contents()));
        let contents = contents.map_err(|error| invalid(error.to_string()))?;
        let mut hasher = ImageHasher::new();
        hasher.update(part(header.image()));
        let image = header.check_image(hasher.finish());
        self.kind = Kind::Snapshot;
        self.problem = image.as_ref().err().map(ToString::to_string);
        let program = Program::parse(contents.program.into());
        let program = program.map_err(|error| invalid(format!("its program: {error}")))?;
        let Metadata { limits, load_base, .. } = contents.metadata;
        if Layout::accepts_load_base(&program, load_base)
            && let Ok(layout) = Layout::at(&program, limits, load_base)
        {
            self.memory = Some(Memory::of(&layout, false));
        } else {
            self.problem = Some("its load base is none that its program can have".into());
        }
        self.add_program(&program);
        self.snapshot = Some(snapshot(&header, &contents, image.is_ok()));
        Ok(())
    }

    fn add_file(&mut self, path: &Path, bytes: Arc<[u8]>) -> Result<(), Failure> {
        match Program::parse(Arc::clone(&bytes)) {
            Ok(program) => {
                let limits = Limits::default_for(&program);
                let layout = Layout::new(&program, limits, 0).map_err(|error| {
                    Failure::new(Status::Glowbox, format!("`{}`: {error}", path.display()))
                })?;
                self.memory = Some(Memory::of(&layout, program.is_relocatable()));
                if !program.is_library() {
                    self.kind = Kind::StaticProgram;
                }
                self.add_program(&program);
            }
            Err(error) => {
                let found = program::Report::read(&bytes).ok_or_else(|| {
                    let text = format!("`{}` can't be looked at: {error}", path.display());
                    Failure::new(Status::NotRunnable, text)
                })?;
                self.kind = match &found {
                    found if found.is_guest => Kind::Guest,
                    found if found.loader.is_some() => Kind::DynamicProgram,
                    _ => Kind::StaticProgram,
                };
                self.problem = Some(error.to_string());
                self.program = Some(found);
            }
        }
        Ok(())
    }

    fn add_program(&mut self, program: &Program) {
        if program.is_library() {
            self.functions = Some(Function::sorted(program.exports()));
            self.imports = Some(Function::sorted(program.imports()));
        }
        self.program = Some(program::Report::of(program));
    }
}

fn snapshot(header: &Header, contents: &Contents<'_>, image_intact: bool) -> SnapshotReport {
    let metadata = &contents.metadata;
    let section = |(name, range): (_, std::ops::Range<u64>)| Section {
        name,
        offset: range.start,
        length: range.end - range.start,
    };
    SnapshotReport {
        guest: metadata.name.clone(),
        creator: metadata.creator.clone(),
        sections: header.sections().into_iter().map(section).collect(),
        image_pages: contents.runs.iter().map(|run| run.pages).sum(),
        image_runs: contents.runs.len(),
        image_intact,
        load_base: metadata.load_base,
        instruction_pointer: metadata.registers.rip,
        stack_pointer: metadata.registers.rsp,
        deterministic_seed: metadata.seed,
        log_level: metadata.log_level,
        xcr0: metadata.xcr0,
        cpu_features: metadata.features.iter().flat_map(|word| word.names()).collect(),
    }
}
