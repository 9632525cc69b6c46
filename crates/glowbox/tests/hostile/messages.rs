//! Messages that change after they were sent, that come in any order, and calls that nest.
//!
//! A guest has one vCPU, so what it changes while the host works on a message it changes in a nested call:
//! from a host function that holds what it was given, or from a call of a batch whose results are waiting.
//! The host lends no host function anything of the guest's memory: arguments are decoded before it runs.

use glowbox::ErrorKind;
use glowbox_abi::mailbox::{BATCH_PROGRESS_OFFSET, FROM_GUEST_OFFSET};

use crate::attacker::{Attacker, MESSAGE, Map, NESTS, encoded, import, nested};
use crate::generate::Random;
use crate::headers::{
    BATCH_FLUSH, HOST_CALL, Known, Outcome, Point, REPLY, RETURN, check, proper, random,
};
use crate::steps::{Header, Place, Step};
use crate::support::{factor, seed};
use crate::values::{longs, words};

/// Raw stores of each value to each field of the guest's header.
fn stores(map: &Map) -> Vec<Step> {
    let (longs, words) = (longs(map), words(&[]));
    let store = |field: usize, bytes: Vec<u8>| {
        Step::Write(Place::Control, (FROM_GUEST_OFFSET + field) as u64, bytes)
    };
    let narrow = (0..16).step_by(4).flat_map(|field| {
        words.iter().map(move |value| store(field, value.to_le_bytes().to_vec()))
    });
    let wide = (16..48).step_by(8).flat_map(|field| {
        longs.iter().step_by(2).map(move |value| store(field, value.to_le_bytes().to_vec()))
    });
    narrow.chain(wide).collect()
}

/// What a host function is given to hold, and what the guest writes over it meanwhile.
fn data() -> Vec<u8> {
    (0..200).collect()
}

/// Overwrites what was sent.
fn overwrite() -> Step {
    Step::Write(Place::Outgoing, 0, vec![0xff; 512])
}

impl Attacker {
    /// Checks that `hold` held the same data before and after it called the guest.
    fn check_held(&self, what: &Step) {
        let seen = self.seen();
        assert_eq!(seen.held, [(data(), data())], "{what:?}");
    }
}

