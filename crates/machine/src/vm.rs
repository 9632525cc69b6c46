//! A machine that is a hypervisor's virtual machine: what KVM's and Microsoft's have in common.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glowbox_core::address::Gpa;
use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use glowbox_mem::{GuestMemory, Image, Lent, Window};

use crate::interrupt::RunControl;
use crate::supervisor;
use crate::supervisor::resume::{self, Abilities};
use crate::vcpu;
use crate::{Exit, Machine, MachineError, SegmentBases};

/// What a hypervisor has: a virtual machine with one virtual CPU, over memory that it has been given.
pub trait Vm: fmt::Debug + Send {
    /// Something that is lent, and what it is taken back by.
    type Loan: fmt::Debug + Send;

    /// What the virtual CPU has.
    fn abilities(&self) -> Abilities;

    /// Sets all that decides where and how user mode goes on, when it runs next. The flags are
    /// [`vcpu::for_user_mode`]'s.
    ///
    /// # Errors
    ///
    /// As all others: [`MachineError`] if the hypervisor refuses.
    fn set_registers(&mut self, to: &Registers, bases: SegmentBases) -> Result<(), MachineError>;

    /// The registers at the last exit.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`].
    fn registers(&self) -> Result<Registers, MachineError>;

    /// The segment bases at the last exit, and the address of the last page fault (CR2).
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`].
    fn special(&self) -> Result<(SegmentBases, u64), MachineError>;

    /// The extended state at the last exit, in XSAVE's standard form.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`].
    fn extended(&self) -> Result<ExtendedState, MachineError>;

    /// Whether every exit is to bring the registers.
    fn carry_registers(&mut self, carry: bool);

    /// Brings to an end what the last exit left unfinished.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`]; the machine is broken then.
    fn finish(&mut self) -> Result<(), MachineError>;

    /// Brings a call out to its end, and returns registers and bases behind it.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`]; the machine is broken then.
    fn behind_call(&mut self) -> Result<(Registers, SegmentBases), MachineError>;

    /// Forgets everything about the page tables in `memory`.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`]; the machine is broken then.
    fn forget_tables(&mut self, memory: &GuestMemory) -> Result<(), MachineError>;

    /// Lets the guest read something beside its memory. `loans` are those that there are.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`].
    fn lend(
        &mut self,
        gpa: Gpa,
        lent: Arc<Lent>,
        loans: &[Self::Loan],
    ) -> Result<Self::Loan, MachineError>;

    /// Takes a loan back.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`]; the machine is broken then.
    fn take_back(&mut self, loan: &Self::Loan) -> Result<(), MachineError>;

    /// Lets the guest run until it leaves, and counts how often it was entered.
    ///
    /// # Errors
    ///
    /// See [`Vm::set_registers`]; the machine is broken then.
    fn run(&mut self, control: &RunControl, entries: &mut u64) -> Result<Left, MachineError>;
}

/// How a guest has left.
#[derive(Debug)]
pub enum Left {
    /// By a port other than the call port, or in another way than `out`.
    ByPort(u16),
    /// In a way that needs no more to be known.
    By(Exit),
}

/// A hypervisor's virtual machine.
#[derive(Debug)]
pub struct VirtualMachine<V: Vm> {
    // Fields drop in this order: the VM before the memory it uses.
    vm: V,
    loans: Vec<V::Loan>,
    memory: GuestMemory,
    control: Arc<RunControl>,
    /// Whether the last exit may have left something, in the hypervisor or the supervisor.
    unsettled: bool,
    broken: bool,
    entries: u64,
    guest_time: Duration,
}

impl<V: Vm> VirtualMachine<V> {
    /// A machine that has never run, of a VM over `memory`.
    pub(crate) fn over(memory: GuestMemory, vm: V, control: Arc<RunControl>) -> VirtualMachine<V> {
        VirtualMachine {
            vm,
            loans: Vec::new(),
            memory,
            control,
            unsettled: false,
            broken: false,
            entries: 0,
            guest_time: Duration::ZERO,
        }
    }

    fn set_registers(&mut self, to: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        self.vm.set_registers(&vcpu::for_user_mode(to), bases)
    }

