//! Threads, and what makes them wait and go on: scheduling, futexes, signals.
//!
//! There is one vCPU, so one thread runs and the others stand in a queue, first come, first served.
//! A thread whose call can't be answered yet waits with the call written down, and makes it again
//! when what it waits for may have happened; so a handler never holds anything over a wait, and a
//! process can be copied or written to a file at any time.
//!
//! The vCPU keeps the state of the thread that was on it last (see `loaded`), even while that one
//! waits: only another thread pushes it out. A program with one thread never has its state moved.

use std::collections::VecDeque;
use std::ops::BitOr;
use std::sync::Arc;

use glowbox_core::registers::Registers;
use serde::{Deserialize, Serialize};

use crate::call::{Wait, WaitFor};
use crate::table::{Entry, entries};
use crate::{Bases, Streams};

pub(crate) mod futex;
mod life;
mod saved;
pub(crate) mod signals;
mod timer;

use saved::Saved;
use signals::{Action, AltStack, Pending, Signal, Trap};
use timer::Alarm;

/// The process's id, and that of its first thread. Not 1: some programs take themselves for `init`
/// then.
pub(crate) const PID: u32 = 2;
/// Thread ids go up to here, and then begin again.
const LAST_ID: u32 = 1 << 22;

/// A process's threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Threads {
    /// Never empty.
    list: Vec<Thread>,
    /// The thread in whose name calls are made.
    current: u32,
    /// The thread whose segment bases and extended state the vCPU holds; 0 if nobody's.
    loaded: u32,
    /// The others that can run, the next one first.
    queue: VecDeque<u32>,
    next_id: u32,
    /// Counts waits, so that who waits longest is known.
    turn: u64,
    /// Counts calls that may have brought about what threads wait for in files.
    happened: u64,
    /// What the first thread left with, if it has.
    leader_status: Option<i32>,
    /// What signals do, by number less one. Shared by the process's copies until one changes it.
    actions: Arc<[Action]>,
    /// Signals for whichever thread takes them.
    pending: Pending,
    alarm: Option<Alarm>,
    /// Segment bases that the current thread has set, until the vCPU is given them.
    #[serde(skip)]
    bases: Option<Bases>,
    /// Whether the current thread lets others go first.
    #[serde(skip)]
    yielded: bool,
}

/// One thread.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Thread {
    id: u32,
    /// Its registers, while it does not run.
    #[serde(with = "saved::registers")]
    registers: Registers,
    /// The rest of its state, unless the vCPU holds that.
    saved: Option<Box<Saved>>,
    state: State,
    /// Signals that it blocks.
    mask: u64,
    /// What it blocks when the call that it makes is over, if that is something else.
    mask_after: Option<u64>,
    pending: Pending,
    alt_stack: AltStack,
    /// The last exception that became a signal.
    trap: Trap,
    /// Where to write a zero when it ends.
    clear_id: u64,
    /// Head of its list of robust futexes.
    robust_list: u64,
    name: [u8; 16],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// It runs, or could.
    Running,
    Waiting(Waiting),
}

/// A wait, and the call to make again after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) made: Made,
    pub(crate) wait: Wait,
    /// The count of waits when it began.
    turn: u64,
    /// The count of what happened when it began.
    seen: u64,
    /// Why it is over, if it is. The thread stands in the queue then.
    ready: Option<Ready>,
}

/// A call that a thread has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Of `rax` it is the lower half, whatever the upper says.
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ready {
    /// What it was for has happened, or may have.
    Woken,
    /// The time has come.
    TimedOut,
    /// There is a signal.
    Interrupted,
}

