//! Signals: what is pending, who takes it, and what it does.
//!
//! A signal is sent to one thread or to the process; it is taken when a thread that does not block
//! it is about to go on, at the end of a call or at a switch. Standard signals are pending once,
//! real-time signals queue up to a limit. A program can signal only itself, so what would stop it
//! has nobody to let it go on, and is ignored.

use std::sync::Arc;

use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use super::{PID, Ready, State, Thread, Threads};
use crate::Errno;
use crate::call::WaitFor;

pub(crate) mod calls;
pub(crate) mod deliver;
pub(crate) mod frame;
pub(crate) mod send;

/// Most queued signals of a process (`RLIMIT_SIGPENDING`), besides standard ones.
pub(crate) const MOST_QUEUED: usize = 256;
/// The user that a guest's processes belong to.
pub(crate) const USER: u32 = 1000;

/// A signal's number: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Signal(u8);

#[allow(missing_docs, reason = "they are Linux's names")]
impl Signal {
    pub(crate) const ILL: Signal = Signal(4);
    pub(crate) const TRAP: Signal = Signal(5);
    pub(crate) const BUS: Signal = Signal(7);
    pub(crate) const FPE: Signal = Signal(8);
    pub(crate) const KILL: Signal = Signal(9);
    pub(crate) const SEGV: Signal = Signal(11);
    pub(crate) const ALRM: Signal = Signal(14);
    /// How many there are.
    pub(crate) const COUNT: usize = 64;

    /// `None` for what is no signal's number.
    pub(crate) fn new(number: i32) -> Option<Signal> {
        let number = u8::try_from(number).ok()?;
        (1..=64).contains(&number).then_some(Signal(number))
    }

    pub(crate) fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Its place in a table of all.
    fn index(self) -> usize {
        usize::from(self.0.wrapping_sub(1) & 63)
    }

    /// Its bit in a mask.
    pub(crate) fn bit(self) -> u64 {
        1 << self.index()
    }

    /// The lowest one in a mask.
    fn lowest(mask: u64) -> Option<Signal> {
        let number = i32::try_from(mask.trailing_zeros()).ok()?;
        Signal::new(number + 1)
    }

    /// Whether more than one may be pending.
    fn queues(self) -> bool {
        u32::from(self.0) >= raw::SIGRTMIN
    }

    /// Whether it does nothing unless there is a handler.
    fn is_harmless(self) -> bool {
        matches!(
            u32::from(self.0),
            raw::SIGCHLD
                | raw::SIGURG
                | raw::SIGWINCH
                | raw::SIGCONT
                | raw::SIGSTOP
                | raw::SIGTSTP
                | raw::SIGTTIN
                | raw::SIGTTOU
        )
    }
}

impl From<Signal> for u64 {
    fn from(signal: Signal) -> u64 {
        u64::from(signal.0)
    }
}

/// What can't be blocked or handled.
pub(crate) const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

/// What a `siginfo_t` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    pub(crate) signal: Signal,
    pub(crate) code: i32,
    /// What follows the code: addresses, or who sent it and with which value.
    pub(crate) fields: [u64; 4],
}

impl Info {
    /// Bytes of a `siginfo_t`.
    pub(crate) const SIZE: usize = 128;

    /// One that the process sends itself; `code` says with which call.
    pub(crate) fn own(signal: Signal, code: i32) -> Info {
        let sender = u64::from(USER) << 32 | u64::from(PID);
        Info { signal, code, fields: [sender, 0, 0, 0] }
    }

    /// One that comes from the system.
    pub(crate) fn kernel(signal: Signal) -> Info {
        Info { signal, code: raw::SI_KERNEL.cast_signed(), fields: [0; 4] }
    }

    /// One for an exception.
    pub(crate) fn fault(signal: Signal, code: u32, address: u64) -> Info {
        Info { signal, code: code.cast_signed(), fields: [address, 0, 0, 0] }
    }

