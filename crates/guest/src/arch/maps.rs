//! What the host lends: reading its table, and the slices that it names.

use core::{ptr, slice};

use glowbox_abi::maps::{MAX_ENTRIES, MapEntry, MapTableHeader, entry_offset};

/// The entry of this number, as the table stands now; `None` after the last.
pub(crate) fn map_entry(number: usize) -> Option<MapEntry> {
    let table = usize::try_from(super::boot_info().map_table_address).ok()?;
    if table == 0 {
        return None;
    }
    // SAFETY: the host mapped a page there and aligned it. It writes to it only while the guest is
    // stopped, so a volatile read gives what it last wrote.
    let header: MapTableHeader = unsafe { ptr::read_volatile(ptr::with_exposed_provenance(table)) };
    let count = usize::try_from(header.count).unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES);
    (number < count).then(|| {
        let entry = ptr::with_exposed_provenance(table + entry_offset(number));
        // SAFETY: as above; the number is one of the entries that a page has room for.
        unsafe { ptr::read_volatile(entry) }
    })
}

/// The bytes that an entry of the table names.
pub(crate) fn mapped_bytes(entry: &MapEntry) -> &'static [u8] {
    let address = usize::try_from(entry.address).unwrap_or(0);
    let length = usize::try_from(entry.length).unwrap_or(0);
    if address == 0 {
        return &[];
    }
    // SAFETY: the host mapped that many bytes there, read-only, and keeps them mapped until it resets
    // this memory, with every reference in it, to a state before. Nobody writes to what it lends: that
    // is the embedder's promise for a file. If a file is cut short all the same, reading there ends the
    // call and never returns.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), length) }
}
