//! The soak: many threads use sandboxes in every way at random for a given time, every answer is
//! checked, and what the process holds must stay level.
//!
//! What the guest computes, the host computes too; what a sandbox keeps between calls, the host
//! keeps beside it; how each fault, deadline and interrupt must end is known. So one wrong answer in
//! millions is found, and ends the run with the seed, the thread and the step. `docs/soak.md` says
//! more.

mod counts;
mod deck;
mod ends;
pub(crate) mod levels;
mod plain;
mod programs;
mod report;
mod standard;
mod state;
mod watchdog;
mod whole;
// What the guest computes.
#[path = "../../../guests/soak/src/work.rs"]
mod work;
mod worker;
mod world;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use glowbox_bench::subject::Result;

use crate::experiments::map_large_blocks;
use crate::machine::Machine;
use counts::{Class, Steadiness};
use levels::{Ceiling, Course, Levels};
use report::Report;
use worker::Worker;
use world::{PANIC, Record, Step, World, lock};

/// How a soak is run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) duration: Duration,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    /// Where the report goes.
    pub(crate) output: std::path::PathBuf,
}

/// Time between lines about the progress.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// The round before the levels are taken that all are compared with.
const FIRST_ROUND: Duration = Duration::from_secs(3);
/// Longest pause between two interrupts.
const PAUSE: u64 = 4_000;

thread_local! {
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Where all guests' log records go: it runs on the thread that calls.
fn log_sink(record: &Record<'_>) {
    LOGGED.with_borrow_mut(|logged| {
        logged.truncate(100);
        logged.push(record.text.to_string());
    });
}

/// What was logged on this thread since it was last asked.
fn logged() -> Vec<String> {
    LOGGED.take()
}

/// Parses `90s`, `30m`, `1h`, or seconds.
pub(crate) fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("`{text}` is no time: write 90s, 30m or 1h")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is no time: write 90s, 30m or 1h"))?;
    number
        .checked_mul(scale)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// Runs a soak, prints how it goes and what came of it, and says whether all was well.
pub(crate) fn run(options: &Options) -> Result<bool> {
    quiet_panics();
    map_large_blocks();
    let folder = tempfile::tempdir()?;
    let steps: Arc<Vec<Step>> = Arc::new((0..options.threads).map(|_| Step::default()).collect());
    watchdog::start(&steps, FIRST_ROUND + options.duration, watchdog::HANGS);
    let round = |time, course: &mut Course| {
        let world = World::open(&steps, folder.path().to_path_buf(), options.seed)?;
        Result::Ok(round(options, &world, time, course))
    };
    // Once through much of what there is: what the process makes once and keeps is made now.
    let first = round(FIRST_ROUND, &mut Course::new(Levels::now(), None))?;
    if !first.is_well() {
        first.print();
        return Ok(false);
    }
    let ceiling = Ceiling::of(options.threads);
    let mut course = Course::new(settled(), Some(ceiling));
    println!(
        "seed {}, {} threads, {:?}; at the start: {}",
        options.seed,
        options.threads,
        options.duration,
        course.start.text()
    );
    let mut report = round(options.duration, &mut course)?;
    course.end = settled();
    report.levels = course.rows();
    if report.failure.is_none() {
        report.findings.extend(course.findings());
    }
    report.print();
    report.write(&options.output)?;
    Ok(report.is_well())
}

/// Panics on purpose are not told.
fn quiet_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload().downcast_ref::<String>();
        if !payload.is_some_and(|text| text.starts_with(PANIC)) {
            before(info);
        }
    }));
}

/// The levels when the kernel has given back what it gives back late.
fn settled() -> Levels {
    let counted = |levels: &Levels| (levels.descriptors, levels.threads, levels.mappings);
    let (mut last, mut still) = (Levels::now(), 0);
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(100));
        let now = Levels::trimmed();
        still = if counted(&now) == counted(&last) { still + 1 } else { 0 };
        last = now;
        if still == 10 {
            break;
        }
    }
    last
}

/// Runs a world's threads for some time, and drops everything.
fn round(options: &Options, world: &World, time: Duration, course: &mut Course) -> Report {
    // Now, since the commit may be another when a long run ends.
    let machine = Machine::here();
    let begun = Instant::now();
    let mut steadiness = Steadiness::new(time);
    let mut findings = Vec::new();
    // Before the threads run: who interrupts goes by it.
    world.steps.iter().for_each(|step| step.begins("start"));
    thread::scope(|scope| {
        for index in 0..options.threads {
            scope.spawn(move || Worker::new(world, index, options.seed).run(options.seed));
        }
        for number in 0..2 {
            scope.spawn(move || interrupts(world, options.seed ^ (77 + number)));
        }
        findings = watch(world, begun, time, (course, &mut steadiness));
        world.stop.store(true, Ordering::Relaxed);
    });
    world.clear();
    let mut report = Report::new((options, machine), world, &steadiness, begun.elapsed());
    report.findings = findings;
    report
}

/// Takes the levels and tells them, until the time is over or something is found.
fn watch(
    world: &World,
    begun: Instant,
    time: Duration,
    (course, steadiness): (&mut Course, &mut Steadiness),
) -> Vec<String> {
    // A tenth of the run, at least ten seconds, at most two minutes.
    let warm = (time / 10).clamp(Duration::from_secs(10), Duration::from_secs(120));
    let mut told = begun;
    while !world.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_secs(1).min(time.saturating_sub(begun.elapsed())));
        let levels = Levels::now();
        let mut findings: Vec<String> = course.too_high(&levels).into_iter().collect();
        if begun.elapsed() >= warm {
            course.add(levels);
        }
        if told.elapsed() >= TOLD_EVERY && course.is_watched() {
            told = Instant::now();
            println!(
                "{:>5} s: {} operations, {} outcomes, {} sandboxes; {}",
                begun.elapsed().as_secs(),
                world.counts.sum(Class::Operation),
                world.counts.sum(Class::Outcome),
                world.lives.now.load(Ordering::Relaxed),
                levels.text()
            );
        }
        if steadiness.next_end().is_some_and(|end| begun.elapsed() >= end) {
            findings.extend(steadiness.end(&world.counts.all()));
            findings.extend(course.rising_in_a_long_run());
        }
        if !findings.is_empty() || begun.elapsed() >= time {
            return findings;
        }
    }
    Vec::new()
}

/// Interrupts calls that want it, at random moments.
fn interrupts(world: &World, seed: u64) {
    let mut random = seed;
    // Goes on until no call waits for it any more.
    while !world.stop.load(Ordering::Relaxed)
        || world.wanted.iter().any(|wanted| lock(wanted).is_some())
        || world.steps.iter().any(Step::goes_on)
    {
        thread::sleep(Duration::from_micros(work::next(&mut random) % PAUSE));
        let count = world.wanted.len() as u64;
        let at = usize::try_from(work::next(&mut random) % count).unwrap_or(0);
        if let Some(handle) = &*lock(&world.wanted[at]) {
            handle.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("1 hour").is_err() && parse_duration("h").is_err());
        assert!(parse_duration("99999999999999999999s").is_err());
    }
}
