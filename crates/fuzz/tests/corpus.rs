//! Every target over its corpus, and over mutations of it: on any compiler, without libFuzzer.
//!
//! The corpus is in `fuzz/corpus`; what a fuzzer found stands there, so that it is not found again.
//! `GLOWBOX_FUZZ=N` makes N times as many mutations (1 is what CI runs).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::Path;

use glowbox_fuzz::{ON_KVM, PURE, Target};
use numbers::Numbers;

mod numbers;

/// Mutations of a target's corpus, all in all; fewer where an input takes a millisecond and more.
fn mutations(target: &str) -> usize {
    match target {
        "paging" | "syscalls" => 300,
        "guest" => 1000,
        _ => 3000,
    }
}

/// Bytes that mean something to many formats.
const TELLING: [u8; 8] = [0, 1, 2, 0x10, 0x7f, 0x80, 0xfe, 0xff];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One input of the corpus with some bytes changed, cut out, doubled, or taken from another one.
fn mutated(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(5) {
            0 if !bytes.is_empty() => bytes[at] = TELLING[numbers.below(TELLING.len())],
            1 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &corpus[numbers.below(corpus.len())];
                let from = numbers.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

/// Every target.
fn all() -> [Target; 8] {
    let [a, b, c, d, e, f, g] = PURE;
    [a, b, c, d, e, f, g, ON_KVM]
}

fn smoke(name: &str) {
    let (_, run): Target = *all().iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    let times: usize = std::env::var("GLOWBOX_FUZZ").map_or(1, |times| times.parse().unwrap());
    let mutations = mutations(name) * times;
    if name == ON_KVM.0 && !glowbox_fuzz::guest::is_possible() {
        // Not by a macro, whose output is kept back for a test that passes.
        let inputs = corpus.len() + mutations;
        let text = format!("{name}: {inputs} inputs left out, there is no KVM\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    corpus.iter().for_each(|bytes| run(bytes));
    let mut numbers = Numbers(7);
    for _ in 0..mutations {
        let bytes = mutated(&corpus, &mut numbers);
        let bytes = &bytes[..bytes.len().min(64 << 10)];
        let result = std::panic::catch_unwind(|| run(bytes));
        assert!(result.is_ok(), "{name} fails with {bytes:02x?}");
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_is_among_these() {
            assert_eq!(all().map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets! { elf sections from_guest to_guest snapshot_file paging syscalls guest }
