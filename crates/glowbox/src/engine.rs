//! What all sandboxes of a process share.

use std::sync::{Arc, Mutex, PoisonError};

use glowbox_machine::interrupt::{InstalledSignal, default_signal, install};
use glowbox_machine::kvm::Kvm;

use crate::Error;
use crate::watchdog::Watchdog;

/// What sandboxes share: the hypervisor, the signal that stops running guests, and the thread that
/// enforces deadlines.
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
    kvm: Kvm,
    signal: InstalledSignal,
    watchdog: Watchdog,
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
        EngineBuilder { signal: default_signal() }
    }

    /// The engine of sandboxes that do not name one. It stays open until the process ends.
    ///
    /// # Errors
    ///
    /// As [`EngineBuilder::build`]. A failure is not remembered.
    pub fn shared() -> Result<Engine, Error> {
        static SHARED: Mutex<Option<Engine>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*shared {
            return Ok(engine.clone());
        }
        let engine = Engine::new()?;
        *shared = Some(engine.clone());
        Ok(engine)
    }

    pub(crate) fn kvm(&self) -> &Kvm {
        &self.inner.kvm
    }

    pub(crate) fn signal(&self) -> InstalledSignal {
        self.inner.signal
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.inner.watchdog
    }
}

/// Options of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineBuilder {
    signal: i32,
}

impl EngineBuilder {
    /// The real-time signal by which a thread is got out of a running guest; `SIGRTMAX - 2` by
    /// default. The library installs a handler for it, once a process, and only if it has its
    /// default action; it unblocks it in threads that make calls. Choose another one if your
    /// program uses that signal.
    #[must_use]
    pub fn interrupt_signal(mut self, signal: i32) -> EngineBuilder {
        self.signal = signal;
        self
    }

    /// Opens the hypervisor.
    ///
    /// # Errors
    ///
    /// [`HypervisorMissing`](crate::ErrorKind::HypervisorMissing) or
    /// [`HypervisorDenied`](crate::ErrorKind::HypervisorDenied), with what to do about it;
    /// [`Hypervisor`](crate::ErrorKind::Hypervisor) if it lacks something;
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if the signal is none that can be used.
    pub fn build(self) -> Result<Engine, Error> {
        let kvm = Kvm::open().map_err(Error::of_machine)?;
        let signal = install(self.signal).map_err(Error::of_machine)?;
        Ok(Engine { inner: Arc::new(Inner { kvm, signal, watchdog: Watchdog::new() }) })
    }
}
