//! Descriptors, and the open files that they stand for.

use std::sync::Arc;

use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use super::epoll::Set;
use super::node::{Device, Ino, Kind, Type};
use super::pipe::Event;
use super::resolve::{HostPlace, Place, Target};
use super::{Around, Files, Name};
use crate::{Errno, Limits};

/// A file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Descriptor {
    /// The open file that it stands for.
    pub(super) open: u64,
    pub(super) close_on_exec: bool,
}

/// An open file. Several descriptors may stand for one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) object: Object,
    /// How it was opened, and what was set since: `O_ACCMODE`, `O_APPEND`, `O_NONBLOCK`, `O_PATH`.
    pub(super) flags: u32,
    /// Where it is read and written next; of a directory, the last entry that was listed; of standard
    /// input, how far it was read.
    pub(super) offset: u64,
    /// Times that it was read or written: for edge-triggered epoll on streams.
    pub(super) uses: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Object {
    Stream(Stream),
    /// A file, directory or device in memory.
    Memory(Ino),
    /// A file or a directory of the host.
    Host(HostFile),
    Pipe {
        pipe: u64,
        /// Which end.
        writes: bool,
    },
    Event(Event),
    Epoll(Set),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stream {
    Input,
    Output,
    Error,
}

/// A file or a directory of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HostFile {
    pub(super) place: HostPlace,
    pub(super) directory: bool,
    /// A regular file, opened. It is opened again when the process comes from a file.
    #[serde(skip)]
    pub(super) handle: Option<Arc<std::fs::File>>,
}

impl Open {
    pub(super) fn new(object: Object, flags: u32) -> Open {
        Open { object, flags, offset: 0, uses: 0 }
    }

    pub(super) fn stream(stream: Stream) -> Open {
        let flags = if stream == Stream::Input { raw::O_RDONLY } else { raw::O_WRONLY };
        Open::new(Object::Stream(stream), flags)
    }

    pub(super) fn reads(&self) -> bool {
        !self.is_path() && self.flags & raw::O_ACCMODE != raw::O_WRONLY
    }

    pub(super) fn writes(&self) -> bool {
        !self.is_path() && self.flags & raw::O_ACCMODE != raw::O_RDONLY
    }

    /// Whether it only stands for a place in the tree.
    pub(super) fn is_path(&self) -> bool {
        self.flags & raw::O_PATH != 0
    }

    pub(super) fn waits(&self) -> bool {
        self.flags & raw::O_NONBLOCK == 0
    }
}

/// Flags of an open file that are kept.
const KEPT: u32 = raw::O_ACCMODE | raw::O_APPEND | raw::O_NONBLOCK | raw::O_PATH;
/// Flags that `fcntl` can change.
pub(super) const SETTABLE: u32 = raw::O_APPEND | raw::O_NONBLOCK;

/// The descriptor in a path like `/dev/fd/3`. There is no such directory otherwise.
pub(super) fn numbered(path: &[u8]) -> Option<i32> {
    let number = str::from_utf8(path.strip_prefix(b"/dev/fd/")?).ok()?;
    let fd: i32 = number.parse().ok()?;
    // As it is usually written: without a sign, or zeros before it.
    (fd.to_string() == number && fd >= 0).then_some(fd)
}

