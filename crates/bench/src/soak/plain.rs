//! Operations on the guest without the standard library, `guests/soak`.

use std::sync::atomic::Ordering;

use glowbox::{Error, ErrorKind};

use super::ends::ENDS;
use super::logged;
use super::state::{Live, MASK, masked_tag};
use super::work;
use super::worker::{Check, Worker, cut, same, same_kind};
use super::world::visited;

/// Most that is kept at a time, so that it fits the heap.
const KEPT: usize = 6;
/// Depths of nested calls: 0 to 4, which is how many such functions there are.
const DEPTH: u32 = 5;

fn text(worker: &mut Worker<'_>, longest: u64) -> String {
    let length = worker.below(longest);
    let letters = ['a', 'ß', '∞', '\n', 'z', '0'];
    (0..length).map(|_| letters[worker.index_below(letters.len())]).collect()
}

pub(crate) fn mix(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (number, text) = (worker.number(), text(worker, 60));
    let list: Vec<u32> = (0..worker.below(40)).map(|_| worker.below_u32(u32::MAX)).collect();
    let flag = [None, Some(true), Some(false)][worker.index_below(3)];
    let mixed = work::mix(number, &text, &list, flag);
    let want = (mixed, format!("{mixed:x} {text}"));
    let got = live.sandbox.call::<_, (u64, String)>("mix", (number, &text, &list, flag));
    same("mix", got, &want)
}

pub(crate) fn echo(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let longest = [64, 4096, 64 << 10, 512 << 10][worker.index_below(4)];
    let (length, mut random) = (worker.index_below(longest), worker.number());
    let data: Vec<u8> = (0..length).map(|_| work::next(&mut random).to_le_bytes()[3]).collect();
    same("echo", live.sandbox.call::<_, Vec<u8>>("echo", (&data,)), &data)
}

pub(crate) fn bump(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let by = worker.number();
    live.now.counter = live.now.counter.wrapping_add(by);
    same("bump", live.sandbox.call::<_, u64>("bump", (by,)), &live.now.counter)
}

pub(crate) fn keep(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    if live.now.kept.len() >= KEPT {
        return check(worker, live);
    }
    let masked = masked_tag(worker.world.tags.fetch_add(1, Ordering::Relaxed));
    let pages = 1 + worker.below_u32(32);
    live.now.kept.push((masked, pages));
    live.note(format!("tag {}", (masked ^ MASK) & 0xffff_ffff));
    same("keep", live.sandbox.call::<_, ()>("keep", (masked, pages)), &())
}

/// Its own state is there, and nobody else's tags are.
pub(crate) fn check(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let digest = live.sandbox.call::<_, (u64, u64)>("digest", ());
    same("digest", digest, &live.now.digest())?;
    let mut names = live
        .sandbox
        .call::<_, Vec<String>>("lent_names", ())
        .map_err(|error| format!("lent_names: {error:?}"))?;
    names.sort();
    let lent: Vec<String> = live.lent.keys().cloned().collect();
    same("lent_names", Ok(names), &lent)?;
    for (name, sum) in &live.lent {
        same("lent_sum", live.sandbox.call::<_, Option<u64>>("lent_sum", (name,)), &Some(*sum))?;
    }
    let kib = 1u32 << worker.below_u32(11);
    let found = live.sandbox.call::<_, Vec<u32>>("find_tags", (kib,));
    let found = found.map_err(|error| format!("find_tags: {error:?}"))?;
    let own = |tag: &u32| live.now.kept.iter().any(|(masked, _)| *masked == masked_tag(*tag));
    match found.iter().find(|tag| !own(tag)) {
        None if found.len() == live.now.kept.len() => Ok(()),
        None => Err(format!("tags {found:?} found, of {}", cut(&live.now.kept))),
        Some(tag) => Err(format!("LEAK: tag {tag} of another sandbox, or of before a reset")),
    }
}

pub(crate) fn visit(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (depth, number) = (worker.below_u32(DEPTH), worker.number());
    let got = live.sandbox.call::<_, u64>("visit", (depth, number, "the first text"));
    same("visit", got, &visited(depth, number))
}

