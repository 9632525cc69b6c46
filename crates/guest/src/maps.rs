//! Files and bytes that the host lends, without a copy.

use alloc::string::{String, ToString};
use glowbox_abi::maps::MapEntry;

use crate::arch;

/// What the host lends under this name (`Sandbox::map` on the host), as it stands now; `None` if there
/// is no such thing.
///
/// It is the host's own memory or file, read-only, however large: nothing is copied, and what is not
/// read costs nothing. It stays where it is until the sandbox is reset, and with that nothing of this
/// guest's memory remembers it. The host may lend more between two calls, so ask in each call, and not
/// once at start-up.
///
/// If the file behind it has been cut short in the meantime, reading past its end ends the call, as a
/// fault does.
///
/// ```ignore
/// #[guest_function]
/// fn count_lines() -> Option<usize> {
///     let text = glowbox_guest::mapped("corpus.txt")?;
///     Some(text.iter().filter(|byte| **byte == b'\n').count())
/// }
/// ```
pub fn mapped(name: &str) -> Option<&'static [u8]> {
    let entry = entries().find(|entry| entry.name() == Some(name))?;
    Some(arch::mapped_bytes(&entry))
}

/// The names of what the host lends now.
///
/// ```ignore
/// for name in glowbox_guest::mapped_names() {
///     println!("{name}: {} bytes", glowbox_guest::mapped(&name).map_or(0, <[u8]>::len));
/// }
/// ```
pub fn mapped_names() -> impl Iterator<Item = String> {
    entries().filter_map(|entry| entry.name().map(ToString::to_string))
}

fn entries() -> impl Iterator<Item = MapEntry> {
    (0..).map_while(arch::map_entry)
}
