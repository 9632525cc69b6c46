//! How an instance begins, goes back, and is copied.

use std::sync::Arc;
use std::time::Duration;

use glowbox_abi::mailbox::{
    BATCH_PROGRESS_OFFSET, ENTROPY_OFFSET, Entropy, FROM_GUEST_OFFSET, FromGuest, TO_GUEST_OFFSET,
    ToGuest,
};
use glowbox_core::address::Gva;
use glowbox_core::elf::Personality;
use glowbox_core::layout::Layout;
use glowbox_core::load;
use glowbox_core::mail::GuestMail;
use glowbox_core::registers::CpuState;
use glowbox_mem::{CaptureError, Image, RestoreError};

use super::lent::Loans;
use super::{Instance, MachineStats, Options, Origin, out_of_turn};
use crate::capabilities::Capabilities;
use crate::host_function::{Prototypes, Registered};
use crate::linux::Linux;
use crate::log::Log;
use crate::pool::Lease;
use crate::setup::Setup;
use crate::snapshot::Captured;
use crate::{Engine, Error, ErrorKind, Guest, Stats};

/// Time for the start-up where calls have no deadline: nobody could interrupt it.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What differs between the sandboxes of one snapshot.
pub(crate) struct Own {
    functions: Vec<Option<Box<dyn Registered>>>,
    prototypes: Arc<Prototypes>,
    log: Log,
    deadline: Option<Duration>,
}

impl Own {
    pub(crate) fn new(prototypes: Arc<Prototypes>, log: Log, deadline: Option<Duration>) -> Own {
        Own { functions: prototypes.copies(), prototypes, log, deadline }
    }

    /// The first slot without a function.
    pub(crate) fn missing(&self) -> Option<usize> {
        self.functions.iter().position(Option::is_none)
    }
}

impl Instance {
    /// Loads the guest into a machine, so that it can be run from its first instruction.
    pub(crate) fn load(engine: &Engine, guest: Guest, options: Options) -> Result<Instance, Error> {
        engine.check_process()?;
        let Options { limits, functions, log, deadline, setup, capabilities } = options;
        let random = setup.randomness.load_address()?;
        let layout = Layout::new(guest.program(), limits, random).map_err(|error| {
            Error::with_source(ErrorKind::InvalidOption, error.to_string(), error)
        })?;
        let setup = Setup::new(engine.clone(), guest, layout, setup);
        let prototypes = Prototypes::for_slots(&setup.names, functions);
        let own = Own::new(Arc::new(prototypes), log, deadline);
        let start = setup.start(&capabilities)?;
        let mut lease = engine.pool().lease(setup.layout.size(), None)?;
        let mut window = lease.window();
        window.clear().map_err(Error::of_memory)?;
        for part in load::written(setup.guest.program(), &setup.layout) {
            window.populate(part);
        }
        let program = setup.guest.program();
        let entry = load::load(program, &setup.layout, &start, lease.memory_mut());
        let state = CpuState::starting_at(entry.rip.0, entry.rsp.0);
        lease.install(&state);
        lease.start(&state).map_err(Error::of_machine)?;
        let linux = match setup.layout.personality() {
            Personality::Glowbox => None,
            Personality::Linux => {
                let randomness = setup.randomness;
                Some(Linux::new(program, &setup.layout, capabilities.clone(), randomness)?)
            }
        };
        let process = linux.as_ref().map(|linux| Arc::clone(linux.process()));
        let state = Arc::new(state);
        let origin = Origin { state, generation: 1, process, snapshot: None, unknown: None };
        let mut instance = Instance::new(lease, Arc::new(setup), origin, own, linux);
        instance.generation = 1;
        Ok(instance)
    }

    /// Loads the guest, runs its start-up, and remembers the state after it.
    pub(crate) fn boot(engine: &Engine, guest: Guest, options: Options) -> Result<Instance, Error> {
        let mut instance = Instance::load(engine, guest, options)?;
        instance.run_start_up()?;
        let state = instance.lease.state().map_err(Error::of_machine)?;
        instance.lease.install(&state);
        instance.origin.state = Arc::new(state);
        instance.origin.process = instance.linux.as_ref().map(|linux| Arc::clone(linux.process()));
        let from = instance.setup.places.writable_from;
        instance.lease.tables_changed(false);
        // Without it there are no resets, but all else.
        instance.origin.unknown = instance.lease.window().remember(from).map_err(of_capture).err();
        Ok(instance)
    }

