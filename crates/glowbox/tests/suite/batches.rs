//! Many calls in one entry are what they are one by one, however they end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use glowbox::{CallOptions, Error, ErrorKind, Sandbox};
use serde::{Deserialize, Serialize, Serializer};

use crate::support::{builder, builder_without, error, guest, sandbox};

/// A sandbox whose messages are two pages: a batch's arguments one.
fn small() -> Sandbox {
    builder().message_size(8192).build(guest("testing")).unwrap()
}

fn kinds<T>(results: &[Result<T, Error>]) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect()
}

fn values<T>(results: Vec<Result<T, Error>>) -> Vec<T> {
    results.into_iter().map(Result::unwrap).collect()
}

fn entries<T>(sandbox: &mut Sandbox, run: impl FnOnce(&mut Sandbox) -> T) -> (T, u64) {
    let before = sandbox.stats().entries;
    let result = run(sandbox);
    (result, sandbox.stats().entries - before)
}

fn runs(sandbox: &mut Sandbox) -> u32 {
    sandbox.call("runs", ()).unwrap()
}

/// Runs `sized` for each size, checks results and that each ran once, and returns the entries.
fn check_sizes(sandbox: &mut Sandbox, sizes: &[u32]) -> u64 {
    let sized = sandbox.function::<(u32,), Vec<u8>>("sized").unwrap();
    let before = runs(sandbox);
    let (results, entries) =
        entries(sandbox, |sandbox| sized.call_many(sandbox, sizes.iter().map(|size| (*size,))));
    for (at, (result, size)) in results.iter().zip(sizes).enumerate() {
        let run = (before + u32::try_from(at).unwrap()).to_le_bytes()[0];
        let length = size + if *size < 128 { 1 } else { 2 };
        match result {
            Ok(data) => assert!(data.len() == *size as usize && data.iter().all(|b| *b == run)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::MessageTooLarge, "{error}");
                assert!(
                    length > 8192 && error.to_string().contains(&length.to_string()),
                    "{error}"
                );
            }
        }
        assert!(length <= 8192 || result.is_err());
    }
    assert_eq!(results.len(), sizes.len());
    assert_eq!(runs(sandbox) - before, u32::try_from(sizes.len()).unwrap());
    entries
}

/// An argument that can be anything where the guest expects its `Everything`.
mod unlike {
    use super::*;

    pub(super) struct Everything(pub(super) Option<testing_types::Everything>, pub(super) bool);

    impl Serialize for Everything {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Everything(Some(value), _) => value.serialize(serializer),
                Everything(None, true) => 1u8.serialize(serializer),
                Everything(None, false) => Err(serde::ser::Error::custom("it can't be written")),
            }
        }
    }
}

/// A result that does not decode if its first byte says so.
mod fragile {
    use super::*;

    #[derive(Debug)]
    pub(super) struct Point;

    impl<'de> Deserialize<'de> for Point {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Point, D::Error> {
            match <(u8, u8)>::deserialize(deserializer)?.0 {
                0 => Ok(Point),
                1 => Err(serde::de::Error::custom("a broken point")),
                _ => panic!("a point that panics"),
            }
        }
    }
}

