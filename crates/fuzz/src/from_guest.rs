//! Anything a guest may write to its mailbox, read as a host reads it: kinds, ranges, batches, values,
//! texts; and anything it may fault at.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use glowbox_abi::mailbox::{FromGuest, MESSAGE_ALIGN};
use glowbox_core::batch::{Results, new_results};
use glowbox_core::elf::Program;
use glowbox_core::escape::{Escaped, misleads};
use glowbox_core::fault::{Code, Exception, Fault};
use glowbox_core::layout::{Layout, Limits};
use glowbox_core::mail::{GuestMail, MailboxSizes, Return, Untrusted};
use glowbox_core::registers::Registers;
use glowbox_testguest::GuestFile;

use crate::input::Input;
use crate::values;

/// Bytes of the host's buffer, for offsets into it.
const INCOMING: u64 = 0x3000;

/// Reads the bytes as a header and the outgoing buffer after it.
///
/// # Panics
///
/// If a message is accepted that is none.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let header: [u8; FromGuest::SIZE] = input.array();
    let choice = u32::from(input.byte());
    let (count, taken) = (usize::from(input.byte()), usize::from(input.byte()));
    let outgoing = input.rest();
    let sizes = MailboxSizes { incoming: INCOMING, outgoing: outgoing.len() as u64 };
    match GuestMail::check(&header, sizes) {
        Ok(mail) => read(&mail, choice, outgoing),
        Err(violation) => assert!(violation.to_string().len() < 500),
    }
    results(FromGuest::from_bytes(&header).amount, count, taken, choice, outgoing);
    fault(outgoing);
}

fn read(mail: &GuestMail, choice: u32, outgoing: &[u8]) {
    let part = |range: &Range<usize>| &outgoing[range.clone()];
    match mail {
        GuestMail::Return(returned) => value(returned, choice, outgoing),
        GuestMail::HostCall { arguments, reply_offset, .. } => {
            assert!(*reply_offset as u64 <= INCOMING);
            assert!((*reply_offset as u64).is_multiple_of(MESSAGE_ALIGN));
            values::decode(choice, part(arguments));
        }
        GuestMail::Log { level, target, text } => {
            assert!((1..=5).contains(level) && target.end == text.start);
            shown(part(target));
            shown(part(text));
        }
        GuestMail::Panic { text, location } => {
            shown(part(text));
            shown(part(location));
        }
        GuestMail::StartError { text } => shown(part(text)),
        GuestMail::Ready
        | GuestMail::OutOfMemory { .. }
        | GuestMail::BatchFlush
        | GuestMail::BatchEnd => {}
    }
}

fn value(returned: &Return, choice: u32, outgoing: &[u8]) {
    match returned {
        Return::Value(range) => values::decode(choice, &outgoing[range.clone()]),
        Return::Error { text, payload } => {
            assert_eq!(text.end, payload.start);
            shown(&outgoing[text.clone()]);
            values::decode(13, &outgoing[payload.clone()]);
        }
        Return::BadArguments | Return::TooLarge { .. } => {}
    }
}

/// A guest's text is one line that shows what it is.
fn shown(text: &[u8]) {
    let shown = Escaped(&String::from_utf8_lossy(text)).to_string();
    assert!(!shown.chars().any(misleads), "{shown:?}");
}

/// Reads the outgoing buffer as the results of a batch.
fn results(done: u64, calls: usize, taken: usize, choice: u32, outgoing: &[u8]) {
    let Ok(new) = new_results(Untrusted::new(done), taken, calls) else { return };
    assert!(taken + new <= calls);
    let mut row = Results::new(new);
    let mut end = 0;
    let mut found = 0;
    while let Some(returned) = row.next(outgoing) {
        let Ok(returned) = returned else { return };
        found += 1;
        match &returned {
            Return::Value(range) => assert!(range.start >= end && range.end <= row.end()),
            Return::Error { text, payload } => {
                assert!(text.start >= end && payload.end <= row.end())
            }
            Return::BadArguments => {}
            Return::TooLarge { .. } => panic!("no result in a batch is too large"),
        }
        end = row.end();
        assert!(end <= outgoing.len());
        value(&returned, choice, outgoing);
    }
    assert_eq!(found, new);
}

fn layout() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let bytes = GuestFile::of_code(&[0xeb, 0xfe]).to_bytes();
        let program = Program::parse(Arc::from(bytes)).expect("a guest");
        Layout::new(&program, Limits::MIN, 7).expect("limits that can be")
    })
}

/// Names a fault whose registers and code are the guest's.
fn fault(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let vector = input.byte() % 32;
    let mut word = || input.word();
    let registers =
        Registers { rip: word(), rsp: word(), rcx: word(), rflags: word(), ..Registers::default() };
    let (error_code, address, entry) = (word(), word(), word());
    let address = (vector == 14).then_some(address);
    let exception = Exception { vector, error_code, address, registers };
    let entry = if entry & 1 == 0 { registers.rip } else { entry };
    let before = input.take(usize::from(vector & 3));
    let code = Code { before, at: input.take(15) };
    let (kind, rip) = Fault::classify(&exception, layout(), code, entry);
    let fault = Fault::new(kind, Registers { rip, ..registers }, Some(&exception), None);
    assert!(fault.to_string().len() < 4096);
}
