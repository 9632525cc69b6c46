//! Programs in C, with both C libraries.

use glowbox_testprograms::Libc;

use crate::support::{Case, DATA, SCRATCH, Which};

pub(crate) fn cases() -> Vec<Case> {
    Libc::ALL.into_iter().flat_map(of).collect()
}

fn of(libc: Libc) -> Vec<Case> {
    let case = |program, name| Case::new(Which::C(program, libc), name);
    vec![
        case("signals", "jumps_masks_handlers_and_faults"),
        case("signals", "jumps_masks_handlers_and_faults").real_time(),
        case("signals", "a_fault_ends_it").args(["segv"]),
        case("signals", "abort_ends_it").args(["abort"]),
        case("signals", "sigterm_ends_it").args(["term"]),
        case("signals", "sigkill_ends_it").args(["kill"]),
        case("signals", "a_stack_overflow_ends_it").args(["overflow"]),
        case("memory", "the_heap_and_mappings").mib(1024).jit(),
        case("threads", "locks_waits_and_preemption"),
        case("threads", "locks_waits_and_preemption").real_time(),
        case("files", "reading_a_directory").args(["read", DATA]),
        case("files", "writing_to_scratch").args(["write", SCRATCH]),
        case("system", "times_numbers_and_surroundings")
            .args(["one", "two words", ""])
            .errors()
            .real_time(),
        case("system", "standard_input").args(["input"]).input("one\ntwo\n".repeat(50_000)),
        case("system", "standard_input_that_is_empty").args(["input"]),
        case("system", "an_exit_status").args(["exit", "42"]),
        case("system", "an_exit_status_of_more_than_a_byte").args(["exit", "258"]),
        case("system", "a_negative_exit_status").args(["exit", "-1"]),
    ]
}
