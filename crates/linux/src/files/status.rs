//! What `stat` and its relatives say.
//!
//! Nothing of the host's numbers shows: a device number is that of a mount in the guest's tree, an
//! inode number that of a node in memory or a hash of a path, the owner is always the same.

use linux_raw_sys::general as raw;

use super::host::HostStatus;
use super::node::{Kind, Pool, Type, hash};
use super::open::{Object, Stream};
use super::resolve::{HostPlace, Place};
use super::{Around, Files};
use crate::Errno;

/// Whose every file is, and whose every process.
const OWNER: u32 = 1000;
const BLOCK: u32 = 4096;
const SECOND: u64 = 1_000_000_000;
/// The device of what has no name.
const NAMELESS: u64 = 1;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    device: u64,
    ino: u64,
    pub(super) mode: u32,
    links: u32,
    /// Of a device, its own number.
    number: u64,
    pub(super) size: u64,
    /// Bytes that it takes.
    taken: u64,
    times: [u64; 3],
}

impl Files {
    /// The number of a file, as a guest sees it.
    pub(super) fn number_of(&self, place: &Place) -> u64 {
        match place {
            Place::Memory(ino) => *ino,
            // Those in memory are small numbers.
            Place::Host(place) => hash(place.path.iter().copied()) | 1 << 62,
        }
    }

    /// The status of something in the tree.
    pub(super) fn status(&self, around: &Around<'_>, place: &Place) -> Result<Status, Errno> {
        match place {
            Place::Memory(ino) => self.memory_status(*ino),
            Place::Host(place) => {
                Ok(self.host_file_status(place, self.host_status(around.grants, place)?))
            }
        }
    }

    fn memory_status(&self, ino: u64) -> Result<Status, Errno> {
        let node = self.tree.get(ino)?;
        let (device, taken) = match node.pool {
            Pool::Given => (2, node.size()),
            Pool::Scratch => (3, node.cost()),
            Pool::Anonymous => (NAMELESS, node.cost()),
        };
        let number = match node.kind {
            Kind::Device(device) => device.number(),
            _ => 0,
        };
        Ok(Status {
            device,
            ino,
            mode: node.kind().mode() | node.mode,
            links: node.links,
            number,
            size: node.size(),
            taken,
            times: node.times,
        })
    }

    fn host_file_status(&self, place: &HostPlace, status: HostStatus) -> Status {
        let permissions = match status.kind {
            Type::Directory => 0o755,
            Type::Link => 0o777,
            _ if status.executable => 0o555,
            _ => 0o444,
        };
        Status {
            device: 16 + place.mount as u64,
            ino: self.number_of(&Place::Host(place.clone())),
            mode: status.kind.mode() | permissions,
            links: 1,
            number: 0,
            size: status.size,
            taken: status.size,
            times: status.times,
        }
    }

    /// The status of what a descriptor stands for.
    pub(super) fn open_status(&mut self, around: &Around<'_>, fd: i32) -> Result<Status, Errno> {
        let number = self.descriptor(fd)?.open;
        let kind = match &self.get(fd)?.object {
            Object::Memory(ino) => return self.memory_status(*ino),
            Object::Host(file) => {
                let place = file.place.clone();
                let status = self.host_open_status(around.grants, fd)?;
                return Ok(self.host_file_status(&place, status));
            }
            Object::Stream(Stream::Input | Stream::Output | Stream::Error)
            | Object::Pipe { .. } => Type::Fifo.mode(),
            // What Linux calls an anonymous inode has no type.
            Object::Event(_) | Object::Epoll(_) => 0,
        };
        Ok(Status {
            device: NAMELESS,
            ino: 1 << 61 | number,
            mode: kind | 0o600,
            links: 1,
            number: 0,
            size: 0,
            taken: 0,
            times: [0; 3],
        })
    }

