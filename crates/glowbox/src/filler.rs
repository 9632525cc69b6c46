//! The thread that keeps shells ready, where that was asked for.
//!
//! It sleeps until a sandbox is spawned and fewer shells are left with that snapshot's image than were
//! asked for. It never makes another shell go: when the pool is full, it waits for the next spawn.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use glowbox_mem::Image;

use crate::pool::Pool;
use crate::snapshot::Captured;

/// Keeps shells ready.
pub(crate) struct Filler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Snapshots, and how many shells each is to have.
    wanted: Vec<(Weak<Captured>, usize)>,
    /// Whether to look.
    due: bool,
    stop: bool,
}

impl Filler {
    pub(crate) fn start(pool: Weak<Pool>) -> std::io::Result<Filler> {
        let shared = Arc::new(Shared::default());
        let runner = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("glowbox-pool".into());
        let thread = builder.spawn(move || runner.run(&pool))?;
        Ok(Filler { shared, thread: Some(thread), process: std::process::id() })
    }

    /// Keeps so many shells ready for a snapshot from now on.
    pub(crate) fn want(&self, snapshot: &Arc<Captured>, count: usize) {
        let mut state = self.shared.lock();
        let asked = Arc::downgrade(snapshot);
        state.wanted.retain(|(known, _)| known.strong_count() > 0 && !known.ptr_eq(&asked));
        if count > 0 {
            state.wanted.push((asked, count));
        }
        state.due = true;
        self.shared.wake.notify_one();
    }

    /// Tells that so many shells with an image are left.
    pub(crate) fn left(&self, image: &Arc<Image>, count: usize) {
        let mut state = self.shared.lock();
        let wanted = state.wanted.iter().any(|(snapshot, wanted)| {
            count < *wanted
                && snapshot.upgrade().is_some_and(|snapshot| Arc::ptr_eq(&snapshot.image, image))
        });
        if wanted && !state.due {
            state.due = true;
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.process != std::process::id() {
            // A fork has neither the thread nor whoever may have held the lock.
            std::mem::forget(thread);
            return;
        }
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        // The thread itself may have been the last to hold the pool.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, pool: &Weak<Pool>) {
        loop {
            let mut state = self.lock();
            while !state.due && !state.stop {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            state.due = false;
            state.wanted.retain(|(snapshot, _)| snapshot.strong_count() > 0);
            let wanted = state.wanted.clone();
            drop(state);
            for (snapshot, count) in wanted {
                let (Some(pool), Some(snapshot)) = (pool.upgrade(), snapshot.upgrade()) else {
                    continue;
                };
                while pool.ready(&snapshot.image) < count && pool.has_room() {
                    if let Err(error) = pool.add_ready(&snapshot) {
                        tracing::warn!(target: "glowbox", "no VM can be made ready: {error}");
                        break;
                    }
                }
            }
        }
    }
}
