//! What the tests share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::topics::in_own_process;
pub(crate) use crate::topics::leave_out;

/// Cases that were tried, by the class of the attack.
static TRIED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Instructions that hostile code has executed, at least, by the class of the attack.
static EXECUTED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Counts cases of a class of attack that have been tried.
pub(crate) fn tried(class: &'static str, cases: u64) {
    *TRIED.lock().unwrap().entry(class).or_default() += cases;
}

/// Runs `test` in a process of its own, where nothing else opens files or takes memory; what it has tried
/// counts here.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    let printed = in_own_process(name, test).unwrap_or_default();
    for line in printed.lines().filter_map(|line| line.strip_prefix("tried: ")) {
        let (class, cases) = line.rsplit_once(": ").expect("a class and a number");
        tried(String::from(class).leak(), cases.parse().expect("a number"));
    }
}

/// Counts instructions that have been executed, at least.
pub(crate) fn executed(class: &'static str, instructions: u64) {
    *EXECUTED.lock().unwrap().entry(class).or_default() += instructions;
}

/// Prints how many cases each class has tried and how many instructions it has executed, and how many all
/// of them have.
pub(crate) fn print_counts() {
    for (class, cases) in &*TRIED.lock().unwrap() {
        println!("tried: {class}: {cases}");
    }
    let executed = EXECUTED.lock().unwrap();
    for (class, instructions) in &*executed {
        println!("executed at least: {class}: {instructions}");
    }
    println!("executed at least: {} instructions", executed.values().sum::<u64>());
}

/// The seed of a test's random cases, `GLOWBOX_HOSTILE_SEED` or 1; printed, for whoever wants to see a
/// failure again.
pub(crate) fn seed(test: &str) -> u64 {
    let text = std::env::var("GLOWBOX_HOSTILE_SEED").ok();
    let seed = text.map_or(1, |text| text.parse().expect("GLOWBOX_HOSTILE_SEED is a number"));
    println!("{test}: GLOWBOX_HOSTILE_SEED={seed}");
    seed
}

/// By what random cases are to be multiplied: `GLOWBOX_HOSTILE`, or 1.
pub(crate) fn factor() -> u64 {
    let text = std::env::var("GLOWBOX_HOSTILE").ok();
    text.map_or(1, |text| text.parse().expect("GLOWBOX_HOSTILE is a number"))
}

/// Open descriptors, mappings, and resident KiB of this process.
fn levels() -> [usize; 3] {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let mappings = std::fs::read_to_string("/proc/self/maps").expect("mappings").lines().count();
    let status = std::fs::read_to_string("/proc/self/status").expect("the status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    [descriptors, mappings, resident]
}

/// Checks that this process has no more descriptors, mappings and memory after three rounds than after a first one.
pub(crate) fn check_growth(first: u64, round: impl Fn(u64)) {
    // The pool, the allocator and the watchdog have what they need after the first. The page map of this
    // process is opened once, on some backends later.
    let _ = glowbox_mem::tracking();
    round(first);
    // Watching threads notice the end of what they watch within some milliseconds.
    std::thread::sleep(Duration::from_millis(100));
    let before = levels();
    (first + 1..first + 4).for_each(round);
    std::thread::sleep(Duration::from_millis(100));
    let after = levels();
    assert_eq!(after[0], before[0], "descriptors: {before:?}, {after:?}");
    // Stacks and heaps of threads that have ended are kept for the next ones.
    assert!(after[1] <= before[1] + 8, "mappings: {before:?}, {after:?}");
    assert!(after[2] <= before[2] + (16 << 10), "resident KiB: {before:?}, {after:?}");
}
