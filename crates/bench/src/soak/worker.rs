//! One thread of a soak: draws an operation and a sandbox, again and again, and checks the answers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::time::Instant;

use glowbox::{Error, ErrorKind};

use super::state::{Live, Program};
use super::world::{World, lock};
use super::{ends, plain, standard, whole, work};

/// Sandboxes that a thread has at a time.
const SLOTS: usize = 6;
/// Bytes of a value that are told.
const SHOWN: usize = 300;

/// What was wrong, or nothing.
pub(crate) type Check = Result<(), String>;

pub(crate) struct Worker<'a> {
    pub(crate) world: &'a World,
    pub(crate) index: usize,
    random: u64,
    slots: Vec<Live>,
    operations: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
}

type Operation = fn(&mut Worker<'_>, &mut Live) -> Check;

/// Operations on a sandbox that is not spent, with their weights.
const PLAIN: [(u64, &str, Operation); 16] = [
    (20, "call", plain::mix),
    (8, "echo", plain::echo),
    (8, "state", plain::bump),
    (6, "tags kept", plain::keep),
    (8, "state and tags checked", plain::check),
    (8, "nested host calls", plain::visit),
    (6, "host function's error", plain::ask),
    (5, "guest function's error", plain::divide),
    (6, "batch", plain::batch),
    (5, "log", plain::say),
    (5, "map", plain::lend),
    (3, "unmap", plain::take_back),
    (5, "refused call", plain::refused),
    (9, "fault", ends::any),
    (4, "deadline", ends::deadline),
    (4, "interrupt", ends::interrupt),
];
const STANDARD: [(u64, &str, Operation); 7] = [
    (14, "std call", standard::values),
    (8, "std state", standard::state),
    (6, "std host call", standard::host_call),
    (4, "std threads", standard::threads),
    (4, "std caught panic", standard::caught),
    (5, "std end", standard::ends),
    (2, "std deadline", standard::deadline),
];
/// Operations that make, replace and move sandboxes and snapshots.
const WHOLE: [(u64, &str, Operation); 7] = [
    (2, "build", whole::build),
    (8, "spawn", whole::spawn),
    (3, "snapshot", whole::snapshot),
    (6, "restore", whole::restore),
    (1, "save and load", whole::save_and_load),
    (6, "to another thread", whole::hand_over),
    (14, "reset", whole::reset),
];

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World, index: usize, seed: u64) -> Worker<'a> {
        let mut random = seed ^ (index as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
        work::next(&mut random);
        let (operations, ends) = (BTreeMap::new(), BTreeMap::new());
        Worker { world, index, random, slots: Vec::new(), operations, ends }
    }

    /// Goes on until the world stops, or an answer is wrong.
    pub(crate) fn run(mut self, seed: u64) {
        let mut last = Instant::now();
        while !self.world.stop.load(Ordering::Relaxed) {
            let step = self.world.steps[self.index].number.fetch_add(1, Ordering::Relaxed);
            if let Err(text) = self.step() {
                let what = lock(&self.world.steps[self.index].what).0;
                let thread = self.index;
                self.world
                    .fail(format!("seed {seed}, thread {thread}, step {step}, {what}: {text}"));
            }
            if last.elapsed().as_secs() >= 1 {
                last = Instant::now();
                self.flush();
            }
        }
        self.slots.clear();
        self.flush();
        *lock(&self.world.steps[self.index].what) = ("done", None);
    }

    fn flush(&mut self) {
        self.world.add_counts("operations", &std::mem::take(&mut self.operations));
        self.world.add_counts("ends", &std::mem::take(&mut self.ends));
    }

    fn step(&mut self) -> Check {
        if self.slots.len() < SLOTS {
            let program = if self.below(4) == 0 { Program::Standard } else { Program::Plain };
            self.begins("build");
            let built = self.world.build(program).map_err(|error| unexpected("build", &error))?;
            self.slots.push(built);
            return Ok(());
        }
        let at = self.index_below(self.slots.len());
        let mut live = self.slots.swap_remove(at);
        let result = self.operate(&mut live);
        self.slots.push(live);
        result
    }

    fn operate(&mut self, live: &mut Live) -> Check {
        if live.spent.is_some() {
            self.begins("after an end");
            self.refuses(live)?;
            // Left behind as it is, or used again.
            return match self.below(8) {
                0 => self.named("spawn", whole::spawn, live),
                1 => self.named("restore", whole::restore, live),
                2 => self.named("to another thread", whole::hand_over, live),
                _ => self.named("reset", whole::reset, live),
            };
        }
        let own: &[(u64, &'static str, Operation)] = match live.program {
            Program::Plain => &PLAIN,
            Program::Standard => &STANDARD,
        };
        let all = || own.iter().chain(&WHOLE);
        let mut drawn = self.below(all().map(|(weight, ..)| weight).sum());
        for (weight, name, operation) in all() {
            if drawn < *weight {
                return self.named(name, *operation, live);
            }
            drawn -= weight;
        }
        Ok(())
    }

    fn named(&mut self, name: &'static str, operation: Operation, live: &mut Live) -> Check {
        self.begins(name);
        live.note(name);
        operation(self, live).map_err(|text| format!("{text}; {}", live.history()))
    }

    fn begins(&mut self, name: &'static str) {
        *lock(&self.world.steps[self.index].what) = (name, Some(Instant::now()));
        *self.operations.entry(name.into()).or_default() += 1;
    }

    // --- chance ---------------------------------------------------------------------------------

    pub(crate) fn number(&mut self) -> u64 {
        work::next(&mut self.random)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    pub(crate) fn below_u32(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(u64::from(bound))).unwrap_or(0)
    }

    pub(crate) fn index_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }

    // --- answers --------------------------------------------------------------------------------

    /// A call must have ended the sandbox, in this way.
    pub(crate) fn ended<T: Debug>(
        &mut self,
        live: &mut Live,
        result: Result<T, Error>,
        kind: ErrorKind,
    ) -> Result<Error, String> {
        match result {
            Err(error) if error.kind() == kind && live.sandbox.is_spent() => {
                live.spent = Some(kind);
                let name = error.fault().map_or_else(
                    || format!("{kind:?}"),
                    |fault| format!("{kind:?}: {}", fault.kind),
                );
                *self.ends.entry(name).or_default() += 1;
                Ok(error)
            }
            other => Err(format!("must end with {kind:?} and spend the sandbox: {}", cut(&other))),
        }
    }

    /// A spent sandbox says so, and by what.
    pub(crate) fn refuses(&mut self, live: &mut Live) -> Check {
        let by = live.spent;
        let refused = live.sandbox.call::<_, u32>("add", (1u32, 2u32));
        // The name is looked up first, and one of the guests has no such function.
        if live.program == Program::Plain {
            same_kind("an unknown function", refused, ErrorKind::UnknownFunction)?;
            let refused = live.sandbox.call::<_, u64>("bump", (1u64,));
            return spent_by(refused, by);
        }
        spent_by(refused, by)
    }
}

