//! What a sandbox's operations take, in multiples of the bare KVM floor, and whether that is within
//! the bounds the project has set itself.
//!
//! Everything is measured in one process and interleaved: a round takes one sample of each row, in
//! an order that changes from round to round. A machine that runs slower for a second (other
//! tenants, clock speed, a compiler in the background) then does so for a row and its yardstick
//! alike, which two benchmarks one after the other can't promise; and no row profits from what a
//! certain other one has left in the caches. Verdicts are by ratios of medians; the ratios of the
//! tenth percentiles stand beside them, because on some machines times fall into two heaps and the
//! median into either.
//!
//! `docs/benchmarks.md` says what the rows mean.

mod subject;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use glowbox::{Function, Guest, Sandbox};
use glowbox_bench::floor::{Floor, memcpy_floor};
use subject::{Bare, ECHO_SIZES, Pages, Result};

const USAGE: &str = "usage: cargo bench -p glowbox-bench --bench ratios -- [--quick] [--check]

  --quick   fewer rounds
  --check   exit with code 1 if a bound is missed";

/// Rounds, of about 20 ms each.
const ROUNDS: u32 = 400;
const QUICK_ROUNDS: u32 = 60;
/// Operations in a sample, after one that is not timed.
const EXITS: u32 = 8;
const COPIES: u32 = 8;
const ECHOES: u32 = 4;
/// Samples that calls and bare exits take in a round, in turn.
const TURNS: u32 = 3;
/// Host calls in a call. With the call itself that makes one round trip more.
const HOST_CALLS: u32 = 31;
/// Copies of its bytes that an echo may make: four on the way in, four on the way out.
const ECHO_COPIES: f64 = 8.0;

/// What is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    BareExit,
    BareCreate,
    BareLife,
    Copy(usize),
    Call,
    CallByName,
    HostCall,
    Echo(usize),
    EchoVec,
    Create,
    Life,
    CreateChecked,
}

/// The index of 1 MiB in `ECHO_SIZES`.
const MEBIBYTE: usize = 2;

const ROWS: [Row; 16] = [
    Row::BareExit,
    Row::BareCreate,
    Row::BareLife,
    Row::Copy(0),
    Row::Copy(1),
    Row::Copy(MEBIBYTE),
    Row::Call,
    Row::CallByName,
    Row::HostCall,
    Row::Echo(0),
    Row::Echo(1),
    Row::Echo(MEBIBYTE),
    Row::EchoVec,
    Row::Create,
    Row::Life,
    Row::CreateChecked,
];

impl Row {
    fn name(self) -> String {
        match self {
            Row::BareExit => "floor: exit round trip".into(),
            Row::BareCreate => "floor: create".into(),
            Row::BareLife => "floor: create and drop".into(),
            Row::Copy(size) => format!("floor: memcpy {}", ECHO_SIZES[size].0),
            Row::Call => "call add".into(),
            Row::CallByName => "call add, by name".into(),
            Row::HostCall => "host call".into(),
            Row::Echo(size) => format!("echo {}", ECHO_SIZES[size].0),
            Row::EchoVec => format!("echo {} through a Vec", ECHO_SIZES[MEBIBYTE].0),
            Row::Create => "create from ELF".into(),
            Row::Life => "create from ELF and drop".into(),
            Row::CreateChecked => "create from checked guest".into(),
        }
    }

    /// What the row is divided by: a sum of other rows, each some times.
    fn yardstick(self) -> Vec<(f64, Row)> {
        match self {
            Row::BareExit | Row::BareCreate | Row::BareLife | Row::Copy(_) => vec![],
            Row::Call | Row::CallByName | Row::HostCall => vec![(1.0, Row::BareExit)],
            Row::Echo(size) => vec![(1.0, Row::BareExit), (ECHO_COPIES, Row::Copy(size))],
            Row::EchoVec => Row::Echo(MEBIBYTE).yardstick(),
            Row::Create | Row::CreateChecked => vec![(1.0, Row::BareCreate)],
            Row::Life => vec![(1.0, Row::BareLife)],
        }
    }

