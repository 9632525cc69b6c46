//! The thread that keeps shells ready, where that was asked for.
//!
//! It sleeps until a shell is taken from the pool and a snapshot has fewer left than were asked for.
//! It never makes another shell go: when the pool is full, it waits until the next one is taken.
//!
//! The pool asks while it is locked, and letting go of a snapshot locks the pool. So what is asked then
//! takes hold of no snapshot: images are known by their address.

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
    wanted: Vec<Wanted>,
    /// Whether to look.
    due: bool,
    stop: bool,
}

/// A snapshot that is to have shells ready.
#[derive(Clone)]
struct Wanted {
    snapshot: Weak<Captured>,
    /// The address of its image.
    image: usize,
    count: usize,
}

impl Wanted {
    fn is_of(&self, image: &Arc<Image>) -> bool {
        self.image == address(image) && self.snapshot.strong_count() > 0
    }
}

fn address(image: &Arc<Image>) -> usize {
    Arc::as_ptr(image).addr()
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
        state.wanted.retain(|known| known.snapshot.strong_count() > 0);
        state.wanted.retain(|known| !known.is_of(&snapshot.image));
        if count > 0 {
            let (image, snapshot) = (address(&snapshot.image), Arc::downgrade(snapshot));
            state.wanted.push(Wanted { snapshot, image, count });
        }
        state.due = true;
        self.shared.wake.notify_one();
    }

    /// Whether shells with this image are kept ready.
    pub(crate) fn wants(&self, image: &Arc<Image>) -> bool {
        self.shared.lock().wanted.iter().any(|wanted| wanted.is_of(image))
    }

    /// Tells that a shell has left the pool; `left` counts those that have an image of this address.
    pub(crate) fn taken(&self, left: impl Fn(usize) -> usize) {
        let mut state = self.shared.lock();
        let short = state.wanted.iter().any(|wanted| left(wanted.image) < wanted.count);
        if short && !state.due {
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
            state.wanted.retain(|wanted| wanted.snapshot.strong_count() > 0);
            let wanted = state.wanted.clone();
            drop(state);
            for Wanted { snapshot, count, .. } in wanted {
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
