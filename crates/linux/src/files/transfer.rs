//! Reading and writing, from and into slices.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use linux_raw_sys::general as raw;

use super::grants::Grants;
use super::host::{HostStatus, status};
use super::node::Device;
use super::open::{HostFile, Object, Open, Stream};
use super::{Around, Files};
use crate::call::{Stop, Wait, WaitFor};
use crate::{Errno, Streams};

/// Largest offset in a file.
const MOST: u64 = i64::MAX as u64;

/// What is to be done if nothing can be read or written now.
fn wait(open: &Open, on: WaitFor) -> Stop {
    match open.waits() {
        true => Stop::Wait(Wait { on, until: None }),
        false => Stop::Error(Errno::EAGAIN),
    }
}

impl Files {
    /// Reads: at an offset, or where the descriptor stands.
    pub(super) fn read(
        &mut self,
        around: &mut Around<'_>,
        fd: i32,
        at: Option<u64>,
        into: &mut [u8],
    ) -> Result<usize, Stop> {
        let open = self.get(fd)?;
        if !open.reads() {
            return Err(Errno::EBADF.into());
        }
        let offset = at.unwrap_or(open.offset);
        let (seeks, done) = match open.object {
            Object::Memory(_) | Object::Host(_) => {
                (true, self.read_seekable(around, fd, offset, into)?)
            }
            _ if at.is_some() => return Err(Errno::ESPIPE.into()),
            _ => (false, self.read_stream(around, fd, into)?),
        };
        let open = self.get_mut(fd)?;
        open.uses = open.uses.wrapping_add(1);
        if seeks && at.is_none() {
            open.offset = offset.saturating_add(done as u64);
        }
        Ok(done)
    }

    fn read_seekable(
        &mut self,
        around: &mut Around<'_>,
        fd: i32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        if let Object::Memory(ino) = self.get(fd)?.object
            && let Some(device) = self.device(ino)?
        {
            match device {
                Device::Null => return Ok(0),
                Device::Zero | Device::Full => into.fill(0),
                // Opening one gives a descriptor for something else.
                Device::Stdin | Device::Stdout | Device::Stderr => return Err(Errno::EINVAL),
                Device::Random | Device::Urandom => around.random.fill(into),
            }
            return Ok(into.len());
        }
        self.read_file(around.grants, fd, offset, into)
    }

