//! Panics of a guest with the standard library.
//!
//! Where a panic ends is known only when it has unwound that far; where it began, only when it does.
//! So a hook, behind the one that was there (which prints), keeps message and place, and whoever catches the
//! panic on its way to the host matches the two by the message. A place may be missing then, if a
//! payload was thrown again long after (`resume_unwind`); it is never another panic's with another
//! message.

use std::any::Any;
use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::string::{String, ToString};
use std::sync::{Mutex, PoisonError};

use crate::arch;

/// A panic's beginning.
struct Begun {
    text: String,
    location: Option<String>,
}

/// The serving thread's last one.
type Last = RefCell<Option<Begun>>;
arch::per_thread! {
    static HERE: Last = RefCell::new(None);
}
/// The last one of any other thread: whoever joins it may go on with its panic.
static ELSEWHERE: Mutex<Option<Begun>> = Mutex::new(None);

/// Keeps what the hook is told from now on.
pub(super) fn install_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(std::boxed::Box::new(move |info| {
        previous(info);
        began(info);
    }));
}

fn began(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let text = text(info.payload());
    if !arch::is_serving() {
        let begun = Begun { text: text.to_string(), location };
        *ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
    } else if cfg!(panic = "abort") {
        crate::panic::end(text, location, |_| None);
    } else {
        HERE.with(|here| here.replace(Some(Begun { text: text.to_string(), location })));
    }
}

/// Tells the host of a panic that nobody caught.
pub(super) fn end(payload: &(dyn Any + Send)) -> ! {
    let text = text(payload);
    let of_this = |begun: Option<Begun>| begun.filter(|begun| begun.text == text);
    let begun = of_this(HERE.with(RefCell::take))
        .or_else(|| of_this(ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner).take()));
    crate::panic::end(text, begun.and_then(|begun| begun.location), |_| None)
}

/// A panic's message, as the standard library shows it.
fn text<'a>(payload: &'a (dyn Any + Send)) -> &'a str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&'static str>().copied().or_else(owned).unwrap_or("Box<dyn Any>")
}
