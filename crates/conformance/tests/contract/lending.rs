//! What is lent is read where it was lent, is not written, and is gone when it has been taken back.

use std::sync::Arc;

use glowbox_core::address::Gpa;
use glowbox_core::layout::LENT;
use glowbox_core::paging;
use glowbox_machine::Exit;
use glowbox_mem::{Bytes, LARGE_PAGE, Lent};

use crate::ground::{CALL, Ground, load_from, store_to};

fn lent(value: u64) -> Arc<Lent> {
    let mut bytes = Bytes::zeroed(LARGE_PAGE + 16).unwrap();
    for at in [0, LARGE_PAGE + 8] {
        bytes.as_mut_slice()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Arc::new(bytes.into_lent())
}

/// Lends at the `index`th large page, and maps that there.
fn lend(ground: &mut Ground, index: usize, lent: Arc<Lent>) -> u64 {
    let gpa = LENT.start + (index * LARGE_PAGE) as u64;
    let pages = lent.mapped() / LARGE_PAGE;
    ground.machine.lend(Gpa(gpa), lent).unwrap();
    let tables = ground.layout.lent_tables();
    let tables = usize::try_from(tables.start).unwrap()..usize::try_from(tables.end).unwrap();
    let directories = &mut ground.machine.memory_mut()[tables];
    for page in 0..pages {
        let at = Gpa(gpa + (page * LARGE_PAGE) as u64);
        paging::map_large_read_only(directories, index + page, at);
    }
    gpa
}

/// Takes back all that was lent at the first `pages` large pages.
fn take_back(ground: &mut Ground, pages: usize) {
    ground.machine.take_back().unwrap();
    let tables = usize::try_from(ground.layout.lent_tables().start).unwrap();
    ground.machine.memory_mut()[tables..tables + pages * 8].fill(0);
}

#[track_caller]
fn reads(ground: &mut Ground, value: u64) {
    ground.run_to_call();
    assert_eq!(ground.machine.state().unwrap().registers.rax, value);
}

#[track_caller]
fn faults(ground: &mut Ground, error_code: u64, address: u64) {
    let exit = ground.run();
    let Exit::Exception(found) = &exit else { panic!("{exit:?}") };
    assert_eq!((found.vector, found.error_code, found.address), (14, error_code, Some(address)));
}

tests! {
    fn bytes_are_read_where_they_were_lent() {
        let far = LENT.start + LARGE_PAGE as u64 + 8;
        let code = [&load_from(LENT.start)[..], &CALL, &load_from(far), &CALL].concat();
        let mut ground = Ground::new(&code);
        assert_eq!(lend(&mut ground, 0, lent(0x1e47)), LENT.start);
        ground.start_plain();
        reads(&mut ground, 0x1e47);
        reads(&mut ground, 0x1e47);
    }

    fn what_is_lent_is_not_written() {
        let lent = lent(1);
        let mut ground = Ground::new(&store_to(LENT.start));
        lend(&mut ground, 0, Arc::clone(&lent));
        ground.start_plain();
        faults(&mut ground, 7, LENT.start);
        let mut other = Ground::new(&[&load_from(LENT.start)[..], &CALL].concat());
        lend(&mut other, 0, lent);
        other.start_plain();
        reads(&mut other, 1);
    }

    fn what_was_taken_back_is_gone_and_other_bytes_come_in_its_place() {
        let mut ground = Ground::new(&[&load_from(LENT.start)[..], &CALL].concat().repeat(3));
        lend(&mut ground, 0, lent(1));
        ground.start_plain();
        reads(&mut ground, 1);
        take_back(&mut ground, 2);
        faults(&mut ground, 4, LENT.start);
        lend(&mut ground, 0, lent(2));
        ground.start_plain();
        reads(&mut ground, 2);
        take_back(&mut ground, 2);
        lend(&mut ground, 0, lent(3));
        reads(&mut ground, 3);
    }

    fn several_are_lent_at_once() {
        let count = 5;
        let address = |index: usize| LENT.start + (3 * index * LARGE_PAGE) as u64;
        let code: Vec<u8> =
            (0..count).flat_map(|index| [&load_from(address(index))[..], &CALL].concat()).collect();
        let mut ground = Ground::new(&code);
        let shared = lent(7);
        for index in 0..count {
            // The same bytes at several places of one guest, too.
            let what = if index % 2 == 0 { Arc::clone(&shared) } else { lent(index as u64) };
            assert_eq!(lend(&mut ground, 3 * index, what), address(index));
        }
        ground.start_plain();
        for index in 0..count {
            reads(&mut ground, if index % 2 == 0 { 7 } else { index as u64 });
        }
        take_back(&mut ground, 3 * count);
    }

    fn the_same_bytes_are_read_by_many_guests_at_once() {
        let lent = lent(99);
        let threads: Vec<_> = (0..4).map(|_| {
            let lent = Arc::clone(&lent);
            std::thread::spawn(move || {
                let mut ground = Ground::new(&[&load_from(LENT.start)[..], &CALL].concat());
                lend(&mut ground, 0, lent);
                ground.start_plain();
                reads(&mut ground, 99);
            })
        }).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn a_file_is_lent_as_bytes_are() {
        let path = std::env::temp_dir().join(format!("glowbox-contract-{}", std::process::id()));
        std::fs::write(&path, 0xf11e_u64.to_le_bytes().repeat(1000)).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let code = [&load_from(LENT.start + 7992)[..], &CALL, &load_from(LENT.start + 8192), &CALL];
        let mut ground = Ground::new(&code.concat());
        lend(&mut ground, 0, Arc::new(Lent::file(file).unwrap()));
        ground.start_plain();
        reads(&mut ground, 0xf11e);
        reads(&mut ground, 0);
    }
}
