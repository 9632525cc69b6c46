//! A booted guest: the loop that runs it, and the messages that go in and out.
//!
//! Everything here that reads guest memory goes through [`GuestMail::check`]: what comes out of it
//! are ranges inside the outgoing buffer. The guest does not run while the host looks at them.

use std::any::type_name;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use glowbox_abi::mailbox::{
    FROM_GUEST_OFFSET, FromGuest, ReplyStatus, TO_GUEST_OFFSET, ToGuest, ToGuestKind,
};
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::load::{self, Start};
use glowbox_core::mail::{GuestMail, MailboxSizes, Return};
use glowbox_machine::interrupt::RunControl;
use glowbox_machine::kvm::KvmMachine;
use glowbox_machine::{Exit, Machine};
use glowbox_mem::GuestMemory;
use serde::de::DeserializeOwned;

use crate::function::Target;
use crate::host_function::{Invocation, Outcome, Registered, contain};
use crate::log::Log;
use crate::randomness::Randomness;
use crate::{Arguments, CallOptions, Engine, Error, ErrorKind, Guest, GuestPanic, Stats};

mod batch;
mod exits;
mod outcome;

use batch::Batch;

/// How deep calls from host functions into the guest may nest.
const MAX_NESTING: u32 = 16;
/// Time for the start-up where calls have no deadline: nobody could interrupt it.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What an instance is made with.
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) deadline: Option<Duration>,
    pub(crate) host_functions: HashMap<String, Registered>,
    pub(crate) log: Log,
    pub(crate) log_level: u32,
    pub(crate) log_text_limit: u64,
    pub(crate) randomness: Randomness,
}

/// A host function that the guest imports; absent while it runs.
struct Slot {
    name: Arc<str>,
    function: Option<Registered>,
}

/// A booted guest in its machine.
///
/// `Caller` and `Invocation` lend it to host functions.
pub(crate) struct Instance {
    machine: Box<dyn Machine>,
    engine: Engine,
    guest: Guest,
    layout: Layout,
    places: Places,
    slots: Vec<Slot>,
    /// Numbers of imported functions, ascending, and their slots.
    imports: Vec<(u32, usize)>,
    log: Log,
    deadline: Option<Duration>,
    /// The time that the running call is allowed.
    allowed: Option<Duration>,
    resolved: HashMap<String, Vec<Resolved>>,
    /// Why it can't be called any more.
    spent: Option<Error>,
    /// First offset in the incoming buffer that the guest does not borrow.
    incoming_free: usize,
    nesting: u32,
    /// The batch under way.
    batch: Option<Batch>,
    stats: Stats,
}

/// Where in guest memory the mailbox lies.
struct Places {
    control: usize,
    incoming: Range<usize>,
    outgoing: Range<usize>,
    sizes: MailboxSizes,
}

/// A name that has been checked against a pair of types before.
struct Resolved {
    arguments: &'static str,
    result: &'static str,
    target: Target,
}

impl Instance {
    /// Makes the machine, loads the guest and runs its start-up.
    pub(crate) fn boot(engine: &Engine, guest: Guest, options: Options) -> Result<Instance, Error> {
        engine.check_process()?;
        let random = options.randomness.load_address()?;
        let layout = Layout::new(guest.program(), options.limits, random).map_err(|error| {
            Error::with_source(ErrorKind::InvalidOption, error.to_string(), error)
        })?;
        let mut memory = GuestMemory::new(layout.size()).map_err(|error| {
            let text = format!("{error}; lower the limits, or allow this process more");
            Error::with_source(ErrorKind::Hypervisor, text, error)
        })?;
        let start = Start {
            name: guest.name(),
            random: options.randomness.auxiliary()?,
            entropy: options.randomness.entropy(1)?,
            log_level: options.log_level,
            log_text_limit: options.log_text_limit,
        };
        for part in load::written(guest.program(), &layout) {
            memory.populate(part);
        }
        let entry = load::load(guest.program(), &layout, &start, memory.bytes_mut());
        let machine = KvmMachine::new(engine.kvm(), memory, entry, engine.signal())
            .map_err(Error::of_machine)?;
        engine.watchdog().watch(machine.control());
        let (slots, imports) = slots(&guest, options.host_functions);
        let mut instance = Instance {
            machine: Box::new(machine),
            engine: engine.clone(),
            places: Places::of(&layout),
            guest,
            layout,
            slots,
            imports,
            log: options.log,
            deadline: options.deadline,
            allowed: None,
            resolved: HashMap::new(),
            spent: None,
            incoming_free: 0,
            nesting: 0,
            batch: None,
            stats: Stats::default(),
        };
        instance.start()?;
        Ok(instance)
    }

