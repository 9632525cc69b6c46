//! A test program whose tests stand in topics, and which says at its end how many it left out.
//!
//! A topic is a module that declares its tests with `tests!`. Where no backend can be used the program
//! leaves all tests out and says why; a test that lacks something else leaves itself out. With `GLOWBOX_BACKEND`
//! in the environment they run on that backend, whose `Caps` say what it can't do.

use std::io::Write;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

use glowbox::Engine;
use glowbox_machine::{Caps, VARIABLE};
use libtest_mimic::{Arguments, Trial};

/// Declares a module's tests: each function becomes one, and `TESTS` lists them.
macro_rules! tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$meta])* fn $name() $body)*
        pub(crate) const TESTS: &[$crate::topics::Test] = &[$((stringify!($name), $name)),*];
    };
}

/// Whether the backend lacks what [`glowbox_machine::Caps`] names so; then the test is left out, and says so.
#[allow(unused_macros, reason = "not every program has such tests")]
macro_rules! lacks {
    ($capability:ident) => {
        $crate::topics::lacks(stringify!($capability), |caps| caps.$capability)
    };
}

/// See the macro.
#[allow(dead_code, reason = "not every program has such tests")]
pub(crate) fn lacks(name: &str, has: fn(&Caps) -> bool) -> bool {
    let engine = Engine::shared().expect("an engine");
    let lacks = !has(&engine.caps());
    if lacks {
        leave_out(&format!("Caps of the backend {}: no `{name}`", engine.backend()));
    }
    lacks
}

/// A test's name and what it runs.
pub(crate) type Test = (&'static str, fn());

/// A topic's name and its tests.
pub(crate) type Topic = (&'static str, &'static [Test]);

/// How many tests found that they can't run here.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// Says that a test can't run here, and counts it.
pub(crate) fn leave_out(reason: &str) {
    // In one piece: another test may print at the same time.
    let line = format!("left out: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
}

/// The tests of all topics, as `topic::name`.
pub(crate) fn trials(topics: &[Topic]) -> Vec<Trial> {
    let trial = |topic: &str, (name, test): Test| {
        Trial::test(format!("{topic}::{name}"), move || {
            test();
            Ok(())
        })
    };
    topics.iter().flat_map(|(topic, tests)| tests.iter().map(|test| trial(topic, *test))).collect()
}

/// Where there is no hypervisor and nothing says what to use, the tests use processes: they run once more, in
/// a process whose environment says so. Returns how that ended.
fn without_hypervisor() -> Option<ExitCode> {
    let mut told = None;
    let engine = Engine::builder().build_with_fallback(|missing| told = Some(missing.to_string()));
    let (engine, missing) = engine.ok().zip(told)?;
    eprintln!("warning: {missing}. So do the guests of these tests.");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, engine.backend().name())
        .status()
        .expect("this program runs");
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests: what `main` does. `prepare` comes before the first of them, so that no test's time
/// includes it; `what` is part of the sentence "n of m tests ... on this backend were left out".
pub(crate) fn run(trials: Vec<Trial>, what: &str, prepare: impl FnOnce()) -> ExitCode {
    let arguments = Arguments::from_args();
    if let Some(ended) = without_hypervisor() {
        return ended;
    }
    let engine = Engine::shared();
    let reason = engine.as_ref().err();
    let count = trials.len();
    let ignored = reason.is_some();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    if !ignored && !arguments.list {
        prepare();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(reason) = reason {
        eprintln!("These tests need a backend and were left out: {reason}");
    }
    let left_out = if ignored { count } else { LEFT_OUT.load(Ordering::Relaxed) };
    let on = engine.map(|engine| format!(" on {}", engine.backend())).unwrap_or_default();
    println!("{left_out} of {count} tests {what}{on} were left out");
    conclusion.exit_code()
}

/// Runs `test`, which is the whole of the test `name`, in a process of its own, for what concerns all of a
/// process. Returns what that has printed, or nothing in that process itself.
#[allow(dead_code, reason = "not every program has such tests")]
pub(crate) fn in_own_process(name: &str, test: impl FnOnce()) -> Option<String> {
    let variable = "GLOWBOX_TEST_OWN_PROCESS";
    if std::env::var_os(variable).is_some() {
        test();
        return None;
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--test-threads", "1"])
        .env(variable, "1")
        .output()
        .expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "no test `{name}` ran:\n{text}");
    errors.lines().filter_map(|line| line.strip_prefix("left out: ")).for_each(leave_out);
    Some(text.into_owned())
}
