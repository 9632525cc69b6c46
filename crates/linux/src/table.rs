//! The table of system calls.

use std::sync::LazyLock;

use crate::call::{Answer, Call};

/// One system call that is answered.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// What it does here, in a few words: what is special, and what is refused.
    pub note: &'static str,
    pub(crate) handler: fn(&mut Call<'_>) -> Answer,
}

/// Entries for calls: number, name, handler, and what is special about it here.
macro_rules! entries {
    ($($name:ident $number:ident $handler:path: $note:literal;)*) => {
        &[$($crate::table::Entry {
            number: ::linux_raw_sys::general::$number,
            name: stringify!($name),
            note: $note,
            handler: $handler,
        }),*]
    };
}
pub(crate) use entries;

/// Every entry, by ascending number.
pub fn all() -> &'static [Entry] {
    static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let parts = [
            crate::space::CALLS,
            crate::files::CALLS,
            crate::threads::CALLS,
            crate::clock::CALLS,
            crate::random::CALLS,
            crate::process::CALLS,
        ];
        let mut table: Vec<Entry> = parts.concat();
        table.sort_unstable_by_key(|entry| entry.number);
        table
    });
    &TABLE
}

/// The entry of a call, if it is answered.
pub fn find(number: u32) -> Option<&'static Entry> {
    let table = all();
    table.binary_search_by_key(&number, |entry| entry.number).ok().map(|index| &table[index])
}

/// The table as Markdown, for `docs/linux-guests.md`.
pub fn markdown() -> String {
    let mut text = String::from("| number | call | here |\n| --- | --- | --- |\n");
    for Entry { number, name, note, .. } in all() {
        text.push_str(&format!("| {number} | `{name}` | {note} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_comes_twice() {
        assert!(all().windows(2).all(|pair| pair[0].number < pair[1].number));
    }
}
