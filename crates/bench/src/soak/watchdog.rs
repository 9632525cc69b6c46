//! A hard end: whatever hangs, the process does not.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::world::{Step, lock};

/// A step that takes longer hangs: no deadline in it is as long, even on a machine that is busy.
const HANGS: Duration = Duration::from_secs(180);
/// What all that is not a round may take: making worlds, ending them, waiting for levels.
const AROUND: Duration = Duration::from_secs(240);
/// For what is done when a process exits. After that it is aborted.
const EXITING: Duration = Duration::from_secs(5);

/// Ends the process, with a message that says who hangs, when a thread's step does or when the whole
/// run is not over long after its rounds must have been.
///
/// The thread takes no lock for longer than a look, and none that is held over a step.
pub(crate) fn start(steps: &Arc<Vec<Step>>, rounds: Duration) {
    let steps = Arc::clone(steps);
    let begun = Instant::now();
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            if let Some(text) = hanging(&steps) {
                end(&text, &steps);
            }
            if begun.elapsed() > rounds + AROUND {
                end(&format!("the soak is not over after {:?}", begun.elapsed()), &steps);
            }
        }
    });
}

/// A thread that hangs.
fn hanging(steps: &[Step]) -> Option<String> {
    let hangs = |(thread, step): (usize, &Step)| {
        let (what, since) = *lock(&step.what);
        since.filter(|since| since.elapsed() > HANGS).map(|_| {
            let number = step.number.load(Ordering::Relaxed);
            format!("thread {thread} hangs in step {number}, {what}, for more than {HANGS:?}")
        })
    };
    steps.iter().enumerate().find_map(hangs)
}

/// Nothing could end a thread that hangs, but with the process.
fn end(text: &str, steps: &[Step]) -> ! {
    eprintln!("glowbox-bench: {text}");
    for (thread, step) in steps.iter().enumerate() {
        let (what, since) = *lock(&step.what);
        let number = step.number.load(Ordering::Relaxed);
        eprintln!("  thread {thread}: step {number}, {what}, for {:?}", since.map(|s| s.elapsed()));
    }
    thread::spawn(|| {
        thread::sleep(EXITING);
        process::abort();
    });
    process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_takes_too_long_is_named() {
        let steps = [Step::default(), Step::default()];
        steps.iter().for_each(|step| step.begins("call"));
        assert_eq!(hanging(&steps), None);
        let long_ago = Instant::now().checked_sub(HANGS + Duration::from_secs(1));
        *lock(&steps[1].what) = ("reset", long_ago);
        let text = hanging(&steps);
        assert!(
            text.as_ref().is_some_and(|text| text.starts_with("thread 1 hangs in step 0, reset"))
        );
        steps[1].is_done();
        assert_eq!(hanging(&steps), None);
    }
}
