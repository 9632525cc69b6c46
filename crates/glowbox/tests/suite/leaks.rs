//! Nothing that a use of a sandbox leaves behind reaches the next: each way of using one up, and
//! each way of going on after it, seen from inside and from outside.

use glowbox::{Engine, Error, ErrorKind, Mapping, Sandbox, Snapshot};
use glowbox_core::layout::LENT;

use crate::patterns::{
    INVERTED, Looks, Places, WAYS, alike, assert_clean, leaks, namesake, use_up,
};
use crate::support::{builder, guest, isolated};
use crate::windows::{find_pattern, windows};
use crate::written::refuse;

/// An engine whose pool has room for one shell, so that the next sandbox gets the last one's.
fn engine() -> Engine {
    Engine::builder().pool_size(1).build().expect("an engine")
}

/// A sandbox with a snapshot, where everything lies in it, and how a fresh copy of it looks.
fn prepared(engine: &Engine) -> (Snapshot, Places, Looks) {
    let mut sandbox = leaks(engine);
    let places = Places::of(&mut sandbox);
    // Where an unfinished `in` would write: what it puts there are zeros.
    sandbox.call::<_, ()>("write_pages", (places.spare(), 4u64, 1u64)).expect("room");
    let snapshot = sandbox.snapshot().expect("a snapshot");
    drop(sandbox);
    let looks = Looks::of(&mut snapshot.spawn().expect("a sandbox"), &places);
    (snapshot, places, looks)
}

/// Spawns in the one shell that stands idle.
fn spawned(engine: &Engine, snapshot: &Snapshot) -> Sandbox {
    assert_eq!(engine.idle_shells(), 1);
    let sandbox = snapshot.spawn().expect("a sandbox");
    assert_eq!(engine.idle_shells(), 0);
    sandbox
}

/// Uses a sandbox up in each way, and checks that a reset brings back what it looked like.
fn assert_resets(sandbox: &mut Sandbox, places: &Places, looks: &Looks) {
    for way in WAYS {
        use_up(sandbox, places, way);
        sandbox.reset().unwrap_or_else(|error| panic!("{way:?}: {error}"));
        assert_eq!(Looks::of(sandbox, places), *looks, "{way:?}");
        assert_clean(sandbox, places, way.0);
        sandbox.reset().unwrap();
    }
}

