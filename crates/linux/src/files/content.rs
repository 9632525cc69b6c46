//! What is in a file that lies in memory.
//!
//! Chunks are counted references, so that a copy of a process's files costs nothing until one of them
//! is written to. A chunk is no longer than what was written into it asks for, in steps of a power of
//! two: small files are cheap, and a hole costs nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Errno;

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 16 << 10;
/// Bytes of the shortest chunk.
const SHORTEST: usize = 512;
/// What a chunk costs besides its bytes.
const CHUNK_COST: u64 = 96;
/// Largest file.
const MOST: u64 = i64::MAX as u64;

/// Bytes that are stored as such, rather than one by one.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// What is in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Content {
    size: u64,
    /// What it costs of a limit.
    cost: u64,
    data: Data,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Data {
    /// All of it, never written to.
    Whole(Arc<Bytes>),
    /// By index; what is not there, or behind the end of a chunk, is zero.
    Chunks(BTreeMap<u64, Arc<Bytes>>),
}

impl Content {
    /// Nothing.
    pub(super) fn new() -> Content {
        Content { size: 0, cost: 0, data: Data::Chunks(BTreeMap::new()) }
    }

    /// Bytes that are only read.
    pub(super) fn whole(bytes: Vec<u8>) -> Content {
        Content { size: bytes.len() as u64, cost: 0, data: Data::Whole(Arc::new(Bytes(bytes))) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What it costs of a limit.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Bytes that it keeps in memory without a cost.
    pub(super) fn kept(&self) -> u64 {
        match &self.data {
            Data::Whole(bytes) => bytes.0.len() as u64,
            Data::Chunks(_) => 0,
        }
    }

    /// Reads from an offset on: as much as there is.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let Some(left) = self.size.checked_sub(offset) else { return 0 };
        let length = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let into = &mut into[..length];
        match &self.data {
            Data::Whole(bytes) => copy(&bytes.0, place(offset), into),
            Data::Chunks(chunks) => {
                let mut done = 0;
                while done < length {
                    let (index, within) = locate(offset + done as u64);
                    let end = length.min(done + CHUNK - within);
                    let chunk = chunks.get(&index).map_or(&[][..], |chunk| &chunk.0);
                    copy(chunk, within, &mut into[done..end]);
                    done = end;
                }
            }
        }
        length
    }

    /// Where the next bytes from an offset on are that are in no hole.
    pub(super) fn data(&self, from: u64) -> Option<Range<u64>> {
        match &self.data {
            Data::Whole(_) => (from < self.size).then_some(from..self.size),
            Data::Chunks(chunks) => {
                let mut there = chunks.range(locate(from).0..).map(|(index, chunk)| {
                    let start = index * CHUNK as u64;
                    start.max(from)..(start + chunk.0.len() as u64).min(self.size)
                });
                there.find(|bytes| !bytes.is_empty())
            }
        }
    }

    /// Writes from an offset on, as much as the room allows, which becomes smaller by what it costs.
    ///
    /// # Errors
    ///
    /// `EFBIG` beyond the largest file, `ENOSPC` if there is no room for a single byte, `EROFS` for
    /// what is only read.
    pub(super) fn write(
        &mut self,
        offset: u64,
        bytes: &[u8],
        room: &mut u64,
    ) -> Result<usize, Errno> {
        let Data::Chunks(chunks) = &mut self.data else { return Err(Errno::EROFS) };
        let most = MOST.checked_sub(offset).filter(|most| *most > 0).ok_or(Errno::EFBIG)?;
        let length = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
        let before = *room;
        let mut done = 0;
        while done < length {
            let (index, within) = locate(offset + done as u64);
            let part = (length - done).min(CHUNK - within);
            if !make_room(chunks, index, within + part, room) {
                break;
            }
            if let Some(chunk) = chunks.get_mut(&index) {
                let chunk = &mut Arc::make_mut(chunk).0;
                chunk[within..within + part].copy_from_slice(&bytes[done..done + part]);
            }
            done += part;
        }
        self.cost += before - *room;
        if done == 0 && length > 0 {
            return Err(Errno::ENOSPC);
        }
        self.size = self.size.max(offset + done as u64);
        Ok(done)
    }

    /// Gives it another size. What it cuts off is given back to the room.
    ///
    /// # Errors
    ///
    /// `EFBIG`, `EROFS`.
    pub(super) fn resize(&mut self, size: u64, room: &mut u64) -> Result<(), Errno> {
        if size > MOST {
            return Err(Errno::EFBIG);
        }
        if size < self.size {
            self.punch(size, self.size, room)?;
        }
        if matches!(self.data, Data::Whole(_)) {
            return Err(Errno::EROFS);
        }
        self.size = size;
        Ok(())
    }

    /// Makes these bytes zero, and gives back the chunks that lie in there wholly.
    ///
    /// # Errors
    ///
    /// `EROFS`.
    pub(super) fn punch(&mut self, start: u64, end: u64, room: &mut u64) -> Result<(), Errno> {
        let Data::Chunks(chunks) = &mut self.data else { return Err(Errno::EROFS) };
        let end = end.min(self.size);
        if start >= end {
            return Ok(());
        }
        let (first, within_first) = locate(start);
        let (last, within_last) = locate(end);
        // Of the last chunk all is dropped if nothing of the file comes after.
        let to_the_end = end == self.size;
        let touched: Vec<u64> = chunks.range(first..=last).map(|(index, _)| *index).collect();
        for index in touched {
            let from = if index == first { within_first } else { 0 };
            let to = if index == last && !to_the_end { within_last } else { CHUNK };
            let Some(chunk) = chunks.get_mut(&index) else { continue };
            if from == 0 && to >= chunk.0.len() {
                let cost = cost(&chunk.0);
                *room = room.saturating_add(cost);
                self.cost = self.cost.saturating_sub(cost);
                chunks.remove(&index);
            } else if from < to.min(chunk.0.len()) {
                let chunk = &mut Arc::make_mut(chunk).0;
                let to = to.min(chunk.len());
                chunk[from..to].fill(0);
            }
        }
        Ok(())
    }

    /// Whether it can have come about: for one that comes from a file.
    pub(super) fn is_sound(&self) -> bool {
        match &self.data {
            Data::Whole(bytes) => bytes.0.len() as u64 == self.size && self.cost == 0,
            Data::Chunks(chunks) => {
                self.size <= MOST
                    && self.cost == chunks.values().map(|chunk| cost(&chunk.0)).sum::<u64>()
                    && chunks.iter().all(|(index, chunk)| {
                        let length = chunk.0.len();
                        let starts_in =
                            index.checked_mul(CHUNK as u64).is_some_and(|at| at < self.size);
                        length.is_power_of_two()
                            && (SHORTEST..=CHUNK).contains(&length)
                            && starts_in
                            && !self.has_rest(*index, &chunk.0)
                    })
            }
        }
    }

    /// Whether a chunk has something behind the end of the file, which would come to light if the file
    /// grew.
    fn has_rest(&self, index: u64, chunk: &[u8]) -> bool {
        let (last, within) = locate(self.size);
        index == last && chunk.get(within..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0))
    }
}

