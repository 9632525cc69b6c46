//! Shells: machines that exist already, waiting for a guest.
//!
//! Making a VM takes hundreds of microseconds, most of it in the kernel; using one again takes none of
//! that. So a sandbox that is dropped gives its machine back, scrubbed: nothing that it wrote is in
//! memory any more, and nothing that it was lent is in reach. (What it left in the vCPU's registers
//! is overwritten at the next guest's first entry, before its first instruction.) A shell keeps the
//! image of the snapshot that it ran last mapped, so the next sandbox of that snapshot finds it ready;
//! a sandbox of another one has its image mapped over it.
//!
//! The shell used last is taken first, as its pages are likeliest to be in the caches; among those
//! that would have to be mapped anew, the one unused for longest. There are at most as many as the
//! engine was told, and the oldest goes when there are more.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use glowbox_core::snapshot_file::FeatureWord;
use glowbox_machine::interrupt::{InstalledSignal, RunControl};
use glowbox_machine::{Machine, Platform};
use glowbox_mem::Image;

use crate::filler::Filler;
use crate::snapshot::Captured;
use crate::watchdog::Watchdog;
use crate::{Error, ErrorKind};

type Shell = Box<dyn Machine>;

/// An engine's idle shells, and what it takes to make one.
pub(crate) struct Pool {
    platform: Box<dyn Platform>,
    signal: InstalledSignal,
    watchdog: Watchdog,
    /// The process that opened the engine.
    process: u32,
    options: PoolOptions,
    idle: Mutex<Vec<Shell>>,
    filler: OnceLock<Filler>,
}

/// How much a pool keeps, and how its memory is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolOptions {
    /// Most idle shells.
    pub(crate) shells: usize,
    /// Most pages of its own that memory keeps when it is put back.
    pub(crate) pages: usize,
    /// Whether the process's core dumps have guests' memory.
    pub(crate) dumped: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(
        platform: Box<dyn Platform>,
        signal: InstalledSignal,
        watchdog: Watchdog,
        options: PoolOptions,
    ) -> Pool {
        let process = std::process::id();
        let idle = Mutex::default();
        Pool { platform, signal, watchdog, process, options, idle, filler: OnceLock::new() }
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// The signal that gets a thread out of a guest.
    #[cfg_attr(not(feature = "seccomp"), expect(dead_code, reason = "for filters alone"))]
    pub(crate) fn signal(&self) -> InstalledSignal {
        self.signal
    }

    /// Whether this process is the one that opened the engine.
    pub(crate) fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    /// What runs guests here.
    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// The CPU features and state components that guests are shown.
    pub(crate) fn cpu(&self) -> (Vec<FeatureWord>, u64) {
        self.platform.cpu()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Shell>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many shells are idle.
    pub(crate) fn idle(&self) -> usize {
        if self.is_ours() { self.lock().len() } else { 0 }
    }

    /// How many idle shells have this image mapped.
    pub(crate) fn ready(&self, image: &Arc<Image>) -> usize {
        self.lock().iter().filter(|shell| has(shell, image)).count()
    }

    /// Asks for so many idle shells with this snapshot's image, from now on. They are made in the
    /// background; fewer if the pool has no room for them.
    pub(crate) fn keep_ready(
        self: &Arc<Pool>,
        snapshot: &Arc<Captured>,
        count: usize,
    ) -> std::io::Result<()> {
        let filler = match self.filler.get() {
            Some(filler) => filler,
            None => {
                let started = Filler::start(Arc::downgrade(self))?;
                self.filler.get_or_init(|| started)
            }
        };
        filler.want(snapshot, count.min(self.options.shells));
        Ok(())
    }

    /// Whether a shell can be added without another having to go.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().len() < self.options.shells
    }

    /// Adds a new shell in which an image is mapped.
    pub(crate) fn add_ready(&self, snapshot: &Captured) -> Result<(), Error> {
        let mut shell = self.make(snapshot.setup.layout.size())?;
        snapshot.fill(&mut *shell)?;
        let mut idle = self.lock();
        // The pool may have been filled by others meanwhile; none of them is to go for this one.
        let surplus = match idle.len() < self.options.shells {
            true => {
                idle.push(shell);
                None
            }
            false => Some(shell),
        };
        drop(idle);
        drop(surplus);
        Ok(())
    }

    /// Lends a machine with a window of `size` bytes; of the idle ones by preference one in which
    /// `image` is mapped. What else may be in the window is nobody's secret, but anything.
    pub(crate) fn lease(
        self: &Arc<Pool>,
        size: u64,
        image: Option<&Arc<Image>>,
    ) -> Result<Lease, Error> {
        let idle = self.take(size, image);
        // One that has run has known other page tables than it is to have now.
        let usable = |shell: &mut Shell| {
            let knows = image.is_some_and(|image| has(shell, image));
            knows || shell.entries() == 0 || shell.forget_tables().is_ok()
        };
        let mut shell = match idle.and_then(|mut shell| usable(&mut shell).then_some(shell)) {
            Some(shell) => shell,
            None => self.make(size)?,
        };
        // A handle to the last user's calls must not reach the next one's.
        if Arc::strong_count(shell.control()) > 1 {
            shell.set_control(self.new_control());
        }
        Ok(Lease { shell: Some(shell), pool: Arc::clone(self), from: 0, tables_changed: false })
    }

    fn take(&self, size: u64, image: Option<&Arc<Image>>) -> Option<Shell> {
        let filler = self.filler.get();
        let mut idle = self.lock();
        let ready = image.and_then(|image| idle.iter().rposition(|shell| has(shell, image)));
        // Not one that is kept ready for another snapshot.
        let wanted = |shell: &Shell| match (filler, shell.image()) {
            (Some(filler), Some(image)) => filler.wants(image),
            _ => false,
        };
        let fits = |shell: &Shell| shell.memory().len() as u64 == size && !wanted(shell);
        let at = ready.or_else(|| idle.iter().position(fits))?;
        let shell = idle.remove(at);
        if let Some(filler) = filler {
            let images = idle.iter().filter_map(|shell| shell.image());
            let addresses: Vec<usize> = images.map(|image| Arc::as_ptr(image).addr()).collect();
            drop(idle);
            filler.taken(|image| addresses.iter().filter(|other| **other == image).count());
        }
        Some(shell)
    }

    /// Makes a machine.
    fn make(&self, size: u64) -> Result<Shell, Error> {
        let memory = self.platform.memory(size).map_err(Error::of_memory)?;
        let memory = memory.in_core_dumps(self.options.dumped);
        self.platform.machine(memory, self.new_control()).map_err(Error::of_machine)
    }

    fn new_control(&self) -> Arc<RunControl> {
        let control = Arc::new(RunControl::new(self.signal));
        self.watchdog.watch(&control);
        control
    }

    /// Adds an idle shell, which has been scrubbed.
    fn put(&self, shell: Shell) {
        let mut idle = self.lock();
        idle.push(shell);
        let surplus = (idle.len() > self.options.shells).then(|| idle.remove(0));
        // Closing a VM takes long: not under the lock.
        drop(idle);
        drop(surplus);
    }

    /// Lets go of an image that no snapshot stands for any more.
    pub(crate) fn forget(&self, image: &Arc<Image>) {
        // In a fork nobody may be left to unlock the pool.
        if !self.is_ours() {
            return;
        }
        let mut forgotten = Vec::new();
        let mut idle = self.lock();
        while let Some(at) = idle.iter().position(|shell| has(shell, image)) {
            forgotten.push(idle.remove(at));
        }
        drop(idle);
        for mut shell in forgotten {
            if shell.window().clear().is_ok() {
                self.put(shell);
            }
        }
    }
}

