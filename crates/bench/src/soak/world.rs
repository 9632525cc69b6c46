//! What the threads of a soak share: engine, snapshots, sandboxes on their way from one thread to
//! another, running calls that may be interrupted, and the counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use glowbox::{
    Builder, Caller, Engine, Error, ErrorKind, Guest, HostError, InterruptHandle, Loader,
    LogRecord, Mapping, Sandbox, Snapshot,
};
use glowbox_bench::subject::Result;

use super::state::{Base, Live, Lives, Program, State};
use super::{log_sink, work};

/// Heap of a guest: little, so that exhausting it takes no long.
const HEAP: u64 = 8 << 20;
const STANDARD_HEAP: u64 = 24 << 20;
/// No call of the soak takes as long on a machine that works.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Snapshots there are at a time, of all threads.
const SNAPSHOTS: usize = 12;
/// Sandboxes on their way from one thread to another.
const EXCHANGED: usize = 8;

pub(crate) struct World {
    pub(crate) engine: Engine,
    plain: Guest,
    standard: Guest,
    pub(crate) bases: Mutex<Vec<Arc<Base>>>,
    exchange: Mutex<Vec<Live>>,
    /// One a thread: the call it wants interrupted.
    pub(crate) wanted: Vec<Mutex<Option<InterruptHandle>>>,
    pub(crate) lent: Vec<(Mapping, u64)>,
    pub(crate) lives: Arc<Lives>,
    pub(crate) folder: PathBuf,
    pub(crate) stop: AtomicBool,
    pub(crate) tags: AtomicU32,
    /// Operations and ends by kind.
    counts: Mutex<BTreeMap<&'static str, BTreeMap<String, u64>>>,
    failure: Mutex<Option<String>>,
    pub(crate) steps: Vec<Step>,
}

/// What a thread is at.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) number: AtomicU64,
    pub(crate) what: Mutex<(&'static str, Option<Instant>)>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn open(threads: usize, folder: PathBuf) -> Result<World> {
        let elf = include_bytes!(env!("GLOWBOX_GUEST_SOAK")).as_slice();
        let standard = include_bytes!(env!("GLOWBOX_GUEST_TESTING_STD")).as_slice();
        let file = folder.join("lent");
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        std::fs::write(&file, &bytes)?;
        let short = &bytes[7..4_242];
        Ok(World {
            engine: Engine::new()?,
            plain: Guest::from_bytes("soak", elf)?,
            standard: Guest::from_bytes("testing-std", standard)?,
            bases: Mutex::default(),
            exchange: Mutex::default(),
            wanted: (0..threads).map(|_| Mutex::default()).collect(),
            lent: vec![
                (Mapping::file(&file)?, sum(&bytes)),
                (Mapping::copy_of(short)?, sum(short)),
            ],
            lives: Arc::default(),
            folder,
            stop: AtomicBool::new(false),
            tags: AtomicU32::new(1),
            counts: Mutex::default(),
            failure: Mutex::default(),
            steps: (0..threads).map(|_| Step::default()).collect(),
        })
    }

    /// A new sandbox, from the ELF file.
    pub(crate) fn build(&self, program: Program) -> std::result::Result<Live, Error> {
        let builder = Sandbox::builder().engine(&self.engine).deadline(DEADLINE).log_sink(log_sink);
        let sandbox = match program {
            Program::Plain => plain_functions(builder.memory_limit(HEAP)).build(&self.plain)?,
            Program::Standard => {
                standard_functions(builder.memory_limit(STANDARD_HEAP)).build(&self.standard)?
            }
        };
        Ok(Live::new((program, 0), sandbox, State::default(), &self.lives))
    }

    /// A snapshot from a file.
    pub(crate) fn load(
        &self,
        program: Program,
        path: &std::path::Path,
    ) -> std::result::Result<Snapshot, Error> {
        let loader = Snapshot::loader().engine(&self.engine).deadline(DEADLINE).log_sink(log_sink);
        match program {
            Program::Plain => plain_functions(loader).load(path),
            Program::Standard => standard_functions(loader).load(path),
        }
    }

    pub(crate) fn spawn(&self, base: &Base) -> std::result::Result<Live, Error> {
        let sandbox = base.snapshot.spawn()?;
        Ok(Live::new((base.program, base.origin), sandbox, base.state.clone(), &self.lives))
    }

    /// Puts a snapshot among the shared ones, in the place of one of them if there are enough.
    pub(crate) fn publish(&self, base: Base, random: usize) {
        let mut bases = lock(&self.bases);
        let replaced = if bases.len() < SNAPSHOTS {
            bases.push(Arc::new(base));
            None
        } else {
            let at = random % bases.len();
            Some(std::mem::replace(&mut bases[at], Arc::new(base)))
        };
        drop(bases);
        drop(replaced);
    }

    pub(crate) fn any_base(&self, random: usize) -> Option<Arc<Base>> {
        let bases = lock(&self.bases);
        bases.get(random % bases.len().max(1)).cloned()
    }

    /// Gives a sandbox to the other threads, and takes one of theirs if there are enough.
    pub(crate) fn swap(&self, live: Live, random: usize) -> Option<Live> {
        let mut exchange = lock(&self.exchange);
        exchange.push(live);
        let at = random % exchange.len();
        (exchange.len() > EXCHANGED).then(|| exchange.swap_remove(at))
    }

    pub(crate) fn clear(&self) {
        let exchanged = std::mem::take(&mut *lock(&self.exchange));
        let bases = std::mem::take(&mut *lock(&self.bases));
        drop((exchanged, bases));
    }

    pub(crate) fn add_counts(&self, group: &'static str, counts: &BTreeMap<String, u64>) {
        let mut all = lock(&self.counts);
        let group = all.entry(group).or_default();
        for (name, count) in counts {
            *group.entry(name.clone()).or_default() += count;
        }
    }

    pub(crate) fn counts(&self, group: &str) -> BTreeMap<String, u64> {
        lock(&self.counts).get(group).cloned().unwrap_or_default()
    }

    /// Stops the run. The first failure is the one that is told.
    pub(crate) fn fail(&self, text: String) {
        lock(&self.failure).get_or_insert(text);
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }
}

