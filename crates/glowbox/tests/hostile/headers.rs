//! Headers by hand: every field of a message at every boundary value, at every point of the protocol.
//!
//! What has to come of each is worked out here from what `docs/architecture.md` and `glowbox_abi::mailbox`
//! say: an error that names the field, or the end or answer that the header stands for. Nothing is accepted
//! because the library does it.

use glowbox::{Error, ErrorKind};

use crate::attacker::{
    Attacker, MESSAGE, Map, builder, encoded, import, imports, nested, spends, starting_with,
};
use crate::generate::Random;
use crate::steps::{Header, Step};
use crate::support::{factor, seed, tried};
use crate::values::{longs, near, words};

/// Kinds of message, as the ABI numbers them.
pub(crate) const READY: u32 = 1;
pub(crate) const RETURN: u32 = 2;
pub(crate) const HOST_CALL: u32 = 3;
pub(crate) const LOG: u32 = 4;
pub(crate) const PANIC: u32 = 5;
pub(crate) const OUT_OF_MEMORY: u32 = 6;
pub(crate) const START_ERROR: u32 = 7;
pub(crate) const BATCH_FLUSH: u32 = 8;
pub(crate) const BATCH_END: u32 = 9;

/// What the step answers with after the host's reply: its kind, and then its status.
pub(crate) const REPLY: u8 = 0x20;

/// Where a header comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Point {
    /// In a call.
    Call,
    /// In a call from a host function, so deep.
    Nested(u8),
    /// In a batch's second call of three.
    Batch,
    /// In the start-up.
    Start,
}

/// What a header has to come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The end of the function, with a value.
    Value,
    /// A reply with this status; the guest goes on.
    Reply(u8),
    /// The guest goes on; a record of a target and a text of so many bytes has come.
    Record(usize, usize),
    /// An error of this kind whose text has these words in it.
    Error(ErrorKind, String),
    /// The start-up's end.
    Ready,
    /// A batch's results are handed over, or all of them are.
    Flush,
    End,
}

/// Numbers of the imports that answers depend on.
pub(crate) struct Known {
    take: u32,
    others: Vec<u32>,
}

impl Known {
    pub(crate) fn new() -> Known {
        let take = import("take");
        let others = imports().into_iter().map(|(_, number)| number);
        Known { take, others: others.filter(|number| *number != take).collect() }
    }

