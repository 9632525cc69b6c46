//! Changes to the tree: only in the scratch directory, `EROFS` elsewhere.

use linux_raw_sys::general as raw;

use super::node::{Directory, Ino, Kind, Name, Type};
use super::resolve::{Place, Target};
use super::tree::Rename;
use super::{Around, Files};
use crate::Errno;

/// Longest target of a symbolic link.
const LINK_MAX: usize = 4095;

impl Files {
    /// What is at the end of a path, and has to be free.
    fn vacant(&self, around: &Around<'_>, base: &Place, path: &[u8]) -> Result<Target, Errno> {
        let target = self.resolve(around.grants, base, path, false)?;
        if target.found.is_some() {
            return Err(Errno::EEXIST);
        }
        Ok(target)
    }

    /// Makes a directory.
    pub(super) fn make_directory(
        &mut self,
        around: &mut Around<'_>,
        base: &Place,
        path: &[u8],
        mode: u32,
    ) -> Result<(), Errno> {
        let target = self.vacant(around, base, path)?;
        let (parent, name) = target.entry()?;
        let kind = Kind::Directory(Directory::new(parent, name.clone()));
        let mode = mode & 0o1777 & !self.umask;
        self.make(parent, name, kind, mode, around.now()).map(|_| ())
    }

    /// Makes a symbolic link.
    pub(super) fn make_link(
        &mut self,
        around: &mut Around<'_>,
        to: &[u8],
        base: &Place,
        path: &[u8],
    ) -> Result<(), Errno> {
        if to.is_empty() {
            return Err(Errno::ENOENT);
        }
        if to.len() > LINK_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let target = self.vacant(around, base, path)?;
        if target.slash {
            return Err(Errno::ENOENT);
        }
        let (parent, name) = target.entry()?;
        self.make(parent, name, Kind::Link(Name::from(to)), 0o777, around.now()).map(|_| ())
    }

    /// Gives a file another name.
    pub(super) fn make_hard_link(
        &mut self,
        around: &mut Around<'_>,
        from: (Place, Type),
        base: &Place,
        path: &[u8],
    ) -> Result<(), Errno> {
        let (place, kind) = from;
        let target = self.vacant(around, base, path)?;
        if kind == Type::Directory {
            return Err(Errno::EPERM);
        }
        let (parent, name) = target.entry()?;
        self.check_writable(parent)?;
        match place {
            Place::Memory(ino) if self.tree.get(ino)?.pool == self.tree.get(parent)?.pool => {
                if self.tree.get(ino)?.links == 0 || target.slash {
                    return Err(Errno::ENOENT);
                }
                self.tree.link(ino, parent, name, around.now())
            }
            _ => Err(Errno::EXDEV),
        }
    }

