//! The system calls on files: what they do, and what they refuse.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use glowbox_linux::Streams;
use glowbox_linux::files::{Input, Options, Output};
use linux_raw_sys::errno::*;
use support::{DATA, DATA_SIZE, Guest, Went, error, raw};

/// Where paths and structures are put, and where bytes are.
const PATH: u64 = DATA;
const PATH2: u64 = DATA + 0x2000;
const ARRAY: u64 = DATA + 0x4000;
const BUFFER: u64 = DATA + 0x1_0000;
/// Nothing is mapped there.
const WILD: u64 = 0x10;
const HERE: u64 = (-100_i64).cast_unsigned();

fn guest() -> Guest {
    let mut options = Options::new();
    options.scratch("/tmp", 1 << 20).file("/data/file", "0123456789").stdin(Input::bytes("input"));
    Guest::with_files(&options)
}

fn path(guest: &mut Guest, at: u64, path: &str) -> u64 {
    guest.put(at, path.as_bytes());
    guest.put(at + path.len() as u64, &[0]);
    at
}

fn open(guest: &mut Guest, name: &str, flags: u32) -> i64 {
    let name = path(guest, PATH, name);
    guest.returns(raw::__NR_open, &[name, flags.into(), 0o644])
}

fn opened(guest: &mut Guest, name: &str, flags: u32) -> u64 {
    u64::try_from(open(guest, name, flags)).unwrap()
}

fn write(guest: &mut Guest, fd: u64, bytes: &[u8]) -> i64 {
    guest.put(BUFFER, bytes);
    guest.returns(raw::__NR_write, &[fd, BUFFER, bytes.len() as u64])
}

fn read(guest: &mut Guest, fd: u64, most: u64) -> Vec<u8> {
    let read = guest.returns(raw::__NR_read, &[fd, BUFFER, most]);
    guest.bytes(BUFFER, usize::try_from(read).unwrap()).to_vec()
}

#[test]
fn streams_read_and_write() {
    let (output, kept) = Output::buffer(10);
    let mut options = Options::new();
    options.stdin(Input::bytes("input")).stdout(output);
    let mut guest = Guest::with_files(&options);
    assert_eq!(read(&mut guest, 0, 3), b"inp");
    assert_eq!(guest.returns(raw::__NR_ioctl, &[0, 0x541b, ARRAY]), 0);
    assert_eq!(guest.word32(ARRAY), 2);
    assert_eq!(read(&mut guest, 0, 100), b"ut");
    assert_eq!(read(&mut guest, 0, 100), b"");
    assert_eq!(write(&mut guest, 1, b"output"), 6);
    guest.put(BUFFER, b"xyz");
    guest.put_words(ARRAY, &[BUFFER, 2, 0, 0, BUFFER + 2, 1]);
    assert_eq!(guest.returns(raw::__NR_writev, &[1, ARRAY, 3]), 3);
    assert_eq!(write(&mut guest, 1, b"more"), 1);
    assert_eq!(write(&mut guest, 1, b"more"), error(ENOSPC));
    assert_eq!(kept.take(), b"outputxyzm");
    assert_eq!(guest.returns(raw::__NR_lseek, &[1, 0, 1]), error(ESPIPE));
    // TCGETS and TIOCGWINSZ: nothing is a terminal.
    for request in [0x5401, 0x5413] {
        assert_eq!(guest.returns(raw::__NR_ioctl, &[1, request, ARRAY]), error(ENOTTY));
        assert_eq!(guest.returns(raw::__NR_ioctl, &[77, request, ARRAY]), error(EBADF));
    }
    // As Rust's standard library does first.
    guest.put(ARRAY, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 3, 0]), 1);
    assert_eq!(guest.word(ARRAY + 16), 77 | 0x20 << 48);
    assert_eq!(guest.returns(raw::__NR_fstat, &[1, ARRAY]), 0);
    assert_eq!(guest.word32(ARRAY + 24), 0o010_600);
}

#[test]
fn a_file_goes_through_its_life() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/tmp/file", raw::O_RDWR | raw::O_CREAT | raw::O_EXCL);
    assert_eq!(fd, 3);
    assert_eq!(write(&mut guest, fd, b"hello"), 5);
    assert_eq!(guest.returns(raw::__NR_pwrite64, &[fd, BUFFER, 5, 10]), 5);
    assert_eq!(guest.returns(raw::__NR_pread64, &[fd, BUFFER + 8, 100, 3]), 12);
    assert_eq!(guest.bytes(BUFFER + 8, 12), b"lo\0\0\0\0\0hello");
    assert_eq!(guest.returns(raw::__NR_lseek, &[fd, 0, 1]), 5);
    assert_eq!(guest.returns(raw::__NR_ftruncate, &[fd, 3]), 0);
    assert_eq!(guest.returns(raw::__NR_fsync, &[fd]), 0);
    assert_eq!(guest.returns(raw::__NR_fstat, &[fd, ARRAY]), 0);
    assert_eq!([guest.word32(ARRAY + 24), guest.word32(ARRAY + 28)], [0o100_644, 1000]);
    assert_eq!(guest.word(ARRAY + 48), 3);
    let empty = path(&mut guest, PATH, "");
    assert_eq!(guest.returns(raw::__NR_newfstatat, &[fd, empty, ARRAY + 512, 0x1000]), 0);
    assert_eq!(guest.bytes(ARRAY, 144), guest.bytes(ARRAY + 512, 144));
    assert_eq!(guest.returns(raw::__NR_statx, &[fd, empty, 0x1000, 0x7ff, ARRAY]), 0);
    assert_eq!(guest.word(ARRAY + 40), 3);
    assert_eq!(guest.returns(raw::__NR_statx, &[fd, 0, 0x1000, 0x7ff, ARRAY]), 0);
    assert_eq!(guest.returns(raw::__NR_fchmod, &[fd, 0o600]), 0);
    let (old, new) = ("/tmp/file", "/tmp/other");
    let (old, new) = (path(&mut guest, PATH, old), path(&mut guest, PATH2, new));
    assert_eq!(guest.returns(raw::__NR_rename, &[old, new]), 0);
    assert_eq!(guest.returns(raw::__NR_stat, &[old, ARRAY]), error(ENOENT));
    assert_eq!(guest.returns(raw::__NR_stat, &[new, ARRAY]), 0);
    assert_eq!(guest.word32(ARRAY + 24), 0o100_600);
    assert_eq!(guest.returns(raw::__NR_access, &[new, 6]), 0);
    assert_eq!(guest.returns(raw::__NR_access, &[new, 1]), error(EACCES));
    assert_eq!(guest.returns(raw::__NR_unlink, &[new]), 0);
    assert_eq!(guest.returns(raw::__NR_close, &[fd]), 0);
    assert_eq!(guest.returns(raw::__NR_close, &[fd]), error(EBADF));
}