    /// What a header has to come to; `None` where that is for other tests to say.
    pub(crate) fn outcome(&self, header: &Header, point: Point) -> Option<Outcome> {
        let error = |kind, words: &str| Some(Outcome::Error(kind, words.into()));
        let wrong = |field: &str| error(ErrorKind::Protocol, &format!("has `{field}` ="));
        let out_of_turn = || error(ErrorKind::Protocol, "out of turn");
        let starts = point == Point::Start;
        let message = match header {
            Header { offset, .. } if *offset > MESSAGE => Err("offset"),
            Header { offset, length, .. } if *length > MESSAGE - offset => Err("length"),
            Header { length, .. } => Ok(*length),
        };
        let split = message.and_then(|length| {
            let text = u64::from(header.text_length);
            if text > length { Err("text_length") } else { Ok((text, length - text)) }
        });
        let size = |bytes: u64| usize::try_from(bytes).expect("in a message");
        match header.kind {
            READY if starts => Some(Outcome::Ready),
            RETURN => {
                let checked = match header.status {
                    0 => message.map(|_| ()),
                    1 => split.map(|_| ()),
                    2 | 3 => Ok(()),
                    _ => Err("status"),
                };
                match (checked, header.status) {
                    (Err(field), _) => wrong(field),
                    (Ok(()), _) if starts => out_of_turn(),
                    (Ok(()), 0) if message == Ok(1) => Some(Outcome::Value),
                    (Ok(()), 0) => error(ErrorKind::Protocol, "`strike` is not a `u8`"),
                    (Ok(()), 1) => error(ErrorKind::Guest, "`strike` returned an error: "),
                    (Ok(()), 2) => error(ErrorKind::BadArguments, "`strike` could not decode"),
                    (Ok(()), _) => {
                        let needed = format!("`strike` takes {} bytes", header.amount);
                        error(ErrorKind::MessageTooLarge, &needed)
                    }
                }
            }
            HOST_CALL => match message {
                Err(field) => wrong(field),
                Ok(_)
                    if !header.reply_offset.is_multiple_of(16) || header.reply_offset > MESSAGE =>
                {
                    wrong("reply_offset")
                }
                Ok(_) if self.others.contains(&header.function) => None,
                Ok(_) if header.function != self.take => Some(Outcome::Reply(1)),
                Ok(1) if header.reply_offset == MESSAGE => Some(Outcome::Reply(3)),
                Ok(1) => Some(Outcome::Reply(0)),
                Ok(_) => error(ErrorKind::Protocol, "`take` with bytes that"),
            },
            LOG if !(1..=5).contains(&header.status) => wrong("status"),
            LOG => match split {
                Err(field) => wrong(field),
                // The level is above what the host asked for.
                Ok(_) if header.status > 3 => Some(Outcome::Record(usize::MAX, 0)),
                Ok((target, text)) => {
                    Some(Outcome::Record(size(target).min(256), size(text).min(4096)))
                }
            },
            PANIC => split.map_or_else(wrong, |_| error(ErrorKind::Panic, "the guest panicked")),
            OUT_OF_MEMORY => {
                let amount = format!("it asked for {} bytes more", header.amount);
                error(ErrorKind::OutOfMemory, &amount)
            }
            START_ERROR => match message {
                Err(field) => wrong(field),
                Ok(_) if starts => error(ErrorKind::Start, "`hostile` returned an error"),
                Ok(_) => out_of_turn(),
            },
            BATCH_FLUSH if point == Point::Batch => Some(Outcome::Flush),
            BATCH_END if point == Point::Batch => Some(Outcome::End),
            READY | BATCH_FLUSH | BATCH_END => out_of_turn(),
            _ => wrong("kind"),
        }
    }
}

/// Headers that are as they should be, one of each kind and status.
pub(crate) fn proper(known: &Known) -> Vec<Header> {
    let header = |kind| Header { kind, ..Header::default() };
    let returned = |status| Header { status, length: 6, text_length: 2, ..header(RETURN) };
    vec![
        header(READY),
        Header { length: 1, ..header(RETURN) },
        returned(1),
        returned(2),
        Header { amount: 70_000, ..returned(3) },
        Header { function: known.take, length: 1, reply_offset: 4096, ..header(HOST_CALL) },
        Header { status: 3, text_length: 2, length: 7, ..header(LOG) },
        Header { text_length: 3, length: 9, ..header(PANIC) },
        Header { amount: 4096, ..header(OUT_OF_MEMORY) },
        Header { length: 4, ..header(START_ERROR) },
        header(BATCH_FLUSH),
        header(BATCH_END),
    ]
}

/// Sets the field of this number, of eight.
fn set(header: &mut Header, field: usize, value: u64) {
    let low = u32::try_from(value & u64::from(u32::MAX)).expect("masked");
    match field {
        0 => header.kind = low,
        1 => header.status = low,
        2 => header.function = low,
        3 => header.text_length = low,
        4 => header.offset = value,
        5 => header.length = value,
        6 => header.reply_offset = value,
        _ => header.amount = value,
    }
}

/// Each proper header with each field at each value; of the values of 64 bits every `step`th, and of those of
/// 32 bits eight times as many.
fn mutated(known: &Known, map: &Map, step: usize) -> Vec<Header> {
    let numbers: Vec<u32> = known.others.iter().copied().chain([known.take]).collect();
    let words: Vec<u64> = words(&numbers).into_iter().map(u64::from).collect();
    let longs = longs(map);
    let rarely = (step / 8).max(1);
    let mut headers = Vec::new();
    for (number, header) in proper(known).into_iter().enumerate() {
        for field in 0..8 {
            let (values, step) = if field < 4 { (&words, rarely) } else { (&longs, step) };
            headers.extend(values.iter().skip(number % step).step_by(step).map(|value| {
                let mut header = header;
                set(&mut header, field, *value);
                header
            }));
        }
    }
    headers
}

