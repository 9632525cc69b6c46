//! What the tests share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use glowbox::Engine;

/// How many tests found that they can't run here.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// Cases that were tried, by the class of the attack.
static TRIED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Instructions that hostile code has executed, at least, by the class of the attack.
static EXECUTED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Says that a test can't run here, and counts it.
pub(crate) fn leave_out(reason: &str) {
    eprintln!("left out: {reason}");
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
}

/// How many tests were left out while they ran.
pub(crate) fn left_out() -> usize {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Why tests against KVM can't run here, if they can't.
pub(crate) fn why_not() -> Option<String> {
    Engine::shared().err().map(|error| error.to_string())
}

/// Counts cases of a class of attack that have been tried.
pub(crate) fn tried(class: &'static str, cases: u64) {
    *TRIED.lock().unwrap().entry(class).or_default() += cases;
}

/// Prints how many cases of each class were tried.
pub(crate) fn print_tried() {
    for (class, cases) in &*TRIED.lock().unwrap() {
        println!("tried: {class}: {cases}");
    }
}

/// Counts instructions that have been executed, at least.
pub(crate) fn executed(class: &'static str, instructions: u64) {
    *EXECUTED.lock().unwrap().entry(class).or_default() += instructions;
}

/// Prints how many instructions each class has executed, and how many all of them have.
pub(crate) fn print_executed() {
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
