//! How a running guest is stopped from another thread.
//!
//! Three parties meet in [`RunControl`]: the thread that runs a call, whoever wants to stop it, and
//! the watchdog that enforces deadlines. Its state is one word: a generation that grows with each
//! call, and a phase. Stopping is a compare-and-swap on that word, so a request can't hit a later
//! call than the one it saw, and a request that comes when nothing runs changes nothing.
//!
//! A thread inside the hypervisor is got out by a signal. Its handler does one thing: it sets
//! `immediate_exit` in the run page of the vCPU that *this* thread is running, if any (or, where a process
//! runs the guest, sends that one a signal). That closes
//! the gap between the last check of the state and the entry into the guest (the signal has then
//! come already, and the entry returns at once), needs no other thread to touch the run page, and
//! makes a signal that comes too late harmless: another call that it wakes sees that nothing was
//! asked of it, and goes on.
//!
//! The signal is a real-time one; the handler is installed once a process, only where the signal
//! has its default action, and with `SA_RESTART`, so that most other system calls of the thread do
//! not notice it (those that are never restarted, such as `poll` and `nanosleep`, return early if an
//! interrupt comes while a host function is in one). Ends of time slices, which come all the time,
//! are signalled to threads in the guest only.
//!
//! Not every hypervisor has a byte such as `immediate_exit`: Microsoft's driver only looks for a pending
//! signal when it is asked to run a guest. One whose handler has run just before has been in vain. So while
//! such a guest is entered or about to be, the handler also starts a timer of this thread's, which sends
//! the signal again and again until the guest has been left (`Entered::repeating`).
//!
//! A process that is forked has other thread ids; what is remembered of them is forgotten there.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering, compiler_fence};

use libc::c_long;

use crate::MachineError;

/// The signal that stops a process that runs a guest. Ignored, unless there is a tracer.
pub(crate) const KICK: i32 = libc::SIGURG;

/// Why a call is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Someone asked for it.
    Interrupted,
    /// Its deadline has passed.
    Deadline,
}

/// Phases, in the low bits of the state.
const IDLE: u64 = 0;
const RUNNING: u64 = 1;
const INTERRUPTED: u64 = 2;
const EXPIRED: u64 = 3;
const PHASE: u64 = 3;
const GENERATION: u64 = 4;

/// A deadline that never comes.
pub const NO_DEADLINE: u64 = u64::MAX;

/// The state of one sandbox's calls.
#[derive(Debug)]
pub struct RunControl {
    state: AtomicU64,
    thread: AtomicI32,
    deadline: AtomicU64,
    /// When the guest's time slice is over, on the watchdog's clock.
    slice_end: AtomicU64,
    /// Whether it is over.
    tick: AtomicBool,
    /// Whether the guest is entered, or about to be.
    entered: AtomicBool,
    signal: i32,
}

/// How long a thread of a guest with several of them runs until another one's turn comes, in
/// nanoseconds.
pub const SLICE: u64 = 5_000_000;

impl RunControl {
    /// A state in which nothing runs. `signal` must have been given to [`install`].
    pub fn new(signal: InstalledSignal) -> RunControl {
        RunControl {
            state: AtomicU64::new(IDLE),
            thread: AtomicI32::new(0),
            deadline: AtomicU64::new(NO_DEADLINE),
            slice_end: AtomicU64::new(NO_DEADLINE),
            tick: AtomicBool::new(false),
            entered: AtomicBool::new(false),
            signal: signal.0,
        }
    }

    /// The signal that gets threads out of the guest.
    pub(crate) fn signal(&self) -> i32 {
        self.signal
    }

    /// Begins a call on this thread. `deadline` is in nanoseconds on the watchdog's clock.
    pub fn begin(&self, deadline: u64) {
        self.thread.store(thread_id(self.signal), Ordering::Relaxed);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.slice_end.store(NO_DEADLINE, Ordering::Relaxed);
        self.tick.store(false, Ordering::Relaxed);
        let generation = self.state.load(Ordering::Relaxed) & !PHASE;
        // Sequentially consistent, because the caller looks at the watchdog's plans next.
        self.state.store(generation.wrapping_add(GENERATION) | RUNNING, Ordering::SeqCst);
    }

