//! The map table: files and bytes that the host lends a guest read-only.
//!
//! One page, which the guest can't write, at
//! [`BootInfo::map_table_address`](crate::mailbox::BootInfo::map_table_address): a [`MapTableHeader`],
//! and from [`ENTRIES_OFFSET`] on as many [`MapEntry`]s as it says. The host may change it whenever
//! the guest is stopped, so a guest reads it anew each time.

use crate::mailbox::header;

/// Bytes in the table.
pub const TABLE_SIZE: usize = 4096;
/// Where the first entry starts.
pub const ENTRIES_OFFSET: usize = 64;
/// Most entries that a table has room for.
pub const MAX_ENTRIES: usize = 63;
/// Longest name in bytes.
pub const MAX_NAME: usize = 40;

header! {
    /// What the map table starts with.
    MapTableHeader, 8 {
        /// How many entries there are.
        count: u64,
    }
}

header! {
    /// Something that the host lends, under a name.
    MapEntry, 64 {
        /// Where it starts; a multiple of the page size.
        address: u64,
        /// How many bytes it is. What follows up to the end of the last page reads as zero.
        length: u64,
        /// Bytes of the name.
        name_length: u32,
        /// Zero.
        reserved: u32,
        /// The name in UTF-8, and zeros after it.
        name: [u8; MAX_NAME],
    }
}

const _: () = assert!(MapTableHeader::SIZE <= ENTRIES_OFFSET);
const _: () = assert!(ENTRIES_OFFSET + MAX_ENTRIES * MapEntry::SIZE == TABLE_SIZE);

/// Where the entry of this number starts in the table.
pub const fn entry_offset(number: usize) -> usize {
    ENTRIES_OFFSET + number * MapEntry::SIZE
}

impl MapEntry {
    /// An entry; `None` if the name is empty or longer than [`MAX_NAME`].
    pub fn new(name: &str, address: u64, length: u64) -> Option<MapEntry> {
        let mut padded = [0; MAX_NAME];
        padded.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        let name_length = u32::try_from(name.len()).ok().filter(|length| *length > 0)?;
        Some(MapEntry { address, length, name_length, reserved: 0, name: padded })
    }

    /// Its name; `None` if that is no name.
    pub fn name(&self) -> Option<&str> {
        let length = usize::try_from(self.name_length).ok().filter(|length| *length > 0)?;
        core::str::from_utf8(self.name.get(..length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_way_to_bytes_and_back() {
        let entry = MapEntry::new("weights.bin", 0x7f_0000_0000, 1 << 30).unwrap();
        let bytes = entry.to_bytes();
        assert_eq!(MapEntry::from_bytes(&bytes), entry);
        assert_eq!(MapEntry::from_bytes(&bytes).name(), Some("weights.bin"));
        assert_eq!(&bytes[24..36], b"weights.bin\0");
    }

    #[test]
    fn names_are_from_1_to_40_bytes() {
        let name = "n".repeat(40);
        assert_eq!(MapEntry::new(&name, 0, 0).unwrap().name(), Some(&name[..]));
        assert_eq!(MapEntry::new(&"n".repeat(41), 0, 0), None);
        assert_eq!(MapEntry::new("", 0, 0), None);
    }

    #[test]
    fn bytes_that_are_no_name_are_none() {
        assert_eq!(MapEntry::default().name(), None);
        let entry = MapEntry { name_length: 41, ..MapEntry::default() };
        assert_eq!(entry.name(), None);
        assert_eq!(MapEntry { name_length: u32::MAX, ..entry }.name(), None);
        assert_eq!(MapEntry { name_length: 1, name: [0xff; 40], ..entry }.name(), None);
    }

    #[test]
    fn the_last_entry_ends_with_the_table() {
        assert_eq!(entry_offset(0), ENTRIES_OFFSET);
        assert_eq!(entry_offset(MAX_ENTRIES), TABLE_SIZE);
    }
}