fn spent_by<T: Debug>(refused: Result<T, Error>, by: Option<ErrorKind>) -> Check {
    use std::error::Error as _;
    match &refused {
        Err(error) if error.kind() == ErrorKind::Spent => {
            let source = error.source().and_then(|source| source.downcast_ref::<Error>());
            if source.map(Error::kind) == by {
                return Ok(());
            }
            Err(format!("spent by {by:?}, but it says: {error:?}"))
        }
        _ => Err(format!("spent by {by:?}, but it answers: {}", cut(&refused))),
    }
}

pub(crate) fn same<T: PartialEq + Debug>(what: &str, got: Result<T, Error>, want: &T) -> Check {
    match &got {
        Ok(value) if value == want => Ok(()),
        _ => Err(format!("{what}: {} instead of {}", cut(&got), cut(want))),
    }
}

pub(crate) fn same_kind<T: Debug>(what: &str, got: Result<T, Error>, kind: ErrorKind) -> Check {
    match &got {
        Err(error) if error.kind() == kind => Ok(()),
        _ => Err(format!("{what}: {} instead of {kind:?}", cut(&got))),
    }
}

pub(crate) fn unexpected(what: &str, error: &Error) -> String {
    format!("{what} fails: {error:?}")
}

pub(crate) fn cut(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    text[..end].to_string()
}
