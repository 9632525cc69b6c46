//! What the host gives in memory, devices, and what lies where.

use super::*;
use crate::files::OptionsError;

fn given() -> Fixture {
    let mut options = Options::new();
    options.file("/etc/motd", "hello").file("/data/a", "a").scratch("/data/tmp", 1 << 20);
    options.file("/data/tmp/seed", "seed");
    Fixture::new(&options)
}

#[test]
fn what_is_given_can_be_read_and_nothing_else() {
    let mut files = given();
    assert_eq!(files.contents("/etc/motd").unwrap(), b"hello");
    assert_eq!(files.contents("etc/../data/./a").unwrap(), b"a");
    assert_eq!(files.contents("/../../etc/motd").unwrap(), b"hello");
    for flags in [RDWR, raw::O_WRONLY, raw::O_TRUNC, CREATE] {
        assert_eq!(files.open("/etc/motd", flags), Err(Errno::EROFS), "{flags:o}");
    }
    assert_eq!(files.open("/etc/new", CREATE), Err(Errno::EROFS));
    assert_eq!(files.mkdir("/etc/new"), Err(Errno::EROFS));
    assert_eq!(files.mkdir("/etc"), Err(Errno::EEXIST));
    assert_eq!(files.link("x", "/new"), Err(Errno::EROFS));
    assert_eq!(files.remove("/etc/motd"), Err(Errno::EROFS));
    assert_eq!(files.rmdir("/data/tmp"), Err(Errno::EBUSY));
    assert_eq!(files.rename("/etc/motd", "/data/tmp/motd"), Err(Errno::EROFS));
    assert_eq!(files.rename("/data/tmp/seed", "/etc/motd"), Err(Errno::EROFS));
    assert_eq!(files.open("/etc/motd/x", RDONLY), Err(Errno::ENOTDIR));
    assert_eq!(files.open("/proc/self/exe", RDONLY), Err(Errno::ENOENT));
    assert_eq!(files.list("/", 4096).unwrap(), [".", "..", "data", "dev", "etc"]);
    assert_eq!(files.list("/data", 4096).unwrap(), [".", "..", "a", "tmp"]);
    files.saved();
}

#[test]
fn a_file_in_the_scratch_directory_can_be_changed() {
    let mut files = given();
    assert_eq!(files.contents("/data/tmp/seed").unwrap(), b"seed");
    files.put("/data/tmp/seed", b"other").unwrap();
    files.go("/data/tmp").unwrap();
    assert_eq!(files.resolves("."), Ok("/data/tmp".into()));
    assert_eq!(files.resolves("../.."), Ok("/".into()));
    assert_eq!(files.contents("../a").unwrap(), b"a");
    let mut loaded = files.saved();
    assert_eq!(loaded.contents("seed").unwrap(), b"other");
    assert_eq!(loaded.contents("/etc/motd").unwrap(), b"hello");
}

