//! Operations that make, replace and move whole sandboxes and snapshots.

use std::sync::atomic::Ordering;

use glowbox::ErrorKind;

use super::state::{Base, Live, Program};
use super::worker::{Check, Worker, unexpected};
use super::{plain, standard};

/// Outcomes of these operations.
const RESTORED: &str = "restored";
const WRONG_GUEST: &str = "restore refused: another guest";

pub(crate) const OUTCOMES: [&str; 2] = [RESTORED, WRONG_GUEST];

pub(crate) fn build(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    *live = worker.world.build(live.program).map_err(|error| unexpected("build", &error))?;
    as_new(worker, live)
}

pub(crate) fn spawn(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let random = worker.index_below(usize::MAX);
    let Some(base) = worker.world.any_base(live.program, random) else { return Ok(()) };
    let lineage = format!("spawned with {}", base.state.kept.len());
    *live = worker.world.spawn(&base).map_err(|error| unexpected("spawn", &error))?;
    live.note(lineage);
    drop(base);
    as_new(worker, live)
}

pub(crate) fn snapshot(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    if !live.lent.is_empty() {
        plain::take_back(worker, live)?;
    }
    let snapshot = live.sandbox.snapshot().map_err(|error| unexpected("snapshot", &error))?;
    live.base = live.now.clone();
    let base =
        Base { program: live.program, origin: live.origin, snapshot, state: live.now.clone() };
    let random = worker.index_below(usize::MAX);
    worker.world.publish(base, random);
    Ok(())
}

pub(crate) fn restore(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let random = worker.index_below(usize::MAX);
    // One that suits, or any.
    let from =
        if worker.below(3) == 0 { Program::ALL[worker.index_below(2)] } else { live.program };
    let suits = |base: &Base| (base.program, base.origin) == (live.program, live.origin);
    let Some(base) = worker.world.base(from, random, suits) else { return Ok(()) };
    match live.sandbox.restore(&base.snapshot) {
        Ok(()) if suits(&base) => {
            live.base = base.state.clone();
            live.back_to_base();
            drop(base);
            worker.outcome(live.program, RESTORED)?;
            as_new(worker, live)
        }
        Err(error) if error.kind() == ErrorKind::WrongGuest && !suits(&base) => {
            worker.outcome(live.program, WRONG_GUEST)
        }
        other => Err(format!("restore {:?} to {:?}: {other:?}", live.program, base.program)),
    }
}

pub(crate) fn save_and_load(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let random = worker.index_below(usize::MAX);
    let Some(base) = worker.world.any_base(live.program, random) else { return Ok(()) };
    let path = worker.world.folder.join(format!("snapshot-{}", worker.index));
    base.snapshot.save(&path).map_err(|error| unexpected("save", &error))?;
    let loaded = worker.world.load(base.program, &path);
    let snapshot = loaded.map_err(|error| unexpected("load", &error))?;
    let origin = worker.world.tags.fetch_add(1, Ordering::Relaxed);
    let loaded = Base { program: base.program, origin, snapshot, state: base.state.clone() };
    drop(base);
    worker.world.publish(loaded, random);
    Ok(())
}

/// Idle VMs are made for a snapshot in the background, while others use them up.
pub(crate) fn keep_ready(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let (random, count) = (worker.index_below(usize::MAX), worker.index_below(4));
    let Some(base) = worker.world.any_base(live.program, random) else { return Ok(()) };
    base.snapshot.keep_ready(count).map_err(|error| unexpected("keep_ready", &error))
}

pub(crate) fn hand_over(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let random = worker.index_below(usize::MAX);
    let next = worker.world.build(live.program).map_err(|error| unexpected("build", &error))?;
    let given = std::mem::replace(live, next);
    if let Some(taken) = worker.world.swap(given, random) {
        *live = taken;
    }
    if live.spent.is_some() { worker.refuses(live) } else { checked(worker, live) }
}

pub(crate) fn reset(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    live.sandbox.reset().map_err(|error| unexpected("reset", &error))?;
    live.back_to_base();
    as_new(worker, live)
}

/// What was just made or reset is as its base was, and nothing of others is in it.
fn as_new(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    if live.sandbox.is_spent() {
        return Err("it is spent already".into());
    }
    checked(worker, live)
}

fn checked(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    match live.program {
        Program::Plain => plain::check(worker, live),
        Program::Standard => standard::check(worker, live),
    }
}
