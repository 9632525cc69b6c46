//! A booted guest: the loop that runs it, and the messages that go in and out.
//!
//! Everything here that reads guest memory goes through [`GuestMail::check`]: what comes out of it
//! are ranges inside the outgoing buffer. The guest does not run while the host looks at them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use glowbox_abi::mailbox::{
    FROM_GUEST_OFFSET, FromGuest, ReplyStatus, TO_GUEST_OFFSET, ToGuest, ToGuestKind,
};
use glowbox_core::layout::Limits;
use glowbox_core::mail::{GuestMail, Return};
use glowbox_core::registers::CpuState;
use glowbox_linux::Process;
use glowbox_machine::Exit;
use glowbox_machine::interrupt::RunControl;
use serde::de::DeserializeOwned;

use crate::capabilities::Capabilities;
use crate::function::Target;
use crate::host_function::{Given, Invocation, Outcome, Prototypes, Registered, contain};
use crate::linux::Linux;
use crate::log::Log;
use crate::pool::Lease;
use crate::setup::{Setup, SetupOptions};
use crate::snapshot::Captured;
use crate::{Arguments, CallOptions, Error, ErrorKind, Guest, GuestPanic, Stats};

mod batch;
mod exits;
mod lent;
mod life;
mod outcome;
mod syscalls;

use batch::Batch;
pub(crate) use life::Own;

/// How deep calls from host functions into the guest may nest.
const MAX_NESTING: u32 = 16;

/// What an instance is built with.
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) functions: Given,
    pub(crate) log: Log,
    pub(crate) deadline: Option<Duration>,
    pub(crate) setup: SetupOptions,
    pub(crate) capabilities: Capabilities,
}

/// A booted guest in its machine.
///
/// `Caller` and `Invocation` lend it to host functions.
pub(crate) struct Instance {
    // Dropped first: the machine goes back to the pool while its image is known.
    lease: Lease,
    setup: Arc<Setup>,
    origin: Origin,
    /// The generation of random numbers that the guest draws now.
    generation: u64,
    /// One for each import's slot; absent while it runs.
    functions: Vec<Option<Box<dyn Registered>>>,
    prototypes: Arc<Prototypes>,
    loans: lent::Loans,
    log: Log,
    deadline: Option<Duration>,
    /// The time that the running call is allowed.
    allowed: Option<Duration>,
    /// Why it can't be called any more.
    spent: Option<Error>,
    /// First offset in the incoming buffer that the guest does not borrow.
    incoming_free: usize,
    nesting: u32,
    /// Whether the guest has not run since it was put into its origin's state.
    fresh: bool,
    /// The batch under way.
    batch: Option<Batch>,
    /// A Linux guest's process.
    linux: Option<Linux>,
    /// Whether the guest is stopped for a moment now and then.
    sliced: bool,
    /// The signal that has ended a Linux guest, if its error is a fault.
    killed_by: Option<i32>,
    stats: Stats,
    /// What the machine had counted when this instance got it.
    machine_before: MachineStats,
}

/// Where an instance goes back to. Its memory is what the machine's window remembers.
struct Origin {
    state: Arc<CpuState>,
    /// The generation of random numbers that the memory is of.
    generation: u64,
    /// A Linux guest's process.
    process: Option<Arc<Process>>,
    /// The snapshot, if it is one.
    snapshot: Option<Arc<Captured>>,
    /// Why the window remembers nothing, if it could not.
    unknown: Option<Error>,
}

/// What a machine counts.
#[derive(Clone, Copy)]
struct MachineStats {
    entries: u64,
    guest_time: Duration,
}

impl MachineStats {
    fn of(lease: &Lease) -> MachineStats {
        MachineStats { entries: lease.entries(), guest_time: lease.guest_time() }
    }
}

impl Instance {
    /// Runs `body` as one call: with a deadline, and open to interruption.
    fn timed<T>(
        &mut self,
        allowed: Option<Duration>,
        body: impl FnOnce(&mut Instance) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.allowed = allowed;
        let watchdog = self.setup.engine.watchdog();
        let deadline = watchdog.deadline(allowed);
        self.lease.control().begin(deadline);
        watchdog.expect(deadline);
        self.sliced = false;
        self.set_slices();
        // Host functions are contained where they are called; this is for whatever else may panic
        // while a call is under way, so that no state says that it still is.
        let result = contain(|| body(self)).unwrap_or_else(|message| {
            let text = format!("the host panicked during the call: {message}");
            Err(Error::new(ErrorKind::HostPanic, text))
        });
        self.lease.control().end();
        result.map_err(|error| self.spend(error))
    }

    fn spend(&mut self, error: Error) -> Error {
        self.spent.get_or_insert(error).clone()
    }

    /// Marks it spent by an error of its own, whatever it was before.
    fn spend_anew(&mut self, error: Error) -> Error {
        self.spent.insert(error).clone()
    }

