//! How a call ends: value, error of the guest, spent.

use std::time::Duration;

use glowbox::{ErrorKind, Sandbox};
use serde::{Deserialize, Serialize};
use testing_types::MathError;

use crate::support::{builder, error, guest, isolated, sandbox};

fn failing_start(behaviour: u32) -> Result<Sandbox, glowbox::Error> {
    Sandbox::builder()
        .host_function("behaviour", move || behaviour)
        .deadline(Duration::from_millis(300))
        .build(guest("failing_start"))
}

tests! {
    fn a_call_ends_with_its_value() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
        assert_eq!(sandbox.call::<_, u32>("divide", (12u32, 3u32)).unwrap(), 4);
        assert_eq!(sandbox.call::<_, Vec<u8>>("bytes_or_not", (true,)).unwrap(), vec![9; 5000]);
    }

    fn an_error_of_the_guest_carries_text_and_value_and_the_sandbox_goes_on() {
        let mut sandbox = sandbox();
        let zero = error(sandbox.call::<_, u32>("divide", (1u32, 0u32)));
        assert_eq!(zero.kind(), ErrorKind::Guest);
        assert_eq!(zero.to_string(), "guest function `divide` returned an error: division by zero");
        assert_eq!(zero.guest_error::<MathError>(), Some(MathError::Zero));
        let large = error(sandbox.call::<_, u32>("divide", (1001u32, 1u32)));
        assert_eq!(large.guest_error(), Some(MathError::TooLarge { limit: 1000 }));
        assert_eq!(sandbox.call::<_, u32>("divide", (9u32, 3u32)).unwrap(), 3);
    }

    fn the_whole_result_may_be_asked_for() {
        let mut sandbox = sandbox();
        let divide = sandbox.function::<(u32, u32), Result<u32, MathError>>("divide").unwrap();
        assert_eq!(divide.call(&mut sandbox, (8, 2)).unwrap(), Ok(4));
        assert_eq!(divide.call(&mut sandbox, (8, 0)).unwrap(), Err(MathError::Zero));
    }

    fn an_error_that_can_only_be_shown_arrives_as_its_text() {
        let mut sandbox = sandbox();
        let parse = error(sandbox.call::<_, u32>("parse", ("12x",)));
        assert!(parse.to_string().ends_with("invalid digit found in string"), "{parse}");
        assert_eq!(parse.guest_error::<String>().unwrap(), "invalid digit found in string");
        let whole: Result<u32, String> = sandbox.call("parse", ("",)).unwrap();
        assert_eq!(whole.unwrap_err(), "cannot parse integer from empty string");
    }

    fn a_result_under_an_alias_works_like_any_other() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("aliased_result", (false,)).unwrap(), 7);
        let failed = error(sandbox.call::<_, u32>("aliased_result", (true,)));
        assert_eq!(failed.kind(), ErrorKind::Guest);
        assert_eq!(failed.guest_error(), Some(MathError::Zero));
    }

    fn a_result_that_does_not_decode_spends_the_sandbox_and_says_what_was_expected() {
        let mut sandbox = sandbox();
        let malformed = error(sandbox.call::<_, String>("malformed_string", ()));
        assert_eq!(malformed.kind(), ErrorKind::Protocol);
        assert!(malformed.to_string().contains("String"), "{malformed}");
        assert!(sandbox.is_spent());
    }

    fn a_spent_sandbox_refuses_calls_and_says_why() {
        let mut sandbox = sandbox();
        let first = error(sandbox.call::<_, String>("malformed_string", ()));
        let entries = sandbox.stats().entries;
        for _ in 0..3 {
            let spent = error(sandbox.call::<_, u32>("add", (1u32, 2u32)));
            assert_eq!(spent.kind(), ErrorKind::Spent);
            assert!(spent.to_string().contains(&first.to_string()), "{spent}");
            assert!(std::error::Error::source(&spent).is_some());
        }
        assert_eq!(sandbox.stats().entries, entries);
    }

    fn a_start_up_function_that_succeeds_comes_before_the_first_call() {
        assert!(failing_start(0).unwrap().call::<_, bool>("alive", ()).unwrap());
    }

    fn an_error_of_the_start_up_function_fails_the_build_with_its_text() {
        let failed = error(failing_start(1));
        assert_eq!(failed.kind(), ErrorKind::Start);
        assert!(failed.to_string().contains("no configuration"), "{failed}");
        assert!(failed.to_string().contains("failing_start"), "{failed}");
    }

    fn a_panic_in_the_start_up_function_fails_the_build() {
        let failed = error(failing_start(2));
        assert_eq!(failed.kind(), ErrorKind::Panic);
        let panic = failed.panic().unwrap();
        assert_eq!(panic.message, "start-up panicked");
        assert!(panic.location.contains("main.rs:"), "{panic:?}");
    }

    fn a_start_up_function_that_never_ends_meets_the_deadline() {
        assert_eq!(error(failing_start(3)).kind(), ErrorKind::Deadline);
    }

    fn a_start_up_function_that_never_ends_is_stopped_where_calls_have_no_deadline() {
        let builder = Sandbox::builder().host_function("behaviour", || 3u32).no_deadline();
        let late = error(builder.build(guest("failing_start")));
        assert_eq!(late.kind(), ErrorKind::Deadline);
        assert!(late.to_string().contains("10s"), "{late}");
    }

    fn a_guest_that_starts_by_leaving_without_a_message_is_refused() {
        // out 0x47, al; jmp back to it: a message of kind 0.
        let code = [0xe6, 0x47, 0xeb, 0xfc];
        let bytes = glowbox_testguest::GuestFile::of_code(&code).to_bytes();
        let raw = glowbox::Guest::from_bytes("raw", bytes).unwrap();
        let refused = error(Sandbox::builder().build(raw));
        assert_eq!(refused.kind(), ErrorKind::Protocol);
        assert!(refused.to_string().contains("`kind` = 0x0"), "{refused}");
    }

    fn heap_and_messages_are_committed_only_when_they_are_used() {
        isolated("ends::heap_and_messages_are_committed_only_when_they_are_used", || {
            drop(sandbox());
            let before = resident();
            let builder = builder().memory_limit(8 << 30).message_size(1 << 30);
            let mut sandbox = builder.build(guest("testing")).expect("address space only");
            sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap();
            let built = resident().saturating_sub(before);
            // Of ten gigabytes. Where the kernel hands out huge pages unasked, each part that is
            // touched takes two megabytes.
            assert!(built < 16 << 20, "{built} bytes for a sandbox");
            assert_eq!(sandbox.call::<_, u32>("allocate", (1u32 << 20,)).unwrap(), 1 << 20);
            let grown = resident().saturating_sub(before);
            assert!((1 << 20..24 << 20).contains(&grown), "{grown} bytes for 1 MiB of heap");
        });
    }

    fn a_value_that_nests_too_deeply_spends_the_sandbox_and_not_the_hosts_stack() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, Tree>("tree", (40u32,)).unwrap().depth(), 41);
        let deep = error(sandbox.call::<_, Tree>("tree", (3000u32,)));
        assert_eq!(deep.kind(), ErrorKind::Protocol);
        assert!(deep.to_string().contains("128 levels"), "{deep}");
    }

    fn a_list_longer_than_its_message_spends_the_sandbox() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, Vec<()>>("units", (100u32,)).unwrap().len(), 100);
        let long = error(sandbox.call::<_, Vec<()>>("units", (1_000_000_000u32,)));
        assert_eq!(long.kind(), ErrorKind::Protocol);
    }
}

/// The host's half of the guest's type of this name.
#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
}

impl Tree {
    fn depth(&self) -> u32 {
        1 + self.children.iter().map(Tree::depth).max().unwrap_or(0)
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = text.split(' ').nth(1).expect("a field").parse().expect("a number");
    pages * 4096
}