    /// What `statfs` says of the file system that something lies in.
    pub(super) fn file_system(&self, place: Option<&Place>) -> [u8; 120] {
        const TMPFS: u64 = 0x0102_1994;
        const READ_ONLY: u64 = 1;
        let block = u64::from(BLOCK);
        let pool = match place {
            Some(Place::Memory(ino)) => self.tree.get(*ino).map_or(Pool::Given, |node| node.pool),
            _ => Pool::Given,
        };
        let budget = match pool {
            Pool::Given => Default::default(),
            Pool::Scratch => self.tree.scratch,
            Pool::Anonymous => self.tree.anonymous,
        };
        let flags = if pool == Pool::Given { READ_ONLY } else { 0 };
        let (blocks, free) = (budget.limit / block, budget.room() / block);
        let (files, free_files) = (budget.limit / 512, budget.room() / 512);
        let name = super::node::NAME_MAX as u64;
        words(&[
            TMPFS, block, blocks, free, free, files, free_files, 0, name, block, flags, 0, 0, 0, 0,
        ])
    }
}

impl Status {
    /// As `struct stat`.
    pub(super) fn to_stat(self) -> [u8; 144] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [accessed, modified, changed] = self.times;
        words(&[
            self.device,
            self.ino,
            u64::from(self.links),
            pair(self.mode, OWNER),
            pair(OWNER, 0),
            self.number,
            self.size,
            u64::from(BLOCK),
            self.taken.div_ceil(512),
            accessed / SECOND,
            accessed % SECOND,
            modified / SECOND,
            modified % SECOND,
            changed / SECOND,
            changed % SECOND,
            0,
            0,
            0,
        ])
    }

    /// As `struct statx`.
    pub(super) fn to_statx(self) -> [u8; 256] {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(raw::STATX_BASIC_STATS.to_le_bytes());
        bytes.extend(BLOCK.to_le_bytes());
        bytes.extend([0; 8]);
        for word in [self.links, OWNER, OWNER, self.mode & 0xffff] {
            bytes.extend(word.to_le_bytes());
        }
        for word in [self.ino, self.size, self.taken.div_ceil(512), 0] {
            bytes.extend(word.to_le_bytes());
        }
        let [accessed, modified, changed] = self.times;
        for time in [accessed, 0, changed, modified] {
            bytes.extend((time / SECOND).to_le_bytes());
            // Less than a billion, and four bytes that are not used.
            bytes.extend((time % SECOND).to_le_bytes());
        }
        for device in [self.number, self.device] {
            // Major and minor.
            bytes.extend(u32::from((device >> 8 & 0xff) as u8).to_le_bytes());
            bytes.extend(u32::from((device & 0xff) as u8).to_le_bytes());
        }
        bytes.resize(256, 0);
        // It has just been made that long.
        bytes.try_into().unwrap_or([0; 256])
    }
}

/// Little-endian words, one behind the other.
fn words<const N: usize>(words: &[u64]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_structures_say_the_same_where_they_should() {
        let status = Status {
            device: 0x0203,
            ino: 7,
            mode: 0o100_644,
            links: 2,
            number: 0x0108,
            size: 1025,
            taken: 1025,
            times: [1_500_000_000, 2_600_000_000, 3_700_000_000],
        };
        let stat = status.to_stat();
        let statx = status.to_statx();
        let word =
            |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        let half =
            |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        // st_size, st_blocks, st_mtime, st_mtime_nsec.
        assert_eq!([word(&stat, 48), word(&stat, 64)], [1025, 3]);
        assert_eq!([word(&stat, 88), word(&stat, 96)], [2, 600_000_000]);
        assert_eq!([half(&stat, 24), half(&stat, 28), half(&stat, 32)], [0o100_644, 1000, 1000]);
        // stx_nlink, stx_uid, stx_gid, stx_mode; stx_ino, stx_size, stx_blocks.
        assert_eq!([half(&statx, 16), half(&statx, 20), half(&statx, 24)], [2, 1000, 1000]);
        assert_eq!(half(&statx, 28), 0o100_644);
        assert_eq!([word(&statx, 32), word(&statx, 40), word(&statx, 48)], [7, 1025, 3]);
        // stx_mtime; rdev and dev.
        assert_eq!([word(&statx, 112), u64::from(half(&statx, 120))], [2, 600_000_000]);
        assert_eq!([half(&statx, 128), half(&statx, 132)], [1, 8]);
        assert_eq!([half(&statx, 136), half(&statx, 140)], [2, 3]);
    }
}
