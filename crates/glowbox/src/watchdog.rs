//! The thread that enforces deadlines.
//!
//! A call with a deadline must cost no system call. So a call only writes its deadline down, in its
//! sandbox's `RunControl`, and looks when the watchdog will look next; only if that is too late does it
//! wake the watchdog. In a loop of calls with one deadline the watchdog wakes about once per that
//! time and finds nothing due. It goes to sleep for good when there have been no calls since it
//! last looked.
//!
//! The two sides meet as in Dekker's algorithm: a call writes its deadline, then reads `next_look`;
//! the watchdog writes `next_look`, then reads the deadlines. One of them sees the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glowbox_machine::interrupt::{NO_DEADLINE, RunControl, SLICE};

/// Enforces the deadlines of the calls it is told of.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

#[derive(Debug)]
struct Shared {
    /// When the watchdog looks next, by `now`; `NO_DEADLINE` if it sleeps.
    next_look: AtomicU64,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    watched: Vec<Weak<RunControl>>,
    /// How many of `watched` there were after the last removal of dead ones.
    live: usize,
    /// The time allowed to the call that woke the watchdog last.
    period: u64,
    stop: bool,
}

impl Watchdog {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Watchdog> {
        let state = State { watched: Vec::new(), live: 0, period: 0, stop: false };
        let shared = Shared {
            next_look: AtomicU64::new(NO_DEADLINE),
            state: Mutex::new(state),
            wake: Condvar::new(),
        };
        let shared = Arc::new(shared);
        let runner = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("glowbox-watchdog".into());
        let thread = builder.spawn(move || runner.run())?;
        Ok(Watchdog { shared, thread: Some(thread), process: std::process::id() })
    }

    /// Watches a sandbox's calls, for as long as the sandbox lives.
    pub(crate) fn watch(&self, control: &Arc<RunControl>) {
        let mut state = self.shared.lock();
        if state.watched.len() > 2 * state.live + 16 {
            state.watched.retain(|control| control.strong_count() > 0);
            state.live = state.watched.len();
        }
        state.watched.push(Arc::downgrade(control));
    }

    /// Watches a control that it may be watching already.
    pub(crate) fn watch_once(&self, control: &Arc<RunControl>) {
        let known = Arc::as_ptr(control);
        let watched = self.shared.lock().watched.iter().any(|other| other.as_ptr() == known);
        if !watched {
            self.watch(control);
        }
    }

    /// The deadline of a call that begins now and may take `allowed`, for [`RunControl::begin`].
    pub(crate) fn deadline(&self, allowed: Option<Duration>) -> u64 {
        match allowed {
            Some(allowed) => self.shared.now().saturating_add(nanoseconds(allowed)),
            None => NO_DEADLINE,
        }
    }

    /// When a time slice that begins now is over, for [`RunControl::set_slice`].
    pub(crate) fn slice_end(&self) -> u64 {
        self.shared.now().saturating_add(SLICE)
    }

    /// Makes sure that the watchdog looks in time; to be called after [`RunControl::begin`].
    pub(crate) fn expect(&self, deadline: u64) {
        if deadline < self.shared.next_look.load(Ordering::SeqCst) {
            self.wake(deadline);
        }
    }

    #[cold]
    fn wake(&self, deadline: u64) {
        let mut state = self.shared.lock();
        state.period = deadline.saturating_sub(self.shared.now());
        // It looks as soon as it gets to run, and need not be told again until then.
        self.shared.next_look.store(deadline, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A fork has neither the thread nor whoever may have held the lock.
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It can't have panicked; if it has, there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds on a clock that all watchdogs of the process share: a sandbox may change engines.
    fn now(&self) -> u64 {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        nanoseconds(EPOCH.get_or_init(Instant::now).elapsed())
    }

    fn run(&self) {
        let mut state = self.lock();
        let mut calls_seen = 0;
        while !state.stop {
            let now = self.now();
            let calls = state.calls();
            let active = calls != calls_seen;
            calls_seen = calls;
            let mut next = state.expire(now);
            if next == NO_DEADLINE && active {
                next = now.saturating_add(state.period.max(1));
            }
            self.next_look.store(next, Ordering::SeqCst);
            // A call that has not seen this store is seen here.
            let earliest = state.expire(now);
            if earliest < next {
                continue;
            }
            state = match next {
                NO_DEADLINE => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                next => {
                    let time = Duration::from_nanos(next.saturating_sub(self.now()));
                    let waited = self.wake.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl State {
    fn controls(&self) -> impl Iterator<Item = Arc<RunControl>> {
        self.watched.iter().filter_map(Weak::upgrade)
    }

    /// A number that changes when calls begin.
    fn calls(&self) -> u64 {
        self.controls().fold(0, |sum, control| sum.wrapping_add(control.calls()))
    }

    /// Stops the calls whose deadline has passed, ends time slices, and returns the earliest end of
    /// either that has not come.
    fn expire(&self, now: u64) -> u64 {
        let mut earliest = NO_DEADLINE;
        for control in self.controls() {
            control.tick(now);
            if let Some(end) = control.slice_end() {
                earliest = earliest.min(end);
            }
            if !control.expire(now)
                && let Some(deadline) = control.deadline()
            {
                earliest = earliest.min(deadline);
            }
        }
        earliest
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NO_DEADLINE - 1)
}
