//! The system calls on files: their table, and what they have in common.

use linux_raw_sys::general as raw;

use super::node::Type;
use super::open::Object;
use super::resolve::{Place, Target};
use super::{Around, Files};
use crate::call::{Answer, Call, Stop, int};
use crate::table::{Entry, entries};
use crate::{Errno, Process, World};

mod descriptors;
mod io;
mod metadata;
mod names;
mod waiting;

pub(crate) const CALLS: &[Entry] = entries! {
    read __NR_read io::read: "at most 64 MiB of a file, 256 KiB of anything else";
    write __NR_write io::write: "at most 64 MiB to a file, 2 MiB to a stream";
    readv __NR_readv io::readv: "as `read`";
    writev __NR_writev io::writev: "as `write`";
    pread64 __NR_pread64 io::pread64: "";
    pwrite64 __NR_pwrite64 io::pwrite64: "";
    preadv __NR_preadv io::preadv: "";
    pwritev __NR_pwritev io::pwritev: "";
    preadv2 __NR_preadv2 io::preadv2: "no flags but those that change nothing here";
    pwritev2 __NR_pwritev2 io::pwritev2: "no flags but those that change nothing here";
    lseek __NR_lseek io::lseek: "files have no holes to be found";
    sendfile __NR_sendfile io::sendfile: "";
    copy_file_range __NR_copy_file_range io::copy_file_range: "";
    open __NR_open names::open: "permissions keep nobody out; what can't be changed is EROFS; no O_TMPFILE";
    openat __NR_openat names::openat: "as `open`";
    creat __NR_creat names::creat: "";
    mkdir __NR_mkdir names::mkdir: "in the scratch directory, at most 2048 deep (`ENAMETOOLONG`); EROFS elsewhere";
    mkdirat __NR_mkdirat names::mkdirat: "as `mkdir`";
    rmdir __NR_rmdir names::rmdir: "as `mkdir`";
    unlink __NR_unlink names::unlink: "as `mkdir`";
    unlinkat __NR_unlinkat names::unlinkat: "as `mkdir`";
    rename __NR_rename names::rename: "as `mkdir`";
    renameat __NR_renameat names::renameat: "as `mkdir`";
    renameat2 __NR_renameat2 names::renameat2: "as `mkdir`; no RENAME_WHITEOUT";
    link __NR_link names::link: "as `mkdir`";
    linkat __NR_linkat names::linkat: "as `mkdir`; no AT_EMPTY_PATH";
    symlink __NR_symlink names::symlink: "as `mkdir`";
    symlinkat __NR_symlinkat names::symlinkat: "as `mkdir`";
    mknod __NR_mknod names::mknod: "EPERM";
    mknodat __NR_mknodat names::mknod: "EPERM";
    readlink __NR_readlink names::readlink: "";
    readlinkat __NR_readlinkat names::readlinkat: "";
    getcwd __NR_getcwd names::getcwd: "";
    chdir __NR_chdir names::chdir: "";
    fchdir __NR_fchdir names::fchdir: "";
    getdents64 __NR_getdents64 names::getdents64: "at most 65,536 entries of a host's directory";
    stat __NR_stat metadata::stat: "one owner, made-up device and inode numbers";
    lstat __NR_lstat metadata::lstat: "as `stat`";
    fstat __NR_fstat metadata::fstat: "as `stat`; streams are pipes";
    newfstatat __NR_newfstatat metadata::newfstatat: "as `stat`";
    statx __NR_statx metadata::statx: "as `stat`; the basic fields";
    statfs __NR_statfs metadata::statfs: "a tmpfs; its size is the scratch directory's limit";
    fstatfs __NR_fstatfs metadata::fstatfs: "as `statfs`";
    access __NR_access metadata::access: "";
    faccessat __NR_faccessat metadata::faccessat: "";
    faccessat2 __NR_faccessat2 metadata::faccessat2: "";
    truncate __NR_truncate metadata::truncate: "";
    ftruncate __NR_ftruncate metadata::ftruncate: "";
    fallocate __NR_fallocate metadata::fallocate: "sets nothing aside; KEEP_SIZE and PUNCH_HOLE, no other modes";
    chmod __NR_chmod metadata::chmod: "remembered, and keeps nobody out";
    fchmod __NR_fchmod metadata::fchmod: "as `chmod`";
    fchmodat __NR_fchmodat metadata::fchmodat: "as `chmod`";
    fchmodat2 __NR_fchmodat2 metadata::fchmodat2: "as `chmod`";
    chown __NR_chown metadata::chown: "accepted where files can be changed, and without effect";
    lchown __NR_lchown metadata::lchown: "as `chown`";
    fchown __NR_fchown metadata::fchown: "as `chown`";
    fchownat __NR_fchownat metadata::fchownat: "as `chown`";
    utime __NR_utime metadata::utime: "";
    utimes __NR_utimes metadata::utimes: "";
    utimensat __NR_utimensat metadata::utimensat: "";
    umask __NR_umask metadata::umask: "";
    fsync __NR_fsync metadata::fsync: "files are in memory: nothing to do";
    fdatasync __NR_fdatasync metadata::fsync: "as `fsync`";
    sync_file_range __NR_sync_file_range metadata::fsync: "as `fsync`";
    syncfs __NR_syncfs metadata::fsync: "as `fsync`";
    sync __NR_sync metadata::sync: "as `fsync`";
    fadvise64 __NR_fadvise64 metadata::advise: "accepted, and without effect";
    readahead __NR_readahead metadata::advise: "as `fadvise64`";
    close __NR_close descriptors::close: "";
    close_range __NR_close_range descriptors::close_range: "";
    dup __NR_dup descriptors::dup: "";
    dup2 __NR_dup2 descriptors::dup2: "";
    dup3 __NR_dup3 descriptors::dup3: "";
    fcntl __NR_fcntl descriptors::fcntl: "descriptors, flags, and locks, which are always free; no leases, seals, owners";
    flock __NR_flock descriptors::flock: "the lock is always free";
    ioctl __NR_ioctl descriptors::ioctl: "FIONREAD, FIONBIO, FIOCLEX, FIONCLEX; nothing is a terminal";
    pipe __NR_pipe descriptors::pipe: "64 KiB each";
    pipe2 __NR_pipe2 descriptors::pipe2: "as `pipe`; no O_DIRECT";
    eventfd __NR_eventfd descriptors::eventfd: "";
    eventfd2 __NR_eventfd2 descriptors::eventfd2: "";
    memfd_create __NR_memfd_create descriptors::memfd_create: "counts with pipes; no seals";
    epoll_create __NR_epoll_create descriptors::epoll_create: "";
    epoll_create1 __NR_epoll_create1 descriptors::epoll_create1: "";
    epoll_ctl __NR_epoll_ctl waiting::epoll_ctl: "no sets in sets";
    epoll_wait __NR_epoll_wait waiting::epoll_wait: "";
    epoll_pwait __NR_epoll_pwait waiting::epoll_pwait: "";
    epoll_pwait2 __NR_epoll_pwait2 waiting::epoll_pwait2: "";
    poll __NR_poll waiting::poll: "";
    ppoll __NR_ppoll waiting::ppoll: "the time left is not given back";
    select __NR_select waiting::select: "the time left is not given back";
    pselect6 __NR_pselect6 waiting::pselect6: "as `ppoll`";
    socket __NR_socket descriptors::socket: "EAFNOSUPPORT";
    socketpair __NR_socketpair descriptors::socket: "EAFNOSUPPORT";
};

