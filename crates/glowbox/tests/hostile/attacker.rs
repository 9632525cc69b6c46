//! The guest `hostile`, which does what it is told, and what has to hold whatever that is: the call ends
//! before long, in an error that spends the sandbox if it says so; another sandbox goes on; and after a reset
//! this one works and has nothing left of the attack.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use glowbox::{Builder, Caller, Error, ErrorKind, Function, Guest, HostError, LogLimits, Sandbox};
use glowbox_abi::wire;
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind};

use crate::steps::{START_MAGIC, START_SIZE, Step};

/// Bytes in each buffer of the mailbox.
pub(crate) const MESSAGE: u64 = 64 << 10;
/// Bytes of heap.
pub(crate) const HEAP: u64 = 1 << 20;
/// How many host functions call back: more than calls may nest.
pub(crate) const NESTS: u8 = 18;
/// How long a call may take; much more than any takes on a machine that has other things to do.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long after it the host may still be in the guest, on a machine that has much else to do.
const HANG: Duration = Duration::from_secs(60);

/// What a host function was given to decode.
pub(crate) type Parsed = (Vec<String>, Option<(u8, u16)>, Vec<(String, u64)>);

/// What the host has seen of an attack.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What `take` was given.
    pub(crate) taken: Vec<u8>,
    /// What `parse` was given.
    pub(crate) parsed: Vec<Parsed>,
    /// How nested calls ended, innermost first.
    pub(crate) nested: Vec<Result<u8, Error>>,
    /// What `hold` held, and what of that was left after it had called the guest.
    pub(crate) held: Vec<(Vec<u8>, Vec<u8>)>,
    /// Log records: bytes of target and of text, and how many were dropped before.
    pub(crate) records: Vec<(usize, usize, u64)>,
}

/// Calls `strike`, for a host function.
fn nest(seen: &Mutex<Seen>, caller: &mut Caller<'_>, steps: &[u8]) -> u8 {
    let result = caller.call::<_, u8>("strike", (steps,));
    let value = *result.as_ref().unwrap_or(&0xff);
    seen.lock().unwrap().nested.push(result);
    value
}

/// A builder with all that the guest imports.
pub(crate) fn builder(seen: &Arc<Mutex<Seen>>) -> Builder {
    let shared = || Arc::clone(seen);
    let (takes, parses, holds, logs) = (shared(), shared(), shared(), shared());
    let mut builder = Sandbox::builder()
        .message_size(MESSAGE)
        .memory_limit(HEAP)
        .deadline(DEADLINE)
        .log_limits(LogLimits { records_per_second: u32::MAX, ..LogLimits::default() })
        .log_sink(move |record| {
            let record = (record.target.len(), record.text.len(), record.dropped);
            logs.lock().unwrap().records.push(record);
        })
        .host_function("take", move |byte: u8| {
            takes.lock().unwrap().taken.push(byte);
            byte.wrapping_add(1)
        })
        .host_function(
            "parse",
            move |words: Vec<String>, pair: Option<(u8, u16)>, list: Vec<(String, u64)>| {
                let (a, b) = pair.unwrap_or_default();
                let sum = list.iter().fold(u64::from(a) + u64::from(b), |sum, (_, number)| {
                    sum.wrapping_add(*number)
                });
                let sum = sum.wrapping_add(words.len() as u64 + 1);
                parses.lock().unwrap().parsed.push((words, pair, list));
                sum
            },
        )
        .host_function("large", |bytes: u32| vec![5u8; bytes.min(1 << 20) as usize])
        .host_function(
            "hold",
            move |caller: &mut Caller<'_>,
                  data: Vec<u8>,
                  steps: Vec<u8>|
                  -> Result<Vec<u8>, HostError> {
                let before = data.clone();
                nest(&holds, caller, &steps);
                holds.lock().unwrap().held.push((before, data.clone()));
                Ok(data)
            },
        );
    for number in 0..NESTS {
        let seen = shared();
        let call = move |caller: &mut Caller<'_>, steps: Vec<u8>| -> Result<u8, HostError> {
            Ok(nest(&seen, caller, &steps))
        };
        builder = builder.host_function(format!("nest_{number}"), call);
    }
    builder
}

/// The guest.
pub(crate) fn guest() -> Guest {
    crate::guests::guest("hostile")
}

