//! How long a call goes on after it has been told to stop.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use glowbox::{Engine, ErrorKind, Guest, InterruptHandle};
use glowbox_bench::subject::{self, Result};

use super::{Experiment, Lab, Plan, ready};
use crate::rows::{Quantile, Row, Yardstick};
use crate::samples::Samples;

const ID: &str = "interrupt";
/// What the guest has time for to reach its loop.
const HEAD_START: Duration = Duration::from_millis(2);

pub(crate) fn plan() -> Plan {
    let what = "from InterruptHandle::interrupt in another thread until the call returns";
    let row = Row::glowbox(ID, what)
        .by(Quantile::P99)
        .against(Yardstick::constant(400e3, "400 us, by p99"))
        .at_most(1.0);
    Plan::new(vec![row], |lab| ready(Interrupt::open(lab)))
}

struct Interrupt {
    engine: Engine,
    guest: Guest,
    handles: Sender<InterruptHandle>,
    times: Receiver<Instant>,
}

impl Interrupt {
    /// Starts the thread that interrupts. It ends when nobody sends it handles any more.
    fn open(lab: &Lab) -> Interrupt {
        let (handles, to_stop) = channel::<InterruptHandle>();
        let (stopped, times) = channel();
        thread::spawn(move || {
            for handle in to_stop {
                thread::sleep(HEAD_START);
                let start = loop {
                    let now = Instant::now();
                    if handle.interrupt() {
                        break now;
                    }
                };
                if stopped.send(start).is_err() {
                    break;
                }
            }
        });
        Interrupt { engine: lab.shared.clone(), guest: lab.guest.clone(), handles, times }
    }
}

impl Experiment for Interrupt {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let mut sandbox = subject::builder().engine(&self.engine).build(&self.guest)?;
        let spin = sandbox.function::<(), ()>("spin")?;
        self.handles.send(sandbox.interrupt_handle())?;
        let result = spin.call(&mut sandbox, ());
        let end = Instant::now();
        let start = self.times.recv()?;
        match result {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return Err(format!("an interrupted call ended with {other:?}").into()),
        }
        samples.add(ID, end.saturating_duration_since(start).as_secs_f64() * 1e9);
        Ok(())
    }
}
