//! How often each kind of thing has happened, and whether all kinds came all the time.
//!
//! All kinds are known from the start, with a count of zero: one that never comes is noticed like one
//! that has stopped coming.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::world::lock;

/// Every kind comes at least so often in a minute. It is little, for a machine that has other things
/// to do: with five times as much to do as it has cores, without optimisation, it was ten times as
/// often.
const FLOOR_PER_MINUTE: u64 = 2;
/// About how many seconds of the run are a stretch in which all kinds must come.
const STRETCH: u64 = 60;

/// What can happen: an operation, or an outcome of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) guest: &'static str,
    pub(crate) class: Class,
    pub(crate) name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Operation,
    Outcome,
}

/// How often, and how long the longest took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) times: u64,
    pub(crate) slowest: Duration,
}

#[derive(Debug)]
pub(crate) struct Counts(Mutex<BTreeMap<Kind, Count>>);

impl Counts {
    pub(crate) fn of(kinds: impl IntoIterator<Item = Kind>) -> Counts {
        Counts(Mutex::new(kinds.into_iter().map(|kind| (kind, Count::default())).collect()))
    }

    /// Counts it; that it is not known is the soak's own mistake.
    pub(crate) fn add(&self, kind: Kind, took: Duration) -> Result<(), String> {
        let mut counts = lock(&self.0);
        let count = counts.get_mut(&kind).ok_or_else(|| format!("{kind:?} is not known"))?;
        count.times += 1;
        count.slowest = count.slowest.max(took);
        Ok(())
    }

    pub(crate) fn all(&self) -> BTreeMap<Kind, Count> {
        lock(&self.0).clone()
    }

    pub(crate) fn sum(&self, class: Class) -> u64 {
        let counts = lock(&self.0);
        counts.iter().filter(|(kind, _)| kind.class == class).map(|(_, count)| count.times).sum()
    }
}

/// Whether all kinds came in every stretch of a run.
#[derive(Debug)]
pub(crate) struct Steadiness {
    stretches: u32,
    stretch: Duration,
    floor: u64,
    ended: u32,
    before: BTreeMap<Kind, u64>,
    /// Fewest in a stretch, of those that have ended.
    least: BTreeMap<Kind, u64>,
}

impl Steadiness {
    pub(crate) fn new(time: Duration) -> Steadiness {
        let rounded = |number: u64, by: u64| (number + by / 2) / by;
        let stretches = u32::try_from(rounded(time.as_secs(), STRETCH)).unwrap_or(u32::MAX).max(1);
        let stretch = time / stretches;
        Steadiness {
            stretches,
            stretch,
            floor: rounded(FLOOR_PER_MINUTE * stretch.as_secs(), 60),
            ended: 0,
            before: BTreeMap::new(),
            least: BTreeMap::new(),
        }
    }

    /// When the next stretch ends, from the start of the run.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        (self.ended < self.stretches).then(|| self.stretch * (self.ended + 1))
    }

    /// Ends a stretch, and says which kinds came too seldom in it.
    pub(crate) fn end(&mut self, counts: &BTreeMap<Kind, Count>) -> Vec<String> {
        self.ended += 1;
        let (mut seldom, floor) = (Vec::new(), self.floor);
        for (kind, count) in counts {
            let before = self.before.insert(*kind, count.times).unwrap_or(0);
            let times = count.times - before;
            let least = self.least.entry(*kind).or_insert(times);
            *least = times.min(*least);
            if times < floor {
                seldom.push(format!(
                    "{} {:?} `{}` came {times} times in stretch {} of {} ({:?} each), with a bound \
                     of {floor}",
                    kind.guest, kind.class, kind.name, self.ended, self.stretches, self.stretch
                ));
            }
        }
        seldom
    }

    /// Fewest of a kind in a stretch.
    pub(crate) fn least(&self, kind: &Kind) -> u64 {
        self.least.get(kind).copied().unwrap_or(0)
    }

    pub(crate) fn stretch(&self) -> Duration {
        self.stretch
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 2] = [
        Kind { guest: "std", class: Class::Operation, name: "call" },
        Kind { guest: "std", class: Class::Outcome, name: "panic" },
    ];

    fn came(calls: u64, panics: u64) -> BTreeMap<Kind, Count> {
        let count = |times| Count { times, slowest: Duration::ZERO };
        KINDS.into_iter().zip([count(calls), count(panics)]).collect()
    }

    #[test]
    fn a_kind_that_stops_coming_is_found() {
        let mut steadiness = Steadiness::new(Duration::from_secs(130));
        assert_eq!(steadiness.next_end(), Some(Duration::from_secs(65)));
        assert_eq!(steadiness.end(&came(100, 10)), Vec::<String>::new());
        let seldom = steadiness.end(&came(200, 11));
        assert_eq!(seldom.len(), 1, "{seldom:?}");
        assert!(seldom[0].starts_with("std Outcome `panic` came 1 times in stretch 2 of 2"));
        assert_eq!((steadiness.least(&KINDS[0]), steadiness.least(&KINDS[1])), (100, 1));
        assert_eq!(steadiness.next_end(), None);
        assert_eq!(Steadiness::new(Duration::from_secs(5)).floor(), 0);
    }

    #[test]
    fn a_kind_that_never_comes_is_found() {
        let counts = Counts::of(KINDS);
        counts.add(KINDS[0], Duration::ZERO).expect("it is known");
        counts.add(KINDS[0], Duration::ZERO).expect("it is known");
        assert_eq!(Steadiness::new(Duration::from_secs(60)).end(&counts.all()).len(), 1);
        let unknown = Kind { guest: "no_std", ..KINDS[0] };
        assert!(counts.add(unknown, Duration::ZERO).is_err());
    }
}
