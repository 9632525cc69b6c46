//! Directories of the host.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::World;

/// A directory with one that is granted in it, as `/data`, and a secret beside that.
struct Host {
    _outer: tempfile::TempDir,
    granted: PathBuf,
}

fn host() -> Host {
    let outer = tempfile::tempdir().unwrap();
    let granted = outer.path().join("granted");
    fs::create_dir_all(granted.join("sub/deep")).unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    fs::write(granted.join("file"), "file").unwrap();
    fs::write(granted.join("sub/deep/file"), "deep").unwrap();
    Host { _outer: outer, granted }
}

fn fixture(host: &Host) -> Fixture {
    let mut options = Options::new();
    options.directory("/data", &host.granted).file("/secret", "the guest's own");
    Fixture::new(&options)
}

#[test]
fn a_hosts_directory_can_be_read() {
    let host = host();
    let mut files = fixture(&host);
    assert_eq!(files.contents("/data/file").unwrap(), b"file");
    assert_eq!(files.contents("/data/sub/../sub/deep/./file").unwrap(), b"deep");
    files.go("/data/sub").unwrap();
    assert_eq!(files.contents("deep/file").unwrap(), b"deep");
    assert_eq!(files.resolves("deep/.."), Ok("/data/sub".into()));
    assert_eq!(files.list("/data", 4096).unwrap(), [".", "..", "file", "sub"]);
    assert_eq!(files.list("..", 60).unwrap(), [".", "..", "file", "sub"]);
    assert_eq!(files.open("/data/absent", RDONLY), Err(Errno::ENOENT));
    assert_eq!(files.open("/data/file/x", RDONLY), Err(Errno::ENOTDIR));
    assert_eq!(files.open("/data/file", raw::O_DIRECTORY), Err(Errno::ENOTDIR));
    let fd = files.open("/data/file", RDONLY).unwrap();
    assert_eq!(files.read(fd, Some(2), 9).unwrap(), b"le");
    assert_eq!(files.read(fd, None, 2).unwrap(), b"fi");
    let mut into = [0; 9];
    let mut world = World::default();
    assert_eq!(files.files.read_at_for_map(&mut world, fd, 1, &mut into), Ok(3));
    assert_eq!(&into[..3], b"ile");
    assert_eq!(files.files.read_at_for_map(&mut world, 0, 1, &mut into), Err(Errno::ENODEV));
}

#[test]
fn nothing_of_a_hosts_directory_can_be_changed() {
    let host = host();
    let mut files = fixture(&host);
    for flags in [RDWR, raw::O_WRONLY, raw::O_TRUNC, CREATE] {
        assert_eq!(files.open("/data/file", flags), Err(Errno::EROFS), "{flags:o}");
    }
    assert_eq!(files.open("/data/new", CREATE), Err(Errno::EROFS));
    assert_eq!(files.mkdir("/data/new"), Err(Errno::EROFS));
    assert_eq!(files.remove("/data/file"), Err(Errno::EROFS));
    assert_eq!(files.rmdir("/data/sub"), Err(Errno::EROFS));
    assert_eq!(files.rename("/data/file", "/data/other"), Err(Errno::EROFS));
    assert_eq!(files.link("x", "/data/link"), Err(Errno::EROFS));
    assert_eq!(fs::read(host.granted.join("file")).unwrap(), b"file");
    assert_eq!(fs::read_dir(&host.granted).unwrap().count(), 2);
}

#[test]
fn links_lead_through_the_guests_tree_and_never_out_of_it() {
    let host = host();
    let outside = host.granted.parent().unwrap().join("secret");
    symlink("sub/deep", host.granted.join("in")).unwrap();
    symlink("../secret", host.granted.join("up")).unwrap();
    symlink("../../../../../../../../secret", host.granted.join("far")).unwrap();
    symlink(&outside, host.granted.join("absolute")).unwrap();
    symlink("..", host.granted.join("above")).unwrap();
    symlink("/data/file", host.granted.join("guest")).unwrap();
    symlink("loop", host.granted.join("loop")).unwrap();
    let mut files = fixture(&host);
    assert_eq!(files.contents("/data/in/file").unwrap(), b"deep");
    assert_eq!(files.contents("/data/guest").unwrap(), b"file");
    // What these lead to is the guest's own.
    for path in ["/data/up", "/data/far", "/data/above/secret", "/data/in/../../../secret"] {
        assert_eq!(files.contents(path).unwrap(), b"the guest's own", "{path}");
    }
    assert_eq!(files.contents("/data/absolute"), Err(Errno::ENOENT));
    assert_eq!(files.contents("/data/loop"), Err(Errno::ELOOP));
    assert_eq!(files.open("/data/up", raw::O_NOFOLLOW), Err(Errno::ELOOP));
    let (parts, around) = files.parts();
    let root = parts.root().clone();
    let found = parts.resolve(around.grants, &root, b"/data/up", false).unwrap();
    let (place, _) = found.existing().unwrap();
    assert_eq!(parts.read_link(around.grants, &place).unwrap(), b"../secret");
}

