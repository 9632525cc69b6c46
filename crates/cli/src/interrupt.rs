//! Ctrl-C.
//!
//! The first one stops the guest, so that the command ends in its usual way: with statistics, with
//! status 130, and with nothing left behind. If that takes longer than two seconds, because it is not
//! the guest that hangs, the command ends all the same; where nothing runs that could be stopped, it
//! ends at once. While a file is being written it takes a second one. A command that was started with the signal ignored, as in the
//! background of a script, goes on ignoring it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use glowbox::InterruptHandle;

use crate::failure::{Failure, Status};

/// What the next Ctrl-C does.
enum Next {
    /// Ends the command.
    Exit,
    /// Stops the guest.
    Stop(InterruptHandle),
    /// Nothing but being noted: a file is half written.
    Note,
}

static NEXT: Mutex<Next> = Mutex::new(Next::Exit);
static CAUGHT: AtomicBool = AtomicBool::new(false);

/// How often a call is tried to be stopped, a millisecond apart: it may be about to begin.
const TRIES: u32 = 100;

/// How long the command may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Catches the signal from now on.
pub(crate) fn catch() {
    // The one error that comes is that the signal is ignored, and then it stays so.
    let _ = ctrlc::try_set_handler(|| {
        let exit = || std::process::exit(Status::Interrupted.code().into());
        if CAUGHT.swap(true, Ordering::SeqCst) {
            exit();
        }
        let handle = match &*NEXT.lock().unwrap_or_else(PoisonError::into_inner) {
            Next::Exit => exit(),
            Next::Stop(handle) => handle.clone(),
            Next::Note => return,
        };
        for _ in 0..TRIES {
            if handle.interrupt() {
                // The command ends by itself now, unless the host's side of the call is what hangs.
                std::thread::sleep(PATIENCE);
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        exit();
    });
}

fn next(next: Next) {
    *NEXT.lock().unwrap_or_else(PoisonError::into_inner) = next;
}

/// Lets Ctrl-C stop what `body` runs.
pub(crate) fn stopping<T>(handle: InterruptHandle, body: impl FnOnce() -> T) -> T {
    next(Next::Stop(handle));
    let result = body();
    next(Next::Exit);
    result
}

/// Keeps Ctrl-C from ending the command in the middle of `body`; it counts afterwards.
pub(crate) fn finishing<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    next(Next::Note);
    let result = body();
    next(Next::Exit);
    match CAUGHT.load(Ordering::SeqCst) {
        true => Err(Failure::new(Status::Interrupted, "")),
        false => result,
    }
}
