//! Which function an address lies in, from the guest's own symbol table.
//!
//! Looked up only when a guest has gone wrong, straight from the file's bytes, so that a program
//! with a large symbol table costs nothing to load. The names are the guest's claims: they are
//! shown to people and used for nothing else.

use std::fmt;

use object::LittleEndian;
use object::elf::{FileHeader64, SHT_SYMTAB, STT_FUNC};
use object::read::elf::{FileHeader, Sym};

/// Longest symbol name kept: in bytes before demangling, in characters after.
const MAX_NAME: usize = 512;

/// A function and an offset into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The function's name, demangled.
    pub name: String,
    /// Bytes from the function's start.
    pub offset: u64,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// Finds the function that covers `address`, an address as it stands in the file.
///
/// `None` where the file has no symbols, they are damaged, or none covers the address.
pub fn find(file: &[u8], address: u64) -> Option<Symbol> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(file).ok()?;
    let sections = header.sections(endian, file).ok()?;
    let symbols = sections.symbols(endian, file, SHT_SYMTAB).ok()?;
    let (start, symbol) = symbols
        .iter()
        .filter(|symbol| symbol.st_type() == STT_FUNC)
        .map(|symbol| (symbol.st_value(endian), symbol))
        .filter(|(start, symbol)| {
            address.checked_sub(*start).is_some_and(|into| into < symbol.st_size(endian).max(1))
        })
        .max_by_key(|(start, _)| *start)?;
    let name = symbol.name(endian, symbols.strings()).ok()?;
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]);
    let demangled = format!("{:#}", rustc_demangle::demangle(&name));
    // A short mangled name can stand for a very long one.
    let printable = demangled.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    Some(Symbol { name: printable, offset: address - start })
}
