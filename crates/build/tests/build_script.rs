//! The whole way: a host package whose build script builds its guest.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{Scratch, manifest, program};

const HOST: &str = r#"
fn main() {
    let bytes = std::fs::read(env!("GLOWBOX_GUEST_MY_GUEST")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for marker in ["first", "second", "third"] {
        if text.contains(&format!("the {marker}.")) {
            println!("{marker} built {}", env!("BUILT"));
        }
    }
}
"#;

/// `BUILT` tells one run of the build script from the next.
const SCRIPT: &str = r#"
fn main() {
    glowbox_build::build_script("../guest");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    println!("cargo:rustc-env=BUILT={}", now.unwrap().as_nanos());
}
"#;

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let this = env!("CARGO_MANIFEST_DIR");
    let dependency = format!("[build-dependencies]\nglowbox-build = {{ path = {this:?} }}\n");
    scratch.write("host/Cargo.toml", &(manifest("host") + &dependency));
    scratch.write("host/build.rs", SCRIPT);
    scratch.write("host/src/main.rs", HOST);
    // The same dependencies as this test has, which are therefore on this machine.
    let lock = Path::new(this).ancestors().map(|dir| dir.join("Cargo.lock"));
    if let Some(lock) = lock.into_iter().find(|lock| lock.exists()) {
        std::fs::copy(lock, scratch.path().join("host/Cargo.lock")).unwrap();
    }
    // The guest has a part in a crate of its own.
    let part = "\n[dependencies]\npart = { path = \"../part\" }\n";
    scratch.package("guest", "my-guest", "the first");
    scratch.write("guest/Cargo.toml", &(manifest("my-guest") + part));
    scratch.write("part/Cargo.toml", &manifest("part"));
    scratch.write("part/src/lib.rs", "#![no_std]\n");
    scratch
}

fn cargo(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).args(["--offline", "--target-dir"]).arg(scratch.path().join("target"));
    command.current_dir(scratch.path().join("host")).env_remove("RUSTFLAGS").output().unwrap()
}

/// What the host says of its guest, with a word that changes with each run of the build script.
fn run(scratch: &Scratch, arguments: &[&str]) -> String {
    let output = cargo(scratch, &[&["run"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_build_script_builds_the_guest_again_when_and_only_when_it_changed() {
    let scratch = scratch();
    assert!(run(&scratch, &[]).starts_with("first"));
    assert!(scratch.path().join("target/glowbox-guests").is_dir());
    // The first run wrote the guest's Cargo.lock, which counts as one change.
    let before = run(&scratch, &[]);
    assert_eq!(run(&scratch, &[]), before, "nothing changed, and the build script ran");

    scratch.write("guest/src/main.rs", &program("the second"));
    let after_source = run(&scratch, &[]);
    assert!(after_source.starts_with("second"), "{after_source}");

    scratch.write("part/src/lib.rs", "#![no_std]\npub const CHANGED: () = ();\n");
    let after_part = run(&scratch, &[]);
    assert_ne!(after_part, after_source, "a crate that the guest uses by path changed");

    // With a triple, the outer target directory is one level higher.
    scratch.write("guest/src/main.rs", &program("the third"));
    assert!(run(&scratch, &["--target", "x86_64-unknown-linux-gnu"]).starts_with("third"));
    let inner = scratch.path().join("target/x86_64-unknown-linux-gnu/glowbox-guests");
    assert!(!inner.exists(), "{inner:?}");

    // A warning about the guest is seen; an error ends the build, with the compiler's text.
    scratch.write("guest/src/main.rs", &(program("the third") + "fn never_called() {}\n"));
    let error = String::from_utf8(cargo(&scratch, &["build"]).stderr).unwrap();
    assert!(error.contains("`never_called` is never used"), "{error}");

    scratch.write("guest/src/main.rs", "#![no_std]\n#![no_main]\nwrong!();\n");
    let output = cargo(&scratch, &["build"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("cannot find macro `wrong`"), "{error}");
    assert!(error.contains("the guest in `"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}
