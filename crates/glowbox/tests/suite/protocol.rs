//! A guest that breaks the mailbox's rules gets an error; the host runs nothing and goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use glowbox::{ErrorKind, Sandbox};

use crate::support::{builder_without, error, guest, sandbox};

/// Kinds of message from the guest, as the ABI numbers them.
const READY: u32 = 1;
const RETURN: u32 = 2;
const HOST_CALL: u32 = 3;
const LOG: u32 = 4;
const PANIC: u32 = 5;
const START_ERROR: u32 = 7;

/// kind, status, function, text_length, offset, length, reply_offset
type Header = (u32, u32, u32, u32, u64, u64, u64);

fn send(sandbox: &mut Sandbox, header: Header) -> Result<(u32, u32), glowbox::Error> {
    sandbox.call("send_raw", header)
}

fn refused(header: Header, word: &str) {
    let mut sandbox = sandbox();
    let error = error(send(&mut sandbox, header));
    assert_eq!(error.kind(), ErrorKind::Protocol, "{header:?}: {error}");
    assert!(error.to_string().contains(word), "{header:?}: {error}");
    assert!(sandbox.is_spent());
}

tests! {
    fn a_call_of_what_is_not_registered_gets_an_error_and_nothing_runs() {
        let ran = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&ran);
        let mut sandbox = builder_without("host_add")
            .host_function("host_add", move |_: u32, _: u32| -> u32 {
                count.fetch_add(1, Ordering::SeqCst);
                0
            })
            // Registered, but not imported by the guest: not callable either.
            .host_function("secret", || 42u32)
            .build(guest("testing"))
            .unwrap();
        let real: Vec<u32> = imports().iter().map(|(_, number)| *number).collect();
        let others = (0..=1200).chain([0xffff, u32::MAX - 1, u32::MAX]);
        for number in others.filter(|number| !real.contains(number)) {
            // The answer: a reply with status "not registered".
            let answer = send(&mut sandbox, (HOST_CALL, 0, number, 0, 0, 0, 0)).unwrap();
            assert_eq!(answer, (2, 1), "function number {number}");
        }
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    }

    fn arguments_of_a_host_call_that_do_not_decode_spend_the_sandbox_and_nothing_runs() {
        let ran = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&ran);
        let mut sandbox = builder_without("host_echo")
            .host_function("host_echo", move |data: Vec<u8>| -> Vec<u8> {
                count.fetch_add(1, Ordering::SeqCst);
                data
            })
            .build(guest("testing"))
            .unwrap();
        let number = number_of_import("host_echo");
        sandbox.call::<_, ()>("leave_bytes", (&[0xffu8; 16][..],)).unwrap();
        let error = error(send(&mut sandbox, (HOST_CALL, 0, number, 0, 0, 16, 0)));
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("`host_echo`"), "{error}");
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }

    fn a_host_call_by_hand_with_proper_bytes_is_a_host_call() {
        let mut sandbox = sandbox();
        let number = number_of_import("host_add");
        sandbox.call::<_, ()>("leave_bytes", (&[1u8, 2][..],)).unwrap();
        // `send_raw` itself left its own arguments where the reply goes; it has read them.
        let answer = send(&mut sandbox, (HOST_CALL, 0, number, 0, 0, 2, 64)).unwrap();
        assert_eq!(answer, (2, 0));
    }

    fn unknown_kinds_and_statuses_spend_the_sandbox() {
        refused((0, 0, 0, 0, 0, 0, 0), "kind");
        refused((10, 0, 0, 0, 0, 0, 0), "kind");
        refused((u32::MAX, 0, 0, 0, 0, 0, 0), "kind");
        refused((RETURN, 4, 0, 0, 0, 0, 0), "status");
        refused((LOG, 0, 0, 0, 0, 0, 0), "status");
        refused((LOG, 6, 0, 0, 0, 0, 0), "status");
    }

    fn ranges_outside_the_buffers_spend_the_sandbox() {
        let size = 16 << 20;
        for kind in [RETURN, HOST_CALL, PANIC] {
            refused((kind, 0, 0, 0, size + 1, 0, 0), "offset");
            refused((kind, 0, 0, 0, u64::MAX, 1, 0), "offset");
            refused((kind, 0, 0, 0, 0, size + 1, 0), "length");
            refused((kind, 0, 0, 0, 16, u64::MAX, 0), "length");
        }
        refused((LOG, 1, 0, 9, 0, 8, 0), "text_length");
        refused((HOST_CALL, 0, 0, 0, 0, 0, 8), "reply_offset");
        refused((HOST_CALL, 0, 0, 0, 0, 0, size + 16), "reply_offset");
    }

    fn messages_out_of_turn_spend_the_sandbox() {
        refused((READY, 0, 0, 0, 0, 0, 0), "out of turn");
        refused((START_ERROR, 0, 0, 0, 0, 0, 0), "out of turn");
    }

    fn a_reply_at_the_very_end_of_the_buffer_does_not_fit() {
        let mut sandbox = sandbox();
        let number = number_of_import("host_add");
        sandbox.call::<_, ()>("leave_bytes", (&[1u8, 2][..],)).unwrap();
        let answer = send(&mut sandbox, (HOST_CALL, 0, number, 0, 0, 2, 16 << 20)).unwrap();
        // A reply with status "too large".
        assert_eq!(answer, (2, 3));
    }

    fn text_of_a_panic_by_hand_is_made_safe_to_show() {
        let mut sandbox = sandbox();
        sandbox.call::<_, ()>("leave_bytes", (&b"\x1b[2J\xff!"[..],)).unwrap();
        let error = error(send(&mut sandbox, (PANIC, 0, 0, 6, 0, 6, 0)));
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
}

/// The host functions that the guest `testing` imports, and their numbers.
fn imports() -> Vec<(String, u32)> {
    let bytes = std::fs::read(guest("testing").path().expect("a file")).expect("the guest's file");
    let program = glowbox_core::elf::Program::parse(bytes.into()).expect("a guest");
    program.imports().iter().map(|import| (import.name.clone(), import.number)).collect()
}

fn number_of_import(name: &str) -> u32 {
    imports().into_iter().find(|(found, _)| found == name).expect("an import").1
}
