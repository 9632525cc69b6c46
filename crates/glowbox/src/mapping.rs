//! Files and bytes that are lent to guests.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use glowbox_mem::{Bytes, Lent, MapError};

use crate::{Error, ErrorKind};

/// A file, or bytes of the host, that guests may be lent for reading: see
/// [`Sandbox::map`](crate::Sandbox::map).
///
/// It is made once and can be lent to any number of sandboxes at the same time; cloning is cheap. The
/// guests read the host's own pages: nothing is copied, however large it is, and nothing that a guest
/// does can change it.
///
/// ```no_run
/// use glowbox::{Mapping, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let model = Mapping::file("model.bin")?;
/// let mut sandbox = Sandbox::builder().build("plugin.elf")?;
/// sandbox.map("model", &model)?;
/// // In the guest: glowbox_guest::mapped("model") is a slice of the file's bytes.
/// let answer: f32 = sandbox.call("predict", (1.5f32,))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mapping {
    lent: Arc<Lent>,
    name: Arc<str>,
}

impl Mapping {
    /// Maps a file, as long as it is now.
    ///
    /// The file must not be cut short while it is lent: a call that then reads what is gone ends
    /// with [`ErrorKind::MemoryLost`]. If it is written to, guests may see the new bytes, or the old
    /// ones; replacing it by another one under its name is safe.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) if it can't be opened or mapped, is no regular file, or is empty.
    pub fn file(path: impl AsRef<Path>) -> Result<Mapping, Error> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let failed = |source: std::io::Error| {
            Error::of_system(ErrorKind::Io, format!("file `{shown}` can't be mapped"), source)
        };
        // Before it is opened: a pipe would block.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() || metadata.len() == 0 {
            let problem = if metadata.is_file() { "is empty" } else { "is no regular file" };
            let text = format!("file `{shown}` can't be mapped: it {problem}");
            return Err(Error::new(ErrorKind::Io, text));
        }
        let file = File::open(path).map_err(failed)?;
        let lent = Lent::file(file).map_err(|error| of_map(&shown, error))?;
        Ok(Mapping { lent: Arc::new(lent), name: shown.into() })
    }

    /// Makes `length` bytes and lets `fill` write them; they are zero before. What `fill` reads into
    /// them is never copied again.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox::Error> {
    /// let squares = glowbox::Mapping::bytes(1 << 20, |bytes| {
    ///     bytes.iter_mut().zip(0u8..=255).for_each(|(byte, number)| *byte = number.wrapping_mul(number));
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](ErrorKind::InvalidOption) if the length is zero, [`Io`](ErrorKind::Io) if the
    /// system has no such memory.
    pub fn bytes(length: usize, fill: impl FnOnce(&mut [u8])) -> Result<Mapping, Error> {
        if length == 0 {
            let text = "a mapping of no bytes can't be lent";
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        let name = "(bytes)";
        let mut bytes = Bytes::zeroed(length).map_err(|error| of_map(name, error))?;
        fill(bytes.as_mut_slice());
        Ok(Mapping { lent: Arc::new(bytes.into_lent()), name: name.into() })
    }

    /// Copies bytes, once, for any number of sandboxes. To do without the copy, see
    /// [`Mapping::bytes`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::bytes`].
    pub fn copy_of(bytes: &[u8]) -> Result<Mapping, Error> {
        Mapping::bytes(bytes.len(), |copy| copy.copy_from_slice(bytes))
    }

    /// Bytes in it.
    pub fn length(&self) -> usize {
        self.lent.length()
    }

    pub(crate) fn lent(&self) -> &Arc<Lent> {
        &self.lent
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.length();
        f.debug_struct("Mapping").field("of", &self.name).field("length", &length).finish()
    }
}

fn of_map(name: &str, error: MapError) -> Error {
    let text = format!("`{name}` can't be mapped: {error}");
    Error::of_system(ErrorKind::Io, text, error.source)
}
