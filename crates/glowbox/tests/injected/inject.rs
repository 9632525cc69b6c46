//! Injects faults: the child's side, which tries something again and again, and the tracer's, which makes
//! a system call of each attempt fail.
//!
//! First an attempt without a fault says which calls it makes. Then, for each of these and each way in
//! which it can fail, there is one with that fault; and after it, in the same process, one without,
//! which must give right answers, while a bystander does too and nothing is left behind.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use glowbox::{Error, ErrorKind};

use crate::calls::{Fault, Kind, Made};
use crate::channel::{Channel, SIGNAL, Said};
use crate::level::Level;
use crate::ptrace::change::{set_options, set_registers, to_next_signal};
use crate::ptrace::{be_traced, registers, to_next_system_call, wait};
use crate::support::{leave_out, sandbox};

/// Seconds for one attempt, with what follows it, until it counts as hanging. Emulated machines are slow.
const PATIENCE: libc::c_uint = 120;
/// Of calls of one kind in one attempt, so many have each fault; those that follow have one each, by turns.
const FULL: usize = 2;
/// And those that follow this many have none: a process of a guest's is waited for in each of its system calls.
const MOST: usize = 100;

/// Faults that have been injected, by call and fault.
static INJECTED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
/// Calls that have no fault to inject.
static LEFT_ALONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Counts faults that have been injected.
pub(crate) fn injected(what: String, times: u64) {
    *INJECTED.lock().unwrap().entry(what).or_default() += times;
}

/// Prints how many faults of each kind have been injected.
pub(crate) fn print_injected() {
    let injected = INJECTED.lock().unwrap();
    for (what, times) in &*injected {
        println!("injected: {what}: {times}");
    }
    println!("injected: {} faults in all", injected.values().sum::<u64>());
    let left_alone: Vec<String> = LEFT_ALONE.lock().unwrap().iter().cloned().collect();
    println!("left alone: {}", left_alone.join(", "));
}

/// By what the number of faults is multiplied where calls repeat: `GLOWBOX_INJECTED`, or 1.
pub(crate) fn factor() -> usize {
    let text = std::env::var("GLOWBOX_INJECTED").ok();
    text.map_or(1, |text| text.parse().expect("GLOWBOX_INJECTED is a number"))
}

/// What is tried.
pub(crate) struct Case<S> {
    /// The kinds of errors that it may end with.
    pub(crate) kinds: &'static [ErrorKind],
    /// The names of the calls that fail; all, if there are none.
    pub(crate) only: &'static [&'static str],
    /// Whether each fault has a process of its own, in which nothing has happened before.
    pub(crate) fresh: bool,
    /// Makes what the attempts work on.
    pub(crate) prepare: fn() -> S,
    /// What is tried. It checks its own answers.
    pub(crate) attempt: fn(&mut S) -> Result<(), Error>,
    /// Makes another attempt possible, if the last one has failed.
    pub(crate) repair: fn(&mut S),
}

/// A fault that is to be injected: to the call of a kind with this number, from 0 on.
#[derive(Clone, Copy)]
struct Plan {
    kind: Kind,
    number: usize,
    fault: Fault,
    /// In how many calls of that kind in a row.
    times: u32,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} number {}: {}", self.kind, self.number, self.fault)?;
        match self.times {
            1 => Ok(()),
            u32::MAX => f.write_str(", for good"),
            times => write!(f, ", {times} times"),
        }
    }
}

/// Runs a case with every fault.
pub(crate) fn inject<S>(case: &Case<S>) {
    // Its own system calls can't be told from the library's. Where only files are used there are none.
    let of_files = case.kinds == [ErrorKind::Io];
    let stands_in = |libraries: String| libraries.contains("mshv_stand_in");
    if !of_files && std::env::var("LD_PRELOAD").is_ok_and(stands_in) {
        return leave_out("the faults would be those of what stands in for the device");
    }
    let mut made = Vec::new();
    let mut failures = Vec::new();
    let mut plans = VecDeque::from([None]);
    run(case, &mut plans, &mut made, &mut failures);
    assert!(failures.is_empty(), "without a fault: {}", failures.join("\n"));
    assert!(!made.is_empty(), "nothing was made");
    plans.extend(plans_for(&made, case.only).into_iter().map(Some));
    let count = plans.len();
    while !plans.is_empty() {
        run(case, &mut plans, &mut made, &mut failures);
    }
    assert!(failures.is_empty(), "{} of {count} faults:\n{}", failures.len(), failures.join("\n"));
}