/// Random fields at once, most of them near a boundary.
pub(crate) fn random(random: &mut Random, known: &Known, map: &Map, count: u64) -> Vec<Header> {
    let (proper, longs) = (proper(known), longs(map));
    let mutate = |_| {
        let mut header = *random.pick(&proper);
        for _ in 0..=random.below(4) {
            let field = random.below(8);
            let value = near(random, &longs);
            set(&mut header, field, value);
        }
        header
    };
    (0..count).map(mutate).collect()
}

/// Checks how a call that sent a header ended.
#[track_caller]
pub(crate) fn check(result: &Result<u8, Error>, expected: &Outcome, header: &Header, value: u8) {
    match (result, expected) {
        (Ok(found), Outcome::Value | Outcome::Reply(_) | Outcome::Record(..)) => {
            assert_eq!(*found, value, "{header:?}: {expected:?}");
        }
        (Err(error), Outcome::Error(kind, words)) => {
            let text = error.to_string();
            assert!(error.kind() == *kind && text.contains(words), "{header:?}: {error:?}");
        }
        _ => panic!("{header:?} has to be {expected:?}, and is {result:?}"),
    }
}

impl Attacker {
    /// Sends a header in a call, which may be from a host function.
    fn send(&mut self, header: &Header, depth: u8, expected: Option<&Outcome>) {
        let result = self.strike(&nested(depth, &[Step::Leave(*header)]));
        let Some(expected) = expected else { return };
        // How the innermost call ended, by which the others did.
        let inner = self.seen().nested.first().cloned();
        match expected {
            Outcome::Reply(status) => check(&result, expected, header, REPLY | status),
            // Its value is any byte of the outgoing buffer, all of which are zeros. If the function has
            // ended for the host, what it does when it is answered is the next outer one's end.
            Outcome::Value if depth > 0 => check(&result, expected, header, REPLY),
            Outcome::Error(kind, _) if depth > 0 && !spends(*kind) => {
                check(&result, &Outcome::Value, header, REPLY);
                check(&inner.clone().expect("a nested call"), expected, header, 0);
            }
            _ => check(&result, expected, header, 0),
        }
        if let Outcome::Record(target, text) = expected {
            let records = &self.seen().records;
            let wanted = (*target != usize::MAX).then_some((*target, *text, 0));
            // What is in the buffer in a nested call is no text, and what stands for it is longer.
            let same = match depth {
                0 => records.iter().copied().eq(wanted),
                _ => records.len() == usize::from(wanted.is_some()),
            };
            assert!(same, "{header:?}: {records:?}");
        }
        let runs = usize::from(matches!(expected, Outcome::Reply(0 | 3)));
        assert_eq!(self.seen().taken.len(), runs, "{header:?}");
        if let (Some(inner), Outcome::Error(kind, _)) = (inner, expected)
            && spends(*kind)
        {
            check(&inner, expected, header, 0);
        }
    }

    /// Sends each header and puts the sandbox back.
    fn send_all(&mut self, headers: &[Header], known: &Known, point: Point) {
        let depth = if let Point::Nested(depth) = point { depth } else { 0 };
        for header in headers {
            self.send(header, depth, known.outcome(header, point).as_ref());
            self.reset(header);
        }
    }
}

/// What the results of a batch of three have to be, if its second call sends a header.
fn in_batch(outcome: &Outcome) -> [Result<u8, (ErrorKind, String)>; 3] {
    let error = |kind, words: &str| Err((kind, words.to_string()));
    // The guest counts its call again, or the batch has ended too soon.
    let progress = error(ErrorKind::Protocol, "has `batch progress` =");
    let spent = error(ErrorKind::Spent, "is spent");
    match outcome {
        Outcome::Reply(status) => [Ok(0), Ok(REPLY | status), Ok(0)],
        Outcome::Record(..) | Outcome::Flush => [Ok(0), Ok(0), Ok(0)],
        Outcome::Value => [Ok(0), Ok(0), progress],
        Outcome::Error(kind, words) if spends(*kind) => [Ok(0), error(*kind, words), spent],
        Outcome::Error(kind, words) => [Ok(0), error(*kind, words), progress],
        Outcome::End | Outcome::Ready => [Ok(0), progress, spent],
    }
}

