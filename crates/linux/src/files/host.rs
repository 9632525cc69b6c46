//! Directories of the host that a guest can read.
//!
//! A path that comes here has been resolved already ([`super::resolve`]): it has no `..`, and no
//! symbolic link in it. The host's kernel is asked for exactly that path, below the granted directory
//! and through no symbolic link (`openat2`; without that, component by component with `O_NOFOLLOW`).
//! So a link that somebody puts there meanwhile leads to an error and never outside: links are only
//! read here, and resolved in the guest's own tree.
//!
//! Only regular files and directories are opened. What a path leads to is looked at through an
//! `O_PATH` descriptor before, so that nothing happens to a FIFO or a device; and after, in case it
//! was swapped, for which `O_NONBLOCK` keeps the open from waiting.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno as HostErrno;

use super::node::{NAME_MAX, Name, Type};
use crate::Errno;

/// Most entries of a directory that are listed.
const MOST_ENTRIES: usize = 1 << 16;
/// Longest target of a symbolic link.
const LINK_MAX: usize = 4095;
/// How often something is opened that is to be tried again.
const ATTEMPTS: u32 = 8;

/// A directory of the host.
#[derive(Debug, Clone)]
pub(super) struct HostDirectory(Arc<OwnedFd>);

/// What a guest may know of a file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostStatus {
    pub(super) kind: Type,
    pub(super) size: u64,
    pub(super) executable: bool,
    /// Last access, modification and change, in nanoseconds since 1970.
    pub(super) times: [u64; 3],
}

impl HostDirectory {
    /// Opens a directory, by a path of the host's.
    pub(super) fn open(path: &Path) -> io::Result<HostDirectory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(HostDirectory(Arc::new(fs::open(path, flags, Mode::empty())?)))
    }

    /// What stands at a path.
    pub(super) fn status(&self, path: &[u8]) -> Result<HostStatus, Errno> {
        let handle = self.at(path, OFlags::PATH).map_err(errno)?;
        status(handle)
    }

    /// The target of a symbolic link.
    pub(super) fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let handle = self.at(path, OFlags::PATH).map_err(errno)?;
        let target = fs::readlinkat(handle, "", Vec::new()).map_err(errno)?.into_bytes();
        if target.len() > LINK_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(target)
    }

    /// Opens a regular file for reading.
    pub(super) fn open_file(&self, path: &[u8]) -> Result<File, Errno> {
        if self.status(path)?.kind != Type::File {
            return Err(Errno::EACCES);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.at(path, flags).map_err(errno)?;
        if status(&file)?.kind != Type::File {
            return Err(Errno::EACCES);
        }
        Ok(File::from(file))
    }

    /// Checks that a directory can be read.
    pub(super) fn check_directory(&self, path: &[u8]) -> Result<(), Errno> {
        self.at(path, OFlags::RDONLY | OFlags::DIRECTORY).map(|_| ()).map_err(errno)
    }

    /// The entries of a directory, without `.` and `..`, in no order.
    pub(super) fn list(&self, path: &[u8]) -> Result<Vec<(Name, Type)>, Errno> {
        let directory = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(errno)?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(directory).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == MOST_ENTRIES {
                return Err(Errno::EOVERFLOW);
            }
            entries.push((Name::from(name), kind(entry.file_type())));
        }
        Ok(entries)
    }

    /// Opens what stands at a path, if no symbolic link stands before it.
    fn at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, HostErrno> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        // A path may come from a snapshot file, and is checked there; but what holds here holds.
        if path[0] == b'/' || path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(HostErrno::ACCESS);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open = || fs::openat2(&self.0, path, flags, Mode::empty(), resolve);
        match patiently(open) {
            // A kernel before 5.6, or a filter that does not know the call.
            Err(HostErrno::NOSYS | HostErrno::PERM) => self.walk(path, flags),
            opened => opened,
        }
    }

    /// The same, one component at a time.
    fn walk(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, HostErrno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut names = path.split(|byte| *byte == b'/');
        let last = names.next_back().unwrap_or(b".");
        let mut directory: Option<OwnedFd> = None;
        for name in names.filter(|name| !name.is_empty()) {
            let from = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            directory = Some(fs::openat(from, name, step, Mode::empty())?);
        }
        let from = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        fs::openat(from, last, flags, Mode::empty())
    }
}

