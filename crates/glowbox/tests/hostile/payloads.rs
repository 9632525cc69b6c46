//! What messages carry: errors, panics and arguments of any bytes.

use glowbox::ErrorKind;
use glowbox_abi::wire;
use glowbox_core::escape::misleads;

use crate::attacker::{Attacker, MESSAGE, Parsed, encoded, import};
use crate::generate::Random;
use crate::headers::{
    HOST_CALL, Known, OUT_OF_MEMORY, Outcome, PANIC, Point, REPLY, RETURN, START_ERROR, check, is,
};
use crate::steps::{Header, Place, Step};
use crate::support::{factor, seed};

/// Where messages by hand stand in the outgoing buffer: behind results of a batch.
const AT: u64 = 4096;

/// Leaves with a message of these bytes.
fn send(header: Header, bytes: &[u8]) -> [Step; 2] {
    let length = bytes.len() as u64;
    let header = Header { offset: AT, length, ..header };
    [Step::Write(Place::Outgoing, AT, bytes.to_vec()), Step::Leave(header)]
}

/// Returns an error with this text and encoding.
fn fail(text: &[u8], encoding: &[u8]) -> [Step; 2] {
    let text_length = u32::try_from(text.len()).expect("short");
    let header = Header { kind: RETURN, status: 1, text_length, ..Header::default() };
    send(header, &[text, encoding].concat())
}

/// Bytes of which some are text, with what is no UTF-8 and what a terminal obeys.
fn text(random: &mut Random) -> Vec<u8> {
    let bits = 1 + random.below(15);
    let length = random.below(1 << bits);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match random.below(6) {
            0 => bytes.push(random.byte()),
            1 => bytes.extend("\u{202e}\u{2066}\u{200f}\u{9b}\u{feff}".as_bytes()),
            2 => bytes.extend(b"\x1b[2J\x07\r\n\0"),
            3 => bytes.extend(&"\u{10ffff}".as_bytes()[..1 + random.below(4)]),
            _ => bytes.extend(b"plain text "),
        }
    }
    bytes.truncate(length);
    bytes
}

/// Arguments of `parse`, as one host function decodes them: one after the other.
fn parsed(bytes: &[u8]) -> Option<Parsed> {
    let (words, rest) = wire::decode(bytes).ok()?;
    let (pair, rest) = wire::decode(rest).ok()?;
    let (list, rest) = wire::decode(rest).ok()?;
    rest.is_empty().then_some((words, pair, list))
}

/// Proper arguments of `parse`.
fn arguments(random: &mut Random) -> Vec<u8> {
    let word = |random: &mut Random| "w".repeat(random.below(20));
    let words: Vec<_> = (0..random.below(5)).map(|_| word(random)).collect();
    let pair = (random.below(2) == 0).then(|| (random.byte(), 300u16));
    let list: Vec<_> = (0..random.below(5)).map(|_| (word(random), random.next())).collect();
    let mut bytes = vec![0; 1024];
    let length = wire::encode(&(words, pair, list), &mut bytes).expect("room");
    bytes.truncate(length);
    bytes
}

