//! The emulated machine: starts it, reads what it prints, and ends it if it hangs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::needs::Found;
use crate::report::Report;

/// How the machine is made, and for how long it may go on.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) found: &'a Found,
    pub(super) processors: u32,
    pub(super) mib: u32,
    /// For all of it.
    pub(super) timeout: Duration,
    /// Without a word from a test.
    pub(super) silence: Duration,
}

impl Machine<'_> {
    /// Boots it with a file system. The kernel's log and the programs' go into files of a folder, and
    /// the programs' to this terminal. Returns the report, and what ended the machine before its time.
    pub(super) fn run(&self, files: &Path, logs: &Path) -> io::Result<(Report, Option<String>)> {
        let mut child = self.start(files, logs)?;
        let output = child.stdout.take().expect("a pipe was asked for");
        let mut log = File::create(logs.join("tests.log"))?;
        let mut report = Report::default();
        let ended = self.follow(&pieces(output), &mut log, &mut report);
        if ended.is_ok() {
            // It says that it is done, and then switches itself off.
            let end = Instant::now() + Duration::from_secs(30);
            while child.try_wait()?.is_none() && Instant::now() < end {
                thread::sleep(Duration::from_millis(50));
            }
        }
        // It may have ended by itself; then there is nothing to kill.
        let _ = child.kill();
        child.wait()?;
        Ok((report, ended.err()))
    }

    fn start(&self, files: &Path, logs: &Path) -> io::Result<Child> {
        let kernel_log = logs.join("kernel.log");
        // Where a comma is part of a name, QEMU wants two.
        let kernel_log = kernel_log.to_string_lossy().replace(',', ",,");
        let mut qemu = Command::new(&self.found.qemu);
        qemu.args(["-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-nodefaults", "-no-user-config"]);
        qemu.args(["-display", "none", "-no-reboot"]);
        qemu.args(["-smp", &self.processors.to_string(), "-m", &self.mib.to_string()]);
        qemu.arg("-kernel").arg(&self.found.kernel.image).arg("-initrd").arg(files);
        // A panic is a reboot, which `-no-reboot` makes an end.
        qemu.args(["-append", "console=ttyS0 panic=-1"]);
        qemu.args([
            "-chardev",
            &format!("file,id=kernel,path={kernel_log}"),
            "-serial",
            "chardev:kernel",
        ]);
        qemu.args(["-chardev", "stdio,id=tests,signal=off", "-serial", "chardev:tests"]);
        // It warns of each feature of that CPU that it can't emulate.
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(logs.join("qemu.log"))?);
        qemu.spawn()
    }

    /// Reads until the end of the output, or until it takes too long.
    fn follow(
        &self,
        pieces: &Receiver<Vec<u8>>,
        log: &mut File,
        report: &mut Report,
    ) -> Result<(), String> {
        let start = Instant::now();
        let mut line = Vec::new();
        loop {
            let left = self.timeout.saturating_sub(start.elapsed());
            match pieces.recv_timeout(left.min(self.silence)) {
                Ok(piece) => {
                    // A closed terminal is no reason to stop; the log is.
                    let _ = io::stdout().write_all(&piece).and_then(|()| io::stdout().flush());
                    log.write_all(&piece).map_err(|error| format!("the log: {error}"))?;
                    for byte in piece.into_iter().filter(|byte| *byte != b'\r') {
                        if byte == b'\n' {
                            report.line(&String::from_utf8_lossy(&line), start.elapsed());
                            line.clear();
                        } else {
                            line.push(byte);
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    report.line(&String::from_utf8_lossy(&line), start.elapsed());
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    report.line(&String::from_utf8_lossy(&line), start.elapsed());
                    let (what, time) = match start.elapsed() < self.timeout {
                        true => ("no test said a word", self.silence),
                        false => ("it was not done", self.timeout),
                    };
                    return Err(format!("{what} in {} s: {}", time.as_secs(), report.last()));
                }
            }
        }
    }
}

/// What is read from a pipe, as it comes.
fn pieces(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(64);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What the kernel said.
pub(super) fn kernel_log(logs: &Path) -> String {
    fs::read(logs.join("kernel.log"))
        .map_or(String::new(), |log| String::from_utf8_lossy(&log).into())
}

/// What the emulator said, other than warnings: it may be what failed.
pub(super) fn emulators_errors(logs: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(logs.join("qemu.log")).unwrap_or_default();
    // After what is fatal it prints every register.
    let register = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.len() <= 6);
    let says = |line: &&str| !line.contains("warning:") && !register(line);
    let lines: Vec<String> = text.lines().filter(says).map(str::to_string).collect();
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_emulator_its_reason_is_heard_without_warnings_and_registers() {
        let folder = tempfile::tempdir().unwrap();
        let log = "qemu: warning: TCG doesn't support a feature\nqemu: fatal: invalid tss\n\
                   RAX=00 RBX=00\nR8 =00 R9 =00\nYMM00=00 00\ntcg.c:3243: tcg fatal error\n";
        fs::write(folder.path().join("qemu.log"), log).unwrap();
        let errors: Vec<_> = emulators_errors(folder.path()).collect();
        assert_eq!(errors, ["qemu: fatal: invalid tss", "tcg.c:3243: tcg fatal error"]);
    }
}
