//! Pages that a guest has written: how they are counted, found, put back and given up.

use std::sync::Arc;

use glowbox::{Engine, ErrorKind, Sandbox};
use glowbox_core::layout::RegionKind;

use crate::patterns::{INVERTED, LIMITS, Looks, Places, alike, assert_clean, leaks, random};
use crate::support::{error, guest, isolated, leave_out};
use crate::windows::{anonymous, find_pattern, windows};

fn write(sandbox: &mut Sandbox, start: u64, pages: u64) {
    sandbox.call::<_, ()>("write_pages", (start, pages, 1u64)).expect("pages that can be written");
}

/// Checks that pages are zero again.
#[track_caller]
fn assert_zero(sandbox: &mut Sandbox, start: u64, pages: u64) {
    assert_eq!(sandbox.call::<_, u64>("count_other", (start, pages, 0u64)).unwrap(), 0);
}

/// Uses and resets in ways that leave pages of every kind, and checks that nothing is left.
fn check_resets(engine: &Engine) {
    let places = Places::of(&mut leaks(engine));
    let mut parent = leaks(engine);
    let looks = Looks::of(&mut parent, &places);
    for turn in 0..3 {
        parent.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
        parent.reset().unwrap();
        assert_eq!(Looks::of(&mut parent, &places), looks, "{turn}");
        assert_clean(&mut parent, &places, "a reset");
        parent.reset().unwrap();
    }
    let snapshot = parent.snapshot().unwrap();
    for turn in 0..6 {
        let mut sandbox = snapshot.spawn().unwrap();
        assert_eq!(Looks::of(&mut sandbox, &places), looks, "{turn}");
        sandbox.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
        sandbox.reset().unwrap();
        assert_eq!(Looks::of(&mut sandbox, &places), looks, "{turn}");
        assert_clean(&mut sandbox, &places, "a reset");
        write(&mut sandbox, places.spare(), 100);
        if turn % 2 == 0 {
            let nested = sandbox.snapshot().unwrap();
            assert_clean(&mut nested.spawn().unwrap(), &places, "a snapshot");
            sandbox.restore(&snapshot).unwrap();
            assert_eq!(Looks::of(&mut sandbox, &places), looks, "{turn}");
        }
    }
}

