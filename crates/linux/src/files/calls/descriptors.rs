//! Descriptors themselves, and what is made without a name.

use linux_raw_sys::general as raw;
use linux_raw_sys::ioctl;

use super::{done, only, split};
use crate::Errno;
use crate::call::{Answer, Call, Stop, int, unsigned};
use crate::files::content::Content;
use crate::files::epoll::Set;
use crate::files::node::{Kind, Node, Pool};
use crate::files::open::{Object, Open, SETTABLE, Stream};
use crate::files::pipe::Event;

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

pub(super) fn close(call: &mut Call<'_>) -> Answer {
    let fd = u32::try_from(int(call.arguments[0])).map_err(|_| Errno::EBADF)?;
    done(call, |files, _| files.close(fd))
}

pub(super) fn close_range(call: &mut Call<'_>) -> Answer {
    let [first, last, flags, ..] = call.arguments;
    let (first, last) = (unsigned(first), unsigned(last));
    only(flags, CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE)?;
    if first > last {
        return Err(Errno::EINVAL.into());
    }
    done(call, |files, _| {
        if unsigned(flags) & CLOSE_RANGE_CLOEXEC != 0 {
            for (_, descriptor) in files.descriptors.range_mut(first..=last) {
                descriptor.close_on_exec = true;
            }
            return Ok(());
        }
        let closed: Vec<u32> = files.descriptors.range(first..=last).map(|(fd, _)| *fd).collect();
        closed.into_iter().try_for_each(|fd| files.close(fd))
    })
}

pub(super) fn dup(call: &mut Call<'_>) -> Answer {
    let fd = int(call.arguments[0]);
    let (files, around) = split(call.process, call.world);
    Ok(files.duplicate(fd, 0, false, around.limits)?.into())
}

pub(super) fn dup2(call: &mut Call<'_>) -> Answer {
    let [from, to, ..] = call.arguments;
    let (files, around) = split(call.process, call.world);
    if from == to {
        files.get(int(from))?;
        return Ok(unsigned(to).into());
    }
    Ok(files.duplicate_to(int(from), int(to), false, around.limits)?.into())
}

pub(super) fn dup3(call: &mut Call<'_>) -> Answer {
    let [from, to, flags, ..] = call.arguments;
    only(flags, raw::O_CLOEXEC)?;
    if int(from) == int(to) {
        return Err(Errno::EINVAL.into());
    }
    let (files, around) = split(call.process, call.world);
    Ok(files.duplicate_to(int(from), int(to), unsigned(flags) != 0, around.limits)?.into())
}

