//! How long a sandbox's operations take, and the bare KVM floor's: criterion's view, with its
//! statistics and comparison with the previous run. What is measured, and how to read it, says
//! `docs/benchmarks.md`; the bounds are checked by the scoreboard.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use glowbox_bench::floor::memcpy_floor;
use glowbox_bench::subject::{self, Bare, ECHO_SIZES, MESSAGE_SIZE, Pages, Result};

/// Host calls in one call, so that the call around them does not show.
const HOST_CALLS: u32 = 100;

fn main() -> Result<()> {
    if let Some(reason) = subject::why_not() {
        eprintln!("calls: nothing can be measured here: {reason}");
        return Ok(());
    }
    // An operation takes tens of microseconds to milliseconds; the defaults would take minutes.
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    floor(&mut criterion)?;
    creation(&mut criterion)?;
    calls(&mut criterion)?;
    echo(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// What KVM and the memory take by themselves.
fn floor(criterion: &mut Criterion) -> Result<()> {
    let bare = Bare::open()?;
    let mut group = criterion.benchmark_group("floor");
    let mut floor = bare.create()?;
    group.bench_function("exit", |bencher| {
        bencher.iter(|| floor.exit_round_trip().expect("a bare exit"));
    });
    // Values that a batch returns are dropped after the clock has stopped.
    group.bench_function("create", |bencher| {
        let create = |()| bare.create().expect("a bare VM");
        bencher.iter_batched(|| (), create, BatchSize::PerIteration);
    });
    group.bench_function("create and drop", |bencher| {
        bencher.iter(|| drop(bare.create().expect("a bare VM")));
    });
    for (name, size) in ECHO_SIZES {
        let (source, mut target) = (Pages::new(size), Pages::new(size));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("memcpy", name), |bencher| {
            bencher.iter(|| memcpy_floor(source.bytes(), target.bytes_mut()));
        });
    }
    group.finish();
    Ok(())
}

/// From an ELF file's bytes to a guest that waits for its first call.
fn creation(criterion: &mut Criterion) -> Result<()> {
    let elf = subject::elf();
    let guest = subject::guest(&elf)?;
    let from_bytes =
        || subject::guest(&elf).and_then(subject::sandbox).expect("a sandbox from the guest's ELF");
    let mut group = criterion.benchmark_group("sandbox");
    group.bench_function("create from ELF", |bencher| {
        bencher.iter_batched(|| (), |()| from_bytes(), BatchSize::PerIteration);
    });
    group.bench_function("create from ELF and drop", |bencher| {
        bencher.iter(|| drop(from_bytes()));
    });
    group.bench_function("create from checked guest", |bencher| {
        let create = |()| subject::sandbox(guest.clone()).expect("a sandbox");
        bencher.iter_batched(|| (), create, BatchSize::PerIteration);
    });
    group.finish();
    Ok(())
}

/// Calls that carry next to nothing.
fn calls(criterion: &mut Criterion) -> Result<()> {
    let mut sandbox = subject::sandbox(subject::guest(&subject::elf())?)?;
    let mut group = criterion.benchmark_group("call");
    let add = sandbox.function::<(u32, u32), u32>("add")?;
    group.bench_function("add by handle", |bencher| {
        bencher.iter(|| add.call(&mut sandbox, (2, 3)).expect("a sum"));
    });
    group.bench_function("add by name", |bencher| {
        bencher.iter(|| sandbox.call::<_, u32>("add", (2u32, 3u32)).expect("a sum"));
    });
    let calls = sandbox.function::<(u32,), ()>("calls")?;
    group.throughput(Throughput::Elements(HOST_CALLS.into()));
    group.bench_function(format!("{HOST_CALLS} host calls"), |bencher| {
        bencher.iter(|| calls.call(&mut sandbox, (HOST_CALLS,)).expect("host calls"));
    });
    group.finish();
    Ok(())
}

/// Bytes in and the same bytes out.
fn echo(criterion: &mut Criterion) -> Result<()> {
    let guest = subject::guest(&subject::elf())?;
    let mut sandbox = subject::builder().message_size(MESSAGE_SIZE).build(guest)?;
    let borrowed = sandbox.function::<(&[u8],), Vec<u8>>("echo")?;
    let owned = sandbox.function::<(&[u8],), Vec<u8>>("echo_vec")?;
    let mut group = criterion.benchmark_group("echo");
    for (name, size) in ECHO_SIZES {
        let data = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        for (way, echo) in [("slice", &borrowed), ("vec", &owned)] {
            group.bench_function(BenchmarkId::new(way, name), |bencher| {
                bencher.iter(|| echo.call(&mut sandbox, (&data[..],)).expect("an echo"));
            });
        }
    }
    group.finish();
    Ok(())
}
