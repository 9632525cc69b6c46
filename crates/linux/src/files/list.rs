//! What is in a directory, as `getdents64` gives it.
//!
//! Entries come in the order of a hash of their names, and the hash is where to go on from. So a
//! listing that goes on later, or in a copy of the process, gives every name that was there all the
//! time, and none twice, whatever was added or removed meanwhile.

use std::sync::Arc;

use super::grants::Grants;
use super::node::{Name, Type, cookie};
use super::open::Object;
use super::resolve::Place;
use super::{Around, Files};
use crate::Errno;

/// Bytes of an entry before its name.
const HEADER: usize = 19;
/// Most bytes that one call gives.
const MOST: usize = 1 << 20;

/// A directory of the host, read.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// The open file that it was read for.
    pub(super) open: u64,
    entries: Sorted,
}

/// What is in a directory of the host: sorted by the first, the place to go on from.
type Sorted = Arc<[(u64, Name, Type)]>;

impl Files {
    /// Lists a directory from where the descriptor stands, in at most so many bytes. And where it goes
    /// on after that.
    pub(super) fn list(
        &mut self,
        around: &Around<'_>,
        fd: i32,
        most: usize,
    ) -> Result<(Vec<u8>, u64), Errno> {
        let number = self.descriptor(fd)?.open;
        let open = self.get(fd)?;
        if open.is_path() {
            return Err(Errno::EBADF);
        }
        let after = open.offset;
        let place = match &open.object {
            Object::Memory(ino) => Place::Memory(*ino),
            Object::Host(file) => Place::Host(file.place.clone()),
            _ => return Err(Errno::ENOTDIR),
        };
        let mut listed =
            Entries { bytes: Vec::new(), most: most.min(MOST), last: after, full: false };
        for (cookie, name, directory) in
            [(1, &b"."[..], place.clone()), (2, b"..", self.parent(&place)?)]
        {
            if after < cookie {
                listed.push(cookie, self.number_of(&directory), Type::Directory, name);
            }
        }
        match &place {
            Place::Memory(ino) => {
                if self.tree.get(*ino)?.links == 0 {
                    return Err(Errno::ENOENT);
                }
                for ((cookie, name), ino, node) in self.tree.entries_after(*ino, after.max(2))? {
                    if !listed.push(*cookie, self.number_of(&Place::Memory(ino)), node.kind(), name)
                    {
                        break;
                    }
                }
            }
            Place::Host(place) => {
                let entries = self.host_entries(around.grants, number, after)?;
                let first = entries.partition_point(|(cookie, ..)| *cookie <= after);
                for (cookie, name, kind) in &entries[first..] {
                    let ino = self.number_of(&Place::Host(place.child(name)));
                    if !listed.push(*cookie, ino, *kind, name) {
                        break;
                    }
                }
            }
        }
        if listed.full && listed.bytes.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok((listed.bytes, listed.last))
    }

    /// The entries of a host's directory, sorted: read anew if they are not at hand, or a listing
    /// starts.
    fn host_entries(&mut self, grants: &Grants, open: u64, after: u64) -> Result<Sorted, Errno> {
        if let Some(listing) = &self.listing
            && listing.open == open
            && after > 0
        {
            return Ok(listing.entries.clone());
        }
        let Some(Object::Host(file)) = self.open.get(&open).map(|open| &open.object) else {
            return Err(Errno::ENOTDIR);
        };
        if !file.directory {
            return Err(Errno::ENOTDIR);
        }
        let mounted = self.mounted_names(&file.place);
        let listed = self.granted(grants, &file.place).and_then(|host| host.list(&file.place.path));
        let mut names = match listed {
            Err(_) if !mounted.is_empty() => Vec::new(),
            listed => listed?,
        };
        // What is mounted covers what the host has.
        names.retain(|(name, _)| !mounted.iter().any(|(covered, _)| covered == name));
        names.extend(mounted);
        let mut entries: Vec<_> =
            names.into_iter().map(|(name, kind)| (cookie(&name), name, kind)).collect();
        entries.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let entries: Sorted = Arc::from(entries);
        self.listing = Some(Listing { open, entries: entries.clone() });
        Ok(entries)
    }
}

/// `linux_dirent64`s.
struct Entries {
    bytes: Vec<u8>,
    most: usize,
    /// The last entry's place.
    last: u64,
    full: bool,
}

impl Entries {
    /// Adds an entry, unless it or one before it doesn't fit.
    fn push(&mut self, cookie: u64, ino: u64, kind: Type, name: &[u8]) -> bool {
        let length = (HEADER + name.len() + 1).next_multiple_of(8);
        self.full |= self.bytes.len() + length > self.most;
        let Ok(short) = u16::try_from(length) else { return false };
        if self.full {
            return false;
        }
        let end = self.bytes.len() + length;
        self.bytes.extend(ino.to_le_bytes());
        self.bytes.extend(cookie.to_le_bytes());
        self.bytes.extend(short.to_le_bytes());
        self.bytes.push(kind.listed());
        self.bytes.extend(name);
        self.bytes.resize(end, 0);
        self.last = cookie;
        true
    }
}
