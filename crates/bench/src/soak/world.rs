//! What the threads of a soak share: engine, snapshots, sandboxes on their way from one thread to
//! another, running calls that may be interrupted, and the counts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use glowbox::{
    Builder, Caller, Engine, Error, ErrorKind, Guest, HostError, InterruptHandle, Loader,
    LogRecord, Mapping, Sandbox, Snapshot,
};
use glowbox_bench::subject::Result;

use super::counts::Counts;
use super::deck::Deck;
use super::state::{Base, Live, Lives, Program, State};
use super::{ends, log_sink, programs, standard, work, worker};

/// Heap of a guest: little, so that exhausting it takes no long.
const HEAP: u64 = 8 << 20;
const STANDARD_HEAP: u64 = 24 << 20;
/// No call of the soak takes as long on a machine that works.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Snapshots there are at a time, of a guest with functions.
pub(crate) const SNAPSHOTS: usize = 6;
/// Sandboxes of a guest on their way from one thread to another.
pub(crate) const EXCHANGED: usize = 4;

/// What a guest's sandboxes and snapshots are kept in. Each guest has its own: if they shared one, and
/// what is spawned took the place of what was there, one guest would die out by chance, as it did
/// in the first soaks.
#[derive(Default)]
struct Shelf {
    bases: Mutex<Vec<Arc<Base>>>,
    exchange: Mutex<Vec<Live>>,
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    plain: Guest,
    standard: Guest,
    pub(crate) writes: Guest,
    pub(crate) coremark: Guest,
    coremark_snapshot: Mutex<Option<Snapshot>>,
    shelves: [Shelf; 2],
    pub(crate) decks: Decks,
    /// One a thread: the call it wants interrupted.
    pub(crate) wanted: Vec<Mutex<Option<InterruptHandle>>>,
    pub(crate) lent: Vec<(Mapping, u64)>,
    pub(crate) lives: Arc<Lives>,
    pub(crate) folder: PathBuf,
    pub(crate) stop: AtomicBool,
    pub(crate) tags: AtomicU32,
    pub(crate) counts: Counts,
    failure: Mutex<Option<String>>,
    pub(crate) steps: Arc<Vec<Step>>,
}

/// What a thread is at.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) number: AtomicU64,
    pub(crate) what: Mutex<(&'static str, Option<Instant>)>,
}

impl Step {
    pub(crate) fn begins(&self, what: &'static str) {
        *lock(&self.what) = (what, Some(Instant::now()));
    }

    pub(crate) fn is_done(&self) {
        *lock(&self.what) = (DONE, None);
    }

    /// Whether its thread has not seen yet that the run is over.
    pub(crate) fn goes_on(&self) -> bool {
        lock(&self.what).0 != DONE
    }
}