tests! {
    fn an_error_is_an_error_whatever_its_encoding_is() {
        let mut attacker = Attacker::new("errors and panics of any bytes");
        let what = "`strike` returned an error: why";
        // The function returns a `u8`: none of these is one.
        for encoding in [&[][..], &[0], &[1], &[1, 7], &[0, 7], &[255]] {
            let steps = fail(b"why", encoding);
            let result = attacker.strike(&steps);
            let error = result.expect_err("an error");
            assert!(error.kind() == ErrorKind::Guest && error.to_string().ends_with(what), "{error:?}");
            attacker.reset(&steps);
            let results = attacker.strike_many(&[&[], &steps]);
            assert!(is(&results[1], &Err((ErrorKind::Guest, what.into()))), "{results:?}");
            attacker.reset(&steps);
            // And this one returns nothing, which is what no bytes would be.
            let bytes = encoded(&steps);
            let result = attacker.run(&steps, |sandbox| {
                sandbox.call::<_, ()>("strike_blindly", (&bytes[..],))
            });
            assert_eq!(result.expect_err("an error").kind(), ErrorKind::Guest, "{steps:?}");
            attacker.reset(&steps);
        }
    }

    fn the_error_of_a_result_is_what_was_asked_for() {
        type Whole = Result<u8, String>;
        let mut attacker = Attacker::new("errors and panics of any bytes");
        let why = [&[1, 3][..], b"why"].concat();
        for (encoding, whole) in [
            (&why[..], Some(Err("why".to_string()))),
            // A lie, but about its own result alone.
            (&[0, 7], Some(Ok(7))),
            (&[], None),
            (&[2, 7], None),
            (&[1, 3, 0xff, 0xff, 0xff], None),
        ] {
            let steps = fail(b"why", encoding);
            let bytes = encoded(&steps);
            let result = attacker.run(&steps, |sandbox| {
                sandbox.call::<_, Whole>("try_strike", (&bytes[..],))
            });
            match whole {
                Some(whole) => assert_eq!(result.expect("a whole result"), whole),
                None => assert_eq!(result.expect_err("an error").kind(), ErrorKind::Guest),
            }
            attacker.reset(&steps);
            let result = attacker.run(&steps, |sandbox| {
                sandbox.call::<_, u8>("try_strike", (&bytes[..],))
            });
            let error = result.expect_err("an error");
            assert_eq!(error.kind(), ErrorKind::Guest, "{steps:?}: {error:?}");
            let typed = (encoding == why).then(|| "why".to_string());
            assert!(typed.is_none() || error.guest_error::<String>() == typed, "{error:?}");
            attacker.reset(&steps);
        }
    }

    fn texts_of_any_bytes_are_made_safe_to_show() {
        let mut attacker = Attacker::new("errors and panics of any bytes");
        let mut random = Random::new(seed("texts_of_any_bytes_are_made_safe_to_show"));
        for number in 0..1500 * factor() {
            let bytes = text(&mut random);
            let text_length = u32::try_from(random.below(bytes.len() + 1)).expect("short");
            let header = |kind, status| Header { kind, status, text_length, ..Header::default() };
            let (header, kind) = match number % 3 {
                0 => (header(PANIC, 0), ErrorKind::Panic),
                1 => (header(RETURN, 1), ErrorKind::Guest),
                _ => (header(START_ERROR, 0), ErrorKind::Protocol),
            };
            let steps = send(header, &bytes);
            let error = attacker.strike(&steps).expect_err("an end");
            assert_eq!(error.kind(), kind, "{steps:?}");
            let panic = error.panic().map(|panic| [panic.message.clone(), panic.location.clone()]);
            for text in panic.into_iter().flatten().chain([error.to_string()]) {
                assert!(!text.chars().any(|c| misleads(c) && c != '\n'), "{text:?}");
                // Each byte may become a replacement character.
                assert!(text.len() <= 2 * 3 * (16 << 10) + 100, "{} bytes", text.len());
            }
            attacker.reset(&header);
        }
    }

    fn every_kind_with_every_status_is_what_it_is() {
        let mut attacker = Attacker::new("ends of every kind and status");
        let known = Known::new();
        for kind in (0..=OUT_OF_MEMORY + 10).chain([255, 256, 1 << 16, u32::MAX]) {
            for status in (0..=64).chain([255, 256, 257, 1 << 16, u32::MAX - 1, u32::MAX]) {
                let header = Header { kind, status, length: 4, text_length: 4, ..Header::default() };
                let steps = [Step::Leave(header)];
                let result = attacker.strike(&steps);
                match known.outcome(&header, Point::Call) {
                    // Function 0 is a host function's number, or none.
                    None => assert!(kind == HOST_CALL, "{header:?}: {result:?}"),
                    Some(Outcome::Reply(status)) => {
                        check(&result, &Outcome::Reply(status), &header, REPLY | status);
                    }
                    Some(expected) => check(&result, &expected, &header, 0),
                }
                attacker.reset(&header);
            }
        }
    }

    fn a_host_function_runs_with_what_its_arguments_decode_to_or_not_at_all() {
        let mut attacker = Attacker::new("arguments of any bytes");
        let mut random = Random::new(seed("a_host_function_runs_with_what_its_arguments_decode_to"));
        let header =
            Header { kind: HOST_CALL, function: import("parse"), reply_offset: 8192, ..Header::default() };
        let mut ran = 0;
        for _ in 0..2500 * factor() {
            let mut bytes = arguments(&mut random);
            match random.below(4) {
                0 => {}
                1 => bytes = (0..random.below(40)).map(|_| random.byte() & random.byte()).collect(),
                2 => bytes.truncate(random.below(bytes.len())),
                _ => {
                    for _ in 0..=random.below(3) {
                        let at = random.below(bytes.len());
                        bytes[at] = random.byte();
                    }
                }
            }
            let steps = send(header, &bytes);
            let result = attacker.strike(&steps);
            match parsed(&bytes) {
                Some(parsed) => {
                    check(&result, &Outcome::Reply(0), &header, REPLY);
                    assert_eq!(attacker.seen().parsed, [parsed], "{bytes:?}");
                    ran += 1;
                }
                None => {
                    let words = "host function `parse` with bytes that".to_string();
                    check(&result, &Outcome::Error(ErrorKind::Protocol, words), &header, 0);
                    assert!(attacker.seen().parsed.is_empty(), "{bytes:?}");
                }
            }
            attacker.reset(&bytes);
        }
        assert!(ran > 500 * factor(), "only {ran} were arguments");
    }

    fn arguments_of_one_host_function_are_not_anothers() {
        let mut attacker = Attacker::new("arguments of any bytes");
        let mut random = Random::new(1);
        let steps = encoded(&[]);
        let held = [&[2, 8, 9][..], &[1], &steps].concat();
        let messages = [vec![7], arguments(&mut random), vec![0xac, 2], held, vec![1, 0], vec![], vec![0; 8000]];
        for name in ["take", "parse", "large", "hold", "nest_3"] {
            for message in &messages {
                let decodes = match name {
                    "take" => wire::decode_all::<u8>(message).is_ok(),
                    "parse" => parsed(message).is_some(),
                    "large" => wire::decode_all::<u32>(message).is_ok(),
                    "hold" => wire::decode_all::<(Vec<u8>, Vec<u8>)>(message).is_ok(),
                    _ => wire::decode_all::<Vec<u8>>(message).is_ok(),
                };
                let header = Header {
                    kind: HOST_CALL,
                    function: import(name),
                    reply_offset: MESSAGE / 2,
                    ..Header::default()
                };
                let result = attacker.strike(&send(header, message));
                if decodes {
                    check(&result, &Outcome::Reply(0), &header, REPLY);
                } else {
                    let words = format!("host function `{name}` with bytes that");
                    check(&result, &Outcome::Error(ErrorKind::Protocol, words), &header, 0);
                }
                let seen = attacker.seen();
                let ran = seen.taken.len() + seen.parsed.len() + seen.held.len();
                assert!(decodes || ran == 0, "{name} {message:?}");
                drop(seen);
                attacker.reset(&message);
            }
        }
    }
}
