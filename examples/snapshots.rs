//! A plugin that boots once and serves every request in a fresh sandbox.
//!
//! The guest is `guests/filter`, whose start-up compiles regular expressions. A snapshot is taken
//! after that; each request then gets a sandbox of its own for the price of a few microseconds, and
//! none sees what another one left. The snapshot is also saved to a file and loaded again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use glowbox::{Engine, Error, Function, Sandbox, Snapshot};
use records::{Level, Malformed, Record};

const REQUESTS: usize = 2_000;
const LINE: &str =
    r#"{"time":"09:00:00","level":"info","user":1,"message":"hello ada@example.org"}"#;

type Filter = Function<(&'static str,), Record>;

fn main() -> Result<(), Error> {
    let engine = glowbox_examples::engine()?;
    let (sandbox, boot) = timed(|| {
        Sandbox::builder()
            .engine(&engine)
            .host_function("lookup", |_: u32| -> Result<String, glowbox::HostError> {
                Ok("ada".to_string())
            })
            .build(env!("GLOWBOX_GUEST_FILTER"))
    });
    let mut sandbox = sandbox?;
    let filter = sandbox.function::<(&str,), Record>("filter_line")?;
    // Warm-up calls before the snapshot are in it: caches are filled, memory has been allocated.
    let first = filter.call(&mut sandbox, (LINE,))?;
    println!("{} {:?}", first.message, counts(&mut sandbox)?);
    sandbox.reset()?;
    println!("boot                 {boot:>10.1?}");

    let (snapshot, taken) = timed(|| sandbox.snapshot());
    let snapshot = snapshot?;
    println!("snapshot             {taken:>10.1?}  ({} KiB)", snapshot.image_size() >> 10);

    // A sandbox for each request. No VM is made after the first: a dropped sandbox leaves its own.
    measure("spawn, call and drop", || {
        let mut fresh = snapshot.spawn()?;
        serve(&filter, &mut fresh)
    })?;

    // One sandbox, put back after each request, whatever happened in it.
    let mut kept = snapshot.spawn()?;
    measure("call and reset", || {
        serve(&filter, &mut kept)?;
        kept.reset()
    })?;
    println!("{:?}", kept.stats());

    // Many calls that trust each other share one entry into the VM.
    let inputs = vec![(LINE,); REQUESTS];
    let (results, batch) = timed(|| filter.call_many(&mut kept, inputs));
    let served = results.iter().filter(|result| result.is_ok()).count();
    let each = batch / u32::try_from(served.max(1)).unwrap_or(1);
    println!("a call in a batch    {each:>10.1?}  ({:?})", counts(&mut kept)?);

    through_a_file(&snapshot, &engine)
}

/// One request: a fresh sandbox has counted nothing before it, and one line after.
fn serve(filter: &Filter, sandbox: &mut Sandbox) -> Result<(), Error> {
    filter.call(sandbox, (LINE,))?;
    Ok(())
}

/// Saves the snapshot, and loads it as another process could.
fn through_a_file(snapshot: &Snapshot, engine: &Engine) -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("glowbox-{}.snapshot", std::process::id()));
    snapshot.save(&path)?;
    let (loaded, load) = timed(|| {
        Snapshot::loader()
            .engine(engine)
            .host_function("lookup", |_: u32| -> Result<String, glowbox::HostError> {
                Ok("grace".to_string())
            })
            .load(&path)
    });
    let mut sandbox = loaded?.spawn()?;
    println!("load from a file     {load:>10.1?}");
    match sandbox.call::<_, Record>("filter_line", ("{",)) {
        Err(error) if error.guest_error() == Some(Malformed::Truncated) => {}
        other => println!("unexpected: {other:?}"),
    }
    println!("{:?}", counts(&mut sandbox)?);
    // The sandbox still has the file mapped; only its name goes.
    if let Err(error) = std::fs::remove_file(&path) {
        eprintln!("{} stays: {error}", path.display());
    }
    Ok(())
}

fn counts(sandbox: &mut Sandbox) -> Result<BTreeMap<Level, u64>, Error> {
    sandbox.call("counts", ())
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed())
}

/// The median time of many runs, after one that is not counted.
fn measure(what: &str, mut run: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    run()?;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let (result, time) = timed(&mut run);
        result?;
        times.push(time);
    }
    times.sort_unstable();
    println!("{what:<20} {:>10.1?}  (median of {REQUESTS})", times[REQUESTS / 2]);
    Ok(())
}
