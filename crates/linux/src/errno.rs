//! Error numbers, as Linux has them.

use std::fmt;

use linux_raw_sys::errno as raw;

/// An error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u32);

macro_rules! errors {
    ($($name:ident),* $(,)?) => {
        #[allow(missing_docs, reason = "they are Linux's names")]
        impl Errno {
            $(pub const $name: Errno = Errno(raw::$name);)*
        }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($name)),)*
                    Errno(number) => write!(f, "error {number}"),
                }
            }
        }
    };
}

errors! {
    EPERM, ENOENT, ESRCH, EINTR, EIO, ENXIO, E2BIG, EBADF, ECHILD, EAGAIN, ENOMEM, EACCES, EFAULT,
    EBUSY, EEXIST, EXDEV, ENODEV, ENOTDIR, EISDIR, EINVAL, ENFILE, EMFILE, ENOTTY, EFBIG, ENOSPC,
    ESPIPE, EROFS, EMLINK, EPIPE, ERANGE, EDEADLK, ENAMETOOLONG, ENOSYS, ENOTEMPTY, ELOOP, ENODATA,
    EOVERFLOW, EOPNOTSUPP, EAFNOSUPPORT, ETIMEDOUT, ENOTSOCK,
}

impl Errno {
    /// The error that a failed call returns in RAX.
    pub fn to_register(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// What a failure of the host's own files means to a guest. What it would learn from the host's
    /// less usual errors is an I/O error.
    pub fn of_io(error: &std::io::Error) -> Errno {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::PermissionDenied => Errno::EACCES,
            ErrorKind::NotADirectory => Errno::ENOTDIR,
            ErrorKind::IsADirectory => Errno::EISDIR,
            ErrorKind::BrokenPipe => Errno::EPIPE,
            ErrorKind::WouldBlock => Errno::EAGAIN,
            _ => match error.raw_os_error().and_then(|number| u32::try_from(number).ok()) {
                Some(number @ (raw::ELOOP | raw::EXDEV | raw::ENAMETOOLONG)) => Errno(number),
                _ => Errno::EIO,
            },
        }
    }
}
