//! What the environment may do to a build, and what not.
//!
//! A test must not change its own environment (its threads share it), so each case runs this file's
//! one ignored test, in a process of its own.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use glowbox_build::Guest;
use support::{Scratch, is_static_pie};

/// Builds the guest in GLOWBOX_TEST_GUEST. Prints `ok <path>` or the error.
#[test]
#[ignore = "a part of the other tests"]
fn child() {
    let Some(dir) = std::env::var_os("GLOWBOX_TEST_GUEST") else { return };
    let guest = Guest::new(dir).offline(true);
    let guest = match std::env::var_os("GLOWBOX_TEST_TARGET") {
        Some(target) => guest.target_dir(target),
        None => guest,
    };
    match guest.build() {
        Ok(elf) => println!("\nok {}", elf.path().display()),
        Err(error) => println!("\nfailed: {error}"),
    }
}

/// Builds the guest `guest` of `scratch` with these variables: the ELF's path, or the error's text.
fn build(scratch: &Scratch, variables: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env("GLOWBOX_TEST_GUEST", scratch.path().join("guest"));
    command.env("GLOWBOX_TEST_TARGET", scratch.path().join("out"));
    for (name, value) in variables {
        match *value {
            "" => command.env_remove(name),
            value => command.env(name, value),
        };
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let result = text.lines().find_map(|line| line.strip_prefix("ok "));
    result.map(str::to_owned).ok_or_else(|| text.split_once("failed: ").unwrap().1.to_owned())
}

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    scratch
}

/// Writes a shell script that can be run, and gives its path.
fn program(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.write(name, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_outer_builds_flags_wrappers_and_settings_are_harmless() {
    let scratch = scratch();
    let breaks = program(&scratch, "breaks", "exit 1");
    let poison = [
        ("RUSTFLAGS", "--garbage"),
        ("CARGO_ENCODED_RUSTFLAGS", "--garbage"),
        ("CARGO_BUILD_RUSTFLAGS", "--garbage"),
        ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "--garbage"),
        ("CARGO_BUILD_TARGET", "no-such-target"),
        ("CARGO_BUILD_TARGET_DIR", "/dev/null"),
        ("CARGO_BUILD_BUILD_DIR", "/dev/null"),
        ("CARGO_TARGET_DIR", "/dev/null"),
        ("CARGO_PROFILE_RELEASE_STRIP", "garbage"),
        ("CARGO_UNSTABLE_BUILD_STD", "core"),
        ("CARGO_PKG_NAME", "outer"),
        ("CARGO_FEATURE_EXTRA", "1"),
        ("TARGET", "no-such-target"),
        ("PROFILE", "no-such-profile"),
        ("RUSTC_WRAPPER", &breaks),
        ("RUSTC_WORKSPACE_WRAPPER", &breaks),
        ("CARGO_BUILD_RUSTC_WRAPPER", &breaks),
    ];
    let elf = fs::read(build(&scratch, &poison).unwrap()).unwrap();
    assert!(is_static_pie(&elf) && support::contains(&elf, "marker."));
    assert!(support::contains(&elf, "_start"), "stripped");
}

#[test]
fn flags_in_the_users_config_are_replaced() {
    let scratch = scratch();
    let config = "[build]\nrustflags = [\"--garbage\"]\ntarget-dir = \"/dev/null\"\n\
                  [target.x86_64-unknown-linux-gnu]\nrustflags = [\"--garbage\"]\n";
    scratch.write("guest/.cargo/config.toml", config);
    build(&scratch, &[]).unwrap();
}

#[test]
fn a_guest_is_built_beside_the_outer_build_never_in_it() {
    let scratch = scratch();
    let at = |path: &str| scratch.path().join(path).to_str().unwrap().to_owned();
    let (out, target) = (at("outer/debug/build/host-1/out"), at("of-variable"));
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("OUT_DIR", &out), ("CARGO_TARGET_DIR", &target)], "outer/glowbox-guests"),
        (&[("OUT_DIR", ""), ("CARGO_TARGET_DIR", &target)], "of-variable/glowbox-guests"),
        (&[("OUT_DIR", ""), ("CARGO_TARGET_DIR", "")], "guest/target/glowbox-guests"),
    ];
    for (variables, expected) in cases {
        let elf = build(&scratch, &[variables, &[("GLOWBOX_TEST_TARGET", "")]].concat()).unwrap();
        assert!(Path::new(&elf).starts_with(scratch.path().join(expected)), "{elf}");
    }
}

#[test]
fn a_missing_cargo_is_named() {
    let text = build(&scratch(), &[("CARGO", "/no/such/cargo")]).unwrap_err();
    assert!(text.contains("/guest`") && text.contains("`/no/such/cargo`"), "{text}");
    assert!(text.contains("rustup"), "{text}");
}

#[test]
fn a_cargo_that_can_not_be_run_is_named() {
    let scratch = scratch();
    let file = scratch.write("cargo", "");
    let text = build(&scratch, &[("CARGO", file.to_str().unwrap())]).unwrap_err();
    assert!(text.contains("/guest`") && text.contains("can't be run"), "{text}");
}

#[test]
fn a_missing_linker_is_named_with_the_packages_that_have_it() {
    let linker = ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "no-such-cc");
    let text = build(&scratch(), &[linker]).unwrap_err();
    assert!(text.contains("/guest`") && text.contains("no program `no-such-cc`"), "{text}");
    assert!(text.contains("apt-get install gcc"), "{text}");
}

#[test]
fn a_missing_target_is_named_with_the_command_that_adds_it() {
    // The target of this machine can't be taken away, so a toolchain without it is acted.
    let scratch = scratch();
    let cargo = program(&scratch, "bin/cargo", "echo 'error[E0463]: no `core`' >&2; exit 101");
    let rustc = program(&scratch, "bin/rustc", "echo /no/such/lib");
    let text = build(&scratch, &[("CARGO", &cargo), ("RUSTC", &rustc)]).unwrap_err();
    assert!(text.contains("/guest`") && text.contains("/no/such/lib"), "{text}");
    assert!(text.contains("rustup target add x86_64-unknown-linux-gnu"), "{text}");
}

#[test]
fn a_cargo_that_was_killed_is_reported_as_such() {
    let scratch = scratch();
    let cargo = program(&scratch, "bin/cargo", "kill -9 $$");
    let text = build(&scratch, &[("CARGO", &cargo)]).unwrap_err();
    assert!(text.contains("signal: 9"), "{text}");
}
