//! What all sandboxes of a process share.

use std::sync::{Arc, Mutex, PoisonError};

use glowbox_machine::interrupt::{default_signal, install};
use glowbox_machine::{Backend, Caps, Platform};

use crate::pool::{Pool, PoolOptions};
use crate::watchdog::Watchdog;
use crate::{Error, ErrorKind};

/// How much an engine's pool keeps, and how, unless it is told otherwise.
const DEFAULT_POOL: PoolOptions = PoolOptions {
    shells: EngineBuilder::DEFAULT_POOL_SIZE,
    pages: EngineBuilder::DEFAULT_KEPT_MEMORY / glowbox_mem::PAGE,
    dumped: false,
};

/// What sandboxes share: the hypervisor, a pool of VMs, the signal that stops running guests, and the
/// thread that enforces deadlines.
///
/// Most programs never name it: sandboxes that are built without one share a default engine, which
/// is opened when the first of them is built. Cloning is cheap.
///
/// ```no_run
/// use glowbox::{Engine, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let engine = Engine::new()?;
/// let sandbox = Sandbox::builder().engine(&engine).build("greeter.elf")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
}

impl Engine {
    /// An engine with default options.
    ///
    /// # Errors
    ///
    /// As [`EngineBuilder::build`].
    pub fn new() -> Result<Engine, Error> {
        Engine::builder().build()
    }

    /// Chooses options.
    pub fn builder() -> EngineBuilder {
        EngineBuilder { backend: None, signal: default_signal(), pool: DEFAULT_POOL }
    }

    /// The engine of sandboxes that do not name one. It stays open until the process ends.
    ///
    /// # Errors
    ///
    /// As [`EngineBuilder::build`]. A failure is not remembered.
    pub fn shared() -> Result<Engine, Error> {
        static SHARED: Mutex<Option<Engine>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(engine) if engine.check_process().is_ok() => return Ok(engine.clone()),
            _ => {}
        }
        let engine = Engine::new()?;
        *shared = Some(engine.clone());
        Ok(engine)
    }

    /// Checks that the process is the one that opened the engine: a fork has neither its thread
    /// nor the right to its VMs.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        if self.inner.pool.is_ours() {
            return Ok(());
        }
        let text = "the engine was opened before this process was forked; open another one in it";
        Err(Error::new(ErrorKind::Hypervisor, text))
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// What runs the guests of its sandboxes.
    pub fn backend(&self) -> Backend {
        self.inner.pool.platform().backend()
    }

    /// In what its backend differs from others, for tests that have to know.
    #[doc(hidden)]
    pub fn caps(&self) -> Caps {
        self.inner.pool.platform().caps()
    }

    /// How many VMs stand idle in the engine's pool.
    pub fn idle_shells(&self) -> usize {
        self.inner.pool.idle()
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        self.inner.pool.watchdog()
    }
}

/// Options of an [`Engine`].
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// // This program's own code uses signal 62.
/// let engine = glowbox::Engine::builder().interrupt_signal(60).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EngineBuilder {
    backend: Option<Backend>,
    signal: i32,
    pool: PoolOptions,
}

impl EngineBuilder {
    #[doc(hidden)]
    pub const DEFAULT_POOL_SIZE: usize = 16;
    #[doc(hidden)]
    pub const DEFAULT_KEPT_MEMORY: usize = 32 << 20;

