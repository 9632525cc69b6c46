//! The small guest of the benchmarks as a module for Wasmtime: the same function to call, and the same
//! 100 KiB of constants.

#[path = "../../src/table.rs"]
mod table;

/// Adds.
// SAFETY: no other crate of this module exports the name.
#[unsafe(no_mangle)]
pub extern "C" fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

/// Keeps the table from being thrown out of the module.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn lookup(index: u32) -> u32 {
    usize::try_from(index)
        .ok()
        .and_then(|index| table::TABLE.get(index))
        .map_or(0, |byte| (*byte).into())
}
