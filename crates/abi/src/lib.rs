//! What a Glowbox host and its guests agree on.
//!
//! Both sides compile this crate, so there is one definition of every offset, number and encoding
//! that crosses the border:
//!
//! - [`mailbox`]: the control page, its two headers, and the messages they describe;
//! - [`batch`]: many calls in one message;
//! - [`maps`]: the table of what the host lends a guest;
//! - [`record`]: how a guest's functions, and the host functions it imports, stand in its ELF file;
//! - [`typed`]: how a type is written in a signature;
//! - [`wire`]: how arguments and results become bytes.
//!
//! Nothing here trusts anything: the host reads guest memory through functions that return an
//! error or a claim still to be checked, never through a cast. The crate is `no_std` and holds no
//! `unsafe`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod batch;
mod limited;
pub mod mailbox;
pub mod maps;
pub mod record;
pub mod typed;
pub mod wire;

/// Version of everything in this crate. A guest built against another version is refused when it
/// is loaded, by the number in its function section.
pub const ABI_VERSION: u32 = 2;

/// The one I/O port a guest may write to; writing any value to it hands control to the host.
pub const CALL_PORT: u8 = 0x47;

/// Auxiliary-vector entry (`a_type`) through which a guest finds its [`mailbox::BootInfo`].
///
/// The number lies far outside the range that Linux uses, so a program that does not know it
/// ignores it.
pub const AT_GLOWBOX: u64 = 0x474c_4f57;