    /// Ends the call.
    pub fn end(&self) {
        let generation = self.state.load(Ordering::Relaxed) & !PHASE;
        self.state.store(generation | IDLE, Ordering::SeqCst);
    }

    /// Whether the running call is to stop.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self.state.load(Ordering::SeqCst) & PHASE {
            INTERRUPTED => Some(StopReason::Interrupted),
            EXPIRED => Some(StopReason::Deadline),
            _ => None,
        }
    }

    /// Stops the call that is running now. `false` if none is, or it is stopping already.
    pub fn interrupt(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        self.stop(state, INTERRUPTED)
    }

    /// The running call's deadline, in nanoseconds on the watchdog's clock.
    pub fn deadline(&self) -> Option<u64> {
        let running = self.state.load(Ordering::SeqCst) & PHASE == RUNNING;
        let deadline = self.deadline.load(Ordering::Relaxed);
        (running && deadline != NO_DEADLINE).then_some(deadline)
    }

    /// Has the running call's guest stopped for a moment ([`crate::Exit::Tick`]) at `first`, on the
    /// watchdog's clock, and after each [`SLICE`] from then on; `NO_DEADLINE` for no more of that.
    pub fn set_slice(&self, first: u64) {
        // Sequentially consistent, as in `begin`.
        self.slice_end.store(first, Ordering::SeqCst);
    }

    /// When the running call's time slice is over, in nanoseconds on the watchdog's clock.
    pub fn slice_end(&self) -> Option<u64> {
        let running = self.state.load(Ordering::SeqCst) & PHASE == RUNNING;
        let end = self.slice_end.load(Ordering::SeqCst);
        (running && end != NO_DEADLINE).then_some(end)
    }

    /// Ends the running call's time slice if that is not after `now`, and begins the next one. A thread
    /// that is not in the guest but, say, in a host function, is left alone: it gets to know when it
    /// enters.
    pub fn tick(&self, now: u64) {
        let Some(end) = self.slice_end().filter(|end| *end <= now) else {
            return;
        };
        // If the call has ended meanwhile, or another one begun, that one has set its own.
        let next = now.saturating_add(SLICE);
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.slice_end.compare_exchange(end, next, success, failure).is_ok() {
            // In this order, and sequentially consistent: either the flag is seen here, or the tick
            // is seen there.
            self.tick.store(true, Ordering::SeqCst);
            if self.entered.load(Ordering::SeqCst) {
                send(self.thread.load(Ordering::SeqCst), self.signal);
            }
        }
    }

    /// Says whether the guest is about to be entered, or has been left. Returns whether a time slice has
    /// ended that no signal will tell of.
    pub(crate) fn set_entered(&self, entered: bool) -> bool {
        self.entered.store(entered, Ordering::SeqCst);
        entered && self.tick.load(Ordering::SeqCst)
    }

    /// Whether the time slice is over, since this was last asked.
    pub(crate) fn take_tick(&self) -> bool {
        self.tick.swap(false, Ordering::SeqCst)
    }

    /// A number that changes whenever a call begins.
    pub fn calls(&self) -> u64 {
        self.state.load(Ordering::SeqCst) / GENERATION
    }

    /// Stops the running call if its deadline is not after `now`.
    pub fn expire(&self, now: u64) -> bool {
        // The deadline read here may belong to a later call than the state; then the state has
        // changed too, and the swap fails.
        let state = self.state.load(Ordering::SeqCst);
        let due = self.deadline.load(Ordering::SeqCst) <= now;
        due && self.stop(state, EXPIRED)
    }

    fn stop(&self, state: u64, phase: u64) -> bool {
        if state & PHASE != RUNNING {
            return false;
        }
        let thread = self.thread.load(Ordering::SeqCst);
        let stopped = state & !PHASE | phase;
        let swapped =
            self.state.compare_exchange(state, stopped, Ordering::SeqCst, Ordering::SeqCst);
        if swapped.is_ok() {
            send(thread, self.signal);
        }
        swapped.is_ok()
    }
}

/// A signal whose handler is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstalledSignal(i32);

