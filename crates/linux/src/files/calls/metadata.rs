//! What is known of files, and set.

use linux_raw_sys::general as raw;

use super::{done, here, offset, only, split};
use crate::Errno;
use crate::call::{Answer, Call, Stop, int, unsigned};
use crate::files::node::Type;
use crate::files::open::{Object, numbered};
use crate::files::resolve::Place;
use crate::files::status::Status;

const SECOND: u64 = 1_000_000_000;

/// The status of a path, or of a descriptor if the path is empty and that is allowed.
fn status_at(call: &mut Call<'_>, directory: u64, path: u64, flags: u64) -> Result<Status, Stop> {
    let flags = unsigned(flags);
    let empty = flags & raw::AT_EMPTY_PATH != 0;
    let path = if empty && path == 0 { Vec::new() } else { call.path(path)? };
    let (files, around) = split(call.process, call.world);
    if path.is_empty() && empty {
        return Ok(match int(directory) == raw::AT_FDCWD {
            true => files.status(&around, &files.current)?,
            false => files.open_status(&around, int(directory))?,
        });
    }
    let follow = flags & raw::AT_SYMLINK_NOFOLLOW == 0;
    if let Some(fd) = numbered(&path) {
        return Ok(files.open_status(&around, fd).map_err(|_| Errno::ENOENT)?);
    }
    let (place, _) = files.find_existing(&around, directory, &path, follow)?;
    match files.leads_to_descriptor(&place) {
        Some(fd) if follow => Ok(files.open_status(&around, fd).map_err(|_| Errno::ENOENT)?),
        _ => Ok(files.status(&around, &place)?),
    }
}

pub(super) fn stat(call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.arguments;
    let status = status_at(call, here(), path, 0)?;
    call.write(to, &status.to_stat())?;
    Ok(0)
}

pub(super) fn lstat(call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.arguments;
    let status = status_at(call, here(), path, raw::AT_SYMLINK_NOFOLLOW.into())?;
    call.write(to, &status.to_stat())?;
    Ok(0)
}

pub(super) fn fstat(call: &mut Call<'_>) -> Answer {
    let [fd, to, ..] = call.arguments;
    let (files, around) = split(call.process, call.world);
    let status = files.open_status(&around, int(fd))?;
    call.write(to, &status.to_stat())?;
    Ok(0)
}

pub(super) fn newfstatat(call: &mut Call<'_>) -> Answer {
    let [directory, path, to, flags, ..] = call.arguments;
    only(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_NO_AUTOMOUNT | raw::AT_EMPTY_PATH)?;
    let status = status_at(call, directory, path, flags)?;
    call.write(to, &status.to_stat())?;
    Ok(0)
}

pub(super) fn statx(call: &mut Call<'_>) -> Answer {
    let [directory, path, flags, _, to, _] = call.arguments;
    let known = raw::AT_SYMLINK_NOFOLLOW
        | raw::AT_NO_AUTOMOUNT
        | raw::AT_EMPTY_PATH
        | raw::AT_STATX_SYNC_TYPE;
    only(flags, known)?;
    let status = status_at(call, directory, path, flags)?;
    call.write(to, &status.to_statx())?;
    Ok(0)
}

pub(super) fn statfs(call: &mut Call<'_>) -> Answer {
    let [path, to, ..] = call.arguments;
    let path = call.path(path)?;
    let (files, around) = split(call.process, call.world);
    let (place, _) = files.find_existing(&around, here(), &path, true)?;
    let status = files.file_system(Some(&place));
    call.write(to, &status)?;
    Ok(0)
}

pub(super) fn fstatfs(call: &mut Call<'_>) -> Answer {
    let [fd, to, ..] = call.arguments;
    call.process.files.get(int(fd))?;
    let place = call.process.files.place(int(fd)).ok();
    let status = call.process.files.file_system(place.as_ref());
    call.write(to, &status)?;
    Ok(0)
}

