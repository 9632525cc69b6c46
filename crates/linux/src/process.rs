//! A process: all that belongs to a guest, and how it goes on after an exit.
//!
//! [`Process::handle`] is where every exit arrives. The usual one is a system call that can be
//! answered at once, of a thread that goes on: that touches the registers and what the call is
//! about, and nothing else. Only when another thread takes the vCPU is its state asked for and
//! exchanged.

use glowbox_core::registers::Registers;
use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::call::{Again, Answer, Call, Stop, Wait, unsigned};
use crate::clock::{self, Clocks};
use crate::files::Files;
use crate::random::Random;
use crate::space::{self, Space};
use crate::table::{self, Entry, entries};
use crate::threads::{Made, Ready, Threads, Waiting};
use crate::{Broken, Clock, Errno, Event, Hardware, Limits, Next, Streams, World};

mod exceptions;
mod identity;
mod settings;

/// How long a thread may run while others wait for their turn: what lies between two
/// [`Event::Tick`]s.
pub const SLICE: Duration = Duration::from_millis(5);

/// How often it is tried, after one exit, to find a thread that can go on. There is more than one try
/// if what a thread waited for has not happened after all, or if a clock that is not the host's jumps
/// to an instant at which nobody wakes up; without an end, if a timer's signals are ignored.
const TRIES: u32 = 256;

/// What a process starts with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its address space.
    pub space: space::Options,
    /// Its files.
    pub files: Files,
    /// What its random numbers come from.
    pub seed: [u8; 32],
    /// What it may keep the host's memory busy with.
    pub limits: Limits,
}

/// All that belongs to a guest. Its first thread is on the vCPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    pub(crate) space: Space,
    pub(crate) files: Files,
    pub(crate) threads: Threads,
    pub(crate) clock: Clocks,
    pub(crate) random: Random,
    pub(crate) limits: Limits,
}

/// What came of a call.
enum Outcome {
    /// Its thread can go on.
    On,
    /// It can't: another one has to.
    Other,
    /// The guest leaves.
    Next(Next),
}

impl Process {
    /// A process that is about to start.
    pub fn new(options: Options) -> Process {
        Process {
            space: Space::new(options.space),
            files: options.files,
            threads: Threads::new(),
            clock: Clocks::new(),
            random: Random::new(options.seed),
            limits: options.limits,
        }
    }

    /// Whether it may be used over so many bytes of guest memory as it stands: for one that comes
    /// from a file.
    pub fn is_sound(&self, memory: u64) -> bool {
        self.space.is_sound(memory)
            && self.threads.is_sound(self.limits.threads)
            && self.files.is_sound(&self.limits)
    }

    /// Answers an exit, and says how the guest goes on.
    pub fn handle(&mut self, event: Event, hardware: &mut dyn Hardware, world: &mut World) -> Next {
        let runs = self.threads.one_runs();
        world.files.forget_readiness();
        match event {
            Event::Syscall(registers) if runs => self.syscall(registers, hardware, world),
            Event::Exception(exception) if runs => self.exception(&exception, hardware),
            Event::Tick(registers) if runs => self.tick(registers, hardware, world),
            Event::Tick(_) | Event::Woken => {
                self.wake_files(world);
                self.next(hardware, world)
            }
            Event::Syscall(_) | Event::Exception(_) => {
                let what = "answer a thread that does not run".to_string();
                Next::Broken(Broken { what, source: None })
            }
        }
    }

    /// Whether more than one thread can run: then the one that runs has to be stopped after a time
    /// slice, with [`Event::Tick`].
    pub fn needs_ticks(&self) -> bool {
        self.threads.needs_ticks()
    }

    /// What its address space is made of.
    pub fn space_options(&self) -> &space::Options {
        self.space.options()
    }

    /// What it may keep the host's memory busy with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes that its scratch directory has room for; 0 without one.
    pub fn scratch_limit(&self) -> u64 {
        self.files.scratch_limit()
    }

    /// Bytes that the files take which it was given to read.
    pub fn given_size(&self) -> u64 {
        self.files.given_size()
    }

    /// Paths at which it has directories of the host.
    pub fn host_directories(&self) -> impl Iterator<Item = &[u8]> {
        self.files.host_directories()
    }

    /// How many page tables it has that its address space was not made with. They are never given up,
    /// and each stays in its place.
    pub fn tables_added(&self) -> usize {
        self.space.tables_added()
    }

    /// Writes its page tables anew, where only those of what is mapped at the start are.
    ///
    /// # Errors
    ///
    /// As [`Space::rebuild`].
    pub fn rebuild(&mut self, hardware: &mut dyn Hardware) -> Result<(), Broken> {
        self.space.rebuild(hardware)
    }

