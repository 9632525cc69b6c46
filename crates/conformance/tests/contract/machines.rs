//! Machines among each other, and on threads.

use std::time::Duration;

use glowbox_core::registers::Registers;
use glowbox_machine::{Backend, Exit, Machine};

use crate::ground::{CALL, COUNT, Ground, UD2, distinct, now, platform};
use crate::topics::leave_out;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Whether the host's CPU has a flag.
fn host_has(flag: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|word| word == flag))
}

tests! {
    fn a_backend_says_what_it_is() {
        let backend = platform().backend();
        assert_eq!(backend.name().parse::<Backend>().unwrap(), backend);
        let (features, xcr0) = platform().cpu();
        assert!(!features.is_empty());
        // x87 and SSE, if anything; AVX only with them.
        assert!([0, 3, 7].contains(&xcr0), "{xcr0}");
    }

    fn entries_and_time_grow_with_each_run() {
        let mut ground = Ground::new(&CALL.repeat(10));
        ground.start_plain();
        let (mut entries, mut time) = (ground.machine.entries(), ground.machine.guest_time());
        for _ in 0..10 {
            ground.run_to_call();
            assert!(ground.machine.entries() > entries);
            assert!(ground.machine.guest_time() > time);
            (entries, time) = (ground.machine.entries(), ground.machine.guest_time());
        }
    }

    fn a_machine_moves_from_thread_to_thread() {
        // mov eax, n; out
        let code: Vec<u8> =
            (1..=8).flat_map(|n| [&[0xb8, n, 0, 0, 0][..], &CALL].concat()).collect();
        let mut ground = Ground::new(&[&code[..], &COUNT].concat());
        ground.start_plain();
        for n in 1..=8 {
            ground = std::thread::spawn(move || {
                ground.run_to_call();
                assert_eq!(ground.machine.state().unwrap().registers.rax, n);
                ground
            })
            .join()
            .unwrap();
        }
        // It is stopped on the thread that it runs on, not on one that it was on.
        for _ in 0..3 {
            ground = std::thread::spawn(move || {
                ground.control.begin(now() + 5_000_000);
                let control = std::sync::Arc::clone(&ground.control);
                let stopper = std::thread::spawn(move || {
                    while !control.expire(now()) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
                stopper.join().unwrap();
                ground.control.end();
                ground
            })
            .join()
            .unwrap();
        }
    }

    fn many_machines_run_at_once_and_keep_apart() {
        let threads: Vec<_> = (0..4_u64).map(|thread| {
            std::thread::spawn(move || {
                // add rax, rbx; out; jmp to the start
                let code = [&[0x48, 0x01, 0xd8][..], &CALL, &[0xeb, 0xf9]].concat();
                let mut grounds: Vec<Ground> = (0..8).map(|_| Ground::new(&code)).collect();
                let value = |index: usize| 1000 * thread + index as u64 + 1;
                for (index, ground) in grounds.iter_mut().enumerate() {
                    let registers = Registers { rax: 0, rbx: value(index), ..distinct() };
                    ground.start(&ground.state(&registers));
                }
                for round in 1..=10 {
                    for (index, ground) in grounds.iter_mut().enumerate() {
                        ground.run_to_call();
                        let found = ground.machine.state().unwrap().registers;
                        assert_eq!(found.rax, round * value(index));
                    }
                }
            })
        }).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn machines_come_and_go_and_leave_no_descriptor() {
        // What is opened once is open then.
        let mut ground = Ground::new(&CALL);
        ground.start_plain();
        ground.run_to_call();
        // Other tests open and close some meanwhile.
        let least = (0..5).map(|_| {
            let before = descriptors();
            for _ in 0..20 {
                let mut ground = Ground::new(&UD2);
                ground.start_plain();
                ground.run();
            }
            descriptors().saturating_sub(before)
        }).min();
        assert!(least.is_some_and(|more| more < 20), "{least:?} descriptors are left of 20 machines");
    }

    fn the_cpu_that_guests_see_is_the_one_that_is_said() {
        if lacks!(cpuid) {
            return;
        }
        // mov eax, 1; cpuid; out
        let mut ground = Ground::new(&[&[0xb8, 1, 0, 0, 0, 0x0f, 0xa2][..], &CALL].concat());
        ground.start_plain();
        ground.run_to_call();
        let found = ground.machine.state().unwrap().registers;
        // What no guest is to see, by its bit of ECX and by its name in /proc/cpuinfo.
        let hidden = [(31, "hypervisor"), (21, "x2apic"), (5, "vmx")];
        let seen = hidden.map(|(bit, _)| found.rcx >> bit & 1 == 1);
        if seen.contains(&true) && seen == hidden.map(|(_, name)| host_has(name)) {
            return leave_out("ring 3 sees the host's CPU here, whatever the backend sets");
        }
        assert_eq!(seen, [false; 3], "{:#x}", found.rcx);
    }

    fn a_machine_that_has_not_been_started_can_be_dropped() {
        let ground = Ground::new(&CALL);
        assert_eq!(ground.machine.entries(), 0);
        assert!(!ground.machine.is_broken());
        let machine: Box<dyn Machine> = ground.machine;
        drop(machine);
    }
}
