//! What a file in memory is.

use std::collections::BTreeMap;
use std::sync::Arc;

use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use super::content::Content;

/// Longest name in a directory.
pub(super) const NAME_MAX: usize = 255;

/// A name in a directory.
pub(super) type Name = Arc<[u8]>;

/// The number of a file in memory. None is used twice.
pub(super) type Ino = u64;

/// What kind of thing a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Type {
    File,
    Directory,
    Link,
    Device,
    BlockDevice,
    Fifo,
    Socket,
}

impl Type {
    /// Its bits in a file's mode.
    pub(super) fn mode(self) -> u32 {
        match self {
            Type::File => raw::S_IFREG,
            Type::Directory => raw::S_IFDIR,
            Type::Link => raw::S_IFLNK,
            Type::Device => raw::S_IFCHR,
            Type::BlockDevice => raw::S_IFBLK,
            Type::Fifo => raw::S_IFIFO,
            Type::Socket => raw::S_IFSOCK,
        }
    }

    /// How `getdents64` says it.
    pub(super) fn listed(self) -> u8 {
        let bits = self.mode() >> 12;
        u8::try_from(bits).unwrap_or(0)
    }
}

/// Devices that always exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Device {
    Null,
    Zero,
    Full,
    Random,
    Urandom,
    /// What descriptor 0, 1 or 2 stands for.
    Stdin,
    Stdout,
    Stderr,
}

impl Device {
    pub(super) const ALL: [(&str, Device); 8] = [
        ("/dev/null", Device::Null),
        ("/dev/zero", Device::Zero),
        ("/dev/full", Device::Full),
        ("/dev/random", Device::Random),
        ("/dev/urandom", Device::Urandom),
        ("/dev/stdin", Device::Stdin),
        ("/dev/stdout", Device::Stdout),
        ("/dev/stderr", Device::Stderr),
    ];

    /// The descriptor that it leads to.
    pub(super) fn descriptor(self) -> Option<i32> {
        match self {
            Device::Stdin => Some(0),
            Device::Stdout => Some(1),
            Device::Stderr => Some(2),
            _ => None,
        }
    }

    /// Its number, as Linux has it; none of Linux's for what is a link there.
    pub(super) fn number(self) -> u64 {
        let minor = match self {
            Device::Null => 3,
            Device::Zero => 5,
            Device::Full => 7,
            Device::Random => 8,
            Device::Urandom => 9,
            Device::Stdin | Device::Stdout | Device::Stderr => return 0,
        };
        1 << 8 | minor
    }
}

/// What pays for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pool {
    /// Nothing: it was there from the start, and is only read.
    Given,
    /// The scratch directory.
    Scratch,
    /// What may be in buffers: it has no name.
    Anonymous,
}

/// A file in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) pool: Pool,
    /// Permissions.
    pub(super) mode: u32,
    /// Names that it has.
    pub(super) links: u32,
    /// Last access, modification and change, in nanoseconds since 1970.
    pub(super) times: [u64; 3],
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Kind {
    File(Content),
    Directory(Directory),
    Link(Name),
    Device(Device),
}

/// What a directory's entries are sorted by: a hash of the name, which `getdents64` gives as the place
/// to go on from, and the name.
pub(super) type Key = (u64, Name);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Directory {
    /// Where it lies; itself for one that lies in none.
    pub(super) parent: Ino,
    /// What it is called there.
    pub(super) name: Name,
    pub(super) entries: BTreeMap<Key, Ino>,
}

impl Directory {
    pub(super) fn new(parent: Ino, name: Name) -> Directory {
        Directory { parent, name, entries: BTreeMap::new() }
    }
}

impl Node {
    pub(super) fn new(kind: Kind, pool: Pool, mode: u32, now: u64) -> Node {
        Node { kind, pool, mode, links: 1, times: [now; 3] }
    }

    pub(super) fn kind(&self) -> Type {
        match self.kind {
            Kind::File(_) => Type::File,
            Kind::Directory(_) => Type::Directory,
            Kind::Link(_) => Type::Link,
            Kind::Device(_) => Type::Device,
        }
    }

    /// Bytes that it has, for `stat`.
    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.size(),
            Kind::Directory(_) => 4096,
            Kind::Link(target) => target.len() as u64,
            Kind::Device(_) => 0,
        }
    }

    /// What it costs of a limit, without its names.
    pub(super) fn cost(&self) -> u64 {
        NODE_COST
            + match &self.kind {
                Kind::File(content) => content.cost(),
                Kind::Link(target) => target.len() as u64,
                Kind::Directory(_) | Kind::Device(_) => 0,
            }
    }
}

/// What a file costs besides what is in it.
pub(super) const NODE_COST: u64 = 512;

/// What a name in a directory costs.
pub(super) fn entry_cost(name: &[u8]) -> u64 {
    96 + name.len() as u64
}

/// A name's place in the order of a directory: at least 3 (1 and 2 are those of `.` and `..`), and
/// never negative as a file offset.
pub(super) fn cookie(name: &[u8]) -> u64 {
    (hash(name.iter().copied()) >> 1).max(3)
}

pub(super) fn key(name: &[u8]) -> Key {
    (cookie(name), Name::from(name))
}

/// FNV-1a, with a final mix: the same on every machine.
pub(super) fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 29)
}