fn has(shell: &Shell, image: &Arc<Image>) -> bool {
    shell.image().is_some_and(|mapped| Arc::ptr_eq(mapped, image))
}

/// A machine on loan from the pool, to which it goes back.
pub(crate) struct Lease {
    /// There until it is dropped.
    shell: Option<Shell>,
    pool: Arc<Pool>,
    /// First byte of memory that the guest may have written; everything, until that is known.
    from: usize,
    /// Whether page tables have been added since memory was what it goes back to.
    tables_changed: bool,
}

impl Lease {
    /// Says whether page tables have been added since memory was what it goes back to.
    pub(crate) fn tables_changed(&mut self, changed: bool) {
        self.tables_changed = changed;
    }

    /// Forgets page tables that have been added. To be called before memory is put back.
    pub(crate) fn forget_changed_tables(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.tables_changed) {
            self.forget_tables().map_err(Error::of_machine)?;
        }
        Ok(())
    }

    /// Says from which byte on the guest can write.
    pub(crate) fn writable_from(&mut self, from: usize) {
        self.from = from;
    }

    /// Whether the machine is one of this pool's.
    pub(crate) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Makes the machine obey a control that there are handles to already.
    pub(crate) fn adopt_control(&mut self, control: Arc<RunControl>) {
        self.pool.watchdog.watch_once(&control);
        self.set_control(control);
    }

    /// The pages of its own that memory may keep when it is put back.
    pub(crate) fn keep(&self) -> usize {
        self.pool.options.pages
    }

    /// Makes the machine fit to be seen by others. `false` if that can't be.
    fn scrub(shell: &mut Shell, from: usize, keep: usize) -> bool {
        if shell.settle().is_err() || shell.take_back().is_err() {
            return false;
        }
        let mut window = shell.window();
        if window.is_layered() {
            return window.restore(from, keep).is_ok();
        }
        window.clear().is_ok()
    }
}

impl Deref for Lease {
    type Target = dyn Machine;

    fn deref(&self) -> &Self::Target {
        &**self.shell.as_ref().expect("a lease has its machine")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut **self.shell.as_mut().expect("a lease has its machine")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A fork has its parent's VMs by their descriptors only, and could but close them.
        let Some(mut shell) = self.shell.take().filter(|_| self.pool.is_ours()) else {
            return;
        };
        if self.pool.options.shells > 0 {
            let forgets = !self.tables_changed || shell.forget_tables().is_ok();
            if forgets && Lease::scrub(&mut shell, self.from, self.keep()) {
                self.pool.put(shell);
            }
        } else if shell.image().is_some_and(|image| image.is_unlearned()) {
            // Nobody will use its memory again, but the next ones profit from knowing what this one
            // wrote.
            let _ = shell.window().restore(self.from, self.keep());
        }
    }
}

impl Error {
    /// The error for memory that can't be had.
    pub(crate) fn of_memory(error: glowbox_mem::MapError) -> Error {
        let text = error.to_string();
        Error::of_system(ErrorKind::Hypervisor, text, error.source)
    }
}