impl Threads {
    /// The first thread, which is on the vCPU.
    pub(crate) fn new() -> Threads {
        let mut name = [0; 16];
        name[..5].copy_from_slice(b"guest");
        let first = Thread {
            id: PID,
            registers: Registers::default(),
            saved: None,
            state: State::Running,
            mask: 0,
            mask_after: None,
            pending: Pending::default(),
            alt_stack: AltStack::default(),
            trap: Trap::default(),
            clear_id: 0,
            robust_list: 0,
            name,
        };
        Threads {
            list: vec![first],
            current: PID,
            loaded: PID,
            queue: VecDeque::new(),
            next_id: PID + 1,
            turn: 0,
            happened: 0,
            leader_status: None,
            actions: Action::defaults(),
            pending: Pending::default(),
            alarm: None,
            bases: None,
            yielded: false,
        }
    }

    /// Whether they may be used as they stand, for a process that comes from a file.
    pub(crate) fn is_sound(&self, most: u32) -> bool {
        let mut ids: Vec<u32> = self.list.iter().map(|thread| thread.id).collect();
        ids.sort_unstable();
        let mut queued: Vec<u32> = self.queue.iter().copied().collect();
        queued.sort_unstable();
        let distinct = |ids: &[u32]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        let exists = |id: &u32| ids.binary_search(id).is_ok();
        let ids_fit = ids.iter().all(|id| (PID..LAST_ID).contains(id));
        let runs = |thread: &Thread| match thread.state {
            State::Running => thread.id == self.loaded || queued.binary_search(&thread.id).is_ok(),
            State::Waiting(waiting) => {
                waiting.turn <= self.turn
                    && waiting.ready.is_some() == queued.binary_search(&thread.id).is_ok()
            }
        };
        let running = |id: u32| self.get(id).is_some_and(|thread| thread.state == State::Running);
        !self.list.is_empty()
            && u32::try_from(self.list.len()).is_ok_and(|count| count <= most.max(1))
            && ids_fit
            && distinct(&ids)
            && distinct(&queued)
            && queued.iter().all(exists)
            // The one that runs makes calls, and does not stand in the queue.
            && (!running(self.loaded)
                || self.current == self.loaded && queued.binary_search(&self.loaded).is_err())
            && (self.loaded == 0 || exists(&self.loaded))
            && self.list.iter().all(|thread| (thread.saved.is_none()) == (thread.id == self.loaded))
            && self.list.iter().all(runs)
            && self.list.iter().all(Thread::is_sound)
            && self.pending.is_sound()
            && (PID..LAST_ID).contains(&self.next_id)
            && self.turn < u64::MAX / 2
            && self.actions.len() == Signal::COUNT
    }

