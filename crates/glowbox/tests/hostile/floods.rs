//! Floods of log records, host calls and results, and storms of allocations: they end with the call's
//! deadline or the guest's memory, and the host holds no more after them than before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glowbox::{CallOptions, Error, ErrorKind, LogLimits, Sandbox};

use crate::attacker::{Attacker, HEAP, builder, encoded, guest, import};
use crate::headers::{
    BATCH_FLUSH, HOST_CALL, Known, LOG, Outcome, Point, REPLY, RETURN, check, proper,
};
use crate::level::Level;
use crate::steps::{Header, Place, Step};
use crate::support::{alone, factor, tried};

/// For ever.
const ALWAYS: u32 = u32::MAX;
/// How long a flood without end may take, in the tests here.
const DEADLINE: Duration = Duration::from_millis(200);
/// How much later than that it may be on a machine that has much else to do.
const LATE: Duration = Duration::from_secs(20);
/// Bytes by which what the host has in memory may differ: what its allocator keeps, and the pool's shells.
const KEPT: usize = 24 << 20;

/// Bytes that this process has in memory.
fn resident() -> usize {
    let sizes = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: usize = sizes.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

/// A message to the host that it goes on after.
fn repeated(count: u32, header: Header) -> [Step; 1] {
    [Step::Repeat(count, vec![Step::Leave(header)])]
}

fn log(text: u64) -> Header {
    Header { kind: LOG, status: 3, text_length: 4, length: 4 + text, ..Header::default() }
}

fn host_call(name: &str) -> Header {
    let function = import(name);
    Header { kind: HOST_CALL, function, length: 1, reply_offset: 8192, ..Header::default() }
}

/// Checks that a flood has ended by its deadline.
fn check_ended(result: Result<u8, Error>, began: Instant, what: &dyn std::fmt::Debug) {
    let error = result.expect_err("it has no other end");
    assert_eq!(error.kind(), ErrorKind::Deadline, "{what:?}: {error}");
    assert!(error.to_string().contains("deadline of 200ms passed"), "{error}");
    assert!(began.elapsed() < DEADLINE + LATE, "{what:?} took {:?}", began.elapsed());
}

/// Messages without end, and how many of each kind are counted.
fn floods(attacker: &mut Attacker) {
    let nobody = Header { function: 12_345, ..host_call("take") };
    let large = Header { length: 3, ..host_call("large") };
    let flush = Header { kind: BATCH_FLUSH, ..Header::default() };
    for header in [log(0), log(60_000), host_call("take"), nobody, large] {
        let steps = [
            // 60,000 bytes in answer to `large`: more than fits behind where it goes.
            Step::Write(Place::Outgoing, 0, vec![0xe0, 0xd4, 3]),
            Step::Repeat(ALWAYS, vec![Step::Leave(header)]),
        ];
        let (began, bytes) = (Instant::now(), encoded(&steps));
        let result = attacker.run(&steps, |sandbox| {
            let options = CallOptions::new().deadline(DEADLINE);
            sandbox.call_with(&options, "strike", (&bytes[..],))
        });
        check_ended(result, began, &steps);
        attacker.reset(&steps);
    }
    // Results of a batch that are handed over again and again, and there are none.
    let (began, bytes) = (Instant::now(), encoded(&repeated(ALWAYS, flush)));
    let strike = attacker.sandbox.function::<(&[u8],), u8>("strike").expect("a function");
    let result = attacker.run(&flush, |sandbox| {
        let options = CallOptions::new().deadline(DEADLINE);
        let inputs = [(&bytes[..],), (&bytes[..],)];
        let mut results = strike.call_many_with(&options, sandbox, inputs);
        assert_eq!(results.len(), 2);
        results.swap_remove(0)
    });
    check_ended(result, began, &flush);
    attacker.reset(&flush);
}

/// Allocations of every size, as often as they can be had.
fn storms(attacker: &mut Attacker) {
    let mut end = |steps: &[Step], expected: Option<(ErrorKind, &str)>| {
        let result = attacker.strike(steps);
        match (&result, expected) {
            (Ok(_), None) => {}
            (Err(error), Some((kind, words))) => {
                let text = error.to_string();
                assert!(error.kind() == kind && text.contains(words), "{steps:?}: {error:?}");
            }
            _ => panic!("{steps:?}: {result:?}"),
        }
        attacker.reset(&steps);
    };
    let limit = format!("with a limit of {HEAP} bytes in all");
    let exhausted = Some((ErrorKind::OutOfMemory, limit.as_str()));
    for size in [1, 16, 24, 100, 4095, 4096, 4097, 64 << 10, HEAP / 3, HEAP - 1, HEAP, HEAP + 1] {
        end(&[Step::Keep { size, count: u64::MAX }], exhausted);
    }
    for size in [1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1] {
        end(&[Step::Keep { size, count: 1 }], exhausted);
    }
    for size in [1 << 63, u64::MAX] {
        end(&[Step::Keep { size, count: 1 }], Some((ErrorKind::Panic, "capacity overflow")));
    }
    // What fits is had, and what lies behind the heap is not there.
    end(&[Step::Keep { size: 16, count: 10_000 }], None);
    end(&[Step::Touch(Place::Heap, 0, HEAP / 4096)], None);
    let behind = Some((ErrorKind::Fault, "address 0x"));
    for (at, pages) in [(HEAP, 1), (0, HEAP / 4096 + 1), (u64::MAX, 1), (1 << 40, 1)] {
        end(&[Step::Touch(Place::Heap, at, pages)], behind);
    }
}

/// Each kind of message many times in one call; counted.
fn many(attacker: &mut Attacker, count: u32) {
    let known = Known::new();
    for header in proper(&known) {
        let steps = repeated(count, header);
        let result = attacker.strike(&steps);
        match known.outcome(&header, Point::Call).expect("it is known") {
            Outcome::Reply(status) => {
                check(&result, &Outcome::Reply(status), &header, REPLY | status);
                assert_eq!(attacker.seen().taken.len(), count as usize);
                tried("messages in floods", u64::from(count));
            }
            expected => check(&result, &expected, &header, 0),
        }
        attacker.reset(&steps);
    }
}

/// A sandbox that may log this much.
fn with_limits(limits: LogLimits) -> (Sandbox, Arc<std::sync::Mutex<crate::attacker::Seen>>) {
    let seen = Arc::default();
    let sandbox = builder(&seen).log_limits(limits).build(guest());
    (sandbox.expect("a sandbox"), seen)
}

tests! {
    fn floods_and_storms_end_and_leave_nothing_in_the_host() {
        alone("floods::floods_and_storms_end_and_leave_nothing_in_the_host", || {
            let mut attacker = Attacker::new("floods and storms");
            let mut round = || {
                floods(&mut attacker);
                storms(&mut attacker);
                many(&mut attacker, 1000);
            };
            // The pool and the allocator have what they need after the first.
            round();
            let (level, before) = (Level::now(), resident());
            for _ in 0..2 * factor() {
                round();
            }
            level.risen().unwrap();
            let after = resident();
            assert!(after <= before + KEPT, "{after} bytes are in memory, {before} before");
        });
    }

    fn log_records_are_as_many_and_as_long_as_they_may_be() {
        let sent = 4000;
        for (per_second, text) in [(1, 1), (50, 64), (1000, 4096)] {
            let (mut sandbox, seen) =
                with_limits(LogLimits { records_per_second: per_second, text });
            let (began, steps) = (Instant::now(), encoded(&repeated(sent, log(8192))));
            assert_eq!(sandbox.call::<_, u8>("strike", (&steps[..],)).expect("a value"), 0);
            // A burst of one second's, and then as time goes by.
            let seconds = began.elapsed().as_secs_f64() + 1.0;
            let records = std::mem::take(&mut seen.lock().unwrap().records);
            let most = (f64::from(per_second) * seconds).ceil();
            assert!(records.len() as f64 <= most, "{} in {seconds} s", records.len());
            assert!(records.len() >= per_second as usize, "{}", records.len());
            assert!(records.iter().all(|(target, length, _)| (*target, *length) == (4, text)));
            let dropped: u64 = records.iter().map(|(.., dropped)| dropped).sum();
            assert!(records.len() as u64 + dropped <= u64::from(sent), "{dropped} were dropped");
            tried("messages in floods", u64::from(sent));
            // Those that were dropped last come with the next.
            std::thread::sleep(Duration::from_millis(1100 / u64::from(per_second).min(10)));
            let steps = encoded(&[Step::Leave(log(1))]);
            sandbox.call::<_, u8>("strike", (&steps[..],)).expect("a value");
            let rest: u64 = seen.lock().unwrap().records.iter().map(|(.., dropped)| dropped).sum();
            assert_eq!(records.len() as u64 + dropped + rest, u64::from(sent));
        }
    }

    fn the_host_functions_that_ran_are_those_that_were_called() {
        let mut attacker = Attacker::new("floods and storms");
        let before = attacker.sandbox.stats();
        // Half of them are nobody's.
        let nobody = Header { function: 1, ..host_call("take") };
        let steps = [Step::Repeat(1500, vec![Step::Leave(host_call("take")), Step::Leave(nobody)])];
        assert_eq!(attacker.strike(&steps).expect("a value"), REPLY | 1);
        assert_eq!(attacker.seen().taken, vec![0; 1500]);
        let after = attacker.sandbox.stats();
        assert_eq!(after.host_calls - before.host_calls, 1500);
        assert_eq!(after.calls - before.calls, 1);
        tried("messages in floods", 3000);
        attacker.reset(&steps);
        // A message that ends the call ends the flood.
        let ends = Header { kind: RETURN, length: 1, ..Header::default() };
        let steps = [Step::Leave(host_call("take")), Step::Leave(ends), Step::Repeat(ALWAYS, Vec::new())];
        assert!(attacker.strike(&steps).is_ok());
        assert_eq!(attacker.seen().taken.len(), 1);
        attacker.reset(&steps);
    }
}
