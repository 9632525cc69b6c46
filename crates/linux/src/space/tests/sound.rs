//! Address spaces that come from files.

use serde::Serialize;

use super::super::ADDRESSES_END;
use super::super::areas::{Area, Kind};
use super::*;

/// Something that must not be.
type Change = Box<dyn Fn(&mut Space)>;
/// As it, of the options.
type OptionsChange = fn(&mut Options);

const MEMORY: u64 = FREE + 1000 * PAGE_SIZE;

/// An address space with something in every collection.
fn used() -> (Machine, Space) {
    let options = options(1000);
    let mut machine = Machine::new(&options);
    let mut space = Space::new(options);
    let flags = u64::from(raw::MAP_PRIVATE | raw::MAP_ANONYMOUS);
    let request = space.request([0, 64 * PAGE_SIZE, 3, flags]).unwrap();
    let at = space.map(&mut machine, request).unwrap();
    space.unmap(&mut machine, at + PAGE_SIZE, PAGE_SIZE).unwrap();
    space.unmap(&mut machine, DATA.start, PAGE_SIZE).unwrap();
    space.protect(&mut machine, TEXT.start, PAGE_SIZE, R).unwrap();
    space.set_break(&mut machine, BREAK + 3 * PAGE_SIZE).unwrap();
    (machine, space)
}

#[test]
fn what_was_used_is_sound_and_what_was_changed_is_not() {
    let (_, space) = used();
    assert!(space.is_sound(MEMORY) && !space.is_sound(MEMORY - PAGE_SIZE));
    let free = space.frames.untouched().start;
    let changes: Vec<(&str, Change)> = vec![
        ("a break below its start", Box::new(|s| s.program_break = BREAK - 1)),
        ("a break beyond its limit", Box::new(|s| s.program_break = u64::MAX)),
        ("an area that ends before it starts", change(TEXT.start, |area| area.end = 0)),
        ("an area beyond the end", change(TEXT.start, |area| area.end = 1 << 60)),
        ("an area of half a page", change(TEXT.start, |area| area.end -= 1)),
        ("areas that overlap", change(TEXT.start, |area| area.end += 2 * PAGE_SIZE)),
        ("code that can be written to", change(TEXT.start, |area| area.rights = RWX)),
        ("a fixed area that isn't", change(CONTROL.start, |area| area.kind = Kind::Copy)),
        ("a fixed area with other rights", change(CONTROL.start, |area| area.rights = R)),
        ("a reserved area that isn't", change(RESERVED.start, |a| a.kind = Kind::Anonymous)),
        ("a smaller reserved area", change(RESERVED.start, |area| area.end -= PAGE_SIZE)),
        ("one more fixed area", change(TEXT.start, |area| area.kind = Kind::Fixed)),
        ("a view that can be written to", change(DATA.start + PAGE_SIZE, |a| a.kind = Kind::View)),
        ("anonymous code", change(TEXT.start + PAGE_SIZE, |a| a.kind = Kind::Anonymous)),
        ("frames of no area", Box::new(|s| s.areas.cut(&(TEXT.start..TEXT.end)))),
        ("a run that has lost its frames", Box::new(|s| drop(s.runs.remove(&TEXT)))),
        (
            "a fixed area's frames elsewhere",
            Box::new(|s| {
                let control = s.runs.remove(&CONTROL)[0].memory;
                let data = s.runs.remove(&(TEXT.start..TEXT.start + PAGE_SIZE))[0].memory;
                s.runs.insert(CONTROL.start, data, PAGE_SIZE);
                s.runs.insert(TEXT.start, control, PAGE_SIZE);
            }),
        ),
        ("a frame twice", Box::new(move |s| s.frames.release(free - PAGE_SIZE..free))),
        ("a frame outside", Box::new(|s| s.frames.release(MEMORY..MEMORY + PAGE_SIZE))),
        ("the supervisor's frame", Box::new(|s| s.frames.release(0..PAGE_SIZE))),
        ("the root", Box::new(|s| s.frames.release(ROOT..ROOT + PAGE_SIZE))),
        (
            "a fixed area without frames",
            Box::new(|s| {
                let frames = s.runs.remove(&CONTROL)[0].frames();
                s.frames.release(frames);
            }),
        ),
        (
            "tables that are no tables, where all are",
            Box::new(|s| {
                let end = s.frames.untouched().end;
                s.frames.release_tables(&(FREE..end));
            }),
        ),
        ("a frame that is nowhere", Box::new(|s| assert!(s.frames.take(PAGE_SIZE).is_some()))),
    ];
    for (what, change) in changes {
        let mut changed = space.clone();
        change(&mut changed);
        let changed: Space = again(&changed);
        assert!(!changed.is_sound(MEMORY), "{what}");
    }
    let mut many = space.clone();
    for at in (0..70).map(|index| ARENA.start + index * 2 * PAGE_SIZE) {
        let area = Area::new(Rights::NONE, Kind::Anonymous);
        many.areas.insert(at..at + PAGE_SIZE, area);
    }
    assert!(!many.is_sound(MEMORY), "too many areas");
}

