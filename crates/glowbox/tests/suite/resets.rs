//! Resets: of sandboxes that were spent in any way, again and again, and in any order with all else.

use std::time::Duration;

use glowbox::{CallOptions, Engine, Error, ErrorKind, Sandbox, Snapshot};

use crate::patterns::{INVERTED, Looks, Places, alike, leaks};
use crate::support::{builder_without, error, guest};

/// Ways to spend a sandbox that cost little.
const ENDS: &[(&str, ErrorKind)] = &[
    ("end_by_fault", ErrorKind::Fault),
    ("stain_and_panic", ErrorKind::Panic),
    ("stain_and_exhaust", ErrorKind::OutOfMemory),
    ("overflow", ErrorKind::StackOverflow),
    ("end_by_ins", ErrorKind::Fault),
    ("end_by_protocol", ErrorKind::Protocol),
    ("deadline", ErrorKind::Deadline),
    ("interrupt", ErrorKind::Interrupted),
    ("host panic", ErrorKind::HostPanic),
    ("nested panic", ErrorKind::Panic),
    ("end_by_step", ErrorKind::Fault),
];

fn spend(sandbox: &mut Sandbox, place: u64, how: &str) -> Error {
    let nothing: (&[u8], u64, u64) = (&[], INVERTED, place);
    let short = CallOptions::new().deadline(Duration::from_millis(1));
    let stain = |how: u32| (INVERTED, 4096u64, how);
    match how {
        "stain_and_panic" => error(sandbox.call::<_, ()>(how, (INVERTED, 4096u64))),
        "stain_and_exhaust" => error(sandbox.call::<_, u64>(how, (INVERTED, 4096u64))),
        "overflow" => error(sandbox.call::<_, u64>(how, (0u64,))),
        "end_by_protocol" => error(sandbox.call::<_, (u32, u32)>("send_nonsense", ())),
        "deadline" => error(sandbox.call_with::<_, ()>(&short, "end_never", nothing)),
        "interrupt" => {
            let handle = sandbox.interrupt_handle();
            let stopper = std::thread::spawn(move || {
                while !handle.interrupt() {
                    std::thread::yield_now();
                }
            });
            let stopped = error(sandbox.call::<_, ()>("end_never", nothing));
            stopper.join().expect("the stopper");
            stopped
        }
        "host panic" => error(sandbox.call::<_, u32>("stain_and_call", stain(0))),
        "nested panic" => error(sandbox.call::<_, u32>("stain_and_call", stain(1))),
        _ => error(sandbox.call::<_, ()>(how, nothing)),
    }
}

/// Spends and resets a thousand times.
fn check(sandbox: &mut Sandbox, places: &Places, looks: &Looks) {
    for turn in 0..1000 {
        let (how, kind) = ENDS[turn % ENDS.len()];
        let ended = spend(sandbox, places.spare(), how);
        assert_eq!(ended.kind(), kind, "{how}: {ended}");
        assert!(sandbox.is_spent());
        assert_eq!(error(sandbox.call::<_, u32>("count", ())).kind(), ErrorKind::Spent);
        sandbox.reset().unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(!sandbox.is_spent());
        if turn % 97 == 0 {
            assert_eq!(Looks::of(sandbox, places), *looks, "{how}");
        }
        assert_eq!(sandbox.call::<_, u32>("count", ()).unwrap(), 1, "{how}");
    }
}

/// What a model knows of a guest: how often it has counted, and what stands in some pages.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Known {
    count: u32,
    word: u64,
}

/// A sandbox, what is known of it, and of where it goes back to.
struct Modelled {
    sandbox: Sandbox,
    now: Known,
    origin: Known,
}

impl Modelled {
    fn spend_or_use(&mut self, number: u64, place: u64) {
        match number % 8 {
            0 => {
                spend(&mut self.sandbox, place, ENDS[within(number / 8, ENDS.len())].0);
            }
            1..4 => {
                self.now.word = number / 8 % 3;
                let pages = (place, 20u64, self.now.word);
                self.sandbox.call::<_, ()>("write_pages", pages).unwrap();
            }
            _ => {
                self.now.count += 1;
                assert_eq!(self.sandbox.call::<_, u32>("count", ()).unwrap(), self.now.count);
            }
        }
    }

    fn check(&mut self, place: u64) {
        let other = (place, 20u64, self.now.word);
        assert_eq!(self.sandbox.call::<_, u64>("count_other", other).unwrap(), 0);
    }
}

/// An index below `length`.
fn within(number: u64, length: usize) -> usize {
    usize::try_from(number % length as u64).expect("an index")
}

