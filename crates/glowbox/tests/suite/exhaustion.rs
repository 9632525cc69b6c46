//! Stacks and heaps that do not suffice, and panics: told apart from each other.

use glowbox::{Access, Error, ErrorKind, FaultKind, Guest, Sandbox};
use glowbox_testguest::GuestFile;

use crate::faults::{Bystander, fault, sandbox};
use crate::support::{error, guest};

/// Bytes of heap in these tests.
const HEAP: u64 = 1 << 20;

fn sandbox_with_small_heap() -> Sandbox {
    Sandbox::builder().memory_limit(HEAP).build(guest("faults")).expect("a sandbox")
}

/// What the guest asked for last, from the text of an error.
#[track_caller]
fn requested(error: &Error) -> u64 {
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.fault().is_none() && error.panic().is_none());
    let text = error.to_string();
    assert!(text.contains(&format!("limit of {HEAP} bytes")), "{text}");
    let (_, rest) = text.split_once("asked for ").expect("a size");
    let (size, _) = rest.split_once(" bytes").expect("a unit");
    size.parse().expect("a number")
}

/// A sandbox with this much stack.
fn sandbox_with_stack(bytes: u64) -> Sandbox {
    Sandbox::builder().stack_size(bytes).build(guest("faults")).expect("a sandbox")
}

