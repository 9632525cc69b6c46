//! Batches: calls packed into one message, and the results that the guest claims to have, checked.
//!
//! The protocol is [`glowbox_abi::batch`]'s. What the guest says is a count and a row of records; here
//! they become ranges inside the outgoing buffer, one at a time, or a [`ProtocolViolation`]. A guest
//! that lies about either gets an error or other results of its own making, nothing else.

use std::ops::Range;

use glowbox_abi::batch::{BatchItem, BatchResult, next};
use glowbox_abi::mailbox::ReturnStatus;
use glowbox_abi::wire::WireError;

use crate::mail::{ProtocolViolation, Return, Untrusted};

/// Adds a call to the message in `space`, behind the `used` bytes that are there, and returns how many
/// are used then. `encode` writes the call's arguments.
///
/// # Errors
///
/// What `encode` says, and [`WireError::TooLarge`] if there is no room even for an item without
/// arguments. What lies behind `used` is undefined then.
pub fn put_item(
    space: &mut [u8],
    used: usize,
    encode: impl FnOnce(&mut [u8]) -> Result<usize, WireError>,
) -> Result<usize, WireError> {
    let free = space.get_mut(used..).unwrap_or_default();
    let available = free.len();
    let Some((header, body)) = free.split_first_chunk_mut() else {
        return Err(WireError::TooLarge { needed: BatchItem::SIZE, space: available });
    };
    let length = encode(body)?;
    *header = BatchItem { length: length as u64, reserved: 0 }.to_bytes();
    Ok(next(used + BatchItem::SIZE + length).min(space.len()))
}

/// Checks how many results the guest claims to have made of a batch in which `taken` have been taken
/// already, and returns how many are new.
///
/// # Errors
///
/// [`ProtocolViolation`] if they have become fewer, or are more than the batch has calls.
pub fn new_results(
    done: Untrusted,
    taken: usize,
    calls: usize,
) -> Result<usize, ProtocolViolation> {
    let violation = |rule| ProtocolViolation { field: "batch progress", value: done.claim(), rule };
    let done = done
        .at_most(calls as u64)
        .ok_or_else(|| violation("the batch has fewer calls than that"))?;
    done.checked_sub(taken).ok_or_else(|| violation("more results than that were there before"))
}

/// A row of results at the start of the outgoing buffer, read one by one.
#[derive(Debug, Clone)]
pub struct Results {
    at: usize,
    left: usize,
}

impl Results {
    /// So many results.
    pub fn new(count: usize) -> Results {
        Results { at: 0, left: count }
    }

    /// The next result, as ranges in `outgoing`; `None` after the last. It is the caller's to give the
    /// same buffer each time, and not to go on after an error.
    ///
    /// # Errors
    ///
    /// [`ProtocolViolation`] naming the first field that can't be.
    pub fn next(&mut self, outgoing: &[u8]) -> Option<Result<Return, ProtocolViolation>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.take(outgoing))
    }

    /// Where the results read so far end.
    pub fn end(&self) -> usize {
        self.at
    }

    fn take(&mut self, outgoing: &[u8]) -> Result<Return, ProtocolViolation> {
        let rest = outgoing.get(self.at..).unwrap_or_default();
        let Some((header, body)) = rest.split_first_chunk() else {
            return Err(ProtocolViolation {
                field: "batch progress",
                value: self.at as u64,
                rule: "the outgoing buffer ends before the results do",
            });
        };
        let header = BatchResult::from_bytes(header);
        let length = Untrusted::new(header.length).at_most(body.len() as u64);
        let length = length.ok_or(ProtocolViolation {
            field: "batch result's length",
            value: header.length,
            rule: "the result reaches beyond the outgoing buffer",
        })?;
        let start = self.at + BatchResult::SIZE;
        let whole = start..start + length;
        self.at = next(whole.end).min(outgoing.len());
        returned(&header, whole)
    }
}