    /// Whether another thread than the one on the vCPU could run, or wants a look at the clock or the
    /// host's streams while that one runs.
    pub(crate) fn needs_ticks(&self) -> bool {
        let timed = |thread: &Thread| match thread.state {
            State::Running => false,
            State::Waiting(Waiting { wait, seen, .. }) => {
                wait.until.is_some()
                    || matches!(wait.on, WaitFor::Host(_))
                    || wait.on.is_for_files() && seen != self.happened
            }
        };
        !self.queue.is_empty()
            || self.alarm.is_some()
            || (self.list.len() > 1 && self.list.iter().any(timed))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Thread> {
        self.list.iter().find(|thread| thread.id == id)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Thread> {
        self.list.iter_mut().find(|thread| thread.id == id)
    }

    /// The thread in whose name calls are made.
    pub(crate) fn current(&mut self) -> &mut Thread {
        let index = self.list.iter().position(|thread| thread.id == self.current);
        &mut self.list[index.unwrap_or_default()]
    }

    /// Whether the vCPU is running a thread, and not just keeping one's state.
    pub(crate) fn one_runs(&self) -> bool {
        self.current == self.loaded
            && self.get(self.loaded).is_some_and(|thread| thread.state == State::Running)
            && !self.queue.contains(&self.loaded)
    }

    /// Lets the current thread wait.
    pub(crate) fn wait(&mut self, registers: &Registers, made: Made, wait: Wait) {
        self.turn += 1;
        let (turn, seen) = (self.turn, self.happened);
        let thread = self.current();
        thread.registers = *registers;
        thread.state = State::Waiting(Waiting { made, wait, turn, seen, ready: None });
    }

    /// Puts the current thread, which could go on, at the end of the queue.
    pub(crate) fn requeue(&mut self, registers: &Registers) {
        self.current().registers = *registers;
        self.queue.push_back(self.current);
    }

    /// Ends a thread's wait; `false` if it does not wait, or the wait is over already.
    fn wake(&mut self, id: u32, why: Ready) -> bool {
        let thread = self.list.iter_mut().find(|thread| thread.id == id);
        let Some(State::Waiting(waiting)) = thread.map(|thread| &mut thread.state) else {
            return false;
        };
        match waiting.ready {
            None => self.queue.push_back(id),
            // The signal may be gone when its turn comes; what it waited for must not be then.
            Some(Ready::Interrupted) => {}
            Some(Ready::Woken | Ready::TimedOut) => return false,
        }
        waiting.ready = Some(why);
        true
    }

    /// Takes the next thread that can go on from the queue: it becomes the current one. Its registers,
    /// and the wait that is over.
    pub(crate) fn next(&mut self) -> Option<(Registers, Option<(Waiting, Ready)>)> {
        loop {
            let id = self.queue.pop_front()?;
            let Some(thread) = self.get_mut(id) else { continue };
            let over = match thread.state {
                State::Running => None,
                State::Waiting(Waiting { ready: None, .. }) => continue,
                State::Waiting(waiting @ Waiting { ready: Some(why), .. }) => Some((waiting, why)),
            };
            thread.state = State::Running;
            let registers = thread.registers;
            self.current = id;
            return Some((registers, over));
        }
    }

    /// Lets the current thread go on with a wait that was not over after all.
    pub(crate) fn wait_on(&mut self, waiting: Waiting) {
        self.current().state = State::Waiting(Waiting { ready: None, ..waiting });
    }

    /// Notes that a call may have brought about what threads wait for in files.
    pub(crate) fn note_call(&mut self) {
        self.happened = self.happened.wrapping_add(1);
    }

    /// Ends the waits whose time has come, the earliest first.
    pub(crate) fn wake_due(&mut self, now: u64) {
        let mut due: Vec<(u64, u64, u32)> = self
            .waits()
            .filter_map(|(id, waiting)| Some((waiting.wait.until?, waiting.turn, id)))
            .filter(|(until, ..)| *until <= now)
            .collect();
        due.sort_unstable();
        for (_, _, id) in due {
            self.wake(id, Ready::TimedOut);
        }
    }

    /// Lets the waits for files have another look if something has happened since they began; those
    /// for the host's streams also if `host` says so. Whether any has.
    pub(crate) fn wake_files(&mut self, host: bool) -> bool {
        let happened = self.happened;
        let mut looking: Vec<(u64, u32)> = self
            .waits()
            .filter(|(_, waiting)| match waiting.wait.on {
                WaitFor::Files | WaitFor::Room { .. } => waiting.seen != happened,
                WaitFor::Host(_) => host || waiting.seen != happened,
                WaitFor::Time | WaitFor::Futex { .. } | WaitFor::Signals { .. } => false,
            })
            .map(|(id, waiting)| (waiting.turn, id))
            .collect();
        looking.sort_unstable();
        for (_, id) in &looking {
            self.wake(*id, Ready::Woken);
        }
        !looking.is_empty()
    }

    /// The earliest instant that a thread or the alarm waits for.
    pub(crate) fn earliest(&self) -> Option<u64> {
        let waits = self.waits().filter_map(|(_, waiting)| waiting.wait.until);
        waits.chain(self.alarm.map(|alarm| alarm.at)).min()
    }

    /// The host's streams that threads wait for.
    pub(crate) fn waits_for_host(&self) -> Streams {
        let streams = self.waits().map(|(_, waiting)| match waiting.wait.on {
            WaitFor::Host(streams) => streams,
            _ => Streams::NONE,
        });
        streams.fold(Streams::NONE, BitOr::bitor)
    }

    /// The waits that are not over, or only because of a signal.
    fn waits(&self) -> impl Iterator<Item = (u32, &Waiting)> {
        self.list.iter().filter_map(|thread| match &thread.state {
            State::Waiting(waiting @ Waiting { ready: None | Some(Ready::Interrupted), .. }) => {
                Some((thread.id, waiting))
            }
            _ => None,
        })
    }

    /// Whether the current thread has not ended.
    pub(crate) fn current_exists(&self) -> bool {
        self.get(self.current).is_some()
    }

    /// Whether the current thread has just asked to let others go first.
    pub(crate) fn take_yielded(&mut self) -> bool {
        std::mem::take(&mut self.yielded)
    }

    /// Segment bases for the vCPU, if the current thread has set them.
    pub(crate) fn take_bases(&mut self) -> Option<Bases> {
        self.bases.take()
    }

    /// Sets segment bases for the current thread.
    pub(crate) fn set_bases(&mut self, bases: Bases) {
        self.bases = Some(bases);
    }
}

impl Thread {
    pub(crate) fn name(&self) -> [u8; 16] {
        self.name
    }

    pub(crate) fn set_name(&mut self, name: [u8; 16]) {
        self.name = name;
    }
}

pub(crate) const CALLS: &[Entry] = entries! {
    clone __NR_clone life::clone: "threads only; a new process is `ENOSYS`";
    clone3 __NR_clone3 life::no_new_process: "`ENOSYS`: libraries fall back to `clone`";
    fork __NR_fork life::no_new_process: "`ENOSYS`";
    vfork __NR_vfork life::no_new_process: "`ENOSYS`";
    exit __NR_exit life::exit: "";
    exit_group __NR_exit_group life::exit_group: "";
    set_tid_address __NR_set_tid_address life::set_tid_address: "";
    set_robust_list __NR_set_robust_list life::set_robust_list: "";
    get_robust_list __NR_get_robust_list life::get_robust_list: "";
    gettid __NR_gettid life::gettid: "the first thread is 2";
    sched_yield __NR_sched_yield life::sched_yield: "";
    futex __NR_futex futex::futex: "no priority inheritance: that is `ENOSYS`";
    rt_sigaction __NR_rt_sigaction signals::calls::rt_sigaction: "";
    rt_sigprocmask __NR_rt_sigprocmask signals::calls::rt_sigprocmask: "";
    rt_sigreturn __NR_rt_sigreturn signals::calls::rt_sigreturn: "";
    rt_sigpending __NR_rt_sigpending signals::calls::rt_sigpending: "";
    rt_sigsuspend __NR_rt_sigsuspend signals::calls::rt_sigsuspend: "";
    rt_sigtimedwait __NR_rt_sigtimedwait signals::calls::rt_sigtimedwait: "";
    rt_sigqueueinfo __NR_rt_sigqueueinfo signals::send::rt_sigqueueinfo: "to itself";
    rt_tgsigqueueinfo __NR_rt_tgsigqueueinfo signals::send::rt_tgsigqueueinfo: "to itself";
    sigaltstack __NR_sigaltstack signals::calls::sigaltstack: "";
    kill __NR_kill signals::send::kill: "itself; stopping is ignored";
    tkill __NR_tkill signals::send::tkill: "its own threads";
    tgkill __NR_tgkill signals::send::tgkill: "its own threads";
    pause __NR_pause signals::calls::pause: "";
    alarm __NR_alarm timer::alarm: "";
    setitimer __NR_setitimer timer::setitimer: "`ITIMER_REAL` only";
    getitimer __NR_getitimer timer::getitimer: "`ITIMER_REAL` only";
};