fn access_at(call: &mut Call<'_>, directory: u64, path: u64, mode: u64, flags: u32) -> Answer {
    if unsigned(mode) & !(raw::R_OK | raw::W_OK | raw::X_OK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = call.path(path)?;
    if let Some(fd) = numbered(&path) {
        return call.process.files.get(fd).map(|_| 0).map_err(|_| Errno::ENOENT.into());
    }
    done(call, |files, around| {
        let found = match path.is_empty() && flags & raw::AT_EMPTY_PATH != 0 {
            true => {
                let place = files.place(int(directory))?;
                let status = files.status(around, &place)?;
                let is_directory = status.mode & raw::S_IFMT == raw::S_IFDIR;
                (place, if is_directory { Type::Directory } else { Type::File })
            }
            false => {
                let follow = flags & raw::AT_SYMLINK_NOFOLLOW == 0;
                files.find_existing(around, directory, &path, follow)?
            }
        };
        files.check_access(around, &found, unsigned(mode))
    })
}

pub(super) fn access(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.arguments;
    access_at(call, here(), path, mode, 0)
}

pub(super) fn faccessat(call: &mut Call<'_>) -> Answer {
    let [directory, path, mode, ..] = call.arguments;
    access_at(call, directory, path, mode, 0)
}

pub(super) fn faccessat2(call: &mut Call<'_>) -> Answer {
    let [directory, path, mode, flags, ..] = call.arguments;
    only(flags, raw::AT_EACCESS | raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    access_at(call, directory, path, mode, unsigned(flags))
}

pub(super) fn truncate(call: &mut Call<'_>) -> Answer {
    let [path, size, ..] = call.arguments;
    let size = offset(size)?;
    let path = call.path(path)?;
    done(call, |files, around| {
        let (place, kind) = files.find_existing(around, here(), &path, true)?;
        match kind {
            Type::File => files.set_size(around, &place, size),
            Type::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    })
}

pub(super) fn ftruncate(call: &mut Call<'_>) -> Answer {
    let [fd, size, ..] = call.arguments;
    let size = offset(size)?;
    done(call, |files, around| {
        let open = files.get(int(fd))?;
        if open.is_path() {
            return Err(Errno::EBADF);
        }
        let place = files.place(int(fd))?;
        if !open.writes() {
            return Err(Errno::EINVAL);
        }
        files.set_size(around, &place, size)
    })
}

pub(super) fn fallocate(call: &mut Call<'_>) -> Answer {
    let [fd, mode, at, length, ..] = call.arguments;
    let mode = unsigned(mode);
    let (at, length) = (offset(at)?, offset(length)?);
    if length == 0 {
        return Err(Errno::EINVAL.into());
    }
    let punch = raw::FALLOC_FL_PUNCH_HOLE | raw::FALLOC_FL_KEEP_SIZE;
    if mode != 0 && mode != raw::FALLOC_FL_KEEP_SIZE && mode != punch {
        return Err(Errno::EOPNOTSUPP.into());
    }
    done(call, |files, around| {
        let open = files.get(int(fd))?;
        if !open.writes() {
            return Err(Errno::EBADF);
        }
        match open.object {
            Object::Memory(ino) => files.allocate(around, ino, mode, at, length),
            _ => Err(Errno::ESPIPE),
        }
    })
}

/// Does something with a path; or with a descriptor, if no path is given.
fn with_place(
    call: &mut Call<'_>,
    directory: u64,
    path: u64,
    flags: u32,
    work: impl FnOnce(&mut crate::files::Files, &Place, u64) -> Result<(), Errno>,
) -> Answer {
    let path = call.path(path)?;
    done(call, |files, around| {
        let place = match path.is_empty() && flags & raw::AT_EMPTY_PATH != 0 {
            true if int(directory) == raw::AT_FDCWD => files.current.clone(),
            true => files.place(int(directory))?,
            false => {
                let follow = flags & raw::AT_SYMLINK_NOFOLLOW == 0;
                files.find_existing(around, directory, &path, follow)?.0
            }
        };
        let now = around.now();
        work(files, &place, now)
    })
}

/// Does something with what a descriptor stands for, if it stands in the tree.
fn with_open(
    call: &mut Call<'_>,
    fd: u64,
    work: impl FnOnce(&mut crate::files::Files, &Place, u64) -> Result<(), Errno>,
) -> Answer {
    done(call, |files, around| {
        if files.get(int(fd))?.is_path() {
            return Err(Errno::EBADF);
        }
        match files.place(int(fd)) {
            Ok(place) => {
                let now = around.now();
                work(files, &place, now)
            }
            // Streams and the like take whatever is set.
            Err(_) => Ok(()),
        }
    })
}

pub(super) fn chmod(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.arguments;
    with_place(call, here(), path, 0, |files, place, now| {
        files.set_mode(place, unsigned(mode), now)
    })
}

pub(super) fn fchmod(call: &mut Call<'_>) -> Answer {
    let [fd, mode, ..] = call.arguments;
    with_open(call, fd, |files, place, now| files.set_mode(place, unsigned(mode), now))
}

pub(super) fn fchmodat(call: &mut Call<'_>) -> Answer {
    let [directory, path, mode, ..] = call.arguments;
    with_place(call, directory, path, 0, |files, place, now| {
        files.set_mode(place, unsigned(mode), now)
    })
}

pub(super) fn fchmodat2(call: &mut Call<'_>) -> Answer {
    let [directory, path, mode, flags, ..] = call.arguments;
    only(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    with_place(call, directory, path, unsigned(flags), |files, place, now| {
        files.set_mode(place, unsigned(mode), now)
    })
}

pub(super) fn chown(call: &mut Call<'_>) -> Answer {
    change_owner(call, 0)
}

pub(super) fn lchown(call: &mut Call<'_>) -> Answer {
    change_owner(call, raw::AT_SYMLINK_NOFOLLOW)
}

fn change_owner(call: &mut Call<'_>, flags: u32) -> Answer {
    with_place(call, here(), call.arguments[0], flags, |files, place, _| {
        files.changeable(place).map(|_| ())
    })
}

pub(super) fn fchown(call: &mut Call<'_>) -> Answer {
    with_open(call, call.arguments[0], |files, place, _| files.changeable(place).map(|_| ()))
}

pub(super) fn fchownat(call: &mut Call<'_>) -> Answer {
    let [directory, path, _, _, flags, _] = call.arguments;
    only(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    with_place(call, directory, path, unsigned(flags), |files, place, _| {
        files.changeable(place).map(|_| ())
    })
}

/// A time in nanoseconds; before 1970 there is none.
fn time(seconds: u64, nanoseconds: u64) -> u64 {
    let seconds = i64::from_le_bytes(seconds.to_le_bytes());
    u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND).saturating_add(nanoseconds)
}

pub(super) fn utime(call: &mut Call<'_>) -> Answer {
    let [path, times, ..] = call.arguments;
    let times = match times {
        0 => None,
        address => Some(call.words::<2>(address)?.map(|seconds| Some(time(seconds, 0)))),
    };
    with_place(call, here(), path, 0, |files, place, now| {
        files.set_times(place, times.unwrap_or([Some(now); 2]), now)
    })
}

pub(super) fn utimes(call: &mut Call<'_>) -> Answer {
    let [path, times, ..] = call.arguments;
    let times = match times {
        0 => None,
        address => {
            let [accessed, micros, modified, more_micros] = call.words(address)?;
            if micros >= 1_000_000 || more_micros >= 1_000_000 {
                return Err(Errno::EINVAL.into());
            }
            let accessed = time(accessed, micros * 1000);
            Some([Some(accessed), Some(time(modified, more_micros * 1000))])
        }
    };
    with_place(call, here(), path, 0, |files, place, now| {
        files.set_times(place, times.unwrap_or([Some(now); 2]), now)
    })
}

/// One of the times of `utimensat`.
#[derive(Clone, Copy)]
enum Set {
    Now,
    Omit,
    To(u64),
}

impl Set {
    fn new(seconds: u64, nanoseconds: u64) -> Result<Set, Errno> {
        match nanoseconds {
            now if now == u64::from(raw::UTIME_NOW) => Ok(Set::Now),
            omit if omit == u64::from(raw::UTIME_OMIT) => Ok(Set::Omit),
            SECOND.. => Err(Errno::EINVAL),
            nanoseconds => Ok(Set::To(time(seconds, nanoseconds))),
        }
    }

    fn at(self, now: u64) -> Option<u64> {
        match self {
            Set::Now => Some(now),
            Set::Omit => None,
            Set::To(time) => Some(time),
        }
    }
}

pub(super) fn utimensat(call: &mut Call<'_>) -> Answer {
    let [directory, path, times, flags, ..] = call.arguments;
    only(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    let times = match times {
        0 => [Set::Now; 2],
        address => {
            let [accessed, accessed_rest, modified, modified_rest] = call.words(address)?;
            [Set::new(accessed, accessed_rest)?, Set::new(modified, modified_rest)?]
        }
    };
    let set = |files: &mut crate::files::Files, place: &Place, now| {
        files.set_times(place, times.map(|time| time.at(now)), now)
    };
    match path {
        0 => with_open(call, directory, set),
        path => with_place(call, directory, path, unsigned(flags), set),
    }
}

pub(super) fn umask(call: &mut Call<'_>) -> Answer {
    let mask = unsigned(call.arguments[0]) & 0o777;
    Ok(std::mem::replace(&mut call.process.files.umask, mask).into())
}

pub(super) fn fsync(call: &mut Call<'_>) -> Answer {
    match call.process.files.is_file(int(call.arguments[0]))? {
        true => Ok(0),
        false => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn sync(_: &mut Call<'_>) -> Answer {
    Ok(0)
}

pub(super) fn advise(call: &mut Call<'_>) -> Answer {
    match call.process.files.is_file(int(call.arguments[0]))? {
        true => Ok(0),
        false => Err(Errno::ESPIPE.into()),
    }
}