pub(crate) fn ask(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let number = worker.number();
    let want = if number.is_multiple_of(3) {
        "error: threes are refused".to_string()
    } else {
        format!("ok {number}")
    };
    same("ask", live.sandbox.call::<_, String>("ask", (number,)), &want)
}

pub(crate) fn divide(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (a, b) = (worker.number(), worker.below(3));
    let got = live.sandbox.call::<_, u64>("divide", (a, b));
    if let Some(want) = a.checked_div(b) {
        return same("divide", got, &want);
    }
    let want = format!("{a} can't be divided by zero");
    match &got {
        Err(error)
            if error.kind() == ErrorKind::Guest
                && error.guest_error::<String>().as_ref() == Some(&want)
                && !live.sandbox.is_spent() =>
        {
            Ok(())
        }
        _ => Err(format!("divide by zero: {got:?}")),
    }
}

/// A batch, at times with an entry that ends it.
pub(crate) fn batch(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let entry = live.sandbox.function::<(u64, u32), u64>("entry");
    let entry = entry.map_err(|error| format!("function: {error:?}"))?;
    let count = 1 + worker.index_below(40);
    let seed = worker.number();
    let fails = if worker.below(2) == 0 { worker.index_below(count) } else { count };
    let end = &ENDS[worker.world.decks.batch_ends.deal()];
    let how = |at: usize| if at == fails { end.number } else { 0 };
    let inputs = (0..count).map(|at| (seed ^ at as u64, how(at)));
    let results = entry.call_many(&mut live.sandbox, inputs);
    if results.len() != count {
        return Err(format!("{} results of {count} entries", results.len()));
    }
    for (at, result) in results.into_iter().enumerate() {
        match at.cmp(&fails) {
            std::cmp::Ordering::Less => {
                same("entry", result, &work::rounds(seed ^ at as u64, 5))?;
            }
            std::cmp::Ordering::Equal => end.check(worker, live, result)?,
            std::cmp::Ordering::Greater => {
                same_kind("an entry after the end", result, ErrorKind::Spent)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn say(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let said: String = text(worker, 100).replace('\n', " ");
    logged();
    same("say", live.sandbox.call::<_, ()>("say", (&said,)), &())?;
    same::<Vec<String>>("log", Ok::<_, Error>(logged()), &vec![said])
}

pub(crate) fn lend(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let at = worker.index_below(worker.world.lent.len());
    let (mapping, sum) = &worker.world.lent[at];
    let name = format!("lent {}", worker.below(3));
    let mapped = live.sandbox.map(&name, mapping);
    if live.lent.contains_key(&name) {
        return same_kind("a name that is taken", mapped, ErrorKind::InvalidOption);
    }
    same("map", mapped, &())?;
    live.lent.insert(name.clone(), *sum);
    same("lent_sum", live.sandbox.call::<_, Option<u64>>("lent_sum", (&name,)), &Some(*sum))
}

/// Lent bytes are not the sandbox's own, so it can't be captured with them.
pub(crate) fn capture_what_is_lent(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    if live.lent.is_empty() {
        lend(worker, live)?;
    }
    same_kind("a snapshot with lent bytes", live.sandbox.snapshot(), ErrorKind::InvalidOption)
}

pub(crate) fn take_back(_: &mut Worker<'_>, live: &mut Live) -> Check {
    same("unmap_all", live.sandbox.unmap_all(), &())?;
    live.lent.clear();
    same("lent_names", live.sandbox.call::<_, Vec<String>>("lent_names", ()), &Vec::new())
}

/// Calls that are refused before the guest runs, and leave the sandbox as it was.
pub(crate) fn refused(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let sandbox = &mut live.sandbox;
    match worker.below(12) {
        0..6 => {
            let got = sandbox.call::<_, u64>("no such function", ());
            same_kind("an unknown function", got, ErrorKind::UnknownFunction)?;
        }
        6..11 => {
            let got = sandbox.call::<_, u64>("bump", ("a text",));
            same_kind("another signature", got, ErrorKind::SignatureMismatch)?;
        }
        _ => {
            let data = vec![1u8; (16 << 20) + 1];
            let got = sandbox.call::<_, Vec<u8>>("echo", (&data,));
            same_kind("too large a message", got, ErrorKind::MessageTooLarge)?;
        }
    }
    bump(worker, live)
}