tests! {
    fn what_a_host_function_was_given_does_not_change_while_it_calls_the_guest() {
        let mut attacker = Attacker::new("messages changed in nested calls");
        let map = Map::of(&mut attacker);
        for store in stores(&map) {
            let outer = [Step::Hold(data(), encoded(&[overwrite(), store.clone()]))];
            let result = attacker.strike(&outer);
            // The answer came to where the guest expects it, and was what `hold` had been given.
            assert_eq!(result.unwrap_or_else(|error| panic!("{store:?}: {error:?}")), 1, "{store:?}");
            attacker.check_held(&store);
            attacker.reset(&store);
        }
    }

    fn the_header_of_a_nested_call_has_no_part_in_the_outer_one() {
        let mut attacker = Attacker::new("messages changed in nested calls");
        let map = Map::of(&mut attacker);
        let fields: [fn(&mut Header, u64); 4] = [
            |header, value| header.reply_offset = value,
            |header, value| header.amount = value,
            |header, value| header.function = u32::try_from(value >> 32).expect("32 bits"),
            |header, value| header.text_length = u32::try_from(value >> 32).expect("32 bits"),
        ];
        for value in longs(&map).into_iter().step_by(2) {
            for set in fields {
                let mut header = Header { kind: RETURN, length: 1, ..Header::default() };
                set(&mut header, value);
                let steps = [overwrite(), Step::Leave(header)];
                let result = attacker.strike(&[Step::Hold(data(), encoded(&steps))]);
                // The nested call has ended; when the answer comes, the guest ends the outer one.
                check(&result, &Outcome::Value, &header, REPLY);
                attacker.check_held(&steps[1]);
                attacker.reset(&header);
            }
        }
    }

    fn arguments_and_answers_of_nested_calls_fit_or_are_refused_wherever_the_guest_wants_them() {
        let mut attacker = Attacker::new("messages changed in nested calls");
        let hold = import("hold");
        let inner = encoded(&[overwrite()]);
        let length = |bytes: &[u8]| if bytes.len() < 128 { 1 } else { 2 } + bytes.len() as u64;
        let (answer, asked) = (1 + length(&data()), length(&inner));
        let message = [
            &[200, 1][..], &data(), &(u16::try_from(inner.len()).expect("short") | 0x80).to_le_bytes()[..1],
            &u8::try_from(inner.len() >> 7).expect("short").to_le_bytes(), &inner,
        ].concat();
        let last = MESSAGE - message.len() as u64;
        let ends = (0..2 * answer.max(asked)).step_by(16).map(|before| MESSAGE - before);
        for reply_offset in (0..=2048).step_by(16).chain(ends) {
            for offset in [0, 1, 16, 4095, 32 << 10, last] {
                let header = Header {
                    kind: HOST_CALL,
                    function: hold,
                    offset,
                    length: message.len() as u64,
                    reply_offset,
                    ..Header::default()
                };
                let steps =
                    [Step::Write(Place::Outgoing, offset, message.clone()), Step::Leave(header)];
                let result = attacker.strike(&steps);
                let status = if reply_offset + answer <= MESSAGE { 0 } else { 3 };
                check(&result, &Outcome::Reply(status), &header, REPLY | status);
                attacker.check_held(&steps[1]);
                let called = attacker.seen().nested.remove(0);
                match called {
                    Ok(_) => assert!(reply_offset + asked <= MESSAGE, "{header:?}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::MessageTooLarge, "{header:?}");
                        assert!(reply_offset + asked > MESSAGE, "{header:?}: {error}");
                    }
                }
                // The next call has all of the buffer again.
                if offset == 0 {
                    let much = [Step::Write(Place::Outgoing, 0, vec![1; 65_000])];
                    assert_eq!(attacker.strike(&much).expect("it fits"), 0, "{header:?}");
                }
                attacker.reset(&header);
            }
        }
    }

    fn results_that_were_handed_over_do_not_change() {
        let mut attacker = Attacker::new("messages changed in nested calls");
        let map = Map::of(&mut attacker);
        let flush = Step::Leave(Header { kind: BATCH_FLUSH, ..Header::default() });
        let values = longs(&map);
        for (number, value) in values.iter().enumerate() {
            let mut record = [0; 16];
            match number % 3 {
                0 => record[..4].copy_from_slice(&value.to_le_bytes()[..4]),
                1 => record[..8].copy_from_slice(&[&[1, 0, 0, 0], &value.to_le_bytes()[..4]].concat()),
                _ => record[8..].copy_from_slice(&value.to_le_bytes()),
            }
            let change = Step::Write(Place::Outgoing, 0, record.repeat(8));
            let steps = [Step::Nest(0, encoded(&[flush.clone(), change.clone()]))];
            let results = attacker.strike_many(&[&[], &steps, &[]]);
            assert!(matches!(results[0], Ok(0)), "{change:?}: {results:?}");
            for error in results[1..].iter().filter_map(|result| result.as_ref().err()) {
                use ErrorKind::{BadArguments, Guest, Protocol, Spent};
                let kinds = [BadArguments, Guest, Protocol, Spent];
                assert!(kinds.contains(&error.kind()), "{change:?}: {results:?}");
            }
            attacker.reset(&change);
        }
        // What is handed over while one call waits is copied once, and no more.
        let progress = |done: u8| Step::Write(Place::Control, BATCH_PROGRESS_OFFSET as u64, vec![done]);
        let steps = [Step::Nest(0, encoded(&[flush.clone(), progress(2), flush]))];
        let results = attacker.strike_many(&[&[], &steps, &[]]);
        // Those that it had counted come first.
        let error = results.iter().find_map(|result| result.as_ref().err()).expect("an error");
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("twice while one call waited"), "{error}");
        attacker.reset(&steps);
    }

    fn calls_nest_as_deep_as_they_may_and_host_functions_that_run_are_busy() {
        let mut attacker = Attacker::new("recursion through host calls");
        for depth in 0..NESTS {
            let result = attacker.strike(&nested(depth, &[Step::Ask]));
            let first = attacker.seen().nested.first().cloned();
            match (depth, first) {
                (0, None) | (..=16, Some(Ok(1))) => assert_eq!(result.expect("a value"), 1),
                (17.., Some(Err(error))) => {
                    assert_eq!(error.kind(), ErrorKind::NestingTooDeep);
                    assert!(error.to_string().contains("more than 16 deep"), "{error}");
                    assert_eq!(result.expect("a value"), 0xff);
                }
                (_, first) => panic!("at depth {depth}: {first:?}, {result:?}"),
            }
            attacker.reset(&depth);
        }
        let busy = |number: u8| Header {
            kind: HOST_CALL,
            function: import(&format!("nest_{number}")),
            length: 2,
            reply_offset: 8192,
            ..Header::default()
        };
        for depth in 1..=16 {
            for number in 0..depth {
                let header = busy(number);
                // As often as it likes.
                let steps = [Step::Repeat(20, vec![Step::Leave(header)])];
                let result = attacker.strike(&nested(depth, &steps));
                check(&result, &Outcome::Reply(2), &header, REPLY | 2);
                assert_eq!(attacker.seen().nested.len(), usize::from(depth));
                attacker.reset(&header);
            }
        }
        // Down and up again, many times.
        let steps = [Step::Repeat(60, nested(17, &[]))];
        assert_eq!(attacker.strike(&steps).expect("a value"), 0xff);
        attacker.reset(&"recursion");
    }

    fn two_messages_in_any_order_are_what_each_of_them_is() {
        let mut attacker = Attacker::new("messages in any order");
        let known = Known::new();
        let proper = proper(&known);
        for (first, second) in proper.iter().flat_map(|a| proper.iter().map(move |b| (a, b))) {
            let both = [Step::Leave(*first), Step::Leave(*second)];
            let result = attacker.strike(&both);
            let outcome = |header| known.outcome(header, Point::Call).expect("it is known");
            match (outcome(first), outcome(second)) {
                (Outcome::Reply(_) | Outcome::Record(..), Outcome::Reply(status)) => {
                    check(&result, &Outcome::Reply(status), second, REPLY | status);
                }
                (Outcome::Reply(_) | Outcome::Record(..), expected) => {
                    check(&result, &expected, second, 0);
                }
                (expected, _) => check(&result, &expected, first, 0),
            }
            // For the host the function may have ended. The guest takes the next call in the middle of it.
            if !attacker.sandbox.is_spent() && first.kind == RETURN {
                let result = attacker.strike(&[Step::Leave(*second)]);
                match outcome(second) {
                    Outcome::Reply(_) | Outcome::Record(..) => {
                        assert!(result.is_ok(), "{both:?}: {result:?}");
                    }
                    expected => check(&result, &expected, second, 0),
                }
            }
            attacker.reset(&both);
        }
    }

    fn any_messages_in_any_order_end_in_one_of_the_ways_that_there_are() {
        let mut attacker = Attacker::new("messages in any order");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        let mut numbers = Random::new(seed("any_messages_in_any_order"));
        let count = 2000 * factor();
        let headers = random(&mut numbers, &known, &map, 4 * count);
        let proper = proper(&known);
        for headers in headers.chunks(4) {
            let mut steps = Vec::new();
            for header in headers {
                let header = if numbers.byte() < 160 { numbers.pick(&proper) } else { header };
                steps.push(Step::Leave(*header));
            }
            let depth = u8::try_from(numbers.below(4)).expect("small");
            let steps = nested(depth, &steps);
            // Calls go on for as long as it takes any.
            for call in 0..4 {
                if attacker.sandbox.is_spent() {
                    break;
                }
                let errors: Vec<_> = match call % 2 {
                    0 => attacker.strike(&steps).err().into_iter().collect(),
                    _ => {
                        let results = attacker.strike_many(&[&steps, &[], &steps]);
                        results.into_iter().filter_map(Result::err).collect()
                    }
                };
                for error in errors {
                    use ErrorKind::{
                        BadArguments, Guest, MessageTooLarge, OutOfMemory, Panic, Protocol, Spent,
                    };
                    let kinds = [BadArguments, Guest, MessageTooLarge, OutOfMemory, Panic, Protocol, Spent];
                    assert!(kinds.contains(&error.kind()), "{steps:?}: {error:?}");
                }
            }
            attacker.reset(&steps);
        }
    }
}
