//! The library that Glowbox guests are written with.
//!
//! A guest is a program whose functions a host calls inside a micro-VM. Without the standard library:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! use glowbox_guest::{guest_function, host_function};
//!
//! #[host_function]
//! fn weekday() -> String;
//!
//! #[guest_function]
//! fn greet(name: &str) -> String {
//!     format!("Hello, {name}! Today is {}.", weekday())
//! }
//! ```
//!
//! Its `Cargo.toml` needs nothing but this dependency; `glowbox-build` builds it. With the feature
//! `std` of this crate, a guest is an ordinary program that ends with `serve`:
//!
//! ```ignore
//! use glowbox_guest::guest_function;
//!
//! #[guest_function]
//! fn greet(name: &str) -> String {
//!     format!("Hello, {name}! It is {:?}.", std::time::SystemTime::now())
//! }
//!
//! fn main() {
//!     glowbox_guest::serve();
//! }
//! ```
//!
//! See `docs/writing-guests.md` for the whole story. In short:
//!
//! - [`macro@guest_function`] offers a function to the host. Parameters and result are any serde
//!   types; `&str` and `&[u8]` parameters are borrowed from the message, not copied. A function may
//!   return `Result`: an error goes to the host as such, and the guest stays usable.
//! - [`macro@host_function`] declares a function of the host. The host must have registered it with
//!   the same signature, or it refuses to build the sandbox.
//! - [`macro@main`] marks a function that runs once, before the first call.
//! - [`print!`], [`println!`] and the [`log`] crate's macros send text to the host's log.
//! - [`mapped`] gives what the host lends: files and bytes, read-only and not copied.
//! - [`random`] has random numbers, and makes the crate `getrandom` work.
//! - A panic, an exhausted heap or a fault ends the call; the host is told which it was, with
//!   message and place.
//!
//! The library brings the entry point, heap, panic handler and memory functions of a guest without
//! the standard library. `unsafe` code is confined to the modules `arch` and `heap`.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
mod arch;
mod batch;
mod call;
mod error;
#[cfg(not(feature = "std"))]
mod freestanding;
mod maps;
mod output;
mod panic;
pub mod random;
mod serving;
#[cfg(feature = "std")]
mod with_std;

// What differs between a guest without and with the standard library.
#[cfg(not(feature = "std"))]
use freestanding as runtime;
#[cfg(feature = "std")]
use with_std as runtime;

pub use error::HostError;
pub use glowbox_macros::{guest_function, host_function, main};
pub use log;
pub use maps::{mapped, mapped_names};
pub use output::print_text;
#[cfg(feature = "std")]
pub use with_std::serve;

/// What guests use most of `alloc`. The macros bring it into scope where they are used, so that a
/// guest reads like any Rust program.
pub mod prelude {
    pub use alloc::borrow::ToOwned;
    pub use alloc::boxed::Box;
    pub use alloc::string::{String, ToString};
    pub use alloc::vec::Vec;
    pub use alloc::{format, vec};
}

/// Sends text to the host's log, as the `print!` of `std` does to standard output.
///
/// Each use is one log record of level info and target `print`.
///
/// ```ignore
/// glowbox_guest::print!("{} items", 3);
/// ```
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::print_text(::core::format_args!($($argument)*)) };
}

/// Sends a line of text to the host's log, as the `println!` of `std` does to standard output.
///
/// ```ignore
/// glowbox_guest::println!("{} items", 3);
/// ```
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print_text(::core::format_args!($($argument)*)) };
}

/// What becomes of a start-up function that is called `main`.
#[cfg(not(feature = "std"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __start_up {
    ($($item:item)*) => { $($item)* };
}

/// What becomes of a start-up function that is called `main`: it goes into the program's own.
#[cfg(feature = "std")]
#[doc(hidden)]
#[macro_export]
macro_rules! __start_up {
    ($($item:item)*) => {
        fn main() {
            $($item)*
            $crate::serve()
        }
    };
}

/// What the macros' expansions use. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::arch::Message;
    pub use crate::arch::import_number;
    pub use crate::call::{
        DebugText, DisplayText, ExportHandler, ExportRecord, ImportRecord, NoText, Payload, Probe,
        Raise, RaiseAsError, RaiseAsPanic, ResultTypes, SerializePayload, Text, TextPayload,
        Untyped, bad_arguments, call_host, return_error, return_ok, return_value,
    };
    pub use crate::serving::{MainResult, run_main};
    pub use glowbox_abi::mailbox::FromGuest;
    pub use glowbox_abi::record::{Kind, Record};
    pub use glowbox_abi::typed::{Piece, Type, measure, render};
    pub use glowbox_abi::wire::{WireError, decode, encode};

    /// For test guests that speak the mailbox protocol by hand.
    pub mod raw {
        #[cfg(not(feature = "std"))]
        pub use crate::arch::set_entropy;
        pub use crate::arch::{batch_progress, leave, with_outgoing};
        pub use glowbox_abi::CALL_PORT;
        pub use glowbox_abi::mailbox::Entropy;
    }
}