#[test]
fn what_is_no_name_can_not_be_removed() {
    let mut guest = guest();
    let name = path(&mut guest, PATH, "/tmp/d");
    assert_eq!(guest.returns(raw::__NR_mkdir, &[name, 0o755]), 0);
    for (name, errno) in [
        ("/tmp/d/..", ENOTEMPTY),
        ("/tmp/d/../", ENOTEMPTY),
        ("..", ENOTEMPTY),
        ("/tmp/d/.", EINVAL),
        (".", EINVAL),
        ("/", EBUSY),
        ("//", EBUSY),
    ] {
        let at = path(&mut guest, PATH, name);
        assert_eq!(guest.returns(raw::__NR_rmdir, &[at]), error(errno), "{name}");
        assert_eq!(guest.returns(raw::__NR_unlink, &[at]), error(EISDIR), "{name}");
    }
}

#[test]
fn buffers_that_are_huge_wrap_or_are_not_there() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/data/file", raw::O_RDONLY);
    let scratch = opened(&mut guest, "/tmp/file", raw::O_RDWR | raw::O_CREAT);
    let end = DATA + DATA_SIZE;
    for (call, fd) in [(raw::__NR_read, fd), (raw::__NR_write, scratch), (raw::__NR_write, 1)] {
        assert_eq!(guest.returns(call, &[fd, WILD, 8]), error(EFAULT));
        assert_eq!(guest.returns(call, &[fd, u64::MAX - 3, 8]), error(EFAULT));
        assert_eq!(guest.returns(call, &[fd, u64::MAX, u64::MAX]), error(EFAULT));
        assert_eq!(guest.returns(call, &[fd, WILD, 0]), 0);
        assert_eq!(guest.returns(call, &[77, WILD, 8]), error(EBADF));
        assert_eq!(guest.returns(call, &[u64::MAX, WILD, 8]), error(EBADF));
    }
    assert_eq!(guest.returns(raw::__NR_read, &[0, WILD, 8]), error(EFAULT));
    assert_eq!(read(&mut guest, 0, 9), b"input");
    // What is there is done.
    assert_eq!(guest.returns(raw::__NR_read, &[fd, end - 4, 8]), 4);
    assert_eq!(guest.bytes(end - 4, 4), b"0123");
    assert_eq!(guest.returns(raw::__NR_write, &[scratch, end - 4, 8]), 4);
    assert_eq!(guest.returns(raw::__NR_write, &[1, end - 4, 1 << 40]), 4);
    // A file of ten bytes does not need a huge buffer to be there.
    assert_eq!(guest.returns(raw::__NR_pread64, &[fd, BUFFER, 1 << 40, 0]), 10);
    let there = DATA_SIZE - 0x1_0000;
    assert_eq!(guest.returns(raw::__NR_write, &[1, BUFFER, 1 << 40]), there.cast_signed());
}

#[test]
fn vectors_that_are_too_many_or_too_long_are_refused() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/data/file", raw::O_RDONLY);
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, ARRAY, 1025]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, ARRAY, u64::MAX]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, WILD, 1]), error(EFAULT));
    assert_eq!(guest.returns(raw::__NR_readv, &[77, WILD, 1]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, WILD, 0]), 0);
    guest.put_words(ARRAY, &[BUFFER, u64::MAX]);
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, ARRAY, 1]), error(EINVAL));
    guest.put_words(ARRAY, &[BUFFER, 4, BUFFER + 100, i64::MAX.cast_unsigned(), WILD, 1]);
    assert_eq!(guest.returns(raw::__NR_preadv, &[fd, ARRAY, 3, 0]), 10);
    assert_eq!(guest.bytes(BUFFER + 100, 6), b"456789");
    guest.put_words(ARRAY, &[BUFFER, 4, WILD, 4]);
    assert_eq!(guest.returns(raw::__NR_readv, &[fd, ARRAY, 2]), 4);
    assert_eq!(guest.returns(raw::__NR_preadv, &[fd, ARRAY, 2, u64::MAX]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_preadv2, &[fd, ARRAY, 2, u64::MAX, 0, 0]), 4);
    assert_eq!(guest.returns(raw::__NR_preadv2, &[fd, ARRAY, 1, 0, 0, 64]), error(EOPNOTSUPP));
    assert_eq!(guest.returns(raw::__NR_preadv, &[0, ARRAY, 1, 0]), error(ESPIPE));
}

#[test]
fn offsets_near_the_end_of_the_range_do_not_wrap() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/tmp/file", raw::O_RDWR | raw::O_CREAT);
    let most = i64::MAX.cast_unsigned();
    for at in [u64::MAX, most + 1, (-5_i64).cast_unsigned()] {
        assert_eq!(guest.returns(raw::__NR_pread64, &[fd, BUFFER, 8, at]), error(EINVAL));
        assert_eq!(guest.returns(raw::__NR_pwrite64, &[fd, BUFFER, 8, at]), error(EINVAL));
        assert_eq!(guest.returns(raw::__NR_ftruncate, &[fd, at]), error(EINVAL));
        assert_eq!(guest.returns(raw::__NR_fallocate, &[fd, 0, at, 1]), error(EINVAL));
    }
    for at in [most, most - 7] {
        assert_eq!(guest.returns(raw::__NR_pwrite64, &[fd, BUFFER, 8, at]), error(EINVAL));
        assert_eq!(guest.returns(raw::__NR_pread64, &[fd, BUFFER, 8, at]), error(EINVAL));
    }
    assert_eq!(guest.returns(raw::__NR_pwrite64, &[fd, BUFFER, 8, most - 8]), 8);
    assert_eq!(guest.returns(raw::__NR_lseek, &[fd, 0, 2]), i64::MAX);
    assert_eq!(guest.returns(raw::__NR_lseek, &[fd, 1, 2]), error(EINVAL));
    assert_eq!(write(&mut guest, fd, b"x"), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_fallocate, &[fd, 0, most, 1]), error(EFBIG));
    assert_eq!(guest.returns(raw::__NR_fallocate, &[fd, 0, 0, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_fallocate, &[fd, 3, 0, most]), 0);
    assert_eq!(guest.returns(raw::__NR_fallocate, &[fd, 16, 0, 1]), error(EOPNOTSUPP));
    assert_eq!(guest.returns(raw::__NR_ftruncate, &[fd, 0]), 0);
}