    /// Runs the guest until it says that it is ready.
    fn start(&mut self) -> Result<(), Error> {
        let allowed = self.deadline.unwrap_or(START_DEADLINE);
        let ended = self.timed(Some(allowed), |instance| match instance.run()? {
            GuestMail::Ready => Ok(()),
            GuestMail::StartError { text } => {
                let text = format!(
                    "the start-up function of guest `{}` returned an error: {}",
                    instance.guest.name(),
                    instance.text(text)
                );
                Err(Error::new(ErrorKind::Start, text))
            }
            other => Err(out_of_turn(&other)),
        });
        ended.map_err(|error| match error.kind() {
            ErrorKind::Deadline => {
                let name = self.guest.name();
                let text = format!("the start-up of guest `{name}` took longer than {allowed:?}");
                Error::new(ErrorKind::Deadline, text)
            }
            _ => error,
        })
    }

    /// Runs `body` as one call: with a deadline, and open to interruption.
    fn timed<T>(
        &mut self,
        allowed: Option<Duration>,
        body: impl FnOnce(&mut Instance) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.allowed = allowed;
        let watchdog = self.engine.watchdog();
        let deadline = watchdog.deadline(allowed);
        self.machine.control().begin(deadline);
        watchdog.expect(deadline);
        // Host functions are contained where they are called; this is for whatever else may panic
        // while a call is under way, so that no state says that it still is.
        let result = contain(|| body(self)).unwrap_or_else(|message| {
            let text = format!("the host panicked during the call: {message}");
            Err(Error::new(ErrorKind::HostPanic, text))
        });
        self.machine.control().end();
        result.map_err(|error| self.spend(error))
    }

    fn spend(&mut self, error: Error) -> Error {
        self.spent.get_or_insert(error).clone()
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
        value.map_err(|error| match error.kind() {
            ErrorKind::Protocol => self.spend(error),
            _ => error,
        })
    }