pub(super) fn fcntl(call: &mut Call<'_>) -> Answer {
    let [fd, command, argument, ..] = call.arguments;
    let fd = int(fd);
    let open = call.process.files.get(fd)?;
    let (flags, is_pipe) = (open.flags, matches!(open.object, Object::Pipe { .. }));
    match unsigned(command) {
        command @ (raw::F_DUPFD | raw::F_DUPFD_CLOEXEC) => {
            let least = unsigned(argument);
            let (files, around) = split(call.process, call.world);
            if least >= around.limits.descriptors {
                return Err(Errno::EINVAL.into());
            }
            let on_exec = command == raw::F_DUPFD_CLOEXEC;
            Ok(files.duplicate(fd, least, on_exec, around.limits)?.into())
        }
        raw::F_GETFD => Ok(call.process.files.descriptor(fd)?.close_on_exec.into()),
        raw::F_SETFD => set_close_on_exec(call, fd, argument & u64::from(raw::FD_CLOEXEC) != 0),
        raw::F_GETFL => Ok((flags | raw::O_LARGEFILE).into()),
        raw::F_SETFL => {
            let open = call.process.files.get_mut(fd)?;
            open.flags = flags & !SETTABLE | unsigned(argument) & SETTABLE;
            Ok(0)
        }
        raw::F_GETLK | raw::F_OFD_GETLK => {
            check_lock(call, argument)?;
            call.write(argument, &2_u16.to_le_bytes())?;
            Ok(0)
        }
        raw::F_SETLK | raw::F_SETLKW | raw::F_OFD_SETLK | raw::F_OFD_SETLKW => {
            check_lock(call, argument)?;
            Ok(0)
        }
        raw::F_GETPIPE_SZ | raw::F_SETPIPE_SZ if is_pipe => Ok(crate::files::PIPE),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Checks a `struct flock`. There is but one process, so every lock is free to it.
fn check_lock(call: &mut Call<'_>, address: u64) -> Result<(), Stop> {
    let [kind, _, whence, _, ..] = call.bytes::<32>(address)?;
    match (kind, whence) {
        // To read, to write, free; from the start, the offset, the end.
        (0..=2, 0..=2) => Ok(()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_close_on_exec(call: &mut Call<'_>, fd: i32, on_exec: bool) -> Answer {
    let fd = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
    let descriptor = call.process.files.descriptors.get_mut(&fd).ok_or(Errno::EBADF)?;
    descriptor.close_on_exec = on_exec;
    Ok(0)
}

pub(super) fn flock(call: &mut Call<'_>) -> Answer {
    let [fd, how, ..] = call.arguments;
    call.process.files.get(int(fd))?;
    match unsigned(how) & !raw::LOCK_NB {
        raw::LOCK_SH | raw::LOCK_EX | raw::LOCK_UN => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn ioctl(call: &mut Call<'_>) -> Answer {
    let [fd, request, argument, ..] = call.arguments;
    let fd = int(fd);
    call.process.files.get(fd)?;
    match unsigned(request) {
        ioctl::FIONREAD => {
            let (files, around) = split(call.process, call.world);
            let count = files.available(around.grants, fd)?;
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            call.write(argument, &count.to_le_bytes())?;
            Ok(0)
        }
        ioctl::FIONBIO => {
            let on = call.word32(argument)? != 0;
            let open = call.process.files.get_mut(fd)?;
            open.flags = open.flags & !raw::O_NONBLOCK | if on { raw::O_NONBLOCK } else { 0 };
            Ok(0)
        }
        ioctl::FIOCLEX => set_close_on_exec(call, fd, true),
        ioctl::FIONCLEX => set_close_on_exec(call, fd, false),
        _ => Err(Errno::ENOTTY.into()),
    }
}

impl crate::files::Files {
    /// Bytes that can be read at once.
    fn available(&mut self, grants: &crate::files::Grants, fd: i32) -> Result<u64, Errno> {
        let open = self.get(fd)?;
        let offset = open.offset;
        match &open.object {
            Object::Stream(Stream::Input) => Ok(grants.input_available(offset)),
            Object::Pipe { pipe, writes: false } => Ok(self.pipe(*pipe)?.bytes.len() as u64),
            Object::Memory(ino) if matches!(self.tree.get(*ino)?.kind, Kind::File(_)) => {
                Ok(self.tree.get(*ino)?.size().saturating_sub(offset))
            }
            Object::Host(file) if !file.directory => {
                Ok(self.host_open_status(grants, fd)?.size.saturating_sub(offset))
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

fn make_pipe(call: &mut Call<'_>, to: u64, flags: u64) -> Answer {
    only(flags, raw::O_CLOEXEC | raw::O_NONBLOCK)?;
    let flags = unsigned(flags);
    // Nothing may be made if its descriptors can't be told.
    call.process.space.pieces(call.hardware, to, 8, true)?;
    let (files, around) = split(call.process, call.world);
    let kept = flags & raw::O_NONBLOCK;
    let ends = files.make_pipe(&around, kept, flags & raw::O_CLOEXEC != 0)?;
    let told = call.write(to, ends.map(u32::to_le_bytes).as_flattened());
    if let Err(error) = told {
        for fd in ends {
            call.process.files.close(fd)?;
        }
        return Err(error);
    }
    Ok(0)
}

pub(super) fn pipe(call: &mut Call<'_>) -> Answer {
    make_pipe(call, call.arguments[0], 0)
}

pub(super) fn pipe2(call: &mut Call<'_>) -> Answer {
    let [to, flags, ..] = call.arguments;
    make_pipe(call, to, flags)
}

fn install(call: &mut Call<'_>, object: Object, flags: u32, on_exec: bool) -> Answer {
    let (files, around) = split(call.process, call.world);
    let open = Open::new(object, raw::O_RDWR | flags);
    Ok(files.install(open, on_exec, 0, around.limits)?.into())
}

pub(super) fn eventfd(call: &mut Call<'_>) -> Answer {
    let count = unsigned(call.arguments[0]).into();
    install(call, Object::Event(Event { count, semaphore: false, uses: 0 }), 0, false)
}

pub(super) fn eventfd2(call: &mut Call<'_>) -> Answer {
    let [count, flags, ..] = call.arguments;
    only(flags, raw::EFD_SEMAPHORE | raw::EFD_NONBLOCK | raw::EFD_CLOEXEC)?;
    let flags = unsigned(flags);
    let semaphore = flags & raw::EFD_SEMAPHORE != 0;
    let event = Event { count: unsigned(count).into(), semaphore, uses: 0 };
    let on_exec = flags & raw::EFD_CLOEXEC != 0;
    install(call, Object::Event(event), flags & raw::EFD_NONBLOCK, on_exec)
}

pub(super) fn memfd_create(call: &mut Call<'_>) -> Answer {
    let [name, flags, ..] = call.arguments;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    only(flags, raw::MFD_CLOEXEC | raw::MFD_ALLOW_SEALING | NOEXEC_SEAL | EXEC)?;
    call.path(name)?;
    let (files, mut around) = split(call.process, call.world);
    files.free_descriptor(0, around.limits)?;
    files.set_buffered(around.limits);
    let mut node = Node::new(Kind::File(Content::new()), Pool::Anonymous, 0o777, around.now());
    node.links = 0;
    let ino = files.tree.add(node)?;
    install(call, Object::Memory(ino), 0, unsigned(flags) & raw::MFD_CLOEXEC != 0)
}

pub(super) fn epoll_create(call: &mut Call<'_>) -> Answer {
    if int(call.arguments[0]) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    install(call, Object::Epoll(Set::default()), 0, false)
}

pub(super) fn epoll_create1(call: &mut Call<'_>) -> Answer {
    let flags = call.arguments[0];
    only(flags, raw::EPOLL_CLOEXEC)?;
    install(call, Object::Epoll(Set::default()), 0, unsigned(flags) != 0)
}

pub(super) fn socket(_: &mut Call<'_>) -> Answer {
    Err(Errno::EAFNOSUPPORT.into())
}
