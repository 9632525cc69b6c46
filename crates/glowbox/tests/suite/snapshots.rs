//! Snapshots: what they hold, who can use them at once, and what they cost.

use std::cell::Cell;
use std::time::Duration;

use glowbox::{CallOptions, Engine, ErrorKind, Sandbox, Snapshot};
use glowbox_core::layout::Limits;

use crate::patterns::{INVERTED, Looks, Places, alike, leaks, namesake, random};
use crate::support::{error, guest, in_fork, isolated};
use crate::windows::{images, windows};

const SHORT: Duration = Duration::from_millis(100);

fn engine() -> Engine {
    Engine::builder().pool_size(2).build().expect("an engine")
}

fn count(sandbox: &mut Sandbox) -> u32 {
    sandbox.call("count", ()).expect("a number")
}

fn ticks(sandbox: &mut Sandbox) -> u64 {
    sandbox.call("ticks", ()).expect("a number")
}

fn random_number(sandbox: &mut Sandbox) -> u64 {
    sandbox.call("random", ()).expect("a number")
}

tests! {
    fn snapshots_can_be_cloned_and_go_to_any_thread() {
        fn any_thread<T: Clone + Send + Sync + 'static>() {}
        any_thread::<Snapshot>();
        let mut sandbox = leaks(&engine());
        count(&mut sandbox);
        let snapshot = sandbox.snapshot().unwrap();
        let numbers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u32)
                .map(|number| {
                    let snapshot = snapshot.clone();
                    scope.spawn(move || {
                        // Each has state of its own, and a closure of its own.
                        for _ in 0..20 {
                            let mut sandbox = snapshot.spawn().unwrap();
                            for turn in 0..number {
                                assert_eq!(count(&mut sandbox), turn + 2);
                                assert_eq!(ticks(&mut sandbox), u64::from(turn) + 1);
                            }
                        }
                        number
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    }

    fn what_host_functions_keep_is_each_sandboxs_own_and_stays_over_resets() {
        let mut parent = leaks(&engine());
        assert_eq!((ticks(&mut parent), ticks(&mut parent)), (1, 2));
        let snapshot = parent.snapshot().unwrap();
        let (mut one, mut two) = (snapshot.spawn().unwrap(), snapshot.spawn().unwrap());
        assert_eq!((ticks(&mut one), ticks(&mut one), ticks(&mut two)), (1, 2, 1));
        one.reset().unwrap();
        parent.reset().unwrap();
        two.restore(&snapshot).unwrap();
        assert_eq!((ticks(&mut one), ticks(&mut parent), ticks(&mut two)), (3, 3, 2));
        let nested = one.snapshot().unwrap();
        assert_eq!(ticks(&mut nested.spawn().unwrap()), 1);
    }

    fn a_snapshot_holds_what_the_guest_has_warmed_up() {
        let engine = engine();
        let mut sandbox = leaks(&engine);
        let cold = sandbox.snapshot().unwrap();
        let (value, known): (u64, bool) = sandbox.call("cached", ()).unwrap();
        assert!(!known);
        let warm = sandbox.snapshot().unwrap();
        for (snapshot, known) in [(&warm, true), (&cold, false), (&warm, true)] {
            let mut spawned = snapshot.spawn().unwrap();
            for _ in 0..2 {
                assert_eq!(spawned.call::<_, (u64, bool)>("cached", ()).unwrap(), (value, known));
                spawned.reset().unwrap();
            }
        }
    }

    fn snapshots_nest_and_each_is_whole() {
        let engine = engine();
        let mut sandbox = leaks(&engine);
        let places = Places::of(&mut sandbox);
        let mut chain = vec![sandbox.snapshot().unwrap()];
        for depth in 0..6u32 {
            let mut next = chain.last().unwrap().spawn().unwrap();
            assert_eq!(count(&mut next), depth * 2 + 1);
            chain.push(next.snapshot().unwrap());
            // Another one of the same sandbox, whose pages lie in two images.
            assert_eq!(count(&mut next), depth * 2 + 2);
            let twice = next.snapshot().unwrap();
            let mut copy = twice.spawn().unwrap();
            assert_eq!(Looks::of(&mut copy, &places), Looks::of(&mut next, &places));
            *chain.last_mut().unwrap() = twice;
        }
        chain.truncate(1);
        assert_eq!(count(&mut chain[0].spawn().unwrap()), 1);
    }

    fn pages_of_a_snapshot_that_a_guest_has_zeroed_stay_zero_in_the_next() {
        for kept in [0, 1 << 20] {
            let engine = Engine::builder().kept_memory(kept).build().unwrap();
            let mut sandbox = leaks(&engine);
            let places = Places::of(&mut sandbox);
            let pages = 300u64;
            let (start, length) = (places.spare(), pages * 4096);
            sandbox.call::<_, ()>("write_pages", (start, pages, 7u64)).unwrap();
            let first = sandbox.snapshot().unwrap();
            let mut spawned = first.spawn().unwrap();
            let range = [start.to_le_bytes(), length.to_le_bytes()].concat();
            spawned.call::<_, ()>("zero", (&range[..],)).unwrap();
            let second = spawned.snapshot().unwrap();
            assert!(second.image_size() < first.image_size());
            let mut copy = second.spawn().unwrap();
            for sandbox in [&mut spawned, &mut copy] {
                // Often enough that pages are dropped.
                for _ in 0..300 {
                    sandbox.reset().unwrap();
                }
                let other: u64 = sandbox.call("count_other", (start, pages, 0u64)).unwrap();
                assert_eq!(other, 0, "kept {kept}");
            }
        }
    }

    fn a_snapshot_may_be_taken_of_what_has_not_run_yet() {
        let engine = engine();
        let mut sandbox = leaks(&engine);
        let places = Places::of(&mut sandbox);
        let first = sandbox.snapshot().unwrap();
        let looks = Looks::of(&mut first.spawn().unwrap(), &places);
        sandbox.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
        sandbox.reset().unwrap();
        let second = sandbox.snapshot().unwrap();
        let mut spawned = second.spawn().unwrap();
        let third = spawned.snapshot().unwrap();
        for mut copy in [sandbox, spawned, third.spawn().unwrap(), second.spawn().unwrap()] {
            assert_eq!(Looks::of(&mut copy, &places), looks);
        }
    }

    fn a_snapshot_that_could_not_be_taken_changes_nothing() {
        isolated("snapshots::a_snapshot_that_could_not_be_taken_changes_nothing", || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut sandbox = leaks(&engine);
            let places = Places::of(&mut sandbox);
            let snapshot = sandbox.snapshot().unwrap();
            drop(sandbox);
            let mut spawned = snapshot.spawn().unwrap();
            let looks = Looks::of(&mut spawned, &places);
            spawned.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
            let before = limit_descriptors(3);
            let refused = error(spawned.snapshot());
            limit_descriptors(before);
            assert_eq!(refused.kind(), ErrorKind::Hypervisor, "{refused}");
            assert_eq!(count(&mut spawned), 1, "it goes on");
            spawned.reset().unwrap();
            assert_eq!(Looks::of(&mut spawned, &places), looks);
            drop(spawned);
            assert_eq!(Looks::of(&mut snapshot.spawn().unwrap(), &places), looks);
        });
    }

    fn a_spent_sandbox_gives_no_snapshot_until_it_is_reset() {
        let mut sandbox = leaks(&engine());
        error(sandbox.call_with::<_, ()>(&CallOptions::new().deadline(SHORT), "spin", ()));
        assert_eq!(error(sandbox.snapshot()).kind(), ErrorKind::Spent);
        sandbox.reset().unwrap();
        assert_eq!(count(&mut sandbox.snapshot().unwrap().spawn().unwrap()), 1);
    }

    fn a_snapshot_of_another_guest_is_refused_and_nothing_changes() {
        let engine = engine();
        let mut sandbox = leaks(&engine);
        let other = alike(&engine).build(namesake()).unwrap().snapshot().unwrap();
        assert_eq!(count(&mut sandbox), 1);
        assert_eq!(error(sandbox.restore(&other)).kind(), ErrorKind::WrongGuest);
        assert_eq!(count(&mut sandbox), 2);
        // Spent it may be, too.
        error(sandbox.call_with::<_, ()>(&CallOptions::new().deadline(SHORT), "spin", ()));
        assert_eq!(error(sandbox.restore(&other)).kind(), ErrorKind::WrongGuest);
        assert!(sandbox.is_spent());
    }

    fn deadlines_and_handles_stay_when_a_sandbox_is_restored_to_other_limits_and_engines() {
        let (here, there) = (engine(), engine());
        let guest = guest("leaks");
        let larger = alike(&there).memory_limit(32 << 20).build(guest.clone()).unwrap();
        let elsewhere = alike(&there).build(guest.clone()).unwrap();
        for mut target in [larger, elsewhere] {
            count(&mut target);
            let snapshot = target.snapshot().unwrap();
            let mut sandbox = alike(&here).deadline(SHORT).build(guest.clone()).unwrap();
            let handle = sandbox.interrupt_handle();
            sandbox.restore(&snapshot).unwrap();
            assert_eq!(count(&mut sandbox), 2);
            assert_eq!(error(sandbox.call::<_, ()>("spin", ())).kind(), ErrorKind::Deadline);
            sandbox.reset().unwrap();
            let stopper = std::thread::spawn(move || {
                while !handle.interrupt() {
                    std::thread::yield_now();
                }
            });
            let options = CallOptions::new().no_deadline();
            let stopped = error(sandbox.call_with::<_, ()>(&options, "spin", ()));
            assert_eq!(stopped.kind(), ErrorKind::Interrupted);
            stopper.join().unwrap();
        }
    }

    fn images_go_with_the_last_who_needs_them_in_any_order() {
        isolated("snapshots::images_go_with_the_last_who_needs_them_in_any_order", || {
            let engine = Engine::builder().pool_size(4).build().unwrap();
            let make = || {
                let mut parent = leaks(&engine);
                let snapshot = parent.snapshot().unwrap();
                let spawned = snapshot.spawn().unwrap();
                let copy = snapshot.clone();
                assert_eq!(images().0, 1);
                (parent, snapshot, spawned, copy)
            };
            let (parent, snapshot, mut spawned, copy) = make();
            drop((parent, snapshot, copy));
            assert_eq!(count(&mut spawned), 1);
            spawned.reset().unwrap();
            assert_eq!((count(&mut spawned), images().0), (1, 1));
            drop(spawned);
            assert_eq!((images(), engine.idle_shells()), ((0, 0), 2));
            let (mut parent, snapshot, spawned, copy) = make();
            drop((spawned, snapshot));
            assert_eq!(count(&mut copy.spawn().unwrap()), 1);
            drop(copy);
            assert_eq!((count(&mut parent), images().0), (1, 1));
            parent.reset().unwrap();
            drop(parent);
            assert_eq!(images(), (0, 0));
            // Restored to another one, and off the first.
            let mut parent = leaks(&engine);
            let first = parent.snapshot().unwrap();
            let mut sandbox = first.spawn().unwrap();
            count(&mut parent);
            let second = parent.snapshot().unwrap();
            sandbox.restore(&second).unwrap();
            drop((parent, first));
            assert_eq!(images().0, 1);
            assert_eq!(count(&mut sandbox), 2);
            drop((second, engine));
            assert_eq!(count(&mut sandbox), 3);
            drop(sandbox);
            assert_eq!(images(), (0, 0));
        });
    }

    fn a_snapshot_takes_as_much_as_the_guest_uses_whatever_its_limits_are() {
        let engine = engine();
        let small = leaks(&engine).snapshot().unwrap().image_size();
        let limits = Limits { heap: 64 << 30, stack: 256 << 20, incoming: 1 << 30, outgoing: 1 << 30 };
        let mut huge = alike(&engine)
            .memory_limit(limits.heap)
            .stack_size(limits.stack)
            .message_size(limits.incoming)
            .build(guest("leaks"))
            .unwrap();
        let places = Places::with(&mut huge, limits);
        let snapshot = huge.snapshot().unwrap();
        // Page tables for more memory.
        assert!(snapshot.image_size() < small + (1 << 20), "{} {small}", snapshot.image_size());
        let mut spawned = snapshot.spawn().unwrap();
        let last = places.layout.region(glowbox_core::layout::RegionKind::Heap).end().0 - (4 << 20);
        spawned.call::<_, ()>("write_pages", (last, 1000u64, 1u64)).unwrap();
        let more = spawned.snapshot().unwrap().image_size() - snapshot.image_size();
        assert!((1000 * 4096..1100 * 4096).contains(&more), "{more}");
        spawned.restore(&snapshot).unwrap();
        assert_eq!(spawned.call::<_, u64>("count_other", (last, 1000u64, 0u64)).unwrap(), 0);
    }

    fn pages_that_are_zero_take_no_space() {
        let mut sandbox = leaks(&engine());
        let places = Places::of(&mut sandbox);
        let before = sandbox.snapshot().unwrap().image_size();
        let (start, pages) = (places.spare(), 1000u64);
        sandbox.call::<_, ()>("write_pages", (start, pages, 1u64)).unwrap();
        let full = sandbox.snapshot().unwrap().image_size();
        sandbox.call::<_, ()>("write_pages", (start, pages, 0u64)).unwrap();
        let after = sandbox.snapshot().unwrap().image_size();
        assert!(full >= before + pages * 4096 && after < before + (64 << 10), "{before} {after}");
    }

    fn what_sandboxes_have_not_written_they_share() {
        if lacks!(private_memory) {
            return;
        }
        isolated("snapshots::what_sandboxes_have_not_written_they_share", || {
            let engine = engine();
            let mut sandbox = leaks(&engine);
            let places = Places::of(&mut sandbox);
            let (start, pages) = (places.spare(), 1000u64);
            sandbox.call::<_, ()>("write_pages", (start, pages, 1u64)).unwrap();
            let snapshot = sandbox.snapshot().unwrap();
            drop((sandbox, engine));
            let engine = Engine::builder().pool_size(0).build().unwrap();
            drop(engine);
            let mut sandboxes: Vec<_> = (0..8).map(|_| snapshot.spawn().unwrap()).collect();
            for sandbox in &mut sandboxes {
                // All are read.
                assert_eq!(
                    sandbox.call::<_, u64>("count_other", (start, pages, 1u64)).unwrap(), 0
                );
            }
            let windows = windows(places.layout.size());
            let sum = |of: fn(&crate::windows::Mapping) -> u64| windows.iter().map(of).sum::<u64>();
            let (resident, anonymous) = (sum(|m| m.resident), sum(|m| m.anonymous));
            assert!(resident >= 8 * pages * 4096, "{resident}");
            // The parent's shell is idle; what is private in each of the nine is small.
            assert!(anonymous < 9 * (256 << 10), "{anonymous} of {resident}");
            let shared = sum(|m| m.proportional) - anonymous;
            assert!(shared < snapshot.image_size() + (1 << 20), "{shared} of {resident}");
        });
    }

    fn a_spawner_changes_what_it_is_told_to_and_nothing_else() {
        let snapshot = leaks(&engine()).snapshot().unwrap();
        let mut own = snapshot.spawner().host_function("tick", || 99u64).spawn().unwrap();
        assert_eq!((ticks(&mut own), ticks(&mut own)), (99, 99));
        assert_eq!(ticks(&mut snapshot.spawn().unwrap()), 1);
        // What is spawned of its own snapshot has its functions.
        assert_eq!(ticks(&mut own.snapshot().unwrap().spawn().unwrap()), 99);
        let mut short = snapshot.spawner().deadline(SHORT).spawn().unwrap();
        assert_eq!(error(short.call::<_, ()>("spin", ())).kind(), ErrorKind::Deadline);
        let kind = |spawner: glowbox::Spawner<'_>| error(spawner.spawn()).kind();
        let spawner = || snapshot.spawner();
        assert_eq!(kind(spawner().deadline(Duration::ZERO)), ErrorKind::InvalidOption);
        assert_eq!(kind(spawner().host_function("tick", || 1u32)), ErrorKind::SignatureMismatch);
        let twice = spawner().host_function("tick", || 1u64).host_function("tick", || 2u64);
        assert_eq!(kind(twice), ErrorKind::InvalidOption);
        // Not one that the guest knows.
        assert_eq!(ticks(&mut spawner().host_function("other", || 1u32).spawn().unwrap()), 1);
    }

    fn copies_draw_other_random_numbers_unless_they_were_to_be_the_same() {
        let engine = engine();
        let mut seen = std::collections::BTreeSet::new();
        let draws = Cell::new(0);
        let mut draw = |sandbox: &mut Sandbox| {
            for _ in 0..3 {
                seen.insert(random_number(sandbox));
                draws.set(draws.get() + 1);
            }
        };
        let mut parent = random(&engine).build(guest("leaks")).unwrap();
        draw(&mut parent);
        let snapshot = parent.snapshot().unwrap();
        draw(&mut parent);
        for _ in 0..5 {
            let mut child = snapshot.spawn().unwrap();
            draw(&mut child);
            child.reset().unwrap();
            draw(&mut child);
            child.restore(&snapshot).unwrap();
            draw(&mut child);
            let nested = child.snapshot().unwrap();
            draw(&mut child);
            draw(&mut nested.spawn().unwrap());
            parent.reset().unwrap();
            draw(&mut parent);
        }
        assert_eq!(seen.len(), draws.get());

        let mut parent = leaks(&engine);
        random_number(&mut parent);
        let snapshot = parent.snapshot().unwrap();
        let (mut one, mut two) = (snapshot.spawn().unwrap(), snapshot.spawn().unwrap());
        let first = [random_number(&mut one), random_number(&mut one)];
        assert_eq!(first, [random_number(&mut two), random_number(&mut two)]);
        one.reset().unwrap();
        two.restore(&snapshot).unwrap();
        assert_eq!(first, [random_number(&mut one), random_number(&mut one)]);
        assert_eq!(first, [random_number(&mut two), random_number(&mut two)]);
    }

    /// The parent has looked at its own pages before: a fork must not go on looking at those.
    fn resets_work_in_a_forked_process() {
        isolated("snapshots::resets_work_in_a_forked_process", || {
            leaks(&engine()).reset().unwrap();
            let status = in_fork(|| {
                let engine = Engine::builder().pool_size(1).build().unwrap();
                let mut sandbox = leaks(&engine);
                let places = Places::of(&mut sandbox);
                let (start, pages) = (places.spare(), 100u64);
                let snapshot = sandbox.snapshot().unwrap();
                for mut sandbox in [sandbox, snapshot.spawn().unwrap()] {
                    sandbox.call::<_, ()>("write_pages", (start, pages, 1u64)).unwrap();
                    sandbox.reset().unwrap();
                    let left: u64 = sandbox.call("count_other", (start, pages, 0u64)).unwrap();
                    assert_eq!(left, 0);
                }
            });
            assert_eq!(status, 0);
        });
    }
}

/// Limits how many descriptors this process may have, and returns the limit there was.
fn limit_descriptors(count: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes a limit, through a struct on this stack.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, count);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        before
    }
}
