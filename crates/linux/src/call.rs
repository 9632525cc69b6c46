//! One system call: what its handler is given, and what it may answer.

use glowbox_core::registers::Registers;

use crate::{Broken, Errno, Hardware, Process, Streams, World};

/// Longest path, with its terminating zero.
pub const PATH_MAX: usize = 4096;

/// What a handler answers: what RAX will hold, or something else.
pub type Answer = Result<u64, Stop>;

/// Why a call does not simply return a value.
#[derive(Debug)]
pub enum Stop {
    /// It fails.
    Error(Errno),
    /// Its thread waits. When what it waits for may have happened, or the time has come, the call is
    /// made again, with [`Call::again`] set.
    Wait(Wait),
    /// The thread does not return from it: its registers have been replaced, or it has ended.
    Gone,
    /// The program ends with this status.
    Exit(i32),
    /// A signal ends the program.
    Killed(i32),
    /// The guest's memory limit does not allow it to go on.
    OutOfMemory(u64),
    /// The machine below can't go on.
    Broken(Broken),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Stop {
        Stop::Error(error)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        Stop::Broken(broken)
    }
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wait {
    /// The event.
    pub on: WaitFor,
    /// The instant (nanoseconds on the process's monotonic clock) at which it stops waiting.
    pub until: Option<u64>,
}

/// An event that threads wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum WaitFor {
    /// Nothing but the time, or a signal.
    Time,
    /// A wake-up of this futex; the mask is that of `FUTEX_WAIT_BITSET`.
    Futex {
        /// Its address.
        address: u64,
        /// Which wake-ups count.
        mask: u32,
    },
    /// Something in the process's own pipes, event counters and the like. Another thread has to bring
    /// it about.
    Files,
    /// As `Files`, or until one of these streams of the host can be read or written.
    Host(Streams),
    /// As `Files`, to go on with a write of which some is done.
    Room {
        /// Bytes that are written.
        written: u64,
    },
    /// A signal that the thread takes from the queue by itself (`rt_sigtimedwait`).
    Signals {
        /// Which ones.
        set: u64,
    },
}

impl WaitFor {
    /// Whether another thread has to bring it about, in the process's files.
    pub(crate) fn is_for_files(self) -> bool {
        matches!(self, WaitFor::Files | WaitFor::Room { .. })
    }

    /// Bytes that are written already.
    pub(crate) fn written(self) -> u64 {
        match self {
            WaitFor::Room { written } => written,
            _ => 0,
        }
    }

    /// The signals that it ends with because they are waited for.
    pub(crate) fn signals(self) -> u64 {
        match self {
            WaitFor::Signals { set } => set,
            _ => 0,
        }
    }
}

/// A call that is made again after its thread waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// What it waited for.
    pub on: WaitFor,
    /// Until when it was to wait.
    pub until: Option<u64>,
    /// Whether that time has come.
    pub timed_out: bool,
}

/// One system call.
pub struct Call<'a> {
    /// Its arguments: RDI, RSI, RDX, R10, R8, R9.
    pub arguments: [u64; 6],
    /// The caller's registers. A handler that answers [`Stop::Gone`] may have changed them.
    pub registers: &'a mut Registers,
    /// Set if the call is made again after its thread waited.
    pub again: Option<Again>,
    /// The process.
    pub process: &'a mut Process,
    /// The machine below.
    pub hardware: &'a mut dyn Hardware,
    /// What of the host it can reach.
    pub world: &'a mut World,
}

impl Call<'_> {
    /// Fills a buffer from the guest's memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if not all of it is readable.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Stop> {
        self.process.space.read(self.hardware, address, into)
    }

    /// Writes bytes into the guest's memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if not all of it is writable; some may have been written then.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Stop> {
        self.process.space.write(self.hardware, address, bytes)
    }

    /// Reads a little-endian structure of so many bytes.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn bytes<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads 64-bit words.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn words<const N: usize>(&mut self, address: u64) -> Result<[u64; N], Stop> {
        let mut words = [0; N];
        for (index, word) in (0u64..).zip(&mut words) {
            let address = address.checked_add(index * 8).ok_or(Errno::EFAULT)?;
            *word = u64::from_le_bytes(self.bytes(address)?);
        }
        Ok(words)
    }

    /// Reads a 32-bit word.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn word32(&mut self, address: u64) -> Result<u32, Stop> {
        self.bytes(address).map(u32::from_le_bytes)
    }

    /// Writes 64-bit words.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn write_words(&mut self, address: u64, words: &[u64]) -> Result<(), Stop> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(address, &bytes)
    }

    /// Reads a string that ends with a zero byte, without that: at most [`PATH_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// `EFAULT`; `ENAMETOOLONG` if no zero comes in time.
    pub fn path(&mut self, address: u64) -> Result<Vec<u8>, Stop> {
        self.process.space.read_string(self.hardware, address, PATH_MAX)
    }

    /// The instant at which a call that may wait for so many nanoseconds stops waiting; the same when
    /// it is made again.
    pub fn until(&mut self, nanoseconds: Option<u64>) -> Option<u64> {
        match self.again {
            Some(again) => again.until,
            None => nanoseconds.map(|time| self.now().saturating_add(time)),
        }
    }

    /// Whether the call has waited for as long as it may.
    pub fn timed_out(&self) -> bool {
        self.again.is_some_and(|again| again.timed_out)
    }

    /// Nanoseconds on the process's monotonic clock.
    pub fn now(&mut self) -> u64 {
        self.process.clock.monotonic(&self.world.clock)
    }
}

/// An argument that C declares as `int`: its upper half says nothing.
pub fn int(argument: u64) -> i32 {
    let bytes = argument.to_le_bytes();
    i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// An argument that C declares as `unsigned int`.
pub fn unsigned(argument: u64) -> u32 {
    let bytes = argument.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A signed result as RAX holds it.
pub fn signed(value: i64) -> u64 {
    u64::from_le_bytes(value.to_le_bytes())
}