impl InstalledSignal {
    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// The signal that is used unless another is asked for: the last but two of the real-time ones,
/// far from the low ones that libraries and programs tend to take first.
pub fn default_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// Installs the handler for `signal`, once a process.
///
/// # Errors
///
/// If it is no real-time signal, or the program has a handler for it or ignores it.
pub fn install(signal: i32) -> Result<InstalledSignal, MachineError> {
    static INSTALLED: Mutex<Vec<i32>> = Mutex::new(Vec::new());
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    if !(min..=max).contains(&signal) {
        return Err(MachineError::NotRealTime { signal, min, max });
    }
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if installed.contains(&signal) {
        return Ok(InstalledSignal(signal));
    }
    let failed =
        || MachineError::Request { request: "sigaction", source: io::Error::last_os_error() };
    // SAFETY: an all-zero sigaction is a valid value of that plain C struct.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: reads the present action into a struct that lives on this stack.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut present) } != 0 {
        return Err(failed());
    }
    if present.sa_sigaction != libc::SIG_DFL {
        return Err(MachineError::SignalTaken { signal });
    }
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = leave_guest as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler is async-signal-safe: it reads one thread-local and stores one byte.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    if installed.is_empty() {
        // SAFETY: the handler stores to a thread-local of the forked process's only thread.
        unsafe { libc::pthread_atfork(None, None, Some(forget_thread)) };
    }
    installed.push(signal);
    Ok(InstalledSignal(signal))
}

thread_local! {
    /// `immediate_exit` of the vCPU that this thread is running, or null.
    static RUNNING_VCPU: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
    /// The process that runs this thread's guest, as a descriptor, or -1.
    static RUNNING_PROCESS: Cell<i32> = const { Cell::new(-1) };
    /// This thread's id, and the signal that has been unblocked in it.
    static THREAD: Cell<(i32, i32)> = const { Cell::new((0, 0)) };
    /// The timer that the handler is to start.
    static REPEATING: Cell<Repeating> = const { Cell::new(Repeating::NONE) };
    /// Whether the handler has started it.
    static REPEATED: Cell<bool> = const { Cell::new(false) };
    /// This thread's timer.
    static TIMER: RefCell<Option<Timer>> = const { RefCell::new(None) };
}

/// Runs in the child of a fork, which has no timers.
extern "C" fn forget_thread() {
    let _ = THREAD.try_with(|thread| thread.set((0, 0)));
    let _ = TIMER.try_with(|timer| {
        if let Ok(mut timer) = timer.try_borrow_mut() {
            std::mem::forget(timer.take());
        }
    });
}

/// How long after a signal that may have been in vain comes the next, in nanoseconds. It has to be longer than
/// a handler takes.
const REPEAT_AFTER: libc::c_long = 200_000;

/// A timer's id, or none, in one word: a handler never sees the half of it. The C library's ids are pointers,
/// of which null is one that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Repeating(usize);

impl Repeating {
    const NONE: Repeating = Repeating(0);

    fn of(id: libc::timer_t) -> Repeating {
        Repeating(id.expose_provenance().wrapping_add(1))
    }

    fn id(self) -> Option<libc::timer_t> {
        let id = || ptr::with_exposed_provenance_mut(self.0.wrapping_sub(1));
        (self != Repeating::NONE).then(id)
    }
}

/// A timer that sends a signal to the thread that made it.
#[derive(Debug)]
struct Timer {
    id: libc::timer_t,
    signal: i32,
}

impl Timer {
    fn new(signal: i32) -> io::Result<Timer> {
        // SAFETY: an all-zero sigevent is a valid value of that plain C struct.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: takes no arguments and can't fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut id = ptr::null_mut();
        // SAFETY: both structs live on this stack.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Timer { id, signal })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own, and no `Entered` of this thread uses it any more.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// Has a timer send its signal from `REPEAT_AFTER` on, or no more. Async-signal-safe.
fn set_timer(id: libc::timer_t, on: bool) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: if on { REPEAT_AFTER } else { 0 } };
    let times = libc::itimerspec { it_interval: time, it_value: time };
    // SAFETY: the timer is this thread's, and the struct lives on this stack.
    unsafe { libc::timer_settime(id, 0, &raw const times, ptr::null_mut()) };
}

