//! Values in both directions, errors, host functions, and what is printed and logged.

use std::collections::HashMap;
use std::num::ParseIntError;

use glowbox_guest::{HostError, guest_function, host_function};

#[host_function]
pub(crate) fn weekday() -> String;

#[host_function]
fn double(number: u32) -> Result<u32, HostError>;

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

#[guest_function]
fn greet(name: &str) -> String {
    format!("Hello, {name}! Today is {}.", weekday())
}

#[guest_function]
fn double_it(number: u32) -> Result<u32, HostError> {
    double(number)
}

/// Both calls fail, for want of the mailbox: as an error where there is one, else as a panic.
#[guest_function]
fn host_calls_from_a_thread() -> (String, String) {
    let error = std::thread::spawn(|| double(1)).join();
    let panic = std::thread::spawn(weekday).join();
    let error = match error {
        Ok(Err(error)) => error.to_string(),
        other => format!("{other:?}"),
    };
    let panic = match &panic {
        Err(payload) => payload.downcast_ref::<String>().cloned().unwrap_or_default(),
        Ok(_) => "it was called".to_string(),
    };
    (error, panic)
}

#[guest_function]
fn count_words(text: &str) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_string()).or_insert(0) += 1;
    }
    counts
}

#[guest_function]
fn parse(text: &str) -> Result<u32, ParseIntError> {
    text.parse()
}

#[guest_function]
fn print_lines(out: &str, err: &str) {
    println!("{out}");
    eprintln!("{err}");
}

#[guest_function]
fn print_to_the_log(text: &str) {
    glowbox_guest::println!("{text}");
}

#[guest_function]
fn log_text(text: &str) {
    log::warn!("{text}");
}

#[guest_function]
fn log_from_a_thread(text: &str) {
    std::thread::scope(|scope| {
        scope.spawn(|| log::warn!("{text}"));
        scope.spawn(|| glowbox_guest::println!("{text}"));
    });
}

#[guest_function]
fn random_numbers() -> (u64, u64) {
    let elsewhere = std::thread::spawn(glowbox_guest::random::u64).join().unwrap_or(0);
    (glowbox_guest::random::u64(), elsewhere)
}

#[guest_function]
fn mapped_length(name: &str) -> Option<usize> {
    glowbox_guest::mapped(name).map(<[u8]>::len)
}
