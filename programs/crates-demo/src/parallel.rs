//! `rayon` and the threads of `std`.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::Duration;

use rayon::prelude::*;

use crate::Outcome;
use crate::data::{self, Numbers};

const THREADS: usize = 4;

pub(crate) fn rayon() -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build()?;
    pool.install(|| {
        println!("threads: {}", rayon::current_num_threads());
        let primes = (2..400_000u64).into_par_iter().filter(|number| is_prime(*number)).count();
        println!("primes: {primes}");
        let mut numbers = Numbers::new(17);
        let mut values: Vec<u64> = (0..2_000_000).map(|_| numbers.next()).collect();
        values.par_sort_unstable();
        println!("sorted: {}", values.is_sorted());
        println!("middle: {}", values[values.len() / 2]);
        let sum = values.par_iter().map(|value| value >> 32).reduce(|| 0, u64::wrapping_add);
        println!("sum: {sum}");
        let (left, right) = rayon::join(|| fibonacci(27), || fibonacci(28));
        println!("fibonacci: {left} {right}");
        let words: Vec<String> =
            (0..10_000).into_par_iter().map(|number| format!("{number:x}")).collect();
        println!("words: {:016x}", data::hash(words.concat().as_bytes()));
    });
    Ok(())
}

fn is_prime(number: u64) -> bool {
    (2..)
        .take_while(|divisor| divisor * divisor <= number)
        .all(|divisor| !number.is_multiple_of(divisor))
}

fn fibonacci(number: u32) -> u64 {
    if number < 2 {
        return number.into();
    }
    let (left, right) = (|| fibonacci(number - 1), || fibonacci(number - 2));
    let (left, right) = if number < 15 { (left(), right()) } else { rayon::join(left, right) };
    left + right
}

pub(crate) fn threads() -> Outcome {
    mutex();
    channel()?;
    condition();
    barrier();
    locals();
    once();
    parking();
    readers();
    scoped();
    waits();
    Ok(())
}

fn mutex() {
    let total = Arc::new(Mutex::new(0u64));
    let count = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..THREADS)
        .map(|_| {
            let (total, count) = (Arc::clone(&total), Arc::clone(&count));
            thread::spawn(move || {
                for step in 0..50_000 {
                    *total.lock().expect("no thread panics") += step;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("no thread panics"));
    let total = *total.lock().expect("no thread panics");
    println!("mutex: {total}, {} steps", count.load(Ordering::Relaxed));
}

fn channel() -> Outcome {
    let (sender, receiver) = mpsc::sync_channel::<u64>(16);
    for thread in 0..THREADS as u64 {
        let sender = sender.clone();
        thread::Builder::new().name(format!("sender {thread}")).spawn(move || {
            for value in 0..10_000 {
                sender.send(thread * 10_000 + value).expect("the receiver stays");
            }
        })?;
    }
    drop(sender);
    let (count, sum) = receiver.iter().fold((0, 0), |(count, sum), value| (count + 1, sum + value));
    println!("channel: {count} values, sum {sum}");
    Ok(())
}

fn condition() {
    let state = Arc::new((Mutex::new(0usize), Condvar::new()));
    let order = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (state, order) = (Arc::clone(&state), Arc::clone(&order));
            thread::spawn(move || {
                for round in 0..100 {
                    let turn = round * THREADS + thread;
                    let guard = state.0.lock().expect("no thread panics");
                    let mut guard =
                        state.1.wait_while(guard, |now| *now != turn).expect("no thread panics");
                    order.lock().expect("no thread panics").push(turn);
                    *guard += 1;
                    state.1.notify_all();
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("no thread panics"));
    let order = order.lock().expect("no thread panics");
    println!("condition: {} turns, in order: {}", order.len(), order.is_sorted());
}

fn barrier() {
    let barrier = Barrier::new(THREADS);
    let phases: [AtomicU64; 50] = std::array::from_fn(|_| AtomicU64::new(0));
    let early = AtomicU64::new(0);
    let leaders = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for phase in &phases {
                    phase.fetch_add(1, Ordering::SeqCst);
                    let leads = barrier.wait().is_leader();
                    leaders.fetch_add(leads.into(), Ordering::SeqCst);
                    if phase.load(Ordering::SeqCst) != THREADS as u64 {
                        early.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    println!("barrier: {} leaders, {} early", leaders.into_inner(), early.into_inner());
}

thread_local! {
    static LOCAL: Cell<u64> = const { Cell::new(1) };
}

fn locals() {
    LOCAL.set(100);
    let values: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS as u64)
            .map(|thread| {
                scope.spawn(move || {
                    for _ in 0..1000 {
                        LOCAL.set(LOCAL.get() + thread);
                        thread::yield_now();
                    }
                    LOCAL.get()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no thread panics")).collect()
    });
    println!("locals: {values:?}, own {}", LOCAL.get());
}

fn once() {
    static ONCE: OnceLock<u64> = OnceLock::new();
    static RUNS: AtomicU64 = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                ONCE.get_or_init(|| {
                    thread::sleep(Duration::from_millis(5));
                    RUNS.fetch_add(1, Ordering::SeqCst) + 41
                })
            });
        }
    });
    println!("once: {:?} after {} runs", ONCE.get(), RUNS.load(Ordering::SeqCst));
}

fn parking() {
    let woken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&woken);
    let sleeper = thread::spawn(move || {
        while !flag.load(Ordering::Acquire) {
            thread::park();
        }
    });
    woken.store(true, Ordering::Release);
    sleeper.thread().unpark();
    println!("parking: {}", sleeper.join().is_ok());
}

fn readers() {
    let lock = RwLock::new(vec![0u64; 64]);
    let torn = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let values = lock.read().expect("no thread panics");
                    torn.fetch_add(
                        values.iter().any(|value| *value != values[0]).into(),
                        Ordering::Relaxed,
                    );
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..2000 {
                lock.write().expect("no thread panics").iter_mut().for_each(|value| *value += 1);
            }
        });
    });
    let last = lock.into_inner().expect("no thread panics")[63];
    println!("readers: {} torn, last {last}", torn.into_inner());
}