#[test]
fn a_pipe_makes_its_reader_wait_and_its_writer_too() {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_pipe2, &[WILD, 0]), error(EFAULT));
    assert_eq!(guest.returns(raw::__NR_pipe2, &[ARRAY, 0o40000]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_pipe, &[ARRAY]), 0);
    let (from, to) = (guest.word32(ARRAY).into(), guest.word32(ARRAY + 4).into());
    assert_eq!((from, to), (3, 4));
    let other = guest.spawn();
    assert_eq!(guest.call(raw::__NR_read, &[from, BUFFER, 10]), Went::Entered);
    assert_eq!(guest.id(), other);
    guest.put(BUFFER + 64, b"written");
    assert_eq!(guest.returns(raw::__NR_write, &[to, BUFFER + 64, 7]), 7);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.result(), 7);
    assert_eq!(guest.bytes(BUFFER, 7), b"written");
    // The other thread goes on, and nobody writes: both wait for ever.
    assert_eq!(guest.call(raw::__NR_read, &[from, BUFFER, 10]), Went::Entered);
    assert_eq!(guest.call(raw::__NR_read, &[from, BUFFER, 10]), Went::Deadlock);
}

/// A guest with two threads, a pipe 3 and 4, and 150,000 bytes to write.
fn piping() -> Guest {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_pipe, &[ARRAY]), 0);
    guest.spawn();
    let bytes: Vec<u8> = (0..150_000_u32).map(|at| (at / 7 % 251).to_le_bytes()[0]).collect();
    guest.put(BUFFER, &bytes);
    guest
}

#[test]
fn a_write_to_a_pipe_goes_on_until_all_is_written() {
    const TO: u64 = BUFFER + 0x4_0000;
    let third = [BUFFER, 100, BUFFER + 100, 0, BUFFER + 100, 149_900];
    for (number, arguments) in
        [(raw::__NR_write, [4, BUFFER, 150_000]), (raw::__NR_writev, [4, ARRAY, 3])]
    {
        let mut guest = piping();
        guest.put_words(ARRAY, &third);
        assert_eq!(guest.call(number, &arguments), Went::Entered);
        // The other thread reads, a part at a time.
        let mut there: u64 = 0;
        while there < 150_000 {
            match guest.call(raw::__NR_read, &[3, TO + there, 40_000]) {
                Went::On => there += guest.result().cast_unsigned(),
                // The writer is done, before the last bytes are read.
                Went::Entered => panic!("nothing to read after {there} bytes"),
                other => panic!("{other:?}"),
            }
            if there < 150_000 {
                // The writer fills the pipe again; it goes on only when all is in.
                let went = guest.tick();
                if went == Went::Entered {
                    assert_eq!(guest.result(), 150_000);
                    assert!(there > 150_000 - 65_536);
                    assert_eq!(guest.tick(), Went::Entered);
                }
            }
        }
        assert_eq!(there, 150_000);
        assert!(guest.bytes(BUFFER, 150_000) == guest.bytes(TO, 150_000));
    }
}

#[test]
fn a_write_that_is_cut_short_says_how_much_is_written() {
    // By a signal, whatever its handler says.
    for flags in [0, raw::SA_RESTART] {
        let mut guest = piping();
        guest.handler(raw::SIGUSR1, flags, 0);
        assert_eq!(guest.call(raw::__NR_write, &[4, BUFFER, 150_000]), Went::Entered);
        assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
        assert_eq!(guest.tick(), Went::Entered);
        assert!(guest.in_handler());
        assert_eq!(guest.sigreturn(), Went::Entered);
        assert_eq!(guest.result(), 65_536);
    }
    // Since nobody reads any more: that is a signal, too.
    let mut guest = piping();
    guest.put_words(DATA, &[1, 0, 0, 0]);
    assert_eq!(guest.returns(raw::__NR_rt_sigaction, &[13, DATA, 0, 8]), 0);
    assert_eq!(guest.call(raw::__NR_write, &[4, BUFFER, 150_000]), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_close, &[3]), 0);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.result(), 65_536);
    assert_eq!(guest.returns(raw::__NR_write, &[4, BUFFER, 1]), error(EPIPE));
    // And by another thread that puts a file in the pipe's place.
    let mut guest = piping();
    assert_eq!(guest.call(raw::__NR_write, &[4, BUFFER, 150_000]), Went::Entered);
    let file = opened(&mut guest, "/tmp/file", raw::O_RDWR | raw::O_CREAT);
    assert_eq!(guest.returns(raw::__NR_dup2, &[file, 4]), 4);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.result(), 65_536);
}

#[test]
fn what_does_not_wait_says_so() {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_pipe2, &[ARRAY, raw::O_NONBLOCK.into()]), 0);
    let (from, to) = (guest.word32(ARRAY).into(), guest.word32(ARRAY + 4).into());
    assert_eq!(guest.returns(raw::__NR_read, &[from, BUFFER, 10]), error(EAGAIN));
    assert_eq!(guest.returns(raw::__NR_write, &[to, BUFFER, 70_000]), 65_536);
    assert_eq!(guest.returns(raw::__NR_write, &[to, BUFFER, 1]), error(EAGAIN));
    assert_eq!(guest.returns(raw::__NR_write, &[from, BUFFER, 1]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_read, &[to, BUFFER, 1]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_fcntl, &[to, 1032]), 65_536);
    assert_eq!(guest.returns(raw::__NR_eventfd2, &[0, raw::EFD_NONBLOCK.into()]), 5);
    assert_eq!(guest.returns(raw::__NR_read, &[5, BUFFER, 8]), error(EAGAIN));
    guest.put_words(BUFFER, &[3]);
    assert_eq!(guest.returns(raw::__NR_write, &[5, BUFFER, 8]), 8);
    assert_eq!(guest.returns(raw::__NR_read, &[5, BUFFER + 8, 7]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_read, &[5, BUFFER + 8, 8]), 8);
    assert_eq!(guest.word(BUFFER + 8), 3);
    assert_eq!(guest.returns(raw::__NR_close, &[to]), 0);
    assert_eq!(guest.returns(raw::__NR_lseek, &[from, 0, 0]), error(ESPIPE));
}

