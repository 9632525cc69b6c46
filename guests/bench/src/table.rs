//! What makes the guest's image the 100 KiB that the bound on creation is about: constants as a
//! program has them in fonts, dictionaries or lookup tables.

/// No byte of it is zero, so it stands in the file.
pub(crate) static TABLE: [u8; 100 << 10] = table();

const fn table() -> [u8; 100 << 10] {
    let mut table = [0; 100 << 10];
    let mut state: u32 = 1;
    let mut at = 0;
    while at < table.len() {
        // A step of Marsaglia's xorshift; its bytes are no pattern that a file system might shrink.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        table[at] = state.to_le_bytes()[0] | 1;
        at += 1;
    }
    table
}
