//! A guest program, read and checked.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glowbox_core::elf::Program;
use glowbox_core::signature::Signature;

use crate::{Error, ErrorKind};

/// Largest file that is read.
const MAX_FILE: u64 = 512 << 20;

/// A guest program: its file, read and checked once, for any number of sandboxes.
///
/// Cloning is cheap.
///
/// ```no_run
/// use glowbox::{Guest, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let guest = Guest::from_file("greeter.elf")?;
/// for (name, signature) in guest.functions() {
///     println!("{name}{signature}");
/// }
/// let sandbox = Sandbox::builder().build(&guest)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Guest {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    program: Program,
}

impl Guest {
    /// Reads a guest's file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if it can't be read, [`ErrorKind::InvalidGuest`] if it is not a guest; the
    /// text names the file and the field at fault.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Guest, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let failed = |source| {
            Error::with_source(ErrorKind::Io, format!("guest file `{name}` can't be read"), source)
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            let text = format!("guest file `{name}` is larger than {} MiB", MAX_FILE >> 20);
            return Err(Error::new(ErrorKind::InvalidGuest, text));
        }
        Guest::named(name, bytes.into())
    }

    /// Checks a guest that is in memory already. `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidGuest`]; the text names the field at fault.
    pub fn from_bytes(name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Guest, Error> {
        Guest::named(name.to_string(), bytes.into())
    }

    fn named(name: String, bytes: Arc<[u8]>) -> Result<Guest, Error> {
        let program = Program::parse(bytes).map_err(|error| {
            let text = format!("`{name}` is not a guest that can be run: {error}");
            Error::with_source(ErrorKind::InvalidGuest, text, error)
        })?;
        Ok(Guest { inner: Arc::new(Inner { name, program }) })
    }

    /// What errors call it: its path, or the name it was given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The functions it offers.
    pub fn functions(&self) -> impl Iterator<Item = (&str, &Signature)> {
        self.program().exports().iter().map(|of| (of.name.as_str(), &of.signature))
    }

    /// The host functions it asks for. One that it declares in several places comes as often.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &Signature)> {
        self.program().imports().iter().map(|of| (of.name.as_str(), &of.signature))
    }

    pub(crate) fn program(&self) -> &Program {
        &self.inner.program
    }

    pub(crate) fn is(&self, other: &Guest) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What a sandbox can be built from: a path, or a [`Guest`] that has been read already.
pub trait IntoGuest {
    /// The guest.
    ///
    /// # Errors
    ///
    /// As [`Guest::from_file`].
    fn into_guest(self) -> Result<Guest, Error>;
}

impl IntoGuest for Guest {
    fn into_guest(self) -> Result<Guest, Error> {
        Ok(self)
    }
}

impl IntoGuest for &Guest {
    fn into_guest(self) -> Result<Guest, Error> {
        Ok(self.clone())
    }
}

macro_rules! paths {
    ($($type:ty),*) => {
        $(impl IntoGuest for $type {
            fn into_guest(self) -> Result<Guest, Error> {
                Guest::from_file(self)
            }
        })*
    };
}

paths!(&str, String, &String, &Path, PathBuf, &PathBuf);