    fn new(
        mut lease: Lease,
        setup: Arc<Setup>,
        origin: Origin,
        own: Own,
        linux: Option<Linux>,
    ) -> Instance {
        lease.writable_from(setup.places.writable_from);
        lease.carry_registers(linux.is_some());
        Instance {
            machine_before: MachineStats::of(&lease),
            lease,
            setup,
            generation: origin.generation,
            origin,
            functions: own.functions,
            prototypes: own.prototypes,
            loans: Loans::default(),
            log: own.log,
            deadline: own.deadline,
            allowed: None,
            spent: None,
            incoming_free: 0,
            nesting: 0,
            fresh: true,
            batch: None,
            linux,
            sliced: false,
            killed_by: None,
            stats: Stats::default(),
        }
    }

    /// Runs the guest until it says that it is ready.
    fn run_start_up(&mut self) -> Result<(), Error> {
        let allowed = self.deadline.unwrap_or(START_DEADLINE);
        let ended = self.timed(Some(allowed), |instance| match instance.run()? {
            GuestMail::Ready => Ok(()),
            GuestMail::StartError { text } => {
                let text = format!(
                    "the start-up function of guest `{}` returned an error: {}",
                    instance.guest().name(),
                    instance.text(text)
                );
                Err(Error::new(ErrorKind::Start, text))
            }
            other => Err(out_of_turn(&other)),
        });
        ended.map_err(|error| match error.kind() {
            ErrorKind::Deadline => {
                let name = self.guest().name();
                let text = format!("the start-up of guest `{name}` took longer than {allowed:?}");
                Error::new(ErrorKind::Deadline, text)
            }
            _ => error,
        })
    }

    /// Makes an instance in the state of a snapshot.
    pub(crate) fn spawn(
        snapshot: &Arc<Captured>,
        own: Own,
        capabilities: Option<Capabilities>,
    ) -> Result<Instance, Error> {
        let setup = &snapshot.setup;
        setup.engine.check_process()?;
        let mut lease = setup.engine.pool().lease(setup.layout.size(), Some(&snapshot.image))?;
        if !has_mapped(&mut lease, &snapshot.image) {
            snapshot.fill(&mut *lease)?;
        }
        let linux = snapshot.linux.as_ref().map(|(process, known)| {
            Linux::with(Arc::clone(process), capabilities.unwrap_or_else(|| known.clone()))
        });
        let origin = Origin::of(snapshot);
        let mut instance = Instance::new(lease, Arc::clone(setup), origin, own, linux);
        instance.begin()?;
        Ok(instance)
    }

    /// Makes what is in memory of a snapshot's file into an image of its own: with page tables that do not
    /// come from the file.
    pub(crate) fn recapture(mut self) -> Result<Arc<Captured>, Error> {
        let linux = self.linux.as_mut().expect("only Linux guests change page tables");
        linux.rebuild(&mut *self.lease).map_err(|broken| {
            Error::of_broken("the page tables of the snapshot's guest can't be made", broken)
        })?;
        self.capture()
    }

    /// Makes an image of a program that has not run, without its arguments, its environment and its random
    /// bytes: whoever is made of it has its own.
    pub(crate) fn capture_program(&mut self) -> Result<Arc<Captured>, Error> {
        if let Some(by) = &self.spent {
            return Err(Error::spent(by));
        }
        let from = self.origin.state.registers.rsp;
        load::clear_stack(&self.setup.layout, Gva(from), self.lease.memory_mut());
        let captured = self.capture();
        self.start_with_arguments()?;
        captured
    }

    /// Gives a program that has not run yet the arguments and the environment that it is to have now.
    pub(crate) fn start_with_arguments(&mut self) -> Result<(), Error> {
        let setup = Arc::clone(&self.setup);
        let linux = self.linux.as_ref().expect("ordinary programs are Linux programs");
        let start = setup.start(linux.capabilities())?;
        let memory = self.lease.memory_mut();
        let entry = load::stack(setup.guest.program(), &setup.layout, &start, memory);
        let state = CpuState::starting_at(entry.rip.0, entry.rsp.0);
        self.lease.install(&state);
        self.lease.start(&state).map_err(Error::of_machine)?;
        self.origin.state = Arc::new(state);
        Ok(())
    }