    /// What runs the guests. Without this it is the backend that the environment variable
    /// `GLOWBOX_BACKEND` names, and without that the first of those that isolate guests by hardware
    /// ([`Backend::is_hardware`]) that this machine has. One that does not is never chosen silently.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> EngineBuilder {
        self.backend = Some(backend);
        self
    }

    /// The real-time signal by which a thread is got out of a running guest; `SIGRTMAX - 2` by
    /// default. The library installs a handler for it, once a process, and only if it has its
    /// default action; it unblocks it in each thread that makes a call, once. Choose another one if
    /// your program uses that signal.
    ///
    /// A thread that blocks the signal after its first call can't be stopped while it runs a guest:
    /// neither deadlines nor interrupts work there.
    #[must_use]
    pub fn interrupt_signal(mut self, signal: i32) -> EngineBuilder {
        self.signal = signal;
        self
    }

    /// Most VMs that stand idle, waiting for the next sandbox; 16 by default. With 0 every sandbox makes a
    /// VM of its own, and destroys it when it is dropped.
    ///
    /// An idle VM takes some hundred KiB in the kernel, and the memory of
    /// [`EngineBuilder::kept_memory`].
    #[must_use]
    pub fn pool_size(mut self, shells: usize) -> EngineBuilder {
        self.pool.shells = shells;
        self
    }

    /// Most bytes of its own that a sandbox keeps when it is reset, or its VM when it waits in the
    /// pool, so that the next use does not fault on every page that it writes; 32 MiB by default. What
    /// a guest has written beyond that is given back at once, as are pages that it has not written
    /// for a while. What belongs to a sandbox that was built and not spawned does not count.
    #[must_use]
    pub fn kept_memory(mut self, bytes: usize) -> EngineBuilder {
        self.pool.pages = bytes / glowbox_mem::PAGE;
        self
    }

    /// Whether core dumps of this process have what is in guests' memory and in snapshots; they have not
    /// by default, since a dump is seen by others than those whose data a guest works on. What is lent
    /// to guests ([`Sandbox::map`](crate::Sandbox::map)) is never in them, and the host's own copies of
    /// messages always.
    #[must_use]
    pub fn guest_memory_in_core_dumps(mut self, included: bool) -> EngineBuilder {
        self.pool.dumped = included;
        self
    }

    /// Opens the hypervisor.
    ///
    /// # Errors
    ///
    /// [`HypervisorMissing`](crate::ErrorKind::HypervisorMissing) or
    /// [`HypervisorDenied`](crate::ErrorKind::HypervisorDenied), with what to do about it or without it;
    /// [`Hypervisor`](crate::ErrorKind::Hypervisor) if it lacks something;
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if the signal is none that can be used, or
    /// `GLOWBOX_BACKEND` names no backend.
    pub fn build(self) -> Result<Engine, Error> {
        let platform = glowbox_machine::open(self.backend).map_err(Error::of_opening)?;
        self.build_on(platform)
    }

    /// As [`EngineBuilder::build`]; but where no hypervisor can be used, and neither
    /// [`EngineBuilder::backend`] nor `GLOWBOX_BACKEND` says what is to be used, guests run in locked-down
    /// processes ([`Backend::Process`]).
    ///
    /// Those isolate guests less than a virtual machine does, so somebody ought to know: `warn` is called
    /// before, with the error that `build` would have returned. That says what is missing, and how to ask
    /// for processes without a warning. Meant for tools, tests and development.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox::Error> {
    /// let engine = glowbox::Engine::builder()
    ///     .build_with_fallback(|missing| eprintln!("warning: {missing}. So that is done now"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`EngineBuilder::build`], where there is a hypervisor, or something says what is to be used; and
    /// if processes can't be had either, with the reasons for both.
    pub fn build_with_fallback(self, warn: impl FnOnce(&Error)) -> Result<Engine, Error> {
        let missing = match glowbox_machine::open(self.backend) {
            Err(error) if error.lacks_hypervisor() => Error::of_opening(error),
            opened => return self.build_on(opened.map_err(Error::of_opening)?),
        };
        if !matches!(glowbox_machine::chosen(self.backend), Ok(None)) {
            return Err(missing);
        }
        let platform = Backend::Process.open();
        let platform = platform.map_err(|error| Error::of_fallback(&missing, error))?;
        warn(&missing);
        self.build_on(platform)
    }

    fn build_on(self, platform: Box<dyn Platform>) -> Result<Engine, Error> {
        let signal = install(self.signal).map_err(Error::of_machine)?;
        let watchdog = Watchdog::start().map_err(|error| {
            let text = "the thread that enforces deadlines can't be started";
            Error::of_system(ErrorKind::Hypervisor, text, error)
        })?;
        let pool = Pool::new(platform, signal, watchdog, self.pool);
        Ok(Engine { inner: Arc::new(Inner { pool: Arc::new(pool) }) })
    }
}