/// What a thread is at that has ended.
const DONE: &str = "done";

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn open(steps: &Arc<Vec<Step>>, folder: PathBuf, seed: u64) -> Result<World> {
        let elf = include_bytes!(env!("GLOWBOX_GUEST_SOAK")).as_slice();
        let standard = include_bytes!(env!("GLOWBOX_GUEST_TESTING_STD")).as_slice();
        let file = folder.join("lent");
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        std::fs::write(&file, &bytes)?;
        let short = &bytes[7..4_242];
        let world = World {
            engine: Engine::new()?,
            plain: Guest::from_bytes("soak", elf)?,
            standard: Guest::from_bytes("testing-std", standard)?,
            writes: Guest::from_bytes("syscalls", programs::WRITES)?,
            coremark: Guest::from_bytes("coremark-run", programs::COREMARK)?,
            coremark_snapshot: Mutex::default(),
            shelves: Default::default(),
            decks: Decks::new(seed),
            wanted: steps.iter().map(|_| Mutex::default()).collect(),
            lent: vec![
                (Mapping::file(&file)?, sum(&bytes)),
                (Mapping::copy_of(short)?, sum(short)),
            ],
            lives: Arc::default(),
            folder,
            stop: AtomicBool::new(false),
            tags: AtomicU32::new(1),
            counts: Counts::of(worker::kinds()),
            failure: Mutex::default(),
            steps: Arc::clone(steps),
        };
        world.publish_coremark(programs::snapshot(&world)?);
        for program in Program::ALL {
            let mut live = world.build(program)?;
            let snapshot = live.sandbox.snapshot()?;
            world.publish(Base { program, origin: 0, snapshot, state: live.now.clone() }, 0);
        }
        Ok(world)
    }

    /// What processes are made of.
    pub(crate) fn coremark_snapshot(&self) -> Snapshot {
        lock(&self.coremark_snapshot).clone().expect("there is one from the start")
    }

    /// Puts another one in its place, which is returned.
    pub(crate) fn publish_coremark(&self, snapshot: Snapshot) -> Option<Snapshot> {
        lock(&self.coremark_snapshot).replace(snapshot)
    }

    fn shelf(&self, program: Program) -> &Shelf {
        &self.shelves[program as usize]
    }

    /// A new sandbox, from the ELF file.
    pub(crate) fn build(&self, program: Program) -> std::result::Result<Live, Error> {
        let builder = log_options(Sandbox::builder().engine(&self.engine));
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
        let mut bases = lock(&self.shelf(base.program).bases);
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

    /// One of a guest's bases that suits, or any if none does.
    pub(crate) fn base(
        &self,
        program: Program,
        random: usize,
        suits: impl Fn(&Base) -> bool,
    ) -> Option<Arc<Base>> {
        let bases = lock(&self.shelf(program).bases);
        let suiting: Vec<_> = bases.iter().filter(|base| suits(base)).collect();
        let found = suiting.get(random % suiting.len().max(1)).copied();
        found.or_else(|| bases.get(random % bases.len().max(1))).cloned()
    }

    pub(crate) fn any_base(&self, program: Program, random: usize) -> Option<Arc<Base>> {
        self.base(program, random, |_| true)
    }

    /// Gives a sandbox to the other threads, and takes one of theirs if there are enough.
    pub(crate) fn swap(&self, live: Live, random: usize) -> Option<Live> {
        let mut exchange = lock(&self.shelf(live.program).exchange);
        exchange.push(live);
        let at = random % exchange.len();
        (exchange.len() > EXCHANGED).then(|| exchange.swap_remove(at))
    }

    pub(crate) fn clear(&self) {
        for Shelf { bases, exchange } in &self.shelves {
            let exchanged = std::mem::take(&mut *lock(exchange));
            let bases = std::mem::take(&mut *lock(bases));
            drop((exchanged, bases));
        }
        drop(lock(&self.coremark_snapshot).take());
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

/// What comes next, of each sort of thing.
#[derive(Debug)]
pub(crate) struct Decks {
    /// The guest's program, by number.
    pub(crate) turns: Deck,
    /// Operations, of each guest with functions.
    pub(crate) operations: [Deck; 2],
    /// What is done with a spent sandbox of each.
    pub(crate) after: [Deck; 2],
    pub(crate) programs: Deck,
    pub(crate) ends: Deck,
    pub(crate) batch_ends: Deck,
    pub(crate) standard_ends: Deck,
}

impl Decks {
    fn new(seed: u64) -> Decks {
        Decks {
            turns: Deck::new(worker::TURNS, seed ^ 1),
            operations: Program::ALL
                .map(|program| Deck::new(worker::weights(program), seed ^ 2 ^ program as u64)),
            after: Program::ALL.map(|program| {
                Deck::new(worker::AFTER.map(|(weight, ..)| weight), seed ^ 4 ^ program as u64)
            }),
            programs: Deck::new(programs::PROGRAMS.map(|(weight, ..)| weight), seed ^ 6),
            ends: ends::deck(seed ^ 7),
            batch_ends: ends::batch_deck(seed ^ 8),
            standard_ends: standard::deck(seed ^ 9),
        }
    }
}

/// What all sandboxes have.
pub(crate) fn log_options(builder: Builder) -> Builder {
    builder.deadline(DEADLINE).log_sink(log_sink)
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
