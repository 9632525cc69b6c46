//! Stopping a running call.

use std::sync::Arc;

use glowbox_machine::interrupt::RunControl;

/// Stops a running call of one sandbox, from any thread.
///
/// ```no_run
/// # fn example(sandbox: &mut glowbox::Sandbox) {
/// let handle = sandbox.interrupt_handle();
/// std::thread::spawn(move || {
///     // … when the user presses a key:
///     handle.interrupt();
/// });
/// let result = sandbox.call::<_, u64>("search", ());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct InterruptHandle {
    control: Arc<RunControl>,
}

impl InterruptHandle {
    pub(crate) fn new(control: Arc<RunControl>) -> InterruptHandle {
        InterruptHandle { control }
    }

    /// Stops the call that is running now: it ends with
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted), and the sandbox is spent.
    ///
    /// Returns whether there was a call to stop. If nothing runs, or the call is being stopped
    /// already, it does nothing and returns `false`; it never stops a later call. A call that ends
    /// by itself at the very moment may still return its value.
    ///
    /// While a host function runs, the call ends when that function returns.
    pub fn interrupt(&self) -> bool {
        self.control.interrupt()
    }
}
