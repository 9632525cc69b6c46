//! Samples, and what they come to.

use std::collections::HashMap;
use std::time::Instant;

use glowbox_bench::subject::Result;

use crate::rows::{Row, Yardstick};

/// Everything that was measured, by row.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    of: HashMap<String, Vec<f64>>,
    /// Memory against number of sandboxes.
    pub(crate) memory: Vec<MemoryPoint>,
}

/// How much memory a number of sandboxes take together, in bytes.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct MemoryPoint {
    pub(crate) sandboxes: u32,
    /// Pages that only this process has.
    pub(crate) private: f64,
    /// What the kernel took meanwhile.
    pub(crate) kernel: f64,
}

/// A row's samples in order, for its quantiles.
#[derive(Debug, Clone)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn new(samples: &[f64]) -> Option<Sorted> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Sorted(sorted))
    }

    /// The smallest sample that at least the fraction `part` of them do not exceed.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let count = self.0.len();
        let rank = (1..count).find(|rank| *rank as f64 >= part * count as f64);
        self.0[rank.unwrap_or(count) - 1]
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }
}

impl Samples {
    pub(crate) fn add(&mut self, id: &str, value: f64) {
        match self.of.get_mut(id) {
            Some(values) => values.push(value),
            None => drop(self.of.insert(id.into(), vec![value])),
        }
    }

    /// Adds all that another has, each row's under another name.
    pub(crate) fn take_in(&mut self, other: Samples, name: impl Fn(&str) -> String) {
        for (id, values) in other.of {
            self.of.entry(name(&id)).or_default().extend(values);
        }
    }

    pub(crate) fn sorted(&self, id: &str) -> Option<Sorted> {
        Sorted::new(self.of.get(id)?)
    }

    pub(crate) fn median(&self, id: &str) -> Option<f64> {
        self.sorted(id).map(|sorted| sorted.quantile(0.5))
    }

    /// What a yardstick measures, if all of its rows have been.
    fn length(&self, yardstick: &Yardstick) -> Option<f64> {
        let mut terms = yardstick.terms.iter();
        terms.try_fold(yardstick.constant, |sum, (times, id)| Some(sum + times * self.median(id)?))
    }

    /// A row divided by its yardstick.
    pub(crate) fn ratio(&self, row: &Row) -> Option<f64> {
        let value = self.sorted(&row.samples)?.quantile(row.quantile.part());
        Some(value / self.length(row.yardstick.as_ref()?)?)
    }
}

/// Nanoseconds since then.
pub(crate) fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9
}

/// Does something, and says how many nanoseconds it took.
pub(crate) fn timed<T, E>(operation: impl FnOnce() -> std::result::Result<T, E>) -> Result<(T, f64)>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let start = Instant::now();
    let value = operation().map_err(Into::into)?;
    Ok((value, since(start)))
}

/// Does something that is shorter than a clock is exact: nanoseconds each of `count` times.
pub(crate) fn mean<E>(
    count: u32,
    mut operation: impl FnMut() -> std::result::Result<(), E>,
) -> Result<f64>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let start = Instant::now();
    for _ in 0..count {
        operation().map_err(Into::into)?;
    }
    Ok(since(start) / f64::from(count))
}

/// Puts items into another order; always the same ones in the same sequence.
pub(crate) fn shuffle<T>(items: &mut [T], state: &mut usize) {
    for last in (1..items.len()).rev() {
        // Knuth's generator; its upper bits are the good ones.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        items.swap(last, (*state >> 33) % (last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::System;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        for value in 1..=100 {
            samples.add("a", f64::from(101 - value));
            samples.add("b", 10.0);
        }
        samples
    }

    #[test]
    fn a_quantile_is_the_least_sample_that_the_part_does_not_exceed() {
        let sorted = samples().sorted("a").unwrap();
        let quantiles = [0.0, 0.01, 0.5, 0.99, 1.0].map(|part| sorted.quantile(part));
        assert_eq!(quantiles, [1.0, 1.0, 50.0, 99.0, 100.0]);
        assert!(samples().sorted("c").is_none());
    }

    #[test]
    fn a_row_is_divided_by_the_sum_of_its_yardstick() {
        let row = Row::new(System::Glowbox, "a", "");
        let yardstick = Yardstick::constant(5.0, "").plus(2.0, "b");
        assert_eq!(samples().ratio(&row.clone().against(yardstick)), Some(2.0));
        let missing = Yardstick::row("c", "");
        assert_eq!(samples().ratio(&row.against(missing)), None);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let (mut items, mut state) = ([1, 2, 3, 4, 5, 6, 7, 8], 1);
        shuffle(&mut items, &mut state);
        assert_ne!(items, [1, 2, 3, 4, 5, 6, 7, 8]);
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
