//! What stays from call to call: statics, thread-local variables, and what was there at the start.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use glowbox_guest::guest_function;

static NOTES: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
static STARTED: OnceLock<&str> = OnceLock::new();

thread_local! {
    static COUNTER: Cell<u32> = const { Cell::new(0) };
    static WITH_DESTRUCTOR: String = "made when it is first used".to_string();
}

/// Notes that the start-up function has run.
pub(crate) fn started() {
    let _ = STARTED.set("by the start-up function");
}

#[guest_function]
fn start_note() -> Option<String> {
    STARTED.get().map(ToString::to_string)
}

#[guest_function]
fn remember(key: String, value: String) -> Option<String> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value)
}

#[guest_function]
fn recall(key: &str) -> Option<String> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

#[guest_function]
fn count_up() -> u32 {
    COUNTER.set(COUNTER.get() + 1);
    COUNTER.get()
}

/// Another thread's variable starts anew.
#[guest_function]
fn count_up_elsewhere() -> Option<u32> {
    std::thread::spawn(count_up).join().ok()
}

#[guest_function]
fn lazy_thread_local() -> String {
    WITH_DESTRUCTOR.with(String::clone)
}