    /// A failure after which the machine can't be used.
    fn breaks<T>(&mut self, result: Result<T, MachineError>) -> Result<T, MachineError> {
        self.broken |= result.is_err();
        result
    }

    fn exit(&mut self) -> Result<Exit, MachineError> {
        match self.vm.run(&self.control, &mut self.entries)? {
            Left::By(exit) => Ok(exit),
            Left::ByPort(port) => {
                let address = || Ok(self.vm.special()?.1);
                vcpu::left_by_port(port, self.vm.registers()?, address, self.memory.bytes())
            }
        }
    }
}

impl<V: Vm> Machine for VirtualMachine<V> {
    fn memory(&self) -> &[u8] {
        self.memory.bytes()
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    fn image(&self) -> Option<&Arc<Image>> {
        self.memory.image()
    }

    fn window(&mut self) -> Window<'_> {
        Window::new(&mut self.memory)
    }

    fn copy_out(&self, range: Range<usize>) -> Option<Vec<u8>> {
        self.memory.copy_out(range)
    }

    fn install(&mut self, state: &CpuState) {
        supervisor::install(self.memory.bytes_mut());
        resume::install(self.memory.bytes_mut(), state, self.vm.abilities());
    }

    fn start(&mut self, state: &CpuState) -> Result<(), MachineError> {
        self.settle()?;
        let (registers, bases) = vcpu::at_start(state);
        self.set_registers(&registers, bases)
    }

    fn state(&mut self) -> Result<CpuState, MachineError> {
        self.memory.used();
        let behind = self.vm.behind_call();
        self.unsettled = false;
        let (registers, bases) = self.breaks(behind)?;
        let (fs_base, gs_base) = (bases.fs, bases.gs);
        Ok(CpuState { registers, fs_base, gs_base, extended: self.vm.extended()? })
    }

    fn proceed(&mut self, registers: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        // Nothing of the exit is left to be finished but the supervisor's `out`, which is given up when
        // RIP is another.
        self.set_registers(registers, bases)
    }

    fn bases(&self) -> Result<SegmentBases, MachineError> {
        Ok(self.vm.special()?.0)
    }

    fn extended(&mut self) -> Result<ExtendedState, MachineError> {
        self.vm.extended()
    }

    fn carry_registers(&mut self, carry: bool) {
        self.vm.carry_registers(carry);
    }

    fn reveal(&mut self, memory: Range<usize>) {
        self.memory.reveal(memory);
    }

    fn forget(&mut self, memory: Range<usize>) -> Result<(), MachineError> {
        // The hypervisor is told of the change of the host's mapping.
        let request = "mprotect";
        let result = self.memory.forget(memory);
        self.breaks(result.map_err(|source| MachineError::Request { request, source }))
    }

    fn forget_tables(&mut self) -> Result<(), MachineError> {
        let result = self.vm.forget_tables(&self.memory);
        self.breaks(result)
    }

    fn settle(&mut self) -> Result<(), MachineError> {
        if self.broken {
            return Err(MachineError::Broken);
        }
        if std::mem::take(&mut self.unsettled) {
            self.memory.used();
            let finished = self.vm.finish();
            self.breaks(finished)?;
            supervisor::wipe_stack(self.memory.bytes_mut());
        }
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn lend(&mut self, gpa: Gpa, lent: Arc<Lent>) -> Result<(), MachineError> {
        let loan = self.vm.lend(gpa, lent, &self.loans)?;
        self.loans.push(loan);
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        while let Some(loan) = self.loans.last() {
            let result = self.vm.take_back(loan);
            self.breaks(result)?;
            self.loans.pop();
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Exit, MachineError> {
        self.memory.used();
        let start = Instant::now();
        let exit = self.exit();
        self.guest_time += start.elapsed();
        self.unsettled = !matches!(exit, Ok(Exit::CalledOut));
        self.broken |= matches!(exit, Ok(Exit::Broken { .. }) | Err(_));
        exit
    }

    fn control(&self) -> &Arc<RunControl> {
        &self.control
    }

    fn set_control(&mut self, control: Arc<RunControl>) {
        self.control = control;
    }

    fn entries(&self) -> u64 {
        self.entries
    }

    fn guest_time(&self) -> Duration {
        self.guest_time
    }
}
