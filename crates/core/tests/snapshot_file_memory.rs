//! A snapshot file that claims much makes the decoder allocate little. In a process of its own,
//! since it is the process's address space that is measured.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{BORDERS, Parts, file, refused_or_exact, seal};

/// The largest address space this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_number_in_a_file_makes_the_decoder_allocate_more_than_the_file_has() {
    let proper = file();
    let parts = Parts::proper();
    refused_or_exact(&proper);
    let before = peak();
    for value in BORDERS {
        for at in (8..152).step_by(8) {
            let mut file = proper.clone();
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            seal(&mut file);
            refused_or_exact(&file);
        }
        for at in (0..264).step_by(4) {
            let mut parts = parts.clone();
            let value = value.to_le_bytes();
            parts.metadata[at..at + 4].copy_from_slice(&value[..4]);
            refused_or_exact(&parts.assemble());
        }
        for at in (0..parts.runs.len()).step_by(8) {
            let mut parts = parts.clone();
            parts.runs[at..at + 8].copy_from_slice(&value.to_le_bytes());
            refused_or_exact(&parts.assemble());
        }
    }
    let grown = peak() - before;
    assert!(grown < 4 << 10, "{grown} KiB more than before");
}