    /// Nanoseconds on its monotonic clock.
    pub fn now(&mut self, world: &World) -> u64 {
        self.clock.monotonic(&world.clock)
    }

    /// Seeds its random numbers anew: for a copy of a process.
    pub fn reseed(&mut self, seed: [u8; 32]) {
        self.random = Random::new(seed);
    }

    /// How far it has read its standard input, if that is bytes that were given. They may be replaced
    /// by others, which it reads from their start: see [`Grants::set_stdin`](crate::files::Grants::set_stdin).
    pub fn input_position(&self) -> u64 {
        self.files.input_position()
    }

    /// Threads that it has.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    fn syscall(
        &mut self,
        mut registers: Registers,
        hardware: &mut dyn Hardware,
        world: &mut World,
    ) -> Next {
        let r = &mut registers;
        let made =
            Made { number: unsigned(r.rax), arguments: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] };
        (r.rcx, r.r11) = (r.rip, r.rflags);
        let answer = self.call(made, None, &mut registers, hardware, world);
        match self.outcome(answer, made, None, registers, hardware) {
            Some(next) => next,
            None => self.next(hardware, world),
        }
    }

    /// Makes a call in the current thread's name.
    fn call(
        &mut self,
        made: Made,
        again: Option<Again>,
        registers: &mut Registers,
        hardware: &mut dyn Hardware,
        world: &mut World,
    ) -> Answer {
        let Some(entry) = table::find(made.number) else { return Err(Errno::ENOSYS.into()) };
        let arguments = made.arguments;
        (entry.handler)(&mut Call { arguments, registers, again, process: self, hardware, world })
    }

    /// How the guest goes on after a call; `None` if its thread can't.
    fn outcome(
        &mut self,
        answer: Answer,
        made: Made,
        again: Option<Again>,
        mut registers: Registers,
        hardware: &mut dyn Hardware,
    ) -> Option<Next> {
        match self.settle(answer, made, again, &mut registers) {
            Outcome::On => Some(self.go_on(registers, hardware)),
            Outcome::Other => None,
            Outcome::Next(next) => Some(next),
        }
    }

    /// Gives a thread what its call answered.
    fn settle(
        &mut self,
        answer: Answer,
        made: Made,
        again: Option<Again>,
        registers: &mut Registers,
    ) -> Outcome {
        let result = match answer {
            Ok(value) => value,
            Err(Stop::Error(error)) => {
                // Only writing gives this.
                if error == Errno::EPIPE {
                    self.threads.raise(raw::SIGPIPE);
                }
                error.to_register()
            }
            // No call has reason to wait on when its time has come.
            Err(Stop::Wait(_)) if again.is_some_and(|again| again.timed_out) => {
                Errno::EAGAIN.to_register()
            }
            Err(Stop::Wait(wait)) => {
                self.wait(registers, made, wait);
                return Outcome::Other;
            }
            Err(Stop::Gone) => return self.gone(registers),
            Err(Stop::Exit(status)) => return Outcome::Next(Next::Exited(status)),
            Err(Stop::Killed(signal)) => {
                return Outcome::Next(Next::Killed { signal, exception: None });
            }
            Err(Stop::OutOfMemory(requested)) => {
                return Outcome::Next(Next::OutOfMemory { requested });
            }
            Err(Stop::Broken(broken)) => return Outcome::Next(Next::Broken(broken)),
        };
        registers.rax = result;
        // What only its mask let through is for a call that is cut short.
        self.threads.restore_mask();
        if made.number != raw::__NR_futex {
            self.threads.note_call();
        }
        Outcome::On
    }

    /// The thread's registers are as they should be, or it has ended.
    fn gone(&mut self, registers: &Registers) -> Outcome {
        if !self.threads.current_exists() {
            // What it had open may be what others waited for.
            self.threads.note_call();
            return Outcome::Other;
        }
        if self.threads.take_yielded() {
            self.threads.requeue(registers);
            return Outcome::Other;
        }
        Outcome::On
    }

    /// Lets the current thread wait, unless a signal is there already.
    fn wait(&mut self, registers: &Registers, made: Made, wait: Wait) {
        self.threads.wait(registers, made, wait);
        if self.threads.next_action().is_some() || self.threads.has_awaited(wait.on) {
            self.threads.interrupt_current();
        }
    }

    /// Lets the current thread go on with these registers, or with a handler.
    fn go_on(&mut self, mut registers: Registers, hardware: &mut dyn Hardware) -> Next {
        if let Some(next) = self.take_signals(&mut registers, hardware) {
            return next;
        }
        match self.threads.switch(registers, hardware) {
            Ok(Some(state)) => Next::Enter(state),
            Ok(None) => Next::Proceed { registers, bases: self.threads.take_bases() },
            Err(broken) => Next::Broken(broken),
        }
    }

    /// A time slice is over.
    fn tick(
        &mut self,
        registers: Registers,
        hardware: &mut dyn Hardware,
        world: &mut World,
    ) -> Next {
        if world.clock != Clock::Real {
            self.clock.advance(SLICE);
        }
        self.look_at_clock(world);
        self.wake_files(world);
        self.threads.requeue(&registers);
        self.next(hardware, world)
    }

    /// Lets waits for files have another look, those for the
    /// host's streams if one is ready. Whether any has.
    fn wake_files(&mut self, world: &World) -> bool {
        let ready = world.files.is_any_ready(self.threads.waits_for_host());
        self.threads.wake_files(ready)
    }

    /// Ends what the time has come for.
    fn look_at_clock(&mut self, world: &World) {
        if self.threads.earliest().is_some() {
            let now = self.clock.peek(&world.clock);
            self.threads.wake_due(now);
            self.threads.ring(now);
        }
    }

    /// Lets the next thread go on that can.
    fn next(&mut self, hardware: &mut dyn Hardware, world: &mut World) -> Next {
        // Whether the host's streams have been looked at since nobody could run.
        let mut looked = false;
        for _ in 0..TRIES {
            // Looking at what many descriptors are ready for takes a while.
            if hardware.is_to_stop() {
                break;
            }
            self.look_at_clock(world);
            self.threads.wake_files(false);
            if let Some((registers, over)) = self.threads.next() {
                match self.resume(registers, over, hardware, world) {
                    Some(next) => return next,
                    None => continue,
                }
            }
            let streams = self.threads.waits_for_host();
            if streams.any() && !std::mem::replace(&mut looked, true) && self.wake_files(world) {
                continue;
            }
            match (self.threads.earliest(), world.clock) {
                (None, _) if !streams.any() => return Next::Deadlock,
                (until @ None, _) | (until @ Some(_), Clock::Real) => {
                    return Next::Sleep { until, streams };
                }
                (Some(until), Clock::Virtual | Clock::Frozen(_)) => self.clock.jump(until),
            }
        }
        // No more without a look whether the guest is to stop.
        Next::Sleep { until: Some(self.clock.peek(&world.clock)), streams: Streams::NONE }
    }

    /// Lets the current thread go on, which has just been chosen; with its call if it has waited.
    /// `None` if it can't after all.
    fn resume(
        &mut self,
        mut registers: Registers,
        over: Option<(Waiting, Ready)>,
        hardware: &mut dyn Hardware,
        world: &mut World,
    ) -> Option<Next> {
        let Some((waiting, why)) = over else { return Some(self.go_on(registers, hardware)) };
        let Waiting { made, wait, .. } = waiting;
        let again = Again { on: wait.on, until: wait.until, timed_out: why == Ready::TimedOut };
        if why == Ready::Interrupted && !self.threads.has_awaited(wait.on) {
            let Some(action) = self.threads.next_action() else {
                // Another thread has taken the signal.
                self.threads.wait_on(waiting);
                return None;
            };
            let result = match restarts(made, wait) && action.has(raw::SA_RESTART) {
                // What is done counts.
                _ if wait.on.written() > 0 => {
                    registers.rax = wait.on.written();
                    self.threads.note_call();
                    Ok(())
                }
                true => {
                    registers.rip = registers.rip.saturating_sub(SYSCALL_LENGTH);
                    registers.rax = made.number.into();
                    Ok(())
                }
                false => {
                    registers.rax = Errno::EINTR.to_register();
                    self.interrupted(made, again, &mut registers, hardware, world)
                }
            };
            if let Err(stop) = result {
                return self.outcome(Err(stop), made, Some(again), registers, hardware);
            }
            return Some(self.go_on(registers, hardware));
        }
        let answer = self.call(made, Some(again), &mut registers, hardware, world);
        self.outcome(answer, made, Some(again), registers, hardware)
    }

    /// Finishes a call that a signal has cut short.
    fn interrupted(
        &mut self,
        made: Made,
        again: Again,
        registers: &mut Registers,
        hardware: &mut dyn Hardware,
        world: &mut World,
    ) -> Result<(), Stop> {
        let Made { number, arguments } = made;
        let again = Some(again);
        let mut call = Call { arguments, registers, again, process: self, hardware, world };
        clock::interrupted(&mut call, number)
    }
}