    pub(crate) fn to_bytes(self) -> [u8; Info::SIZE] {
        let mut bytes = [0; Info::SIZE];
        bytes[..4].copy_from_slice(&self.signal.number().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (to, field) in bytes[16..48].chunks_exact_mut(8).zip(self.fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

/// Signals that have been sent and not taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pending {
    queue: Vec<Info>,
}

impl Pending {
    pub(super) fn is_sound(&self) -> bool {
        self.queue.len() <= MOST_QUEUED + Signal::COUNT
    }

    /// The signals in it.
    pub(crate) fn mask(&self) -> u64 {
        self.queue.iter().fold(0, |mask, info| mask | info.signal.bit())
    }

    fn push(&mut self, info: Info) -> Result<(), Errno> {
        if !info.signal.queues() {
            if self.mask() & info.signal.bit() == 0 {
                self.queue.push(info);
            }
            return Ok(());
        }
        let queued = self.queue.iter().filter(|info| info.signal.queues()).count();
        if queued >= MOST_QUEUED {
            return Err(Errno::EAGAIN);
        }
        self.queue.push(info);
        Ok(())
    }

    /// Takes the lowest one in a mask.
    fn take(&mut self, mask: u64) -> Option<Info> {
        let signal = Signal::lowest(self.mask() & mask)?;
        let index = self.queue.iter().position(|info| info.signal == signal)?;
        Some(self.queue.remove(index))
    }

    fn discard(&mut self, signal: Signal) {
        self.queue.retain(|info| info.signal != signal);
    }
}

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Action {
    /// The handler's address, or [`Action::DEFAULT`] or [`Action::IGNORE`].
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    /// What the handler returns to.
    pub(crate) restorer: u64,
    /// What is blocked meanwhile.
    pub(crate) mask: u64,
}

impl Action {
    pub(crate) const DEFAULT: u64 = 0;
    pub(crate) const IGNORE: u64 = 1;

    /// The actions of a process that starts.
    pub(super) fn defaults() -> Arc<[Action]> {
        Arc::new([Action::default(); Signal::COUNT])
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Whether a signal does nothing at all.
    fn ignores(&self, signal: Signal) -> bool {
        match self.handler {
            Action::DEFAULT => signal.is_harmless(),
            handler => handler == Action::IGNORE,
        }
    }
}

/// The stack that a thread has given for handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct AltStack {
    pub(crate) start: u64,
    /// 0 if there is none.
    pub(crate) size: u64,
    /// Whether it is forgotten when a handler begins (`SS_AUTODISARM`).
    pub(crate) once: bool,
}

impl AltStack {
    /// Whether a stack pointer lies in it.
    pub(crate) fn contains(&self, stack: u64) -> bool {
        stack > self.start && stack - self.start <= self.size
    }

    /// Whether a thread with this stack pointer is using it.
    pub(crate) fn is_used(&self, stack: u64) -> bool {
        !self.once && self.contains(stack)
    }
}

/// What a signal frame says of the last exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Trap {
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) address: u64,
}

impl Thread {
    /// Whether a signal would end its wait.
    fn is_open_to(&self, signal: Signal) -> bool {
        (!self.mask | self.awaited()) & signal.bit() != 0
    }

    /// The signals that it waits for, to take them from the queue by itself.
    fn awaited(&self) -> u64 {
        match self.state {
            State::Waiting(waiting) => waiting.wait.on.signals(),
            State::Running => 0,
        }
    }
}

impl Threads {
    pub(crate) fn action(&self, signal: Signal) -> Action {
        self.actions.get(signal.index()).copied().unwrap_or_default()
    }

    fn set_action(&mut self, signal: Signal, action: Action) {
        if let Some(place) = Arc::make_mut(&mut self.actions).get_mut(signal.index()) {
            *place = action;
        }
        if action.ignores(signal) {
            self.pending.discard(signal);
            for thread in &mut self.list {
                thread.pending.discard(signal);
            }
        }
    }

    /// Sends a signal to one thread.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such thread; `EAGAIN` if too many are queued.
    pub(crate) fn send_to_thread(&mut self, id: u32, info: Info) -> Result<(), Errno> {
        let ignored = self.action(info.signal).ignores(info.signal);
        let thread = self.get_mut(id).ok_or(Errno::ESRCH)?;
        let open = thread.is_open_to(info.signal);
        if ignored
            && thread.mask & info.signal.bit() == 0
            && thread.awaited() & info.signal.bit() == 0
        {
            return Ok(());
        }
        thread.pending.push(info)?;
        if open {
            self.interrupt(id);
        }
        Ok(())
    }

