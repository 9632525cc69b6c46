//! The guest `leaks`: leaving patterns everywhere, in every way a use can end, and looking for them.

use std::time::Duration;

use glowbox::{Builder, CallOptions, Caller, Engine, ErrorKind, Guest, Sandbox};
use glowbox_abi::mailbox::{ENTROPY_OFFSET, Entropy};
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind};

use crate::support::guest;

/// The pattern, inverted: what carries the pattern itself is what was given it.
pub(crate) const INVERTED: u64 = 0x815a_815a_815a_815a;
/// Room for many pages of each kind, small enough to be looked through often.
pub(crate) const LIMITS: Limits =
    Limits { heap: 8 << 20, stack: 1 << 20, incoming: 2 << 20, outgoing: 2 << 20 };
/// Bytes of heap that the guest's own code stains.
const STAINED: u64 = 3 << 20;

/// A builder for the guest `leaks` whose sandboxes are alike to the last byte.
pub(crate) fn alike(engine: &Engine) -> Builder {
    random(engine).deterministic(5)
}

/// The same, random as usual.
pub(crate) fn random(engine: &Engine) -> Builder {
    let end = |caller: &mut Caller<'_>, how: u32| -> u32 {
        match how {
            // Without the hook, which would tell of each.
            0 => std::panic::resume_unwind(Box::new("the host's own")),
            1 => caller.call("stain_and_panic", (INVERTED, STAINED)).map_or(1, |()| 0),
            2 => caller.call("spin", ()).map_or(2, |()| 0),
            _ => caller.call("stain", (INVERTED, STAINED)).unwrap_or(3),
        }
    };
    let mut ticks = 0u64;
    let tick = move || {
        ticks += 1;
        ticks
    };
    Sandbox::builder()
        .engine(engine)
        .memory_limit(LIMITS.heap)
        .stack_size(LIMITS.stack)
        .message_size(LIMITS.incoming)
        .host_function("end", end)
        .host_function("tick", tick)
}

/// A sandbox of `leaks`.
pub(crate) fn leaks(engine: &Engine) -> Sandbox {
    alike(engine).build(guest("leaks")).expect("a sandbox")
}

/// Where things lie in a sandbox of `leaks`.
pub(crate) struct Places {
    pub(crate) layout: Layout,
    /// All that can be read.
    pub(crate) all: Vec<u8>,
    /// All that is the same in two sandboxes: all but the seeds.
    pub(crate) same: Vec<u8>,
    /// All that can be written.
    pub(crate) writable: Vec<u8>,
}

impl Places {
    pub(crate) fn of(sandbox: &mut Sandbox) -> Places {
        Places::with(sandbox, LIMITS)
    }

    pub(crate) fn with(sandbox: &mut Sandbox, limits: Limits) -> Places {
        let base: u64 = sandbox.call("base", ()).expect("an address");
        let bytes = std::fs::read(guest("leaks").path().expect("a file")).expect("the file");
        let program = Program::parse(bytes.into()).expect("a guest");
        let base = base.wrapping_sub(program.extent().start);
        let layout = Layout::at(&program, limits, base).expect("limits that can be");
        let (mut all, mut same, mut writable) = (Vec::new(), Vec::new(), Vec::new());
        let add = |to: &mut Vec<u8>, start: u64, length: u64| {
            to.extend([start.to_le_bytes(), length.to_le_bytes()].concat());
        };
        for region in layout.regions() {
            use RegionKind as Kind;
            if matches!(region.kind, Kind::Supervisor | Kind::PageTables)
                || region.backing.is_none()
            {
                continue;
            }
            let (start, length) = (region.start.0, region.length);
            add(&mut all, start, length);
            if region.kind == Kind::Control {
                let end = ENTROPY_OFFSET + Entropy::SIZE;
                add(&mut same, start, ENTROPY_OFFSET as u64);
                add(&mut same, start + end as u64, length - end as u64);
            } else {
                add(&mut same, start, length);
            }
            if matches!(
                region.kind,
                Kind::Data | Kind::Stack | Kind::Control | Kind::Outgoing | Kind::Heap
            ) {
                add(&mut writable, start, length);
            }
        }
        Places { layout, all, same, writable }
    }

    /// An address in the heap's second half, which no function here allocates from.
    pub(crate) fn spare(&self) -> u64 {
        self.layout.region(RegionKind::Heap).start.0 + self.layout.limits().heap / 2
    }
}

/// What a guest sees of itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Looks {
    registers: (Vec<u8>, Vec<u64>),
    digest: u64,
}

impl Looks {
    /// To be asked before anything else is called.
    pub(crate) fn of(sandbox: &mut Sandbox, places: &Places) -> Looks {
        let in_use = glowbox::Engine::shared().expect("an engine").caps().in_use_bits;
        let registers = sandbox.call("registers", (in_use,)).expect("registers");
        let digest = sandbox.call("digest", (&places.same[..],)).expect("a digest");
        Looks { registers, digest }
    }
}

