//! A log pipeline whose filter is a plugin in a sandbox.
//!
//! The host streams log lines (JSON, some malformed) through the guest `guests/filter`, which parses
//! them, redacts messages with the `regex` crate, asks the host for users' names, and counts. The
//! types that cross the border stand in a crate of their own, `guests/filter/records`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use glowbox::{Error, ErrorKind, HostError, Sandbox};
use records::{Level, Malformed, Record};

/// Lines in the stream.
const LINES: usize = 20_000;
/// Lines in one call.
const BATCH: usize = 100;
/// Lines of which the outcome is printed.
const SHOWN: usize = 14;

fn main() -> Result<(), Error> {
    let log: Vec<String> = (0..LINES).map(line).collect();
    let mut sandbox = sandbox()?;

    let filter = sandbox.function::<(&[&str],), Vec<Result<Record, Malformed>>>("filter")?;
    let (mut malformed, mut redacted, mut slowest) = (0u32, 0u32, Duration::ZERO);
    let start = Instant::now();
    for (number, batch) in log.chunks(BATCH).enumerate() {
        let lines: Vec<&str> = batch.iter().map(String::as_str).collect();
        let called = Instant::now();
        let outcomes = filter.call(&mut sandbox, (&lines,))?;
        slowest = slowest.max(called.elapsed());
        for (index, outcome) in outcomes.iter().enumerate() {
            if number == 0 && index < SHOWN {
                print(outcome);
            }
            match outcome {
                Ok(record) => redacted += record.redacted,
                Err(_) => malformed += 1,
            }
        }
    }
    let elapsed = start.elapsed();

    let counts: BTreeMap<Level, u64> = sandbox.call("counts", ())?;
    println!();
    println!("levels           {counts:?}");
    println!("malformed lines  {malformed}");
    println!("redactions       {redacted}");
    println!("host calls       {}", sandbox.stats().host_calls);
    measure(&format!("{BATCH} lines a call"), LINES, LINES / BATCH, elapsed, slowest);
    one_by_one(&log[..LINES / 10])
}

/// A sandbox with the plugin. Building it compiles the plugin's patterns.
fn sandbox() -> Result<Sandbox, Error> {
    Sandbox::builder()
        .engine(&glowbox_examples::engine()?)
        .memory_limit(16 << 20)
        .deadline(Duration::from_secs(2))
        .log_sink(|record| eprintln!("plugin: {record}"))
        .host_function("lookup", |user: u32| -> Result<String, HostError> {
            match user {
                1 => Ok("ada".into()),
                2 => Ok("grace".into()),
                3 => Ok("edsger".into()),
                _ => Err(HostError::new(format!("user {user} is not in the directory"))),
            }
        })
        .build(env!("GLOWBOX_GUEST_FILTER"))
}

/// The same with one line a call. An `Err` that the guest function returns is then an error of the
/// call, of a kind of its own; the sandbox goes on.
fn one_by_one(log: &[String]) -> Result<(), Error> {
    let mut sandbox = sandbox()?;
    let filter = sandbox.function::<(&str,), Record>("filter_line")?;
    let (mut truncated, mut slowest) = (0u32, Duration::ZERO);
    let start = Instant::now();
    for line in log {
        let called = Instant::now();
        let outcome = filter.call(&mut sandbox, (line,));
        slowest = slowest.max(called.elapsed());
        match outcome {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Guest => {
                // Its text is in `error`; its value, with its type, comes out of it.
                if let Some(Malformed::Truncated) = error.guest_error() {
                    truncated += 1;
                }
            }
            Err(error) => return Err(error),
        }
    }
    measure("1 line a call", log.len(), log.len(), start.elapsed(), slowest);
    println!("                 ({truncated} of these lines were truncated)");
    Ok(())
}

fn print(outcome: &Result<Record, Malformed>) {
    match outcome {
        Ok(Record { time, level, user, message, .. }) => {
            let (level, user) = (format!("{level:?}"), user.as_deref().unwrap_or("-"));
            println!("{time} {level:<5} {user:<6} {message}");
        }
        Err(malformed) => println!("(malformed: {malformed})"),
    }
}

fn measure(what: &str, lines: usize, calls: usize, elapsed: Duration, slowest: Duration) {
    let per_second = lines as f64 / elapsed.as_secs_f64();
    let per_call = elapsed / u32::try_from(calls).unwrap_or(u32::MAX);
    println!(
        "{what:<16} {per_second:.0} lines/s, {per_call:.1?} a call on average, \
         {slowest:.1?} the slowest"
    );
}

/// A line of the log.
fn line(number: usize) -> String {
    let time = format!("{:02}:{:02}:{:02}", 9 + number / 3600, number / 60 % 60, number % 60);
    let user = number % 4 + 1;
    let (level, message) = match number % 12 {
        0 => ("info", "login from 10.0.0.7 as ada.l@example.org".into()),
        1 => ("debug", format!("cache miss for key {number}")),
        2 => ("warn", "slow query: 1.8 s".into()),
        3 => ("info", "order of grace+shop@mail.example.com, card 4111 1111 1111 1111".into()),
        4 => ("error", "push refused for token ghp_9fK2mQ7xLw3Rt8Vb".into()),
        5 => ("info", format!("parcel 1234567890123456 of order {number} sent")),
        6 => return format!(r#"{{"time":"{time}","level":"info","mess"#),
        7 => ("info", r#"path \"C:\\tmp\", invoice sent to <billing@example.net>"#.into()),
        8 => ("fatal", "a level that the plugin does not know".into()),
        9 => ("warn", "key sk-a1b2c3d4e5f6g7h8 seen in the clear".into()),
        10 => return format!(r#"{{"time":"{time}","level":"info","message":"no user here"}}"#),
        _ => ("info", "done".into()),
    };
    format!(r#"{{"time":"{time}","level":"{level}","user":{user},"message":"{message}"}}"#)
}
