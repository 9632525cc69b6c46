//! What the host lends.

use glowbox_guest::{guest_function, mapped, mapped_names};

#[guest_function]
fn map_names() -> Vec<String> {
    mapped_names().collect()
}

#[guest_function]
fn map_length(name: &str) -> Option<u64> {
    mapped(name).map(|bytes| bytes.len() as u64)
}

/// Up to `length` bytes from `offset` on.
#[guest_function]
fn map_read(name: &str, offset: u64, length: u32) -> Option<&'static [u8]> {
    let start = usize::try_from(offset).ok()?;
    let bytes = mapped(name)?.get(start..)?;
    Some(&bytes[..bytes.len().min(length as usize)])
}

/// The sum of all bytes.
#[guest_function]
fn map_sum(name: &str) -> Option<u64> {
    mapped(name).map(|bytes| bytes.iter().map(|byte| u64::from(*byte)).sum())
}
