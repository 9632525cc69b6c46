//! The runs table: which pages of guest memory the image holds.

use std::ops::Range;

use super::{FormatError, MAX_RUNS, Reader};
use crate::address::PAGE_SIZE;

/// Bytes of a run in the file.
pub(super) const RUN_SIZE: usize = 24;

/// Pages that stand side by side in guest memory and in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first page, counted from the beginning of guest memory.
    pub first_page: u64,
    /// How many pages: at least one.
    pub pages: u64,
    /// Where the first stands, counted in pages from the beginning of the image.
    pub image_page: u64,
}

impl Run {
    /// The runs that hold the pages of all `ranges`, which may come in any order.
    ///
    /// There are at most [`MAX_RUNS`]: where that is not enough, runs with the smallest gaps between
    /// them are joined, and the image then holds the pages of these gaps as well.
    pub fn covering(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Run> {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        join(&mut ranges, |_, gap| gap == 0);
        if let Some(excess) = ranges.len().checked_sub(MAX_RUNS).filter(|excess| *excess > 0) {
            let mut gaps: Vec<_> =
                ranges.windows(2).map(|pair| pair[1].start - pair[0].end).enumerate().collect();
            let by_size = |&(index, gap): &(usize, u64)| (gap, index);
            let (_, largest, _) = gaps.select_nth_unstable_by_key(excess - 1, by_size);
            let last = by_size(largest);
            join(&mut ranges, |index, gap| (gap, index) <= last);
        }
        let mut image_page = 0;
        let run = |Range { start, end }| {
            let run = Run { first_page: start, pages: end - start, image_page };
            image_page += run.pages;
            run
        };
        ranges.into_iter().map(run).collect()
    }
}

/// Joins each range with the one before it if `close` says so of its number and the gap between.
fn join(ranges: &mut Vec<Range<u64>>, close: impl Fn(usize, u64) -> bool) {
    let mut number = 0;
    ranges.dedup_by(|next, kept| {
        let joined = close(number, next.start.saturating_sub(kept.end));
        number += 1;
        if joined {
            kept.end = kept.end.max(next.end);
        }
        joined
    });
}

pub(super) fn encode(runs: &[Run]) -> Vec<u8> {
    let fields = runs.iter().flat_map(|run| [run.first_page, run.pages, run.image_page]);
    fields.flat_map(u64::to_le_bytes).collect()
}

/// Decodes a table whose length the header's check has bounded.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Run>, FormatError> {
    let run = |bytes| {
        let mut reader = Reader::new(bytes);
        Ok(Run {
            first_page: reader.u64("first page")?,
            pages: reader.u64("pages")?,
            image_page: reader.u64("image page")?,
        })
    };
    bytes.chunks(RUN_SIZE).map(run).collect()
}

/// Checks that the runs lie in guest memory and in the image, in order. Returns the bytes of the
/// image.
pub(super) fn check(runs: &[Run], window_size: u64) -> Result<u64, FormatError> {
    let all = window_size / PAGE_SIZE;
    let (mut next, mut image) = (0, 0);
    for (index, run) in runs.iter().enumerate() {
        let error = |field, found, problem| {
            Err(FormatError::invalid(format!("run {index}: {field}"), found, problem))
        };
        if run.first_page < next {
            return error("first page", run.first_page, "the run before it reaches further");
        }
        if run.first_page >= all {
            return error("first page", run.first_page, "it lies outside guest memory");
        }
        if run.pages == 0 {
            return error("pages", run.pages, "a run has at least one");
        }
        if run.pages > all - run.first_page {
            return error("pages", run.pages, "it reaches beyond guest memory");
        }
        if run.image_page != image {
            return error("image page", run.image_page, "runs follow each other in the image");
        }
        next = run.first_page + run.pages;
        image += run.pages;
    }
    Ok(image * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_page: u64, pages: u64, image_page: u64) -> Run {
        Run { first_page, pages, image_page }
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one_run() {
        let ranges = [8..9, 0..2, 2..4, 3..5, 20..20, 10..12, 8..9, 0..1];
        let expected = [run(0, 5, 0), run(8, 1, 5), run(10, 2, 6)];
        assert_eq!(Run::covering(ranges), expected);
        assert_eq!(check(&expected, 12 * PAGE_SIZE).unwrap(), 8 * PAGE_SIZE);
        assert!(Run::covering([]).is_empty());
    }

    #[test]
    fn too_many_runs_are_joined_where_that_costs_least() {
        // Every second page, but each eighth gap is larger.
        let pages = || (0..8 * MAX_RUNS as u64).map(|n| n * 2 + n / 8 * 10);
        let runs = Run::covering(pages().map(|page| page..page + 1));
        assert_eq!(runs.len(), MAX_RUNS);
        assert!(runs.iter().all(|run| run.pages == 15), "{:?}", &runs[..4]);
        check(&runs, 1 << 30).unwrap();
        let covers = |run: &Run, page| (run.first_page..run.first_page + run.pages).contains(&page);
        assert!(pages().all(|page| runs.iter().any(|run| covers(run, page))));

        let every_third = |count: u64| Run::covering((0..count).map(|n| n * 3..n * 3 + 1));
        let runs = every_third(MAX_RUNS as u64 + 1);
        assert_eq!((runs.len(), runs[0], runs[1]), (MAX_RUNS, run(0, 4, 0), run(6, 1, 4)));
        assert!(every_third(MAX_RUNS as u64).iter().all(|run| run.pages == 1));
    }

    #[test]
    fn each_impossible_run_is_named() {
        let text = |runs: &[Run]| check(runs, 16 * PAGE_SIZE).unwrap_err().to_string();
        let named = |runs: &[Run], field| assert!(text(runs).starts_with(field), "{}", text(runs));
        let good = run(2, 4, 0);
        check(&[good, run(6, 10, 4)], 16 * PAGE_SIZE).unwrap();
        named(&[good, run(5, 1, 4)], "`run 1: first page` is 0x5");
        named(&[run(16, 1, 0)], "`run 0: first page` is 0x10");
        named(&[run(u64::MAX, 1, 0)], "`run 0: first page`");
        named(&[good, run(6, 0, 4)], "`run 1: pages` is 0x0");
        named(&[good, run(6, 11, 4)], "`run 1: pages` is 0xb");
        named(&[good, run(6, u64::MAX, 4)], "`run 1: pages`");
        named(&[good, run(6, 1, 5)], "`run 1: image page` is 0x5");
        named(&[good, run(6, 1, 0)], "`run 1: image page` is 0x0");
    }
}
