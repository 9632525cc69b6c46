//! `glowbox inspect`: what it tells of each kind of file.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use glowbox_testguest::GuestFile;
use serde_json::Value;
use support::{GLOWBOX, can_run, file, folder, glowbox, guest, program};

fn json(path: &str) -> Value {
    let text = glowbox(["inspect", "--json", path]).worked();
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn a_guest_is_shown_with_its_functions_segments_and_memory() {
    let path = guest("hello");
    let text = glowbox(["inspect", path]).worked();
    for part in [
        "a guest",
        "functions:\n  greet(name: String) -> String",
        "imports (functions of the host):\n  weekday() -> String",
        "position-independent",
        "r-x",
        "stack guard",
        "64 MiB  rw-  3    heap",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let json = json(path);
    assert_eq!(json["kind"], "guest");
    assert_eq!(json["problem"], Value::Null);
    let greet = &json["functions"][0];
    assert_eq!(greet["signature"], "(name: String) -> String");
    assert_eq!(greet["parameters"][0]["type"], "String");
    assert_eq!(json["imports"][0]["name"], "weekday");
    let segments = json["segments"].as_array().unwrap();
    let protections: Vec<_> =
        segments.iter().map(|of| of["protection"].as_str().unwrap()).collect();
    assert!(protections.contains(&"r-x") && protections.contains(&"rw-"), "{protections:?}");
    let regions = json["memory"]["regions"].as_array().unwrap();
    let heap = regions.iter().find(|region| region["name"] == "heap").unwrap();
    assert_eq!((&heap["length"], &heap["user"]), (&Value::from(64 << 20), &Value::from(true)));
    let supervisor = regions.iter().find(|region| region["name"] == "supervisor").unwrap();
    assert_eq!(supervisor["user"], false);
}

#[test]
fn a_dynamically_linked_program_is_shown_with_what_to_do() {
    let text = glowbox(["inspect", GLOWBOX]).worked();
    for part in [
        "a dynamically linked Linux program",
        "can't be run:",
        "-static-pie",
        "wants the dynamic loader /",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let json = json(GLOWBOX);
    assert_eq!(json["kind"], "dynamic_program");
    assert!(json["loader"].as_str().unwrap().contains("ld-linux"));
    assert!(json["segments"].as_array().unwrap().len() > 2);
}

#[test]
fn a_static_program_is_shown_with_what_to_do_and_without_functions() {
    let path = program("shelled");
    let text = glowbox(["inspect", path]).worked();
    for part in [
        "a static Linux program",
        "Run it with `glowbox run`",
        "has thread-local storage",
        "8 MiB  rw-  3    stack",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    assert!(!text.contains("functions:") && !text.contains("can't be run"), "{text}");
    let json = json(path);
    assert_eq!((&json["kind"], &json["functions"]), (&Value::from("static_program"), &Value::Null));
    let protections = json["segments"].as_array().unwrap().iter().map(|of| &of["protection"]);
    assert!(protections.clone().any(|of| of == "r-x") && protections.clone().any(|of| of == "rw-"));
}

#[test]
fn a_guest_with_the_standard_library_is_a_guest() {
    let json = json(program("hello-std"));
    assert_eq!((&json["kind"], &json["problem"]), (&Value::from("guest"), &Value::Null));
    assert_eq!(json["functions"][0]["signature"], "(name: String) -> String");
}

#[test]
fn a_guest_that_is_refused_is_shown_with_the_reason() {
    let folder = folder();
    let mut guest = GuestFile::of_code(&[0xf4]);
    guest.segments[0].flags = 7;
    let path = file(&folder, "writable", &guest.to_bytes());
    let json = json(path.to_str().unwrap());
    assert_eq!(json["kind"], "guest");
    assert!(json["problem"].as_str().unwrap().contains("writable and executable"), "{json}");
    assert_eq!(json["segments"][0]["protection"], "rwx");
}

#[test]
fn a_snapshot_is_shown_with_its_headers_and_where_its_guest_stands() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm.glowbox");
    let path = path.to_str().unwrap();
    let options = ["--seed", "7", "--memory", "1M", "-o", path, guest("command")];
    glowbox([&["snapshot"][..], &options].concat()).worked();
    let text = glowbox(["inspect", path]).worked();
    for part in [
        "a snapshot",
        "of guest    command",
        "memory image",
        "intact",
        "from the seed 7",
        "add(a: i32",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let json = json(path);
    assert_eq!(json["kind"], "snapshot");
    let snapshot = &json["snapshot"];
    assert_eq!(snapshot["deterministic_seed"], 7);
    assert_eq!(snapshot["image_intact"], true);
    assert_eq!(json["memory"]["limits"]["heap"], 1 << 20);
    let base = snapshot["load_base"].as_u64().unwrap();
    let code = json["memory"]["regions"].as_array().unwrap().iter().find(|of| of["name"] == "code");
    assert!(code.unwrap()["start"].as_u64().unwrap() >= base);
    // The image is the last part of the file, and the file is as long as its parts.
    let sections = snapshot["sections"].as_array().unwrap();
    let last = sections.last().unwrap();
    let end = last["offset"].as_u64().unwrap() + last["length"].as_u64().unwrap();
    assert_eq!(Some(end), json["size"].as_u64());
    assert_eq!(last["length"].as_u64().unwrap(), 4096 * snapshot["image_pages"].as_u64().unwrap());
}

#[test]
fn a_damaged_snapshot_is_told_by_the_part_that_is() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm.glowbox");
    let path = path.to_str().unwrap();
    glowbox(["snapshot", guest("command"), "-o", path]).worked();
    let whole = std::fs::read(path).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, &bytes).unwrap();
    let json = json(path);
    assert_eq!(json["snapshot"]["image_intact"], false);
    assert!(
        json["problem"].as_str().unwrap().contains("`memory image` does not match its checksum")
    );
    glowbox(["call", path, "nothing"]).failed(126, &["`memory image` does not match its checksum"]);
    for (at, part) in [(20, "header"), (5000, "")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(path, &bytes).unwrap();
        glowbox(["inspect", path]).failed(126, &["a snapshot that can't be loaded", part]);
    }
    std::fs::write(path, &whole[..whole.len() - 1]).unwrap();
    glowbox(["inspect", path]).failed(126, &["truncated"]);
}