tests! {
    fn too_deep_a_recursion_overflows_the_stack() {
        let mut bystander = Bystander::new();
        for size in [16 << 10, 1 << 20, 5 << 20] {
            let error = bystander.watch(sandbox_with_stack(size), |sandbox| {
                sandbox.call::<_, u64>("recurse", (u64::MAX,))
            });
            assert_eq!(error.kind(), ErrorKind::StackOverflow, "{error}");
            assert_eq!(fault(&error).kind, FaultKind::StackOverflow, "{error}");
            let text = error.to_string();
            for part in ["stack_size", "faults::exhaustion::recurse+0x", "vector 14"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    fn large_frames_overflow_the_stack_rather_than_skip_its_guard() {
        let mut bystander = Bystander::new();
        // One frame of 512 KiB fits into 1 MiB, two do not.
        assert_eq!(sandbox().call::<_, u32>("large_frames", (1u32,)).unwrap(), 1);
        for depth in [2u32, 3, 4, 5, 100] {
            let error = bystander
                .watch(sandbox(), |sandbox| sandbox.call::<_, u32>("large_frames", (depth,)));
            assert_eq!(error.kind(), ErrorKind::StackOverflow, "{depth}: {error}");
        }
        let mut larger = sandbox_with_stack(8 << 20);
        assert_eq!(larger.call::<_, u32>("large_frames", (15u32,)).unwrap(), 15);
        let error = bystander.watch(larger, |sandbox| sandbox.call::<_, u8>("enormous_frame", ()));
        assert_eq!(error.kind(), ErrorKind::StackOverflow, "{error}");
        let mut huge = sandbox_with_stack(17 << 20);
        assert_eq!(huge.call::<_, u8>("enormous_frame", ()).unwrap(), 1);
    }

    fn hand_written_code_meets_the_guard_too() {
        let run = |code: &[u8]| {
            let guest = Guest::from_bytes("stack", GuestFile::of_code(code).to_bytes()).unwrap();
            error(Sandbox::builder().stack_size(1 << 20).build(guest))
        };
        for (name, code) in [
            ("push rax, for ever", &[0x50, 0xeb, 0xfd][..]),
            ("call itself", &[0xe8, 0xfb, 0xff, 0xff, 0xff]),
            ("sub rsp, 0x180000; push rax", &[0x48, 0x81, 0xec, 0, 0, 0x18, 0, 0x50]),
        ] {
            let error = run(code);
            assert_eq!(error.kind(), ErrorKind::StackOverflow, "{name}: {error}");
        }
        // sub rsp, 0x1000000; push rax: beyond the guard, where nothing is either.
        let error = run(&[0x48, 0x81, 0xec, 0, 0, 0, 1, 0x50]);
        assert_eq!(fault(&error).kind, FaultKind::Unmapped(Access::Write), "{error}");
    }

    fn an_exhausted_heap_says_what_was_asked_for_and_what_the_limit_is() {
        let mut bystander = Bystander::new();
        let mut end = |function: &str| {
            bystander
                .watch(sandbox_with_small_heap(), |sandbox| sandbox.call::<_, u64>(function, ()))
        };
        // A vector doubles; some step of it does not fit with what the heap holds already.
        let size = requested(&end("grow_vector"));
        assert!(size.is_power_of_two() && (HEAP / 4..=HEAP).contains(&size), "{size}");
        let size = requested(&end("hoard_boxes"));
        assert!((4096..=4096 + 16).contains(&size), "{size}");
        for size in [HEAP, HEAP + 1, 1 << 40, i64::MAX as u64] {
            for zeroed in [false, true] {
                let error = bystander.watch(sandbox_with_small_heap(), |sandbox| {
                    sandbox.call::<_, u64>("allocate", (size, zeroed))
                });
                assert_eq!(requested(&error), size);
            }
        }
    }

    fn the_heap_can_be_used_up_to_nearly_its_limit() {
        let mut sandbox = sandbox_with_small_heap();
        for zeroed in [false, true] {
            for _ in 0..3 {
                let size = HEAP * 7 / 8;
                assert!(sandbox.call::<_, u64>("allocate", (size, zeroed)).unwrap() >= size);
            }
        }
    }

    fn a_guest_that_asks_whether_memory_can_be_had_survives_the_answer() {
        let mut sandbox = sandbox_with_small_heap();
        let mut can_have = |size: u64| sandbox.call::<_, bool>("try_allocate", (size,)).unwrap();
        for size in [HEAP, 1 << 40, i64::MAX as u64, u64::MAX] {
            assert!(!can_have(size), "{size}");
            assert!(can_have(HEAP / 2));
        }
        assert!(!sandbox.is_spent());
        assert_eq!(sandbox.call::<_, u64>("recurse", (3u64,)).unwrap(), 3);
    }

    fn a_panic_says_what_and_where() {
        let mut bystander = Bystander::new();
        let check = |error: Error, message: &str| {
            assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
            let panic = error.panic().expect("a panic");
            assert_eq!(panic.message, message);
            let mut place = panic.location.rsplitn(3, ':');
            let numbers = [place.next(), place.next()].map(|part| part.unwrap().parse::<u32>());
            assert!(numbers.iter().all(|number| *number.as_ref().unwrap() > 0), "{error}");
            assert!(place.next().unwrap().ends_with(".rs"), "{error}");
            let text = format!("the guest panicked at {}: {message}", panic.location);
            assert_eq!(error.to_string(), text);
            assert!(error.fault().is_none());
            panic.location.clone()
        };
        for (message, shown) in [
            ("", ""),
            ("a reason", "a reason"),
            ("zwei Zeilen:\n\tDoppelpunkt: ∞", "zwei Zeilen:\n\tDoppelpunkt: ∞"),
            ("\x1b[31m", "\u{fffd}[31m"),
        ] {
            let call = |sandbox: &mut Sandbox| sandbox.call::<_, ()>("panic_with", (message,));
            let location = check(bystander.watch(sandbox(), call), shown);
            assert!(location.contains("faults/src/panics.rs:"), "{location}");
        }
        let error = bystander.watch(sandbox(), |sandbox| sandbox.call::<_, u8>("index", (3u64,)));
        check(error, "index out of bounds: the len is 3 but the index is 3");
        let divide = |sandbox: &mut Sandbox| sandbox.call::<_, i32>("divide", (1i32, 0i32));
        check(bystander.watch(sandbox(), divide), "attempt to divide by zero");
        let divide = |sandbox: &mut Sandbox| sandbox.call::<_, i32>("divide", (i32::MIN, -1i32));
        check(bystander.watch(sandbox(), divide), "attempt to divide with overflow");
        let expect = |sandbox: &mut Sandbox| sandbox.call::<_, u32>("expect_none", ());
        check(bystander.watch(sandbox(), expect), "a number");
        let nested = |sandbox: &mut Sandbox| sandbox.call::<_, ()>("panic_in_panic", ());
        check(bystander.watch(sandbox(), nested), "even that can't be said");
        // No heap is so large that this could be a question of its limit.
        let allocate =
            |sandbox: &mut Sandbox| sandbox.call::<_, u64>("allocate", (u64::MAX, false));
        check(bystander.watch(sandbox(), allocate), "capacity overflow");
    }

    fn a_panics_text_is_cut_at_a_character() {
        let text = "é".repeat(1 << 20);
        let error = Bystander::new()
            .watch(sandbox(), |sandbox| sandbox.call::<_, ()>("panic_with", (&text[..],)));
        let message = &error.panic().expect("a panic").message;
        assert!(!message.is_empty() && message.len() < text.len(), "{}", message.len());
        assert!(text.starts_with(message), "{}", message.len());
    }

    fn a_panic_that_reads_like_an_exhausted_heap_is_a_panic() {
        let mut bystander = Bystander::new();
        for size in [0, 1, 5, u64::MAX] {
            let message = format!("memory allocation of {size} bytes failed");
            let call = |sandbox: &mut Sandbox| sandbox.call::<_, ()>("panic_with", (&message[..],));
            let error = bystander.watch(sandbox(), call);
            assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
            assert_eq!(error.panic().expect("a panic").message, message);
        }
    }
}
