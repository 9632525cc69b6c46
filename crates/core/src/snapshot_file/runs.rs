//! The runs table: which pages of guest memory the image holds.

use super::{FormatError, Reader};
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
