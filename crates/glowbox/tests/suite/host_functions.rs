//! Calls from the guest into the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use glowbox::{Caller, ErrorKind, HostError, Sandbox};

use crate::support::{builder, error, guest, sandbox};

mod picky {
    /// A number that panics while it is decoded, if it is thirteen.
    #[allow(non_camel_case_types, reason = "signatures are compared by this name")]
    pub(super) struct u32(pub(super) std::primitive::u32);

    impl<'de> serde::Deserialize<'de> for u32 {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let number = std::primitive::u32::deserialize(from)?;
            assert_ne!(number, 13, "not thirteen");
            Ok(u32(number))
        }
    }
}

tests! {
    fn a_guest_calls_host_functions_with_values_both_ways() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("call_host_add", (20u32, 22u32)).unwrap(), 42);
        let data = vec![3u8; 100_000];
        assert_eq!(sandbox.call::<_, Vec<u8>>("call_host_echo", (&data[..],)).unwrap(), data);
        assert_eq!(sandbox.stats().host_calls, 2);
    }

    fn an_error_of_a_host_function_is_the_guests_to_handle() {
        let mut sandbox = sandbox();
        let mut call = |name: &str, number: u32| sandbox.call::<_, String>(name, (number,)).unwrap();
        assert_eq!(call("call_host_checked", 5), "ok 5");
        assert_eq!(call("call_host_checked", 0), "error: zero is refused");
        assert_eq!(call("call_host_typed", 5), "ok 5");
        assert_eq!(call("call_host_typed", 0), "typed error: zero");
    }

    fn host_functions_keep_state_of_their_own() {
        let hello = guest("hello");
        let mut days = ["Monday", "Tuesday"].iter().cycle();
        let mut sandbox = Sandbox::builder()
            .host_function("weekday", move || (*days.next().expect("a cycle")).to_string())
            .build(&hello)
            .unwrap();
        let mut greet = || sandbox.call::<_, String>("greet", ("you",)).unwrap();
        assert_eq!(greet(), "Hello, you! Today is Monday.");
        assert_eq!(greet(), "Hello, you! Today is Tuesday.");
    }

    fn a_missing_host_function_is_an_error_that_names_it_and_its_signature() {
        let error = error(Sandbox::builder().build(guest("hello")));
        assert_eq!(error.kind(), ErrorKind::HostFunctionMissing);
        assert!(error.to_string().contains("`weekday() -> String`"), "{error}");
    }

    fn a_host_function_of_another_type_is_an_error_with_both_signatures() {
        let builder = Sandbox::builder().host_function("weekday", |_: u8| 1u32);
        let error = error(builder.build(guest("hello")));
        assert_eq!(error.kind(), ErrorKind::SignatureMismatch);
        assert!(error.to_string().contains("`weekday() -> String`"), "{error}");
        assert!(error.to_string().contains("`weekday(u8) -> u32`"), "{error}");
    }

    fn a_name_registered_twice_is_refused() {
        let error = error(builder().host_function("host_add", || 1u8).build(guest("testing")));
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains("`host_add`"), "{error}");
    }

    fn closures_take_up_to_twelve_arguments() {
        type U = u8;
        let register = Sandbox::builder()
            .host_function("weekday", String::new)
            .host_function(
                "twelve",
                |a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U, i: U, j: U, k: U, l: U| {
                    [a, b, c, d, e, f, g, h, i, j, k, l].iter().map(|n| u32::from(*n)).sum::<u32>()
                },
            )
            .host_function(
                "twelve_and_caller",
                |_: &mut Caller<'_>, a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U, i: U, j: U,
                 k: U, l: U| { (a, b, c, d, e, f, g, h, i, j, k, l) },
            );
        // More functions than a guest asks for are no error.
        register.build(guest("hello")).unwrap();
    }

    fn closures_of_twelve_arguments_are_called_with_all_of_them_in_order() {
        type U = u8;
        let expected: Vec<u8> = (1..=12).collect();
        assert_eq!(sandbox().call::<_, Vec<u8>>("call_host_twelve", ()).unwrap(), expected);
        let with_caller = |caller: &mut Caller<'_>, a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U,
                           i: U, j: U, k: U, l: U| {
            caller.call::<_, ()>("nothing", ()).unwrap();
            vec![a, b, c, d, e, f, g, h, i, j, k, l]
        };
        let mut sandbox = crate::support::builder_without("host_twelve")
            .host_function("host_twelve", with_caller)
            .build(guest("testing"))
            .unwrap();
        assert_eq!(sandbox.call::<_, Vec<u8>>("call_host_twelve", ()).unwrap(), expected);
    }

    fn host_functions_call_back_into_the_guest() {
        let mut sandbox = sandbox();
        for depth in [0, 1] {
            let text = "borrowed until the end";
            assert_eq!(sandbox.call::<_, u32>("visit", (depth, text)).unwrap(), depth + 1);
        }
        // Two host functions deep.
        assert_eq!(sandbox.call::<_, String>("visit_checked", (1u32,)).unwrap(), "ok 2");
    }

    fn nesting_is_bounded_to_sixteen() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("step", (0u32,)).unwrap(), 16);
        assert_eq!(sandbox.call::<_, u32>("step", (10u32,)).unwrap(), 8);
    }

    fn a_host_function_that_is_running_is_not_entered_again() {
        let entered = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&entered);
        let weekday = move |caller: &mut Caller<'_>| -> String {
            count.fetch_add(1, Ordering::SeqCst);
            match caller.call::<_, String>("greet", ("again",)) {
                Ok(text) => text,
                Err(error) => format!("{:?}", error.kind()),
            }
        };
        let mut sandbox =
            Sandbox::builder().host_function("weekday", weekday).build(guest("hello")).unwrap();
        let error = error(sandbox.call::<_, String>("greet", ("you",)));
        // The guest can't handle the refusal in a function that returns no Result: it panics.
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert!(error.to_string().contains("running already"), "{error}");
        assert_eq!(entered.load(Ordering::SeqCst), 1);
    }

    fn a_panic_in_a_host_function_ends_the_call_and_leaves_the_host_in_order() {
        let mut sandbox = Sandbox::builder()
            .host_function("weekday", || -> String { panic!("no calendar today") })
            .build(guest("hello"))
            .unwrap();
        let panicked = error(sandbox.call::<_, String>("greet", ("you",)));
        assert_eq!(panicked.kind(), ErrorKind::HostPanic);
        assert!(panicked.to_string().contains("`weekday` panicked: no calendar today"), "{panicked}");
        assert_eq!(error(sandbox.call::<_, String>("greet", ("you",))).kind(), ErrorKind::Spent);
        assert_eq!(crate::support::sandbox().call::<_, u32>("add", (1u32, 1u32)).unwrap(), 2);
    }

    fn a_panic_while_a_host_functions_arguments_are_decoded_leaves_the_host_in_order() {
        let mut sandbox = crate::support::builder_without("host_picky")
            .host_function("host_picky", |number: picky::u32| number.0)
            .build(guest("testing"))
            .unwrap();
        let handle = sandbox.interrupt_handle();
        assert_eq!(sandbox.call::<_, u32>("call_host_picky", (7u32,)).unwrap(), 7);
        let panicked = error(sandbox.call::<_, u32>("call_host_picky", (13u32,)));
        assert_eq!(panicked.kind(), ErrorKind::HostPanic);
        assert!(panicked.to_string().contains("not thirteen"), "{panicked}");
        assert!(sandbox.is_spent());
        assert!(!handle.interrupt(), "nothing runs any more");
        assert_eq!(error(sandbox.call::<_, u32>("add", (1u32, 2u32))).kind(), ErrorKind::Spent);
    }

    fn closures_and_results_that_panic_when_dropped_are_contained() {
        #[derive(Clone)]
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let bomb = Bomb;
        let weekday = move || -> String {
            let _kept = &bomb;
            std::panic::panic_any(Bomb)
        };
        let mut sandbox =
            Sandbox::builder().host_function("weekday", weekday).build(guest("hello")).unwrap();
        let panicked = error(sandbox.call::<_, String>("greet", ("you",)));
        assert_eq!(panicked.kind(), ErrorKind::HostPanic);
    }

    fn a_result_that_cannot_be_encoded_spends_the_sandbox_and_says_so() {
        // The name is what the guest asks for; the value is not.
        mod named {
            pub(super) struct String;
            impl serde::Serialize for String {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("never"))
                }
            }
        }
        let mut sandbox = Sandbox::builder()
            .host_function("weekday", || named::String)
            .build(guest("hello"))
            .unwrap();
        let failed = error(sandbox.call::<_, String>("greet", ("you",)));
        assert_eq!(failed.kind(), ErrorKind::HostResult);
    }

    fn a_panic_in_the_log_sink_ends_the_call() {
        let mut sandbox = builder()
            .log_sink(|_| panic!("disk full"))
            .build(guest("testing"))
            .unwrap();
        let panicked = error(sandbox.call::<_, ()>("say", ("x",)));
        assert_eq!(panicked.kind(), ErrorKind::HostPanic);
        assert!(panicked.to_string().contains("disk full"), "{panicked}");
    }

    fn a_result_of_a_host_function_that_does_not_fit_is_an_error_in_the_guest() {
        let mut sandbox = Sandbox::builder()
            .message_size(8192)
            .host_function("weekday", || "x".repeat(10_000))
            .build(guest("hello"))
            .unwrap();
        let error = error(sandbox.call::<_, String>("greet", ("you",)));
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert!(error.to_string().contains("too large"), "{error}");
    }

    fn mistakes_of_the_host_in_a_nested_call_spend_nothing() {
        let weekday = |caller: &mut Caller<'_>| -> String {
            let kinds = [
                caller.call::<_, ()>("missing", ()).unwrap_err().kind(),
                caller.call::<_, String>("greet", (7u32,)).unwrap_err().kind(),
            ];
            format!("{kinds:?}")
        };
        let builder = Sandbox::builder().host_function("weekday", weekday);
        let text: String = builder.build(guest("hello")).unwrap().call("greet", ("you",)).unwrap();
        assert!(text.contains("[UnknownFunction, SignatureMismatch]"), "{text}");
    }

    fn a_nested_call_that_spends_the_sandbox_ends_the_outer_one_too() {
        let host_add = |caller: &mut Caller<'_>, _: u32, _: u32| -> u32 {
            let inner = caller.call::<_, String>("malformed_string", ());
            assert_eq!(inner.unwrap_err().kind(), ErrorKind::Protocol);
            assert_eq!(caller.call::<_, ()>("nothing", ()).unwrap_err().kind(), ErrorKind::Spent);
            5
        };
        let mut sandbox = crate::support::builder_without("host_add")
            .host_function("host_add", host_add)
            .build(guest("testing"))
            .unwrap();
        let error = error(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)));
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(sandbox.is_spent());
    }

    fn any_error_becomes_a_host_error_by_the_question_mark() {
        let read = |number: u32| -> Result<u32, HostError> {
            let parsed: u32 = "twelve".parse()?;
            Ok(parsed + number)
        };
        let mut sandbox = crate::support::builder_without("host_checked")
            .host_function("host_checked", read)
            .build(guest("testing"))
            .unwrap();
        let text: String = sandbox.call("call_host_checked", (1u32,)).unwrap();
        assert_eq!(text, "error: invalid digit found in string");
    }
}
