//! What came of a run, read from what the machine printed.
//!
//! Tests print what they like, also in the middle of a line, so nothing is believed but what stands
//! where the harnesses and the script put it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::svm::{BOOTED, MARK};

/// What a program came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// The status that it ended with, if it ended.
    pub(crate) status: Option<i32>,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Left out while they ran, as the program counts them.
    pub(crate) left_out: u64,
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) failures: Vec<String>,
    /// What the program counted: cases of attacks by class, and the instructions that they executed.
    tried: Vec<String>,
    /// When it started, and how long it took.
    start: Duration,
    pub(crate) took: Duration,
    /// The test that it started last.
    last: String,
}

/// The outcomes, as they become known line by line.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) programs: Vec<Outcome>,
    running: bool,
    listing: bool,
    pub(crate) done: bool,
    broken: Option<String>,
}

impl Report {
    /// Takes the next line, printed so long after the start.
    pub(crate) fn line(&mut self, line: &str, at: Duration) {
        if let Some(mark) = line.strip_prefix(MARK) {
            return self.mark(mark, at);
        }
        let Some(program) = self.programs.last_mut().filter(|_| self.running) else { return };
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            program.last = name.0.trim().into();
        }
        if let Some((_, reason)) = line.split_once("left out: ").filter(|(before, _)| {
            before.is_empty() || before.starts_with("test ") && before.trim_end().ends_with("...")
        }) {
            *program.reasons.entry(reason.into()).or_default() += 1;
        }
        if ["tried: ", "executed at least: "].iter().any(|what| line.starts_with(what)) {
            program.tried.push(line.into());
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what| number_before(counts, what).unwrap_or_default();
            // The last such line is the program's own; a test may quote another's.
            program.passed = count(" passed");
            program.failed = count(" failed");
            program.ignored = count(" ignored");
        }
        if line.ends_with(" were left out") {
            program.left_out =
                line.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        }
        self.failures(line);
    }

    /// A list of names comes after the word, at the end of a run.
    fn failures(&mut self, line: &str) {
        let Some(program) = self.programs.last_mut() else { return };
        if line == "failures:" {
            self.listing = true;
            program.failures.clear();
        } else if let Some(name) = line.strip_prefix("    ").filter(|_| self.listing) {
            if !name.contains(' ') {
                program.failures.push(name.into());
            }
        } else if !line.is_empty() {
            self.listing = false;
        }
    }

    fn mark(&mut self, mark: &str, at: Duration) {
        let (what, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        self.listing = false;
        match what {
            "start" => {
                self.running = true;
                self.programs.push(Outcome { name: rest.into(), start: at, ..Outcome::default() });
            }
            "end" => {
                self.running = false;
                let status = rest.rsplit(' ').next().and_then(|status| status.parse().ok());
                if let Some(program) = self.programs.last_mut() {
                    program.status = status;
                    program.took = at.saturating_sub(program.start);
                    if program.reasons.values().sum::<u64>() > program.left_out {
                        program.left_out = program.reasons.values().sum();
                    }
                }
            }
            "done" => self.done = true,
            "broken" => self.broken = Some(rest.into()),
            _ => {}
        }
    }

    /// The test that runs, or ran last.
    pub(crate) fn last(&self) -> String {
        let last = self.programs.last();
        last.map_or("no program".into(), |last| format!("{}, test `{}`", last.name, last.last))
    }

    /// All that is wrong, of what the programs and the script say.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.broken.iter().cloned().collect();
        for program in &self.programs {
            match program.status {
                None => faults.push(format!("{} did not end: {}", program.name, self.last())),
                Some(0) if program.failed == 0 => {}
                Some(status) => faults.push(format!("{} ended with status {status}", program.name)),
            }
        }
        if !self.done {
            faults.push("the machine did not get to its end".into());
        } else if self.programs.iter().all(|program| program.passed == 0) {
            faults.push("no test ran".into());
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for program in &self.programs {
            writeln!(
                f,
                "{}: {} passed, {} failed, {} left out, {:.0} s",
                program.name,
                program.passed,
                program.failed,
                program.left_out + program.ignored,
                program.took.as_secs_f64()
            )?;
            let failures = program.failures.iter().map(|name| format!("failed: {name}"));
            let reasons = program.reasons.iter();
            let reasons = reasons.map(|(reason, count)| format!("left out: {reason} ({count})"));
            let lines = failures.chain(reasons).chain(program.tried.iter().cloned());
            lines.into_iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        let sum = |of: fn(&Outcome) -> u64| self.programs.iter().map(of).sum::<u64>();
        let (passed, failed) = (sum(|program| program.passed), sum(|program| program.failed));
        let left_out = sum(|program| program.left_out + program.ignored);
        write!(f, "in all: {passed} passed, {failed} failed, {left_out} left out")
    }
}

/// The number that stands before a word.
fn number_before(text: &str, word: &str) -> Option<u64> {
    text[..text.find(word)?].rsplit(' ').next()?.parse().ok()
}

/// The lines in which a kernel complains of itself, once it has started: while it does, it warns of what
/// the processor is vulnerable to.
pub(crate) fn complaints(kernel: &str) -> Vec<&str> {
    const COMPLAINTS: [&str; 10] = [
        "WARNING:",
        "BUG:",
        "kernel BUG at",
        "Oops:",
        "Kernel panic",
        "general protection fault, ",
        "self-detected stall",
        "detected stalls",
        "blocked for more than",
        "Out of memory: Killed",
    ];
    let complains = |line: &&str| COMPLAINTS.iter().any(|words| line.contains(words));
    // One that did not get so far may say why.
    let kernel = kernel.split_once(&format!("{MARK}{BOOTED}")).map_or(kernel, |(_, then)| then);
    kernel.lines().map(str::trim_end).filter(complains).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        for (second, line) in (0..).zip(text.lines()) {
            report.line(line, Duration::from_secs(second));
        }
        report
    }

    const GOOD: &str = "\
@@svm start glowbox/suite
running 3 tests
test a::b    ... left out: this CPU has no umip
ok
test a::c    ... ok
left out: no swap
tried: opcodes: 512
executed at least: 700 instructions
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.00s
2 of 296 tests of the library on kvm were left out

@@svm end glowbox/suite 0
@@svm done";

    #[test]
    fn a_good_run_has_no_faults_and_its_counts() {
        let report = report(GOOD);
        assert_eq!(report.faults(), [""; 0]);
        let text = report.to_string();
        assert!(
            text.starts_with("glowbox/suite: 3 passed, 0 failed, 3 left out, 11 s\n"),
            "{text}"
        );
        for line in [
            "left out: this CPU has no umip (1)",
            "left out: no swap (1)",
            "tried: opcodes: 512",
            "executed at least: 700 instructions",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_failure_is_named_and_only_the_last_result_counts() {
        let text = "\
@@svm start a/b
test x ... test result: ok. 9 passed; 0 failed
test result: FAILED. 7 passed; 1 failed; 0 ignored
failures:

---- x ----
    at some place

failures:
    x
    a::y

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
@@svm end a/b 101
@@svm done";
        let report = report(text);
        let outcome = &report.programs[0];
        assert_eq!((outcome.passed, outcome.failed), (1, 2));
        assert_eq!(outcome.failures, ["x", "a::y"]);
        assert_eq!(report.faults(), ["a/b ended with status 101"]);
    }

    #[test]
    fn what_does_not_end_is_a_fault_that_names_the_test() {
        let report = report("@@svm start a/b\ntest good ... ok\ntest bad::one    ... ");
        let faults = report.faults().join("\n");
        assert!(faults.contains("a/b did not end") && faults.contains("`bad::one`"), "{faults}");
        assert!(faults.contains("did not get to its end"), "{faults}");
    }

    #[test]
    fn a_status_without_a_failed_test_and_a_run_of_no_test_are_faults() {
        let crashed = report(&GOOD.replace("suite 0", "suite 139"));
        assert_eq!(crashed.faults(), ["glowbox/suite ended with status 139"]);
        assert_eq!(report(&GOOD.replace("3 passed", "0 passed")).faults(), ["no test ran"]);
        let broken = report("@@svm broken there is no /dev/kvm");
        assert!(broken.faults()[0].contains("/dev/kvm"));
    }

    #[test]
    fn a_kernel_that_complains_is_heard() {
        let log = "[1.0] Run /init as init process\n[2.0] WARNING: CPU: 0 PID: 3 at x.c\r\n\
                   [3.0] traps: suite[9] trap invalid opcode\n[4.0] BUG: unable to handle page fault";
        let found = complaints(log);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "[2.0] WARNING: CPU: 0 PID: 3 at x.c");
    }

    #[test]
    fn what_it_says_while_it_starts_is_no_complaint() {
        let boot =
            "[0.3] Speculative Return Stack Overflow: WARNING: See https://kernel.org/x.html";
        let log = format!("{boot}\r\n[1.0] @@svm booted\r\n[2.0] WARNING: CPU: 0 PID: 3 at x.c");
        assert_eq!(complaints(&log), ["[2.0] WARNING: CPU: 0 PID: 3 at x.c"]);
        assert_eq!(complaints(boot), [boot]);
    }
}