fn returned(header: &BatchResult, whole: Range<usize>) -> Result<Return, ProtocolViolation> {
    match ReturnStatus::from_number(header.status) {
        Some(ReturnStatus::Value) => Ok(Return::Value(whole)),
        Some(ReturnStatus::Error) => {
            let text_length = u64::from(header.text_length);
            let text = Untrusted::new(text_length).at_most(whole.len() as u64);
            let text = text.ok_or(ProtocolViolation {
                field: "batch result's text_length",
                value: text_length,
                rule: "it is more than the result's length",
            })?;
            let middle = whole.start + text;
            Ok(Return::Error { text: whole.start..middle, payload: middle..whole.end })
        }
        Some(ReturnStatus::BadArguments) => Ok(Return::BadArguments),
        Some(ReturnStatus::TooLarge) | None => Err(ProtocolViolation {
            field: "batch result's status",
            value: u64::from(header.status),
            rule: "no result in a batch has that status",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: u32, text_length: u32, length: u64) -> [u8; BatchResult::SIZE] {
        BatchResult { status, text_length, length }.to_bytes()
    }

    /// What is read of a buffer with `count` results, up to the first error.
    fn read(outgoing: &[u8], count: usize) -> Result<Vec<Return>, ProtocolViolation> {
        let mut results = Results::new(count);
        std::iter::from_fn(|| results.next(outgoing)).collect()
    }

    #[test]
    fn items_start_at_multiples_of_16_and_fill_the_space_to_the_last_byte() {
        let mut space = [0xee; 96];
        let put = |bytes: usize| {
            move |space: &mut [u8]| match space.get_mut(..bytes) {
                Some(space) => {
                    space.fill(bytes.to_le_bytes()[0]);
                    Ok(bytes)
                }
                None => Err(WireError::TooLarge { needed: bytes, space: space.len() }),
            }
        };
        let first = put_item(&mut space, 0, put(0)).unwrap();
        let second = put_item(&mut space, first, put(17)).unwrap();
        assert_eq!((first, second), (16, 64));
        assert_eq!(space[16..24], 17u64.to_le_bytes());
        assert_eq!(space[32..49], [17; 17]);
        let full = put_item(&mut space, second, put(17)).unwrap_err();
        assert_eq!(full, WireError::TooLarge { needed: 17, space: 16 });
        assert_eq!(put_item(&mut space, second, put(16)).unwrap(), 96);
        for used in [81, 96, 97, usize::MAX] {
            assert!(matches!(
                put_item(&mut space, used, put(0)),
                Err(WireError::TooLarge { needed: 16, .. })
            ));
        }
    }

    #[test]
    fn progress_goes_forward_and_ends_with_the_batch() {
        let new = |done, taken| new_results(Untrusted::new(done), taken, 10);
        assert_eq!(new(0, 0), Ok(0));
        assert_eq!(new(10, 0), Ok(10));
        assert_eq!(new(10, 10), Ok(0));
        assert_eq!(new(7, 3), Ok(4));
        for (done, taken) in [(2, 3), (0, 1), (11, 0), (u64::MAX, 10), (1 << 32, 0), (1 << 63, 9)] {
            let violation = new(done, taken).unwrap_err();
            assert_eq!((violation.field, violation.value), ("batch progress", done));
        }
    }

    #[test]
    fn results_are_read_in_order_with_their_texts() {
        let mut outgoing = Vec::from(record(0, 0, 3));
        outgoing.extend([1; 16]);
        outgoing.extend(record(1, 2, 5));
        outgoing.extend([2; 16]);
        outgoing.extend(record(2, 0, 0));
        let expected = [
            Return::Value(16..19),
            Return::Error { text: 48..50, payload: 50..53 },
            Return::BadArguments,
        ];
        assert_eq!(read(&outgoing, 3).unwrap(), expected);
        assert_eq!(read(&outgoing, 2).unwrap(), expected[..2]);
        assert_eq!(read(&outgoing, 0).unwrap(), []);
        assert_eq!(read(&outgoing, 4).unwrap_err().field, "batch progress");
    }

    #[test]
    fn each_impossible_field_is_named() {
        let field = |status, text_length, length| {
            let mut outgoing = [0; 64];
            outgoing[..16].copy_from_slice(&record(status, text_length, length));
            read(&outgoing, 1).map(|_| "").unwrap_or_else(|violation| violation.field)
        };
        assert_eq!(field(0, u32::MAX, 48), "");
        assert_eq!(field(0, 0, 49), "batch result's length");
        assert_eq!(field(0, 0, u64::MAX), "batch result's length");
        assert_eq!(field(1, 48, 48), "");
        assert_eq!(field(1, 49, 48), "batch result's text_length");
        assert_eq!(field(1, u32::MAX, 48), "batch result's text_length");
        assert_eq!(field(3, 0, 0), "batch result's status");
        assert_eq!(field(u32::MAX, 0, 0), "batch result's status");
    }

    /// Every boundary value in every field of two records, in buffers of every awkward size: an error
    /// or ranges inside the buffer that do not overlap, never a panic.
    #[test]
    fn boundary_values_never_lead_outside_the_buffer_or_back() {
        const WIDE: [u64; 11] =
            [0, 1, 15, 16, 17, 31, 32, 4096, i64::MAX as u64, u64::MAX - 15, u64::MAX];
        // Miri takes minutes for all of them.
        let [sizes, statuses]: [&[u32]; 2] = match cfg!(miri) {
            true => [&[33], &[0, 1]],
            false => [&[0, 15, 16, 17, 31, 32, 33, 48, 64, 4096], &[0, 1, 2, 3, 4, u32::MAX]],
        };
        for size in sizes.iter().map(|size| *size as usize) {
            for (first, second) in WIDE.iter().flat_map(|a| WIDE.iter().map(move |b| (*a, *b))) {
                for status in statuses {
                    for text_length in [0, 1, 16, u32::MAX] {
                        let mut outgoing = vec![0; size];
                        let behind = next(16 + usize::try_from(first.min(4096)).unwrap());
                        for (at, length) in [(behind, second), (0, first)] {
                            if let Some(space) = outgoing.get_mut(at..at + 16) {
                                space.copy_from_slice(&record(*status, text_length, length));
                            }
                        }
                        let mut results = Results::new(usize::MAX);
                        let mut before = 0;
                        while let Some(Ok(result)) = results.next(&outgoing) {
                            let (start, end) = match result {
                                Return::Value(range) => (range.start, range.end),
                                Return::Error { text, payload } => {
                                    assert_eq!(text.end, payload.start);
                                    (text.start, payload.end)
                                }
                                _ => (before, before),
                            };
                            assert!(before <= start && start <= end && end <= size);
                            assert!(end <= results.end() && results.end() <= size);
                            before = end;
                        }
                    }
                }
            }
        }
    }
}