/// Work of unequal size, each thread on its own part of one array.
fn scoped() {
    let mut values = vec![0u64; 1 << 20];
    let part = values.len() / THREADS;
    thread::scope(|scope| {
        for (thread, part) in values.chunks_mut(part).enumerate() {
            scope.spawn(move || {
                let mut numbers = Numbers::new(thread as u64 + 1);
                for _ in 0..=thread {
                    part.iter_mut().for_each(|value| *value ^= numbers.next());
                }
            });
        }
    });
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    println!("scoped: hash {:016x}", data::hash(&bytes));
}

/// Waits that end because their time is up.
fn waits() {
    let (sender, receiver) = mpsc::channel::<()>();
    let ended = receiver.recv_timeout(Duration::from_millis(10));
    drop(sender);
    println!("waits: {ended:?}");
    let pair = (Mutex::new(()), Condvar::new());
    let guard = pair.0.lock().expect("no thread panics");
    let (_guard, ended) =
        pair.1.wait_timeout(guard, Duration::from_millis(10)).expect("no thread panics");
    println!("waits: timed out {}", ended.timed_out());
}

/// Panics caught here, in threads and in rayon's.
pub(crate) fn panics() -> Outcome {
    panic::set_hook(Box::new(|info| println!("panic: {}", info.payload_as_str().unwrap_or("?"))));
    let caught = panic::catch_unwind(|| {
        let values = [1, 2, 3];
        let index = std::hint::black_box(7);
        values[index]
    });
    println!("caught: {}", caught.is_err());
    let joined = thread::spawn(|| panic!("in a thread")).join();
    println!("joined: {}", joined.is_err_and(|cause| cause.is::<&str>()));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let install = || pool.install(|| panic!("in a pool"));
    let inside = panic::catch_unwind(AssertUnwindSafe(install));
    println!("pool: {}", inside.is_err());
    let poisoned = Mutex::new(1);
    let holder = thread::scope(|scope| {
        let hold = || {
            let _guard = poisoned.lock();
            panic!("with a lock");
        };
        scope.spawn(hold).join()
    });
    println!("poisoned: {} {}", holder.is_err(), poisoned.is_poisoned());
    Ok(())
}