/// The guest's file.
fn file() -> Vec<u8> {
    std::fs::read(guest().path().expect("a file")).expect("the guest's file")
}

/// The guest with steps for its start-up.
pub(crate) fn starting_with(steps: &[Step]) -> Guest {
    let (mut file, steps) = (file(), encoded(steps));
    let mut places = file.windows(START_MAGIC.len()).enumerate();
    let (at, _) = places.find(|(_, bytes)| *bytes == START_MAGIC).expect("a place for steps");
    let length = u32::try_from(steps.len()).expect("few steps");
    let bytes = [&length.to_le_bytes()[..], &steps].concat();
    assert!(bytes.len() <= START_SIZE, "too many steps");
    file[at + START_MAGIC.len()..][..bytes.len()].copy_from_slice(&bytes);
    Guest::from_bytes("hostile", file).expect("a guest")
}

/// The encoding of steps, as the guest gets it.
pub(crate) fn encoded(steps: &[Step]) -> Vec<u8> {
    let mut bytes = vec![0; wire::encoded_size(steps).expect("steps can be encoded")];
    wire::encode(steps, &mut bytes).expect("there is room");
    bytes
}

/// The steps, done in a call that goes through so many host functions.
pub(crate) fn nested(depth: u8, steps: &[Step]) -> Vec<Step> {
    let nest = |steps: Vec<Step>, number| vec![Step::Nest(number, encoded(&steps))];
    (0..depth).rev().fold(steps.to_vec(), nest)
}

/// Two sandboxes of the guest: one attacks, the other looks on.
pub(crate) struct Attacker {
    class: &'static str,
    seen: Arc<Mutex<Seen>>,
    pub(crate) sandbox: Sandbox,
    bystander: Sandbox,
    strike: Function<(&'static [u8],), u8>,
    double: Function<(u64,), u64>,
    traces: Function<(), u64>,
    running: Arc<Mutex<Option<(Instant, String)>>>,
    cases: u64,
}

impl Attacker {
    /// For a class of attacks.
    pub(crate) fn new(class: &'static str) -> Attacker {
        let seen = Arc::default();
        let snapshot = builder(&seen).build(guest()).expect("a sandbox").snapshot();
        let snapshot = snapshot.expect("a snapshot");
        let sandbox = snapshot.spawn().expect("a sandbox");
        let bystander = builder(&Arc::default()).build(sandbox.guest().clone());
        let mut attacker = Attacker {
            class,
            seen,
            strike: sandbox.function("strike").expect("a function"),
            double: sandbox.function("double").expect("a function"),
            traces: sandbox.function("traces").expect("a function"),
            sandbox,
            bystander: bystander.expect("a sandbox"),
            running: watched(),
            cases: 0,
        };
        // An honest use of everything that attacks use.
        let steps = [Step::Ask, Step::Say(3), Step::Hold(vec![1; 100], encoded(&[Step::Ask]))];
        assert_eq!(attacker.strike(&steps).expect("an honest call"), 1);
        assert_eq!(attacker.strike(&nested(3, &[Step::Ask])).expect("an honest call"), 1);
        attacker.reset(&"honest steps");
        attacker
    }

    /// What the host has seen since the last reset.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Lets the guest do steps.
    pub(crate) fn strike(&mut self, steps: &[Step]) -> Result<u8, Error> {
        let bytes = encoded(steps);
        let strike = self.strike.clone();
        self.run(&steps, |sandbox| strike.call(sandbox, (&bytes,)))
    }

    /// Lets the guest do steps in each call of a batch.
    pub(crate) fn strike_many(&mut self, calls: &[&[Step]]) -> Vec<Result<u8, Error>> {
        let bytes: Vec<_> = calls.iter().map(|steps| encoded(steps)).collect();
        let strike = self.strike.clone();
        let mut results = Vec::new();
        // The first error that spends it, if there is one.
        let _ = self.run(&calls, |sandbox| {
            results = strike.call_many(sandbox, bytes.iter().map(|bytes| (&bytes[..],)));
            let mut errors = results.iter().filter_map(|result| result.as_ref().err());
            errors.find(|error| spends(error.kind())).cloned().map_or(Ok(()), Err)
        });
        assert_eq!(results.len(), calls.len(), "{calls:?}: {results:?}");
        results
    }

