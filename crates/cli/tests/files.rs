//! What a verb that wants a guest says to files that are none.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use glowbox_testguest::GuestFile;
use support::{
    GLOWBOX, VARIABLE, as_nobody, can_run, file, folder, for_everybody, glowbox, guest, is_root,
    program, run,
};

/// What each such verb is called with, the file in place of `FILE`.
const VERBS: [&[&str]; 4] = [
    &["run", "FILE"],
    &["call", "FILE", "add", "1", "2"],
    &["snapshot", "FILE", "-o", "/dev/null/x"],
    &["inspect", "FILE"],
];

fn each_fails(path: &str, status: i32, words: &[&str]) {
    for verb in VERBS {
        let arguments = verb.iter().map(|word| if *word == "FILE" { path } else { word });
        glowbox(arguments).failed(status, words);
    }
}

#[test]
fn a_file_that_is_not_there_is_status_127() {
    each_fails(
        "/nonexistent/guest.elf",
        127,
        &["`/nonexistent/guest.elf` can't be read", "No such file"],
    );
}

#[test]
fn a_folder_a_pipe_and_a_device_are_status_126() {
    each_fails("/tmp", 126, &["`/tmp` can't be read", "is a directory"]);
    each_fails("/dev/null", 126, &["no regular file"]);
    let folder = folder();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    each_fails(pipe.to_str().unwrap(), 126, &["no regular file"]);
}

#[test]
fn what_is_no_elf_file_is_status_126() {
    let folder = folder();
    let short = "only 7 bytes, too few for a guest or a snapshot";
    for (name, bytes, words) in [
        ("empty", &b""[..], "it is empty"),
        ("text", b"#!/bin/sh\n", "not an ELF file"),
        ("stub", b"\x7fELF\x02\x01\x01", short),
        ("part", b"glowbox", short),
        ("more", b"\x7fELF\x02\x01\x01\0", "truncated"),
    ] {
        let path = file(&folder, name, bytes);
        each_fails(path.to_str().unwrap(), 126, &[name, words]);
    }
    let mut other = GuestFile::of_code(&[0xf4]).to_bytes();
    other[18] = 183;
    let path = file(&folder, "arm", &other);
    each_fails(path.to_str().unwrap(), 126, &["x86-64"]);
}

#[test]
fn a_dynamically_linked_program_is_refused_with_what_to_do() {
    for verb in &VERBS[..3] {
        let arguments = verb.iter().map(|word| if *word == "FILE" { GLOWBOX } else { word });
        glowbox(arguments).failed(126, &["dynamic loader", "-static-pie"]);
    }
}

#[test]
fn a_program_without_functions_is_refused_by_call_and_a_guest_with_some_by_run() {
    glowbox(["call", program("shelled"), "add"])
        .failed(126, &["no functions to be called: run it, with `glowbox run`"]);
    if can_run() {
        glowbox(["run", guest("command")]).failed(126, &["call them, with `glowbox call`"]);
        glowbox(["run", program("hello-std")]).failed(126, &["call them, with `glowbox call`"]);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_status_126() {
    if !is_root() {
        return;
    }
    let (folder, copies) = for_everybody(&[GLOWBOX]);
    let secret = file(&folder, "secret", b"\x7fELF");
    let status = Command::new("chmod").arg("600").arg(&secret).status();
    assert!(status.unwrap().success());
    let ended = run(as_nobody(&copies[0]).arg("inspect").arg(&secret));
    ended.failed(126, &["secret` can't be read", "Permission denied"]);
}

#[test]
fn a_hypervisor_that_may_not_be_used_is_status_125_with_what_to_do() {
    if !is_root() || !std::path::Path::new("/dev/kvm").exists() {
        return eprintln!("left out: it takes root and /dev/kvm");
    }
    let (_folder, copies) = for_everybody(&[GLOWBOX, guest("command")]);
    let [glowbox, guest] = &copies[..] else { unreachable!() };
    let doctor = run(as_nobody(glowbox).arg("doctor").env(VARIABLE, "kvm"));
    if doctor.status == Some(0) {
        return eprintln!("left out: everybody may use /dev/kvm here");
    }
    assert_eq!(doctor.status, Some(1));
    assert!(doctor.out.contains("usermod -aG kvm"), "{}", doctor.out);
    let ended = run(as_nobody(glowbox)
        .args(["call", "--backend", "kvm"])
        .arg(guest)
        .args(["add", "1", "2"]));
    ended.failed(125, &["this user may not open it", "usermod -aG kvm", "`glowbox doctor`"]);
}

#[test]
fn names_in_a_hostile_file_do_not_reach_the_terminal() {
    use glowbox_testguest::Record;
    let folder = folder();
    let name = "evil\u{202e}\u{2028}glowbox";
    let mut hostile = GuestFile::of_code(&[0xf4]);
    hostile.exports.as_mut().unwrap().push(Record::function(name, "(a: u32)"));
    let path = file(&folder, "hostile", &hostile.to_bytes());
    let path = path.to_str().unwrap();
    let shown = glowbox(["inspect", path]).worked();
    assert!(shown.contains(r"evil\u{202e}\u{2028}glowbox(a: u32)"), "{shown}");
    let json = glowbox(["inspect", "--json", path]).worked();
    assert!(json.contains(r"evil\u202e\u2028glowbox"), "{json}");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["functions"][0]["name"], name);
    // The same name twice is an error that shows it.
    hostile.exports.as_mut().unwrap().push(Record::function(name, "()"));
    let path = file(&folder, "twice", &hostile.to_bytes());
    for verb in ["call", "inspect"] {
        let ended = glowbox(
            [verb, path.to_str().unwrap()].into_iter().chain((verb == "call").then_some("x")),
        );
        let text = ended.out + &ended.err;
        assert!(text.contains("there twice") && text.contains(r"evil\u{202e}"), "{text}");
        assert!(!text.contains('\u{202e}'), "{text}");
    }
    // Nor do those of a dynamic loader.
    let mut loader = GuestFile::of_code(b"/lib/\x1b[2J\n\xff\0");
    loader.extra_headers.push((3, 0x1000, loader.to_bytes().len() as u64, 12));
    let mut bytes = loader.to_bytes();
    let at = bytes.windows(5).position(|part| part == b"/lib/").unwrap() as u64;
    loader.extra_headers[0].2 = at;
    bytes = loader.to_bytes();
    let path = file(&folder, "loader", &bytes);
    let shown = glowbox(["inspect", path.to_str().unwrap()]).worked();
    assert!(shown.contains(r"wants the dynamic loader /lib/\u{1b}[2J\n"), "{shown}");
}