/// All that can go wrong with these calls.
fn plans_for(made: &[Made], only: &[&str]) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut numbers: BTreeMap<Kind, usize> = BTreeMap::new();
    for kind in made.iter().map(Made::kind) {
        if !only.is_empty() && !only.contains(&&*kind.to_string()) {
            continue;
        }
        let faults = kind.faults();
        if faults.is_empty() {
            LEFT_ALONE.lock().unwrap().insert(kind.to_string());
            continue;
        }
        let number = numbers.entry(kind).or_default();
        for (at, (fault, times)) in faults.iter().copied().enumerate() {
            let plan = Plan { kind, number: *number, fault, times };
            // What must never be seen of KVM_RUN is injected at each.
            let always = kind.is_run() && times == 1 && plan.is_unseen();
            let by_turns = *number < MOST * factor() && at == *number % faults.len();
            let chosen = always || *number < FULL * factor() || by_turns;
            if chosen && (times != u32::MAX || *number == 0) {
                plans.push(plan);
            }
        }
        *number += 1;
    }
    // What a process remembers comes last.
    plans.sort_by_key(|plan| plan.fault.is_remembered(plan.kind));
    plans
}

/// Kills a child at each system call of an attempt, and looks what it has left behind.
pub(crate) fn kill<S>(case: &Case<S>, look: impl Fn(&str)) {
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    run(case, &mut VecDeque::from([None]), &mut made, &mut failures);
    assert!(failures.is_empty(), "without a fault: {}", failures.join("\n"));
    let mut numbers: BTreeMap<Kind, usize> = BTreeMap::new();
    for kind in made.iter().map(Made::kind) {
        let number = numbers.entry(kind).or_default();
        let plan = Plan { kind, number: *number, fault: Fault::Kill, times: 1 };
        *number += 1;
        let mut ended = Vec::new();
        run(case, &mut VecDeque::from([Some(plan)]), &mut made.clone(), &mut ended);
        assert_eq!(ended, [format!("{plan}: it ended")], "it was not killed");
        injected("SIGKILL while saving".into(), 1);
        look(&plan.to_string());
    }
}

/// Runs one child until it has no plan left, or has had one and wants no more, or fails.
fn run<S>(
    case: &Case<S>,
    plans: &mut VecDeque<Option<Plan>>,
    made: &mut Vec<Made>,
    failures: &mut Vec<String>,
) {
    let channel = Channel::new();
    // SAFETY: the child runs test code and leaves by `_exit`, without unwinding into the parent's.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => child(case, &channel),
        child => {
            let mut tracer = Tracer {
                child,
                channel: &channel,
                kinds: case.kinds,
                plan: None,
                seen: 0,
                left: 0,
                hits: 0,
            };
            tracer.trace(plans, made, failures);
        }
    }
}

fn child<S>(case: &Case<S>, channel: &Channel) -> ! {
    be_traced();
    one_heap();
    let result = catch_unwind(AssertUnwindSafe(|| rounds(case, channel)));
    let result = result.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic))));
    if let Err(text) = &result {
        channel.tell(Said::Failed, text);
    }
    // SAFETY: ends the child.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

/// Lets the threads of this process share one heap. Otherwise the C library keeps some, of 64 MiB of address
/// space each, after the threads that needed them; how many depends on how threads happen to meet.
fn one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets an option of the allocator.
        let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        assert_eq!(set, 1, "mallopt");
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a text",
    }
}

