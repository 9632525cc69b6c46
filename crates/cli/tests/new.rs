//! `glowbox new`: projects that build and run.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{GLOWBOX, can_run, command, file, folder, names, run};

fn new(folder: &tempfile::TempDir, arguments: &[&str]) -> support::Ended {
    run(Command::new(GLOWBOX).arg("new").args(arguments).current_dir(folder.path()))
}

#[test]
fn a_new_project_builds_and_runs() {
    builds_and_runs("my-app", &[]);
}

#[test]
fn so_does_one_whose_guest_has_the_standard_library() {
    builds_and_runs("std-app", &["--std"]);
}

fn builds_and_runs(name: &str, options: &[&str]) {
    // In the same place every time, so that the next run does not compile it all again.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new");
    let project = folder.join(name);
    let _ = std::fs::remove_dir_all(&project);
    std::fs::create_dir_all(&folder).unwrap();
    let ended = run(Command::new(GLOWBOX).args(["new", name]).args(options).current_dir(&folder));
    let text = ended.worked();
    assert!(text.contains(&format!("cd {name} && cargo run")), "{text}");
    let files = [".gitignore", "Cargo.toml", "build.rs", "guest", "src"];
    assert_eq!(names(&project), files);
    let mut cargo = command(env!("CARGO"));
    cargo.current_dir(&project).env("CARGO_TARGET_DIR", folder.join("target"));
    cargo.env_remove("RUSTFLAGS");
    cargo.args(["run", "--quiet"]);
    let ended = run(&mut cargo);
    if !can_run() {
        assert!(ended.err.contains("/dev/kvm"), "{}", ended.err);
        return;
    }
    // No warning is of the project. There may be some of Glowbox, which is being worked on.
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(!ended.err.contains(name), "{}", ended.err);
    assert_eq!(
        ended.out,
        "That makes 8.\nSorry: guest function `total` returned an error: there is no beer.\n"
    );
    // The sources are formatted as rustfmt does.
    for manifest in ["Cargo.toml", "guest/Cargo.toml"] {
        let mut format = Command::new(env!("CARGO"));
        format.args(["fmt", "--check", "--manifest-path"]).arg(project.join(manifest));
        let ended = run(&mut format);
        assert_eq!((ended.status, ended.out.as_str()), (Some(0), ""), "{}", ended.err);
    }
}

#[test]
fn what_is_there_already_stays_as_it_is() {
    let folder = folder();
    file(&folder, "file", b"text");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    for name in ["file", "folder"] {
        new(&folder, &[name]).failed(125, &["is there already"]);
    }
    assert_eq!(names(folder.path()), ["file", "folder"]);
    assert!(names(&folder.path().join("folder")).is_empty());
}

#[test]
fn names_that_no_package_has_are_refused() {
    let folder = folder();
    for name in ["1st", "a b", "fn", "test", "a/../..", "ü"] {
        new(&folder, &[name]).failed(125, &["can't be a package's name"]);
    }
    new(&folder, &["nowhere/app"]).failed(125, &["can't be written to", "No such file"]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn glowbox_may_come_from_elsewhere() {
    let folder = folder();
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    new(&folder, &["here", "--glowbox", checkout]).worked();
    new(&folder, &["git", "--glowbox", "https://example.org/glowbox.git"]).worked();
    let manifest = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let path = std::fs::canonicalize(checkout).unwrap();
    let line = format!("glowbox = {{ path = \"{}/crates/glowbox\" }}", path.display());
    assert!(manifest("here/Cargo.toml").contains(&line));
    let guest = manifest("git/guest/Cargo.toml");
    assert!(
        guest.contains("glowbox-guest = { git = \"https://example.org/glowbox.git\" }"),
        "{guest}"
    );
    new(&folder, &["other", "--glowbox", "/tmp"]).failed(125, &["neither a checkout of Glowbox"]);
    assert_eq!(names(folder.path()), ["git", "here"]);
}