tests! {
    fn a_hundred_calls_are_one_entry_and_their_results_come_in_order() {
        let mut sandbox = sandbox();
        let add = sandbox.function::<(u32, u32), u32>("add").unwrap();
        let before = sandbox.stats().calls;
        let inputs = (0..100u32).map(|number| (number, 1000));
        let (results, entries) = entries(&mut sandbox, |sandbox| add.call_many(sandbox, inputs));
        assert_eq!(values(results), (1000..1100).collect::<Vec<u32>>());
        assert_eq!(entries, 1);
        assert_eq!(sandbox.stats().calls - before, 100);
    }

    fn no_inputs_are_no_results_and_no_entry() {
        let mut sandbox = sandbox();
        let add = sandbox.function::<(u32, u32), u32>("add").unwrap();
        let (results, entries) = entries(&mut sandbox, |sandbox| add.call_many(sandbox, []));
        assert!(results.is_empty());
        assert_eq!(entries, 0);
    }

    fn functions_without_arguments_or_results_can_be_called_many_times() {
        let mut sandbox = sandbox();
        let nothing = sandbox.function::<(), ()>("nothing").unwrap();
        assert_eq!(values(nothing.call_many(&mut sandbox, vec![(); 1000])).len(), 1000);
        let count = sandbox.function::<(), u32>("count").unwrap();
        assert_eq!(values(count.call_many(&mut sandbox, vec![(); 50])), (1..=50).collect::<Vec<_>>());
    }

    fn inputs_of_more_than_one_message_take_as_many_entries_as_messages() {
        let mut sandbox = small();
        let add = sandbox.function::<(u32, u32), u32>("add").unwrap();
        // Each takes 32 bytes of the 4096.
        let inputs = (0..1000u32).map(|number| (number, 1));
        let (results, entries) = entries(&mut sandbox, |sandbox| add.call_many(sandbox, inputs));
        assert_eq!(values(results), (1..=1000).collect::<Vec<u32>>());
        assert_eq!(entries, 8);
    }

    fn bytes_and_strings_of_every_size_survive_in_a_batch() {
        let mut sandbox = sandbox();
        let echo = sandbox.function::<(&[u8],), Vec<u8>>("echo").unwrap();
        let sizes = [0, 1, 15, 16, 17, 127, 128, 4095, 4096, 70_000, 3 << 20, 5, 9 << 20, 6 << 20, 0];
        let data: Vec<Vec<u8>> =
            sizes.iter().map(|size: &u32| (0..*size).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect()).collect();
        assert_eq!(values(echo.call_many(&mut sandbox, data.iter().map(|data| (&data[..],)))), data);
        let echo = sandbox.function::<(String,), String>("echo_text").unwrap();
        let texts = ["", "a", "naïve", "☃☃☃"].map(String::from);
        assert_eq!(values(echo.call_many(&mut sandbox, texts.clone().map(|text| (text,)))), texts);
    }

    fn each_call_returns_its_own_value_or_error() {
        let mut sandbox = sandbox();
        let divide = sandbox.function::<(u32, u32), u32>("divide").unwrap();
        let inputs = [(6, 3), (1, 0), (5000, 1), (8, 2)];
        let results = divide.call_many(&mut sandbox, inputs);
        assert_eq!(kinds(&results), [None, Some(ErrorKind::Guest), Some(ErrorKind::Guest), None]);
        let error = results[2].as_ref().unwrap_err();
        assert_eq!(
            error.guest_error::<testing_types::MathError>(),
            Some(testing_types::MathError::TooLarge { limit: 1000 })
        );
        assert!(error.to_string().contains("more than 1000"), "{error}");
        // The whole `Result` asked for.
        type Whole = Result<u32, testing_types::MathError>;
        let divide = sandbox.function::<(u32, u32), Whole>("divide").unwrap();
        let whole = values(divide.call_many(&mut sandbox, inputs));
        assert_eq!(whole[..2], [Ok(2), Err(testing_types::MathError::Zero)]);
        assert_eq!(whole[3], Ok(4));
        assert!(!sandbox.is_spent());
    }

    fn results_that_do_not_fit_together_are_handed_over_in_parts_and_nothing_runs_twice() {
        let mut sandbox = small();
        check_sizes(&mut sandbox, &[3000, 3000, 3000, 10, 20, 5000, 5000, 0, 8000, 1]);
        check_sizes(&mut sandbox, &[0; 300]);
        check_sizes(&mut sandbox, &[8190, 8190, 8190]);
    }

    fn a_result_has_as_much_room_in_a_batch_as_alone_to_the_byte() {
        let mut sandbox = small();
        // Two bytes of length before each. What is one byte more is refused, and the others go on.
        assert_eq!(check_sizes(&mut sandbox, &[8190]), 2);
        check_sizes(&mut sandbox, &[1, 8190, 1, 8191, 1, 9000, 1, 8190, 8191, 8190, 2]);
        // Records of 16 bytes, results that end anywhere around the buffer's end.
        for last in 8100..=8192 {
            check_sizes(&mut sandbox, &[last, 0, 0, 3]);
        }
        for first in 4000..4100 {
            check_sizes(&mut sandbox, &[first, 4040, 4048, 0, 1]);
        }
    }

    fn arguments_that_do_not_fit_a_batch_go_alone_and_those_that_fit_no_message_are_refused() {
        let mut sandbox = small();
        let echo = sandbox.function::<(Vec<u8>,), Vec<u8>>("echo").unwrap();
        let sizes = [10, 4078, 4079, 10, 8190, 8191, 20_000, 1, 4078, 1];
        let inputs = sizes.map(|size| (vec![3; size],));
        let (results, entries) = entries(&mut sandbox, |sandbox| echo.call_many(sandbox, inputs));
        for (size, result) in sizes.iter().zip(&results) {
            match result {
                Ok(data) => assert!(*size <= 8190 && data.len() == *size),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
                    let text = error.to_string();
                    assert!(*size > 8190 && text.contains("8192"), "{error}");
                    assert!(text.contains(&(size + if *size < 16384 { 2 } else { 3 }).to_string()), "{error}");
                }
            }
        }
        // Batches: 10; 4078; 10; 1; 4078; 1. Alone: 4079 and 8190.
        assert_eq!(entries, 8);
        assert!(!sandbox.is_spent());
    }

    fn arguments_that_cannot_be_written_or_read_are_errors_of_their_own() {
        use unlike::Everything;
        let mut sandbox = sandbox();
        let echo = sandbox
            .function::<(Everything,), testing_types::Everything>("echo_everything")
            .unwrap();
        let real = crate::calls::everything();
        let good = || (Everything(Some(real.clone()), true),);
        let inputs = [good(), (Everything(None, false),), good(), (Everything(None, true),), good()];
        let results = echo.call_many(&mut sandbox, inputs);
        let bad = Some(ErrorKind::BadArguments);
        assert_eq!(kinds(&results), [None, bad, None, bad, None]);
        assert!(results[1].as_ref().unwrap_err().to_string().contains("`echo_everything` can't be encoded"));
        assert_eq!(results[4].as_ref().unwrap(), &real);
        assert!(!sandbox.is_spent());
    }

    fn host_calls_callbacks_and_records_work_inside_a_batch() {
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&records);
        let mut sandbox = builder()
            .log_sink(move |record| sink.lock().unwrap().push(record.text.to_string()))
            .build(guest("testing"))
            .unwrap();
        let add = sandbox.function::<(u32, u32), u32>("call_host_add").unwrap();
        let inputs = (0..50u32).map(|number| (number, 7));
        let (results, entries) = entries(&mut sandbox, |sandbox| add.call_many(sandbox, inputs));
        assert_eq!(values(results), (7..57).collect::<Vec<u32>>());
        assert_eq!(entries, 51);
        let visit = sandbox.function::<(u32, &str), u32>("visit").unwrap();
        let inputs = [(0, "one"), (1, "two"), (0, "three"), (1, "four")];
        assert_eq!(values(visit.call_many(&mut sandbox, inputs)), [1, 2, 1, 2]);
        let say = sandbox.function::<(&str,), ()>("say").unwrap();
        values(say.call_many(&mut sandbox, ["a", "b", "c"].map(|text| (text,))));
        assert_eq!(*records.lock().unwrap(), ["a", "b", "c"]);
    }

    fn what_is_sent_from_inside_a_batch_has_as_much_room_as_in_a_single_call() {
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&records);
        let mut sandbox = builder()
            .message_size(8192)
            .log_sink(move |record| sink.lock().unwrap().push(record.text.len()))
            .build(guest("testing"))
            .unwrap();
        let sizes = [8190, 1, 4000, 4100, 4200, 10, 8190, 8000, 300, 0];
        let inputs = sizes.map(|size| (size,));
        // Host calls' arguments; results of calls from host functions; records.
        for name in ["send_bytes", "nested_sized"] {
            let function = sandbox.function::<(u32,), u32>(name).unwrap();
            assert_eq!(values(function.call_many(&mut sandbox, inputs)), sizes, "{name}");
        }
        let nested = sandbox.function::<(u32,), u32>("nested_sized").unwrap();
        let results = nested.call_many(&mut sandbox, [1, 2, 8191, 3].map(|size| (size,)));
        assert_eq!(values(results), [1, 2, u32::MAX, 3]);
        let say = sandbox.function::<(u32,), u32>("say_bytes").unwrap();
        let many: Vec<u32> = (0..300).map(|number| 3900 + number % 200).collect();
        values(say.call_many(&mut sandbox, many.iter().map(|size| (*size,))));
        let expected: Vec<usize> = many.iter().map(|size| (*size).min(4096) as usize).collect();
        assert_eq!(*records.lock().unwrap(), expected);
        // Errors, whose text gives way only where a single call's does.
        let fails = sandbox.function::<(u32,), u32>("sized_error").unwrap();
        for bytes in [100, 2000, 3900, 4000, 4095, 4096, 4097, 9000] {
            let alone = error(fails.call(&mut sandbox, (bytes,)));
            let results = fails.call_many(&mut sandbox, [(bytes,), (bytes,), (bytes,)]);
            for result in results {
                let error = error(result);
                assert_eq!(error.to_string(), alone.to_string());
                assert_eq!(error.guest_error::<String>(), alone.guest_error::<String>());
            }
        }
    }

    fn results_before_a_call_that_spends_the_sandbox_stand_and_those_after_it_are_spent() {
        let ends = [
            (1, ErrorKind::Panic),
            (2, ErrorKind::Fault),
            (3, ErrorKind::Deadline),
            (4, ErrorKind::OutOfMemory),
            (5, ErrorKind::StackOverflow),
        ];
        let options = CallOptions::new().deadline(Duration::from_millis(300));
        for (how, kind) in ends {
            for at in [0u32, 1, 5, 99] {
                let mut sandbox = sandbox();
                let end_by = sandbox.function::<(u32, u8), u32>("end_by").unwrap();
                let inputs = (0..100).map(|number| (number, if number == at { how } else { 0 }));
                let results = end_by.call_many_with(&options, &mut sandbox, inputs);
                assert_eq!(results.len(), 100);
                for (number, result) in (0..).zip(&results) {
                    let found = result.as_ref().map_err(Error::kind);
                    let expected = match number {
                        _ if number < at => Ok(&number),
                        _ if number == at => Err(kind),
                        _ => Err(ErrorKind::Spent),
                    };
                    assert_eq!(found, expected, "{how} at {at}: {number}");
                }
                if how == 1 {
                    let error = results[at as usize].as_ref().unwrap_err();
                    assert_eq!(error.panic().unwrap().message, format!("item {at}"));
                }
                assert!(sandbox.is_spent());
                assert_eq!(sandbox.stats().calls, u64::from(at) + 1);
            }
        }
    }

    fn an_end_after_results_were_handed_over_loses_none_of_them() {
        for at in [0u32, 130, 255, 256, 300, 511] {
            let mut sandbox = builder().message_size(8192).build(guest("testing")).unwrap();
            let end_by = sandbox.function::<(u32, u8), u32>("end_by").unwrap();
            let inputs = (0..512).map(|number| (number, u8::from(number == at)));
            let results = end_by.call_many(&mut sandbox, inputs);
            let good = results.iter().take_while(|result| result.is_ok()).count();
            assert_eq!(good, at as usize);
            assert_eq!(results[good].as_ref().unwrap_err().panic().unwrap().message, format!("item {at}"));
            assert!(results[good + 1..].iter().all(|r| error_kind(r) == Some(ErrorKind::Spent)));
        }
    }

    fn a_host_function_that_panics_ends_the_batch_where_it_was_called() {
        let mut sandbox = builder_without("host_length")
            .host_function("host_length", |data: Vec<u8>| -> u32 {
                assert!(data.len() != 3, "three bytes");
                0
            })
            .build(guest("testing"))
            .unwrap();
        let send = sandbox.function::<(u32,), u32>("send_bytes").unwrap();
        let results = send.call_many(&mut sandbox, (0..6u32).map(|size| (size,)));
        let (panic, spent) = (Some(ErrorKind::HostPanic), Some(ErrorKind::Spent));
        assert_eq!(kinds(&results), [None, None, None, panic, spent, spent]);
    }

    fn results_handed_over_while_a_call_waits_for_the_host_are_not_lost() {
        for (message, before) in [(8192, 5), (8192, 60), (8192, 0), (16 << 20, 5)] {
            let mut sandbox = builder().message_size(message).build(guest("testing")).unwrap();
            let nested = sandbox.function::<(u32, bool), u32>("nested_sized_panic").unwrap();
            let inputs = (0..before).map(|number| (number, false));
            let inputs = inputs.chain([(8190, true), (1, false)]);
            let results = nested.call_many(&mut sandbox, inputs);
            let (results, after) = results.split_at(before as usize);
            assert!(results.iter().zip(0..).all(|(result, number)| *result.as_ref().unwrap() == number));
            assert_eq!(kinds(after), [Some(ErrorKind::Panic), Some(ErrorKind::Spent)]);
            assert_eq!(after[0].as_ref().unwrap_err().panic().unwrap().message, "after 8190 bytes");
        }
    }

    fn a_guest_that_hands_results_over_twice_while_a_call_waits_is_refused() {
        let mut sandbox = sandbox();
        let function = sandbox.function::<(u32,), u32>("nested_hand_over").unwrap();
        let results = function.call_many(&mut sandbox, (0..10u32).map(|number| (number,)));
        assert_eq!(results.len(), 10);
        assert!(results[..3].iter().all(Result::is_ok));
        assert!(results.iter().any(|r| error_kind(r) == Some(ErrorKind::Protocol)), "{results:?}");
        assert!(sandbox.is_spent());
    }

    fn an_interrupt_ends_the_call_under_way() {
        let mut sandbox = builder().no_deadline().build(guest("testing")).unwrap();
        let end_by = sandbox.function::<(u32, u8), u32>("end_by").unwrap();
        let handle = sandbox.interrupt_handle();
        let thread = std::thread::spawn(move || {
            while !handle.interrupt() {
                std::thread::yield_now();
            }
        });
        let results = end_by.call_many(&mut sandbox, [(1, 3), (2, 0)]);
        thread.join().unwrap();
        assert_eq!(kinds(&results), [Some(ErrorKind::Interrupted), Some(ErrorKind::Spent)]);
    }

    fn what_refuses_a_call_refuses_each_of_many() {
        let mut sandbox = sandbox();
        let end_by = sandbox.function::<(u32, u8), u32>("end_by").unwrap();
        let options = CallOptions::new().deadline(Duration::ZERO);
        let inputs = [(1, 0), (2, 0)];
        let results = end_by.call_many_with(&options, &mut sandbox, inputs);
        assert_eq!(kinds(&results), [Some(ErrorKind::InvalidOption); 2]);
        let mut hello =
            builder().host_function("weekday", String::new).build(guest("hello")).unwrap();
        assert_eq!(kinds(&end_by.call_many(&mut hello, inputs)), [Some(ErrorKind::WrongGuest); 2]);
        assert_eq!(runs(&mut sandbox), 0);
        error(end_by.call(&mut sandbox, (1, 1)));
        let (results, entries) =
            entries(&mut sandbox, |sandbox| end_by.call_many(sandbox, inputs));
        assert_eq!(kinds(&results), [Some(ErrorKind::Spent); 2]);
        assert_eq!(entries, 0);
    }

    fn a_result_that_does_not_decode_ends_the_batch_there() {
        for (bad, kind) in [(1u8, ErrorKind::Protocol), (2, ErrorKind::HostPanic)] {
            for mut sandbox in [sandbox(), small()] {
                let echo =
                    sandbox.function::<(Vec<crate::support::Point>,), Vec<fragile::Point>>("echo_points").unwrap();
                let inputs = (0..400u16).map(|n| (vec![crate::support::Point { x: if n == 7 { bad } else { 0 }, y: 0 }],));
                let results = echo.call_many(&mut sandbox, inputs);
                assert_eq!(results.len(), 400);
                assert!(results[..7].iter().all(Result::is_ok));
                assert_eq!(error_kind(&results[7]), Some(kind));
                assert!(results[8..].iter().all(|r| error_kind(r) == Some(ErrorKind::Spent)));
                assert!(sandbox.is_spent());
            }
        }
    }

    fn a_guest_that_lies_about_its_progress_gets_an_error() {
        // With five calls, of which the third lies: fewer than were done, or more than there are.
        for (claim, good) in [(100u64, 0), (5, 0), (1 << 32, 0), (u64::MAX - 1, 0), (4, 0), (0, 2)] {
            let mut sandbox = sandbox();
            let function = sandbox.function::<(u64,), u64>("claim_progress").unwrap();
            let honest = u64::MAX;
            let inputs = [honest, honest, claim, honest, honest].map(|claim| (claim,));
            let results = function.call_many(&mut sandbox, inputs);
            assert_eq!(results.len(), 5, "{claim}");
            assert!(results[good..].iter().any(Result::is_err), "{claim}: {results:?}");
            assert!(sandbox.is_spent());
            let first = results.iter().position(Result::is_err).unwrap();
            assert_eq!(error_kind(&results[first]), Some(ErrorKind::Protocol), "{claim}");
            assert!(results[first + 1..].iter().all(|r| error_kind(r) == Some(ErrorKind::Spent)));
        }
        // What was handed over can't be taken back.
        let mut sandbox = small();
        let function = sandbox.function::<(u64,), u64>("claim_progress").unwrap();
        let inputs = (0..200).map(|number| (if number == 126 { 3 } else { u64::MAX },));
        let results = function.call_many(&mut sandbox, inputs);
        assert!(results.iter().any(Result::is_err) && sandbox.is_spent());
    }

    fn results_that_were_changed_afterwards_are_checked_like_any_others() {
        // The second call changes the first one's record: status, text length, length.
        let record = |status: u32, text: u32, length: u64| {
            [&status.to_le_bytes()[..], &text.to_le_bytes(), &length.to_le_bytes()].concat()
        };
        for (bytes, kind) in [
            (record(0, 0, u64::MAX), ErrorKind::Protocol),
            (record(0, 0, 16 << 20), ErrorKind::Protocol),
            (record(1, 2, 1), ErrorKind::Protocol),
            (record(3, 0, 0), ErrorKind::Protocol),
            (record(9, 0, 0), ErrorKind::Protocol),
            // A unit takes no bytes.
            (record(0, 0, 1), ErrorKind::Protocol),
            (record(2, 0, 0), ErrorKind::BadArguments),
        ] {
            let mut sandbox = sandbox();
            let overwrite = sandbox.function::<(u32, Vec<u8>), ()>("overwrite").unwrap();
            let inputs = [(0, Vec::new()), (32, bytes.clone()), (0, Vec::new())];
            let results = overwrite.call_many(&mut sandbox, inputs);
            assert_eq!(error_kind(&results[0]), Some(kind), "{bytes:?}");
            let after = (kind == ErrorKind::Protocol).then_some(ErrorKind::Spent);
            assert_eq!(kinds(&results[1..]), [after, after]);
            assert_eq!(sandbox.is_spent(), kind == ErrorKind::Protocol);
        }
    }

    fn messages_of_a_batch_out_of_turn_spend_the_sandbox() {
        const RETURN: u32 = 2;
        const FLUSH: u32 = 8;
        const END: u32 = 9;
        type Header = (u32, u32, u32, u32, u64, u64, u64);
        let header = |kind| (kind, 0, 0, 0, 0, 0, 0);
        // In a single call.
        for kind in [FLUSH, END] {
            let mut sandbox = sandbox();
            let error = error(sandbox.call::<Header, (u32, u32)>("send_raw", header(kind)));
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        }
        // In a batch: its end before its end, and a return whose bytes are no result.
        for kind in [END, RETURN] {
            let mut sandbox = sandbox();
            let send = sandbox.function::<Header, (u32, u32)>("send_raw").unwrap();
            let results = send.call_many(&mut sandbox, [header(kind), header(kind)]);
            assert_eq!(kinds(&results), [Some(ErrorKind::Protocol), Some(ErrorKind::Spent)]);
        }
        // More returns than calls: two bytes of zero are a result.
        let mut sandbox = sandbox();
        let send = sandbox.function::<Header, (u32, u32)>("send_raw").unwrap();
        let results = send.call_many(&mut sandbox, vec![(RETURN, 0, 0, 0, 4096, 2, 0); 5]);
        assert_eq!(results.len(), 5);
        assert!(sandbox.is_spent());
        // Flushes without results change nothing.
        let mut sandbox = crate::support::sandbox();
        let send = sandbox.function::<Header, (u32, u32)>("send_raw").unwrap();
        assert_eq!(values(send.call_many(&mut sandbox, vec![header(FLUSH); 5])).len(), 5);
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    }
}

fn error_kind<T>(result: &Result<T, Error>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}