/// Tries to open something until that is neither interrupted nor to be tried again. It is tried again
/// only so often: while another process holds a lease on the file, it would be for ever.
fn patiently<T>(mut open: impl FnMut() -> Result<T, HostErrno>) -> Result<T, HostErrno> {
    let mut left = ATTEMPTS;
    loop {
        match open() {
            Err(HostErrno::INTR) => {}
            Err(HostErrno::AGAIN) if left > 1 => left -= 1,
            opened => return opened,
        }
    }
}

/// What an open file is.
pub(super) fn status(file: impl AsFd) -> Result<HostStatus, Errno> {
    let status = fs::fstat(file).map_err(errno)?;
    Ok(HostStatus {
        kind: kind(FileType::from_raw_mode(status.st_mode)),
        size: u64::try_from(status.st_size).unwrap_or(0),
        executable: status.st_mode & 0o100 != 0,
        times: [
            time(status.st_atime, status.st_atime_nsec),
            time(status.st_mtime, status.st_mtime_nsec),
            time(status.st_ctime, status.st_ctime_nsec),
        ],
    })
}

/// A time in nanoseconds. The type of the second number depends on what stands between this and the kernel.
fn time(seconds: i64, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

fn kind(kind: FileType) -> Type {
    match kind {
        FileType::RegularFile => Type::File,
        FileType::Directory => Type::Directory,
        FileType::Symlink => Type::Link,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        FileType::BlockDevice => Type::BlockDevice,
        FileType::CharacterDevice | FileType::Unknown => Type::Device,
    }
}

fn errno(error: HostErrno) -> Errno {
    Errno::of_io(&error.into())
}

/// Whether a relative path is one that [`super::resolve`] makes: no empty name, no `.` or `..`.
pub(super) fn is_plain(path: &[u8]) -> bool {
    path.is_empty()
        || path.split(|byte| *byte == b'/').all(|name| {
            !name.is_empty()
                && name.len() <= NAME_MAX
                && name != b"."
                && name != b".."
                && !name.contains(&0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_openat2_a_symbolic_link_is_refused_too() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        std::fs::create_dir_all(inner.join("a/b")).unwrap();
        std::fs::write(inner.join("a/b/c"), "c").unwrap();
        std::os::unix::fs::symlink("a", inner.join("link")).unwrap();
        std::os::unix::fs::symlink("..", inner.join("up")).unwrap();
        let directory = HostDirectory::open(&inner).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory.walk(b"a/b/c", flags).unwrap();
        directory.walk(b".", flags).unwrap();
        assert_eq!(directory.walk(b"link/b/c", flags).unwrap_err(), HostErrno::NOTDIR);
        assert_eq!(directory.walk(b"link", flags).unwrap_err(), HostErrno::LOOP);
        assert_eq!(directory.walk(b"up/inner/a/b/c", flags).unwrap_err(), HostErrno::NOTDIR);
        assert_eq!(directory.at(b"link/b/c", flags).unwrap_err(), HostErrno::LOOP);
    }

    #[test]
    fn no_path_leads_up_or_from_the_root() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let directory = HostDirectory::open(folder.path()).unwrap();
        directory.status(b"bin").unwrap();
        for path in ["..", "../etc", "bin/../../etc", "/etc"] {
            assert_eq!(directory.status(path.as_bytes()), Err(Errno::EACCES), "{path}");
            assert!(!is_plain(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_is_to_be_tried_again_for_ever_is_not() {
        let after = |times: u32, error| {
            let mut tries = 0;
            patiently(move || {
                tries += 1;
                if tries > times { Ok(()) } else { Err(error) }
            })
        };
        assert_eq!(after(100, HostErrno::INTR), Ok(()));
        assert_eq!(after(2, HostErrno::AGAIN), Ok(()));
        // As long as another process has a lease on the file.
        assert_eq!(after(1_000_000, HostErrno::AGAIN), Err(HostErrno::AGAIN));
    }
}
