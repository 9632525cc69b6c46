//! Limits, the log, and what a guest is told of its CPU.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use glowbox::{Builder, ErrorKind, LogLevel, LogLimits};

use crate::support::{builder, builder_without, error, guest, sandbox};

type Change = fn(Builder) -> Builder;
type Records = Arc<Mutex<Vec<(LogLevel, String, String, u64)>>>;

fn logging(change: impl FnOnce(Builder) -> Builder) -> (glowbox::Sandbox, Records) {
    let records = Records::default();
    let kept = Arc::clone(&records);
    let builder = builder().log_sink(move |record| {
        let (target, text) = (record.target.to_string(), record.text.to_string());
        kept.lock().expect("no panic").push((record.level, target, text, record.dropped));
    });
    (change(builder).build(guest("testing")).unwrap(), records)
}

/// Keeps what goes to `tracing`.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Seen {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut text = format!("{} {}", metadata.level(), metadata.target());
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text.push_str(&format!(" {field}={value:?}"));
        });
        self.0.lock().unwrap().push(text);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

tests! {
    fn zero_odd_and_enormous_limits_are_refused_by_the_builder() {
        let wrong: [(&str, Change); 11] = [
            ("memory limit", |b| b.memory_limit(0)),
            ("memory limit", |b| b.memory_limit(100_000)),
            ("memory limit", |b| b.memory_limit(u64::MAX)),
            ("memory limit", |b| b.memory_limit(1 << 50)),
            ("stack size", |b| b.stack_size(0)),
            ("stack size", |b| b.stack_size(4097)),
            ("stack size", |b| b.stack_size(1 << 40)),
            ("messages", |b| b.message_size(0)),
            ("messages", |b| b.message_size(5000)),
            ("messages", |b| b.message_size(u64::MAX - 4095)),
            ("log record", |b| b.log_limits(LogLimits { text: 0, records_per_second: 1 })),
        ];
        for (word, change) in wrong {
            let refused = error(change(builder()).build(guest("testing")));
            assert_eq!(refused.kind(), ErrorKind::InvalidOption);
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }

    fn the_smallest_and_the_largest_limits_work() {
        let small = builder().memory_limit(16 << 10).stack_size(16 << 10).message_size(4096);
        let large = builder().memory_limit(64 << 30).stack_size(256 << 20).message_size(1 << 30);
        for builder in [small, large] {
            let mut sandbox = builder.build(guest("testing")).unwrap();
            assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        }
    }

    fn the_heap_grows_to_its_limit_and_no_further() {
        let mut sandbox = builder().memory_limit(4 << 20).build(guest("testing")).unwrap();
        assert_eq!(sandbox.call::<_, u32>("allocate", (1u32 << 20,)).unwrap(), 1 << 20);
        let full = error(sandbox.call::<_, u32>("allocate", (4u32 << 20,)));
        assert_eq!(full.kind(), ErrorKind::OutOfMemory);
        assert!(full.to_string().contains("4194304"), "{full}");
    }

    fn log_and_print_reach_the_sink_with_level_and_target() {
        let (mut sandbox, records) = logging(|b| b.log_level(LogLevel::Trace));
        sandbox.call::<_, ()>("say_all_levels", ()).unwrap();
        let records = records.lock().unwrap();
        let seen: Vec<_> =
            records.iter().map(|(l, target, text, _)| (*l, target.as_str(), text.as_str())).collect();
        assert_eq!(seen, [
            (LogLevel::Error, "testing", "e"),
            (LogLevel::Warn, "testing", "w"),
            (LogLevel::Info, "testing", "i"),
            (LogLevel::Debug, "testing", "d"),
            (LogLevel::Trace, "testing", "t"),
            (LogLevel::Info, "print", "printed 1"),
            (LogLevel::Info, "print", "printed 2"),
        ]);
    }

    fn log_and_print_reach_tracing_by_default() {
        let seen = Seen::default();
        let mut sandbox = sandbox();
        tracing::subscriber::with_default(seen.clone(), || {
            sandbox.call::<_, ()>("say_all_levels", ()).unwrap();
        });
        let events = seen.0.lock().unwrap();
        assert_eq!(events.len(), 5, "{events:?}");
        assert!(events[0].starts_with("ERROR glowbox::guest ") && events[0].contains("message=e"));
        assert!(events[4].contains("guest_target=print") && events[4].contains("printed 2"));
    }

    fn levels_that_are_not_wanted_do_not_leave_the_guest() {
        for (level, exits) in [(None, 0), (Some(LogLevel::Warn), 2), (Some(LogLevel::Info), 5)] {
            let (mut sandbox, records) = logging(|b| b.log_level(level));
            let before = sandbox.stats().entries;
            sandbox.call::<_, ()>("say_all_levels", ()).unwrap();
            assert_eq!(sandbox.stats().entries - before, exits + 1);
            assert_eq!(records.lock().unwrap().len() as u64, exits);
        }
    }

    fn log_text_is_cut_to_the_limit_between_characters() {
        let limits = LogLimits { text: 101, ..LogLimits::default() };
        let (mut sandbox, records) = logging(|b| b.log_limits(limits));
        sandbox.call::<_, ()>("say", ("é".repeat(1000),)).unwrap();
        assert_eq!(records.lock().unwrap()[0].2, "é".repeat(50));
    }

    fn log_text_beyond_the_limit_is_cut_for_a_guest_that_ignores_it() {
        let limits = LogLimits { text: 8, ..LogLimits::default() };
        let (mut sandbox, records) = logging(|b| b.log_limits(limits));
        sandbox.call::<_, ()>("leave_bytes", (&[b'x'; 5000][..],)).unwrap();
        // A log record by hand: level 3, target of 1000 bytes, text of 4000.
        let header = (4u32, 3u32, 0u32, 1000u32, 0u64, 5000u64, 0u64);
        sandbox.call::<_, (u32, u32)>("send_raw", header).unwrap();
        let records = records.lock().unwrap();
        assert_eq!((records[0].1.len(), records[0].2.as_str()), (256, "xxxxxxxx"));
    }

    fn a_flood_of_log_records_is_dropped_and_counted() {
        let limits = LogLimits { records_per_second: 20, ..LogLimits::default() };
        let (mut sandbox, records) = logging(|b| b.log_limits(limits));
        sandbox.call::<_, ()>("say_often", (2000u32,)).unwrap();
        let passed = records.lock().unwrap().len();
        assert!((20..1000).contains(&passed), "{passed} records passed");
        std::thread::sleep(std::time::Duration::from_millis(100));
        sandbox.call::<_, ()>("say", ("last",)).unwrap();
        let records = records.lock().unwrap();
        let dropped: u64 = records.iter().map(|record| record.3).sum();
        assert_eq!(records.len() as u64 + dropped, 2001);
    }

    fn sse_works_in_guests_and_avx2_where_the_cpu_has_it() {
        let mut sandbox = sandbox();
        let scaled: [f32; 4] = sandbox.call("sse_scale", ([1.0f32, 2.0, 3.0, 4.0], 0.5f32)).unwrap();
        assert_eq!(scaled, [0.5, 1.0, 1.5, 2.0]);
        let sums: Option<[i32; 8]> =
            sandbox.call("avx2_add", ([1i32, 2, 3, 4, 5, 6, 7, 8], 10i32)).unwrap();
        if std::arch::is_x86_feature_detected!("avx2") {
            assert_eq!(sums, Some([11, 12, 13, 14, 15, 16, 17, 18]));
        } else {
            assert_eq!(sums, None);
        }
    }

    fn a_guest_sees_no_hypervisor_features_unless_cpuid_is_not_virtualised() {
        let mut sandbox = sandbox();
        let (_, _, ecx, _): (u32, u32, u32, u32) = sandbox.call("cpuid", (1u32,)).unwrap();
        let hypervisor = ecx & 1 << 31 != 0;
        let host = std::arch::x86_64::__cpuid(1);
        if hypervisor {
            // Here ring 3 reads the real CPU: it can only be what the host sees as well.
            eprintln!("note: this KVM does not virtualise CPUID in ring 3");
            assert_eq!(ecx & !(1 << 27), host.ecx & !(1 << 27));
        } else {
            let monitor_vmx_x2apic = 1 << 3 | 1 << 5 | 1 << 21;
            assert_eq!(ecx & monitor_vmx_x2apic, 0);
        }
    }

    fn the_load_address_of_a_guest_differs_from_sandbox_to_sandbox() {
        let address = || sandbox().call::<_, u64>("address_of_code", ()).unwrap();
        let addresses: std::collections::BTreeSet<u64> = (0..8).map(|_| address()).collect();
        assert!(addresses.len() >= 7, "{addresses:x?}");
    }

    fn a_call_has_ten_seconds_unless_it_is_told_otherwise() {
        // A host that comes back after five seconds is in time, one that takes more than ten is not; so
        // nothing has to spin that long.
        let waits = |seconds| {
            let host_picky = move |number: u32| {
                std::thread::sleep(Duration::from_secs(seconds));
                number
            };
            builder_without("host_picky").host_function("host_picky", host_picky)
        };
        let later = std::thread::spawn(move || {
            let mut late = waits(11).build(guest("testing")).unwrap();
            error(late.call::<_, u32>("call_host_picky", (1u32,))).kind()
        });
        let mut early = waits(5).build(guest("testing")).unwrap();
        assert_eq!(early.call::<_, u32>("call_host_picky", (1u32,)).unwrap(), 1);
        assert_eq!(later.join().unwrap(), ErrorKind::Deadline);
    }
}
