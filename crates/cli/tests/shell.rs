//! What every verb has in common: help, versions, completions, colours.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use support::{GLOWBOX, glowbox, run};

#[test]
fn completions_know_every_verb_and_are_proper_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let script = glowbox(["completions", shell]).worked();
        for word in
            ["call", "inspect", "snapshot", "new", "doctor", "completions", "memory", "timeout"]
        {
            assert!(script.contains(word), "no {word} in {shell}'s");
        }
    }
    let check = format!("source <({GLOWBOX} completions bash) && complete -p glowbox");
    let ended = run(Command::new("bash").args(["-c", &check]));
    assert!(ended.worked().contains("glowbox"));
    glowbox(["completions", "tcsh"]).failed(125, &["possible values"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = glowbox(["--help"]).worked();
    assert!(help.contains("Exit status:") && help.contains("doctor"), "{help}");
    for verb in ["call", "inspect", "snapshot", "new", "doctor", "completions"] {
        assert!(glowbox([verb, "--help"]).worked().contains("Usage: glowbox"), "{verb}");
    }
    assert!(glowbox(["--version"]).worked().starts_with("glowbox 0."));
}

#[test]
fn colours_are_for_terminals() {
    assert!(!glowbox(["doctor"]).out.contains('\x1b'));
    let has_script = Command::new("script").arg("--version").output();
    if has_script.is_err() {
        return eprintln!("left out: there is no `script` to make a terminal with");
    }
    let on_terminal = |variables: &[(&str, &str)]| {
        let mut command = Command::new("script");
        let doctor = format!("{GLOWBOX} doctor");
        command.args(["-qec", &doctor, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
        run(command.envs(variables.iter().copied())).out
    };
    assert!(on_terminal(&[]).contains("\x1b["));
    assert!(!on_terminal(&[("NO_COLOR", "1")]).contains("\x1b["));
    assert!(!on_terminal(&[("TERM", "dumb")]).contains("\x1b["));
}