#[test]
fn a_directory_that_is_swapped_for_a_link_does_not_lead_out() {
    let host = host();
    let outside = host.granted.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    fs::create_dir(host.granted.join("swapped")).unwrap();
    fs::write(host.granted.join("swapped/file"), "inside").unwrap();
    symlink(&outside, host.granted.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut inside, mut failed, mut wrong) = (0, 0, Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let name = |name: &str| host.granted.join(name);
            while !stop.load(Ordering::Relaxed) {
                fs::rename(name("swapped"), name("away")).unwrap();
                fs::rename(name("link"), name("swapped")).unwrap();
                fs::rename(name("swapped"), name("link")).unwrap();
                fs::rename(name("away"), name("swapped")).unwrap();
            }
        });
        let mut files = fixture(&host);
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_millis(1500) {
            match files.contents("/data/swapped/file") {
                Ok(bytes) if bytes == b"inside" => inside += 1,
                Ok(bytes) => wrong.push(bytes),
                Err(_) => failed += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("{inside} times inside, {failed} times an error");
    assert!(wrong.is_empty(), "{} times outside", wrong.len());
    assert!(inside > 0);
}

#[test]
fn only_files_and_directories_are_opened_and_nothing_blocks() {
    let host = host();
    let fifo = host.granted.join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    let _socket = std::os::unix::net::UnixListener::bind(host.granted.join("socket")).unwrap();
    let mut files = fixture(&host);
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("no FIFO could be made here, so none is tried");
    } else {
        for flags in [RDONLY, raw::O_NONBLOCK] {
            assert_eq!(files.open("/data/fifo", flags), Err(Errno::EACCES));
        }
        assert_eq!(files.open("/data/fifo", raw::O_DIRECTORY), Err(Errno::ENOTDIR));
    }
    assert_eq!(files.open("/data/socket", RDONLY), Err(Errno::EACCES));
    let mut options = Options::new();
    options.directory("/host", "/dev");
    let mut files = Fixture::new(&options);
    assert_eq!(files.open("/host/null", RDONLY), Err(Errno::EACCES));
    assert_eq!(files.open("/host/zero", RDWR), Err(Errno::EACCES));
}

#[test]
fn what_the_host_may_not_read_its_guest_may_not() {
    let host = host();
    let locked = host.granted.join("locked");
    fs::write(&locked, "x").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&locked).is_ok() {
        eprintln!("this runs as root, who may read everything: not tried");
        return;
    }
    assert_eq!(fixture(&host).open("/data/locked", RDONLY), Err(Errno::EACCES));
}

#[test]
fn a_file_that_is_removed_stays_open_until_the_process_is_loaded_anew() {
    let host = host();
    let mut files = fixture(&host);
    let fd = files.open("/data/file", RDONLY).unwrap();
    let kept = files.open("/data/sub/deep/file", RDONLY).unwrap();
    let directory = files.open("/data/sub", raw::O_DIRECTORY).unwrap();
    assert_eq!(files.read(kept, None, 2).unwrap(), b"de");
    fs::remove_file(host.granted.join("file")).unwrap();
    assert_eq!(files.read(fd, None, 9).unwrap(), b"file");
    let mut copy = files.copy();
    assert_eq!(copy.read(fd, Some(0), 9).unwrap(), b"file");
    let mut loaded = files.saved();
    assert_eq!(loaded.read(fd, Some(0), 9), Err(Errno::EIO));
    assert_eq!(loaded.read(kept, None, 9).unwrap(), b"ep");
    fs::remove_dir_all(host.granted.join("sub")).unwrap();
    assert_eq!(files.list_on(directory, 4096), Err(Errno::ENOENT));
    // Who has no such directory reads nothing of it.
    let mut elsewhere = Fixture::with(loaded.files.clone(), Grants::default());
    assert_eq!(elsewhere.read(fd, Some(0), 9), Err(Errno::EIO));
    assert_eq!(elsewhere.open("/data/file", RDONLY), Err(Errno::EIO));
}

