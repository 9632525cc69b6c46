//! A guest with the standard library: a process that gives one of its threads to the host, and whose
//! panics unwind as far as the call.

mod panic;

use std::fmt;
use std::io::{self, Write};

use glowbox_abi::mailbox::FromGuest;

use crate::arch::{self, Message};
use crate::call::ExportHandler;
use crate::serving;

/// What a host function says on a thread that may not call it.
pub(crate) const NOT_SERVING: &str = "only the thread that called glowbox_guest::serve() can call \
    the host, and only while it serves calls; other threads of the guest can send it what they \
    want to know over a channel";

/// Serves the host's calls on this thread, for ever.
///
/// The end of a std guest's `main`. What `main` has done before is part of every sandbox, as are
/// the threads it has started. The functions marked [`macro@crate::main`] run now; then the guest
/// is ready for its first call.
///
/// Host functions can be called from this thread only: from a function that the host has called,
/// or a start-up function. [`print!`](crate::print) and [`log`] work everywhere; what other
/// threads say goes to standard error.
///
/// A panic that reaches this function, out of a function that the host has called, ends that call
/// for the host, with its message and place, and the sandbox is spent. One that the guest catches
/// itself, and one on another thread, is the guest's own affair. In a guest built with `panic =
/// "abort"` a panic on this thread ends the call at once.
///
/// A program that was not started by Glowbox is told so on standard error, and ends with status 2.
///
/// ```ignore
/// use glowbox_guest::guest_function;
///
/// #[guest_function]
/// fn shout(text: &str) -> String {
///     text.to_uppercase()
/// }
///
/// fn main() {
///     glowbox_guest::serve();
/// }
/// ```
///
/// # Panics
///
/// If it has been called before.
pub fn serve() -> ! {
    if !arch::is_guest() {
        let _ = explain(&mut io::stderr().lock());
        std::process::exit(2);
    }
    arch::take_mailbox();
    panic::install_hook();
    serving::serve_calls()
}

/// For whoever runs a guest as if it were a program of its own.
fn explain(to: &mut impl Write) -> io::Result<()> {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = program.to_string_lossy();
    writeln!(
        to,
        "{program}: not started by Glowbox. This program is a guest: it does nothing by itself, and \
         waits in a Glowbox sandbox for a host to call its functions:"
    )?;
    for function in arch::exports() {
        writeln!(to, "    {}{}", function.name, function.signature)?;
    }
    writeln!(
        to,
        "To call them from Rust: glowbox::Sandbox::builder().build({program:?}), and then \
         sandbox.call(...)."
    )
}

/// Runs a function of the guest. A panic in it ends the call here: nothing beneath is unwound, since
/// nobody would know how far the host has come.
pub(crate) fn run(handler: ExportHandler, message: &Message) -> FromGuest {
    match std::panic::catch_unwind(|| handler(message)) {
        Ok(header) => header,
        Err(payload) => panic::end(&*payload),
    }
}

/// What a thread says that does not have the mailbox.
pub(crate) fn print_elsewhere(target: &str, text: fmt::Arguments<'_>) {
    // As `eprintln!`, but nobody minds if it can't be written.
    let mut to = io::stderr().lock();
    let _ = match target {
        "print" => writeln!(to, "{text}"),
        _ => writeln!(to, "{target}: {text}"),
    };
}