tests! {
    fn the_pages_that_a_guest_writes_are_counted() {
        let engine = Engine::builder().pool_size(1).build().unwrap();
        let mut parent = leaks(&engine);
        let heap = Places::of(&mut parent).layout.region(RegionKind::Heap).start.0;
        // Behind what the program's own code uses.
        let start = heap + (2 << 20);
        let snapshot = parent.snapshot().unwrap();
        let mut sandbox = snapshot.spawn().unwrap();
        let reset = |sandbox: &mut Sandbox, pages: u64| {
            write(sandbox, start, pages);
            let before = sandbox.stats();
            sandbox.reset().unwrap();
            let after = sandbox.stats();
            let copied = after.pages_copied_back - before.pages_copied_back;
            (after.pages_written - before.pages_written, copied)
        };
        // What every call writes, of stack, control page and mailbox, and the reset itself.
        reset(&mut sandbox, 0);
        let (least, _) = reset(&mut sandbox, 0);
        assert!(least <= 12, "{least}");
        for pages in [1, 16, 256, 1000] {
            assert_eq!(reset(&mut sandbox, pages), (least + pages, least + pages), "{pages}");
            assert_eq!(reset(&mut sandbox, pages), (least + pages, least + pages), "{pages}");
            assert_eq!(reset(&mut sandbox, 0), (least, least), "{pages}");
        }
        assert_zero(&mut sandbox, start, 1000);
    }

    fn what_is_kept_is_bounded_however_much_a_guest_writes() {
        if lacks!(private_memory) {
            return;
        }
        isolated("written::what_is_kept_is_bounded_however_much_a_guest_writes", || {
            for kept in [0usize, 16 << 12, 256 << 12, 32 << 20] {
                let engine = Engine::builder().pool_size(1).kept_memory(kept).build().unwrap();
                let mut parent = leaks(&engine);
                let places = Places::of(&mut parent);
                let size = places.layout.size();
                let snapshot = parent.snapshot().unwrap();
                drop(parent);
                let mut sandbox = snapshot.spawn().unwrap();
                // All of heap, stack, outgoing buffer and statics.
                let everything = (&places.writable[..], INVERTED, places.spare());
                assert_eq!(
                    error(sandbox.call::<_, ()>("end_by_fault", everything)).kind(),
                    ErrorKind::Fault
                );
                let dirty = anonymous(size);
                assert!(dirty >= LIMITS.heap + LIMITS.outgoing, "{dirty}");
                let before = sandbox.stats();
                sandbox.reset().unwrap();
                let (after, left) = (sandbox.stats(), anonymous(size));
                let written = after.pages_written - before.pages_written;
                let copied = after.pages_copied_back - before.pages_copied_back;
                assert!(written * 4096 + (64 << 10) >= dirty, "{written} pages of {dirty}");
                assert!(copied <= (kept / 4096) as u64, "{copied}");
                // The supervisor's own few pages, and the page of seeds, are beside that.
                assert!(left <= kept as u64 + (64 << 10), "{left} of {kept}");
                assert_eq!(find_pattern(size, !INVERTED), [""; 0]);
                assert_clean(&mut sandbox, &places, "everything");
                drop(sandbox);
                assert!(anonymous(size) <= kept as u64 + (64 << 10));
            }
        });
    }

    fn pages_that_are_long_not_written_are_given_up() {
        if lacks!(private_memory) {
            return;
        }
        isolated("written::pages_that_are_long_not_written_are_given_up", || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut parent = leaks(&engine);
            let places = Places::of(&mut parent);
            let snapshot = parent.snapshot().unwrap();
            drop(parent);
            let mut sandbox = snapshot.spawn().unwrap();
            write(&mut sandbox, places.spare(), 1000);
            sandbox.reset().unwrap();
            let size = places.layout.size();
            assert!(anonymous(size) >= 1000 * 4096);
            // Never later than that, whatever the machine's costs.
            (0..260).for_each(|_| sandbox.reset().unwrap());
            assert!(anonymous(size) < 1 << 20, "{}", anonymous(size));
            assert_zero(&mut sandbox, places.spare(), 1000);
        });
    }

    fn pages_that_the_sandboxes_of_a_snapshot_write_are_there_in_a_new_shell() {
        if lacks!(private_memory) {
            return;
        }
        let name = "written::pages_that_the_sandboxes_of_a_snapshot_write_are_there_in_a_new_shell";
        isolated(name, || {
            let engine = Engine::builder().pool_size(4).build().unwrap();
            let mut parent = leaks(&engine);
            let places = Places::of(&mut parent);
            let (start, size) = (places.spare(), places.layout.size());
            let snapshot = parent.snapshot().unwrap();
            drop(parent);
            let private_in_new = || {
                let before = anonymous(size);
                let sandbox = snapshot.spawn().unwrap();
                (anonymous(size) - before, sandbox)
            };
            // Each in a shell of its own, since the ones before are still there.
            let (none, mut first) = private_in_new();
            assert!(none < 64 << 10, "{none}");
            let (_, mut second) = private_in_new();
            for sandbox in [&mut first, &mut second] {
                write(sandbox, start, 200);
                sandbox.reset().unwrap();
            }
            let (learned, mut third) = private_in_new();
            assert!((200 * 4096..210 * 4096 + (64 << 10)).contains(&learned), "{learned}");
            write(&mut third, start, 200);
            third.reset().unwrap();
            assert_zero(&mut third, start, 200);
            // And forgotten when nobody writes them any more.
            for sandbox in [&mut first, &mut second, &mut third] {
                (0..260).for_each(|_| sandbox.reset().unwrap());
            }
            let (few, _fourth) = private_in_new();
            assert!(few < 128 << 10, "{few}");
        });
    }

    fn pages_that_have_been_swapped_out_are_put_back_too() {
        if lacks!(private_memory) {
            return;
        }
        isolated("written::pages_that_have_been_swapped_out_are_put_back_too", || {
            let swap = match Swap::on() {
                Ok(swap) => swap,
                Err(reason) => return leave_out(&format!("no swap file: {reason}")),
            };
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut parent = leaks(&engine);
            let places = Places::of(&mut parent);
            let size = places.layout.size();
            let snapshot = parent.snapshot().unwrap();
            drop(parent);
            let looks = Looks::of(&mut snapshot.spawn().unwrap(), &places);
            let mut swapped = 0;
            for turn in 0..6 {
                let mut sandbox = if turn < 4 { snapshot.spawn().unwrap() } else { leaks(&engine) };
                let everything = (&places.writable[..], INVERTED, places.spare());
                error(sandbox.call::<_, ()>("end_by_fault", everything));
                swapped += page_out(size);
                match turn % 3 {
                    0 => sandbox.reset().unwrap(),
                    1 => {
                        drop(sandbox);
                        sandbox = snapshot.spawn().unwrap();
                    }
                    _ => sandbox.restore(&snapshot).unwrap_or_else(|error| {
                        // Another guest's: a built one is.
                        assert_eq!(error.kind(), ErrorKind::WrongGuest);
                        sandbox.reset().unwrap();
                    }),
                }
                if turn % 2 == 0 {
                    page_out(size);
                }
                assert_eq!(find_pattern(size, !INVERTED), [""; 0], "{turn}");
                if turn < 4 {
                    assert_eq!(Looks::of(&mut sandbox, &places), looks, "{turn}");
                }
                assert_clean(&mut sandbox, &places, "swapping");
            }
            drop(swap);
            if swapped == 0 {
                leave_out("the system does not swap out what it is asked to");
            }
        });
    }

    fn resets_work_where_written_pages_can_only_be_read_one_by_one() {
        if lacks!(private_memory) {
            return;
        }
        isolated("written::resets_work_where_written_pages_can_only_be_read_one_by_one", || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            refuse(libc::SYS_ioctl, Some((1, 0xc060_6610)), libc::ENOTTY);
            check_resets(&engine);
        });
    }

    /// Without the page map a window is filled anew; a sandbox that was built can't be reset, and
    /// says so, but can be used.
    fn without_a_page_map_all_works_but_the_reset_of_what_was_built() {
        if lacks!(private_memory) {
            return;
        }
        let name = "written::without_a_page_map_all_works_but_the_reset_of_what_was_built";
        isolated(name, || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut parent = leaks(&engine);
            let places = Places::of(&mut parent);
            let snapshot = parent.snapshot().unwrap();
            let looks = Looks::of(&mut snapshot.spawn().unwrap(), &places);
            let file = guest("leaks");
            // From here on, no file is opened, and what is open can't be asked or read.
            refuse(libc::SYS_ioctl, Some((1, 0xc060_6610)), libc::ENOTTY);
            refuse(libc::SYS_pread64, None, libc::EIO);
            for _ in 0..3 {
                let mut sandbox = snapshot.spawn().unwrap();
                sandbox.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
                sandbox.reset().unwrap();
                assert_eq!(Looks::of(&mut sandbox, &places), looks);
                assert_clean(&mut sandbox, &places, "a reset");
                let again = sandbox.snapshot().unwrap();
                let mut copy = again.spawn().unwrap();
                let taken = Looks::of(&mut copy, &places);
                copy.call::<_, u32>("stain", (INVERTED, 1u64 << 20)).unwrap();
                copy.reset().unwrap();
                assert!(Looks::of(&mut copy, &places) == taken);
                assert_clean(&mut copy, &places, "a reset of a copy");
            }
            let mut built = random(&engine).build(file).unwrap();
            assert_eq!(built.call::<_, u32>("count", ()).unwrap(), 1);
            for _ in 0..2 {
                assert_eq!(error(built.reset()).kind(), ErrorKind::Hypervisor);
                assert_eq!(error(built.call::<_, u32>("count", ())).kind(), ErrorKind::Spent);
            }
        });
    }

    /// Where mapping the image fails in the middle, a later reset starts over.
    fn a_restore_that_failed_is_made_up_for_by_the_next_reset() {
        if lacks!(private_memory) {
            return;
        }
        isolated("written::a_restore_that_failed_is_made_up_for_by_the_next_reset", || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let file = guest("leaks");
            let mut parent = alike(&engine).build(file.clone()).unwrap();
            let places = Places::of(&mut parent);
            write(&mut parent, places.spare(), 3);
            let snapshot = Arc::new(parent.snapshot().unwrap());
            let looks = Looks::of(&mut snapshot.spawn().unwrap(), &places);
            let mut sandbox = alike(&engine).build(file).unwrap();
            let target = Arc::clone(&snapshot);
            // In a thread of its own, since there is no way back.
            let mut sandbox = std::thread::spawn(move || {
                refuse(libc::SYS_mmap, Some((4, 3)), libc::ENOMEM);
                let fails = |sandbox: &mut Sandbox| {
                    let failed = error(sandbox.restore(&target));
                    assert!(sandbox.is_spent(), "{failed}");
                };
                // Descriptors to map are refused by their number; whichever the image has.
                for descriptor in 4..64 {
                    refuse(libc::SYS_mmap, Some((4, descriptor)), libc::ENOMEM);
                }
                fails(&mut sandbox);
                error(sandbox.reset());
                sandbox
            })
            .join()
            .unwrap();
            sandbox.reset().unwrap();
            assert_eq!(Looks::of(&mut sandbox, &places), looks);
            drop(sandbox);
            assert_eq!(Looks::of(&mut snapshot.spawn().unwrap(), &places), looks);
        });
    }
}

