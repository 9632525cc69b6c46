//! What the tests share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, OnceLock};

use glowbox::{
    Builder, Caller, Engine, Error, ErrorKind, Guest, HostError, HostFunction, Loader, Sandbox,
    Snapshot,
};
use serde::{Deserialize, Serialize};

/// A small record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) x: u8,
    pub(crate) y: u8,
}

/// How many tests found that they can't run here.
static LEFT_OUT: AtomicU32 = AtomicU32::new(0);

/// Says that a test can't run here, and counts it.
pub(crate) fn leave_out(reason: &str) {
    eprintln!("left out: {reason}");
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
}

/// How many tests were left out while they ran.
pub(crate) fn left_out() -> u32 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Why tests against KVM can't run here, if they can't.
pub(crate) fn why_not() -> Option<String> {
    Engine::shared().err().map(|error| error.to_string())
}

/// A folder of guests that have been built, for machines without cargo.
pub(crate) const PREBUILT: &str = "GLOWBOX_TEST_GUESTS";

static GUESTS: LazyLock<HashMap<String, Guest>> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os(PREBUILT) {
        let files = std::fs::read_dir(folder).expect("a folder of guests");
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            let file = file.expect("a guest");
            let name = file.file_name().to_string_lossy().into_owned();
            Some((name, Guest::from_file(file.path()).ok()?))
        };
        return files.filter_map(read).collect();
    }
    use glowbox_build::{Guest as Build, Target};
    let std = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests-std");
    let std = || Build::std(std).bin("testing-std").bin("interpreter-std");
    let builds = [
        (Build::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests")), ""),
        (std(), ""),
        (std().target(Target::Musl), "-musl"),
    ];
    let mut guests = HashMap::new();
    for (build, suffix) in builds {
        match build.target_dir(concat!(env!("CARGO_TARGET_TMPDIR"), "/..")).build_all() {
            Ok(built) => guests.extend(built.iter().map(|guest| {
                let name = format!("{}{suffix}", guest.name());
                let file = Guest::from_file(guest.path());
                (name, file.expect("glowbox-build makes guests that can be run"))
            })),
            Err(error) if suffix == "-musl" => leave_out(&format!("guests for musl: {error}")),
            Err(error) => panic!("{error}"),
        }
    }
    guests
});

/// The names of the guest `testing-std`, linked with each C library that there is.
pub(crate) fn standard_guests() -> impl Iterator<Item = &'static str> {
    ["testing-std", "testing-std-musl"].into_iter().filter(|name| GUESTS.contains_key(*name))
}

/// Builds and reads the guests, so that no test's time includes it.
pub(crate) fn build_guests() {
    // Tests take large mappings without a name for guest memory (`windows`), so no file that is kept may
    // be one: the allocator is to take room for them from its heap.
    // SAFETY: an option of the allocator that may change at any time.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
    LazyLock::force(&GUESTS);
    // SAFETY: as above; this is what it is from the start.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 65536) };
}

/// A guest of the folder `guests/`.
pub(crate) fn guest(name: &str) -> Guest {
    GUESTS.get(name).unwrap_or_else(|| panic!("there is no guest `{name}`")).clone()
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
    static CHILD: OnceLock<bool> = OnceLock::new();
    let variable = "GLOWBOX_TEST_ISOLATED";
    if *CHILD.get_or_init(|| std::env::var_os(variable).is_some()) {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--test-threads", "1"])
        .env(variable, "1")
        .output()
        .expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "no test `{name}` ran:\n{text}");
    errors.lines().filter_map(|line| line.strip_prefix("left out: ")).for_each(leave_out);
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
