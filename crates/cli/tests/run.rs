//! `glowbox run`: programs with the command's streams, and with what they are granted and no more.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use support::{Ended, GLOWBOX, can_run, command, file, folder, glowbox, program};

/// Runs the program with options of the command and arguments of its own.
fn shelled(options: &[&str], arguments: &[&str]) -> Ended {
    glowbox([&["run"], options, &[program("shelled")], arguments].concat())
}

#[test]
fn the_programs_status_is_the_commands() {
    if !can_run() {
        return;
    }
    for status in [0, 1, 7, 124, 255] {
        let ended = shelled(&[], &["exit", &status.to_string()]);
        assert_eq!((ended.status, ended.out.as_str(), ended.err.as_str()), (Some(status), "", ""));
    }
}

#[test]
fn a_program_that_a_signal_ends_has_the_status_that_shells_give_it() {
    if !can_run() {
        return;
    }
    shelled(&[], &["abort"]).failed(134, &[]);
    shelled(&[], &["fault"])
        .failed(139, &["was ended by signal 11: null pointer dereference (write)"]);
    let error = shelled(&[], &["panic"]).failed(101, &["it broke"]);
    assert!(!error.contains("glowbox:"), "{error}");
}

#[test]
fn standard_streams_are_connected() {
    if !can_run() {
        return;
    }
    let mut child = command(GLOWBOX)
        .args(["run", program("shelled"), "upper"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "naïve text\n".repeat(20_000);
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || input.write_all(text.as_bytes()).unwrap()
    });
    let ended = Ended::of(child.wait_with_output().unwrap());
    writer.join().unwrap();
    assert_eq!(ended.status, Some(0));
    assert_eq!(ended.out, text.to_uppercase());
    assert_eq!(ended.err, format!("{} bytes", text.len()));
    // At its end, input is empty and not an error.
    assert_eq!(shelled(&[], &["upper"]).err, "0 bytes");
}

#[test]
fn what_follows_the_program_is_the_programs() {
    if !can_run() {
        return;
    }
    let arguments = ["arguments", "--memory", "1", "-x", "--", "", "ü"];
    let text = shelled(&["--memory", "32M"], &arguments).worked();
    assert_eq!(text, "[\"--memory\", \"1\", \"-x\", \"--\", \"\", \"ü\"]\n");
    glowbox(["run", "--memmory", "1M", program("shelled")]).failed(125, &["--memmory"]);
    glowbox(["run"]).failed(125, &["<PROGRAM>"]);
}

#[test]
fn the_environment_is_what_was_granted() {
    if !can_run() {
        return;
    }
    assert_eq!(shelled(&[], &["environment"]).worked(), "");
    let mut command = command(GLOWBOX);
    command.args([
        "run",
        "--env",
        "A=1=2",
        "--env",
        "OWN",
        "--env",
        "NOT_THERE",
        "--env",
        "EMPTY=",
    ]);
    command.arg(program("shelled")).arg("environment").env("OWN", "value").env("SECRET", "x");
    assert_eq!(support::run(&mut command).worked(), "A=1=2\nOWN=value\nEMPTY=\n");
    shelled(&["--env", "=x"], &["environment"]).failed(125, &["a name is not empty"]);
}

#[test]
fn files_are_what_was_granted() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = file(&folder, "data", b"text");
    let (path, host) = (path.to_str().unwrap(), folder.path().to_str().unwrap());
    let not_there = shelled(&[], &["read", path]);
    not_there.failed(3, &["No such file"]);
    assert_eq!(shelled(&["--dir", host], &["read", path]).worked(), "text");
    let at_data = format!("{host}:/data");
    assert_eq!(shelled(&["--dir", &at_data], &["read", "/data/data"]).worked(), "text");
    shelled(&["--dir", &at_data], &["read", "/data/../etc/passwd"]).failed(3, &[]);
    shelled(&["--dir", &at_data], &["write", "/data/new", "x"]).failed(3, &["Read-only"]);
    assert!(!folder.path().join("new").exists());
    assert_eq!(shelled(&["--dir", &at_data, "--cwd", "/data"], &["read", "data"]).worked(), "text");
    assert_eq!(shelled(&["--dir", &at_data, "--cwd", "/data"], &["folder"]).worked(), "/data\n");
    shelled(&["--dir", "/nonexistent"], &["folder"]).failed(125, &["No such file"]);
    shelled(&["--dir", "/nonexistent:/data"], &["folder"])
        .failed(125, &["/nonexistent can't be opened for the guest: No such file"]);
    shelled(&["--dir", &format!("{path}:/data")], &["folder"])
        .failed(125, &["can't be opened for the guest: Not a directory"]);
    shelled(&["--dir", "/tmp:/a/../b"], &["folder"]).failed(125, &["has to be absolute"]);
}

