//! Go's runtime.

use crate::support::{Case, DATA, SCRATCH, Which};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name| Case::new(Which::Go, name);
    vec![
        case("goroutines").args(["goroutines"]),
        case("goroutines").args(["goroutines"]).real_time(),
        case("channels").args(["channels"]),
        case("channels").args(["channels"]).real_time(),
        case("maps").args(["maps"]),
        case("garbage_collection").args(["gc"]),
        case("garbage_collection").args(["gc"]).real_time(),
        case("sleep").args(["sleep"]).real_time(),
        case("panics_and_faults").args(["panics"]),
        case("preemption").args(["preempt"]),
        case("preemption").args(["preempt"]).real_time(),
        case("stacks").args(["stacks"]).mib(1024),
        case("files").args(["files", DATA, SCRATCH]),
        case("library").args(["library"]).input("line\n".repeat(5000)),
        case("deadlock").args(["deadlock"]),
        case("an_exit_status").args(["exit", "3"]),
        case("a_crash").args(["crash"]),
    ]
}