impl Files {
    /// Opens a path.
    pub(super) fn open(
        &mut self,
        around: &mut Around<'_>,
        base: &Place,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<u32, Errno> {
        // Nothing may happen if there is no descriptor left.
        self.free_descriptor(0, around.limits)?;
        let flags = match flags & raw::O_PATH {
            0 => flags,
            _ => flags & (raw::O_PATH | raw::O_DIRECTORY | raw::O_NOFOLLOW | raw::O_CLOEXEC),
        };
        // Its bits contain O_DIRECTORY's.
        if flags & raw::O_TMPFILE == raw::O_TMPFILE {
            return Err(Errno::EOPNOTSUPP);
        }
        let create = flags & raw::O_CREAT != 0;
        let exclusive = create && flags & raw::O_EXCL != 0;
        let follow = flags & raw::O_NOFOLLOW == 0 && !exclusive;
        let path_only = flags & raw::O_PATH != 0;
        if let Some(fd) = numbered(path).filter(|_| !path_only) {
            return self.open_descriptor(fd, flags, around.limits);
        }
        let target = self.resolve(around.grants, base, path, follow)?;
        let (place, kind) = match target.found.clone() {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(found) => found,
            None if create => self.create_file(&target, mode, around.now())?,
            None => return Err(Errno::ENOENT),
        };
        if let Some(fd) = self.leads_to_descriptor(&place).filter(|_| !path_only) {
            return self.open_descriptor(fd, flags, around.limits);
        }
        let made = target.found.is_none();
        let object = self.open_object(around, place, kind, flags, made)?;
        let open = Open::new(object, flags & KEPT);
        self.install(open, flags & raw::O_CLOEXEC != 0, 0, around.limits)
    }

    /// The descriptor that opening something opens again: of `/dev/stdin` and its like.
    pub(super) fn leads_to_descriptor(&self, place: &Place) -> Option<i32> {
        match place {
            Place::Memory(ino) => self.device(*ino).ok().flatten()?.descriptor(),
            Place::Host(_) => None,
        }
    }

    /// Opens what a descriptor stands for by its path: that gives another descriptor for the same, as
    /// with pipes on Linux.
    fn open_descriptor(&mut self, fd: i32, flags: u32, limits: &Limits) -> Result<u32, Errno> {
        let open = self.get(fd).map_err(|_| Errno::ENOENT)?;
        let exclusive = raw::O_CREAT | raw::O_EXCL;
        if flags & exclusive == exclusive {
            return Err(Errno::EEXIST);
        }
        if flags & raw::O_DIRECTORY != 0 {
            return Err(Errno::ENOTDIR);
        }
        let mode = flags & raw::O_ACCMODE;
        let (reads, writes) = (mode != raw::O_WRONLY, mode != raw::O_RDONLY);
        if (reads && !open.reads()) || (writes && !open.writes()) {
            return Err(Errno::EACCES);
        }
        self.duplicate(fd, 0, flags & raw::O_CLOEXEC != 0, limits)
    }

    fn create_file(
        &mut self,
        target: &Target,
        mode: u32,
        now: u64,
    ) -> Result<(Place, Type), Errno> {
        if target.slash {
            return Err(Errno::EISDIR);
        }
        let (directory, name) = target.entry()?;
        let mode = mode & 0o7777 & !self.umask;
        let content = Kind::File(super::content::Content::new());
        let ino = self.make(directory, name, content, mode, now)?;
        Ok((Place::Memory(ino), Type::File))
    }

    /// Makes something in the scratch directory. `EROFS` elsewhere.
    pub(super) fn make(
        &mut self,
        directory: Ino,
        name: &Name,
        kind: Kind,
        mode: u32,
        now: u64,
    ) -> Result<Ino, Errno> {
        self.check_writable(directory)?;
        self.tree.create(directory, name, kind, mode, now)
    }

    fn open_object(
        &mut self,
        around: &mut Around<'_>,
        place: Place,
        kind: Type,
        flags: u32,
        made: bool,
    ) -> Result<Object, Errno> {
        let path_only = flags & raw::O_PATH != 0;
        let writes = flags & raw::O_ACCMODE != raw::O_RDONLY;
        if flags & raw::O_DIRECTORY != 0 && kind != Type::Directory {
            return Err(Errno::ENOTDIR);
        }
        match kind {
            _ if path_only => {}
            Type::Link => return Err(Errno::ELOOP),
            Type::Directory if writes || flags & raw::O_CREAT != 0 => return Err(Errno::EISDIR),
            Type::File | Type::Directory => {}
            // Those in memory are harmless.
            Type::Device if matches!(place, Place::Memory(_)) => {}
            _ => return Err(Errno::EACCES),
        }
        let truncates = flags & raw::O_TRUNC != 0 && kind == Type::File && !made;
        match place {
            Place::Memory(ino) => {
                if kind == Type::File && (writes || truncates) {
                    self.check_writable(ino)?;
                }
                if truncates {
                    self.tree.change(ino, around.now(), |content, room| content.resize(0, room))?;
                }
                Ok(Object::Memory(ino))
            }
            Place::Host(_) if writes || truncates => Err(Errno::EROFS),
            Place::Host(place) => {
                let mut file = HostFile { place, directory: kind == Type::Directory, handle: None };
                if !path_only {
                    self.check_host(around, &mut file)?;
                }
                Ok(Object::Host(file))
            }
        }
    }

    /// Opens a host's file, or sees whether a directory of it can be read.
    fn check_host(&self, around: &Around<'_>, file: &mut HostFile) -> Result<(), Errno> {
        let directory = self.granted(around.grants, &file.place)?;
        if !file.directory {
            file.handle = Some(Arc::new(directory.open_file(&file.place.path)?));
            return Ok(());
        }
        match directory.check_directory(&file.place.path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                // It may be one that only leads to a mount point.
                self.host_status(around.grants, &file.place).map(|_| ())
            }
            checked => checked,
        }
    }

