//! Rights that the host takes away in page tables are gone, and what it gives is there.

use glowbox_core::address::Gva;
use glowbox_core::layout::{PAGE_TABLES_GPA, RegionKind};
use glowbox_machine::Exit;

use crate::ground::{CALL, CONSTANT, Ground, load_from, store_to};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: usize = 4096;

/// Error codes of page faults in ring 3: of a page that is there and of one that is not, by a write or a read.
const WRITE_DENIED: u64 = 7;
const WRITE_ABSENT: u64 = 6;
const READ_ABSENT: u64 = 4;

fn entry(ground: &Ground, at: usize) -> u64 {
    u64::from_le_bytes(*ground.machine.memory()[at..].first_chunk().unwrap())
}

fn set_entry(ground: &mut Ground, at: usize, entry: u64) {
    ground.machine.memory_mut()[at..at + 8].copy_from_slice(&entry.to_le_bytes());
}

/// Where the entries lie that lead to an address, from the root on.
fn path(ground: &Ground, gva: u64) -> Vec<usize> {
    let mut table = PAGE_TABLES_GPA.0;
    let mut path = Vec::new();
    for shift in [39, 30, 21, 12] {
        let at = usize::try_from(table + (Gva(gva).0 >> shift & 0x1ff) * 8).unwrap();
        path.push(at);
        let entry = entry(ground, at);
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            break;
        }
        table = entry & ADDRESS;
    }
    path
}

fn leaf(ground: &Ground, gva: u64) -> usize {
    *path(ground, gva).last().unwrap()
}

/// A guest that does something to its memory, calls out, and does it again.
fn twice(part: &[u8]) -> Ground {
    let mut ground = Ground::new(&[part, &CALL].concat().repeat(2));
    ground.start_plain();
    ground.run_to_call();
    ground
}

#[track_caller]
fn faults(exit: &Exit, error_code: u64, address: u64) {
    let Exit::Exception(found) = exit else { panic!("{exit:?}") };
    assert_eq!((found.vector, found.error_code, found.address), (14, error_code, Some(address)));
}

/// Changes the entry of a page of the guest's, and has the machine forget the page.
fn change(ground: &mut Ground, gva: u64, to: impl Fn(u64) -> u64) {
    let at = leaf(ground, gva);
    let changed = to(entry(ground, at));
    set_entry(ground, at, changed);
    let place = ground.place(gva);
    ground.machine.forget(place..place + PAGE).unwrap();
}

