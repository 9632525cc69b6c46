//! The thread that traces a guest's process.
//!
//! Only the thread that traces a process may do anything with it, and a machine goes from thread to thread;
//! so each machine has a thread of its own, which does what it is told. When that thread ends, however it
//! does, the kernel ends the process.
//!
//! The process makes no system call but those that are asked for here: it is resumed by `PTRACE_SYSEMU`, with
//! which the kernel stops at each one instead of making it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

use super::frames::{Frame, Frames};
use super::stub::{self, CODE_SEGMENT, Call, NO_CALL};
use crate::interrupt::KICK;
use crate::{MachineError, TRAP_FLAG};

/// The process ends with its tracer, and stops at system calls are told from the signal `SIGTRAP`:
/// `PTRACE_O_EXITKILL` and `PTRACE_O_TRACESYSGOOD`.
const OPTIONS: usize = 1 << 20 | 1 << 0;
/// The register set of `PTRACE_GETREGSET` that has what `xsave` saves.
const NT_X86_XSTATE: c_int = 0x202;
/// Bytes that an XSAVE area can have: more than any CPU's.
const AREA: usize = 16 << 10;
/// Bytes of the thread's stack: an area, a few registers, and what it takes to start a process.
const STACK: usize = 256 << 10;

/// The signals that a fault raises, and a call that a filter has refused.
const FAULTS: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// The stack segment of 64-bit programs, on every Linux.
const STACK_SEGMENT: u64 = 0x2b;

/// Whether registers have segment bases that the system sets for nobody. A guest that has written them by
/// itself has them all the same.
fn has_unsettable_bases(registers: &user_regs_struct) -> bool {
    registers.fs_base >= stub::END || registers.gs_base >= stub::END
}

/// What the stub's code runs with: nothing that decides how it runs is the guest's, which may be in 32-bit code.
/// Bases decide nothing; those that could not be set again stay.
fn stubs_own(registers: user_regs_struct) -> user_regs_struct {
    let bases = match has_unsettable_bases(&registers) {
        true => (registers.fs_base, registers.gs_base),
        false => (0, 0),
    };
    user_regs_struct {
        cs: CODE_SEGMENT,
        ss: STACK_SEGMENT,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        fs_base: bases.0,
        gs_base: bases.1,
        eflags: 0,
        orig_rax: NO_CALL,
        ..registers
    }
}

/// What the process is to do next.
pub(super) struct Resume {
    /// System calls that it makes first, all of which have to succeed.
    pub(super) calls: Vec<Call>,
    /// Flags that have to be loaded by an instruction, since `ptrace` does not set them.
    pub(super) flags: Option<u64>,
    /// Its registers, if others than those at the last stop, or if there are calls.
    pub(super) registers: Option<user_regs_struct>,
    /// Its x87, SSE and further state, if another one.
    pub(super) extended: Option<Vec<u8>>,
}

/// Why the process has stopped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// At a system call that has not been made.
    Call,
    /// By a signal of the kernel's.
    Fault {
        signal: c_int,
        code: c_int,
        /// What `si_addr` says.
        address: u64,
    },
    /// By [`KICK`].
    Kicked,
    /// It is no more; with the status that `waitpid` gave.
    Ended(c_int),
}

enum Request {
    Resume(Resume),
    /// What the fault was that it has stopped at.
    Frame(c_int, user_regs_struct),
    Extended,
    /// Makes system calls.
    Calls(Vec<Call>),
    /// Takes a descriptor, in this state if another one.
    Receive(File, Option<Vec<u8>>),
}

#[allow(clippy::large_enum_variant, reason = "the largest is what is nearly always sent")]
enum Reply {
    Stopped(Stop, user_regs_struct),
    Frame(Frame),
    Extended(Vec<u8>),
    Called,
    Received(u64),
}

type Result<T> = std::result::Result<T, MachineError>;

/// A guest's process, as its machine has it.
#[derive(Debug)]
pub(super) struct Tracee {
    requests: Option<Sender<Request>>,
    replies: Receiver<Result<Reply>>,
    thread: Option<JoinHandle<()>>,
    pidfd: Arc<OwnedFd>,
    /// The process that made it; a fork of that has not the thread.
    owner: u32,
}

