//! A hard end: whatever hangs, the process does not.
//!
//! Time is counted in looks, a second or more apart. So neither a machine that is too busy for the watchdog
//! nor one that was suspended makes a thread seem to hang.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::world::{Step, lock};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A step that goes on for so many looks hangs: no deadline in it is as long, and a busy machine makes
/// nothing take as long.
pub(crate) const HANGS: u64 = 180;
/// Looks for all that is not a round: making worlds, ending them, waiting for levels.
const AROUND: u64 = 240;
/// For what is done when a process exits. After that it is aborted.
const EXITING: Duration = Duration::from_secs(5);

/// Ends the process, with a message that says who hangs, when a thread's step does or when the whole
/// run is not over long after its rounds must have been.
///
/// Its thread takes no lock for longer than a look, and none that is held over a step.
pub(crate) fn start(steps: &Arc<Vec<Step>>, rounds: Duration, hangs: u64) {
    let steps = Arc::clone(steps);
    let most = rounds.as_secs() + AROUND;
    thread::spawn(move || {
        // Of each thread: its step, and how many looks have found it there.
        let mut seen = vec![(0, 0); steps.len()];
        for look in 0u64.. {
            thread::sleep(PAUSE);
            for (thread, step) in steps.iter().enumerate() {
                let number = step.number.load(Ordering::Relaxed);
                let looks = match seen[thread] {
                    (same, looks) if same == number && step.goes_on() => looks + 1,
                    _ => 0,
                };
                seen[thread] = (number, looks);
                if looks > hangs {
                    end(&format!("thread {thread} hangs"), &steps);
                }
            }
            if look > most {
                end(&format!("the soak is not over after {look} s"), &steps);
            }
        }
    });
}

/// Nothing could end a thread that hangs, but with the process.
fn end(text: &str, steps: &[Step]) -> ! {
    eprintln!("glowbox-bench: {text}");
    for (thread, step) in steps.iter().enumerate() {
        let (what, since) = *lock(&step.what);
        let number = step.number.load(Ordering::Relaxed);
        let time = since.map_or(Duration::ZERO, |since| since.elapsed());
        eprintln!("  thread {thread}: step {number}, {what}, for {time:.1?}");
    }
    thread::spawn(|| {
        thread::sleep(EXITING);
        process::abort();
    });
    process::exit(1);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Says that this process is the one to be ended.
    const CHILD: &str = "GLOWBOX_SOAK_HANGS";

    #[test]
    fn a_process_with_a_thread_that_hangs_is_ended() {
        if std::env::var_os(CHILD).is_some() {
            let steps: Arc<Vec<Step>> = Arc::new((0..3).map(|_| Step::default()).collect());
            steps.iter().for_each(|step| step.begins("call"));
            steps[2].is_done();
            start(&steps, Duration::from_secs(600), 2);
            // The first thread goes on, the second hangs.
            loop {
                steps[0].number.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE / 10);
            }
        }
        let name = "soak::watchdog::tests::a_process_with_a_thread_that_hangs_is_ended";
        let program = std::env::current_exe().expect("this program");
        let output = Command::new(program)
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("thread 1 hangs\n") && said.contains("thread 1: step 0, call"),
            "{said}"
        );
    }
}