/// The signal's handler.
extern "C" fn leave_guest(_signal: libc::c_int) {
    // A thread that is being destroyed has no thread-locals any more, and runs no guest.
    let _ = RUNNING_VCPU.try_with(|running| {
        let flag = running.get();
        if !flag.is_null() {
            // SAFETY: the pointer is set by `Entered::new` and taken back before the vCPU that
            // the byte belongs to can go away, on this same thread.
            unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::SeqCst);
        }
    });
    let _ = RUNNING_PROCESS.try_with(|running| {
        let process = running.get();
        if process >= 0 {
            // SAFETY: the system call takes integers and no address. What was interrupted finds its error
            // number as it was.
            unsafe {
                let error = *libc::__errno_location();
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    c_long::from(process),
                    c_long::from(KICK),
                    ptr::null::<libc::siginfo_t>(),
                    0 as c_long,
                );
                *libc::__errno_location() = error;
            }
        }
    });
    let _ = REPEATING.try_with(|timer| {
        if let (Some(id), false) = (timer.get().id(), REPEATED.get()) {
            REPEATED.set(true);
            // It succeeds, and leaves `errno` alone then.
            set_timer(id, true);
        }
    });
}

/// This thread's id; looked up once a thread, as is unblocking the signal in it.
fn thread_id(signal: i32) -> i32 {
    let (thread, unblocked) = THREAD.get();
    if thread != 0 && unblocked == signal {
        return thread;
    }
    // SAFETY: takes no arguments and can't fail.
    let thread = unsafe { libc::gettid() };
    // SAFETY: the set lives on this stack and is initialised by sigemptyset before its use.
    // Without this a thread that was started with signals blocked could never be interrupted.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
    }
    THREAD.set((thread, signal));
    thread
}