/// A process's files, and what they need.
fn split<'a>(process: &'a mut Process, world: &'a mut World) -> (&'a mut Files, Around<'a>) {
    let around = Around {
        grants: &mut world.files,
        random: &mut process.random,
        limits: &process.limits,
        clocks: &mut process.clock,
        clock: world.clock,
    };
    (&mut process.files, around)
}

/// Does something with the files that gives no number.
fn done(
    call: &mut Call<'_>,
    work: impl FnOnce(&mut Files, &mut Around<'_>) -> Result<(), Errno>,
) -> Answer {
    let (files, mut around) = split(call.process, call.world);
    work(files, &mut around)?;
    Ok(0)
}

impl Files {
    /// The directory that a path starts from.
    fn base(&self, directory: u64, path: &[u8]) -> Result<Place, Errno> {
        if path.first() == Some(&b'/') || int(directory) == raw::AT_FDCWD {
            return Ok(self.current.clone());
        }
        match &self.get(int(directory))?.object {
            Object::Memory(ino) => self.tree.directory(*ino).map(|_| Place::Memory(*ino)),
            Object::Host(file) if file.directory => Ok(Place::Host(file.place.clone())),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Something in the tree that a descriptor stands for.
    fn place(&self, fd: i32) -> Result<Place, Errno> {
        match &self.get(fd)?.object {
            Object::Memory(ino) => Ok(Place::Memory(*ino)),
            Object::Host(file) => Ok(Place::Host(file.place.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn find(
        &self,
        around: &Around<'_>,
        directory: u64,
        path: &[u8],
        follow: bool,
    ) -> Result<Target, Errno> {
        let base = self.base(directory, path)?;
        self.resolve(around.grants, &base, path, follow)
    }

    fn find_existing(
        &self,
        around: &Around<'_>,
        directory: u64,
        path: &[u8],
        follow: bool,
    ) -> Result<(Place, Type), Errno> {
        self.find(around, directory, path, follow)?.existing()
    }
}

/// Where the process stands, for calls that are given no directory.
fn here() -> u64 {
    crate::call::signed(i64::from(raw::AT_FDCWD))
}

/// Fails if a flag is set that is not among these.
fn only(flags: u64, known: u32) -> Result<(), Stop> {
    match u32::try_from(flags & 0xffff_ffff) {
        Ok(flags) if flags & !known == 0 => Ok(()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// An offset or a size that must not be negative.
fn offset(argument: u64) -> Result<u64, Errno> {
    if argument > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(argument) }
}