/// Looks through all memory from inside.
#[track_caller]
pub(crate) fn assert_clean(sandbox: &mut Sandbox, places: &Places, after: &str) {
    let found: Vec<u64> = sandbox.call("find", (&places.all[..], INVERTED)).expect("a search");
    let kind = |at: &u64| places.layout.region_at(*at).map(|region| region.kind);
    let found: Vec<_> = found.iter().map(|at| (kind(at), format!("{at:#x}"))).collect();
    assert!(found.is_empty(), "after {after}: {found:?}");
}

/// A way to use a sandbox, and what its last call ends with.
pub(crate) type Way = (&'static str, Option<ErrorKind>);

/// Every way.
pub(crate) const WAYS: &[Way] = &[
    ("stain", None),
    ("swallow", None),
    ("stain_and_panic", Some(ErrorKind::Panic)),
    ("stain_and_exhaust", Some(ErrorKind::OutOfMemory)),
    ("host panic", Some(ErrorKind::HostPanic)),
    ("nested panic", Some(ErrorKind::Panic)),
    ("nested deadline", Some(ErrorKind::Deadline)),
    ("nested stain", None),
    ("deadline", Some(ErrorKind::Deadline)),
    ("interrupt", Some(ErrorKind::Interrupted)),
    ("end_by_fault", Some(ErrorKind::Fault)),
    ("end_by_port", Some(ErrorKind::Fault)),
    ("end_by_in", Some(ErrorKind::Fault)),
    ("end_by_wide_in", Some(ErrorKind::Fault)),
    ("end_by_ins", Some(ErrorKind::Fault)),
    ("end_by_outs_and_ins", Some(ErrorKind::Protocol)),
    ("end_by_protocol", Some(ErrorKind::Protocol)),
    ("end_by_syscall", Some(ErrorKind::Fault)),
    ("end_by_interrupt", Some(ErrorKind::Fault)),
    ("end_by_breakpoint", Some(ErrorKind::Fault)),
    ("end_by_halt", Some(ErrorKind::Fault)),
    ("end_by_step", Some(ErrorKind::Fault)),
    ("end_by_access", Some(ErrorKind::Fault)),
    ("end_by_far_jump", Some(ErrorKind::Fault)),
    ("end_by_x87", Some(ErrorKind::Fault)),
    ("string_out_and_in", Some(ErrorKind::Fault)),
];

/// Uses a sandbox in a way of [`WAYS`].
#[track_caller]
pub(crate) fn use_up(sandbox: &mut Sandbox, places: &Places, way: &Way) {
    let (name, expected) = *way;
    // The largest message there can be: what later ones leave of it is to be seen too.
    let mut message = vec![0; usize::try_from(LIMITS.incoming).expect("small") - 64];
    message.as_chunks_mut::<8>().0.fill((!INVERTED).to_le_bytes());
    sandbox.call::<_, u64>("swallow", (&message[..],)).expect("a length");
    // The host's own copy is not what is looked for.
    message.fill(0);
    let short = CallOptions::new().deadline(Duration::from_millis(20));
    let everything = (&places.writable[..], INVERTED, places.spare());
    let call = (INVERTED, STAINED);
    let ended = match name {
        "swallow" => Ok(()),
        "stain" => sandbox.call::<_, u32>(name, call).map(drop),
        "stain_and_exhaust" => sandbox.call::<_, u64>(name, call).map(drop),
        "stain_and_panic" => sandbox.call(name, call),
        "host panic" => {
            sandbox.call::<_, u32>("stain_and_call", (INVERTED, STAINED, 0u32)).map(drop)
        }
        "nested panic" => {
            sandbox.call::<_, u32>("stain_and_call", (INVERTED, STAINED, 1u32)).map(drop)
        }
        "nested deadline" => sandbox
            .call_with::<_, u32>(&short, "stain_and_call", (INVERTED, STAINED, 2u32))
            .map(drop),
        "nested stain" => {
            sandbox.call::<_, u32>("stain_and_call", (INVERTED, STAINED, 3u32)).map(drop)
        }
        "string_out_and_in" => sandbox.call(name, (INVERTED, places.spare())),
        "deadline" => sandbox.call_with(&short, "end_never", everything),
        "interrupt" => {
            let handle = sandbox.interrupt_handle();
            let stopper = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                while !handle.interrupt() {
                    std::thread::yield_now();
                }
            });
            let ended = sandbox.call("end_never", everything);
            stopper.join().expect("the stopper");
            ended
        }
        _ => sandbox.call(name, everything),
    };
    let kind = ended.as_ref().err().map(glowbox::Error::kind);
    assert_eq!(kind, expected, "{name}: {ended:?}");
    assert_eq!(sandbox.is_spent(), kind.is_some(), "{name}");
}

/// The same program as another guest.
pub(crate) fn namesake() -> Guest {
    let bytes = std::fs::read(guest("leaks").path().expect("a file")).expect("the file");
    Guest::from_bytes("namesake", bytes).expect("a guest")
}