#[test]
fn devices_do_what_they_are_known_for() {
    let mut files = Fixture::new(&Options::new());
    assert_eq!(
        files.list("/dev", 4096).unwrap(),
        [".", "..", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero"]
    );
    let mut open = |path| files.open(path, RDWR).unwrap();
    let [null, zero, full] = ["/dev/null", "/dev/zero", "/dev/full"].map(&mut open);
    let [random, urandom] = ["/dev/random", "/dev/urandom"].map(&mut open);
    assert_eq!(files.read(null, None, 9).unwrap(), b"");
    assert_eq!(files.write(null, None, b"abc"), Ok(3));
    assert_eq!(files.read(zero, None, 3).unwrap(), [0; 3]);
    assert_eq!(files.read(full, None, 3).unwrap(), [0; 3]);
    assert_eq!(files.write(full, None, b"abc"), Err(Errno::ENOSPC));
    let first = files.read(urandom, None, 64).unwrap();
    assert_ne!(first, files.read(urandom, None, 64).unwrap());
    assert_ne!(first, files.read(random, None, 64).unwrap());
    files.saved();
}

#[test]
fn without_options_there_is_no_input_and_output_goes_nowhere() {
    let mut files = Fixture::new(&Options::new());
    assert_eq!(files.read(0, None, 9).unwrap(), b"");
    assert_eq!(files.write(1, None, b"out"), Ok(3));
    assert_eq!(files.write(2, None, b"out"), Ok(3));
    assert_eq!(files.write(0, None, b"in"), Err(Errno::EBADF));
    assert_eq!(files.read(1, None, 9), Err(Errno::EBADF));
    assert_eq!(files.read(3, None, 9), Err(Errno::EBADF));
    assert_eq!(files.read(-1, None, 9), Err(Errno::EBADF));
}

#[test]
fn scratch_can_be_the_root() {
    let mut options = Options::new();
    options.scratch("/", 1 << 20).file("/etc/conf", "x");
    let mut files = Fixture::new(&options);
    assert_eq!(files.contents("/etc/conf").unwrap(), b"x");
    files.put("/file", b"y").unwrap();
    files.write(1, None, b"x").unwrap();
    let null = files.open("/dev/null", RDWR).unwrap();
    assert_eq!(files.write(null, None, b"x"), Ok(1));
    files.saved();
}

#[test]
fn paths_that_mean_nothing_are_refused_when_files_are_made() {
    let refused = |make: &dyn Fn(&mut Options)| {
        let mut options = Options::new();
        make(&mut options);
        options.build(&Clock::Virtual).map(|_| ()).unwrap_err()
    };
    for path in ["", "relative", "/a/../b", "/./a", "/", "/dev/null", "/a\0b"] {
        let error = refused(&|options| {
            options.file(path, "x");
        });
        assert!(matches!(error, OptionsError::Path { .. }), "{path}: {error}");
    }
    let twice = refused(&|options| {
        options.file("/a", "x").file("/a", "y");
    });
    assert!(matches!(twice, OptionsError::Path { .. }));
    let through_file = refused(&|options| {
        options.file("/a", "x").file("/a/b", "y");
    });
    assert!(matches!(through_file, OptionsError::Path { .. }));
    let full = refused(&|options| {
        options.scratch("/tmp", 1000).file("/tmp/big", vec![0; 1000]);
    });
    assert!(matches!(full, OptionsError::Full { .. }), "{full}");
    let absent = refused(&|options| {
        options.directory("/data", "/nonexistent");
    });
    assert!(matches!(absent, OptionsError::Directory { .. }));
    let both = refused(&|options| {
        options.directory("/data", "/").scratch("/data", 4096);
    });
    assert!(matches!(both, OptionsError::Path { .. }));
    let current = refused(&|options| {
        options.current_directory("/absent");
    });
    assert!(matches!(current, OptionsError::Path { .. }));
}

#[test]
fn descriptors_run_out() {
    let mut files = given();
    files.limits.descriptors = 10;
    for fd in 3..10 {
        assert_eq!(files.open("/etc/motd", RDONLY), Ok(fd));
    }
    assert_eq!(files.open("/etc/motd", RDONLY), Err(Errno::EMFILE));
    // Nothing is made for want of a descriptor.
    assert_eq!(files.open("/data/tmp/new", CREATE), Err(Errno::EMFILE));
    files.close(5);
    assert_eq!(files.open("/data/tmp/new", RDONLY), Err(Errno::ENOENT));
    let limits = files.limits;
    assert_eq!(files.files.duplicate(0, 0, false, &limits), Ok(5));
    assert_eq!(files.files.duplicate(0, 0, false, &limits), Err(Errno::EMFILE));
    assert_eq!(files.files.duplicate_to(0, 10, false, &limits), Err(Errno::EBADF));
    assert_eq!(files.files.duplicate_to(0, -1, false, &limits), Err(Errno::EBADF));
    assert_eq!(files.files.duplicate_to(99, 1, false, &limits), Err(Errno::EBADF));
}

#[test]
fn descriptors_of_one_open_file_share_its_offset() {
    let mut files = given();
    let fd = files.open("/etc/motd", RDONLY).unwrap();
    let limits = files.limits;
    let copy = files.files.duplicate(fd, 20, true, &limits).unwrap().cast_signed();
    assert_eq!(copy, 20);
    assert_eq!(files.read(fd, None, 2).unwrap(), b"he");
    assert_eq!(files.read(copy, None, 2).unwrap(), b"ll");
    files.close(fd);
    assert_eq!(files.read(copy, None, 2).unwrap(), b"o");
    // Copies of the process don't.
    let mut other = files.copy();
    let (parts, around) = files.parts();
    assert_eq!(parts.seek(around.grants, copy, 0, raw::SEEK_SET), Ok(0));
    assert_eq!(other.read(copy, None, 2).unwrap(), b"");
    assert_eq!(files.read(copy, None, 2).unwrap(), b"he");
    files.saved();
}

#[test]
fn seeking_stays_in_range() {
    let mut files = given();
    let fd = files.open("/etc/motd", RDONLY).unwrap();
    let (parts, around) = files.parts();
    let mut seek = |offset, whence| parts.seek(around.grants, fd, offset, whence);
    assert_eq!(seek(-1, raw::SEEK_END), Ok(4));
    assert_eq!(seek(-5, raw::SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(seek(-1, raw::SEEK_SET), Err(Errno::EINVAL));
    assert_eq!(seek(i64::MIN, raw::SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(seek(i64::MAX, raw::SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(seek(i64::MAX, raw::SEEK_SET), Ok(i64::MAX as u64));
    assert_eq!(seek(1, raw::SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(seek(2, raw::SEEK_DATA), Ok(2));
    assert_eq!(seek(2, raw::SEEK_HOLE), Ok(5));
    assert_eq!(seek(5, raw::SEEK_HOLE), Err(Errno::ENXIO));
    assert_eq!(seek(-1, raw::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(seek(0, 5), Err(Errno::EINVAL));
    assert_eq!(files.files.seek(&files.grants, 1, 0, raw::SEEK_CUR), Err(Errno::ESPIPE));
    assert_eq!(files.read(fd, Some(u64::MAX), 9).unwrap(), b"");
    assert_eq!(files.read(fd, Some(i64::MAX as u64), 9).unwrap(), b"");
}

#[test]
fn the_host_is_asked_once_whether_there_is_input() {
    let mut options = Options::new();
    options.stdin(Input::bytes("x"));
    let mut fixture = Fixture::new(&options);
    let (files, mut around) = fixture.parts();
    let ready = |files: &Files, around: &Around<'_>| files.ready(around, 0).unwrap().events != 0;
    // What was said last counts, until it is asked for anew or something is read.
    around.grants.known.set(0, false);
    assert!(!ready(files, &around) && !ready(files, &around));
    around.grants.forget_readiness();
    assert!(ready(files, &around));
    around.grants.known.set(0, false);
    assert_eq!(files.read(&mut around, 0, None, &mut [0]).unwrap(), 1);
    assert!(ready(files, &around));
}