tests! {
    fn patterns_are_found_where_they_are() {
        let engine = engine();
        let mut sandbox = leaks(&engine);
        let places = Places::of(&mut sandbox);
        assert_clean(&mut sandbox, &places, "nothing");
        for name in ["stain", "swallow"] {
            let mut sandbox = leaks(&engine);
            use_up(&mut sandbox, &places, &(name, None));
            let found: Vec<u64> = sandbox.call("find", (&places.all[..], INVERTED)).unwrap();
            assert_eq!(found.len(), 16, "{name}");
        }
    }

    fn after_a_reset_a_built_sandbox_is_as_it_was_built() {
        let engine = engine();
        let places = Places::of(&mut leaks(&engine));
        let mut sandbox = leaks(&engine);
        let looks = Looks::of(&mut sandbox, &places);
        assert_resets(&mut sandbox, &places, &looks);
    }

    fn after_a_reset_a_spawned_sandbox_is_its_snapshot() {
        let (snapshot, places, looks) = prepared(&engine());
        let mut sandbox = snapshot.spawn().unwrap();
        assert_resets(&mut sandbox, &places, &looks);
    }

    fn after_a_reset_the_sandbox_that_a_snapshot_was_taken_of_is_that_snapshot() {
        let mut sandbox = leaks(&engine());
        let places = Places::of(&mut sandbox);
        sandbox.snapshot().unwrap();
        let looks = Looks::of(&mut sandbox, &places);
        assert_resets(&mut sandbox, &places, &looks);
    }

    fn the_next_sandbox_of_a_snapshot_in_the_same_shell_is_that_snapshot() {
        let engine = engine();
        let (snapshot, places, looks) = prepared(&engine);
        for way in WAYS {
            use_up(&mut spawned(&engine, &snapshot), &places, way);
            let mut next = spawned(&engine, &snapshot);
            assert_eq!(Looks::of(&mut next, &places), looks, "{way:?}");
            assert_clean(&mut next, &places, way.0);
        }
    }

    fn the_next_sandbox_of_another_snapshot_in_the_same_shell_is_that_snapshot() {
        let engine = engine();
        let (snapshot, places, _) = prepared(&engine);
        let mut other = alike(&engine).deterministic(6).build(namesake()).unwrap();
        let other_places = Places::of(&mut other);
        let other_snapshot = other.snapshot().unwrap();
        drop(other);
        let looks = Looks::of(&mut spawned(&engine, &other_snapshot), &other_places);
        for way in WAYS {
            use_up(&mut spawned(&engine, &snapshot), &places, way);
            let mut next = spawned(&engine, &other_snapshot);
            assert_eq!(Looks::of(&mut next, &other_places), looks, "{way:?}");
            assert_clean(&mut next, &other_places, way.0);
        }
    }

    fn the_next_program_built_in_the_same_shell_is_as_it_was_built() {
        let engine = engine();
        let (snapshot, places, _) = prepared(&engine);
        let build = || alike(&engine).deterministic(6).build(namesake()).unwrap();
        let mut other = build();
        let other_places = Places::of(&mut other);
        drop(other);
        let looks = Looks::of(&mut build(), &other_places);
        for (number, way) in WAYS.iter().enumerate() {
            // Once a spawned one before it, once a built one.
            let mut used = match number % 2 {
                0 => spawned(&engine, &snapshot),
                _ => leaks(&engine),
            };
            use_up(&mut used, &places, way);
            drop(used);
            let mut next = build();
            assert_eq!(engine.idle_shells(), 0);
            assert_eq!(Looks::of(&mut next, &other_places), looks, "{way:?}");
            assert_clean(&mut next, &other_places, way.0);
        }
    }

    fn a_sandbox_restored_to_another_snapshot_is_that_snapshot() {
        let engine = engine();
        let guest = guest("leaks");
        let mut first = alike(&engine).build(guest.clone()).unwrap();
        let mut second = alike(&engine).deterministic(6).build(guest).unwrap();
        let (places, second_places) = (Places::of(&mut first), Places::of(&mut second));
        let (one, two) = (first.snapshot().unwrap(), second.snapshot().unwrap());
        let looks = Looks::of(&mut one.spawn().unwrap(), &places);
        let second_looks = Looks::of(&mut two.spawn().unwrap(), &second_places);
        assert_ne!(looks, second_looks);
        let mut sandbox = one.spawn().unwrap();
        for way in WAYS {
            use_up(&mut sandbox, &places, way);
            sandbox.restore(&two).unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(Looks::of(&mut sandbox, &second_places), second_looks, "{way:?}");
            assert_clean(&mut sandbox, &second_places, way.0);
            use_up(&mut sandbox, &second_places, way);
            sandbox.restore(&one).unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(Looks::of(&mut sandbox, &places), looks, "{way:?}");
            sandbox.restore(&one).unwrap();
            assert_clean(&mut sandbox, &places, way.0);
            sandbox.restore(&one).unwrap();
        }
    }

    /// What a guest leaves in memory that is the supervisor's counts too, and what would lie in an
    /// image.
    fn from_outside_nothing_is_left_after_a_reset_or_a_drop() {
        isolated("leaks::from_outside_nothing_is_left_after_a_reset_or_a_drop", || {
            let engine = engine();
            let (snapshot, places, _) = prepared(&engine);
            let size = places.layout.size();
            assert!(!windows(size).is_empty());
            let look = || find_pattern(size, !INVERTED);
            for way in WAYS {
                let mut sandbox = spawned(&engine, &snapshot);
                use_up(&mut sandbox, &places, way);
                assert!(!look().is_empty(), "{way:?} leaves none to be found");
                sandbox.reset().unwrap();
                assert_eq!(look(), [""; 0], "{way:?}, reset");
                use_up(&mut sandbox, &places, way);
                drop(sandbox);
                assert_eq!(look(), [""; 0], "{way:?}, dropped");
                let mut sandbox = leaks(&engine);
                use_up(&mut sandbox, &places, way);
                sandbox.reset().unwrap();
                assert_eq!(look(), [""; 0], "{way:?}, reset to how it was built");
                use_up(&mut sandbox, &places, way);
                sandbox.reset().unwrap();
                sandbox.snapshot().unwrap();
                assert_eq!(look(), [""; 0], "{way:?}, in an image");
                use_up(&mut sandbox, &places, way);
                drop(sandbox);
                assert_eq!(look(), [""; 0], "{way:?}, dropped as it was built");
                snapshot.spawn().unwrap();
            }
        });
    }

    fn what_was_lent_to_one_use_is_out_of_the_nexts_reach() {
        let engine = engine();
        let (snapshot, places, looks) = prepared(&engine);
        let pattern = vec![(!INVERTED).to_le_bytes(); 1000].concat();
        let mapping = Mapping::copy_of(&pattern).unwrap();
        let lent = [LENT.start.to_le_bytes(), 4096u64.to_le_bytes()].concat();
        let find = |sandbox: &mut Sandbox| -> Result<Vec<u64>, Error> {
            sandbox.call("find", (&lent[..], INVERTED))
        };
        let ends: [fn(Sandbox, &Snapshot, &Engine) -> Sandbox; 5] = [
            |mut sandbox, _, _| {
                sandbox.reset().unwrap();
                sandbox
            },
            |mut sandbox, snapshot, _| {
                sandbox.restore(snapshot).unwrap();
                sandbox
            },
            |sandbox, snapshot, _| {
                drop(sandbox);
                snapshot.spawn().unwrap()
            },
            |sandbox, _, engine| {
                drop(sandbox);
                leaks(engine)
            },
            |mut sandbox, _, _| {
                sandbox.unmap_all().unwrap();
                sandbox
            },
        ];
        for (number, end) in (0..).zip(ends) {
            let mut sandbox = snapshot.spawn().unwrap();
            sandbox.map("secret", &mapping).unwrap();
            assert_eq!(find(&mut sandbox).unwrap().len(), 16);
            let mut next = end(sandbox, &snapshot, &engine);
            if number < 3 {
                assert_eq!(Looks::of(&mut next, &places), looks, "{number}");
            }
            assert_clean(&mut next, &places, "lending");
            let fault = find(&mut next).expect_err("nothing is there");
            assert_eq!(fault.kind(), ErrorKind::Fault, "{number}: {fault}");
            next.reset().unwrap();
            // Something shorter in its place.
            next.map("other", &Mapping::copy_of(&[1]).unwrap()).unwrap();
            assert!(find(&mut next).unwrap().is_empty(), "{number}");
        }
    }

    /// Where registers are set by requests of their own.
    fn a_snapshot_with_the_trap_flag_set_does_not_stop_before_its_registers_are_its_own() {
        // The flag would trap where the last user's vector registers are still there.
        let engine = engine();
        let mut sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
        for _ in 0..2 {
            sandbox.call::<_, ()>("return_with_the_trap_flag", ()).unwrap();
        }
        let snapshot = sandbox.snapshot().unwrap();
        let goes_on = |sandbox: &mut Sandbox| {
            sandbox.call::<_, ()>("return_with_the_trap_flag", ()).unwrap();
            assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
        };
        sandbox.reset().unwrap();
        goes_on(&mut sandbox);
        drop(sandbox);
        goes_on(&mut snapshot.spawn().unwrap());
    }

    fn without_shared_registers_nothing_is_left_either() {
        isolated("leaks::without_shared_registers_nothing_is_left_either", || {
            // KVM_CHECK_EXTENSION for KVM_CAP_SYNC_REGS says no.
            refuse(libc::SYS_ioctl, Some((2, 74)), 0);
            let engine = engine();
            let (snapshot, places, looks) = prepared(&engine);
            for way in WAYS {
                let mut sandbox = spawned(&engine, &snapshot);
                use_up(&mut sandbox, &places, way);
                sandbox.reset().unwrap();
                assert_eq!(Looks::of(&mut sandbox, &places), looks, "{way:?}");
                assert_clean(&mut sandbox, &places, way.0);
                sandbox.reset().unwrap();
                use_up(&mut sandbox, &places, way);
                drop(sandbox);
                let next = spawned(&engine, &snapshot).snapshot().unwrap();
                let mut next = next.spawn().unwrap();
                assert_eq!(Looks::of(&mut next, &places), looks, "{way:?}");
            }
        });
    }

    fn nothing_is_left_in_sandboxes_of_a_loaded_snapshot_either() {
        let engine = engine();
        let (snapshot, places, looks) = prepared(&engine);
        let name = format!("glowbox-test-leaks-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        snapshot.save(&path).unwrap();
        drop(snapshot);
        let loaded = Snapshot::loader()
            .engine(&engine)
            .host_function("end", |_how: u32| 0u32)
            .host_function("tick", || 0u64)
            .load(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(loaded.spawn().unwrap());
        for way in WAYS.iter().filter(|(name, _)| !name.contains("host") && !name.contains("nested")) {
            let mut sandbox = spawned(&engine, &loaded);
            use_up(&mut sandbox, &places, way);
            sandbox.reset().unwrap();
            assert_eq!(Looks::of(&mut sandbox, &places), looks, "{way:?}");
            use_up(&mut sandbox, &places, way);
            drop(sandbox);
            let mut next = spawned(&engine, &loaded);
            assert_eq!(Looks::of(&mut next, &places), looks, "{way:?}");
            assert_clean(&mut next, &places, way.0);
            // Of pages in a file and pages in memory, to pages in a memfd.
            let nested = next.snapshot().unwrap();
            let other = next.snapshot().unwrap();
            drop(next);
            for snapshot in [nested, other] {
                assert_clean(&mut spawned(&engine, &snapshot), &places, way.0);
            }
        }
    }
}
