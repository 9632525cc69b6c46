//! Crates as they are published, in Rust programs with both C libraries.

use glowbox_testprograms::Libc;

use crate::support::{Case, SCRATCH, Which};

pub(crate) fn cases() -> Vec<Case> {
    Libc::ALL.into_iter().flat_map(of).collect()
}

fn of(libc: Libc) -> Vec<Case> {
    let case = |name| Case::new(Which::Rust("crates-demo", libc), name);
    vec![
        case("regex").args(["regex"]),
        case("serde_json").args(["json"]),
        case("image").args(["image"]),
        case("flate2").args(["deflate"]),
        case("sqlite_in_memory").args(["sqlite"]),
        case("sqlite_on_scratch").args(["sqlite", SCRATCH]),
        case("rayon").args(["rayon"]),
        case("rayon").args(["rayon"]).real_time(),
        case("threads").args(["threads"]),
        case("threads").args(["threads"]).real_time(),
        case("panics").args(["panics"]),
        case("files").args(["files", SCRATCH]),
        case("system").args(["system"]).mib(1024).real_time(),
        case("standard_input").args(["stdin"]).input("some words\n".repeat(100_000)),
        case("usage").errors(),
        case("an_exit_status").args(["exit", "7"]),
        case("abort").args(["abort"]),
        Case::new(Which::Rust("coremark-run", libc), "coremark").args(["2000"]),
        Case::new(Which::Rust("syscalls", libc), "many_writes").args(["20000"]),
    ]
}