    /// Sends a signal to the process: whichever thread does not block it takes it.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if too many are queued.
    pub(crate) fn send_to_process(&mut self, info: Info) -> Result<(), Errno> {
        let bit = info.signal.bit();
        let wanted = self.list.iter().any(|thread| (thread.mask | thread.awaited()) & bit != 0);
        if self.action(info.signal).ignores(info.signal) && !wanted {
            return Ok(());
        }
        self.pending.push(info)?;
        self.offer(info.signal);
        Ok(())
    }

    /// Sends a signal to the thread that makes a call, for what the call has done: `SIGPIPE`, say.
    pub(crate) fn raise(&mut self, number: u32) {
        if let Some(signal) = i32::try_from(number).ok().and_then(Signal::new) {
            // It can't fail: standard signals do not queue.
            let _ = self.send_to_thread(self.current, Info::own(signal, 0));
        }
    }

    /// Ends the wait of a thread that takes a signal of the process, unless one that runs does.
    fn offer(&mut self, signal: Signal) {
        let open = |thread: &&Thread| thread.is_open_to(signal);
        let mut takers = self.list.iter().filter(open);
        let runs = |thread: &&Thread| thread.id == self.current && thread.state == State::Running;
        if takers.clone().any(|thread| runs(&thread)) {
            return;
        }
        // The first thread, which stands in front, before others.
        if let Some(id) = takers.next().map(|thread| thread.id) {
            self.interrupt(id);
        }
    }

    /// Offers the process's pending signals to its threads again, after what one of them blocks has
    /// changed.
    pub(crate) fn offer_pending(&mut self) {
        let mut mask = self.pending.mask();
        while let Some(signal) = Signal::lowest(mask) {
            mask &= !signal.bit();
            self.offer(signal);
        }
    }

    fn interrupt(&mut self, id: u32) {
        self.wake(id, Ready::Interrupted);
    }

    /// Ends the current thread's wait, since it has a signal. It is the next to go on: behind others in
    /// the queue, what they do could let it look and wait again, without an end.
    pub(crate) fn interrupt_current(&mut self) {
        self.interrupt(self.current);
        if self.queue.back() == Some(&self.current) {
            self.queue.rotate_right(1);
        }
    }

    /// What the next signal does that the current thread takes, of those that do something.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        let shared = self.pending.mask();
        let thread = self.current();
        let (own, unblocked) = (thread.pending.mask(), !thread.mask);
        for mut mask in [own & unblocked, shared & unblocked] {
            while let Some(signal) = Signal::lowest(mask) {
                mask &= !signal.bit();
                let action = self.action(signal);
                if !action.ignores(signal) {
                    return Some(action);
                }
            }
        }
        None
    }

    /// Whether a signal is pending that the current thread takes from the queue by itself, if this is
    /// what it waits for.
    pub(crate) fn has_awaited(&mut self, on: WaitFor) -> bool {
        let shared = self.pending.mask();
        (self.current().pending.mask() | shared) & on.signals() != 0
    }

    /// Takes the next of the signals in a mask that are pending for the current thread.
    fn take_signal(&mut self, mask: u64) -> Option<Info> {
        match self.current().pending.take(mask) {
            Some(info) => Some(info),
            None => self.pending.take(mask),
        }
    }

    /// Lets the current thread block other signals until the call that it makes is over, waits and
    /// handlers included: for calls that take a mask, such as `ppoll`.
    pub(crate) fn set_mask_for_call(&mut self, mask: u64) {
        let thread = self.current();
        thread.mask_after.get_or_insert(thread.mask);
        thread.mask = mask & !UNBLOCKABLE;
    }

    /// Lets the current thread block what it did before a call that takes a mask.
    pub(crate) fn restore_mask(&mut self) {
        if let Some(mask) = self.current().mask_after.take() {
            self.set_mask(mask);
        }
    }

    /// Changes what the current thread blocks.
    fn set_mask(&mut self, mask: u64) {
        self.current().mask = mask & !UNBLOCKABLE;
        if self.list.len() > 1 {
            self.offer_pending();
        }
    }
}
