//! Text of strangers, as it may be shown.
//!
//! A guest chooses its texts, and so does whoever makes a file: names, messages, results. Shown raw, a
//! control character moves a terminal's cursor or sets its title, a line end fakes a line of somebody
//! else, and an override reorders what was already there.

use std::fmt::{self, Write};

/// Whether a character can make a log, an error or a terminal show what is not there: control
/// characters but tabs, line ends included, and those that reorder text.
pub fn misleads(character: char) -> bool {
    character.is_control() && character != '\t'
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}'
            | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

/// Shows a text with every character that [`misleads`] as its escape, so that it stays one line.
///
/// ```
/// use glowbox_core::escape::Escaped;
///
/// assert_eq!(Escaped("a\x1b[2Jb\nc").to_string(), "a\\u{1b}[2Jb\\nc");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if misleads(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}