    /// Starts, in the state that memory has been put into.
    fn begin(&mut self) -> Result<(), Error> {
        self.generation = self.origin.generation.wrapping_add(1);
        self.write_entropy()?;
        self.lease.start(&self.origin.state).map_err(Error::of_machine)?;
        if self.functions.iter().any(Option::is_none) {
            self.prototypes.replace(&mut self.functions);
        }
        if let (Some(linux), Some(process)) = (&mut self.linux, &self.origin.process) {
            linux.become_copy_of(process);
        }
        self.spent = None;
        self.killed_by = None;
        self.incoming_free = 0;
        self.nesting = 0;
        self.batch = None;
        self.fresh = true;
        Ok(())
    }

    fn write_entropy(&mut self) -> Result<(), Error> {
        let entropy = self.setup.randomness.entropy(self.generation)?;
        let at = self.setup.places.control + ENTROPY_OFFSET;
        self.lease.memory_mut()[at..at + Entropy::SIZE].copy_from_slice(&entropy.to_bytes());
        Ok(())
    }

    /// Goes back to where it began.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.setup.engine.check_process()?;
        let result = self.go_back();
        result.map_err(|error| self.spend_anew(error))
    }

    fn go_back(&mut self) -> Result<(), Error> {
        let settled = self.lease.settle();
        if self.lease.is_broken() {
            return match self.origin.snapshot.clone() {
                Some(snapshot) => self.become_copy_of(&snapshot),
                None => {
                    let text = "the virtual machine broke, and the sandbox was built and not \
                                spawned from a snapshot; build another one";
                    Err(Error::new(ErrorKind::Hypervisor, text))
                }
            };
        }
        settled.map_err(Error::of_machine)?;
        if let Some(snapshot) = self.origin.snapshot.clone()
            && !self.lease.image().is_some_and(|image| Arc::ptr_eq(image, &snapshot.image))
        {
            // An attempt to put it there has failed before.
            return self.become_copy_of(&snapshot);
        }
        self.take_back()?;
        self.put_back()?;
        self.begin()
    }

    /// Puts memory back, and counts what that took.
    fn put_back(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.origin.unknown {
            return Err(error.clone());
        }
        self.lease.forget_changed_tables()?;
        let (from, keep) = (self.setup.places.writable_from, self.lease.keep());
        match self.lease.window().restore(from, keep) {
            Ok(restored) => {
                self.stats.pages_written += restored.written as u64;
                self.stats.pages_copied_back += restored.copied as u64;
                Ok(())
            }
            // The system does not say what was written: all of it is mapped anew.
            Err(RestoreError::Unknown { .. }) if self.origin.snapshot.is_some() => {
                let snapshot = self.origin.snapshot.clone().expect("there is one");
                self.fill_anew(&snapshot)
            }
            Err(error) => Err(of_restore(error)),
        }
    }

    /// Fills memory that the machine has run on with a snapshot's, whose page tables may be others.
    fn fill_anew(&mut self, snapshot: &Captured) -> Result<(), Error> {
        self.lease.forget_tables().map_err(Error::of_machine)?;
        self.lease.tables_changed(false);
        snapshot.fill(&mut *self.lease)
    }

    /// Goes to another snapshot of the same guest.
    pub(crate) fn restore(&mut self, snapshot: &Arc<Captured>) -> Result<(), Error> {
        self.setup.engine.check_process()?;
        if !snapshot.setup.guest.is(self.guest()) {
            let text = format!(
                "the snapshot is of guest `{}`, and the sandbox runs `{}` as a Guest of its own; \
                 spawn a sandbox from the snapshot instead",
                snapshot.setup.guest.name(),
                self.guest().name()
            );
            return Err(Error::new(ErrorKind::WrongGuest, text));
        }
        let result = self.become_copy_of(snapshot);
        result.map_err(|error| self.spend_anew(error))
    }

    fn become_copy_of(&mut self, snapshot: &Arc<Captured>) -> Result<(), Error> {
        let size = snapshot.setup.layout.size();
        let pool = snapshot.setup.engine.pool();
        let fits = self.lease.memory().len() as u64 == size && self.lease.is_of(pool);
        if !fits || self.lease.settle().is_err() {
            let mut lease = pool.lease(size, Some(&snapshot.image))?;
            // There may be handles to this sandbox's calls.
            lease.adopt_control(self.control());
            self.stats = self.stats();
            self.lease = lease;
            self.loans = Loans::default();
            self.machine_before = MachineStats::of(&self.lease);
        }
        self.take_back()?;
        self.setup = Arc::clone(&snapshot.setup);
        self.lease.writable_from(self.setup.places.writable_from);
        self.lease.carry_registers(self.linux.is_some());
        self.origin = Origin::of(snapshot);
        if has_mapped(&mut self.lease, &snapshot.image) {
            self.put_back()?;
        } else {
            self.fill_anew(snapshot)?;
        }
        self.begin()
    }

    /// Makes an image of what the guest is now, and goes back to that from now on.
    pub(crate) fn capture(&mut self) -> Result<Arc<Captured>, Error> {
        self.setup.engine.check_process()?;
        if let Some(by) = &self.spent {
            return Err(Error::spent(by));
        }
        if !self.loans.is_empty() {
            let text = "a snapshot can't hold what is lent to the sandbox; take it back first, with \
                        Sandbox::unmap_all, and map it into the spawned sandboxes";
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        // A vCPU that has not been entered yet is not in its state yet.
        let state = match self.fresh {
            true => Arc::clone(&self.origin.state),
            false => Arc::new(self.lease.state().map_err(Error::of_machine)?),
        };
        self.lease.install(&state);
        let places = &self.setup.places;
        // What the last call left in the mailbox is nobody's business any more.
        let control = &mut self.lease.memory_mut()[places.control..];
        control[TO_GUEST_OFFSET..TO_GUEST_OFFSET + ToGuest::SIZE].fill(0);
        control[FROM_GUEST_OFFSET..FROM_GUEST_OFFSET + FromGuest::SIZE].fill(0);
        control[BATCH_PROGRESS_OFFSET..BATCH_PROGRESS_OFFSET + 8].fill(0);
        let mailbox = [places.incoming.clone(), places.outgoing.clone()];
        let image = self.lease.window().capture(&mailbox).map_err(|error| {
            // It goes back to where it did before.
            self.lease.install(&self.origin.state);
            of_capture(error)
        })?;
        let captured = Arc::new(Captured {
            setup: Arc::clone(&self.setup),
            image,
            state,
            generation: self.generation,
            prototypes: Arc::clone(&self.prototypes),
            log: self.log.another().into(),
            deadline: self.deadline,
            linux: self.linux.as_mut().map(Linux::capture),
        });
        self.origin = Origin::of(&captured);
        self.lease.tables_changed(false);
        // Whoever has the image must not know the numbers that this one will draw.
        self.generation = self.generation.wrapping_add(1);
        self.write_entropy()?;
        Ok(captured)
    }
}