/// Makes a system call of this thread fail from now on; only where an argument's low half has this
/// value, if one is given.
pub(crate) fn refuse(call: libc::c_long, argument: Option<(u32, u32)>, error: i32) {
    let statement = |code: u32, value: u32| libc::sock_filter {
        code: u16::try_from(code).expect("a code"),
        jt: 0,
        jf: 0,
        k: value,
    };
    let load = |at: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let unless_equal = |value: u32, skip: u8| libc::sock_filter {
        jf: skip,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let end = |value: u32| statement(libc::BPF_RET | libc::BPF_K, value);
    let number = u32::try_from(call).expect("a system call");
    let error = u32::try_from(error).expect("an error");
    // The number stands first, the arguments from byte 16 on.
    let mut filter = match argument {
        Some((index, value)) => vec![
            load(0),
            unless_equal(number, 3),
            load(16 + 8 * index),
            unless_equal(value, 1),
            end(libc::SECCOMP_RET_ERRNO | error),
        ],
        None => vec![load(0), unless_equal(number, 1), end(libc::SECCOMP_RET_ERRNO | error)],
    };
    filter.push(end(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("short"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program lives on this stack while the kernel copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (filtering, program) = (libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, filtering, program), 0);
    }
}

/// Asks the system to swap windows out, and returns how many bytes of them it has.
fn page_out(size: u64) -> u64 {
    for mapping in windows(size) {
        let length = usize::try_from(mapping.range.end - mapping.range.start).expect("fits");
        let start = std::ptr::with_exposed_provenance_mut(
            usize::try_from(mapping.range.start).expect("fits"),
        );
        // SAFETY: a hint, which changes no byte of what is mapped there.
        unsafe { libc::madvise(start, length, libc::MADV_PAGEOUT) };
    }
    windows(size).iter().map(|mapping| mapping.swapped).sum()
}

/// A swap file that is in use.
struct Swap {
    path: std::path::PathBuf,
}

impl Swap {
    fn on() -> Result<Swap, String> {
        let name = format!("glowbox-test-swap-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let swap = Swap { path: path.clone() };
        let file = path.to_string_lossy().into_owned();
        for (command, arguments) in [
            ("fallocate", &["-l", "67108864", &file][..]),
            ("chmod", &["600", &file]),
            ("mkswap", &[&file]),
            ("swapon", &[&file]),
        ] {
            let output = std::process::Command::new(command).args(arguments).output();
            let output = output.map_err(|error| format!("{command}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // Fails where it was never switched on.
        let _ = std::process::Command::new("swapoff").arg(&self.path).output();
        let _ = std::fs::remove_file(&self.path);
    }
}
