//! What guests run on: what is asked for, or a hypervisor, or a process with a warning.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{
    Ended, GLOWBOX, HIDE_DEVICES, VARIABLE, file, folder, glowbox, guest, program, with_mounts,
};

/// What the command says where it falls back.
const WARNING: &str = "glowbox: warning: /dev/kvm does not exist";

/// Runs the command where there is no /dev/kvm; `variables` are assignments for its environment.
fn hidden(variables: &str, arguments: &str) -> Option<Ended> {
    with_mounts(HIDE_DEVICES, &format!("{variables} exec {GLOWBOX} {arguments}"))
}

fn warnings(ended: &Ended) -> usize {
    ended.err.matches("warning:").count()
}

#[test]
fn without_a_hypervisor_guests_run_in_processes_after_one_warning() {
    let Some(ended) = hidden("", &format!("call {} add 1 2", guest("command"))) else { return };
    assert_eq!((ended.status, ended.out.as_str()), (Some(0), "3\n"), "{}", ended.err);
    assert!(ended.err.starts_with(WARNING) && warnings(&ended) == 1, "{}", ended.err);
    for words in
        ["kvm_intel", "isolate them less", "SECURITY.md", "--backend process", "--backend kvm"]
    {
        assert!(ended.err.contains(words), "no {words} in {}", ended.err);
    }
    assert!(!ended.err.contains("EngineBuilder"), "{}", ended.err);

    let ended = hidden("", &format!("run {} exit 7", program("shelled"))).unwrap();
    assert_eq!(
        (ended.status, ended.out.as_str(), warnings(&ended)),
        (Some(7), "", 1),
        "{}",
        ended.err
    );

    let folder = folder();
    let path = file(&folder, "warm", b"");
    let path = path.to_str().unwrap();
    let taken = hidden("", &format!("snapshot {} -o {path}", guest("command"))).unwrap();
    assert_eq!(
        (taken.status, taken.out.as_str(), warnings(&taken)),
        (Some(0), "", 1),
        "{}",
        taken.err
    );
    let ended = hidden("", &format!("call {path} add 3 4")).unwrap();
    assert_eq!((ended.out.as_str(), warnings(&ended)), ("7\n", 1), "{}", ended.err);
}

#[test]
fn what_is_asked_for_is_used_without_a_warning() {
    let call = format!("{} add 1 2", guest("command"));
    let variable = format!("{VARIABLE}=process");
    let Some(ended) = hidden(&variable, &format!("call {call}")) else { return };
    assert_eq!(ended.worked(), "3\n");
    assert_eq!(hidden("", &format!("call --backend process {call}")).unwrap().worked(), "3\n");
    // The option comes before the variable.
    let both = hidden(&format!("{VARIABLE}=kvm"), &format!("call --backend process {call}"));
    assert_eq!(both.unwrap().worked(), "3\n");
    // An empty variable asks for nothing.
    let ended = hidden(&format!("{VARIABLE}="), &format!("call {call}")).unwrap();
    assert_eq!((ended.out.as_str(), warnings(&ended)), ("3\n", 1), "{}", ended.err);
}

#[test]
fn a_hypervisor_that_is_asked_for_is_not_replaced() {
    let call = format!("{} add 1 2", guest("command"));
    let words = ["/dev/kvm does not exist", "`--backend process`", "GLOWBOX_BACKEND=process"];
    let Some(ended) = hidden(&format!("{VARIABLE}=kvm"), &format!("call {call}")) else { return };
    assert!(!ended.failed(125, &words).contains("warning"));
    let ended = hidden("", &format!("call --backend kvm {call}")).unwrap();
    assert!(!ended.failed(125, &words).contains("warning"));
}

#[test]
fn what_is_wrong_with_a_file_is_said_before_anything_about_backends() {
    let Some(ended) = hidden("", "run /nonexistent") else { return };
    assert!(!ended.failed(127, &["No such file"]).contains("warning"));
    let ended = hidden("", "call /nonexistent add").unwrap();
    assert!(!ended.failed(127, &["No such file"]).contains("warning"));
}

#[test]
fn a_backend_that_does_not_exist_is_refused_with_those_that_do() {
    for verb in ["call", "run", "snapshot"] {
        glowbox([verb, "--backend", "xen", "x"])
            .failed(125, &["'xen'", "possible values: ", "kvm", "process"]);
    }
    let mut command = std::process::Command::new(GLOWBOX);
    let ended = support::run(
        command.args(["call", guest("command"), "add", "1", "2"]).env(VARIABLE, "xen"),
    );
    ended.failed(125, &["no backend `xen`", "kvm", "process"]);
}
