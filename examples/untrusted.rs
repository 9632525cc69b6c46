//! Runs a guest that does what it must not, and shows what the host is told of each attempt.
//!
//! Every attempt gets a sandbox of its own; at the end one more answers as if nothing had been. The
//! guest is `guests/untrusted`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use glowbox::{Builder, CallOptions, Error, Guest, HostError, Sandbox};

/// The guest, as part of this program: nothing has to be found at run time.
static GUEST: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_UNTRUSTED"));

/// What the guest tries, and its function that does so.
const ATTEMPTS: [(&str, &str); 12] = [
    ("write to address 0", "write_null"),
    ("change its own code", "patch_own_code"),
    ("jump into the heap", "run_heap"),
    ("execute `hlt`", "halt"),
    ("load new page tables", "load_page_tables"),
    ("write to an I/O port", "write_port"),
    ("make a system call", "system_call"),
    ("recurse without end", "recurse"),
    ("take all memory", "take_all_memory"),
    ("index out of bounds", "panic_out_of_bounds"),
    ("lie about a length", "lie_about_length"),
    ("read /etc/shadow", "read_secret"),
];

fn main() -> Result<(), Error> {
    let guest = Guest::from_bytes("untrusted", GUEST)?;

    for (attempt, function) in ATTEMPTS {
        let mut sandbox = limited()?.build(&guest)?;
        let result = sandbox.call::<_, ()>(function, ());
        report(attempt, &told(&result), &sandbox);
    }
    loop_until_the_deadline(&guest)?;
    loop_until_interrupted(&guest)?;
    flood_the_log(&guest)?;

    // What it imports and the host does not offer keeps a guest from being started at all.
    let bare = Sandbox::builder().engine(&glowbox_examples::engine()?);
    let refused = bare.build(&guest).map(drop);
    println!("{:<22} {}", "start without imports", told(&refused));

    let mut healthy = limited()?.build(&guest)?;
    let answer: u32 = healthy.call("answer", (6u32, 7u32))?;
    report("multiply 6 by 7", &format!("the value {answer}"), &healthy);
    Ok(())
}

/// What every sandbox here may do.
fn limited() -> Result<Builder, Error> {
    let builder = Sandbox::builder()
        .engine(&glowbox_examples::engine()?)
        .memory_limit(8 << 20)
        .stack_size(64 << 10)
        .deadline(Duration::from_secs(1))
        .host_function("read_file", |path: String| match path.as_str() {
            "/etc/hostname" => Ok("glowbox\n".to_string()),
            _ => Err(HostError::new(format!("`{path}` is not for guests"))),
        });
    Ok(builder)
}

fn loop_until_the_deadline(guest: &Guest) -> Result<(), Error> {
    let mut sandbox = limited()?.build(guest)?;
    let options = CallOptions::new().deadline(Duration::from_millis(20));
    let start = Instant::now();
    let result = sandbox.call_with::<_, ()>(&options, "loop_forever", ());
    let text = format!("{} (after {:.1?})", told(&result), start.elapsed());
    report("loop, with a deadline", &text, &sandbox);
    Ok(())
}

fn loop_until_interrupted(guest: &Guest) -> Result<(), Error> {
    let mut sandbox = limited()?.no_deadline().build(guest)?;
    let handle = sandbox.interrupt_handle();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        // `false` means that no call is running, so it may not have begun yet.
        while !handle.interrupt() {
            thread::yield_now();
        }
    });
    let result = sandbox.call::<_, ()>("loop_forever", ());
    report("loop, interrupted", &told(&result), &sandbox);
    other.join().expect("the other thread does not panic");
    Ok(())
}

fn flood_the_log(guest: &Guest) -> Result<(), Error> {
    const LINES: u32 = 5000;
    let arrived = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&arrived);
    let mut sandbox = limited()?
        .deadline(Duration::from_secs(10))
        .log_sink(move |_record| {
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .build(guest)?;
    let start = Instant::now();
    let result = sandbox.call::<_, ()>("flood_log", (LINES,));
    let arrived = arrived.load(Ordering::Relaxed);
    let text = format!("{}; {arrived} of {LINES} lines in {:.1?}", told(&result), start.elapsed());
    report("flood the log", &text, &sandbox);
    Ok(())
}

fn report(attempt: &str, told: &str, sandbox: &Sandbox) {
    let after = if sandbox.is_spent() { "spent" } else { "usable" };
    println!("{attempt:<22} {told} [{after}]");
}

/// The result of a call in a few words. `Error`'s own text is longer: of a fault, it also has
/// addresses and codes.
fn told(result: &Result<(), Error>) -> String {
    let Err(error) = result else { return "a value".into() };
    let text = match error.fault() {
        Some(fault) => match &fault.symbol {
            Some(symbol) => format!("{} in {}", fault.kind, symbol.name),
            None => fault.kind.to_string(),
        },
        None => error.to_string(),
    };
    format!("{:?}: {text}", error.kind())
}
