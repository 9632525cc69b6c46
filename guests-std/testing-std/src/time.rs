//! Clocks.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glowbox_guest::guest_function;

/// Seconds since 1970.
#[guest_function]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sleeps, and says how many milliseconds have passed.
#[guest_function]
fn sleep(milliseconds: u64) -> Duration {
    let start = Instant::now();
    thread::sleep(Duration::from_millis(milliseconds));
    start.elapsed()
}

/// Whether the clock never goes backwards over so many readings.
#[guest_function]
fn is_monotonic(readings: u32) -> bool {
    let mut last = Instant::now();
    (0..readings).all(|_| {
        let now = Instant::now();
        let in_order = last <= now;
        last = now;
        in_order
    })
}