    /// Runs the guest until it says something that is for the caller.
    fn run(&mut self) -> Result<GuestMail, Error> {
        loop {
            let exit = self.machine.run().map_err(Error::of_machine)?;
            if exit != Exit::CalledOut {
                return Err(self.ended_by(exit));
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
                    return Err(Error::out_of_memory(requested, self.layout.limits().heap));
                }
                other => return Ok(other),
            }
        }
    }

    fn mail(&self) -> Result<GuestMail, Error> {
        let at = self.places.control + FROM_GUEST_OFFSET;
        let bytes = self.machine.memory()[at..].first_chunk();
        let bytes: &[u8; FromGuest::SIZE] = bytes.expect("the control page lies in memory");
        GuestMail::check(bytes, self.places.sizes).map_err(outcome::violation)
    }

    fn tell(&mut self, header: &ToGuest) {
        let at = self.places.control + TO_GUEST_OFFSET;
        let bytes = &mut self.machine.memory_mut()[at..at + ToGuest::SIZE];
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
        let Ok(found) = self.imports.binary_search_by_key(&number, |(number, _)| *number) else {
            return Ok(reply(ReplyStatus::NotRegistered, 0));
        };
        let slot = self.imports[found].1;
        let Some(mut function) = self.slots[slot].function.take() else {
            return Ok(reply(ReplyStatus::Busy, 0));
        };
        self.stats.host_calls += 1;
        let outer_free = std::mem::replace(&mut self.incoming_free, reply_offset);
        let outer_nesting = self.nesting;
        let outcome = contain(|| function(Invocation { instance: self, arguments, reply_offset }));
        self.incoming_free = outer_free;
        self.nesting = outer_nesting;
        let name = Arc::clone(&self.slots[slot].name);
        if outcome.is_ok() {
            self.slots[slot].function = Some(function);
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
        let outgoing = &self.machine.memory()[self.places.outgoing.clone()];
        let log = &mut self.log;
        contain(|| log.write(level, &outgoing[target], &outgoing[text])).map_err(|message| {
            let text = format!("the sandbox's log sink panicked: {message}");
            Error::new(ErrorKind::HostPanic, text)
        })
    }

    /// Text that the guest wrote, cut to a sensible length.
    fn text(&self, range: Range<usize>) -> String {
        outcome::text(&self.outgoing()[range])
    }

    /// The host-to-guest buffer.
    pub(crate) fn incoming_mut(&mut self) -> &mut [u8] {
        &mut self.machine.memory_mut()[self.places.incoming.clone()]
    }

    /// The guest-to-host buffer.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.machine.memory()[self.places.outgoing.clone()]
    }

    /// As `find`, remembering the answer.
    pub(crate) fn resolve<A: Arguments, R>(&mut self, name: &str) -> Result<Target, Error> {
        let (arguments, result) = (type_name::<A>(), type_name::<R>());
        let known = self.resolved.get(name).and_then(|known| {
            known.iter().find(|known| known.arguments == arguments && known.result == result)
        });
        if let Some(known) = known {
            return Ok(known.target.clone());
        }
        let target = self.find::<A, R>(name)?;
        let resolved = Resolved { arguments, result, target: target.clone() };
        self.resolved.entry(name.to_string()).or_default().push(resolved);
        Ok(target)
    }

    /// Looks a function up by name and checks its types.
    pub(crate) fn find<A: Arguments, R>(&self, name: &str) -> Result<Target, Error> {
        Target::find(&self.guest, name, &A::types(), type_name::<R>())
    }

    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    pub(crate) fn control(&self) -> Arc<RunControl> {
        Arc::clone(self.machine.control())
    }

    pub(crate) fn spent(&self) -> Option<&Error> {
        self.spent.as_ref()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { entries: self.machine.entries(), ..self.stats }
    }
}

impl Places {
    fn of(layout: &Layout) -> Places {
        let range = |kind| {
            let range = layout.memory(kind);
            let index = |value| usize::try_from(value).expect("guest memory is mapped");
            index(range.start)..index(range.end)
        };
        let limits = layout.limits();
        Places {
            control: range(RegionKind::Control).start,
            incoming: range(RegionKind::Incoming),
            outgoing: range(RegionKind::Outgoing),
            sizes: MailboxSizes { incoming: limits.incoming, outgoing: limits.outgoing },
        }
    }
}

/// A slot for each host function that the guest imports, and their numbers in ascending order.
fn slots(
    guest: &Guest,
    mut functions: HashMap<String, Registered>,
) -> (Vec<Slot>, Vec<(u32, usize)>) {
    let mut slots: Vec<Slot> = Vec::new();
    let mut imports = Vec::new();
    for import in guest.program().imports() {
        let known = slots.iter().position(|slot| *slot.name == *import.name);
        let slot = known.unwrap_or_else(|| {
            let function = functions.remove(&import.name);
            slots.push(Slot { name: import.name.as_str().into(), function });
            slots.len() - 1
        });
        imports.push((import.number, slot));
    }
    imports.sort_unstable();
    (slots, imports)
}

fn out_of_turn(mail: &GuestMail) -> Error {
    let text = format!("the guest sent a message out of turn: {mail:?}");
    Error::new(ErrorKind::Protocol, text)
}
