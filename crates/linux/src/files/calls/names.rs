//! Opening by name, and changes to directories.

use linux_raw_sys::general as raw;

use super::{done, here, only, split};
use crate::Errno;
use crate::call::{Answer, Call, int, unsigned};
use crate::files::node::Type;
use crate::files::resolve::Place;
use crate::files::tree::Rename;

fn open_at(call: &mut Call<'_>, directory: u64, path: u64, flags: u64, mode: u64) -> Answer {
    let path = call.path(path)?;
    let (files, mut around) = split(call.process, call.world);
    let base = files.base(directory, &path)?;
    Ok(files.open(&mut around, &base, &path, unsigned(flags), unsigned(mode))?.into())
}

pub(super) fn open(call: &mut Call<'_>) -> Answer {
    let [path, flags, mode, ..] = call.arguments;
    open_at(call, here(), path, flags, mode)
}

pub(super) fn openat(call: &mut Call<'_>) -> Answer {
    let [directory, path, flags, mode, ..] = call.arguments;
    open_at(call, directory, path, flags, mode)
}

pub(super) fn creat(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.arguments;
    let flags = raw::O_CREAT | raw::O_WRONLY | raw::O_TRUNC;
    open_at(call, here(), path, flags.into(), mode)
}

fn make_directory(call: &mut Call<'_>, directory: u64, path: u64, mode: u64) -> Answer {
    let path = call.path(path)?;
    done(call, |files, around| {
        let base = files.base(directory, &path)?;
        files.make_directory(around, &base, &path, unsigned(mode))
    })
}

pub(super) fn mkdir(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.arguments;
    make_directory(call, here(), path, mode)
}

pub(super) fn mkdirat(call: &mut Call<'_>) -> Answer {
    let [directory, path, mode, ..] = call.arguments;
    make_directory(call, directory, path, mode)
}

fn remove(call: &mut Call<'_>, directory: u64, path: u64, is_directory: bool) -> Answer {
    let path = call.path(path)?;
    done(call, |files, around| {
        let base = files.base(directory, &path)?;
        files.remove(around, &base, &path, is_directory)
    })
}

pub(super) fn rmdir(call: &mut Call<'_>) -> Answer {
    remove(call, here(), call.arguments[0], true)
}

pub(super) fn unlink(call: &mut Call<'_>) -> Answer {
    remove(call, here(), call.arguments[0], false)
}

pub(super) fn unlinkat(call: &mut Call<'_>) -> Answer {
    let [directory, path, flags, ..] = call.arguments;
    only(flags, raw::AT_REMOVEDIR)?;
    remove(call, directory, path, unsigned(flags) != 0)
}

fn move_name(call: &mut Call<'_>, from: (u64, u64), to: (u64, u64), how: Rename) -> Answer {
    let (from_path, to_path) = (call.path(from.1)?, call.path(to.1)?);
    done(call, |files, around| {
        let from_base = files.base(from.0, &from_path)?;
        let to_base = files.base(to.0, &to_path)?;
        files.rename(around, (&from_base, &from_path), (&to_base, &to_path), how)
    })
}

pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let [from, to, ..] = call.arguments;
    move_name(call, (here(), from), (here(), to), Rename::Replace)
}

pub(super) fn renameat(call: &mut Call<'_>) -> Answer {
    let [from, from_path, to, to_path, ..] = call.arguments;
    move_name(call, (from, from_path), (to, to_path), Rename::Replace)
}

pub(super) fn renameat2(call: &mut Call<'_>) -> Answer {
    let [from, from_path, to, to_path, flags, _] = call.arguments;
    let how = match unsigned(flags) {
        0 => Rename::Replace,
        raw::RENAME_NOREPLACE => Rename::NoReplace,
        raw::RENAME_EXCHANGE => Rename::Exchange,
        _ => return Err(Errno::EINVAL.into()),
    };
    move_name(call, (from, from_path), (to, to_path), how)
}

fn hard_link(call: &mut Call<'_>, from: (u64, u64), to: (u64, u64), follow: bool) -> Answer {
    let (from_path, to_path) = (call.path(from.1)?, call.path(to.1)?);
    done(call, |files, around| {
        let found = files.find_existing(around, from.0, &from_path, follow)?;
        let base = files.base(to.0, &to_path)?;
        files.make_hard_link(around, found, &base, &to_path)
    })
}

