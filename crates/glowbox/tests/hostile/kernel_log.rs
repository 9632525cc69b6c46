//! What the host's kernel says of KVM while guests attack: a guest that makes it warn has got further than it
//! should.
//!
//! The log is the machine's, so lines of other programs' VMs are among them, and nothing fails by it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use glowbox::{Backend, Engine};

/// How many different lines are shown, and how much of each.
const SHOWN: usize = 20;
const WIDTH: usize = 240;

/// The kernel's log, behind what was there at first; or why it can't be read.
pub(crate) struct KernelLog(io::Result<File>);

impl KernelLog {
    /// What is said from now on.
    pub(crate) fn from_now() -> KernelLog {
        let open = || {
            let mut log =
                OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
            log.seek(SeekFrom::End(0))?;
            Ok(log)
        };
        KernelLog(open())
    }

    /// Prints what has been said of KVM, if guests ran on it.
    pub(crate) fn print(self) {
        if !Engine::shared().is_ok_and(|engine| engine.backend() == Backend::Kvm) {
            return;
        }
        match self.0.and_then(lines) {
            Ok(lines) => print_of_kvm(&lines),
            Err(error) => println!("kernel's log: not looked at, /dev/kmsg can't be read: {error}"),
        }
    }
}

/// The texts of all records that there are. Those that the kernel has thrown away for newer ones are one line.
fn lines(mut log: File) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    // A record is read as a whole or not at all, and none is longer.
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(lines),
            Ok(length) => {
                // `priority,number,time,flags;text`, and lines with what belongs to it.
                let record = String::from_utf8_lossy(&record[..length]);
                let text = record.lines().next().and_then(|line| line.split_once(';'));
                lines.extend(text.map(|(_, text)| text.to_string()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                lines.push("(lines that may speak of kvm were lost)".into());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Prints those that speak of it, of like ones one.
fn print_of_kvm(lines: &[String]) {
    let speaks = |line: &&String| {
        let line = line.to_lowercase();
        line.contains("kvm") || line.contains("pvm")
    };
    let mut kinds: BTreeMap<String, (u64, &str)> = BTreeMap::new();
    let mut count = 0;
    for line in lines.iter().filter(speaks) {
        count += 1;
        // Two that differ in a number only are alike.
        let kind = line.split(|c: char| c.is_ascii_hexdigit()).collect();
        kinds.entry(kind).or_insert((0, line)).0 += 1;
    }
    println!("kernel's log: {count} new lines speak of KVM, of {}", lines.len());
    for (times, line) in kinds.values().take(SHOWN) {
        let line: String = line.chars().take(WIDTH).collect();
        println!("kernel's log: {times} times: {line}");
    }
    if kinds.len() > SHOWN {
        println!("kernel's log: and {} others", kinds.len() - SHOWN);
    }
}