    /// Reads from a regular file.
    pub(super) fn read_file(
        &mut self,
        grants: &Grants,
        fd: i32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        match self.get(fd)?.object {
            Object::Memory(ino) => match self.tree.directory(ino) {
                Ok(_) => Err(Errno::EISDIR),
                Err(_) => self.tree.read(ino, offset, into),
            },
            Object::Host(_) => {
                let file = self.host_file(grants, fd)?;
                loop {
                    match file.read_at(into, offset) {
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        read => return read.map_err(|error| Errno::of_io(&error)),
                    }
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// A host's file, opened again if this process comes from a file.
    fn host_file(&mut self, grants: &Grants, fd: i32) -> Result<Arc<std::fs::File>, Errno> {
        let Object::Host(HostFile { place, directory, handle }) = &self.get(fd)?.object else {
            return Err(Errno::EINVAL);
        };
        if *directory {
            return Err(Errno::EISDIR);
        }
        if let Some(handle) = handle {
            return Ok(handle.clone());
        }
        let opened = self.granted(grants, place)?.open_file(&place.path).map_err(|_| Errno::EIO)?;
        let opened = Arc::new(opened);
        if let Object::Host(file) = &mut self.get_mut(fd)?.object {
            file.handle = Some(opened.clone());
        }
        Ok(opened)
    }

    /// Where the next bytes of a host's file from an offset on are that are in no hole, as far as the
    /// host knows.
    pub(super) fn host_data(
        &mut self,
        grants: &Grants,
        fd: i32,
        from: u64,
    ) -> Result<Option<Range<u64>>, Errno> {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno as HostErrno;
        let file = self.host_file(grants, fd)?;
        let size = status(&*file)?.size;
        // Where the descriptor stands means nothing: reads say where.
        let start = match seek(&*file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(HostErrno::NXIO) => return Ok(None),
            // Not every file system knows.
            Err(_) => return Ok((from < size).then_some(from..size)),
        };
        let end = seek(&*file, SeekFrom::Hole(start)).unwrap_or(size);
        Ok(Some(start..end.max(start)).filter(|data| !data.is_empty()))
    }

    /// What a descriptor of the host's stands for now: even if its name is gone.
    pub(super) fn host_open_status(
        &mut self,
        grants: &Grants,
        fd: i32,
    ) -> Result<HostStatus, Errno> {
        match &self.get(fd)?.object {
            Object::Host(file) if file.directory || self.get(fd)?.is_path() => {
                self.host_status(grants, &file.place)
            }
            _ => status(self.host_file(grants, fd)?),
        }
    }

    fn read_stream(
        &mut self,
        around: &mut Around<'_>,
        fd: i32,
        into: &mut [u8],
    ) -> Result<usize, Stop> {
        let open = self.get_mut(fd)?;
        let (read, on) = match &mut open.object {
            // Nothing is to be waited for.
            Object::Stream(_) | Object::Pipe { .. } if into.is_empty() => (Some(0), WaitFor::Files),
            Object::Stream(Stream::Input) => {
                (around.grants.read_input(&mut open.offset, into)?, WaitFor::Host(Streams::INPUT))
            }
            Object::Event(event) => (event.read(into)?, WaitFor::Files),
            Object::Pipe { pipe, writes: false } => {
                let pipe = *pipe;
                (self.pipe_mut(pipe)?.read(into), WaitFor::Files)
            }
            Object::Pipe { writes: true, .. } | Object::Stream(_) => {
                return Err(Errno::EBADF.into());
            }
            _ => return Err(Errno::EINVAL.into()),
        };
        match read {
            Some(read) => Ok(read),
            None => Err(wait(self.get(fd)?, on)),
        }
    }

    /// Writes: at an offset, or where the descriptor stands.
    pub(super) fn write(
        &mut self,
        around: &mut Around<'_>,
        fd: i32,
        at: Option<u64>,
        bytes: &[u8],
    ) -> Result<usize, Stop> {
        let open = self.get(fd)?;
        if !open.writes() {
            return Err(Errno::EBADF.into());
        }
        let Object::Memory(ino) = open.object else {
            return match at {
                Some(_) => Err(Errno::ESPIPE.into()),
                None => self.write_stream(around, fd, bytes),
            };
        };
        match self.device(ino)? {
            Some(Device::Full) => return Err(Errno::ENOSPC.into()),
            Some(_) => return Ok(bytes.len()),
            None => {}
        }
        let open = self.get(fd)?;
        let offset = match open.flags & raw::O_APPEND {
            0 => at.unwrap_or(open.offset),
            _ => self.tree.get(ino)?.size(),
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        self.set_buffered(around.limits);
        let done = self.tree.write(ino, offset, bytes, around.now())?;
        if at.is_none() {
            self.get_mut(fd)?.offset = offset.saturating_add(done as u64);
        }
        Ok(done)
    }

    fn write_stream(
        &mut self,
        around: &mut Around<'_>,
        fd: i32,
        bytes: &[u8],
    ) -> Result<usize, Stop> {
        let mut on = WaitFor::Files;
        let written = match &mut self.get_mut(fd)?.object {
            Object::Stream(Stream::Output) => {
                on = WaitFor::Host(Streams::OUTPUT);
                around.grants.forget_readiness();
                around.grants.output.write(bytes)?
            }
            Object::Stream(Stream::Error) => {
                on = WaitFor::Host(Streams::ERROR);
                around.grants.forget_readiness();
                around.grants.error.write(bytes)?
            }
            Object::Event(event) => event.write(bytes)?,
            Object::Pipe { pipe, writes: true } => {
                let pipe = *pipe;
                self.pipe_mut(pipe)?.write(bytes)?
            }
            Object::Pipe { .. } | Object::Stream(_) => return Err(Errno::EBADF.into()),
            _ => return Err(Errno::EINVAL.into()),
        };
        let open = self.get_mut(fd)?;
        open.uses = open.uses.wrapping_add(1);
        match written {
            Some(written) => Ok(written),
            None => Err(wait(self.get(fd)?, on)),
        }
    }

    /// Whether reads and writes go on at once until all is done: no stream or the like.
    pub(super) fn is_file(&self, fd: i32) -> Result<bool, Errno> {
        Ok(matches!(self.get(fd)?.object, Object::Memory(_) | Object::Host(_)))
    }

    pub(super) fn is_pipe(&self, fd: i32) -> Result<bool, Errno> {
        Ok(matches!(self.get(fd)?.object, Object::Pipe { .. }))
    }

    /// Sets where a descriptor stands.
    pub(super) fn seek(
        &mut self,
        grants: &Grants,
        fd: i32,
        offset: i64,
        whence: u32,
    ) -> Result<u64, Errno> {
        let open = self.get(fd)?;
        if open.is_path() {
            return Err(Errno::EBADF);
        }
        let at = open.offset;
        let size = match &open.object {
            Object::Memory(ino) if self.device(*ino)?.is_some() => return Ok(0),
            Object::Memory(ino) => self.tree.get(*ino)?.size(),
            Object::Host(_) => self.host_open_status(grants, fd)?.size,
            _ => return Err(Errno::ESPIPE),
        };
        let place = |from: u64| {
            let to = from.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
            if to > MOST { Err(Errno::EINVAL) } else { Ok(to) }
        };
        let within = u64::try_from(offset).ok().filter(|offset| *offset < size).ok_or(Errno::ENXIO);
        let to = match whence {
            raw::SEEK_SET => place(0)?,
            raw::SEEK_CUR => place(at)?,
            raw::SEEK_END => place(size)?,
            // To the guest, a file has no holes but the one behind its end.
            raw::SEEK_DATA => within?,
            raw::SEEK_HOLE => within.map(|_| size)?,
            _ => return Err(Errno::EINVAL),
        };
        self.get_mut(fd)?.offset = to;
        Ok(to)
    }
}