/// Sends the signal to a thread of this process. It may have ended; then nothing happens.
fn send(thread: i32, signal: i32) {
    // SAFETY: tgkill takes three integers. The thread group is this process, and the signal has a
    // handler, so no thread of this or another process can be harmed.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}

/// While it lives, the signal's handler makes this thread's vCPU exit.
pub(crate) struct Entered {
    previous: (*mut u8, i32, Repeating),
}

impl Entered {
    /// For a vCPU that has such a byte.
    ///
    /// # Safety
    ///
    /// `immediate_exit` must stay valid while the returned value lives, and that value must be
    /// dropped on this thread.
    pub(crate) unsafe fn new(immediate_exit: *mut u8) -> Entered {
        Entered::replace(immediate_exit, -1, Repeating::NONE)
    }

    /// The same for the process that a descriptor stands for. It stays open while the returned value lives.
    pub(crate) fn process(descriptor: &impl AsRawFd) -> Entered {
        Entered::replace(ptr::null_mut(), descriptor.as_raw_fd(), Repeating::NONE)
    }

    /// For a vCPU that is got out by a signal, and by nothing else. The signal repeats itself from when it
    /// has come until [`Entered::rest`], or until the value is dropped.
    ///
    /// # Errors
    ///
    /// What the system said, if it has no timer for this thread.
    pub(crate) fn repeating(signal: i32) -> io::Result<Entered> {
        let timer = TIMER.with_borrow_mut(|timer| {
            if timer.as_ref().is_none_or(|timer| timer.signal != signal) {
                *timer = Some(Timer::new(signal)?);
            }
            Ok::<_, io::Error>(timer.as_ref().expect("just made").id)
        })?;
        REPEATED.set(false);
        Ok(Entered::replace(ptr::null_mut(), -1, Repeating::of(timer)))
    }

    fn replace(immediate_exit: *mut u8, process: i32, timer: Repeating) -> Entered {
        let vcpu = RUNNING_VCPU.replace(immediate_exit);
        let previous = (vcpu, RUNNING_PROCESS.replace(process), REPEATING.replace(timer));
        Entered { previous }
    }

    /// Ends the signal's repetition, until it comes again. What it stands for is to be looked at after this.
    pub(crate) fn rest(&self) {
        if let (Some(id), true) = (REPEATING.get().id(), REPEATED.get()) {
            set_timer(id, false);
            // In this order: a signal that comes in between has its effect looked at all the same.
            REPEATED.set(false);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let timer = REPEATING.get().id();
        RUNNING_VCPU.set(self.previous.0);
        RUNNING_PROCESS.set(self.previous.1);
        REPEATING.set(self.previous.2);
        // In this order: from here on the handler starts this timer no more.
        compiler_fence(Ordering::SeqCst);
        if let (Some(id), true) = (timer, REPEATED.get()) {
            set_timer(id, false);
            REPEATED.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> RunControl {
        RunControl::new(install(default_signal()).unwrap())
    }

    #[test]
    fn interrupting_nothing_does_nothing() {
        let control = control();
        assert!(!control.interrupt());
        control.begin(NO_DEADLINE);
        control.end();
        assert!(!control.interrupt());
        control.begin(NO_DEADLINE);
        assert_eq!(control.stop_reason(), None);
    }

    #[test]
    fn a_running_call_is_stopped_once() {
        let control = control();
        control.begin(NO_DEADLINE);
        assert!(control.interrupt());
        assert!(!control.interrupt());
        assert!(!control.expire(NO_DEADLINE));
        assert_eq!(control.stop_reason(), Some(StopReason::Interrupted));
        control.end();
        assert_eq!(control.stop_reason(), None);
    }

    #[test]
    fn a_stale_request_does_not_hit_the_next_call() {
        let control = control();
        control.begin(NO_DEADLINE);
        let seen = control.state.load(Ordering::SeqCst);
        control.end();
        control.begin(NO_DEADLINE);
        assert!(!control.stop(seen, INTERRUPTED));
        assert_eq!(control.stop_reason(), None);
    }

    #[test]
    fn deadlines_expire_when_they_are_due() {
        let control = control();
        control.begin(1000);
        assert_eq!(control.deadline(), Some(1000));
        assert!(!control.expire(999));
        assert!(control.expire(1000));
        assert_eq!(control.stop_reason(), Some(StopReason::Deadline));
        assert_eq!(control.deadline(), None);
    }

    #[test]
    fn a_time_slice_that_ends_outside_the_guest_is_noticed_at_its_entry() {
        let control = control();
        control.begin(NO_DEADLINE);
        control.set_slice(1000);
        assert!(!control.set_entered(true));
        control.set_entered(false);
        control.tick(999);
        assert!(!control.take_tick());
        control.tick(1000);
        assert_eq!(control.slice_end(), Some(1000 + SLICE));
        assert!(control.set_entered(true));
        assert!(control.take_tick());
        assert!(!control.set_entered(true));
        control.set_entered(false);
    }

    /// Sleeps so long, and returns whether a signal has ended that.
    fn sleep(milliseconds: libc::c_long) -> bool {
        let time = libc::timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        // SAFETY: the struct lives on this stack, and nothing is written.
        unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) != 0 }
    }

    #[test]
    fn a_signal_that_came_before_the_system_call_comes_again_until_it_has_met_it() {
        let signal = install(default_signal()).unwrap().number();
        let this = thread_id(signal);
        let entered = Entered::repeating(signal).unwrap();
        for _ in 0..20 {
            assert!(!sleep(1));
            // The handler runs before this returns.
            send(this, signal);
            assert!(sleep(900));
            assert!(sleep(900));
            entered.rest();
            assert!(!sleep(5));
        }
        send(this, signal);
        drop(entered);
        assert!(!sleep(5));
        // Without a guest it does nothing.
        send(this, signal);
        assert!(!sleep(5));
    }

    #[test]
    fn a_signal_with_a_handler_is_left_alone() {
        extern "C" fn mine(_: libc::c_int) {}
        let signal = libc::SIGRTMAX() - 7;
        // SAFETY: installs a handler that does nothing.
        unsafe { libc::signal(signal, mine as extern "C" fn(libc::c_int) as libc::sighandler_t) };
        assert!(matches!(install(signal), Err(MachineError::SignalTaken { .. })));
        assert!(matches!(install(libc::SIGUSR1), Err(MachineError::NotRealTime { .. })));
    }
}