/// Which chunk an offset lies in, and where in there.
fn locate(offset: u64) -> (u64, usize) {
    (offset / CHUNK as u64, place(offset % CHUNK as u64))
}

/// An offset as an index; one that can't be lies behind everything.
fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Copies what there is from a place on, and zeros for the rest.
fn copy(from: &[u8], at: usize, into: &mut [u8]) {
    let there = from.get(at..).unwrap_or(&[]);
    let length = there.len().min(into.len());
    into[..length].copy_from_slice(&there[..length]);
    into[length..].fill(0);
}

fn cost(chunk: &[u8]) -> u64 {
    chunk.len() as u64 + CHUNK_COST
}

/// Makes a chunk so long, if there is room for that.
fn make_room(
    chunks: &mut BTreeMap<u64, Arc<Bytes>>,
    index: u64,
    length: usize,
    room: &mut u64,
) -> bool {
    let before = chunks.get(&index).map_or(0, |chunk| chunk.0.len());
    if length <= before {
        return true;
    }
    let length = length.next_power_of_two().max(SHORTEST);
    let more = (length - before) as u64 + if before == 0 { CHUNK_COST } else { 0 };
    let Some(left) = room.checked_sub(more) else { return false };
    *room = left;
    let chunk = &mut Arc::make_mut(chunks.entry(index).or_default()).0;
    chunk.reserve_exact(length - chunk.len());
    chunk.resize(length, 0);
    true
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xff; usize::try_from(content.size()).unwrap()];
        assert_eq!(content.read(0, &mut bytes), bytes.len());
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_a_hole_is_zero_and_free() {
        let mut content = Content::new();
        let mut room = 1 << 20;
        content.write(3 * CHUNK as u64 - 2, b"abcd", &mut room).unwrap();
        assert_eq!(content.size(), 3 * CHUNK as u64 + 2);
        let bytes = all(&content);
        assert_eq!(&bytes[3 * CHUNK - 2..], b"abcd");
        assert!(bytes[..3 * CHUNK - 2].iter().all(|byte| *byte == 0));
        assert_eq!(content.cost(), (1 << 20) - room);
        assert_eq!(content.cost(), (CHUNK + SHORTEST) as u64 + 2 * CHUNK_COST);
        assert!(content.is_sound());
        assert_eq!(content.read(u64::MAX, &mut [0]), 0);
        let (second, third, end) = (2 * CHUNK as u64, 3 * CHUNK as u64, content.size());
        assert_eq!(content.data(0), Some(second..third));
        assert_eq!(content.data(third - 1), Some(third - 1..third));
        assert_eq!(content.data(third), Some(third..end));
        assert_eq!((content.data(end), content.data(u64::MAX)), (None, None));
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let mut content = Content::new();
        let mut room = 1 << 20;
        content.write(0, &[1; CHUNK * 2], &mut room).unwrap();
        content.resize(100, &mut room).unwrap();
        assert!(content.is_sound());
        content.resize(1 << 40, &mut room).unwrap();
        let mut bytes = [9; 300];
        assert_eq!(content.read(0, &mut bytes), 300);
        assert!(bytes[..100].iter().all(|byte| *byte == 1) && bytes[100..].iter().all(|b| *b == 0));
        content.resize(0, &mut room).unwrap();
        assert_eq!((content.cost(), room), (0, 1 << 20));
    }

    #[test]
    fn a_write_stops_where_the_room_ends_and_a_file_at_its_largest() {
        let mut content = Content::new();
        let mut room = CHUNK as u64 + CHUNK_COST + 10;
        assert_eq!(content.write(0, &[1; CHUNK * 2], &mut room), Ok(CHUNK));
        assert_eq!(content.write(CHUNK as u64, &[1], &mut room), Err(Errno::ENOSPC));
        assert_eq!(content.size(), CHUNK as u64);
        let mut room = 1 << 20;
        assert_eq!(content.write(MOST - 1, &[1; 3], &mut room), Ok(1));
        assert_eq!(content.write(MOST, &[1; 3], &mut room), Err(Errno::EFBIG));
        assert_eq!(content.write(u64::MAX, &[1; 3], &mut room), Err(Errno::EFBIG));
        assert_eq!(content.resize(MOST + 1, &mut room), Err(Errno::EFBIG));
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut content = Content::new();
        let mut room = 1 << 20;
        content.write(0, b"before", &mut room).unwrap();
        let copy = content.clone();
        content.write(0, b"after!", &mut room).unwrap();
        assert_eq!((all(&copy), all(&content)), (b"before".to_vec(), b"after!".to_vec()));
    }

    #[test]
    fn a_punched_hole_is_zero_and_keeps_the_rest() {
        let mut content = Content::new();
        let mut room = 1 << 20;
        content.write(0, &[1; CHUNK * 3 + 7], &mut room).unwrap();
        let before = room;
        content.punch(5, 2 * CHUNK as u64 + 5, &mut room).unwrap();
        let bytes = all(&content);
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 2 * CHUNK);
        assert_eq!(room, before + CHUNK as u64 + CHUNK_COST);
        content.punch(10, 5, &mut room).unwrap();
        content.punch(u64::MAX - 1, u64::MAX, &mut room).unwrap();
        assert!(content.is_sound());
        // The sum is kept, and checked.
        assert_eq!(content.cost(), (1 << 20) - room);
        content.cost += 1;
        assert!(!content.is_sound());
    }
}
