//! A real snapshot's file, changed in every field and anywhere else, loaded as a host would load it, on KVM:
//! it is refused, or it is a guest like any other.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use glowbox::{Engine, ErrorKind, Guest, Sandbox, Snapshot};
use glowbox_abi::CALL_PORT;
use glowbox_abi::mailbox::{FROM_GUEST_OFFSET, FromGuestKind};
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::snapshot_file::Header;
use glowbox_testguest::{GuestFile, Record};
use tempfile::TempDir;

mod numbers;
#[path = "../../core/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test uses some of it")]
mod support;

use numbers::Numbers;
use support::{BORDERS, Parts, seal};

/// Bytes of metadata before those of varying length, and of a run.
const FIXED_METADATA: usize = 264;
/// What the guest's function returns.
const ANSWER: u8 = 42;
/// What can be wrong with a program in a file.
const OF_THE_PROGRAM: [ErrorKind; 3] =
    [ErrorKind::InvalidGuest, ErrorKind::HostFunctionMissing, ErrorKind::SignatureMismatch];

/// What no guest can bring about.
const OF_THE_HOST: [ErrorKind; 5] = [
    ErrorKind::Hypervisor,
    ErrorKind::Io,
    ErrorKind::InvalidOption,
    ErrorKind::MemoryLost,
    ErrorKind::HostPanic,
];

/// A guest with one function.
fn guest() -> Guest {
    let program = Program::parse(GuestFile::of_code(&[0xcc]).to_bytes().into()).unwrap();
    let layout = Layout::new(&program, Limits::DEFAULT, 0).unwrap();
    let address = |kind| layout.region(kind).start.0.to_le_bytes();
    let field = u8::try_from(FROM_GUEST_OFFSET).unwrap();
    let leave = |code: &mut Vec<u8>, kind: FromGuestKind| {
        // mov dword [rbx + field], kind; out PORT, al
        code.extend([0xc7, 0x43, field]);
        code.extend((kind as u32).to_le_bytes());
        code.extend([0xe6, CALL_PORT]);
    };
    // mov rbx, control
    let mut code = [&[0x48, 0xbb][..], &address(RegionKind::Control)].concat();
    leave(&mut code, FromGuestKind::Ready);
    let served = code.len();
    // mov rcx, outgoing; mov byte [rcx], ANSWER; mov qword [rbx + length], 1
    code.extend([&[0x48, 0xb9][..], &address(RegionKind::Outgoing)].concat());
    code.extend([0xc6, 0x01, ANSWER, 0x48, 0xc7, 0x43, field + 24, 1, 0, 0, 0]);
    leave(&mut code, FromGuestKind::Return);
    // jmp served
    let back = u8::try_from(code.len() + 2 - served).unwrap();
    code.extend([0xeb, back.wrapping_neg()]);
    let mut file = GuestFile::of_code(&code);
    file.exports.as_mut().unwrap().push(Record::function("answer", "() -> u8"));
    Guest::from_bytes("answers", file.to_bytes()).unwrap()
}

/// Loads files, and counts what became of them.
struct Loads {
    engine: Engine,
    folder: TempDir,
    bystander: Sandbox,
    refused: u64,
    worked: u64,
    failed: u64,
}

impl Loads {
    /// Loads a file of these bytes and uses what it holds. Says whether it was refused.
    fn load(&mut self, bytes: &[u8], what: &str) -> bool {
        let path: PathBuf = self.folder.path().join("changed");
        std::fs::write(&path, bytes).unwrap();
        let loader = Snapshot::loader().engine(&self.engine).deadline(Duration::from_millis(50));
        let snapshot = match loader.load(&path) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let text = error.to_string();
                match error.kind() {
                    ErrorKind::InvalidSnapshot => {
                        assert!(
                            text.matches('`').count() >= 4,
                            "{what}: it names no field: {text}"
                        );
                    }
                    kind => assert!(OF_THE_PROGRAM.contains(&kind), "{what}: {error:?}"),
                }
                self.refused += 1;
                return true;
            }
        };
        let mut sandbox = snapshot.spawn().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let mut call = || match sandbox.call::<_, u8>("answer", ()) {
            Ok(_) => true,
            Err(error) => {
                assert!(!OF_THE_HOST.contains(&error.kind()), "{what}: {error:?}");
                sandbox.reset().unwrap_or_else(|error| panic!("{what}: {error:?}"));
                false
            }
        };
        let (first, second) = (call(), call());
        match first && second {
            true => self.worked += 1,
            false => self.failed += 1,
        }
        assert_eq!(self.bystander.call::<_, u8>("answer", ()).unwrap(), ANSWER, "{what}");
        false
    }
}