#[test]
fn a_directory_to_start_in_has_to_be_there() {
    if !can_run() {
        return;
    }
    let words = ["no directory `/work` in the guest for --cwd", "--dir HOST:GUEST"];
    for options in [&["--cwd", "/work"][..], &["--cwd", "/work", "--scratch", "1M"]] {
        shelled(options, &["folder"]).failed(125, &words);
    }
    let there = ["--cwd", "/work", "--scratch", "1M:/work"];
    assert_eq!(shelled(&there, &["folder"]).worked(), "/work\n");
    // Here it is the directory of which there are two.
    let twice = [&there[..], &["--dir", "/tmp:/work"]].concat();
    shelled(&twice, &["folder"]).failed(125, &["must not stand for two things"]);
}

#[test]
fn a_scratch_directory_has_the_room_that_was_granted() {
    if !can_run() {
        return;
    }
    shelled(&[], &["write", "/tmp/a", "x"]).failed(3, &[]);
    assert_eq!(shelled(&["--scratch", "1M"], &["write", "/tmp/a", "x"]).worked(), "x\n");
    assert_eq!(shelled(&["--scratch", "1M:/work"], &["write", "/work/a", "x"]).worked(), "x\n");
    shelled(&["--scratch", "64K"], &["fill", "/tmp/a"]).failed(3, &["No space left"]);
}

#[test]
fn the_clock_and_random_numbers_are_what_was_asked_for() {
    if !can_run() {
        return;
    }
    let time =
        |options: &[&str]| shelled(options, &["time"]).worked().trim().parse::<u64>().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert_eq!(time(&[]), 946_684_800);
    assert!(time(&["--clock", "real"]) >= now && time(&["--clock", "frozen"]) >= now);
    assert_eq!(time(&["--clock", "frozen:7"]), 7);
    shelled(&["--clock", "slow"], &["time"]).failed(125, &["expected virtual, real, frozen"]);
    let random = |options: &[&str]| shelled(options, &["random"]).worked();
    assert_eq!(random(&["--seed", "7"]), random(&["--seed", "7"]));
    assert_ne!(random(&["--seed", "7"]), random(&["--seed", "8"]));
    assert_ne!(random(&[]), random(&[]));
}

#[test]
fn memory_is_limited() {
    if !can_run() {
        return;
    }
    assert_eq!(shelled(&["--memory", "64M"], &["allocate", "20000000"]).worked(), "20000000\n");
    // The allocation is refused, and Rust aborts.
    shelled(&["--memory", "8M"], &["allocate", "20000000"]).failed(134, &["memory allocation"]);
}

#[test]
fn the_timeout_is_status_124_whether_the_program_computes_or_waits() {
    if !can_run() {
        return;
    }
    for (clock, verb, said) in [("virtual", "spin", "spinning\n"), ("real", "sleep", "sleeping\n")]
    {
        let start = Instant::now();
        let ended = shelled(&["--timeout", "300ms", "--clock", clock], &[verb]);
        assert_eq!((ended.status, ended.out.as_str()), (Some(124), said));
        assert!(ended.err.contains("deadline of 300ms passed; see --timeout"), "{}", ended.err);
        assert!(start.elapsed().as_secs() < 5, "it took {:?}", start.elapsed());
    }
    // With a clock of its own, sleeping takes no time.
    assert_eq!(shelled(&["--timeout", "5s"], &["sleep"]).worked(), "sleeping\n");
}