#[test]
fn a_pipe_that_nobody_reads_is_an_error_and_a_signal() {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_pipe, &[ARRAY]), 0);
    assert_eq!(guest.returns(raw::__NR_close, &[3]), 0);
    assert_eq!(guest.call(raw::__NR_write, &[4, BUFFER, 1]), Went::Killed(13));
    let mut ignores = self::guest();
    ignores.put_words(DATA, &[1, 0, 0, 0]);
    assert_eq!(ignores.returns(raw::__NR_rt_sigaction, &[13, DATA, 0, 8]), 0);
    assert_eq!(ignores.returns(raw::__NR_pipe, &[ARRAY]), 0);
    assert_eq!(ignores.returns(raw::__NR_close, &[3]), 0);
    assert_eq!(ignores.returns(raw::__NR_write, &[4, BUFFER, 1]), error(EPIPE));
}

#[test]
fn pipes_stay_within_what_may_be_buffered() {
    let mut guest = guest();
    let mut made = 0;
    while guest.returns(raw::__NR_pipe, &[ARRAY]) == 0 {
        made += 1;
    }
    assert_eq!((guest.result(), made), (error(ENFILE), 16));
    assert_eq!(guest.returns(raw::__NR_memfd_create, &[PATH, 0]), error(ENOSPC));
    assert_eq!(guest.returns(raw::__NR_close_range, &[3, u32::MAX.into(), 0]), 0);
    let name = path(&mut guest, PATH, "name");
    assert_eq!(guest.returns(raw::__NR_memfd_create, &[name, 0]), 3);
    assert_eq!(guest.returns(raw::__NR_ftruncate, &[3, 1 << 40]), 0);
    assert_eq!(write(&mut guest, 3, b"x"), 1);
    assert_eq!(guest.returns(raw::__NR_memfd_create, &[name, 64]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_close, &[3]), 0);
}

#[test]
fn how_far_input_was_read_belongs_to_the_process() {
    let mut options = Options::new();
    options.stdin(Input::bytes("abcdef"));
    let mut guest = Guest::with_files(&options);
    assert_eq!(read(&mut guest, 0, 2), b"ab");
    let snapshot = guest.process.clone();
    assert_eq!(snapshot.input_position(), 2);
    let saved = postcard::to_allocvec(&snapshot).unwrap();
    assert_eq!(read(&mut guest, 0, 3), b"cde");
    // After a reset, in another guest of the same input, and from a file.
    guest.process = snapshot.clone();
    assert_eq!(guest.returns(raw::__NR_ioctl, &[0, 0x541b, ARRAY]), 0);
    assert_eq!((guest.word32(ARRAY), read(&mut guest, 0, 9)), (4, b"cdef".to_vec()));
    assert_eq!(read(&mut Guest::with_files(&options), 0, 9), b"abcdef");
    guest.process = postcard::from_bytes(&saved).unwrap();
    assert_eq!(read(&mut guest, 0, 1), b"c");
    // Another input is read from its start, also after a reset to before.
    let before = Guest::with_files(&options).process;
    guest.world.files.set_stdin(Input::bytes("xyz"), guest.process.input_position());
    assert_eq!(read(&mut guest, 0, 2), b"xy");
    guest.process = before;
    assert_eq!(read(&mut guest, 0, 2), b"xy");
    assert_eq!(read(&mut guest, 0, 2), b"z");
    guest.world.files.set_stdin(Input::reader(&b"stream"[..]), 0);
    assert_eq!(read(&mut guest, 0, 9), b"stream");
}