fn rounds<S>(case: &Case<S>, channel: &Channel) -> Result<(), String> {
    let clean = |state: &mut S, when| {
        (case.attempt)(state).map_err(|error| format!("{when} it fails: {error:?}"))
    };
    let mut state = (case.prepare)();
    let mut settled = None;
    if !case.fresh {
        // What is opened once a process is no growth, on a backend that does so late either.
        let _ = glowbox_mem::tracking();
        let bystander = sandbox();
        for _ in 0..3 {
            clean(&mut state, "before")?;
        }
        settled = Some((bystander, Level::now()));
    }
    while channel.next() {
        // SAFETY: has a signal sent to this process, which ends it, if it has not ended by then.
        unsafe { libc::alarm(PATIENCE) };
        channel.say(Said::Begin);
        let result = (case.attempt)(&mut state);
        channel.say(Said::End);
        let told = result.err().map_or(String::new(), |error| tell(&error));
        channel.tell(Said::Ended, &told);
        (case.repair)(&mut state);
        clean(&mut state, "afterwards")?;
        let (bystander, level) = settled.get_or_insert_with(|| (sandbox(), Level::now()));
        if case.fresh {
            clean(&mut state, "later")?;
        }
        let sum = bystander.call::<_, u32>("add", (1u32, 2u32));
        if sum.as_ref().ok() != Some(&3) {
            return Err(format!("the bystander says {sum:?}"));
        }
        level.risen()?;
        if case.fresh {
            break;
        }
    }
    Ok(())
}

/// An error's kind, its text, and the texts of its causes.
fn tell(error: &Error) -> String {
    let mut told = format!("{:?}\n{error}", error.kind());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told += &format!("\n{error}");
        cause = error.source();
    }
    told
}

/// The tracer's side of one child.
struct Tracer<'a> {
    child: libc::pid_t,
    channel: &'a Channel,
    kinds: &'static [ErrorKind],
    plan: Option<Plan>,
    /// Calls of the plan's kind that this attempt has made.
    seen: usize,
    /// In how many calls the fault is yet to be injected.
    left: u32,
    /// Where it has been.
    hits: u32,
}

impl Tracer<'_> {
    fn trace(
        &mut self,
        plans: &mut VecDeque<Option<Plan>>,
        made: &mut Vec<Made>,
        failures: &mut Vec<String>,
    ) {
        assert!(libc::WIFSTOPPED(wait(self.child)));
        set_options(self.child);
        let mut signal = 0;
        loop {
            to_next_signal(self.child, signal);
            signal = 0;
            let status = wait(self.child);
            if libc::WIFEXITED(status) {
                return;
            }
            if libc::WIFSIGNALED(status) {
                let by = libc::WTERMSIG(status);
                return self.fail(failures, &format!("it was ended by signal {by}"));
            }
            if libc::WSTOPSIG(status) != SIGNAL {
                // One that was injected does not arrive.
                signal = if libc::WSTOPSIG(status) == INJECTED_SIGNAL {
                    0
                } else {
                    libc::WSTOPSIG(status)
                };
                continue;
            }
            match self.channel.said() {
                Said::Next => {
                    let next = plans.pop_front();
                    self.channel.answer(next.is_some());
                    self.plan = next.flatten();
                }
                Said::Begin => {
                    if !self.watch(made) {
                        return self.fail(failures, "it ended");
                    }
                }
                Said::Ended => self.check(&self.channel.text(), failures),
                Said::Failed => self.fail(failures, &self.channel.text()),
                Said::End => {}
            }
        }
    }

    fn planned(&self) -> String {
        self.plan.map_or("no fault".to_string(), |plan| plan.to_string())
    }

    fn fail(&self, failures: &mut Vec<String>, text: &str) {
        let plan = self.planned();
        failures.push(format!("{plan}: {text}"));
    }

    /// Watches the system calls of an attempt; `false` if it does not come to its end.
    fn watch(&mut self, made: &mut Vec<Made>) -> bool {
        (self.seen, self.hits) = (0, 0);
        self.left = self.plan.map_or(0, |plan| plan.times);
        let (mut entering, mut signal) = (true, 0);
        let mut result = None;
        loop {
            to_next_system_call(self.child, signal);
            signal = 0;
            let status = wait(self.child);
            if !libc::WIFSTOPPED(status) {
                return false;
            }
            match libc::WSTOPSIG(status) {
                stopped if stopped == libc::SIGTRAP | 0x80 => {
                    if entering {
                        result = self.enter(made);
                        if self.is_killed() {
                            wait(self.child);
                            return false;
                        }
                    } else if let Some(error) = result.take() {
                        self.return_error(error);
                    }
                    entering = !entering;
                }
                SIGNAL => {
                    let said = self.channel.said();
                    assert_eq!(said, Said::End, "{}: {}", self.planned(), self.channel.text());
                    return true;
                }
                INJECTED_SIGNAL => {}
                other => signal = other,
            }
        }
    }

    /// Whether it has been sent what ends it, in whatever state it is.
    fn is_killed(&self) -> bool {
        self.hits > 0 && self.plan.is_some_and(|plan| plan.fault == Fault::Kill)
    }

    /// A system call begins. Returns the error with which it is to end.
    fn enter(&mut self, made: &mut Vec<Made>) -> Option<i32> {
        let r = registers(self.child);
        let call = Made {
            number: r.orig_rax.cast_signed(),
            arguments: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9],
        };
        let Some(plan) = self.plan else {
            made.push(call);
            return None;
        };
        if call.kind() != plan.kind || self.left == 0 {
            return None;
        }
        let at = self.seen;
        self.seen += 1;
        if at < plan.number {
            return None;
        }
        self.left -= 1;
        self.hits += 1;
        match plan.fault {
            Fault::Fails(error) => {
                // No call has this number.
                set_registers(self.child, &libc::user_regs_struct { orig_rax: u64::MAX, ..r });
                return Some(error);
            }
            Fault::Signal => send(self.child, INJECTED_SIGNAL),
            Fault::Kill => send(self.child, libc::SIGKILL),
        }
        None
    }

    fn return_error(&self, error: i32) {
        let r = registers(self.child);
        let rax = i64::from(-error).cast_unsigned();
        set_registers(self.child, &libc::user_regs_struct { rax, ..r });
    }

    /// Checks how an attempt has ended.
    fn check(&self, told: &str, failures: &mut Vec<String>) {
        let Some(plan) = self.plan else {
            if !told.is_empty() {
                self.fail(failures, told);
            }
            return;
        };
        if self.hits > 0 {
            injected(format!("{} {}", plan.kind, plan.fault), self.hits.into());
        }
        if told.is_empty() {
            return;
        }
        let mut lines = told.lines();
        let (kind, text) = (lines.next().unwrap(), lines.next().unwrap_or_default());
        if !self.kinds.iter().any(|allowed| format!("{allowed:?}") == kind) {
            return self.fail(failures, &format!("it ended as {told}"));
        }
        if plan.is_unseen() {
            return self.fail(failures, &format!("it was seen: {told}"));
        }
        if let Fault::Fails(error) = plan.fault
            && let Some(missing) = missing(plan.kind, error, kind, text)
        {
            self.fail(failures, &format!("no word of {missing}: {told}"));
        }
    }
}

