//! Files: descriptors, streams, and trees of files.
//!
//! [`Files`] is the guest's: its descriptors, its current directory, the files that lie in memory,
//! pipes, event counters, epoll sets. It is copied with the process, which is cheap, since contents
//! are shared until they are written to. [`Grants`] is the host's: streams and opened directories.
//!
//! Everything is off by default. What a guest may be given is
//!
//! - streams for descriptors 0, 1 and 2: [`Input`] and [`Output`];
//! - files in memory that it can only read: [`Options::file`];
//! - directories of the host that it can only read: [`Options::directory`]. No path leads out of
//!   them, whatever symbolic links are in them or come to be (see the module `host`);
//! - one directory in memory that it can write to, up to a limit: [`Options::scratch`].
//!
//! There are no users here: every file is the guest's own as far as it can tell, and permissions are
//! remembered where a program sets them but keep nobody out. What can't be changed is `EROFS`.
//!
//! The parts: `node`, `content` and `tree` are files in memory, `host` those of the host; `resolve`
//! finds what a path leads to over both; `open`, `pipe` and `epoll` are what descriptors stand for,
//! `transfer` what is read and written; `calls` and its submodules are the system calls, which only
//! take arguments apart and put results together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Clocks};
use crate::random::Random;
use crate::{Errno, Limits};

mod calls;
mod content;
mod epoll;
mod grants;
mod host;
mod input;
mod list;
mod node;
mod open;
mod options;
mod output;
mod paths;
mod pipe;
mod resolve;
mod sound;
mod status;
#[cfg(test)]
mod tests;
mod transfer;
mod tree;

pub(crate) use calls::CALLS;
pub use grants::Grants;
pub use input::Input;
pub use options::{Options, OptionsError};
pub use output::{Output, OutputBuffer};

use list::Listing;
use node::{Kind, Name, Pool, entry_cost};
use open::{Descriptor, Object, Open, Stream};
use pipe::Pipe;
use resolve::{Mount, Place};
use tree::Tree;

/// Bytes that a pipe holds.
#[doc(hidden)]
pub const PIPE: u64 = 64 << 10;

/// A process's descriptors and files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    tree: Tree,
    /// The root first.
    mounts: Arc<Vec<Mount>>,
    descriptors: BTreeMap<u32, Descriptor>,
    /// What the descriptors stand for, by a number that is used once.
    open: BTreeMap<u64, Open>,
    pipes: BTreeMap<u64, Pipe>,
    /// The number of the next open file or pipe.
    next: u64,
    current: Place,
    umask: u32,
    /// The host's directory that was read last, since it is seldom read in one go.
    #[serde(skip)]
    listing: Option<Listing>,
}

/// What the work on files needs of the rest of the process, and of the host.
pub(crate) struct Around<'a> {
    pub(crate) grants: &'a mut Grants,
    pub(crate) random: &'a mut Random,
    pub(crate) limits: &'a Limits,
    pub(crate) clocks: &'a mut Clocks,
    pub(crate) clock: Clock,
}

impl Around<'_> {
    /// The time of day, in nanoseconds since 1970.
    fn now(&mut self) -> u64 {
        self.clocks.realtime(&self.clock)
    }
}

impl Files {
    /// No files but an empty root, and the three streams.
    fn bare(now: u64) -> Files {
        let mut tree = Tree::new();
        // What is given costs nothing, so there is room for it.
        let root = Place::Memory(tree.add_root(Pool::Given, 0o755, now).unwrap_or_default());
        let mount = Mount { path: Arc::from([].as_slice()), at: None, root: root.clone() };
        let mut files = Files {
            tree,
            mounts: Arc::new(vec![mount]),
            descriptors: BTreeMap::new(),
            open: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next: 0,
            current: root,
            umask: 0o022,
            listing: None,
        };
        for (fd, stream) in (0..).zip([Stream::Input, Stream::Output, Stream::Error]) {
            let open = files.number();
            files.open.insert(open, Open::stream(stream));
            files.descriptors.insert(fd, Descriptor { open, close_on_exec: false });
        }
        files
    }

    /// How far standard input was read, if that is bytes that were given.
    pub(crate) fn input_position(&self) -> u64 {
        let inputs =
            self.open.values().filter(|open| matches!(open.object, Object::Stream(Stream::Input)));
        inputs.map(|open| open.offset).max().unwrap_or(0)
    }

    /// Bytes that its scratch directory has room for; 0 without one.
    pub(crate) fn scratch_limit(&self) -> u64 {
        self.tree.scratch.limit
    }

    /// Bytes that the files take in memory that it was given, counted as those of the scratch directory.
    pub(crate) fn given_size(&self) -> u64 {
        let given = self.tree.nodes().filter(|(_, node)| node.pool == Pool::Given);
        let sizes = given.map(|(_, node)| match &node.kind {
            Kind::File(content) => node.cost().saturating_add(content.kept()),
            Kind::Directory(directory) => {
                let names = directory.entries.keys().map(|(_, name)| entry_cost(name));
                names.fold(node.cost(), u64::saturating_add)
            }
            Kind::Link(_) | Kind::Device(_) => node.cost(),
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// A number that was not used before.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// How much of [`Limits::buffered`] pipes leave for files without a name.
    fn set_buffered(&mut self, limits: &Limits) {
        let pipes = PIPE.saturating_mul(self.pipes.len() as u64);
        self.tree.anonymous.limit = limits.buffered.saturating_sub(pipes);
    }

    /// What a descriptor stands for.
    fn get(&self, fd: i32) -> Result<&Open, Errno> {
        let descriptor = self.descriptor(fd)?;
        self.open.get(&descriptor.open).ok_or(Errno::EBADF)
    }

    fn get_mut(&mut self, fd: i32) -> Result<&mut Open, Errno> {
        let open = self.descriptor(fd)?.open;
        self.open.get_mut(&open).ok_or(Errno::EBADF)
    }

    fn descriptor(&self, fd: i32) -> Result<Descriptor, Errno> {
        let fd = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.descriptors.get(&fd).copied().ok_or(Errno::EBADF)
    }

    /// Bytes of a regular file that is mapped into memory: as many as there are.
    ///
    /// # Errors
    ///
    /// `EACCES` if it was not opened for reading, `ENODEV` if it is no regular file.
    pub(crate) fn read_at_for_map(
        &mut self,
        world: &mut crate::World,
        fd: i32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        let open = self.get(fd)?;
        if open.is_path() {
            return Err(Errno::EBADF);
        }
        if !open.reads() {
            return Err(Errno::EACCES);
        }
        if !matches!(open.object, Object::Memory(_) | Object::Host(_)) {
            return Err(Errno::ENODEV);
        }
        self.read_file(&world.files, fd, offset, into).map_err(|error| match error {
            // A directory or a device.
            Errno::EISDIR | Errno::EINVAL => Errno::ENODEV,
            other => other,
        })
    }

    /// The first stretch of a regular file from an offset on that may hold something else than zeros.
    ///
    /// # Errors
    ///
    /// Those of the host, if it is one of its files.
    pub(crate) fn data_for_map(
        &mut self,
        world: &crate::World,
        fd: i32,
        from: u64,
    ) -> Result<Option<Range<u64>>, Errno> {
        match self.get(fd)?.object {
            Object::Memory(ino) => Ok(self.tree.data(ino, from)?),
            _ => self.host_data(&world.files, fd, from),
        }
    }
}
