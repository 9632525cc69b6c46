//! Ctrl-C: the command ends with status 130 and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use support::{Ended, can_run, folder, guest, interrupt, names, program, start};

/// Waits until the guest says that it spins; gives what follows on standard error.
fn wait_until_it_spins(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert_eq!(line, "guest: spinning\n");
    errors
}

/// Waits for the end, which must come soon.
fn ends(child: Child, since: Instant) -> Ended {
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(since.elapsed() < Duration::from_secs(5), "it took {:?}", since.elapsed());
    ended
}

#[test]
fn a_call_is_stopped_with_status_130_and_without_a_word() {
    if !can_run() {
        return;
    }
    let mut child = start(["call", "--timeout", "none", guest("command"), "spin"]);
    let mut errors = wait_until_it_spins(&mut child);
    let now = Instant::now();
    interrupt(&child);
    let ended = ends(child, now);
    assert_eq!((ended.status, ended.out.as_str()), (Some(130), ""));
    let mut rest = String::new();
    errors.read_line(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn statistics_are_shown_all_the_same() {
    if !can_run() {
        return;
    }
    let mut child = start(["call", "--stats", guest("command"), "spin"]);
    let mut errors = wait_until_it_spins(&mut child);
    interrupt(&child);
    assert_eq!(ends(child, Instant::now()).status, Some(130));
    let mut rest = String::new();
    errors.read_line(&mut rest).unwrap();
    assert!(rest.contains("in the guest, entered"), "{rest}");
}

#[test]
fn a_snapshot_that_is_interrupted_leaves_no_file() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    let mut child = start(["snapshot", guest("command"), "-o", path, "--warm", "spin"]);
    let _errors = wait_until_it_spins(&mut child);
    interrupt(&child);
    assert_eq!(ends(child, Instant::now()).status, Some(130));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn where_no_guest_runs_yet_it_ends_at_once() {
    // It waits for standard input, which stays open and empty.
    let mut child = start(["call", guest("command"), "greet", "@-"]);
    let input = child.stdin.take();
    // Until then the signal has its default action, which ends the command too, but not with a status.
    let caught = |child: &Child| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << 1 != 0
    };
    let start = Instant::now();
    while !caught(&child) {
        assert!(start.elapsed() < Duration::from_secs(10), "the signal is never caught");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let ended = ends(child, Instant::now());
    assert_eq!((ended.status, ended.out.as_str(), ended.err.as_str()), (Some(130), "", ""));
    drop(input);
}

#[test]
fn a_program_is_stopped_whether_it_computes_sleeps_or_waits_for_input() {
    if !can_run() {
        return;
    }
    for (verb, said) in [("spin", "spinning\n"), ("sleep", "sleeping\n"), ("upper", "")] {
        let mut child = start(["run", "--clock", "real", program("shelled"), verb]);
        let input = child.stdin.take();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        if said.is_empty() {
            // It says nothing: it should be waiting by now, and if not yet, is stopped all the same.
            std::thread::sleep(Duration::from_millis(500));
        } else {
            out.read_line(&mut line).unwrap();
        }
        assert_eq!(line, said);
        interrupt(&child);
        let ended = ends(child, Instant::now());
        assert_eq!((ended.status, ended.err.as_str()), (Some(130), ""), "{verb}");
        drop(input);
    }
}