impl Plan {
    /// Whether nobody who uses the library may notice.
    fn is_unseen(&self) -> bool {
        let again = self.fault == Fault::Fails(libc::EAGAIN);
        self.fault == Fault::Signal || self.kind.is_run() && again
    }
}

/// What the text of an error should say and does not.
fn missing(call: Kind, error: i32, kind: &str, text: &str) -> Option<String> {
    // These say what to do about it, or are of what lies behind it.
    let says_it = ["HypervisorMissing", "HypervisorDenied", "MemoryLost"].contains(&kind);
    // A question that is not answered is taken for a no.
    let lacks = call.asks() && text.contains("lacks");
    if says_it || lacks {
        return None;
    }
    let system = std::io::Error::from_raw_os_error(error).to_string();
    let advice = match error {
        libc::EMFILE | libc::ENFILE => "descriptor",
        libc::ENOMEM => "memory",
        libc::ENOSPC | libc::EDQUOT => "space",
        libc::EFBIG => "limit",
        _ => "",
    };
    let words = call.words();
    let named = words.is_empty() || words.iter().any(|word| text.contains(word));
    match (text.contains(&system), text.contains(advice), named) {
        (false, ..) => Some(format!("`{system}`")),
        (_, false, _) => Some(format!("`{advice}`")),
        (.., false) => Some(format!("{words:?}")),
        _ => None,
    }
}

/// A signal that is ignored unless a program says otherwise.
const INJECTED_SIGNAL: libc::c_int = libc::SIGWINCH;

fn send(child: libc::pid_t, signal: libc::c_int) {
    // SAFETY: sends a signal to the first thread of a child of this process.
    unsafe { libc::syscall(libc::SYS_tgkill, child, child, signal) };
}