    /// How often the yardstick may go into it, where that has been promised.
    fn bound(self) -> Option<f64> {
        match self {
            Row::Call => Some(1.10),
            Row::Echo(MEBIBYTE) => Some(1.0),
            Row::Create => Some(1.5),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let (mut rounds, mut check) = (ROUNDS, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // What `cargo bench` passes to every benchmark.
            "--bench" => {}
            "--quick" => rounds = QUICK_ROUNDS,
            "--check" => check = true,
            "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("ratios: there is no option `{other}`\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(reason) = subject::why_not() {
        eprintln!("ratios: nothing can be measured here: {reason}");
        return if check { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    match measure(rounds) {
        Ok(samples) => report(&samples, check),
        Err(error) => {
            eprintln!("ratios: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes all samples.
fn measure(rounds: u32) -> Result<Samples> {
    const STEPS: [fn(&mut Lab, &mut Samples) -> Result<()>; 9] = [
        Lab::calls,
        Lab::calls_by_name,
        Lab::bare_create,
        Lab::create,
        Lab::copies,
        Lab::echoes,
        Lab::host_calls,
        Lab::create_checked,
        Lab::echo_vec,
    ];
    let mut lab = Lab::open()?;
    // The first round finds everything cold, and is forgotten.
    for step in STEPS {
        step(&mut lab, &mut Samples::default())?;
    }
    let mut samples = Samples::default();
    let (mut order, mut random) = (STEPS, 1);
    for round in 0..rounds {
        if round % 50 == 0 {
            eprintln!("ratios: round {round} of {rounds}");
        }
        shuffle(&mut order, &mut random);
        for step in order {
            step(&mut lab, &mut samples)?;
        }
    }
    Ok(samples)
}

/// Puts items into another order; always the same ones in the same sequence.
fn shuffle<T>(items: &mut [T], state: &mut usize) {
    for last in (1..items.len()).rev() {
        // Knuth's generator; its upper bits are the good ones.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        items.swap(last, (*state >> 33) % (last + 1));
    }
}

/// Nanoseconds an operation took, sample by sample.
#[derive(Default)]
struct Samples {
    of: [Vec<f64>; ROWS.len()],
}

impl Samples {
    fn add(&mut self, row: Row, nanoseconds: f64) {
        self.of[index(row)].push(nanoseconds);
    }

    /// The value that the fraction `part` of a row's samples do not exceed.
    fn quantile(&self, row: Row, part: f64) -> f64 {
        let mut sorted = self.of[index(row)].clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (1..sorted.len()).find(|rank| *rank as f64 >= part * sorted.len() as f64);
        sorted[rank.unwrap_or(sorted.len()) - 1]
    }

    /// A row divided by its yardstick, both at the same quantile.
    fn ratio(&self, row: Row, part: f64) -> Option<f64> {
        let yardstick = row.yardstick();
        let sum: f64 = yardstick.iter().map(|(times, of)| times * self.quantile(*of, part)).sum();
        (!yardstick.is_empty()).then(|| self.quantile(row, part) / sum)
    }
}

fn index(row: Row) -> usize {
    ROWS.iter().position(|of| *of == row).expect("every row is in ROWS")
}

type Echo = Function<(&'static [u8],), Vec<u8>>;

/// What the samples are taken of.
struct Lab {
    bare: Bare,
    floor: Floor,
    elf: Arc<[u8]>,
    guest: Guest,
    sandbox: Sandbox,
    add: Function<(u32, u32), u32>,
    calls: Function<(u32,), ()>,
    echo: Echo,
    echo_vec: Echo,
    source: Pages,
    target: Pages,
    /// What is echoed. Not page-aligned: a caller's data isn't.
    data: Vec<u8>,
}

impl Lab {
    fn open() -> Result<Lab> {
        let bare = Bare::open()?;
        let elf = subject::elf();
        let guest = subject::guest(&elf)?;
        let sandbox = subject::sandbox(guest.clone())?;
        let largest = ECHO_SIZES[MEBIBYTE].1;
        Ok(Lab {
            floor: bare.create()?,
            bare,
            elf,
            guest,
            add: sandbox.function("add")?,
            calls: sandbox.function("calls")?,
            echo: sandbox.function("echo")?,
            echo_vec: sandbox.function("echo_vec")?,
            sandbox,
            source: Pages::new(largest),
            target: Pages::new(largest),
            data: vec![0x5a; largest],
        })
    }

    fn bare_create(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let floor = self.bare.create()?;
        samples.add(Row::BareCreate, nanoseconds(start));
        drop(floor);
        samples.add(Row::BareLife, nanoseconds(start));
        Ok(())
    }

    fn copies(&mut self, samples: &mut Samples) -> Result<()> {
        for (at, (_, size)) in ECHO_SIZES.into_iter().enumerate() {
            let (source, target) = (&self.source.bytes()[..size], self.target.bytes_mut());
            let time = each(COPIES, || -> Result<()> {
                memcpy_floor(source, &mut target[..size]);
                Ok(())
            })?;
            samples.add(Row::Copy(at), time);
        }
        Ok(())
    }

    /// Turn by turn, since the bound is the tightest of all and a machine can change its pace
    /// within a round.
    fn calls(&mut self, samples: &mut Samples) -> Result<()> {
        for _ in 0..TURNS {
            let time = each(EXITS, || self.floor.exit_round_trip())?;
            samples.add(Row::BareExit, time);
            let entries = self.sandbox.stats().entries;
            let time = each(EXITS, || self.add.call(&mut self.sandbox, (2, 3)).map(drop))?;
            samples.add(Row::Call, time);
            let entries = self.sandbox.stats().entries - entries;
            if entries != u64::from(EXITS) + 1 {
                return Err(format!("{} calls entered the guest {entries} times", EXITS + 1).into());
            }
        }
        Ok(())
    }

    fn calls_by_name(&mut self, samples: &mut Samples) -> Result<()> {
        let call = || self.sandbox.call::<_, u32>("add", (2u32, 3u32)).map(drop);
        samples.add(Row::CallByName, each(EXITS, call)?);
        Ok(())
    }

    /// One round trip of a call that makes many: each host call is one, and so is the call.
    fn host_calls(&mut self, samples: &mut Samples) -> Result<()> {
        let time = each(1, || self.calls.call(&mut self.sandbox, (HOST_CALLS,)))?;
        samples.add(Row::HostCall, time / f64::from(HOST_CALLS + 1));
        Ok(())
    }

    fn echoes(&mut self, samples: &mut Samples) -> Result<()> {
        for (at, (_, size)) in ECHO_SIZES.into_iter().enumerate() {
            let time = echo_time(&self.echo, &mut self.sandbox, &self.data[..size])?;
            samples.add(Row::Echo(at), time);
        }
        Ok(())
    }

    fn echo_vec(&mut self, samples: &mut Samples) -> Result<()> {
        let time = echo_time(&self.echo_vec, &mut self.sandbox, &self.data)?;
        samples.add(Row::EchoVec, time);
        Ok(())
    }

    fn create(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let sandbox = subject::sandbox(subject::guest(&self.elf)?)?;
        samples.add(Row::Create, nanoseconds(start));
        drop(sandbox);
        samples.add(Row::Life, nanoseconds(start));
        Ok(())
    }

    fn create_checked(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let sandbox = subject::sandbox(self.guest.clone())?;
        samples.add(Row::CreateChecked, nanoseconds(start));
        drop(sandbox);
        Ok(())
    }
}

fn echo_time(
    echo: &Function<(&[u8],), Vec<u8>>,
    sandbox: &mut Sandbox,
    data: &[u8],
) -> Result<f64> {
    each(ECHOES, || -> Result<()> {
        let back = echo.call(sandbox, (data,))?;
        if back.len() == data.len() { Ok(()) } else { Err("the echo has another length".into()) }
    })
}

/// Does something once, and then `count` times on the clock: nanoseconds each.
fn each<E>(count: u32, mut operation: impl FnMut() -> std::result::Result<(), E>) -> Result<f64>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    operation().map_err(Into::into)?;
    let start = Instant::now();
    for _ in 0..count {
        operation().map_err(Into::into)?;
    }
    Ok(nanoseconds(start) / f64::from(count))
}

fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9
}

/// Prints the table; fails if bounds were to be checked and one is missed.
fn report(samples: &Samples, check: bool) -> ExitCode {
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}   {:>7}{:>7}{:>7}",
        "microseconds", "min", "p10", "median", "p99", "ratio", "p10", "bound"
    );
    let mut missed = Vec::new();
    for row in ROWS {
        print!("{:<28}", row.name());
        for part in [0.0, 0.1, 0.5, 0.99] {
            print!("{:>10.2}", samples.quantile(row, part) / 1e3);
        }
        if let (Some(ratio), Some(low)) = (samples.ratio(row, 0.5), samples.ratio(row, 0.1)) {
            print!("   {ratio:>7.2}{low:>7.2}");
            if let Some(bound) = row.bound() {
                let met = ratio <= bound;
                print!("{bound:>7.2}  {}", if met { "met" } else { "missed" });
                missed.extend((!met).then(|| row.name()));
            }
        }
        println!();
    }
    if check && !missed.is_empty() {
        eprintln!("ratios: above the bound: {}", missed.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
