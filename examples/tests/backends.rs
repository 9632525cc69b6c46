//! The examples on a machine without a hypervisor: what README.md says of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An example's program, which cargo has built for this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let folder = test.parent().and_then(Path::parent).expect("the folder of a profile");
    folder.join("examples").join(name)
}

/// Runs an example where there is no /dev/kvm; `None` if that can't be arranged here.
fn hidden(name: &str, backend: Option<&str>) -> Option<Output> {
    let script = "mount -t tmpfs none /dev || exit 99; exec \"$0\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script]).arg(example(name)).env_remove("GLOWBOX_BACKEND");
    backend.map(|backend| unshare.env("GLOWBOX_BACKEND", backend));
    let output = unshare.output().ok().filter(|output| {
        let errors = String::from_utf8_lossy(&output.stderr);
        output.status.code() != Some(99) && !errors.contains("unshare failed")
    });
    if output.is_none() {
        eprintln!("left out: hiding /dev/kvm takes root");
    }
    output
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn without_a_hypervisor_they_run_in_processes_after_one_warning() {
    for (name, words) in [
        ("hello", "Hello, World! Today is Monday."),
        ("untrusted", "multiply 6 by 7        the value 42 [usable]"),
        ("filter", "malformed lines  3333"),
        ("snapshots", "load from a file"),
    ] {
        let Some(output) = hidden(name, None) else { return };
        let (out, errors) = texts(&output);
        assert!(output.status.success() && out.contains(words), "{name}: {out}{errors}");
        assert!(errors.starts_with("warning: /dev/kvm does not exist"), "{errors}");
        assert_eq!(errors.matches("warning: ").count(), 1, "{errors}");
        for words in ["SECURITY.md", "GLOWBOX_BACKEND=process", "GLOWBOX_BACKEND=kvm"] {
            assert!(errors.contains(words), "no {words} in {errors}");
        }
    }
}

#[test]
fn what_the_variable_names_is_used_without_a_warning_or_not_at_all() {
    let Some(output) = hidden("hello", Some("process")) else { return };
    let (out, errors) = texts(&output);
    assert!(output.status.success() && out.starts_with("Hello, World!"), "{out}{errors}");
    assert_eq!(errors, "");
    let (out, errors) = texts(&hidden("hello", Some("kvm")).expect("it was possible before"));
    assert_eq!(out, "");
    assert!(errors.starts_with("Error: HypervisorMissing: /dev/kvm does not exist"), "{errors}");
}
