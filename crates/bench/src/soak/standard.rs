//! Operations on the guest with the standard library, `guests-std/testing-std`.

use std::collections::HashMap;
use std::time::Duration;

use glowbox::{CallOptions, ErrorKind};

use super::deck::Deck;
use super::ends::DEADLINE;
use super::state::Live;
use super::worker::{Check, Worker, same};

/// Outcomes of these operations that end the sandbox.
const PANIC: &str = "panic";
const EXIT: &str = "exit";
const ABORT: &str = "abort";
const NULL: &str = "null pointer read";
pub(crate) const OUTCOMES: [&str; 5] = [PANIC, EXIT, ABORT, NULL, DEADLINE];

/// The ways to end.
pub(crate) fn deck(seed: u64) -> Deck {
    Deck::new([1; 4], seed)
}

/// Notes are few, so that they are overwritten.
const NOTES: u64 = 5;

pub(crate) fn values(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (a, b) = (worker.below_u32(u32::MAX), worker.below_u32(u32::MAX));
    same("add", live.sandbox.call::<_, u32>("add", (a, b)), &a.wrapping_add(b))?;
    let words: Vec<&str> =
        (0..worker.below(12)).map(|_| ["to", "be", "or", "not"][worker.index_below(4)]).collect();
    let mut want: HashMap<String, u32> = HashMap::new();
    words.iter().for_each(|word| *want.entry((*word).to_string()).or_default() += 1);
    let got = live.sandbox.call::<_, HashMap<String, u32>>("count_words", (words.join(" "),));
    same("count_words", got, &want)
}

pub(crate) fn state(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (key, value) = (worker.below(NOTES).to_string(), worker.number().to_string());
    let before = live.now.notes.insert(key.clone(), value.clone());
    let got = live.sandbox.call::<_, Option<String>>("remember", (key, value));
    same("remember", got, &before)?;
    live.now.counter += 1;
    let got = live.sandbox.call::<_, u32>("count_up", ());
    same("count_up", got.map(u64::from), &live.now.counter)
}

/// All that must be known is known, and nothing else.
pub(crate) fn check(_: &mut Worker<'_>, live: &mut Live) -> Check {
    for key in 0..NOTES {
        let key = key.to_string();
        let want = live.now.notes.get(&key).cloned();
        same("recall", live.sandbox.call::<_, Option<String>>("recall", (&key,)), &want)?;
    }
    let note = live.sandbox.call::<_, Option<String>>("start_note", ());
    same("start_note", note, &Some("by the start-up function".to_string()))
}

pub(crate) fn host_call(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let name = worker.number().to_string();
    let want = format!("Hello, {name}! Today is Monday.");
    same("greet", live.sandbox.call::<_, String>("greet", (&name,)), &want)?;
    let number = worker.below_u32(u32::MAX);
    let got = live.sandbox.call::<_, u32>("double_it", (number,));
    if let Some(want) = number.checked_mul(2) {
        return same("double_it", got, &want);
    }
    let text = got.as_ref().map_err(|error| error.guest_error::<String>());
    if text == Err(Some("too large to be doubled".to_string())) {
        return Ok(());
    }
    Err(format!("double_it of {number}: {got:?}"))
}

pub(crate) fn threads(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let end = worker.below(50_000);
    let got = live.sandbox.call::<_, Option<u64>>("sum_on_four_threads", (end,));
    same("sum_on_four_threads", got, &Some((0..end).sum()))
}

pub(crate) fn caught(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let text = worker.number().to_string();
    same("catch_panic", live.sandbox.call::<_, String>("catch_panic", (&text,)), &text)?;
    same("drop_while_unwinding", live.sandbox.call::<_, u32>("drop_while_unwinding", ()), &1)
}

pub(crate) fn ends(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    match worker.world.decks.standard_ends.deal() {
        0 => {
            let text = worker.number().to_string();
            let result = live.sandbox.call::<_, ()>("panic_with", (&text,));
            let error = worker.ended(live, result, (PANIC, ErrorKind::Panic))?;
            let message = error.panic().map(|panic| panic.message.clone());
            same("panic_with", Ok(message), &Some(format!("told to: {text}")))
        }
        1 => {
            let status = i32::from(worker.number().to_le_bytes()[0]);
            let result = live.sandbox.call::<_, ()>("exit", (status,));
            let error = worker.ended(live, result, (EXIT, ErrorKind::Exited))?;
            same("exit", Ok(error.exit_status().and_then(glowbox::ExitStatus::code)), &Some(status))
        }
        2 => {
            let result = live.sandbox.call::<_, ()>("abort", ());
            let error = worker.ended(live, result, (ABORT, ErrorKind::Exited))?;
            same("abort", Ok(error.exit_status().and_then(glowbox::ExitStatus::signal)), &Some(6))
        }
        _ => {
            let result = live.sandbox.call::<_, u8>("null_pointer", ());
            let error = worker.ended(live, result, (NULL, ErrorKind::Fault))?;
            same("null_pointer", Ok(error.fault().and_then(|fault| fault.address)), &Some(0))
        }
    }
}

pub(crate) fn deadline(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let options = CallOptions::new().deadline(Duration::from_micros(500 + worker.below(8_000)));
    let result = live.sandbox.call_with::<_, u32>(&options, "count_under_a_lock", (2u32, u32::MAX));
    worker.ended(live, result, (DEADLINE, ErrorKind::Deadline)).map(drop)
}