tests! {
    fn a_page_that_may_not_be_written_any_more_is_not() {
        let data = Ground::new(&[]).data;
        let mut ground = twice(&store_to(data));
        ground.set_word(data + 8, 4711);
        change(&mut ground, data, |entry| entry & !WRITABLE);
        faults(&ground.run(), WRITE_DENIED, data);
        assert_eq!(ground.word(data + 8), 4711);
    }

    fn a_page_that_is_not_there_any_more_is_neither_read_nor_written() {
        let data = Ground::new(&[]).data;
        for (part, error_code) in [(store_to(data), WRITE_ABSENT), (load_from(data), READ_ABSENT)] {
            let mut ground = twice(&part);
            change(&mut ground, data, |_| 0);
            faults(&ground.run(), error_code, data);
        }
    }

    fn another_page_in_a_pages_place_is_seen() {
        let data = Ground::new(&[]).data;
        let mut ground = twice(&load_from(data));
        let other = entry(&ground, leaf(&ground, data + 0x1000));
        ground.set_word(data + 0x1000, 0x1234);
        change(&mut ground, data, |_| other);
        ground.run_to_call();
        assert_eq!(ground.machine.state().unwrap().registers.rax, 0x1234);
    }

    fn what_the_tables_allow_more_is_allowed_without_a_word() {
        let constants = Ground::new(&[]).constants;
        let mut ground = Ground::new(&[&store_to(constants)[..], &CALL].concat());
        ground.start_plain();
        let exit = ground.run();
        faults(&exit, WRITE_DENIED, constants);
        let Exit::Exception(found) = exit else { unreachable!() };
        let at = leaf(&ground, constants);
        let entry = entry(&ground, at);
        set_entry(&mut ground, at, entry | WRITABLE);
        let place = ground.place(constants);
        ground.machine.reveal(place..place + PAGE);
        let bases = ground.machine.bases().unwrap();
        ground.machine.proceed(&found.registers, bases).unwrap();
        ground.run_to_call();
        assert_eq!(ground.word(constants), found.registers.rax);
    }

    fn what_was_revealed_is_taken_away_when_memory_is_put_back() {
        let constants = Ground::new(&[]).constants;
        let mut ground = Ground::new(&[&store_to(constants)[..], &CALL].concat());
        let state = ground.state(&glowbox_core::registers::Registers::default());
        ground.machine.install(&state);
        ground.capture();
        for _ in 0..3 {
            let at = leaf(&ground, constants);
            let entry = entry(&ground, at);
            assert_eq!(entry & WRITABLE, 0);
            set_entry(&mut ground, at, entry | WRITABLE);
            let place = ground.place(constants);
            ground.machine.reveal(place..place + PAGE);
            ground.machine.start(&state).unwrap();
            ground.run_to_call();
            assert_eq!(ground.word(constants), 0);
            ground.restore();
            assert_eq!(ground.word(constants), u64::from_ne_bytes([CONSTANT; 8]));
            ground.machine.start(&state).unwrap();
            faults(&ground.run(), WRITE_DENIED, constants);
            ground.restore();
        }
    }

    fn another_table_in_a_tables_place_is_seen_when_all_are_forgotten() {
        let data = Ground::new(&[]).data;
        let mut ground = twice(&load_from(data));
        // A copy of the last table, in memory that the guest has no use for, that leads elsewhere.
        let heap = usize::try_from(ground.layout.memory(RegionKind::Heap).start).unwrap();
        let path = path(&ground, data);
        let [.., directory, last] = path[..] else { panic!("{path:?}") };
        let table = last & !(PAGE - 1);
        let mut copy = ground.machine.memory()[table..table + PAGE].to_vec();
        let other = entry(&ground, leaf(&ground, data + 0x1000));
        let into = last - table;
        copy[into..into + 8].copy_from_slice(&other.to_le_bytes());
        ground.machine.memory_mut()[heap..heap + PAGE].copy_from_slice(&copy);
        let link = entry(&ground, directory) & !ADDRESS | heap as u64;
        set_entry(&mut ground, directory, link);
        ground.set_word(data + 0x1000, 0x5678);
        ground.machine.forget_tables().unwrap();
        ground.run_to_call();
        assert_eq!(ground.machine.state().unwrap().registers.rax, 0x5678);
        // And back again.
        let at = path[path.len() - 2];
        set_entry(&mut ground, at, link & !ADDRESS | table as u64);
        ground.machine.forget_tables().unwrap();
        ground.start_plain();
        ground.run_to_call();
        assert_eq!(ground.machine.state().unwrap().registers.rax, ground.word(data));
    }

    fn data_survives_what_is_forgotten() {
        let data = Ground::new(&[]).data;
        // inc qword [data]; by its address: mov rax, data; inc qword [rax]
        let part = [&[0x48, 0xb8][..], &data.to_le_bytes(), &[0x48, 0xff, 0x00]].concat();
        let mut ground = Ground::new(&[&part[..], &CALL].concat().repeat(4));
        ground.start_plain();
        for round in 1..=4 {
            ground.run_to_call();
            assert_eq!(ground.word(data), round);
            if round % 2 == 0 {
                ground.machine.forget_tables().unwrap();
            } else {
                let place = ground.place(data);
                ground.machine.forget(place..place + PAGE).unwrap();
            }
        }
    }
}