    /// Removes a name: of a directory, or of anything else.
    pub(super) fn remove(
        &mut self,
        around: &mut Around<'_>,
        base: &Place,
        path: &[u8],
        directory: bool,
    ) -> Result<(), Errno> {
        let target = self.resolve(around.grants, base, path, false)?;
        let (place, kind) = target.clone().existing()?;
        if target.name.is_none() {
            let last = path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty());
            return Err(match last {
                _ if !directory => Errno::EISDIR,
                Some(b"..") => Errno::ENOTEMPTY,
                Some(_) => Errno::EINVAL,
                None => Errno::EBUSY,
            });
        }
        match kind == Type::Directory {
            true if !directory => return Err(Errno::EISDIR),
            false if directory => return Err(Errno::ENOTDIR),
            _ => {}
        }
        let (parent, name) = target.entry()?;
        if self.is_mounted(parent, name) {
            return Err(Errno::EBUSY);
        }
        self.check_writable(parent)?;
        if let Place::Memory(ino) = place
            && self.tree.directory(ino).is_ok_and(|directory| !directory.entries.is_empty())
        {
            return Err(Errno::ENOTEMPTY);
        }
        let ino = self.tree.unlink(parent, name, around.now())?;
        self.drop_unused(ino);
        Ok(())
    }

    /// Moves a name.
    pub(super) fn rename(
        &mut self,
        around: &mut Around<'_>,
        from: (&Place, &[u8]),
        to: (&Place, &[u8]),
        how: Rename,
    ) -> Result<(), Errno> {
        let source = self.resolve(around.grants, from.0, from.1, false)?;
        let (_, kind) = source.clone().existing()?;
        let target = self.resolve(around.grants, to.0, to.1, false)?;
        if kind != Type::Directory && target.slash {
            return Err(Errno::ENOTDIR);
        }
        if how == Rename::NoReplace && target.found.is_some() {
            return Err(Errno::EEXIST);
        }
        let (from, from_name) = source.entry()?;
        let (to, to_name) = target.entry()?;
        if self.is_mounted(from, from_name) || self.is_mounted(to, to_name) {
            return Err(Errno::EBUSY);
        }
        self.check_writable(from)?;
        self.check_writable(to)?;
        if self.tree.get(from)?.pool != self.tree.get(to)?.pool {
            return Err(Errno::EXDEV);
        }
        let dropped = self.tree.rename((from, from_name), (to, to_name), how, around.now())?;
        if let Some(dropped) = dropped {
            self.drop_unused(dropped);
        }
        Ok(())
    }

    /// The node of something that is to be changed.
    pub(super) fn changeable(&self, place: &Place) -> Result<Ino, Errno> {
        match place {
            Place::Memory(ino) => self.check_writable(*ino).map(|()| *ino),
            Place::Host(_) => Err(Errno::EROFS),
        }
    }

    /// Sets permissions. They are remembered, and keep nobody out.
    pub(super) fn set_mode(&mut self, place: &Place, mode: u32, now: u64) -> Result<(), Errno> {
        let ino = self.changeable(place)?;
        let node = self.tree.get_mut(ino)?;
        (node.mode, node.times[2]) = (mode & 0o7777, now);
        Ok(())
    }

    /// Sets the times of the last access and modification, where they are given.
    pub(super) fn set_times(
        &mut self,
        place: &Place,
        times: [Option<u64>; 2],
        now: u64,
    ) -> Result<(), Errno> {
        let ino = self.changeable(place)?;
        let node = self.tree.get_mut(ino)?;
        for (time, set) in node.times.iter_mut().zip(times) {
            *time = set.unwrap_or(*time);
        }
        node.times[2] = now;
        Ok(())
    }

    /// Gives a file another size.
    pub(super) fn set_size(
        &mut self,
        around: &mut Around<'_>,
        place: &Place,
        size: u64,
    ) -> Result<(), Errno> {
        let ino = match place {
            Place::Memory(ino) if self.tree.directory(*ino).is_ok() => return Err(Errno::EISDIR),
            place => self.changeable(place)?,
        };
        self.set_buffered(around.limits);
        let now = around.now();
        self.tree.change(ino, now, |content, room| content.resize(size, room))
    }

    /// What `fallocate` does: nothing is set aside, but the size changes, or a hole is made.
    pub(super) fn allocate(
        &mut self,
        around: &mut Around<'_>,
        ino: Ino,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        if end > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        self.check_writable(ino)?;
        self.set_buffered(around.limits);
        let keep = mode & raw::FALLOC_FL_KEEP_SIZE != 0;
        let punch = mode & raw::FALLOC_FL_PUNCH_HOLE != 0;
        self.tree.change(ino, around.now(), |content, room| {
            if punch {
                return content.punch(offset, end, room);
            }
            if !keep && end > content.size() {
                return content.resize(end, room);
            }
            Ok(())
        })
    }

    /// Checks what `access` asks for: 4 to read, 2 to write, 1 to execute.
    pub(super) fn check_access(
        &self,
        around: &Around<'_>,
        found: &(Place, Type),
        wanted: u32,
    ) -> Result<(), Errno> {
        let (place, kind) = found;
        if wanted & raw::W_OK != 0 && matches!(kind, Type::File | Type::Directory) {
            self.changeable(place)?;
        }
        let status = self.status(around, place)?;
        if wanted & raw::X_OK != 0 && *kind != Type::Directory && status.mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        Ok(())
    }
}