impl Tracee {
    /// Starts a process with this memory. Returns it with its registers, which are the stub's.
    pub(super) fn start(program: &File, memory: &File) -> Result<(Tracee, user_regs_struct)> {
        let clone = |file: &File| file.try_clone().map_err(failed("dup"));
        let (program, memory) = (clone(program)?, clone(memory)?);
        let (requests, received) = channel();
        let (sender, replies) = channel();
        let (started, start) = channel();
        let thread = std::thread::Builder::new().name("glowbox-guest".into());
        let thread = thread.stack_size(STACK);
        let thread = thread
            .spawn(move || match Tracer::start(&program, &memory) {
                Ok((tracer, pidfd, registers)) => {
                    drop((program, memory));
                    if started.send(Ok((pidfd, registers))).is_ok() {
                        tracer.serve(&received, &sender);
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(failed("starting a thread"))?;
        let result = start.recv().unwrap_or(Err(MachineError::Broken));
        let (pidfd, registers) = match result {
            Ok(started) => started,
            Err(error) => {
                let _ = thread.join();
                return Err(error);
            }
        };
        let pidfd = Arc::new(pidfd);
        let (requests, thread) = (Some(requests), Some(thread));
        let owner = std::process::id();
        Ok((Tracee { requests, replies, thread, pidfd, owner }, registers))
    }

    /// The process, for signals.
    pub(super) fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    fn ask(&mut self, request: Request) -> Result<Reply> {
        let ours = self.owner == std::process::id();
        let requests = self.requests.as_ref().filter(|_| ours).ok_or(MachineError::Broken)?;
        requests.send(request).map_err(|_| MachineError::Broken)?;
        self.replies.recv().unwrap_or(Err(MachineError::Broken))
    }

    /// Lets the process run until it stops.
    pub(super) fn resume(&mut self, resume: Resume) -> Result<(Stop, user_regs_struct)> {
        match self.ask(Request::Resume(resume))? {
            Reply::Stopped(stop, registers) => Ok((stop, registers)),
            _ => Err(MachineError::Broken),
        }
    }

    /// What the kernel says of the fault by `signal` at which the process has stopped with these registers.
    /// They have to be set anew after that.
    pub(super) fn frame(&mut self, signal: c_int, registers: user_regs_struct) -> Result<Frame> {
        match self.ask(Request::Frame(signal, registers))? {
            Reply::Frame(frame) => Ok(frame),
            _ => Err(MachineError::Broken),
        }
    }

    /// The process's x87, SSE and further state, as `xsave` has it.
    pub(super) fn extended(&mut self) -> Result<Vec<u8>> {
        match self.ask(Request::Extended)? {
            Reply::Extended(bytes) => Ok(bytes),
            _ => Err(MachineError::Broken),
        }
    }

    /// Lets the process make system calls. The registers have to be set anew after that.
    pub(super) fn call(&mut self, calls: Vec<Call>) -> Result<()> {
        match self.ask(Request::Calls(calls))? {
            Reply::Called => Ok(()),
            _ => Err(MachineError::Broken),
        }
    }

    /// Gives the process a file; returns the descriptor that it has there. The registers have to be set anew
    /// after that. If it fails, nothing may be given any more: the file may be on its way.
    pub(super) fn give(&mut self, file: File, extended: Option<Vec<u8>>) -> Result<u64> {
        match self.ask(Request::Receive(file, extended))? {
            Reply::Received(descriptor) => Ok(descriptor),
            _ => Err(MachineError::Broken),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take().filter(|_| self.owner == std::process::id()) {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Tracer {
    process: pid_t,
    frames: Frames,
    socket: UnixStream,
    /// Whether it is known to have ended; its number may be another's then.
    ended: Cell<bool>,
}

fn failed(request: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Request { request, source }
}

impl Tracer {
    /// Starts a process, and lets it come to the end of the stub.
    fn start(program: &File, memory: &File) -> Result<(Tracer, OwnedFd, user_regs_struct)> {
        block_signals();
        let frames = Frames::new().map_err(failed("memfd_create"))?;
        let (socket, theirs) = UnixStream::pair().map_err(failed("socketpair"))?;
        let stdio = |file: io::Result<File>| file.map(Stdio::from).map_err(failed("dup"));
        // The program is not among the three descriptors that the process gets: see `Platform`.
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .stdin(stdio(memory.try_clone())?)
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(stdio(frames.file().try_clone())?)
            .spawn()
            .map_err(failed("starting a process"))?;
        let process = pid_t::try_from(child.id()).expect("a process id");
        // From here on it is ended when this is dropped.
        let mut tracer = Tracer { process, frames, socket, ended: Cell::new(false) };
        // SAFETY: takes integers, and returns a descriptor of its own, or an error.
        let pidfd =
            unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(process), 0 as c_long) };
        let pidfd = c_int::try_from(pidfd).unwrap_or(-1);
        if pidfd < 0 {
            return Err(failed("pidfd_open")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        tracer.ptrace("PTRACE_SEIZE", libc::PTRACE_SEIZE, 0, OPTIONS)?;
        tracer.socket.write_all(&[0]).map_err(failed("write"))?;
        let status = tracer.wait()?;
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP {
            let registers = tracer.registers()?;
            return Ok((tracer, pidfd, registers));
        }
        if libc::WIFEXITED(status) {
            let place = usize::try_from(libc::WEXITSTATUS(status)).unwrap_or(0);
            let source = io::Error::other("the guest's process could not be set up");
            return Err(MachineError::Request { request: stub::name_of(place), source });
        }
        Err(failed("starting a process")(io::Error::other(format!("status {status:#x}"))))
    }

    fn serve(mut self, requests: &Receiver<Request>, replies: &Sender<Result<Reply>>) {
        for request in requests {
            let reply = match request {
                Request::Resume(resume) => {
                    self.resume(&resume).map(|(stop, registers)| Reply::Stopped(stop, registers))
                }
                Request::Frame(signal, registers) => {
                    self.frame(signal, registers).map(Reply::Frame)
                }
                Request::Extended => self.extended().map(Reply::Extended),
                Request::Calls(calls) => {
                    let mut calls = calls.iter();
                    calls
                        .try_for_each(|call| self.call(call, &mut false).map(drop))
                        .map(|()| Reply::Called)
                }
                Request::Receive(file, extended) => {
                    let set = extended.map_or(Ok(()), |extended| self.set_extended(&extended));
                    set.and_then(|()| self.receive(&file)).map(Reply::Received)
                }
            };
            if replies.send(reply).is_err() {
                return;
            }
        }
    }

    fn resume(&mut self, resume: &Resume) -> Result<(Stop, user_regs_struct)> {
        let mut kicked = false;
        // First: the last guest's may keep the process from its own pages (protection keys).
        if let Some(extended) = &resume.extended {
            self.set_extended(extended)?;
            self.frames.wipe();
        }
        for call in &resume.calls {
            self.call(call, &mut kicked)?;
        }
        if let Some(flags) = resume.flags {
            self.load_flags(flags, &mut kicked)?;
        }
        if let Some(registers) = &resume.registers {
            self.set_registers(registers)?;
        }
        if kicked {
            return Ok((Stop::Kicked, self.registers()?));
        }
        loop {
            self.ptrace("PTRACE_SYSEMU", libc::PTRACE_SYSEMU, 0, 0)?;
            let status = self.wait()?;
            if !libc::WIFSTOPPED(status) {
                // SAFETY: all-zero registers are a valid value of that plain C struct.
                return Ok((Stop::Ended(status), unsafe { MaybeUninit::zeroed().assume_init() }));
            }
            if let Some(stop) = self.stop(libc::WSTOPSIG(status))? {
                return Ok((stop, self.registers()?));
            }
        }
    }

    /// What a stop by this signal is; `None` for one that is nobody's business here.
    fn stop(&self, signal: c_int) -> Result<Option<Stop>> {
        if signal == libc::SIGTRAP | 0x80 {
            return Ok(Some(Stop::Call));
        }
        if signal == KICK {
            return Ok(Some(Stop::Kicked));
        }
        const FAULTS: [c_int; 6] =
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
        if !FAULTS.contains(&signal) {
            return Ok(None);
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let at = info.as_mut_ptr().expose_provenance();
        match self.ptrace("PTRACE_GETSIGINFO", libc::PTRACE_GETSIGINFO, 0, at) {
            Ok(()) => {}
            // Not a signal, but a stop of another kind.
            Err(MachineError::Request { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        // SAFETY: it was zero, which is a valid value, and has been filled in.
        let info = unsafe { info.assume_init() };
        // Others than the kernel's have no such code.
        if info.si_code <= 0 {
            return Ok(None);
        }
        // SAFETY: of these signals the kernel's information starts with an address.
        let address = unsafe { info.si_addr() }.addr() as u64;
        Ok(Some(Stop::Fault { signal, code: info.si_code, address }))
    }

    /// Lets the process make a system call.
    fn call(&self, (number, arguments): &Call, kicked: &mut bool) -> Result<u64> {
        let [rdi, rsi, rdx, r10, r8, r9] = *arguments;
        let registers = user_regs_struct {
            rip: stub::GATE,
            rax: number.cast_unsigned(),
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rsp: 0,
            ..stubs_own(self.registers()?)
        };
        self.set_registers(&registers)?;
        let result = loop {
            self.to_trap("PTRACE_SINGLESTEP", libc::PTRACE_SINGLESTEP, kicked)?;
            let registers = self.registers()?;
            match registers.rip {
                // Where it has stopped at a system call, the first step is the end of that one.
                stub::GATE => {}
                stub::BEHIND_GATE => break registers.rax,
                _ => return Err(MachineError::Broken),
            }
        };
        match result.cast_signed() {
            error @ -4095..=-1 => {
                let number = i32::try_from(-error).unwrap_or(libc::EIO);
                let source = io::Error::from_raw_os_error(number);
                Err(MachineError::Request { request: "a call of the guest's process", source })
            }
            _ => Ok(result),
        }
    }

    /// Lets the process load its flags.
    fn load_flags(&mut self, flags: u64, kicked: &mut bool) -> Result<()> {
        let rsp = self.frames.push(flags & !TRAP_FLAG);
        let rip = stub::load_flags();
        let registers = user_regs_struct { rip, rsp, ..stubs_own(self.registers()?) };
        self.set_registers(&registers)?;
        self.to_trap("PTRACE_SYSEMU", libc::PTRACE_SYSEMU, kicked)?;
        self.frames.wipe();
        match self.registers()?.rip {
            behind if behind == stub::behind_load_flags() => Ok(()),
            _ => Err(MachineError::Broken),
        }
    }

    /// Resumes the process, and waits until it traps. Other signals do not get to it.
    fn to_trap(&self, name: &'static str, request: libc::c_uint, kicked: &mut bool) -> Result<()> {
        loop {
            self.ptrace(name, request, 0, 0)?;
            let status = self.wait()?;
            if !libc::WIFSTOPPED(status) {
                return Err(MachineError::Broken);
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP => return Ok(()),
                // The stub does nothing that faults; where it does, it would for ever.
                signal if FAULTS.contains(&signal) => return Err(MachineError::Broken),
                signal => *kicked |= signal == KICK,
            }
        }
    }

    /// Has the kernel write down what the fault was, as it does for a handler.
    fn frame(&mut self, signal: c_int, registers: user_regs_struct) -> Result<Frame> {
        // The handler starts with a state of its own.
        let extended = self.extended()?;
        // Wherever the guest's stack is, the frame goes to the pages for it.
        self.set_registers(&user_regs_struct { rsp: 0, orig_rax: NO_CALL, ..registers })?;
        let mut signal = usize::try_from(signal).unwrap_or(0);
        loop {
            self.ptrace("PTRACE_CONT", libc::PTRACE_CONT, 0, signal)?;
            let status = self.wait()?;
            if !libc::WIFSTOPPED(status) {
                return Err(MachineError::Broken);
            }
            if libc::WSTOPSIG(status) == libc::SIGSEGV {
                break;
            }
            // Another signal came first: a kick, which whoever sent it sends again.
            signal = 0;
        }
        let handler = self.registers()?;
        self.set_extended(&extended)?;
        let frame = self.frames.read(handler.rip, handler.rdx);
        self.frames.wipe();
        frame.ok_or(MachineError::Broken)
    }

    /// Sends the process a file, and lets it take it.
    fn receive(&mut self, file: &File) -> Result<u64> {
        let message = self.frames.prepare_message();
        super::frames::send(&self.socket, file).map_err(failed("sendmsg"))?;
        let call = (libc::SYS_recvmsg, [stub::SOCKET, message, 0, 0, 0, 0]);
        let received = self.call(&call, &mut false);
        let descriptor = self.frames.received();
        self.frames.wipe();
        received?;
        descriptor.ok_or(MachineError::Broken)
    }

    fn registers(&self) -> Result<user_regs_struct> {
        let mut registers = MaybeUninit::<user_regs_struct>::zeroed();
        let at = registers.as_mut_ptr().expose_provenance();
        self.ptrace("PTRACE_GETREGS", libc::PTRACE_GETREGS, 0, at)?;
        // SAFETY: it was zero, which is a valid value, and has been filled in.
        Ok(unsafe { registers.assume_init() })
    }

    fn set_registers(&self, registers: &user_regs_struct) -> Result<()> {
        if has_unsettable_bases(registers) {
            // They are what the process has itself. All that stands before them can be set, and the selectors
            // behind them mean nothing to 64-bit code.
            let mut vector = libc::iovec {
                iov_base: ptr::from_ref(registers).cast_mut().cast(),
                iov_len: offset_of!(user_regs_struct, fs_base),
            };
            let (set, at) = (libc::NT_PRSTATUS as usize, (&raw mut vector).expose_provenance());
            return self.ptrace("PTRACE_SETREGSET", libc::PTRACE_SETREGSET, set, at);
        }
        // The CPU takes null selectors with other privileges than ring 3's too, and the system does not.
        let selector = |selector: u64| if selector & 3 == 3 { selector } else { 0 };
        let r = registers;
        let (ds, es, fs, gs) = (selector(r.ds), selector(r.es), selector(r.fs), selector(r.gs));
        let registers = &user_regs_struct { ds, es, fs, gs, ..*r };
        let at = ptr::from_ref(registers).expose_provenance();
        self.ptrace("PTRACE_SETREGS", libc::PTRACE_SETREGS, 0, at)
    }

    fn extended(&self) -> Result<Vec<u8>> {
        let mut area = vec![0_u8; AREA];
        let mut vector =
            libc::iovec { iov_base: area.as_mut_ptr().cast::<c_void>(), iov_len: AREA };
        let (set, at) = (NT_X86_XSTATE as usize, (&raw mut vector).expose_provenance());
        self.ptrace("PTRACE_GETREGSET", libc::PTRACE_GETREGSET, set, at)?;
        area.truncate(vector.iov_len);
        Ok(area)
    }

    fn set_extended(&self, area: &[u8]) -> Result<()> {
        let mut vector =
            libc::iovec { iov_base: area.as_ptr().cast_mut().cast(), iov_len: area.len() };
        let (set, at) = (NT_X86_XSTATE as usize, (&raw mut vector).expose_provenance());
        self.ptrace("PTRACE_SETREGSET", libc::PTRACE_SETREGSET, set, at)
    }

    /// Asks for something of the process. `data` is a number, or the address of what the request reads or
    /// fills in, which lives while this is called.
    fn ptrace(
        &self,
        name: &'static str,
        request: libc::c_uint,
        address: usize,
        data: usize,
    ) -> Result<()> {
        // SAFETY: the callers above give each request what it takes.
        let result: c_long = unsafe { libc::ptrace(request, self.process, address, data) };
        match result {
            -1 => Err(failed(name)(io::Error::last_os_error())),
            _ => Ok(()),
        }
    }

    /// Waits until it stops or ends.
    fn wait(&self) -> Result<c_int> {
        let mut status = 0;
        loop {
            // SAFETY: fills in the number that is given; the process is a child that nobody else waits for.
            let waited = unsafe { libc::waitpid(self.process, &raw mut status, libc::__WALL) };
            if waited == self.process {
                self.ended.set(!libc::WIFSTOPPED(status));
                return Ok(status);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(failed("waitpid")(error));
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.ended.get() {
            return;
        }
        // SAFETY: the process is a child that has not been waited for to its end, so the number is its own,
        // unless the program waits for any child, which it must not.
        unsafe { libc::kill(self.process, libc::SIGKILL) };
        while self.wait().is_ok_and(|status| libc::WIFSTOPPED(status)) {}
    }
}

/// Keeps the program's own signals from being handled by this thread.
fn block_signals() {
    // SAFETY: the set lives on this stack and is initialised by sigfillset before its use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}
