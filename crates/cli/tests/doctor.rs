//! `glowbox doctor`: on this machine, and on one without KVM.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Ended, GLOWBOX, for_everybody, glowbox, guest, is_root, run};

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out))
}

/// The mark of what is said of a subject.
fn mark<'a>(report: &'a Value, subject: &str) -> &'a str {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("nothing on {subject}: {report}"))["mark"].as_str().unwrap()
}

#[test]
fn it_says_whether_guests_run_and_its_status_says_the_same() {
    let ended = glowbox(["doctor", "--json"]);
    let report = json(&ended);
    assert_eq!(report["guests_can_run"].as_bool(), Some(ended.status == Some(0)));
    assert_eq!(ended.err, "");
    assert_eq!(mark(&report, "a guest") == "fail", ended.status == Some(1));
    for subject in [
        "Linux",
        "finding written pages",
        "vm.max_map_count",
        "open files",
        "fsgsbase",
        "virtualisation",
    ] {
        assert_ne!(mark(&report, subject), "fail");
    }
    // What is not well has a word on what to do, in the text too.
    let text = glowbox(["doctor"]).out;
    for finding in report["findings"].as_array().unwrap() {
        let subject = finding["subject"].as_str().unwrap();
        assert!(text.contains(subject), "no {subject} in {text}");
        let is_well = finding["mark"] == "ok";
        let last_word = |advice: &str| advice.split_whitespace().last().map(str::to_string);
        match finding["advice"].as_str().and_then(last_word) {
            Some(word) => assert!(text.contains(&word), "no {word} in {text}"),
            None => assert!(is_well || subject == "a guest" || subject == "/dev/kvm", "{finding}"),
        }
    }
    let verdict =
        if ended.status == Some(0) { "Guests can run here." } else { "Guests can't run here" };
    assert!(text.contains(verdict), "{text}");
}

/// Runs the command after `setup` in mounts of its own; `None` if that is not possible.
fn with_mounts(setup: &str, arguments: &str) -> Option<Ended> {
    if !is_root() {
        return None;
    }
    let script = format!("{setup} || exit 99; exec {GLOWBOX} {arguments}");
    let ended = run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    if matches!(ended.status, Some(99) | Some(1) if ended.err.contains("unshare") || ended.status == Some(99))
    {
        eprintln!("left out: no mounts of its own: {}", ended.err);
        return None;
    }
    Some(ended)
}

#[test]
fn without_the_device_it_says_what_to_do() {
    let hide = "mount -t tmpfs none /dev";
    let Some(ended) = with_mounts(hide, "doctor --json") else { return };
    assert_eq!(ended.status, Some(1));
    let report = json(&ended);
    assert_eq!(report["guests_can_run"], false);
    for subject in ["/dev/kvm", "KVM", "a guest"] {
        assert_eq!(mark(&report, subject), "fail");
    }
    let text = with_mounts(hide, "doctor").unwrap().out;
    assert!(text.contains("FAIL  KVM: not there") && text.contains("`kvm_intel`"), "{text}");
    let call = format!("call {} add 1 2", guest("command"));
    let ended = with_mounts(hide, &call).unwrap();
    ended.failed(125, &["/dev/kvm does not exist", "kvm_intel"]);
}

#[test]
fn a_device_that_no_group_may_open_needs_another_mode() {
    let (_folder, copies) = for_everybody(&[GLOWBOX]);
    let shown = |mode: &str, owner: &str| {
        let script = format!(
            "mount -t tmpfs none /dev && mknod /dev/kvm c 10 232 && chmod {mode} /dev/kvm && chown \
             {owner} /dev/kvm || exit 99; exec setpriv --reuid=65534 --regid=65534 --clear-groups {} \
             doctor",
            copies[0].display()
        );
        with_mounts(&script, "")
    };
    let Some(ended) = shown("600", "0:0") else { return };
    assert_eq!(ended.status, Some(1));
    for words in
        ["FAIL  /dev/kvm: there, mode 0600, user 0, group root: for root only", "chmod 660"]
    {
        assert!(ended.out.contains(words), "no {words} in {}", ended.out);
    }
    // Here joining the group is enough.
    let ended = shown("660", "0:77777").unwrap();
    assert!(ended.out.contains("ok    /dev/kvm: there, mode 0660"), "{}", ended.out);
    assert!(!ended.out.contains("chmod") && ended.out.contains("usermod"), "{}", ended.out);
}

#[test]
fn a_stand_in_for_the_device_is_told_from_it() {
    let replace = "mount --bind /dev/null /dev/kvm";
    let Some(ended) = with_mounts(replace, "doctor --json") else { return };
    assert_eq!(ended.status, Some(1));
    assert_eq!(mark(&json(&ended), "KVM interface"), "fail");
    assert_eq!(mark(&json(&ended), "a guest"), "fail");
}

#[test]
fn a_low_limit_of_files_warns() {
    let script = format!("ulimit -n 256; exec {GLOWBOX} doctor --json");
    let ended = run(Command::new("sh").args(["-c", &script]));
    assert_eq!(mark(&json(&ended), "open files"), "warn");
}