#[test]
fn the_timeout_holds_while_nobody_reads_what_the_program_writes() {
    if !can_run() {
        return;
    }
    let start = Instant::now();
    let mut child = command(GLOWBOX)
        .args(["run", "--timeout", "500ms", program("shelled"), "upper"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // More than a pipe holds.
    child.stdin.take().unwrap().write_all(&[b'x'; 200_000]).unwrap();
    let unread = child.stdout.take();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(10));
        drop(unread);
    });
    assert_eq!(child.wait().unwrap().code(), Some(124));
    assert!(start.elapsed().as_secs() < 5, "it took {:?}", start.elapsed());
}

#[test]
fn statistics_go_to_standard_error() {
    if !can_run() {
        return;
    }
    let ended = shelled(&["--stats", "--json"], &["exit", "3"]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(3), ""));
    let stats: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert!(stats["entries"].as_u64().unwrap() > 1 && stats["guest_time_us"].as_u64().unwrap() > 0);
}

#[test]
fn a_snapshot_of_a_program_runs_in_its_place() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("program");
    let path = path.to_str().unwrap();
    glowbox(["snapshot", program("shelled"), "-o", path]).worked();
    let text = glowbox(["run", path, "arguments", "a", "--b"]).worked();
    assert_eq!(text, "[\"a\", \"--b\"]\n");
    assert_eq!(glowbox(["run", "--env", "A=1", path, "environment"]).worked(), "A=1\n");
    assert_eq!(glowbox(["run", path, "exit", "7"]).status, Some(7));
    glowbox(["run", "--scratch", "1M:/work", path])
        .failed(125, &["give --scratch with a place to `glowbox snapshot`"]);
    glowbox(["call", path, "add"]).failed(126, &["run it, with `glowbox run`"]);
    let warm = ["snapshot", program("shelled"), "--warm", "x", "-o", path];
    glowbox(warm).failed(125, &["no functions for --warm to call"]);
    let other = folder.path().join("other");
    let other = other.to_str().unwrap();
    for (option, value) in [("--env", "A=1"), ("--clock", "real"), ("--clock", "virtual")] {
        for file in [program("shelled"), path] {
            glowbox(["snapshot", option, value, file, "-o", other])
                .failed(125, &[&format!("give {option} to `glowbox run`")]);
        }
    }
    assert!(!std::path::Path::new(other).exists());
}

#[test]
fn how_much_room_a_snapshots_program_has_to_write_is_the_callers_to_say() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("program");
    let path = path.to_str().unwrap();
    glowbox(["snapshot", "--scratch", "1M:/work", program("shelled"), "-o", path]).worked();
    let write = ["write", "/work/a", "x"];
    let run = |options: &[&str]| glowbox([&["run"], options, &[path], &write].concat());
    for options in [&[][..], &["--scratch", "512K"]] {
        run(options).failed(126, &["`scratch limit` is 1048576 bytes", "say so with --scratch"]);
    }
    assert_eq!(run(&["--scratch", "1M"]).worked(), "x\n");
}

#[test]
fn a_guest_with_the_standard_library_can_be_called_and_warmed_up() {
    if !can_run() {
        return;
    }
    let ended = glowbox(["call", program("hello-std"), "greet", "\"World\""]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(ended.out.starts_with("\"Hello, World, from process "), "{}", ended.out);
    assert_eq!(ended.err, "guest: greeting World\n");
    let folder = folder();
    let path = folder.path().join("warm");
    let path = path.to_str().unwrap();
    let warm = ["--warm", "greet \"you\"", "--log", "off"];
    glowbox([&["snapshot", program("hello-std"), "-o", path], &warm[..]].concat()).worked();
    let ended = glowbox(["call", "--log", "off", path, "greet", "\"World\""]);
    assert!(ended.worked().contains("Hello, World"));
}

#[test]
fn busybox_runs() {
    let busybox = "/usr/bin/busybox";
    let inspected = glowbox(["inspect", busybox]);
    if !can_run() || !inspected.out.contains("a static Linux program") {
        return eprintln!("left out: there is no static {busybox}, or guests can't run");
    }
    let sum = glowbox(["run", busybox, "sh", "-c", "echo $((6 * 7)); exit 5"]);
    assert_eq!((sum.status, sum.out.as_str()), (Some(5), "42\n"));
}
