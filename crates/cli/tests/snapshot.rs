//! `glowbox snapshot`: guests that have warmed up, as files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{can_run, folder, glowbox, guest, names};

fn snapshot(path: &str, options: &[&str]) -> support::Ended {
    glowbox([&["snapshot", guest("command"), "-o", path], options].concat())
}

#[test]
fn a_snapshot_goes_on_where_its_guest_was_and_every_call_starts_there() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    let warm = ["--warm", "count 40", "--warm", " count  2 ", "--warm", "greet \"a b\""];
    assert_eq!(snapshot(path, &warm).worked(), "");
    for _ in 0..2 {
        assert_eq!(glowbox(["call", path, "count", "1"]).worked(), "43\n");
    }
    assert_eq!(names(folder.path()), ["warm"]);
}

#[test]
fn a_snapshot_may_be_taken_of_a_snapshot_and_in_its_place() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    snapshot(path, &["--warm", "count 1"]).worked();
    glowbox(["snapshot", path, "-o", path, "--warm", "count 1"]).worked();
    assert_eq!(glowbox(["call", path, "count", "0"]).worked(), "2\n");
}

#[test]
fn what_fails_leaves_no_file_and_an_old_one_as_it_was() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    snapshot(path, &["--warm", "divide 1 0"]).failed(1, &["division by zero"]);
    snapshot(path, &["--warm", "fail \"x\""]).failed(134, &["panicked"]);
    snapshot(path, &["--warm", "count"]).failed(125, &["takes one argument, not 0"]);
    snapshot(path, &["--warm", "count [1"]).failed(125, &["are not JSON"]);
    snapshot(path, &["--warm", "count 1", "--timeout", "100ms", "--log", "off", "--warm", "spin"])
        .failed(124, &["--timeout"]);
    snapshot("/nonexistent/warm", &[]).failed(125, &["can't be saved to `/nonexistent/warm`"]);
    glowbox(["snapshot", guest("command")]).failed(125, &["--output <FILE>"]);
    assert!(names(folder.path()).is_empty());
    snapshot(path, &["--warm", "count 5"]).worked();
    snapshot(path, &["--warm", "divide 1 0"]).failed(1, &[]);
    assert_eq!(glowbox(["call", path, "count", "0"]).worked(), "5\n");
    assert_eq!(names(folder.path()), ["warm"]);
}

#[test]
fn how_much_a_snapshots_guest_may_have_is_the_callers_to_say() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("large");
    let path = path.to_str().unwrap();
    snapshot(path, &["--memory", "128M", "--stack", "2M"]).worked();
    glowbox(["call", path, "nothing"])
        .failed(126, &["`heap limit`", "134217728 bytes", "with --memory"]);
    let options = ["call", "--memory", "128M", "--stack", "2M"];
    let call = |rest: &[&str]| glowbox([&options[..], rest].concat());
    assert_eq!(call(&[path, "allocate", "100000000"]).worked(), "100000000\n");
    call(&["--seed", "1", path, "nothing"])
        .failed(125, &["is fixed already; give --seed to `glowbox snapshot`"]);
}

#[test]
fn the_seed_of_a_snapshot_holds_in_every_call() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    let roll = || glowbox(["call", path, "roll"]).worked();
    snapshot(path, &["--seed", "7"]).worked();
    assert_eq!(roll(), roll());
    snapshot(path, &[]).worked();
    assert_ne!(roll(), roll());
}

#[test]
fn the_log_is_shown_up_to_the_level_asked_for() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    snapshot(path, &["--log", "trace"]).worked();
    let lines = |level| {
        let ended = glowbox(["call", "--log", level, path, "say", "\"x\""]);
        ended.failed(1, &[]).matches("guest: ").count()
    };
    assert_eq!([lines("off"), lines("warn"), lines("info"), lines("debug")], [0, 1, 2, 3]);
}
