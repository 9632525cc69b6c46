//! VMs that are kept ready in the background.

use std::time::{Duration, Instant};

use glowbox::{Engine, Sandbox, Snapshot};

use crate::support::{guest, isolated};

fn snapshot(engine: &Engine) -> Snapshot {
    let builder = Sandbox::builder().engine(engine);
    builder.build(guest("faults")).unwrap().snapshot().unwrap()
}

/// Waits until so many VMs are idle.
#[track_caller]
fn wait_for(engine: &Engine, count: usize) {
    let start = Instant::now();
    while engine.idle_shells() != count {
        assert!(start.elapsed() < Duration::from_secs(20), "{} are idle", engine.idle_shells());
        std::thread::sleep(Duration::from_millis(1));
    }
}

tests! {
    fn as_many_as_were_asked_for_are_made_and_made_again() {
        let engine = Engine::builder().pool_size(8).build().unwrap();
        let snapshot = snapshot(&engine);
        // The VM in which the guest booted.
        wait_for(&engine, 1);
        snapshot.keep_ready(5).unwrap();
        wait_for(&engine, 6);
        let taken: Vec<Sandbox> = (0..5).map(|_| snapshot.spawn().unwrap()).collect();
        wait_for(&engine, 6);
        drop(taken);
        // What comes back is kept as far as there is room.
        wait_for(&engine, 8);
        snapshot.keep_ready(0).unwrap();
        let taken: Vec<Sandbox> = (0..8).map(|_| snapshot.spawn().unwrap()).collect();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(engine.idle_shells(), 0);
        drop(taken);
    }

    fn no_more_are_made_than_the_pool_holds() {
        let engine = Engine::builder().pool_size(3).build().unwrap();
        let (one, two) = (snapshot(&engine), snapshot(&engine));
        one.keep_ready(usize::MAX).unwrap();
        two.keep_ready(usize::MAX).unwrap();
        wait_for(&engine, 3);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(engine.idle_shells(), 3);
        let none = Engine::builder().pool_size(0).build().unwrap();
        snapshot(&none).keep_ready(5).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(none.idle_shells(), 0);
    }

    fn the_thread_that_makes_them_ends_with_its_engine() {
        isolated("ready::the_thread_that_makes_them_ends_with_its_engine", || {
            let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
            let before = threads();
            for _ in 0..5 {
                let engine = Engine::builder().pool_size(4).build().unwrap();
                let snapshot = snapshot(&engine);
                snapshot.keep_ready(4).unwrap();
                drop(engine);
                // The snapshot still has its engine.
                assert!(snapshot.spawn().is_ok());
                drop(snapshot);
            }
            let start = Instant::now();
            while threads() != before {
                assert!(start.elapsed() < Duration::from_secs(20), "{} threads", threads());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
}