#[test]
fn descriptors_can_be_opened_by_a_path() {
    use raw::{O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
    let (output, kept) = Output::buffer(100);
    let mut options = Options::new();
    options.stdin(Input::bytes("input")).stderr(output).current_directory("/dev");
    let mut guest = Guest::with_files(&options);
    // As a shell does for `> /dev/stderr`.
    let fd = opened(&mut guest, "/dev/stderr", O_WRONLY | O_CREAT | O_TRUNC);
    assert_eq!((fd, write(&mut guest, fd, b"to it")), (3, 5));
    let fd = opened(&mut guest, "/dev/fd/3", O_WRONLY);
    assert_eq!((fd, write(&mut guest, fd, b", twice")), (4, 7));
    assert_eq!(kept.take(), b"to it, twice");
    let fd = opened(&mut guest, "stdin", O_RDONLY);
    assert_eq!(read(&mut guest, fd, 3), b"inp");
    assert_eq!(read(&mut guest, 0, 3), b"ut");
    let (text, directory) = (path(&mut guest, PATH, "/dev/fd/4"), DATA + 0x3000);
    let stat = |guest: &mut Guest, call, name: &str| {
        let name = path(guest, PATH, name);
        assert_eq!(guest.returns(call, &[name, directory]), 0);
        (guest.word32(directory + 24), guest.word(directory + 8))
    };
    assert_eq!(guest.returns(raw::__NR_fstat, &[2, directory]), 0);
    let error_itself = (guest.word32(directory + 24), guest.word(directory + 8));
    assert_eq!(error_itself.0, 0o010_600);
    assert_eq!(stat(&mut guest, raw::__NR_stat, "/dev/stderr"), error_itself);
    assert_eq!(stat(&mut guest, raw::__NR_stat, "/dev/fd/4"), error_itself);
    assert_eq!(stat(&mut guest, raw::__NR_lstat, "/dev/stderr").0, 0o020_666);
    path(&mut guest, PATH, "/dev/fd/4");
    assert_eq!(guest.returns(raw::__NR_access, &[text, 4]), 0);
    for (name, flags, wrong) in [
        ("/dev/stdin", O_WRONLY, EACCES),
        ("/dev/stdout", O_RDWR, EACCES),
        ("/dev/stdout", O_WRONLY | O_DIRECTORY, ENOTDIR),
        ("/dev/fd/1", O_WRONLY | O_CREAT | O_EXCL, EEXIST),
        ("/dev/fd/99", O_RDONLY, ENOENT),
        ("/dev/fd/04", O_WRONLY, ENOENT),
        ("/dev/fd/+4", O_WRONLY, ENOENT),
        ("/dev/fd/", O_RDONLY, ENOENT),
    ] {
        assert_eq!(open(&mut guest, name, flags), error(wrong), "{name}");
    }
    // Only the name: nothing can be read.
    let fd = opened(&mut guest, "/dev/stdin", O_PATH);
    assert_eq!(guest.returns(raw::__NR_read, &[fd, BUFFER, 1]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_close, &[0]), 0);
    assert_eq!(open(&mut guest, "/dev/stdin", O_RDONLY), error(ENOENT));
}

fn poll_entry(guest: &mut Guest, index: u64, fd: i32, events: u16) {
    let mut bytes = fd.to_le_bytes().to_vec();
    bytes.extend(events.to_le_bytes());
    bytes.extend([0xff; 2]);
    guest.put(ARRAY + index * 8, &bytes);
}

#[test]
fn poll_and_select_wait_until_something_is_ready() {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_pipe, &[PATH]), 0);
    poll_entry(&mut guest, 0, 3, 1);
    poll_entry(&mut guest, 1, -1, 1);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 2, 0]), 0);
    // Nobody sleeps on a virtual clock.
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 2, 1000]), 0);
    guest.put_words(PATH2, &[5, 0]);
    assert_eq!(guest.returns(raw::__NR_ppoll, &[ARRAY, 2, PATH2, 0, 8]), 0);
    guest.put_words(PATH2, &[5, 1_000_000_000]);
    assert_eq!(guest.returns(raw::__NR_ppoll, &[ARRAY, 2, PATH2, 0, 8]), error(EINVAL));
    poll_entry(&mut guest, 1, 4, 4 | 1);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 2, u64::MAX]), 1);
    assert_eq!(guest.word(ARRAY) >> 48, 0);
    assert_eq!(guest.word(ARRAY + 8) >> 48, 4);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 1 << 20, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_poll, &[WILD, 1, 0]), error(EFAULT));
    assert_eq!(guest.returns(raw::__NR_poll, &[WILD, 0, 0]), 0);
    // The end that is closed hangs up.
    assert_eq!(guest.returns(raw::__NR_close, &[4]), 0);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 1, u64::MAX]), 1);
    assert_eq!(guest.word(ARRAY) >> 48, 0x10);
    // Descriptors 0 and 3 to be read, 1 to be written.
    guest.put_words(ARRAY, &[0b1001, 0b10, 0b10]);
    let sets = [ARRAY, ARRAY + 8, ARRAY + 16];
    let arguments = [4, sets[0], sets[1], sets[2], 0];
    assert_eq!(guest.returns(raw::__NR_select, &arguments), 3);
    assert_eq!(sets.map(|set| guest.word(set)), [0b1001, 0b10, 0]);
    guest.put_words(ARRAY, &[0b1_0000]);
    assert_eq!(guest.returns(raw::__NR_select, &[5, ARRAY, 0, 0, 0]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_select, &[u64::MAX, 0, 0, 0, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_select, &[5, WILD, 0, 0, 0]), error(EFAULT));
    guest.put_words(PATH2, &[0, 100_000]);
    assert_eq!(guest.returns(raw::__NR_select, &[0, 0, 0, 0, PATH2]), 0);
    assert_eq!(guest.returns(raw::__NR_pselect6, &[0, 0, 0, 0, PATH2, 0]), 0);
}

#[test]
fn input_from_the_host_is_waited_for_as_such() {
    // This process's own, which has nothing here or is at its end.
    let mut options = Options::new();
    options.stdin(Input::stdin());
    let mut guest = Guest::with_files(&options);
    poll_entry(&mut guest, 0, 0, 1);
    if guest.world.files.wait_for(Streams::INPUT, std::time::Duration::ZERO) {
        assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 1, u64::MAX]), 1);
        eprintln!("standard input has something to read here, so nothing waits");
        return;
    }
    let sleeps = Went::Sleeps { until: None, streams: Streams::INPUT };
    assert_eq!(guest.call(raw::__NR_poll, &[ARRAY, 1, u64::MAX]), sleeps);
}

fn control(guest: &mut Guest, set: u64, how: u32, fd: u64, events: u32) -> i64 {
    let mut bytes = events.to_le_bytes().to_vec();
    bytes.extend((fd + 1000).to_le_bytes());
    guest.put(ARRAY, &bytes);
    guest.returns(raw::__NR_epoll_ctl, &[set, how.into(), fd, ARRAY])
}

/// What is reported: events and descriptors.
fn waited(guest: &mut Guest, set: u64, most: u64) -> Vec<(u32, u64)> {
    let found = guest.returns(raw::__NR_epoll_wait, &[set, BUFFER, most, 0]);
    let found = u64::try_from(found).unwrap();
    let entry = |at| (guest.word32(at), guest.word(at + 4) - 1000);
    (0..found).map(|index| entry(BUFFER + index * 12)).collect()
}