/// Operations in an order that follows from `seed`, each checked against the model.
fn check_operations(engine: &Engine, guest: &glowbox::Guest, seed: u64, place: u64, turns: u32) {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 20
    };
    let mut snapshots: Vec<(Snapshot, Known)> = Vec::new();
    let mut sandboxes: Vec<Modelled> = Vec::new();
    for _ in 0..turns {
        let (what, which, how) = (next() % 16, next(), next());
        let count = sandboxes.len();
        let snapshot =
            (!snapshots.is_empty()).then(|| snapshots[within(how, snapshots.len())].clone());
        match (what, snapshot) {
            (0, _) | (_, None) if count < 4 => {
                let sandbox = alike(engine).build(guest.clone()).unwrap();
                sandboxes.push(Modelled {
                    sandbox,
                    now: Known::default(),
                    origin: Known::default(),
                });
            }
            (1..=3, Some((snapshot, known))) if count < 4 => {
                let sandbox = snapshot.spawn().unwrap();
                sandboxes.push(Modelled { sandbox, now: known, origin: known });
            }
            (4, _) if count > 0 => drop(sandboxes.remove(within(which, count))),
            (5, Some(_)) => drop(snapshots.remove(within(which, snapshots.len()))),
            _ if count == 0 => {}
            (what, snapshot) => {
                let modelled = &mut sandboxes[within(which, count)];
                match (what, snapshot, modelled.sandbox.is_spent()) {
                    (6, Some((snapshot, known)), _) => {
                        modelled.sandbox.restore(&snapshot).unwrap();
                        (modelled.now, modelled.origin) = (known, known);
                    }
                    (7, _, false) => {
                        snapshots.push((modelled.sandbox.snapshot().unwrap(), modelled.now));
                        modelled.origin = modelled.now;
                    }
                    (8 | 9, ..) | (_, _, true) => {
                        modelled.sandbox.reset().unwrap();
                        modelled.now = modelled.origin;
                    }
                    _ => modelled.spend_or_use(how, place),
                }
                if !modelled.sandbox.is_spent() {
                    modelled.check(place);
                }
            }
        }
    }
}

tests! {
    fn operations_in_any_order_do_what_a_model_says() {
        for (kept, shells) in [(32 << 20, 4), (8 << 12, 2), (0, 1), (32 << 20, 0)] {
            let engine = Engine::builder().kept_memory(kept).pool_size(shells).build().unwrap();
            let guest = guest("leaks");
            let place = Places::of(&mut leaks(&engine)).spare();
            std::thread::scope(|scope| {
                for seed in 1..=3u64 {
                    let (engine, guest) = (&engine, &guest);
                    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    scope.spawn(move || check_operations(engine, guest, seed, place, 800));
                }
            });
            assert!(engine.idle_shells() <= shells);
        }
    }

    fn a_built_sandbox_can_be_spent_in_every_way_a_thousand_times() {
        let engine = Engine::builder().pool_size(1).build().unwrap();
        let places = Places::of(&mut leaks(&engine));
        let looks = Looks::of(&mut leaks(&engine), &places);
        check(&mut leaks(&engine), &places, &looks);
    }

    fn a_spawned_sandbox_can_be_spent_in_every_way_a_thousand_times() {
        let engine = Engine::builder().pool_size(1).build().unwrap();
        let mut parent = leaks(&engine);
        let places = Places::of(&mut parent);
        let snapshot = parent.snapshot().unwrap();
        let looks = Looks::of(&mut snapshot.spawn().unwrap(), &places);
        check(&mut snapshot.spawn().unwrap(), &places, &looks);
    }

    fn a_host_function_that_has_panicked_is_there_again_as_it_was_registered() {
        let mut calls = 0u32;
        let host_add = move |a: u32, b: u32| -> u32 {
            calls += 1;
            if calls == 3 {
                std::panic::resume_unwind(Box::new("the third time is too much"));
            }
            a + b + calls * 100
        };
        let mut sandbox = builder_without("host_add")
            .host_function("host_add", host_add)
            .build(guest("testing"))
            .unwrap();
        for _ in 0..3 {
            for sum in [103, 203] {
                assert_eq!(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)).unwrap(), sum);
                // What it keeps is the host's, and stays over a reset.
                sandbox.reset().unwrap();
            }
            let panicked = error(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)));
            assert_eq!(panicked.kind(), ErrorKind::HostPanic);
            sandbox.reset().unwrap();
        }
    }

    fn a_sandbox_whose_host_gave_what_can_not_be_encoded_can_be_reset() {
        mod named {
            #[derive(Clone)]
            pub(super) struct String;
            impl serde::Serialize for String {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("never"))
                }
            }
        }
        let builder = Sandbox::builder().host_function("weekday", || named::String);
        let mut sandbox = builder.build(guest("hello")).unwrap();
        for _ in 0..3 {
            let failed = error(sandbox.call::<_, String>("greet", ("you",)));
            assert_eq!(failed.kind(), ErrorKind::HostResult);
            sandbox.reset().unwrap();
        }
    }

    fn statistics_and_handles_stay_over_resets() {
        let mut sandbox = leaks(&Engine::builder().pool_size(1).build().unwrap());
        let snapshot = sandbox.snapshot().unwrap();
        let handle = sandbox.interrupt_handle();
        for turn in 1..=3u64 {
            sandbox.call::<_, u32>("count", ()).unwrap();
            let stats = sandbox.stats();
            assert_eq!(stats.calls, turn * 2 - 1);
            // One to start it and one a call, but that a call may be stopped before the guest is entered.
            assert!((turn + 1..=turn * 2).contains(&stats.entries), "{stats:?}");
            sandbox.reset().unwrap();
            let stopper = {
                let handle = handle.clone();
                std::thread::spawn(move || while !handle.interrupt() {})
            };
            assert_eq!(error(sandbox.call::<_, ()>("spin", ())).kind(), ErrorKind::Interrupted);
            stopper.join().unwrap();
            sandbox.restore(&snapshot).unwrap();
        }
        // A copy starts at zero.
        assert_eq!(snapshot.spawn().unwrap().stats(), glowbox::Stats::default());
    }
}