/// Each number at the borders, where there is a number of this size.
fn borders(part: &[u8], at: usize, size: usize) -> impl Iterator<Item = Vec<u8>> {
    BORDERS.iter().map(move |border| {
        let mut part = part.to_vec();
        part[at..at + size].copy_from_slice(&border.to_le_bytes()[..size]);
        part
    })
}

#[test]
fn a_changed_file_is_refused_or_is_a_guest_like_any_other() {
    if !glowbox_fuzz::guest::is_possible() {
        std::io::stderr().write_all(b"changed files: left out, there is no KVM\n").unwrap();
        return;
    }
    let engine = Engine::new().unwrap();
    let folder = TempDir::new().unwrap();
    let mut bystander = Sandbox::builder().engine(&engine).build(guest()).unwrap();
    let path = folder.path().join("snapshot");
    bystander.snapshot().unwrap().save(&path).unwrap();
    let file = std::fs::read(path).unwrap();
    let parts = Parts::of(&file);
    assert!(parts.assemble() == file, "the parts are all there is");
    let mut loads = Loads { engine, folder, bystander, refused: 0, worked: 0, failed: 0 };
    assert!(!loads.load(&file, "the file") && loads.worked == 1);
    unsealed(&mut loads, &file);
    headers(&mut loads, &file);
    fields(&mut loads, &parts);
    anywhere(&mut loads, &parts);
    let Loads { refused, worked, failed, .. } = loads;
    println!("changed files: {refused} refused, {worked} that worked, {failed} whose guest failed");
    assert!(refused > 1000 && worked > 20 && failed > 20);
}

/// Any bit, and any length: the checksums don't match.
fn unsealed(loads: &mut Loads, file: &[u8]) {
    let mut numbers = Numbers(1);
    for _ in 0..150 {
        let (at, bit) = (numbers.below(file.len()), numbers.below(8));
        let mut changed = file.to_vec();
        changed[at] ^= 1 << bit;
        assert!(loads.load(&changed, &format!("bit {bit} of byte {at}")));
        let length = numbers.below(file.len());
        assert!(loads.load(&file[..length], &format!("{length} bytes")));
    }
}

/// Each number of the header.
fn headers(loads: &mut Loads, file: &[u8]) {
    for at in (8..Header::SIZE.min(200)).step_by(8) {
        for mut changed in borders(file, at, 8) {
            seal(&mut changed);
            let same = changed == file;
            assert!(loads.load(&changed, &format!("the header at {at}")) != same);
        }
    }
}

/// Each number of the metadata and of the runs.
fn fields(loads: &mut Loads, parts: &Parts) {
    let words = (0..240).step_by(8).map(|at| (at, 8)).chain((0..8).step_by(4).map(|at| (at, 4)));
    for (at, size) in words.chain((240..FIXED_METADATA).step_by(4).map(|at| (at, 4))) {
        for metadata in borders(&parts.metadata, at, size) {
            let changed = Parts { metadata, ..parts.clone() };
            loads.load(&changed.assemble(), &format!("the metadata at {at}"));
        }
    }
    for at in (0..parts.runs.len()).step_by(8) {
        for runs in borders(&parts.runs, at, 8) {
            let changed = Parts { runs, ..parts.clone() };
            loads.load(&changed.assemble(), &format!("the runs at {at}"));
        }
    }
}

/// Some bytes of each part, and the parts' lengths.
fn anywhere(loads: &mut Loads, parts: &Parts) {
    let mut numbers = Numbers(2);
    for number in 0..400 {
        let mut changed = parts.clone();
        let part = match number % 5 {
            0 => &mut changed.metadata,
            1 => &mut changed.runs,
            2 => &mut changed.program,
            3 => &mut changed.image,
            // Of a guest that is no Linux program: it has none.
            _ => &mut changed.process,
        };
        for _ in 0..=numbers.below(4) {
            // Headers are at the beginnings.
            let within = part.len().min([64, 256, usize::MAX][numbers.below(3)]);
            let at = numbers.below(within);
            match numbers.below(6) {
                0 => part.insert(at, byte(&mut numbers)),
                1 if at < part.len() => drop(part.remove(at)),
                2 if at < part.len() => part[at] ^= 1 << numbers.below(8),
                3.. if at < part.len() => part[at] = byte(&mut numbers),
                _ => {}
            }
        }
        loads.load(&changed.assemble(), &format!("random change {number}"));
    }
}

fn byte(numbers: &mut Numbers) -> u8 {
    u8::try_from(numbers.below(256)).unwrap()
}