/// Whether a result is what was expected. A value by hand is some byte of the outgoing buffer.
pub(crate) fn is(found: &Result<u8, Error>, expected: &Result<u8, (ErrorKind, String)>) -> bool {
    match (found, expected) {
        (Ok(_), Ok(0)) => true,
        (Ok(found), Ok(expected)) => found == expected,
        (Err(error), Err((kind, words))) => {
            error.kind() == *kind && error.to_string().contains(words)
        }
        _ => false,
    }
}

impl Attacker {
    /// Sends a header from within the second call of a batch of three.
    fn send_in_batch(&mut self, header: &Header, expected: Option<&Outcome>) {
        let results = self.strike_many(&[&[], &[Step::Leave(*header)], &[]]);
        let Some(expected) = expected else { return };
        let wanted = in_batch(expected);
        let same = results.iter().zip(&wanted).all(|(found, wanted)| is(found, wanted));
        assert!(same && results.len() == 3, "{header:?} has to be {wanted:?}, and is {results:?}");
    }
}

/// Builds a sandbox whose start-up sends a header, and checks how that ends.
fn send_at_start(header: &Header, expected: Option<&Outcome>) {
    let seen = std::sync::Arc::default();
    let built = builder(&seen).build(starting_with(&[Step::Leave(*header)]));
    let Some(expected) = expected else { return };
    match (built, expected) {
        (Err(error), Outcome::Error(kind, words)) => {
            let text = error.to_string();
            assert!(error.kind() == *kind && text.contains(words), "{header:?}: {error:?}");
        }
        (Ok(mut sandbox), Outcome::Ready) => {
            // It is still in its start-up, and takes the call's steps there.
            let steps = encoded(&[]);
            let result = sandbox.call::<_, u8>("strike", (&steps[..],));
            assert_eq!(result.expect("a value by hand"), 0, "{header:?}");
        }
        (Ok(mut sandbox), Outcome::Reply(_) | Outcome::Record(..)) => {
            let result = sandbox.call::<_, u64>("double", (4u64,));
            assert_eq!(result.expect("an honest call"), 8, "{header:?}");
        }
        (built, _) => panic!("{header:?} has to be {expected:?}, and is {built:?}"),
    }
}

tests! {
    fn every_field_at_every_boundary_in_a_call() {
        let mut attacker = Attacker::new("headers in a call");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        attacker.send_all(&mutated(&known, &map, 1), &known, Point::Call);
    }

    fn every_field_at_every_boundary_in_a_nested_call() {
        let mut attacker = Attacker::new("headers in a nested call");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        attacker.send_all(&mutated(&known, &map, 2), &known, Point::Nested(1));
        // As deep as calls nest.
        attacker.send_all(&mutated(&known, &map, 60), &known, Point::Nested(16));
    }

    fn every_field_at_every_boundary_in_a_batch() {
        let mut attacker = Attacker::new("headers in a batch");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        for header in mutated(&known, &map, 2) {
            attacker.send_in_batch(&header, known.outcome(&header, Point::Batch).as_ref());
            attacker.reset(&header);
        }
    }

    fn every_field_at_boundaries_in_the_start_up() {
        let mut attacker = Attacker::new("headers in the start-up");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        let headers = mutated(&known, &map, 64);
        for header in &headers {
            send_at_start(header, known.outcome(header, Point::Start).as_ref());
        }
        tried("headers in the start-up", headers.len() as u64);
        attacker.reset(&"start-ups");
    }

    fn any_fields_at_once() {
        let mut attacker = Attacker::new("headers with several fields at random");
        let (known, map) = (Known::new(), Map::of(&mut attacker));
        let mut numbers = Random::new(seed("any_fields_at_once"));
        let headers = random(&mut numbers, &known, &map, 8000 * factor());
        let (called, nested) = headers.split_at(headers.len() / 2);
        attacker.send_all(called, &known, Point::Call);
        for headers in nested.chunks(100) {
            let depth = u8::try_from(numbers.below(4) + 1).expect("small");
            attacker.send_all(headers, &known, Point::Nested(depth));
        }
    }
}