/// Length of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// Whether Linux makes a call again that a signal has cut short, if the handler asks for it. It does
/// not where it would have to wait for less time than before, nor where waiting for signals is the
/// point.
fn restarts(made: Made, wait: Wait) -> bool {
    let never = matches!(
        made.number,
        raw::__NR_poll
            | raw::__NR_ppoll
            | raw::__NR_select
            | raw::__NR_pselect6
            | raw::__NR_epoll_wait
            | raw::__NR_epoll_pwait
            | raw::__NR_epoll_pwait2
            | raw::__NR_pause
            | raw::__NR_rt_sigsuspend
            | raw::__NR_rt_sigtimedwait
            | raw::__NR_nanosleep
            | raw::__NR_clock_nanosleep
    );
    wait.until.is_none() && !never
}

pub(crate) const CALLS: &[Entry] = entries! {
    getpid __NR_getpid identity::getpid: "2";
    getppid __NR_getppid identity::getppid: "1";
    getpgrp __NR_getpgrp identity::getpid: "2";
    getpgid __NR_getpgid identity::getpgid: "2";
    getsid __NR_getsid identity::getpgid: "2";
    setpgid __NR_setpgid identity::setsid: "`EPERM`, as for any session leader";
    setsid __NR_setsid identity::setsid: "`EPERM`, as for any session leader";
    getuid __NR_getuid identity::getuid: "1000";
    geteuid __NR_geteuid identity::getuid: "1000";
    getgid __NR_getgid identity::getuid: "1000";
    getegid __NR_getegid identity::getuid: "1000";
    getresuid __NR_getresuid identity::getresuid: "1000";
    getresgid __NR_getresgid identity::getresuid: "1000";
    setuid __NR_setuid identity::setuid: "to 1000";
    setgid __NR_setgid identity::setuid: "to 1000";
    setreuid __NR_setreuid identity::setreuid: "to 1000";
    setregid __NR_setregid identity::setreuid: "to 1000";
    setresuid __NR_setresuid identity::setresuid: "to 1000";
    setresgid __NR_setresgid identity::setresuid: "to 1000";
    setfsuid __NR_setfsuid identity::setfsuid: "stays 1000";
    setfsgid __NR_setfsgid identity::setfsuid: "stays 1000";
    getgroups __NR_getgroups identity::getgroups: "none";
    setgroups __NR_setgroups identity::denied: "`EPERM`";
    capget __NR_capget identity::capget: "none";
    capset __NR_capset identity::denied: "`EPERM`";
    wait4 __NR_wait4 identity::no_child: "`ECHILD`: there are no other processes";
    waitid __NR_waitid identity::no_child: "`ECHILD`: there are no other processes";
    execve __NR_execve identity::no_program: "`EACCES`: there are no other programs";
    execveat __NR_execveat identity::no_program: "`EACCES`: there are no other programs";
    uname __NR_uname settings::uname: "Linux 6.1.0 on `glowbox`";
    sysinfo __NR_sysinfo settings::sysinfo: "memory is the sandbox's";
    getrlimit __NR_getrlimit settings::getrlimit: "the sandbox's limits";
    setrlimit __NR_setrlimit settings::setrlimit: "accepted within the limits, which stay as they are";
    prlimit64 __NR_prlimit64 settings::prlimit64: "as `getrlimit` and `setrlimit`, for itself";
    prctl __NR_prctl settings::prctl: "names of threads; little else";
    arch_prctl __NR_arch_prctl settings::arch_prctl: "segment bases";
    personality __NR_personality settings::personality: "0, and stays so";
    sched_getaffinity __NR_sched_getaffinity settings::sched_getaffinity: "one CPU";
    sched_setaffinity __NR_sched_setaffinity settings::sched_setaffinity: "accepted if the one CPU is in it";
    sched_getscheduler __NR_sched_getscheduler settings::sched_getscheduler: "`SCHED_OTHER`";
    sched_setscheduler __NR_sched_setscheduler settings::sched_setscheduler: "`SCHED_OTHER` only";
    sched_getparam __NR_sched_getparam settings::sched_getparam: "priority 0";
    sched_setparam __NR_sched_setparam settings::sched_setparam: "priority 0 only";
    sched_get_priority_max __NR_sched_get_priority_max settings::sched_get_priority: "0";
    sched_get_priority_min __NR_sched_get_priority_min settings::sched_get_priority: "0";
    getcpu __NR_getcpu settings::getcpu: "CPU 0";
    getpriority __NR_getpriority settings::getpriority: "nice 0";
    setpriority __NR_setpriority settings::setpriority: "accepted, without effect";
    rseq __NR_rseq identity::absent: "`ENOSYS`: libraries do without";
};
