//! A guest with the standard library is linked with its C library.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use glowbox_build::{Guest, Profile, Target};
use support::{Scratch, is_static_pie, manifest};

const PROGRAM: &str = "fn main() { println!(\"{} is here\", env!(\"CARGO_PKG_NAME\")); }\n";

#[test]
fn a_program_with_std_becomes_a_static_pie_with_either_c_library() {
    let scratch = Scratch::new();
    scratch.write("guest/Cargo.toml", &manifest("a-program"));
    scratch.write("guest/src/main.rs", PROGRAM);
    let mut paths = Vec::new();
    for (target, profile) in [
        (Target::Gnu, Profile::Release),
        (Target::Gnu, Profile::Dev),
        (Target::Musl, Profile::Release),
    ] {
        let guest = Guest::std(scratch.path().join("guest")).target(target).profile(profile);
        let built = guest.target_dir(scratch.path().join("out")).offline(true).build();
        let elf = match built {
            Err(glowbox_build::Error::TargetMissing { target, .. }) => {
                eprintln!("not tested: {target} is not installed");
                continue;
            }
            built => built.unwrap(),
        };
        assert!(is_static_pie(&elf.bytes().unwrap()), "{target:?}");
        // It is an ordinary program.
        let output = Command::new(elf.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a-program is here\n");
        paths.push(elf.path().to_path_buf());
    }
    paths.sort();
    assert!(paths.is_sorted_by(|a, b| a != b), "one overwrites another: {paths:?}");
}

#[test]
fn whether_panics_unwind_is_for_the_profile_to_say() {
    let scratch = Scratch::new();
    let program = "fn main() { let _ = std::panic::catch_unwind(|| panic!()); }\n";
    scratch.write("guest/src/main.rs", program);
    for (profile, caught) in [("", true), ("[profile.release]\npanic = \"abort\"\n", false)] {
        scratch.write("guest/Cargo.toml", &(manifest("panics") + profile));
        let guest = Guest::std(scratch.path().join("guest")).offline(true);
        let elf = guest.target_dir(scratch.path().join("out")).build().unwrap();
        let output = Command::new(elf.path()).output().unwrap();
        assert_eq!(output.status.success(), caught, "{profile}");
    }
}
