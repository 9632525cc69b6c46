//! Processes: one started for each call, and one that waits for calls at the other end of a pipe.

use std::io::{Read, Write};
use std::mem;
use std::process::{Child, Command, Stdio};

use glowbox_bench::subject::Result;

use crate::experiments::{Experiment, Opened, Plan};
use crate::rows::{Row, System};
use crate::samples::{Samples, timed};

/// The static program that the build script compiled.
const WORKER: &str = env!("GLOWBOX_WORKER");
/// Round trips in a round, each a sample.
const TRIPS: u32 = 8;

pub(crate) fn plans() -> Vec<Plan> {
    let process = |id, what: &str| Row::new(System::Process, id, what);
    let spawn =
        process("process-spawn", "fork, exec and wait of a static program that does nothing");
    let pipes = vec![
        process("process-pipe", "add(u32, u32) by a waiting process, over pipes"),
        process("process-pipe-one-cpu", "the same, both bound to one CPU"),
    ];
    vec![
        Plan::new(vec![spawn], |_| Ok(Opened::Ready(Box::new(Spawn)))),
        Plan::new(pipes, |_| Ok(Opened::Ready(Box::new(Pipe::open()?)))),
    ]
}

struct Spawn;

impl Experiment for Spawn {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let (status, time) = timed(|| Command::new(WORKER).status())?;
        samples.add("process-spawn", time);
        if status.success() { Ok(()) } else { Err(format!("{WORKER}: {status}").into()) }
    }
}

struct Pipe {
    worker: Child,
}

impl Pipe {
    fn open() -> Result<Pipe> {
        let mut command = Command::new(WORKER);
        command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Pipe { worker: command.spawn()? })
    }

    fn trips(&mut self, id: &str, samples: &mut Samples) -> Result<()> {
        let (Some(input), Some(output)) = (&mut self.worker.stdin, &mut self.worker.stdout) else {
            return Err("the worker has no pipes".into());
        };
        for trip in 0..=TRIPS {
            let mut sum = [0; 4];
            let ((), time) = timed(|| {
                input.write_all(&[2, 0, 0, 0, 3, 0, 0, 0])?;
                output.read_exact(&mut sum)
            })?;
            if u32::from_le_bytes(sum) != 5 {
                return Err("the worker can't add".into());
            }
            // The first one finds it asleep somewhere else.
            if trip > 0 {
                samples.add(id, time);
            }
        }
        Ok(())
    }
}

impl Experiment for Pipe {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        self.trips("process-pipe", samples)?;
        let worker = libc::pid_t::try_from(self.worker.id())?;
        let (own, all) = (one_cpu(0), affinity(0)?);
        let result = bind(0, &own)
            .and_then(|()| bind(worker, &own))
            .and_then(|()| self.trips("process-pipe-one-cpu", samples));
        bind(0, &all)?;
        bind(worker, &all)?;
        result
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.worker.stdin.take());
        if let Err(error) = self.worker.wait() {
            eprintln!("glowbox-bench: the worker: {error}");
        }
    }
}

fn one_cpu(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: a set of CPUs is an array of integers, for which all zeroes (no CPU) is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes a bit of the set if the CPU is within it.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    set
}

/// The CPUs that a process may run on; 0 is the calling thread.
fn affinity(process: libc::pid_t) -> Result<libc::cpu_set_t> {
    let mut set = one_cpu(0);
    // SAFETY: the kernel writes at most the given size, which is that of `set`.
    let done = unsafe { libc::sched_getaffinity(process, size_of_val(&set), &mut set) };
    if done == 0 { Ok(set) } else { Err(std::io::Error::last_os_error().into()) }
}

fn bind(process: libc::pid_t, set: &libc::cpu_set_t) -> Result<()> {
    // SAFETY: the kernel reads at most the given size, which is that of `set`.
    let done = unsafe { libc::sched_setaffinity(process, size_of_val(set), set) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