#[test]
fn epoll_reports_what_is_ready_as_it_was_asked_to() {
    use raw::{EPOLL_CTL_ADD as ADD, EPOLL_CTL_DEL as DEL, EPOLL_CTL_MOD as MOD};
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_epoll_create1, &[raw::EPOLL_CLOEXEC.into()]), 3);
    assert_eq!(guest.returns(raw::__NR_pipe, &[PATH]), 0);
    assert_eq!(guest.returns(raw::__NR_eventfd2, &[0, 0]), 6);
    assert_eq!(control(&mut guest, 3, ADD, 4, 1), 0);
    assert_eq!(control(&mut guest, 3, ADD, 4, 1), error(EEXIST));
    assert_eq!(control(&mut guest, 3, MOD, 6, 1), error(ENOENT));
    assert_eq!(control(&mut guest, 3, ADD, 6, 1 | raw::EPOLLET), 0);
    assert_eq!(waited(&mut guest, 3, 8), []);
    assert_eq!(write(&mut guest, 5, b"xx"), 2);
    // Level: again and again. Edge: once for each time that something happens.
    assert_eq!(waited(&mut guest, 3, 8), [(1, 4)]);
    assert_eq!(waited(&mut guest, 3, 8), [(1, 4)]);
    let one = 1_u64.to_le_bytes();
    assert_eq!(write(&mut guest, 6, &one), 8);
    let mut both = waited(&mut guest, 3, 8);
    both.sort_unstable();
    assert_eq!(both, [(1, 4), (1, 6)]);
    assert_eq!(waited(&mut guest, 3, 8), [(1, 4)]);
    assert_eq!(write(&mut guest, 6, &one), 8);
    assert_eq!(waited(&mut guest, 3, 8).len(), 2);
    // One-shot: once until it is set again.
    assert_eq!(control(&mut guest, 3, MOD, 4, 1 | raw::EPOLLONESHOT), 0);
    assert_eq!(waited(&mut guest, 3, 8), [(1, 4)]);
    assert_eq!(waited(&mut guest, 3, 8), []);
    assert_eq!(control(&mut guest, 3, MOD, 4, 1), 0);
    assert_eq!(waited(&mut guest, 3, 8), [(1, 4)]);
    // A set can be polled; what is closed is forgotten.
    poll_entry(&mut guest, 0, 3, 1);
    assert_eq!(guest.returns(raw::__NR_poll, &[ARRAY, 1, u64::MAX]), 1);
    assert_eq!(guest.returns(raw::__NR_close, &[4]), 0);
    assert_eq!(waited(&mut guest, 3, 8), []);
    assert_eq!(control(&mut guest, 3, DEL, 6, 0), 0);
    assert_eq!(control(&mut guest, 3, DEL, 6, 0), error(ENOENT));
}

#[test]
fn epoll_refuses_what_it_can_not_watch() {
    use raw::EPOLL_CTL_ADD as ADD;
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_epoll_create, &[0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_epoll_create1, &[1]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_epoll_create, &[1]), 3);
    assert_eq!(guest.returns(raw::__NR_epoll_create, &[1]), 4);
    let file = opened(&mut guest, "/data/file", raw::O_RDONLY);
    assert_eq!(control(&mut guest, 3, ADD, file, 1), error(EPERM));
    assert_eq!(control(&mut guest, 3, ADD, 3, 1), error(EINVAL));
    assert_eq!(control(&mut guest, 3, ADD, 4, 1), error(ELOOP));
    assert_eq!(control(&mut guest, 3, ADD, 77, 1), error(EBADF));
    assert_eq!(control(&mut guest, 77, ADD, 0, 1), error(EBADF));
    assert_eq!(control(&mut guest, 1, ADD, 0, 1), error(EINVAL));
    assert_eq!(control(&mut guest, 3, 9, 0, 1), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_epoll_ctl, &[3, 1, 0, WILD]), error(EFAULT));
    for most in [0, u64::MAX] {
        assert_eq!(guest.returns(raw::__NR_epoll_wait, &[3, BUFFER, most, 0]), error(EINVAL));
    }
    assert_eq!(guest.returns(raw::__NR_epoll_wait, &[1, BUFFER, 1, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_epoll_wait, &[3, BUFFER, 1, 50]), 0);
    assert_eq!(guest.returns(raw::__NR_read, &[3, BUFFER, 8]), error(EINVAL));
}

#[test]
fn go_is_woken_from_its_sleep_by_a_byte_in_a_pipe() {
    let mut guest = guest();
    assert_eq!(guest.returns(raw::__NR_epoll_create1, &[raw::EPOLL_CLOEXEC.into()]), 3);
    let flags = raw::O_NONBLOCK | raw::O_CLOEXEC;
    assert_eq!(guest.returns(raw::__NR_pipe2, &[PATH, flags.into()]), 0);
    assert_eq!(control(&mut guest, 3, raw::EPOLL_CTL_ADD, 4, 1), 0);
    let other = guest.spawn();
    let arguments = [3, BUFFER, 128, u64::MAX, 0, 0];
    assert_eq!(guest.call(raw::__NR_epoll_pwait, &arguments), Went::Entered);
    assert_eq!(guest.id(), other);
    assert_eq!(guest.returns(raw::__NR_write, &[5, PATH, 1]), 1);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.result(), 1);
    assert_eq!(guest.word(BUFFER + 4), 1004);
}

#[test]
fn files_are_copied_inside() {
    let mut guest = guest();
    let from = opened(&mut guest, "/data/file", raw::O_RDONLY);
    let to = opened(&mut guest, "/tmp/file", raw::O_RDWR | raw::O_CREAT);
    assert_eq!(guest.returns(raw::__NR_sendfile, &[to, from, 0, 4]), 4);
    guest.put_words(ARRAY, &[8, 1]);
    assert_eq!(guest.returns(raw::__NR_sendfile, &[to, from, ARRAY, 100]), 2);
    assert_eq!(guest.word(ARRAY), 10);
    let copy = raw::__NR_copy_file_range;
    assert_eq!(guest.returns(copy, &[from, 0, to, ARRAY + 8, 3, 0]), 3);
    assert_eq!(guest.word(ARRAY + 8), 4);
    assert_eq!(guest.returns(raw::__NR_pread64, &[to, BUFFER, 100, 0]), 6);
    assert_eq!(guest.bytes(BUFFER, 6), b"045689");
    assert_eq!(guest.returns(copy, &[from, 0, 1, 0, 3, 0]), error(EINVAL));
    assert_eq!(guest.returns(copy, &[from, 0, to, 0, 3, 1]), error(EINVAL));
    assert_eq!(guest.returns(copy, &[from, WILD, to, 0, 3, 0]), error(EFAULT));
    assert_eq!(guest.returns(copy, &[to, 0, from, 0, 3, 0]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_sendfile, &[to, 0, 0, 4]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_sendfile, &[1, from, 0, u64::MAX]), 3);
}

