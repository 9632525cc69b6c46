//! What compilers and linkers make of guests with the standard library, and of programs that know
//! nothing of Glowbox, is read for what it is.

use std::collections::HashMap;

use glowbox_build::{Error, Guest, Target};
use glowbox_core::elf::{Function, Personality, Program};

const GUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests-std");

/// The programs of the workspace, by name; none if the C library is missing.
fn programs(target: Target) -> HashMap<String, Program> {
    // Where other tests build them too, so that they are built once.
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/../glowbox-guests");
    let built = Guest::std(GUESTS).target(target).target_dir(folder).locked(true).build_all();
    if let Err(Error::TargetMissing { target, .. }) = built {
        eprintln!("not tested: the target {target} is not installed");
        return HashMap::new();
    }
    let parse = |elf: glowbox_build::GuestBinary| {
        let bytes = elf.bytes().expect("it was just built");
        assert!(has_thread_local_storage(&bytes), "{} tests little", elf.name());
        let program =
            Program::parse(bytes.into()).unwrap_or_else(|e| panic!("{}: {e}", elf.name()));
        (elf.name().to_string(), program)
    };
    built.expect("they compile").into_iter().map(parse).collect()
}

/// Whether there is a program header PT_TLS.
fn has_thread_local_storage(elf: &[u8]) -> bool {
    let (headers, _) = elf[64..].as_chunks::<56>();
    headers.iter().take(20).any(|header| header[..4] == [7, 0, 0, 0])
}

fn signatures(functions: &[Function], name: &str) -> Vec<String> {
    let named = functions.iter().filter(|function| function.name == name);
    named.map(|function| function.signature.to_string()).collect()
}

#[test]
fn std_guests_are_linux_programs_with_functions() {
    for target in [Target::Gnu, Target::Musl] {
        let programs = programs(target);
        let Some(guest) = programs.get("testing-std") else { continue };
        assert_eq!(guest.personality(), Personality::Linux);
        assert!(guest.is_relocatable() && guest.headers().is_some());
        assert_eq!((guest.relro(), guest.relocations().count()), (None, 0));
        assert_eq!(signatures(guest.exports(), "add"), ["(a: u32, b: u32) -> u32"]);
        let counted = signatures(guest.exports(), "count_words");
        assert_eq!(counted, ["(text: String) -> Map<String, u32>"]);
        assert_eq!(signatures(guest.imports(), "weekday"), ["() -> String"]);
        let double = signatures(guest.imports(), "double");
        assert_eq!(double, ["(number: u32) -> Result<u32, HostError>"]);
        assert_eq!(signatures(programs["hello-std"].exports(), "greet").len(), 1);
    }
}

#[test]
fn a_program_that_knows_nothing_of_glowbox_is_a_linux_program_without_functions() {
    for target in [Target::Gnu, Target::Musl] {
        let Some(program) = programs(target).remove("plain") else { continue };
        assert_eq!(program.personality(), Personality::Linux);
        assert!(program.exports().is_empty() && program.imports().is_empty());
    }
}
