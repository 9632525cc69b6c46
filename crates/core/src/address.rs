//! Addresses that can't be mixed up.

use std::fmt;

/// Bytes in a page, for page tables, protections and limits.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a large page.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// End of the addresses at which guests have anything, on whichever backend: above it a backend may have what it
/// takes to run them. 64 GiB below the end of the lower half.
pub const GUESTS_END: u64 = 0x7ff0_0000_0000;

/// An offset into guest memory, which is mapped, as an index.
///
/// # Panics
///
/// If it does not fit the address space; then nothing of that size is mapped.
pub fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("guest memory fits the address space")
}

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further up.
            ///
            /// # Panics
            ///
            /// If it wraps, which no address of a checked layout does.
            #[must_use]
            pub fn offset(self, bytes: u64) -> Self {
                $name(self.0.checked_add(bytes).expect("addresses of a layout do not wrap"))
            }

            /// Whether the address is a multiple of `size`, a power of two.
            pub fn is_aligned(self, size: u64) -> bool {
                self.0 & (size - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A guest-physical address: an offset into guest memory.
    Gpa
}
address! {
    /// A guest-virtual address: what guest code sees.
    Gva
}

/// What guest code may do with a page. Writing and executing exclude each other by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protection::Read => "r--",
            Protection::ReadWrite => "rw-",
            Protection::ReadExecute => "r-x",
        })
    }
}