#[test]
fn locks_are_always_free() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/tmp/db", raw::O_RDWR | raw::O_CREAT);
    for kind in 0..=2_u16 {
        guest.put(ARRAY, &kind.to_le_bytes());
        guest.put(ARRAY + 2, &[0; 30]);
        for command in [raw::F_SETLK, raw::F_SETLKW, raw::F_OFD_SETLK] {
            assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, command.into(), ARRAY]), 0);
        }
    }
    guest.put(ARRAY, &1_u16.to_le_bytes());
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, raw::F_GETLK.into(), ARRAY]), 0);
    assert_eq!(guest.bytes(ARRAY, 2), [2, 0]);
    guest.put(ARRAY, &7_u16.to_le_bytes());
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, raw::F_SETLK.into(), ARRAY]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, raw::F_SETLK.into(), WILD]), error(EFAULT));
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 9999, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_flock, &[fd, 2]), 0);
    assert_eq!(guest.returns(raw::__NR_flock, &[fd, 3]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_flock, &[77, 2]), error(EBADF));
}

#[test]
fn descriptors_have_flags() {
    let mut guest = guest();
    let fd = opened(&mut guest, "/data/file", raw::O_RDONLY | raw::O_CLOEXEC);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 1, 0]), 1);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 2, 0]), 0);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 1, 0]), 0);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 0, 10]), 10);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 1030, 10]), 11);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[11, 1, 0]), 1);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 0, 256]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 4, u64::MAX]), 0);
    let flags = u64::from(raw::O_APPEND | raw::O_NONBLOCK | raw::O_LARGEFILE).cast_signed();
    assert_eq!(guest.returns(raw::__NR_fcntl, &[fd, 3, 0]), flags);
    assert_eq!(guest.returns(raw::__NR_dup2, &[fd, fd]), fd.cast_signed());
    assert_eq!(guest.returns(raw::__NR_dup2, &[77, 77]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_dup3, &[fd, fd, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_dup3, &[fd, 20, 1]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_dup3, &[fd, 20, raw::O_CLOEXEC.into()]), 20);
    assert_eq!(guest.returns(raw::__NR_close_range, &[5, 4, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_close_range, &[10, 19, 0]), 0);
    assert_eq!(guest.returns(raw::__NR_fcntl, &[11, 1, 0]), error(EBADF));
    assert_eq!(guest.returns(raw::__NR_fcntl, &[20, 1, 0]), 1);
    assert_eq!(guest.returns(raw::__NR_socket, &[2, 1, 0]), error(EAFNOSUPPORT));
}

#[test]
fn directories_are_where_they_seem_to_be() {
    let mut guest = guest();
    let name = path(&mut guest, PATH, "/tmp");
    assert_eq!(guest.returns(raw::__NR_chdir, &[name]), 0);
    let name = path(&mut guest, PATH, "sub");
    assert_eq!(guest.returns(raw::__NR_mkdir, &[name, 0o777]), 0);
    let fd = opened(&mut guest, "sub", raw::O_RDONLY | raw::O_DIRECTORY);
    assert_eq!(guest.returns(raw::__NR_fchdir, &[fd]), 0);
    assert_eq!(guest.returns(raw::__NR_getcwd, &[BUFFER, 9]), 9);
    assert_eq!(guest.bytes(BUFFER, 9), b"/tmp/sub\0");
    assert_eq!(guest.returns(raw::__NR_getcwd, &[BUFFER, 8]), error(ERANGE));
    assert_eq!(guest.returns(raw::__NR_getcwd, &[WILD, 9]), error(EFAULT));
    let file = opened(&mut guest, "/data/file", raw::O_RDONLY);
    assert_eq!(guest.returns(raw::__NR_fchdir, &[file]), error(ENOTDIR));
    assert_eq!(guest.returns(raw::__NR_fchdir, &[HERE]), error(EBADF));
    let name = path(&mut guest, PATH, "x");
    let create = u64::from(raw::O_CREAT);
    assert_eq!(guest.returns(raw::__NR_openat, &[file, name, 0]), error(ENOTDIR));
    assert_eq!(guest.returns(raw::__NR_openat, &[77, name, 0]), error(EBADF));
    let x = guest.returns(raw::__NR_openat, &[fd, name, create, 0o600]);
    assert!(x > 0);
    assert_eq!(guest.returns(raw::__NR_getdents64, &[fd, BUFFER, 24]), 24);
    assert_eq!(guest.returns(raw::__NR_getdents64, &[fd, WILD, 4096]), error(EFAULT));
    assert_eq!(guest.returns(raw::__NR_getdents64, &[fd, BUFFER, 4096]), 48);
    assert_eq!(guest.returns(raw::__NR_getdents64, &[fd, BUFFER, 4096]), 0);
    assert_eq!(guest.returns(raw::__NR_getdents64, &[file, BUFFER, 4096]), error(ENOTDIR));
    assert_eq!(guest.returns(raw::__NR_unlinkat, &[fd, name, 1]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_unlinkat, &[fd, name, 0x200]), error(ENOTDIR));
    assert_eq!(guest.returns(raw::__NR_unlinkat, &[fd, name, 0]), 0);
    let name = path(&mut guest, PATH, "/tmp/sub");
    assert_eq!(guest.returns(raw::__NR_unlinkat, &[HERE, name, 0]), error(EISDIR));
    assert_eq!(guest.returns(raw::__NR_rmdir, &[name]), 0);
    assert_eq!(guest.returns(raw::__NR_getcwd, &[BUFFER, 100]), error(ENOENT));
}

#[test]
fn links_and_times_are_kept() {
    let mut guest = guest();
    let (to, name) = (path(&mut guest, PATH, "/data/file"), path(&mut guest, PATH2, "/tmp/link"));
    assert_eq!(guest.returns(raw::__NR_symlink, &[to, name]), 0);
    assert_eq!(guest.returns(raw::__NR_readlink, &[name, BUFFER, 5]), 5);
    assert_eq!(guest.bytes(BUFFER, 5), b"/data");
    assert_eq!(guest.returns(raw::__NR_readlink, &[name, BUFFER, 0]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_readlink, &[to, BUFFER, 5]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_lstat, &[name, ARRAY]), 0);
    assert_eq!(guest.word32(ARRAY + 24), 0o120_777);
    assert_eq!(guest.returns(raw::__NR_stat, &[name, ARRAY]), 0);
    assert_eq!((guest.word32(ARRAY + 24), guest.word(ARRAY + 48)), (0o100_444, 10));
    guest.put_words(ARRAY, &[10, 20, 30, u64::from(raw::UTIME_OMIT)]);
    let no_follow = u64::from(raw::AT_SYMLINK_NOFOLLOW);
    assert_eq!(guest.returns(raw::__NR_utimensat, &[HERE, name, ARRAY, no_follow]), 0);
    assert_eq!(guest.returns(raw::__NR_utimensat, &[HERE, name, ARRAY, 0]), error(EROFS));
    assert_eq!(guest.returns(raw::__NR_lstat, &[name, ARRAY]), 0);
    assert_eq!([guest.word(ARRAY + 72), guest.word(ARRAY + 80)], [10, 20]);
    assert!(guest.word(ARRAY + 88) >= 946_684_800);
    assert_eq!(guest.returns(raw::__NR_chown, &[name, 0, 0]), error(EROFS));
    assert_eq!(guest.returns(raw::__NR_lchown, &[name, 0, 0]), 0);
    assert_eq!(guest.returns(raw::__NR_chmod, &[to, 0o777]), error(EROFS));
    let other = path(&mut guest, PATH, "/tmp/hard");
    assert_eq!(guest.returns(raw::__NR_link, &[name, other]), 0);
    assert_eq!(guest.returns(raw::__NR_lstat, &[other, ARRAY]), 0);
    assert_eq!(guest.word(ARRAY + 16), 2);
    assert_eq!(guest.returns(raw::__NR_mknod, &[other, 0o010_644, 0]), error(EPERM));
    assert_eq!(guest.returns(raw::__NR_umask, &[0o077]), 0o022);
    assert_eq!(guest.returns(raw::__NR_statfs, &[other, ARRAY]), 0);
    assert_eq!(guest.word(ARRAY), 0x0102_1994);
}

/// Calls that are made with all kinds of nonsense: nothing panics, and what is left is sound.
#[test]
fn no_call_does_harm_whatever_it_is_given() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "x").unwrap();
    let mut options = Options::new();
    options.scratch("/tmp", 64 << 10).directory("/host", host.path()).file("/data/file", "x");
    options.stdin(Input::bytes(vec![7; 1000])).current_directory("/tmp");
    let skipped = ["exit", "exit_group", "kill", "tkill", "tgkill", "vfork", "fork", "clone"];
    let calls: Vec<u32> = glowbox_linux::table::all()
        .iter()
        .filter(|entry| is_about_files(entry.name) && !skipped.contains(&entry.name))
        .map(|entry| entry.number)
        .collect();
    assert!(calls.len() > 80, "{}", calls.len());
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let names = [
        "/tmp",
        "a",
        "b",
        "../tmp/a",
        "a/b",
        ".",
        "..",
        "/host/file",
        "/data/file",
        "/dev/null",
        "/dev/zero",
        "",
        "a/",
        "/host",
        "b/../c",
        "c",
    ];
    for round in 0..200 {
        let mut guest = Guest::with_files(&options);
        guest.put_words(DATA, &[1, 0, 0, 0]);
        guest.returns(raw::__NR_rt_sigaction, &[13, DATA, 0, 8]);
        for (index, name) in (0..).zip(names) {
            path(&mut guest, PATH + index * 64, name);
        }
        for _ in 0..300 {
            for word in 0..8 {
                let value =
                    [next(3), BUFFER, next(64), next(u64::MAX)][usize::try_from(next(4)).unwrap()];
                guest.put_words(ARRAY + word * 8, &[value]);
            }
            let call = calls[usize::try_from(next(calls.len() as u64)).unwrap()];
            let arguments: Vec<u64> = (0..6)
                .map(|_| match next(10) {
                    0..=2 => next(12),
                    3 | 4 => PATH + next(16) * 64,
                    5 => BUFFER,
                    6 => ARRAY,
                    7 => HERE,
                    8 => 1 << next(64),
                    _ => [0, u64::MAX, WILD, u64::MAX >> 1, DATA + DATA_SIZE - 1]
                        [usize::try_from(next(5)).unwrap()],
                })
                .collect();
            match guest.call(call, &arguments) {
                Went::On => {}
                // It waits for something that does not come.
                Went::Deadlock | Went::Sleeps { .. } => break,
                went => panic!("{call} {arguments:x?}: {went:?}"),
            }
        }
        assert!(guest.process.is_sound(support::MEMORY), "round {round}");
        let bytes = postcard::to_allocvec(&guest.process).unwrap();
        let loaded: glowbox_linux::Process = postcard::from_bytes(&bytes).unwrap();
        assert!(loaded.is_sound(support::MEMORY), "round {round}, loaded");
    }
}

/// Whether a call is one of the module's own: those that others answer do other things.
fn is_about_files(name: &str) -> bool {
    const OTHERS: &[&str] = &[
        "brk",
        "mmap",
        "munmap",
        "mprotect",
        "mremap",
        "madvise",
        "futex",
        "pause",
        "alarm",
        "capget",
        "sysinfo",
        "uname",
        "times",
        "time",
        "membarrier",
        "mincore",
        "msync",
        "rseq",
        "getpriority",
        "setpriority",
        "personality",
        "arch_prctl",
        "prctl",
        "prlimit64",
        "nanosleep",
        "gettimeofday",
    ];
    const PARTS: &[&str] = &[
        "sched_",
        "rt_sig",
        "clock_",
        "getr",
        "gete",
        "getu",
        "getg",
        "getp",
        "gets",
        "gett",
        "set",
        "timer_",
        "mlock",
        "munlock",
        "sigaltstack",
        "exec",
        "wait",
        "clone",
        "pkey_",
        "get_",
        "geti",
    ];
    !OTHERS.contains(&name) && !PARTS.iter().any(|part| name.starts_with(part))
}