    /// Calls the attacking sandbox; the call has to end, and to leave it spent if it says so.
    pub(crate) fn run<T>(
        &mut self,
        what: &dyn Debug,
        call: impl FnOnce(&mut Sandbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.cases += 1;
        let began = Instant::now();
        *self.running.lock().unwrap() = Some((began, format!("{what:?}")));
        let result = call(&mut self.sandbox);
        *self.running.lock().unwrap() = None;
        if let Err(error) = &result {
            assert_eq!(self.sandbox.is_spent(), spends(error.kind()), "{what:?}: {error:?}");
            assert!(!error.to_string().is_empty(), "{what:?}");
        }
        result
    }

    /// Puts the attacking sandbox back, after the other has answered; it has to work and to be clean.
    pub(crate) fn reset(&mut self, what: &dyn Debug) {
        let number = self.cases;
        let doubled = self.double.call(&mut self.bystander, (number,));
        assert_eq!(doubled.expect("the other sandbox goes on"), 2 * number, "{what:?}");
        self.sandbox.reset().unwrap_or_else(|error| panic!("{what:?}: {error:?}"));
        *self.seen() = Seen::default();
        let traces = self.traces.call(&mut self.sandbox, ());
        assert_eq!(traces.unwrap_or_else(|error| panic!("{what:?}: {error:?}")), 0, "{what:?}");
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        crate::support::tried(self.class, self.cases);
    }
}

/// Whether an error spends the sandbox.
pub(crate) fn spends(kind: ErrorKind) -> bool {
    use ErrorKind::{BadArguments, Guest, MessageTooLarge, NestingTooDeep};
    !matches!(kind, Guest | BadArguments | MessageTooLarge | NestingTooDeep)
}

/// What runs and since when; a thread ends the program if that takes too long.
fn watched() -> Arc<Mutex<Option<(Instant, String)>>> {
    let running = Arc::new(Mutex::new(None));
    let watching = Arc::downgrade(&running);
    std::thread::spawn(move || {
        while let Some(running) = watching.upgrade() {
            if let Some((since, what)) = &*running.lock().unwrap()
                && Instant::elapsed(since) > DEADLINE + HANG
            {
                eprintln!("the host is still in the guest {HANG:?} after the deadline: {what}");
                std::process::exit(101);
            }
            drop(running);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    running
}

/// Where the guest's regions start and end, in guest-virtual and guest-physical addresses.
pub(crate) struct Map {
    pub(crate) virtuals: Vec<u64>,
    pub(crate) physicals: Vec<u64>,
    /// The outgoing buffer's addresses of both kinds.
    pub(crate) outgoing: (u64, u64),
}

impl Map {
    /// Of the attacking sandbox.
    pub(crate) fn of(attacker: &mut Attacker) -> Map {
        let program = Program::parse(file().into()).expect("a guest");
        let limits = Limits { heap: HEAP, incoming: MESSAGE, outgoing: MESSAGE, ..Limits::DEFAULT };
        let layout = Layout::new(&program, limits, 0).expect("limits");
        let (mut virtuals, mut physicals) = (Vec::new(), vec![layout.size()]);
        for region in layout.regions() {
            // Where the program is differs; the guest itself says that below.
            if !matches!(
                region.kind,
                RegionKind::Code | RegionKind::ReadOnlyData | RegionKind::Data
            ) {
                virtuals.extend([region.start.0, region.end().0]);
            }
            if let Some((gpa, ..)) = region.backing {
                physicals.extend([gpa.0, gpa.0 + region.length]);
            }
        }
        virtuals.extend(attacker.sandbox.call::<_, Vec<u64>>("addresses", ()).expect("addresses"));
        attacker.reset(&"addresses");
        for addresses in [&mut virtuals, &mut physicals] {
            addresses.sort_unstable();
            addresses.dedup();
        }
        let start = layout.region(RegionKind::Outgoing).start.0;
        let outgoing = (start, layout.translate(start).expect("it is mapped").0);
        Map { virtuals, physicals, outgoing }
    }
}

/// The number of a host function that the guest imports.
pub(crate) fn import(name: &str) -> u32 {
    imports().into_iter().find(|(found, _)| found == name).expect("an import").1
}

/// All of them.
pub(crate) fn imports() -> Vec<(String, u32)> {
    let program = Program::parse(file().into()).expect("a guest");
    program.imports().iter().map(|import| (import.name.clone(), import.number)).collect()
}