pub(super) fn link(call: &mut Call<'_>) -> Answer {
    let [from, to, ..] = call.arguments;
    hard_link(call, (here(), from), (here(), to), false)
}

pub(super) fn linkat(call: &mut Call<'_>) -> Answer {
    let [from, from_path, to, to_path, flags, _] = call.arguments;
    only(flags, raw::AT_SYMLINK_FOLLOW)?;
    hard_link(call, (from, from_path), (to, to_path), unsigned(flags) != 0)
}

fn symbolic_link(call: &mut Call<'_>, to: u64, directory: u64, path: u64) -> Answer {
    let (to, path) = (call.path(to)?, call.path(path)?);
    done(call, |files, around| {
        let base = files.base(directory, &path)?;
        files.make_link(around, &to, &base, &path)
    })
}

pub(super) fn symlink(call: &mut Call<'_>) -> Answer {
    let [to, path, ..] = call.arguments;
    symbolic_link(call, to, here(), path)
}

pub(super) fn symlinkat(call: &mut Call<'_>) -> Answer {
    let [to, directory, path, ..] = call.arguments;
    symbolic_link(call, to, directory, path)
}

pub(super) fn mknod(_: &mut Call<'_>) -> Answer {
    Err(Errno::EPERM.into())
}

fn link_target(call: &mut Call<'_>, directory: u64, path: u64, to: u64, size: u64) -> Answer {
    if int(size) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = call.path(path)?;
    let (files, around) = split(call.process, call.world);
    let place = match path.is_empty() {
        true => files.place(int(directory)).map_err(|_| Errno::ENOENT)?,
        false => files.find_existing(&around, directory, &path, false)?.0,
    };
    let target = files.read_link(around.grants, &place)?;
    let length = usize::try_from(size).map_or(target.len(), |size| size.min(target.len()));
    call.write(to, &target[..length])?;
    Ok(length as u64)
}

pub(super) fn readlink(call: &mut Call<'_>) -> Answer {
    let [path, to, size, ..] = call.arguments;
    link_target(call, here(), path, to, size)
}

pub(super) fn readlinkat(call: &mut Call<'_>) -> Answer {
    let [directory, path, to, size, ..] = call.arguments;
    link_target(call, directory, path, to, size)
}

pub(super) fn getcwd(call: &mut Call<'_>) -> Answer {
    let [to, size, ..] = call.arguments;
    let files = &call.process.files;
    let mut path = files.path_of(&files.current)?;
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::ERANGE.into());
    }
    call.write(to, &path)?;
    Ok(path.len() as u64)
}

pub(super) fn chdir(call: &mut Call<'_>) -> Answer {
    let path = call.path(call.arguments[0])?;
    done(call, |files, around| match files.find_existing(around, here(), &path, true)? {
        (place, Type::Directory) => {
            files.go_to(place);
            Ok(())
        }
        _ => Err(Errno::ENOTDIR),
    })
}

pub(super) fn fchdir(call: &mut Call<'_>) -> Answer {
    let fd = call.arguments[0];
    done(call, |files, _| {
        // The process's own directory is no descriptor.
        files.get(int(fd))?;
        let place = files.base(fd, b"")?;
        files.go_to(place);
        Ok(())
    })
}

impl crate::files::Files {
    fn go_to(&mut self, place: Place) {
        if let Place::Memory(before) = std::mem::replace(&mut self.current, place) {
            self.drop_unused(before);
        }
    }
}

pub(super) fn getdents64(call: &mut Call<'_>) -> Answer {
    let [fd, to, size, ..] = call.arguments;
    let size = usize::try_from(unsigned(size)).unwrap_or(usize::MAX);
    let (files, around) = split(call.process, call.world);
    let (bytes, goes_on) = files.list(&around, int(fd), size)?;
    call.write(to, &bytes)?;
    call.process.files.get_mut(int(fd))?.offset = goes_on;
    Ok(bytes.len() as u64)
}
