//! Any bytes as function records and as signatures: what is accepted means one thing, and says no more
//! than there is.

use glowbox_abi::record::{Kind, RecordError, Records};
use glowbox_core::elf::{Personality, Program};
use glowbox_core::signature::{Signature, TypeName};
use glowbox_testguest::{GuestFile, Record};

/// Longest text of an error about a signature.
const MOST_TEXT: usize = 1000;

/// Where the first section of a guest of two bytes of code stands: behind the file header, two program
/// headers, the code and a page of data.
const SECTION: usize = 64 + 2 * 56 + 2 + 4096;

/// Reads the bytes as records, as the section of a guest, and as the texts that records carry.
///
/// # Panics
///
/// If what is accepted is not sound.
pub fn run(bytes: &[u8]) {
    records(bytes);
    section(bytes);
    text(&String::from_utf8_lossy(bytes));
}

fn records(bytes: &[u8]) {
    let mut end = 0;
    for record in Records::new(bytes) {
        match record {
            Ok(view) => {
                let offset = usize::try_from(view.offset).expect("32 bits");
                assert!(offset >= end && offset.is_multiple_of(8), "records ascend");
                end = offset + 32 + view.name.len() + view.signature.len();
                assert!(end <= bytes.len());
                let named = matches!(view.kind, Kind::Function | Kind::Import);
                assert!(!named || !view.name.is_empty());
                assert!(!view.name.chars().chain(view.signature.chars()).any(char::is_control));
            }
            Err(error) => {
                assert!(error.to_string().len() < MOST_TEXT);
                let (RecordError::Truncated { offset }
                | RecordError::Field { offset, .. }
                | RecordError::Text { offset }) = error
                else {
                    continue;
                };
                assert!(offset < bytes.len());
            }
        }
    }
}

/// A guest whose export section is these bytes, and zeros up to the least that a record takes.
fn guest(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len().next_multiple_of(8).max(40);
    let mut file = GuestFile::of_code(&[0xeb, 0xfe]);
    let placeholder = Record::function("p", &"~".repeat(size - 33));
    file.exports = Some(vec![placeholder.clone()]);
    let mut whole = file.to_bytes();
    let placeholder = placeholder.to_bytes();
    assert_eq!(placeholder.len(), size);
    let at = SECTION;
    assert_eq!(whole[at..at + size], placeholder, "the section stands there");
    whole[at..at + size].fill(0);
    whole[at..at + bytes.len()].copy_from_slice(bytes);
    whole
}

fn section(bytes: &[u8]) {
    let Ok(program) = Program::parse(guest(bytes).into()) else { return };
    assert_eq!(program.personality(), Personality::Glowbox);
    let mut names = std::collections::HashSet::new();
    for function in program.exports() {
        // A signature that was accepted is shown as one that means the same.
        same(&function.signature);
        assert!(usize::try_from(function.number).is_ok_and(|number| number < bytes.len()));
        names.insert(&function.name);
    }
    let kinds = || Records::new(bytes).flatten().filter(|view| view.kind == Kind::Function);
    if kinds().count() == program.exports().len() {
        assert_eq!(names.len(), program.exports().len(), "no two functions have one name");
    }
}

fn text(text: &str) {
    match Signature::parse(text) {
        Ok(signature) => same(&signature),
        Err(error) => assert!(error.to_string().len() < MOST_TEXT && error.at <= text.len()),
    }
    match TypeName::parse(text) {
        Ok(of) => {
            let shown = of.to_string();
            assert_eq!(TypeName::parse(&shown).as_ref(), Ok(&of), "{text} is shown as {shown}");
        }
        Err(error) => assert!(error.to_string().len() < MOST_TEXT && error.at <= text.len()),
    }
}

fn same(signature: &Signature) {
    let shown = signature.to_string();
    let again = Signature::parse(&shown);
    assert!(again.is_ok_and(|again| again.same_types(signature)), "it is shown as {shown}");
}