#[test]
fn mounts_nest() {
    let host = host();
    let mut options = Options::new();
    options.directory("/", &host.granted).directory("/sub/deep/again", host.granted.join("sub"));
    options.scratch("/sub/scratch", 1 << 20).file("/absent/way/here", "here");
    options.file("/file", "covered");
    let mut files = Fixture::new(&options);
    assert_eq!(files.contents("/file").unwrap(), b"covered");
    assert_eq!(files.contents("/sub/deep/file").unwrap(), b"deep");
    assert_eq!(files.contents("/sub/deep/again/deep/file").unwrap(), b"deep");
    assert_eq!(files.contents("/absent/way/here").unwrap(), b"here");
    assert_eq!(files.contents("/dev/null").unwrap(), b"");
    files.put("/sub/scratch/x", b"x").unwrap();
    files.go("/sub/scratch").unwrap();
    assert_eq!(files.resolves(".."), Ok("/sub".into()));
    assert_eq!(files.contents("../deep/again/../file").unwrap(), b"deep");
    assert_eq!(files.resolves("/absent/way/.."), Ok("/absent".into()));
    assert_eq!(files.resolves("/absent/other"), Err(Errno::ENOENT));
    assert_eq!(files.list("/", 4096).unwrap(), [".", "..", "absent", "dev", "file", "sub"]);
    assert_eq!(files.list("/sub", 4096).unwrap(), [".", "..", "deep", "scratch"]);
    assert_eq!(files.list("/sub/deep", 4096).unwrap(), [".", "..", "again", "file"]);
    assert_eq!(files.list("/absent", 4096).unwrap(), [".", "..", "way"]);
    assert_eq!(files.list("/absent/way", 4096).unwrap(), [".", "..", "here"]);
    assert_eq!(files.remove("/file"), Err(Errno::EROFS));
    assert_eq!(files.mkdir("/sub/new"), Err(Errno::EROFS));
    let mut loaded = files.saved();
    assert_eq!(loaded.contents("x").unwrap(), b"x");
}

#[test]
fn a_process_whose_mounts_or_paths_are_wrong_is_not_sound() {
    use crate::files::resolve::HostPlace;
    let host = host();
    let mut files = fixture(&host);
    files.open("/data/file", RDONLY).unwrap();
    let limits = Limits::default();
    assert!(files.files.is_sound(&limits));
    for (mount, path) in [(0, "file"), (9, "file"), (1, "../secret"), (1, "/etc"), (1, "a//b")] {
        let mut copy = files.files.clone();
        let path = std::sync::Arc::from(path.as_bytes());
        copy.current = Place::Host(HostPlace { mount, path });
        assert!(!copy.is_sound(&limits), "{mount} {:?}", copy.current);
    }
    // A mount that stands in itself.
    let mut copy = files.files.clone();
    let mounts = std::sync::Arc::make_mut(&mut copy.mounts);
    mounts[1].at = Some((mounts[1].root.clone(), std::sync::Arc::from(b"x".as_slice())));
    assert!(!copy.is_sound(&limits));
    let mut copy = files.files.clone();
    std::sync::Arc::make_mut(&mut copy.mounts).clear();
    assert!(!copy.is_sound(&limits));
}

#[test]
fn where_a_file_of_the_host_has_holes_is_known() {
    let host = host();
    let file = std::fs::File::create(host.granted.join("sparse")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"data", 1 << 29).unwrap();
    let mut files = fixture(&host);
    let fd = files.open("/data/sparse", RDONLY).unwrap();
    let (files, mut around) = files.parts();
    let data = files.host_data(around.grants, fd, 0).unwrap().unwrap();
    assert!(data.contains(&(1 << 29)) && data.end > (1 << 29) + 3 && data.end <= 1 << 30);
    assert_eq!(files.host_data(around.grants, fd, 1 << 30), Ok(None));
    assert_eq!(files.read(&mut around, fd, Some(1 << 29), &mut [0; 4]).unwrap(), 4);
}