/// Whether the image is in memory, shared as far as it has not been written.
fn has_mapped(lease: &mut Lease, image: &Arc<Image>) -> bool {
    lease.window().is_layered() && lease.image().is_some_and(|mapped| Arc::ptr_eq(mapped, image))
}

impl Origin {
    fn of(snapshot: &Arc<Captured>) -> Origin {
        Origin {
            state: Arc::clone(&snapshot.state),
            generation: snapshot.generation,
            process: snapshot.linux.as_ref().map(|(process, _)| Arc::clone(process)),
            snapshot: Some(Arc::clone(snapshot)),
            unknown: None,
        }
    }
}

fn of_capture(error: CaptureError) -> Error {
    let text = format!("the guest's memory can't be captured: {error}");
    Error::of_system(ErrorKind::Hypervisor, text, error.source)
}

fn of_restore(error: RestoreError) -> Error {
    let text = format!("the sandbox can't be reset: {error}");
    match error {
        RestoreError::ImageLost { source } => Error::of_system(ErrorKind::MemoryLost, text, source),
        RestoreError::StillInReach { source } | RestoreError::Unknown { source } => {
            Error::of_system(ErrorKind::Hypervisor, text, source)
        }
        _ => Error::with_source(ErrorKind::Hypervisor, text, error),
    }
}