/// A change of one area.
fn change(start: u64, change: fn(&mut Area)) -> Change {
    Box::new(move |space| change(space.areas.at_mut(start).unwrap()))
}

fn again<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    postcard::from_bytes(&postcard::to_allocvec(value).unwrap()).unwrap()
}

#[test]
fn options_that_contradict_themselves_are_not_sound() {
    let changes: [(&str, OptionsChange); 12] = [
        ("a root outside", |o| o.root = MEMORY),
        ("a root that is free", |o| o.root = FREE),
        ("a root between pages", |o| o.root = ROOT + 8),
        ("free memory outside", |o| o.free.end += PAGE_SIZE),
        ("free memory that is mapped", |o| o.free.start = 0x2_0000),
        ("free memory that ends before it starts", |o| o.free.start = u64::MAX),
        ("areas that overlap", |o| o.initial[1].addresses.start = TEXT.start),
        ("an area beyond the end", |o| {
            o.initial[0].addresses = ADDRESSES_END..ADDRESSES_END + 3 * PAGE_SIZE
        }),
        ("an area outside of memory", |o| o.initial[0].memory = u64::MAX - PAGE_SIZE),
        ("code that can be written to", |o| o.initial[0].rights = RWX),
        ("a break beyond its limit", |o| o.break_limit = 0),
        ("a base beyond the end", |o| o.mmap_base = 1 << 60),
    ];
    for (what, change) in changes {
        let mut options = options(1000);
        assert!(options.are_sound(MEMORY));
        change(&mut options);
        assert!(!options.are_sound(MEMORY), "{what}");
    }
}

#[test]
fn bytes_at_random_are_refused_or_sound_and_never_panic() {
    let (_, space) = used();
    let good = postcard::to_allocvec(&space).unwrap();
    let mut random = Rng::with_seed(5);
    let mut sound = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.u64(..3) {
            let at = random.usize(..bytes.len());
            bytes[at] = match random.u64(..3) {
                0 => random.u8(..),
                1 => bytes[at].wrapping_add(1),
                _ => bytes[at] ^ 1 << random.u64(..8),
            };
        }
        let Ok(mut changed) = postcard::from_bytes::<Space>(&bytes) else { continue };
        if changed.is_sound(MEMORY) && *changed.options == *space.options {
            sound += 1;
            let mut machine = Machine::new(&changed.options);
            changed.rebuild(&mut machine).unwrap();
            assert!(changed.is_sound(MEMORY));
        }
    }
    assert!(sound > 0);
}

#[test]
fn new_tables_map_what_the_old_ones_did_also_at_the_limit() {
    let (mut machine, mut space) = used();
    // Not a frame is left.
    let flags = u64::from(raw::MAP_PRIVATE | raw::MAP_ANONYMOUS | raw::MAP_NORESERVE);
    let request = space.request([0, 8 << 20, 3, flags]).unwrap();
    let at = space.map(&mut machine, request).unwrap();
    for page in pages(&(at..at + (8 << 20))) {
        if machine.guest(&mut space, page, Access::Write) == Err(Faulted::OutOfMemory) {
            break;
        }
    }
    assert_eq!(space.frames.available(), 0);
    let before: Vec<_> = pages(&ARENA).map(|page| machine.walk(page)).collect();
    let mut revived: Space = again(&space);
    assert!(revived.is_sound(MEMORY));
    machine.load(&revived.options);
    revived.rebuild(&mut machine).unwrap();
    let after: Vec<_> = pages(&ARENA).map(|page| machine.walk(page)).collect();
    assert!(before == after);
    assert_eq!(machine.walk(DATA.start), None);
    assert_eq!(machine.walk(TEXT.start), Some((0x2_0000, R)));
    assert_eq!(machine.walk(MAILBOX.start), Some((0x40_0000, R)));
}
