//! A sandbox, and what the host knows of it: what it must answer now, and after a reset.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use glowbox::{ErrorKind, Sandbox, Snapshot};

use super::work;

/// Masks tags on their way into the guest; `guests/soak/src/state.rs` has the same number.
pub(crate) const MASK: u64 = 0x5a5a_3c3c_9669_a5a5;
/// 64-bit words of a page.
const WORDS: u64 = 512;

/// Operations that are remembered of each sandbox.
const HISTORY: usize = 60;

/// Which guest a sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `guests/soak`, without the standard library.
    Plain,
    /// `guests-std/testing-std`, with Linux's personality.
    Standard,
}

impl Program {
    pub(crate) const ALL: [Program; 2] = [Program::Plain, Program::Standard];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Plain => "no_std",
            Program::Standard => "std",
        }
    }
}

/// What a guest must remember.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) counter: u64,
    /// Tags that are kept, masked, and on how many pages.
    pub(crate) kept: Vec<(u64, u32)>,
    pub(crate) notes: BTreeMap<String, String>,
}

impl State {
    /// What the guest's `digest` must answer.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let folded = self.kept.iter().fold(0, |folded, (masked, pages)| {
            let sum = masked.wrapping_mul(WORDS * u64::from(*pages));
            work::rounds(folded ^ sum, 2)
        });
        (self.counter, folded)
    }
}

/// A tag that no other call has, masked.
pub(crate) fn masked_tag(number: u32) -> u64 {
    work::tag(number) ^ MASK
}

/// A snapshot, and the state of what is spawned from it.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) program: Program,
    pub(crate) origin: u32,
    pub(crate) snapshot: Snapshot,
    pub(crate) state: State,
}

/// How many sandboxes live, and for how long those that do not any more have lived.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    pub(crate) now: AtomicI64,
    begun: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Lives {
    /// How many have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Hours that dropped sandboxes have lived, together.
    pub(crate) fn hours(&self) -> f64 {
        std::time::Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64()
            / 3600.0
    }
}

/// The time for which a sandbox lives.
#[derive(Debug)]
pub(crate) struct Life {
    born: Instant,
    lives: Arc<Lives>,
}

impl Life {
    pub(crate) fn begin(lives: &Arc<Lives>) -> Life {
        lives.now.fetch_add(1, Ordering::Relaxed);
        lives.begun.fetch_add(1, Ordering::Relaxed);
        Life { born: Instant::now(), lives: Arc::clone(lives) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let lived = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.lives.nanoseconds.fetch_add(lived, Ordering::Relaxed);
        self.lives.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A sandbox under test.
pub(crate) struct Live {
    pub(crate) program: Program,
    /// Which `Guest` it is of: 0 for those that were built, another for each file that was loaded.
    pub(crate) origin: u32,
    pub(crate) sandbox: Sandbox,
    pub(crate) now: State,
    /// What a reset goes back to.
    pub(crate) base: State,
    /// Names and sums of what is lent.
    pub(crate) lent: BTreeMap<String, u64>,
    pub(crate) spent: Option<ErrorKind>,
    /// What was done with it last, for who looks into a failure.
    history: VecDeque<String>,
    _life: Life,
}

impl Live {
    pub(crate) fn new(
        (program, origin): (Program, u32),
        sandbox: Sandbox,
        state: State,
        lives: &Arc<Lives>,
    ) -> Live {
        Live {
            program,
            origin,
            sandbox,
            base: state.clone(),
            now: state,
            lent: BTreeMap::new(),
            spent: None,
            history: VecDeque::new(),
            _life: Life::begin(lives),
        }
    }

    /// Notes what is done with it.
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(what.into());
    }

    /// What was done with it, the last thing last.
    pub(crate) fn history(&self) -> String {
        let tags = |state: &State| {
            state.kept.iter().map(|(masked, _)| (masked ^ MASK) & 0xffff_ffff).collect::<Vec<_>>()
        };
        let (now, base) = (tags(&self.now), tags(&self.base));
        format!(
            "tags kept {now:?}, in the base {base:?}; before: {}",
            Vec::from(self.history.clone()).join(", ")
        )
    }

    /// What a reset or a restore does to the state.
    pub(crate) fn back_to_base(&mut self) {
        self.now = self.base.clone();
        self.lent.clear();
        self.spent = None;
    }
}
