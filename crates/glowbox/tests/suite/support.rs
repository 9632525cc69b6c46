//! What the tests share.

use glowbox::{
    Builder, Caller, Error, ErrorKind, HostError, HostFunction, Loader, Sandbox, Snapshot,
};
use serde::{Deserialize, Serialize};

pub(crate) use crate::guests::{guest, standard_guests};
use crate::topics::in_own_process;
pub(crate) use crate::topics::leave_out;

/// A small record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) x: u8,
    pub(crate) y: u8,
}

/// A sandbox of the guest `testing`, without host functions other than those it imports.
pub(crate) fn sandbox() -> Sandbox {
    builder().build(guest("testing")).expect("a sandbox")
}

/// A builder with all that the guest `testing` imports.
pub(crate) fn builder() -> Builder {
    builder_without("")
}

/// The same but for one function, which the test registers itself.
pub(crate) fn builder_without(left_out: &str) -> Builder {
    with_functions(Sandbox::builder(), left_out)
}

/// A loader of snapshots with all that the guest `testing` imports.
pub(crate) fn loader() -> Loader {
    with_functions(Snapshot::loader(), "")
}

/// What host functions are registered with.
trait Registers: Sized {
    fn with<M: 'static>(self, name: &str, function: impl HostFunction<M>) -> Self;
}

impl Registers for Builder {
    fn with<M: 'static>(self, name: &str, function: impl HostFunction<M>) -> Self {
        self.host_function(name, function)
    }
}

impl Registers for Loader {
    fn with<M: 'static>(self, name: &str, function: impl HostFunction<M>) -> Self {
        self.host_function(name, function)
    }
}

fn with_functions<B: Registers>(mut builder: B, left_out: &str) -> B {
    macro_rules! register {
        ($($name:literal: $function:expr;)*) => {
            $(if $name != left_out {
                builder = builder.with($name, $function);
            })*
        };
    }
    register! {
        "host_add": |a: u32, b: u32| a.wrapping_add(b);
        "space_of": |space: u32, used: u32, reply: u32| 100 * space + 10 * used + reply;
        "host_echo": |data: Vec<u8>| data;
        "host_checked": |number: u32| -> Result<u32, HostError> {
            if number == 0 { Err(HostError::new("zero is refused")) } else { Ok(number) }
        };
        "host_typed": |number: u32| -> Result<u32, String> {
            if number == 0 { Err("zero".to_string()) } else { Ok(number) }
        };
        "host_picky": |number: u32| number;
        "host_twelve": |a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8,
            l: u8| vec![a, b, c, d, e, f, g, h, i, j, k, l];
        "host_points": |points: Vec<Point>| points;
        "host_length": |data: Vec<u8>| u32::try_from(data.len()).unwrap_or(u32::MAX);
        "host_large_result": |caller: &mut Caller<'_>, bytes: u32| -> u32 {
            let result = caller.call::<_, Vec<u8>>("sized", (bytes,));
            result.map_or(u32::MAX, |data| u32::try_from(data.len()).unwrap_or(u32::MAX))
        };
        "host_hand_over": |caller: &mut Caller<'_>| -> u32 {
            caller.call("hand_over_twice", ()).unwrap_or(u32::MAX)
        };
        "host_visit": |caller: &mut Caller<'_>, depth: u32| -> u32 {
            caller.call("visit", (depth, "a nested text")).unwrap_or(u32::MAX)
        };
        "host_visit_checked": |caller: &mut Caller<'_>, depth: u32| -> Result<u32, HostError> {
            Ok(caller.call::<_, u32>("visit", (depth, "a nested text"))?)
        };
    }
    for number in 0..18u32 {
        let name = format!("step_{number}");
        builder = builder.with(&name, move |caller: &mut Caller<'_>| -> u32 {
            match caller.call::<_, u32>("step", (number + 1,)) {
                Ok(below) => below + 1,
                // The bound was met: say how deep it was.
                Err(error) if error.kind() == ErrorKind::NestingTooDeep => 0,
                Err(error) => panic!("{error}"),
            }
        });
    }
    builder
}

/// The error of what must fail.
#[track_caller]
pub(crate) fn error<T: std::fmt::Debug>(result: Result<T, Error>) -> Error {
    result.expect_err("this must fail")
}

/// Runs `test` in a process of its own, for what concerns the whole process.
pub(crate) fn isolated(name: &str, test: impl FnOnce()) {
    in_own_process(name, test);
}

/// Runs code in a forked process and returns how that ended.
pub(crate) fn in_fork(code: impl FnOnce()) -> i32 {
    // SAFETY: the child runs the code and leaves by `_exit`, without unwinding into the parent's.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
        if child == 0 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code));
            libc::_exit(i32::from(result.is_err()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    }
}