    /// Calls a function from outside.
    pub(crate) fn call<A: Arguments, R: DeserializeOwned>(
        &mut self,
        target: &Target,
        arguments: &A,
        options: &CallOptions,
    ) -> Result<R, Error> {
        let allowed = self.allowed_by(options)?;
        let length = self.prepare(target, arguments)?;
        let returned = self.timed(allowed, |instance| instance.enter(target, length))?;
        self.finish(target, returned)
    }

    /// Calls a function from outside, and gives the encoding of its value.
    pub(crate) fn call_encoded(
        &mut self,
        target: &Target,
        arguments: &impl Arguments,
        options: &CallOptions,
    ) -> Result<Vec<u8>, Error> {
        let allowed = self.allowed_by(options)?;
        let length = self.prepare(target, arguments)?;
        let returned = self.timed(allowed, |instance| instance.enter(target, length))?;
        let value = outcome::encoded(target, returned, self.outgoing()).map(<[u8]>::to_vec);
        value.map_err(|error| self.spend_by_protocol(error))
    }

    /// The time that a call with these options is allowed.
    fn allowed_by(&self, options: &CallOptions) -> Result<Option<Duration>, Error> {
        let allowed = options.deadline_or(self.deadline);
        if allowed == Some(Duration::ZERO) {
            let text = "the call's deadline is zero, which no call could meet";
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        Ok(allowed)
    }

    /// Calls a function from a host function, while the guest waits for that one.
    pub(crate) fn call_nested<A: Arguments, R: DeserializeOwned>(
        &mut self,
        target: &Target,
        arguments: &A,
    ) -> Result<R, Error> {
        if self.nesting >= MAX_NESTING {
            let text = format!(
                "calls between host and guest nest more than {MAX_NESTING} deep at guest function \
                 `{}`",
                target.name
            );
            return Err(Error::new(ErrorKind::NestingTooDeep, text));
        }
        let length = self.prepare(target, arguments)?;
        self.nesting += 1;
        let returned = self.enter(target, length);
        self.nesting -= 1;
        let returned = returned.map_err(|error| self.spend(error))?;
        self.finish(target, returned)
    }

    /// Checks that the instance can be called, and writes the arguments.
    fn prepare<A: Arguments>(&mut self, target: &Target, arguments: &A) -> Result<usize, Error> {
        if let Some(by) = &self.spent {
            return Err(Error::spent(by));
        }
        let free = self.incoming_free;
        let space = &mut self.incoming_mut()[free..];
        arguments.encode(space).map_err(|error| outcome::not_encoded(target, error))
    }

    /// Enters the guest for a function whose arguments have been written, and comes back when the
    /// function has ended.
    fn enter(&mut self, target: &Target, length: usize) -> Result<Return, Error> {
        self.stats.calls += 1;
        self.tell(&ToGuest {
            kind: ToGuestKind::Call as u32,
            function: target.number,
            offset: self.incoming_free as u64,
            length: length as u64,
            ..ToGuest::default()
        });
        loop {
            match self.run()? {
                GuestMail::Return(returned) => return Ok(returned),
                // From inside a batch, of which an item waits for this call.
                GuestMail::BatchFlush if self.batch.is_some() => self.set_results_aside()?,
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    /// Makes a value, or an error, of how a function ended.
    fn finish<R: DeserializeOwned>(
        &mut self,
        target: &Target,
        returned: Return,
    ) -> Result<R, Error> {
        let value = outcome::value(target, returned, self.outgoing());
        value.map_err(|error| self.spend_by_protocol(error))
    }

    /// Marks it spent if the guest broke the rules by what it returned.
    fn spend_by_protocol(&mut self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Protocol => self.spend(error),
            _ => error,
        }
    }

    /// Runs the guest until it says something that is for the caller.
    fn run(&mut self) -> Result<GuestMail, Error> {
        self.fresh = false;
        loop {
            let exit = self.lease.run().map_err(Error::of_machine)?;
            if exit != Exit::CalledOut {
                self.answer(exit)?;
                continue;
            }
            match self.mail()? {
                GuestMail::HostCall { function, arguments, reply_offset } => {
                    let reply = self.host_call(function, arguments, reply_offset)?;
                    self.tell(&reply);
                }
                GuestMail::Log { level, target, text } => self.write_log(level, target, text)?,
                GuestMail::Panic { text, location } => {
                    let (message, location) = (self.text(text), self.text(location));
                    return Err(Error::of_panic(GuestPanic { message, location }));
                }
                GuestMail::OutOfMemory { requested } => {
                    return Err(Error::out_of_memory(requested, self.setup.layout.limits().heap));
                }
                other => return Ok(other),
            }
        }
    }

    fn mail(&self) -> Result<GuestMail, Error> {
        let at = self.setup.places.control + FROM_GUEST_OFFSET;
        let bytes = self.lease.memory()[at..].first_chunk();
        let bytes: &[u8; FromGuest::SIZE] = bytes.expect("the control page lies in memory");
        GuestMail::check(bytes, self.setup.places.sizes).map_err(outcome::violation)
    }

    fn tell(&mut self, header: &ToGuest) {
        let at = self.setup.places.control + TO_GUEST_OFFSET;
        let bytes = &mut self.lease.memory_mut()[at..at + ToGuest::SIZE];
        bytes.copy_from_slice(&header.to_bytes());
    }

    /// Runs a host function and says what to answer.
    fn host_call(
        &mut self,
        number: u32,
        arguments: Range<usize>,
        reply_offset: usize,
    ) -> Result<ToGuest, Error> {
        let reply = |status: ReplyStatus, length: usize| ToGuest {
            kind: ToGuestKind::Reply as u32,
            status: status as u32,
            offset: reply_offset as u64,
            length: length as u64,
            ..ToGuest::default()
        };
        let imports = &self.setup.imports;
        let Ok(found) = imports.binary_search_by_key(&number, |(number, _)| *number) else {
            return Ok(reply(ReplyStatus::NotRegistered, 0));
        };
        let slot = imports[found].1;
        let Some(mut function) = self.functions[slot].take() else {
            return Ok(reply(ReplyStatus::Busy, 0));
        };
        self.stats.host_calls += 1;
        let outer_free = std::mem::replace(&mut self.incoming_free, reply_offset);
        let outer_nesting = self.nesting;
        let outcome =
            contain(|| function.invoke(Invocation { instance: self, arguments, reply_offset }));
        self.incoming_free = outer_free;
        self.nesting = outer_nesting;
        let name = Arc::clone(&self.setup.names[slot]);
        if outcome.is_ok() {
            self.functions[slot] = Some(function);
        } else if contain(|| drop(function)).is_err() {
            tracing::warn!(target: "glowbox", "host function `{name}` panicked again when dropped");
        }
        if let Some(spent) = &self.spent {
            // A call back into the guest has ended it.
            return Err(spent.clone());
        }
        let outcome = outcome.map_err(|message| {
            let text = format!("host function `{name}` panicked: {message}");
            Error::new(ErrorKind::HostPanic, text)
        })?;
        match outcome {
            Outcome::Replied(length) => Ok(reply(ReplyStatus::Value, length)),
            Outcome::TooLarge => Ok(reply(ReplyStatus::TooLarge, 0)),
            Outcome::Unsupported(reason) => {
                let text = format!("the result of host function `{name}` {reason}");
                Err(Error::new(ErrorKind::HostResult, text))
            }
            Outcome::BadArguments(reason) => {
                let text =
                    format!("the guest called host function `{name}` with bytes that {reason}");
                Err(Error::new(ErrorKind::Protocol, text))
            }
        }
    }

    fn write_log(
        &mut self,
        level: u32,
        target: Range<usize>,
        text: Range<usize>,
    ) -> Result<(), Error> {
        let outgoing = &self.lease.memory()[self.setup.places.outgoing.clone()];
        write_record(&mut self.log, level, &outgoing[target], &outgoing[text])
    }

    /// Text that the guest wrote, cut to a sensible length.
    fn text(&self, range: Range<usize>) -> String {
        outcome::text(&self.outgoing()[range])
    }

    /// The host-to-guest buffer.
    pub(crate) fn incoming_mut(&mut self) -> &mut [u8] {
        &mut self.lease.memory_mut()[self.setup.places.incoming.clone()]
    }

    /// The guest-to-host buffer.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.lease.memory()[self.setup.places.outgoing.clone()]
    }

    /// What it shares with others of its guest.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(crate) fn guest(&self) -> &Guest {
        &self.setup.guest
    }

    pub(crate) fn control(&self) -> Arc<RunControl> {
        Arc::clone(self.lease.control())
    }

    pub(crate) fn spent(&self) -> Option<&Error> {
        self.spent.as_ref()
    }

    pub(crate) fn stats(&self) -> Stats {
        let (now, before) = (MachineStats::of(&self.lease), self.machine_before);
        Stats {
            entries: self.stats.entries + (now.entries - before.entries),
            guest_time: self.stats.guest_time + (now.guest_time - before.guest_time),
            ..self.stats
        }
    }
}

fn write_record(log: &mut Log, level: u32, target: &[u8], text: &[u8]) -> Result<(), Error> {
    contain(|| log.write(level, target, text)).map_err(|message| {
        let text = format!("the sandbox's log sink panicked: {message}");
        Error::new(ErrorKind::HostPanic, text)
    })
}

fn out_of_turn(mail: &GuestMail) -> Error {
    let text = format!("the guest sent a message out of turn: {mail:?}");
    Error::new(ErrorKind::Protocol, text)
}
