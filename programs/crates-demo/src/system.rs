//! What `std` asks the system for: files, arguments, variables, times.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Outcome, data};

/// Files in a folder that can be written to.
pub(crate) fn files(folder: &Path) -> Outcome {
    let path = folder.join("numbers.txt");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    for number in 0..10_000 {
        writeln!(file, "{number}")?;
    }
    let again = OpenOptions::new().write(true).create_new(true).open(&path);
    println!("created again: {:?}", again.map_err(|error| error.kind()).err());
    println!("length: {}", file.metadata()?.len());
    println!("position: {}", file.stream_position()?);
    file.seek(SeekFrom::End(-10))?;
    let mut tail = String::new();
    file.read_to_string(&mut tail)?;
    println!("tail: {tail:?}");
    file.set_len(20)?;
    file.seek(SeekFrom::Start(100))?;
    file.write_all(b"far")?;
    file.sync_all()?;
    drop(file);
    let bytes = fs::read(&path)?;
    println!("with a hole: {} bytes, hash {:016x}", bytes.len(), data::hash(&bytes));
    OpenOptions::new().append(true).open(&path)?.write_all(b"+end")?;
    println!("appended: {}", fs::metadata(&path)?.len());
    let moved = folder.join("moved.txt");
    fs::rename(&path, &moved)?;
    println!("renamed: {} {}", path.exists(), moved.exists());
    let sub = folder.join("sub").join("below");
    fs::create_dir_all(&sub)?;
    for name in ["b", "a", "c"] {
        fs::write(sub.join(name), name.repeat(3))?;
    }
    let mut names: Vec<_> = fs::read_dir(&sub)?
        .map(|entry| {
            entry.map(|entry| (entry.file_name(), entry.file_type().is_ok_and(|t| t.is_file())))
        })
        .collect::<Result<_, _>>()?;
    names.sort();
    println!("folder: {names:?}");
    fs::copy(&moved, sub.join("copy"))?;
    println!("copied: {}", fs::read(sub.join("copy"))? == fs::read(&moved)?);
    let full = fs::remove_dir(&sub).map_err(|error| error.kind());
    println!("removing a full folder: {full:?}");
    fs::remove_dir_all(folder.join("sub"))?;
    println!("removed: {}", !sub.exists());
    fs::remove_file(&moved)?;
    let absent = File::open(&moved).map_err(|error| error.kind()).err();
    println!("absent: {absent:?} {:?}", absent == Some(ErrorKind::NotFound));
    println!("left: {}", fs::read_dir(folder)?.count());
    Ok(())
}

/// What stands around the program. What has no fixed value is only checked.
pub(crate) fn system() -> Outcome {
    println!("arguments: {:?}", std::env::args().skip(1).collect::<Vec<_>>());
    println!("GREETING: {:?}", std::env::var("GREETING"));
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    println!("slept long enough: {}", start.elapsed() >= Duration::from_millis(20));
    let year = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 31_556_952 + 1970;
    println!("a sensible year: {}", (2024..2100).contains(&year));
    println!("a process has an id: {}", std::process::id() > 0);
    println!("processors: {}", std::thread::available_parallelism()?.get() > 0);
    let seeds = [RandomState::new(), RandomState::new()].map(|state| state.hash_one(1));
    println!("random: {}", seeds[0] != seeds[1]);
    let deep = std::thread::Builder::new().stack_size(64 << 20).spawn(|| depth(200_000))?;
    println!("a deep stack: {:?}", deep.join().ok());
    println!(
        "256 MiB: {}",
        std::hint::black_box(vec![1u8; 256 << 20]).iter().step_by(4096).count()
    );
    Ok(())
}

/// What a sandbox refuses and Linux does not. Not for comparing.
pub(crate) fn refused() -> Outcome {
    println!("listen: {}", TcpListener::bind("127.0.0.1:0").is_err());
    println!("connect: {}", TcpStream::connect("127.0.0.1:1").is_err());
    println!("datagrams: {}", UdpSocket::bind("127.0.0.1:0").is_err());
    println!("a process: {}", Command::new("/bin/true").status().is_err());
    println!("a file: {}", File::open("/etc/passwd").is_err());
    Ok(())
}

fn depth(level: u64) -> u64 {
    if std::hint::black_box(level) == 0 { 0 } else { depth(level - 1) + 1 }
}

/// Counts what comes in.
pub(crate) fn stdin() -> Outcome {
    let (mut lines, mut bytes, mut words) = (0u64, 0u64, 0u64);
    for line in io::stdin().lock().lines() {
        let line = line?;
        lines += 1;
        bytes += line.len() as u64 + 1;
        words += line.split_whitespace().count() as u64;
    }
    println!("{lines} lines, {words} words, {bytes} bytes");
    Ok(())
}