    /// Whether a file in memory can be changed, or a directory what is in it.
    pub(super) fn check_writable(&self, ino: Ino) -> Result<(), Errno> {
        match self.tree.get(ino)?.pool {
            super::Pool::Given => Err(Errno::EROFS),
            super::Pool::Scratch | super::Pool::Anonymous => Ok(()),
        }
    }

    /// The lowest free descriptor that is not below another.
    pub(super) fn free_descriptor(&self, least: u32, limits: &Limits) -> Result<u32, Errno> {
        let mut free = least;
        for fd in self.descriptors.range(least..).map(|(fd, _)| *fd) {
            if fd != free {
                break;
            }
            free += 1;
        }
        if free < limits.descriptors { Ok(free) } else { Err(Errno::EMFILE) }
    }

    /// Gives an open file a descriptor.
    pub(super) fn install(
        &mut self,
        open: Open,
        close_on_exec: bool,
        least: u32,
        limits: &Limits,
    ) -> Result<u32, Errno> {
        let fd = self.free_descriptor(least, limits)?;
        let number = self.number();
        self.open.insert(number, open);
        self.descriptors.insert(fd, Descriptor { open: number, close_on_exec });
        Ok(fd)
    }

    /// Another descriptor for the same open file.
    pub(super) fn duplicate(
        &mut self,
        fd: i32,
        least: u32,
        close_on_exec: bool,
        limits: &Limits,
    ) -> Result<u32, Errno> {
        let open = self.descriptor(fd)?.open;
        let fd = self.free_descriptor(least, limits)?;
        self.descriptors.insert(fd, Descriptor { open, close_on_exec });
        Ok(fd)
    }

    /// Makes a descriptor stand for what another one stands for.
    pub(super) fn duplicate_to(
        &mut self,
        from: i32,
        to: i32,
        close_on_exec: bool,
        limits: &Limits,
    ) -> Result<u32, Errno> {
        let open = self.descriptor(from)?.open;
        let fd = u32::try_from(to).map_err(|_| Errno::EBADF)?;
        if fd >= limits.descriptors {
            return Err(Errno::EBADF);
        }
        let before = self.descriptors.insert(fd, Descriptor { open, close_on_exec });
        if let Some(before) = before {
            self.release(before.open);
        }
        Ok(fd)
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        let closed = self.descriptors.remove(&fd).ok_or(Errno::EBADF)?;
        self.release(closed.open);
        Ok(())
    }

    /// Drops an open file if no descriptor stands for it any more.
    fn release(&mut self, number: u64) {
        if self.descriptors.values().any(|descriptor| descriptor.open == number) {
            return;
        }
        let Some(open) = self.open.remove(&number) else { return };
        for other in self.open.values_mut() {
            if let Object::Epoll(set) = &mut other.object {
                set.forget(number);
            }
        }
        match open.object {
            Object::Memory(ino) => self.drop_unused(ino),
            Object::Pipe { pipe, writes } => self.close_pipe(pipe, writes),
            _ => {}
        }
        if self.listing.as_ref().is_some_and(|listing| listing.open == number) {
            self.listing = None;
        }
    }

    /// Removes a file in memory that has no name if it isn't open either, nor where the process is.
    pub(super) fn drop_unused(&mut self, ino: Ino) {
        let is_open =
            self.open.values().any(|open| matches!(open.object, Object::Memory(i) if i == ino));
        if !is_open && self.current != Place::Memory(ino) {
            self.tree.drop_unused(ino);
        }
    }

    /// The device that an open file is.
    pub(super) fn device(&self, ino: Ino) -> Result<Option<Device>, Errno> {
        match self.tree.get(ino)?.kind {
            Kind::Device(device) => Ok(Some(device)),
            _ => Ok(None),
        }
    }
}
