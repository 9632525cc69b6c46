//! One thread of a soak: draws an operation and a sandbox, again and again, and checks the answers.

use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use glowbox::{Error, ErrorKind};

use super::counts::{Class, Kind};
use super::programs::PROGRAMS;
use super::state::{Live, Program};
use super::world::{World, lock};
use super::{ends, plain, standard, whole, work};

/// Sandboxes of each guest with functions that a thread has at a time.
pub(crate) const SLOTS: [usize; 2] = [4, 2];
/// How many turns of the three guests: both with functions, and ordinary programs.
pub(crate) const TURNS: [u32; 3] = [8, 4, 1];
/// What an ordinary program is called in the report.
const ORDINARY: &str = "program";
/// What is done when a thread has too few sandboxes.
const FIRST: &str = "build";
/// Bytes of a value that are told.
const SHOWN: usize = 300;

/// What was wrong, or nothing.
pub(crate) type Check = Result<(), String>;

pub(crate) struct Worker<'a> {
    pub(crate) world: &'a World,
    pub(crate) index: usize,
    random: u64,
    slots: [Vec<Live>; 2],
}

type Operation = fn(&mut Worker<'_>, &mut Live) -> Check;

/// Operations on a sandbox that is not spent, with their weights.
const PLAIN: [(u32, &str, Operation); 17] = [
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
    (2, "snapshot refused: lent bytes", plain::capture_what_is_lent),
    (5, "refused call", plain::refused),
    (18, "fault", ends::any),
    (4, "deadline", ends::deadline),
    (4, "interrupt", ends::interrupt),
];
const STANDARD: [(u32, &str, Operation); 7] = [
    (14, "std call", standard::values),
    (8, "std state", standard::state),
    (6, "std host call", standard::host_call),
    (4, "std threads", standard::threads),
    (4, "std caught panic", standard::caught),
    (5, "std end", standard::ends),
    (2, "std deadline", standard::deadline),
];
/// Operations that make, replace and move sandboxes and snapshots.
const WHOLE: [(u32, &str, Operation); 8] = [
    (2, "drop and build", whole::build),
    (8, "drop and spawn", whole::spawn),
    (3, "snapshot", whole::snapshot),
    (6, "restore", whole::restore),
    (1, "save and load", whole::save_and_load),
    (1, "keep ready", whole::keep_ready),
    (6, "to another thread", whole::hand_over),
    (14, "reset", whole::reset),
];

/// What is done with a sandbox that is spent: it is left behind as it is, or used again.
pub(crate) const AFTER: [(u32, &str, Operation); 4] = [
    (1, "spent: drop and spawn", whole::spawn),
    (1, "spent: restore", whole::restore),
    (1, "spent: to another thread", whole::hand_over),
    (5, "spent: reset", whole::reset),
];

/// All operations on a guest's sandboxes that are not spent.
fn operations(program: Program) -> impl Iterator<Item = &'static (u32, &'static str, Operation)> {
    let own: &[_] = match program {
        Program::Plain => &PLAIN,
        Program::Standard => &STANDARD,
    };
    own.iter().chain(&WHOLE)
}

/// Their weights.
pub(crate) fn weights(program: Program) -> impl Iterator<Item = u32> {
    operations(program).map(|(weight, ..)| *weight)
}

/// All that must come, again and again.
pub(crate) fn kinds() -> Vec<Kind> {
    let kind = |guest, class| move |name| Kind { guest, class, name };
    let mut kinds = Vec::new();
    for program in Program::ALL {
        let names = operations(program).chain(&AFTER).map(|(_, name, _)| *name);
        kinds.extend(names.map(kind(program.name(), Class::Operation)));
        let outcomes: Vec<_> = match program {
            Program::Plain => ends::outcomes().collect(),
            Program::Standard => standard::OUTCOMES.to_vec(),
        };
        let outcomes = outcomes.into_iter().chain(whole::OUTCOMES);
        kinds.extend(outcomes.map(kind(program.name(), Class::Outcome)));
    }
    kinds.extend(PROGRAMS.map(|(_, name, _)| name).map(kind(ORDINARY, Class::Operation)));
    kinds
}

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World, index: usize, seed: u64) -> Worker<'a> {
        let mut random = seed ^ (index as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
        work::next(&mut random);
        Worker { world, index, random, slots: Default::default() }
    }

    /// Goes on until the world stops, or an answer is wrong.
    pub(crate) fn run(mut self, seed: u64) {
        while !self.world.stop.load(Ordering::Relaxed) {
            let step = self.world.steps[self.index].number.fetch_add(1, Ordering::Relaxed);
            if let Err(text) = self.step() {
                let what = lock(&self.world.steps[self.index].what).0;
                let thread = self.index;
                self.world
                    .fail(format!("seed {seed}, thread {thread}, step {step}, {what}: {text}"));
            }
        }
        self.slots = Default::default();
        self.world.steps[self.index].is_done();
    }

    fn step(&mut self) -> Check {
        let turn = self.world.decks.turns.deal();
        let Some(program) = Program::ALL.get(turn).copied() else {
            let (_, name, operation) = PROGRAMS[self.world.decks.programs.deal()];
            return self.timed(ORDINARY, name, operation);
        };
        if self.slots[turn].len() < SLOTS[turn] {
            self.world.steps[self.index].begins(FIRST);
            let built = self.world.build(program).map_err(|error| unexpected(FIRST, &error))?;
            self.slots[turn].push(built);
            return Ok(());
        }
        let at = self.index_below(SLOTS[turn]);
        let mut live = self.slots[turn].swap_remove(at);
        let result = self.operate(&mut live);
        self.slots[turn].push(live);
        result
    }

    fn operate(&mut self, live: &mut Live) -> Check {
        let (program, decks) = (live.program, &self.world.decks);
        let chosen = if live.spent.is_some() {
            self.refuses(live)?;
            AFTER.get(decks.after[program as usize].deal())
        } else {
            operations(program).nth(decks.operations[program as usize].deal())
        };
        let Some((_, name, operation)) = chosen else { return Ok(()) };
        live.note(*name);
        let result = self.timed(program.name(), name, |worker| operation(worker, live));
        result.map_err(|text| format!("{text}; {}", live.history()))
    }

    /// Does it, counts it, and notes how long it took.
    fn timed(
        &mut self,
        guest: &'static str,
        name: &'static str,
        operation: impl FnOnce(&mut Self) -> Check,
    ) -> Check {
        self.world.steps[self.index].begins(name);
        let begun = Instant::now();
        operation(self)?;
        self.world.counts.add(Kind { guest, class: Class::Operation, name }, begun.elapsed())
    }

    /// Counts an outcome of what is being done.
    pub(crate) fn outcome(&self, program: Program, name: &'static str) -> Check {
        let kind = Kind { guest: program.name(), class: Class::Outcome, name };
        self.world.counts.add(kind, Duration::ZERO)
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
        (name, kind): (&'static str, ErrorKind),
    ) -> Result<Error, String> {
        match result {
            Err(error) if error.kind() == kind && live.sandbox.is_spent() => {
                live.spent = Some(kind);
                self.outcome(live.program, name)?;
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
