//! `glowbox call`: values there and back, and every way in which a call ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::{Ended, GLOWBOX, can_run, command, file, folder, glowbox, guest};

fn call(arguments: &[&str]) -> Ended {
    glowbox([&["call", guest("command")], arguments].concat())
}

#[test]
fn values_of_every_kind_go_there_and_come_back() {
    if !can_run() {
        return;
    }
    let integers = "[255,-128,65535,-32768,4294967295,-2147483648,18446744073709551615,\
                    -9223372036854775808,340282366920938463463374607431768211455,\
                    -170141183460469231731687303715884105728,18446744073709551615,-1]";
    for (arguments, result) in [
        (&["add", "2", "-3"][..], "-1"),
        (&["greet", "\"World\""], "\"Hello, World!\""),
        (&["greet", "\"\\u001b[31m\""], r#""Hello, \u001b[31m!""#),
        (&["nothing"], "null"),
        (&["integers", integers], integers),
        (&["floats", "0.1", "1e300"], "[0.1,1e300]"),
        (&["floats", "\"-Infinity\"", "\"NaN\""], r#"["-Infinity","NaN"]"#),
        (
            &["nested", r#"{"b": [null, [true, "ß"]], "a": []}"#],
            r#"{"a":[],"b":[null,[true,"ß"]]}"#,
        ),
        (&["echo", "[0, 255, 7]"], "[0,255,7]"),
        (
            &["others", r#"{"7": [1, -1]}"#, "[[[1, 2], null]]", r#"["b", "a"]"#],
            r#"[{"7":[1,-1]},[[[1,2],null]],["a","b"]]"#,
        ),
        (
            &["outcome", r#"{"Err": "no"}"#, r#"{"secs": 1, "nanos": 5}"#],
            r#"[{"secs":1,"nanos":5},null]"#,
        ),
        (&["divide", "7", "2"], "3"),
    ] {
        assert_eq!(call(arguments).worked(), format!("{result}\n"), "{arguments:?}");
    }
}

#[test]
fn arguments_may_stand_in_files_and_come_from_standard_input() {
    if !can_run() {
        return;
    }
    let folder = folder();
    let large = format!("[{}]", vec!["7"; 300_000].join(","));
    let path = file(&folder, "data.json", large.as_bytes());
    let argument = format!("@{}", path.display());
    assert_eq!(call(&["echo", &argument]).worked(), format!("{large}\n"));
    let mut child = command(GLOWBOX)
        .args(["call", guest("command"), "greet", "@-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\n \"pipe\" \n").unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!(ended.worked(), "\"Hello, pipe!\"\n");
    call(&["greet", "@/nonexistent"])
        .failed(125, &["`@/nonexistent` can't be read", "No such file"]);
}

#[test]
fn an_error_that_the_guest_returns_is_status_1_on_standard_error() {
    if can_run() {
        let error = call(&["divide", "1", "0"]).failed(1, &["division by zero"]);
        assert!(error.starts_with("glowbox: guest function `divide` returned an error"), "{error}");
    }
}

#[test]
fn what_is_no_json_or_of_another_type_is_refused_with_the_parameter() {
    if !can_run() {
        return;
    }
    call(&["add", "1", "two"]).failed(125, &["argument 2 of `add`, `b: i32`: expected", "column"]);
    call(&["add", "1", "\"2\""])
        .failed(125, &["`b: i32`", "invalid type: string \"2\", expected i32"]);
    call(&["add", "1", "4294967296"]).failed(125, &["invalid value: integer `4294967296`"]);
    call(&["add", "1"]).failed(125, &["`add(a: i32, b: i32) -> i32` takes 2 arguments, not 1"]);
    call(&["nothing", "1"]).failed(125, &["`nothing()` takes no argument, not 1"]);
    call(&["greet", "World"]).failed(125, &["a text is JSON too: '\"World\"'"]);
    call(&["nested", r#"{"a": [[1, "x"]]}"#]).failed(125, &["expected a boolean"]);
}

#[test]
fn a_function_that_is_not_there_is_refused_with_those_that_are() {
    if can_run() {
        call(&["subtract", "1", "2"]).failed(125, &["has no function `subtract`", "add, allocate"]);
    }
}

#[test]
fn a_type_that_only_has_a_name_is_refused_by_that_name() {
    if !can_run() {
        return;
    }
    let order = r#"{"item": "tea", "count": 1}"#;
    call(&["total", order])
        .failed(125, &["`order: Order`, can't be given", "glowbox::Sandbox::call"]);
    call(&["make", "\"tea\""]).failed(125, &["the result of `make`, `Order`, can't be shown"]);
}

#[test]
fn a_guest_that_asks_for_functions_of_its_host_is_refused() {
    let words = ["asks for functions of its host, `weekday() -> String`", "glowbox new"];
    glowbox(["call", guest("hello"), "greet", "\"World\""]).failed(126, &words);
}

#[test]
fn a_guest_that_is_ended_has_the_status_of_a_process_that_is() {
    if !can_run() {
        return;
    }
    call(&["fail", "\"it broke\""]).failed(134, &["the guest panicked at ", "it broke"]);
    call(&["read_null"]).failed(139, &["the guest faulted"]);
    let error = call(&["--memory", "1M", "allocate", "2000000"]);
    error.failed(137, &["exhausted its heap", "1048576 bytes in all; see --memory"]);
    assert_eq!(call(&["--memory", "4M", "allocate", "2000000"]).worked(), "2000000\n");
}

#[test]
fn the_deadline_is_status_124() {
    if can_run() {
        let ended = call(&["--timeout", "100ms", "--log", "off", "spin"]);
        ended.failed(124, &["deadline of 100ms passed; see --timeout"]);
    }
}

#[test]
fn messages_that_are_too_large_name_the_option() {
    if can_run() {
        let data = format!("\"{}\"", "x".repeat(5000));
        let ended = call(&["--message-size", "4K", "greet", &data]);
        ended.failed(125, &["take 5002 bytes", "see --message-size"]);
        assert_eq!(call(&["--message-size", "16K", "greet", &data]).worked().len(), 5011);
    }
}

#[test]
fn what_the_guest_says_goes_to_standard_error_and_cannot_mislead() {
    if !can_run() {
        return;
    }
    let hostile = r#""\u001b[2Ja\nglowbox: b\u202ec""#;
    let error = call(&["--log", "debug", "say", hostile]).failed(1, &[]);
    let expected = r"guest: \u{1b}[2Ja\nglowbox: b\u{202e}c
guest: warn command: \u{1b}[2Ja\nglowbox: b\u{202e}c
guest: debug command: \u{1b}[2Ja\nglowbox: b\u{202e}c
";
    assert_eq!(&error[..expected.len().min(error.len())], expected);
    let last = &error[expected.len()..];
    assert!(last.lines().skip(1).all(|line| line.starts_with("  ")), "{last}");
    assert!(!error.contains('\x1b') && !error.contains('\u{202e}'));
    let levels =
        |level| call(&["--log", level, "say", "\"x\""]).failed(1, &[]).matches("guest: ").count();
    assert_eq!([levels("off"), levels("warn"), levels("info"), levels("trace")], [0, 1, 2, 3]);
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    if !can_run() {
        return;
    }
    let roll = |options: &[&str]| call(&[options, &["roll"]].concat()).worked();
    assert_eq!(roll(&["--seed", "7"]), roll(&["--seed", "7"]));
    assert_ne!(roll(&["--seed", "7"]), roll(&["--seed", "8"]));
    assert_ne!(roll(&[]), roll(&[]));
}

#[test]
fn statistics_go_to_standard_error() {
    if !can_run() {
        return;
    }
    let ended = call(&["--stats", "--json", "add", "1", "2"]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(0), "3\n"));
    let stats: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(stats["calls"], 1);
    assert!(stats["guest_time_us"].as_u64().unwrap() > 0);
    let ended = call(&["--stats", "fail", "\"x\""]);
    assert!(ended.err.contains("in the guest, entered"), "{}", ended.err);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (option, value, words) in [
        ("--memory", "lots", &["expected a size such as"][..]),
        ("--memory", "5000", &["--memory is 5000 bytes, but it must be a multiple of 4096"]),
        ("--timeout", "0", &["not zero"]),
        ("--timeout", "soon", &["expected a time such as"]),
        ("--log", "loud", &["possible values"]),
        ("--seed", "x", &["invalid digit"]),
    ] {
        let needs_kvm = value == "5000";
        if !needs_kvm || can_run() {
            call(&[option, value, "add", "1", "2"]).failed(125, words);
        }
    }
    glowbox(["call"]).failed(125, &["required arguments were not provided"]);
    glowbox(["frobnicate"]).failed(125, &["unrecognized subcommand"]);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    if !can_run() {
        return;
    }
    let script = format!("{GLOWBOX} call {} add 1 2 2>&1 >&3 3>&- | cat", guest("command"));
    let output = Command::new("bash").args(["-c", &format!("exec 3>/dev/full; {script}")]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("standard output can't be written to"), "{text}");
    let pipe = format!("{GLOWBOX} inspect {} | true; echo ${{PIPESTATUS[0]}}", guest("command"));
    let output = Command::new("bash").args(["-c", &pipe]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