/// The guest's `lent_sum`.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte))
}

/// What host functions are registered with.
trait Registers: Sized {
    fn with<M: 'static>(self, name: &str, function: impl glowbox::HostFunction<M>) -> Self;
}

impl Registers for Builder {
    fn with<M: 'static>(self, name: &str, function: impl glowbox::HostFunction<M>) -> Self {
        self.host_function(name, function)
    }
}

impl Registers for Loader {
    fn with<M: 'static>(self, name: &str, function: impl glowbox::HostFunction<M>) -> Self {
        self.host_function(name, function)
    }
}

fn plain_functions<R: Registers>(to: R) -> R {
    // One for each level, since a function that runs is not called again.
    to.with("visit_0", |caller: &mut Caller<'_>, number: u64| visit(caller, 0, number))
        .with("visit_1", |caller: &mut Caller<'_>, number: u64| visit(caller, 1, number))
        .with("visit_2", |caller: &mut Caller<'_>, number: u64| visit(caller, 2, number))
        .with("visit_3", |caller: &mut Caller<'_>, number: u64| visit(caller, 3, number))
        .with("host_checked", |number: u64| {
            if number.is_multiple_of(3) {
                Err(HostError::new("threes are refused"))
            } else {
                Ok(number)
            }
        })
        .with("host_panics", |number: u64| -> u64 {
            std::panic::panic_any(format!("{PANIC} {number}"))
        })
}

/// A host function that calls the guest, which asks for the next one.
fn visit(caller: &mut Caller<'_>, depth: u32, number: u64) -> u64 {
    let below = caller.call("visit", (depth, number, "a nested text"));
    below.unwrap_or_else(|error| std::panic::panic_any(format!("{PANIC} {error}")))
}

/// What panics on purpose begin with.
pub(crate) const PANIC: &str = "a host function's panic, as told:";

fn standard_functions<R: Registers>(to: R) -> R {
    to.with("weekday", || "Monday".to_string())
        .with("double", |number: u32| {
            number.checked_mul(2).ok_or_else(|| HostError::new("too large to be doubled"))
        })
        .with("back", |caller: &mut Caller<'_>| match caller.call::<_, ()>("call_back", ()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Panic => {}
            Err(error) => std::panic::panic_any(format!("{PANIC} {error}")),
        })
}

/// What the guest's `visit` answers.
pub(crate) fn visited(depth: u32, number: u64) -> u64 {
    let below = if depth == 0 { number } else { visited(depth - 1, number) };
    work::rounds(below, 3)
}

/// Keeps the type in the signature of the sink.
pub(crate) type Record<'a> = LogRecord<'a>;
