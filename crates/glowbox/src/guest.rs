//! A guest program, read and checked.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::elf::{Function, Program};
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
    path: Option<PathBuf>,
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
        let shown = path.display();
        let failed = |source| {
            Error::of_system(ErrorKind::Io, format!("guest file `{shown}` can't be read"), source)
        };
        let invalid =
            |problem: &str| Err(Error::new(ErrorKind::InvalidGuest, no_guest(&shown, problem)));
        // Before it is opened: a pipe would block.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return invalid("it is no regular file");
        }
        if metadata.len() > MAX_FILE {
            return invalid(&format!("it is larger than {} MiB", MAX_FILE >> 20));
        }
        let mut bytes = Vec::new();
        let mut file = File::open(path).map_err(failed)?.take(MAX_FILE);
        // Its first page first: what is no ELF file at all is not read any further.
        file.by_ref().take(PAGE_SIZE).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.starts_with(b"\x7fELF") {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Guest::checked(name, Some(path.to_path_buf()), bytes.into())
    }

    /// Checks a guest that is in memory already. `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidGuest`]; the text names the field at fault.
    pub fn from_bytes(name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Guest, Error> {
        Guest::checked(name.to_string(), None, bytes.into())
    }

    fn checked(name: String, path: Option<PathBuf>, bytes: Arc<[u8]>) -> Result<Guest, Error> {
        let program = Program::parse(bytes).map_err(|error| {
            let text = match &path {
                Some(path) => no_guest(path.display(), &error),
                None => no_guest(&name, &error),
            };
            Error::with_source(ErrorKind::InvalidGuest, text, error)
        })?;
        Ok(Guest { inner: Arc::new(Inner { name, path, program }) })
    }

    /// What errors call it: its file's name, or the name it was given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The file it was read from.
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The functions it offers, by name.
    pub fn functions(&self) -> impl Iterator<Item = (&str, &Signature)> {
        sorted(self.program().exports())
    }

    /// The host functions it asks for, by name. One that it declares in several places comes as often.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &Signature)> {
        sorted(self.program().imports())
    }

    /// Whether it is an ordinary program, to be run from start to end
    /// ([`Builder::load`](crate::Builder::load)), and not a guest whose functions are called.
    pub fn is_program(&self) -> bool {
        !self.program().is_library()
    }

    /// Refuses an ordinary program, which is to be run with that function.
    pub(crate) fn check_has_functions(&self, run_with: &str) -> Result<(), Error> {
        if !self.is_program() {
            return Ok(());
        }
        let text = format!(
            "`{}` is an ordinary program, which has no functions to be called: run it, with \
             {run_with}; or make it a guest, with the crate glowbox-guest",
            self.name()
        );
        Err(Error::new(ErrorKind::InvalidGuest, text))
    }

    pub(crate) fn program(&self) -> &Program {
        &self.inner.program
    }

    pub(crate) fn is(&self, other: &Guest) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

/// The text of an [`ErrorKind::InvalidGuest`].
fn no_guest(file: impl fmt::Display, problem: impl fmt::Display) -> String {
    format!("`{file}` is not a guest that can be run: {problem}")
}

fn sorted(functions: &[Function]) -> impl Iterator<Item = (&str, &Signature)> {
    let mut functions: Vec<_> =
        functions.iter().map(|of| (of.name.as_str(), &of.signature)).collect();
    functions.sort_unstable_by_key(|(name, _)| *name);
    functions.into_iter()
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What a sandbox can be built from: a path, or a [`Guest`] that has been read already.
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// use glowbox::{Guest, Sandbox};
///
/// let by_path = Sandbox::builder().build("plugin.elf")?;
/// let in_memory = Guest::from_bytes("plugin", std::fs::read("plugin.elf").unwrap_or_default())?;
/// let by_guest = Sandbox::builder().build(&in_memory)?;
/// # Ok(())
/// # }
/// ```
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
