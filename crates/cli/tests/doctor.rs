//! `glowbox doctor`: on this machine, and on one without KVM.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{
    Ended, GLOWBOX, HIDE_DEVICES, VARIABLE, for_everybody, glowbox, guest, run, with_mounts,
};

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
        if ended.status == Some(0) { "Guests can run here" } else { "Guests can't run here" };
    assert!(text.contains(verdict), "{text}");
}

fn hidden(setup: &str, arguments: &str) -> Option<Ended> {
    with_mounts(setup, &format!("exec {GLOWBOX} {arguments}"))
}

#[test]
fn without_the_device_it_says_what_runs_guests_and_what_to_do() {
    let Some(ended) = hidden(HIDE_DEVICES, "doctor --json") else { return };
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""));
    let report = json(&ended);
    assert_eq!(report["guests_can_run"], true);
    assert_eq!((&report["backend"], &report["is_default"]), (&"process".into(), &false.into()));
    for subject in ["/dev/kvm", "KVM", "backend kvm", "the default"] {
        assert_eq!(mark(&report, subject), "warn");
    }
    assert_eq!((mark(&report, "backend process"), mark(&report, "a guest")), ("ok", "ok"));
    let text = hidden(HIDE_DEVICES, "doctor").unwrap().out;
    for words in [
        "warn  KVM: not there",
        "`kvm_intel`",
        "GLOWBOX_BACKEND=process",
        "runs on process",
        "Guests can run here, in processes; not in virtual machines.",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

#[test]
fn with_neither_a_device_nor_processes_it_says_what_to_do() {
    let hide = format!("{HIDE_DEVICES} && mount -t tmpfs none /proc");
    let Some(ended) = hidden(&hide, "doctor --json") else { return };
    assert_eq!(ended.status, Some(1));
    let report = json(&ended);
    assert_eq!((&report["guests_can_run"], &report["backend"]), (&false.into(), &Value::Null));
    for subject in ["/dev/kvm", "KVM", "backend kvm", "backend process", "a guest"] {
        assert_eq!(mark(&report, subject), "fail");
    }
    assert!(ended.out.contains("mount /proc"), "{}", ended.out);
    let call = format!("call {} add 1 2", guest("command"));
    let ended = hidden(&hide, &call).unwrap();
    let error = ended.failed(125, &["/dev/kvm does not exist", "kvm_intel", "But here they can't"]);
    assert!(!error.contains("warning"), "{error}");
}

#[test]
fn it_looks_at_what_the_variable_names() {
    let doctor = |backend: &str| {
        run(Command::new(GLOWBOX).args(["doctor", "--json"]).env(VARIABLE, backend))
    };
    let ended = doctor("process");
    let report = json(&ended);
    if mark(&report, "backend process") == "ok" {
        assert_eq!((ended.status, mark(&report, "a guest")), (Some(0), "ok"));
        assert_eq!((&report["backend"], &report["is_default"]), (&"process".into(), &true.into()));
    }
    let ended = doctor("xen");
    let report = json(&ended);
    assert_eq!((ended.status, &report["backend"]), (Some(1), &Value::Null));
    assert_eq!((mark(&report, "the default"), mark(&report, "a guest")), ("fail", "fail"));
    if let Some(ended) =
        with_mounts(HIDE_DEVICES, &format!("{VARIABLE}=kvm {GLOWBOX} doctor --json"))
    {
        assert_eq!((ended.status, mark(&json(&ended), "KVM")), (Some(1), "fail"));
    }
}

#[test]
fn a_device_that_no_group_may_open_needs_another_mode() {
    let (_folder, copies) = for_everybody(&[GLOWBOX]);
    let shown = |mode: &str, owner: &str| {
        let setup = format!(
            "mount -t tmpfs none /dev && mknod /dev/kvm c 10 232 && chmod {mode} /dev/kvm && chown \
             {owner} /dev/kvm"
        );
        let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        with_mounts(&setup, &format!("{VARIABLE}=kvm exec {nobody} {} doctor", copies[0].display()))
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
    // /dev/kvm may not be there, and /dev/null is the device that a stand-in would be.
    let replace = "mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 1 3";
    let Some(ended) = with_mounts(replace, &format!("{VARIABLE}=kvm exec {GLOWBOX} doctor --json"))
    else {
        return;
    };
    assert_eq!(ended.status, Some(1));
    assert_eq!(mark(&json(&ended), "KVM interface"), "fail");
    assert_eq!(mark(&json(&ended), "a guest"), "fail");
    // No hypervisor, so that there is something else to run guests.
    let report = json(&hidden(replace, "doctor --json").unwrap());
    assert_eq!((mark(&report, "KVM interface"), &report["backend"]), ("warn", &"process".into()));
}

#[test]
fn a_low_limit_of_files_warns() {
    let script = format!("ulimit -n 256; exec {GLOWBOX} doctor --json");
    let ended = run(Command::new("sh").args(["-c", &script]));
    assert_eq!(mark(&json(&ended), "open files"), "warn");
}
