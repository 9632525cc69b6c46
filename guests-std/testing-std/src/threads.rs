//! Threads, and what they wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use glowbox_guest::guest_function;

/// Sums the numbers below `end` on four threads.
#[guest_function]
fn sum_on_four_threads(end: u64) -> Option<u64> {
    let threads: Vec<_> =
        (0..4).map(|first| thread::spawn(move || (first..end).step_by(4).sum::<u64>())).collect();
    threads.into_iter().map(|thread| thread.join().ok()).sum()
}

/// Asks the host something while another thread spins.
#[guest_function]
fn ask_while_one_spins() -> String {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        // It has had a turn then, and wants another.
        thread::sleep(Duration::from_millis(20));
        let answer = crate::calls::weekday();
        done.store(true, Ordering::Relaxed);
        answer
    })
}

/// Sends a number back and forth between two threads; each adds one.
#[guest_function]
fn ping_pong(rounds: u32) -> u32 {
    let (to_there, there) = mpsc::channel::<u32>();
    let (to_here, here) = mpsc::channel();
    let player = thread::spawn(move || {
        while let Ok(ball) = there.recv() {
            if to_here.send(ball + 1).is_err() {
                break;
            }
        }
    });
    let mut ball = 0;
    for _ in 0..rounds {
        let sent = to_there.send(ball + 1);
        ball = sent.ok().and_then(|()| here.recv().ok()).unwrap_or(0);
    }
    drop(to_there);
    player.join().map_or(0, |()| ball)
}

#[guest_function]
fn count_under_a_lock(threads: u32, rounds: u32) -> u32 {
    let count = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                }
            });
        }
    });
    count.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that all wait for each other, this one among them: how many leaders there were.
#[guest_function]
fn meet(threads: usize) -> usize {
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let others: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| barrier.wait().is_leader())).collect();
        let here = barrier.wait().is_leader();
        let leads = others.into_iter().map(|thread| thread.join().unwrap_or(false));
        leads.chain([here]).filter(|leads| *leads).count()
    })
}

/// Starts a thread that runs on after the call, and answers what it is sent in a later one.
#[guest_function]
fn start_worker() {
    let (sender, receiver) = mpsc::channel::<(u32, mpsc::Sender<u32>)>();
    thread::spawn(move || {
        while let Ok((number, answer)) = receiver.recv() {
            let _ = answer.send(number * 2);
        }
    });
    *WORKER.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
}

#[guest_function]
fn ask_worker(number: u32) -> Option<u32> {
    let (answer, answered) = mpsc::channel();
    let worker = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    worker.as_ref()?.send((number, answer)).ok()?;
    answered.recv().ok()
}

type Worker = mpsc::Sender<(u32, mpsc::Sender<u32>)>;
static WORKER: Mutex<Option<Worker>> = Mutex::new(None);
