//! The scratch directory.

use super::*;
use crate::files::tree::Rename;

fn scratch(limit: u64) -> Fixture {
    let mut options = Options::new();
    options.scratch("/tmp", limit).current_directory("/tmp");
    Fixture::new(&options)
}

#[test]
fn what_is_written_is_there_in_a_snapshot_and_gone_after_a_reset() {
    let mut before = scratch(1 << 20);
    before.put("kept", b"kept").unwrap();
    let snapshot = before.copy();
    let mut one = snapshot.copy();
    let mut two = snapshot.copy();
    one.put("kept", b"changed").unwrap();
    one.put("new", b"new").unwrap();
    two.remove("kept").unwrap();
    assert_eq!(one.contents("kept").unwrap(), b"changed");
    assert_eq!(two.contents("kept"), Err(Errno::ENOENT));
    let mut reset = snapshot.copy();
    assert_eq!(reset.contents("kept").unwrap(), b"kept");
    assert_eq!(reset.contents("new"), Err(Errno::ENOENT));
    let mut loaded = one.saved();
    assert_eq!(loaded.contents("new").unwrap(), b"new");
}

#[test]
fn a_copy_is_cheap_even_of_many_files() {
    let mut files = scratch(1 << 30);
    for index in 0..5000 {
        files.put(&format!("{index}"), b"x").unwrap();
    }
    let start = std::time::Instant::now();
    let copies: Vec<Files> = (0..1000).map(|_| files.files.clone()).collect();
    let each = start.elapsed() / 1000;
    eprintln!("a copy takes {each:?}");
    assert!(each < std::time::Duration::from_micros(200), "{each:?}");
    drop(copies);
}

#[test]
fn a_million_tiny_files_stop_at_the_limit() {
    let mut files = scratch(1 << 20);
    let mut made = 0;
    let error = loop {
        match files.open(&format!("{made}"), CREATE) {
            Ok(fd) => files.close(fd),
            Err(error) => break error,
        }
        made += 1;
    };
    assert_eq!(error, Errno::ENOSPC);
    assert!((1000..2048).contains(&made), "{made}");
    assert!(files.used() <= 1 << 20);
    files.saved();
    // What is removed makes room.
    for index in 0..made {
        files.remove(&format!("{index}")).unwrap();
    }
    assert_eq!(files.used(), 512);
    files.put("again", b"x").unwrap();
}

#[test]
fn names_cost_too() {
    let mut files = scratch(64 << 10);
    files.put("file", b"").unwrap();
    let mut made = 0;
    let error = loop {
        let (parts, mut around) = files.parts();
        let base = parts.current.clone();
        let found = parts.resolve(around.grants, &base, b"file", false).unwrap();
        let found = found.existing().unwrap();
        let name = format!("{made:0>200}");
        let linked = parts.make_hard_link(&mut around, found, &base, name.as_bytes());
        if let Err(error) = linked {
            break error;
        }
        made += 1;
    };
    assert_eq!(error, Errno::ENOSPC);
    assert!(made < 64 * 1024 / 200);
    files.saved();
}

/// A snapshot's process may take four times as much when it is decoded as it may take in its file.
#[test]
fn a_full_directory_can_be_loaded_whatever_fills_it() {
    type Make = fn(&mut Fixture, &str) -> Result<(), Errno>;
    let fill: [(&str, Make); 4] = [
        ("files", |files, name| files.put(name, b"")),
        ("directories", Fixture::mkdir),
        ("links", |files, name| files.link("a", name)),
        ("names", |files, name| {
            let (parts, mut around) = files.parts();
            let base = parts.current.clone();
            let found = parts.resolve(around.grants, &base, b"file", false)?.existing()?;
            parts.make_hard_link(&mut around, found, &base, name.as_bytes())
        }),
    ];
    let limit = 1 << 20;
    for (what, make) in fill {
        let mut files = scratch(limit);
        files.put("file", b"").unwrap();
        let made =
            (0..).take_while(|number| make(&mut files, &format!("{number:x}")).is_ok()).count();
        assert!(made > 1000, "{made} {what}");
        let bytes = postcard::to_allocvec(&files.files).unwrap();
        let room = usize::try_from(4 * limit).unwrap();
        assert!(bytes.len() < room / 4, "{made} {what} are {} bytes", bytes.len());
        let loaded = glowbox_abi::wire::decode_all_within::<Files>(&bytes, room);
        assert!(loaded.is_ok(), "{made} {what}: {:?}", loaded.err());
    }
}

#[test]
fn a_sparse_file_costs_only_what_is_written() {
    let mut files = scratch(64 << 10);
    let fd = files.open("sparse", CREATE).unwrap();
    let used = files.used();
    let (parts, mut around) = files.parts();
    let place = Place::Memory(match parts.get(fd).unwrap().object {
        super::super::Object::Memory(ino) => ino,
        _ => unreachable!(),
    });
    parts.set_size(&mut around, &place, 1 << 40).unwrap();
    assert_eq!(parts.set_size(&mut around, &place, u64::MAX), Err(Errno::EFBIG));
    assert_eq!(files.used(), used);
    assert_eq!(files.read(fd, Some(1 << 39), 4), Ok(vec![0; 4]));
    assert_eq!(files.write(fd, Some(1 << 39), b"x"), Ok(1));
    assert_eq!(files.used(), used + 512 + 96);
    // A byte in each chunk runs into the limit, too.
    let error = (0..).find_map(|index| files.write(fd, Some(index << 14), b"x").err());
    assert_eq!(error, Some(Errno::ENOSPC));
    assert!(files.used() <= 64 << 10);
    files.saved();
    files.close(fd);
    files.remove("sparse").unwrap();
    assert_eq!(files.used(), 512);
}

#[test]
fn a_write_that_does_not_fit_is_short_and_then_fails() {
    let mut files = scratch(100 << 10);
    let fd = files.open("big", CREATE).unwrap();
    let written = files.write(fd, None, &vec![1; 200 << 10]).unwrap();
    assert!((80 << 10..100 << 10).contains(&written), "{written}");
    assert_eq!(files.write(fd, None, &vec![1; 200 << 10]), Err(Errno::ENOSPC));
    assert_eq!(files.read(fd, Some(0), 1 << 20).unwrap(), vec![1; written]);
    files.saved();
}

#[test]
fn a_file_that_was_removed_lives_until_it_is_closed() {
    let mut files = scratch(1 << 20);
    let fd = files.open("file", CREATE).unwrap();
    files.write(fd, None, b"still here").unwrap();
    files.remove("file").unwrap();
    assert_eq!(files.contents("file"), Err(Errno::ENOENT));
    assert_eq!(files.read(fd, Some(0), 100).unwrap(), b"still here");
    assert_eq!(files.write(fd, None, b"!"), Ok(1));
    let copy = files.saved();
    assert_eq!(copy.used(), files.used());
    files.close(fd);
    assert_eq!(files.used(), 512);
    files.saved();
}

#[test]
fn a_file_that_was_replaced_lives_until_it_is_closed() {
    let mut files = scratch(1 << 20);
    files.put("new", b"new").unwrap();
    files.put("old", b"old").unwrap();
    let fd = files.open("old", RDONLY).unwrap();
    files.rename("new", "old").unwrap();
    assert_eq!(files.read(fd, None, 9).unwrap(), b"old");
    assert_eq!(files.contents("old").unwrap(), b"new");
    assert_eq!(files.list(".", 4096).unwrap(), [".", "..", "old"]);
    files.close(fd);
    files.remove("old").unwrap();
    assert_eq!(files.used(), 512);
}

#[test]
fn flags_of_open_do_what_they_say() {
    let mut files = scratch(1 << 20);
    files.put("file", b"12345").unwrap();
    files.mkdir("dir").unwrap();
    files.link("file", "link").unwrap();
    files.link("absent", "dangling").unwrap();
    assert_eq!(files.open("file", CREATE | raw::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(files.open("link", CREATE | raw::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(files.open("dangling", CREATE | raw::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(files.open("file", raw::O_DIRECTORY), Err(Errno::ENOTDIR));
    assert_eq!(files.open("file/", RDONLY), Err(Errno::ENOTDIR));
    assert_eq!(files.open("link", raw::O_NOFOLLOW), Err(Errno::ELOOP));
    assert_eq!(files.open("dir", RDWR), Err(Errno::EISDIR));
    assert_eq!(files.open("dir", raw::O_CREAT), Err(Errno::EISDIR));
    assert_eq!(files.open("new/", CREATE), Err(Errno::EISDIR));
    assert_eq!(files.open("dir", raw::O_TMPFILE | RDWR), Err(Errno::EOPNOTSUPP));
    // Through a link that leads nowhere, the file is made where it leads.
    let fd = files.open("dangling", CREATE).unwrap();
    files.close(fd);
    assert_eq!(files.contents("absent").unwrap(), b"");
    let fd = files.open("file", raw::O_WRONLY | raw::O_APPEND).unwrap();
    assert_eq!(files.write(fd, Some(0), b"6"), Ok(1));
    assert_eq!(files.write(fd, None, b"7"), Ok(1));
    assert_eq!(files.read(fd, None, 1), Err(Errno::EBADF));
    files.close(fd);
    assert_eq!(files.contents("file").unwrap(), b"1234567");
    let fd = files.open("file", RDWR | raw::O_TRUNC).unwrap();
    assert_eq!(files.read(fd, None, 1).unwrap(), b"");
    files.close(fd);
    let fd = files.open("dir", RDONLY).unwrap();
    assert_eq!(files.read(fd, None, 1), Err(Errno::EISDIR));
    assert_eq!(files.write(fd, None, b"1"), Err(Errno::EBADF));
}

#[test]
fn directories_are_made_moved_and_removed() {
    let mut files = scratch(1 << 20);
    files.mkdir("a").unwrap();
    files.mkdir("a/b").unwrap();
    files.put("a/b/file", b"x").unwrap();
    assert_eq!(files.mkdir("a"), Err(Errno::EEXIST));
    assert_eq!(files.mkdir("absent/b"), Err(Errno::ENOENT));
    assert_eq!(files.mkdir("a/b/file/c"), Err(Errno::ENOTDIR));
    assert_eq!(files.rmdir("a"), Err(Errno::ENOTEMPTY));
    assert_eq!(files.remove("a"), Err(Errno::EISDIR));
    assert_eq!(files.rmdir("a/b/file"), Err(Errno::ENOTDIR));
    assert_eq!(files.rmdir("a/."), Err(Errno::EINVAL));
    assert_eq!(files.rename("a", "a/b/c"), Err(Errno::EINVAL));
    assert_eq!(files.rename("a", "a/b"), Err(Errno::EINVAL));
    files.rename("a/b", "c").unwrap();
    assert_eq!(files.resolves("c/.."), Ok("/tmp".into()));
    assert_eq!(files.contents("c/../c/file").unwrap(), b"x");
    files.mkdir("empty").unwrap();
    files.rename("c", "empty").unwrap();
    assert_eq!(files.rename("a", "empty"), Err(Errno::ENOTEMPTY));
    assert_eq!(files.rename("empty/file", "a"), Err(Errno::EISDIR));
    assert_eq!(files.rename("a", "empty/file"), Err(Errno::ENOTDIR));
    files.rename_as("a", "empty/file", Rename::Exchange).unwrap();
    assert_eq!(files.contents("a").unwrap(), b"x");
    assert_eq!(files.resolves("empty/file"), Ok("/tmp/empty/file".into()));
    assert_eq!(files.rename_as("a", "empty", Rename::NoReplace), Err(Errno::EEXIST));
    let copy = files.saved();
    assert_eq!(copy.used(), files.used());
    files.rmdir("empty/file").unwrap();
    files.rmdir("empty").unwrap();
    files.remove("a").unwrap();
    assert_eq!(files.used(), 512);
}

#[test]
fn a_directory_that_was_removed_while_it_is_current_takes_no_files() {
    let mut files = scratch(1 << 20);
    files.mkdir("gone").unwrap();
    files.go("gone").unwrap();
    files.rmdir("/tmp/gone").unwrap();
    assert_eq!(files.open("file", CREATE), Err(Errno::ENOENT));
    assert_eq!(files.resolves("."), Err(Errno::ENOENT));
    assert_eq!(files.list(".", 4096), Err(Errno::ENOENT));
    assert_eq!(files.resolves(".."), Ok("/tmp".into()));
    files.saved();
    files.go("/tmp").unwrap();
    assert_eq!(files.used(), 512);
}

#[test]
fn a_listing_gives_each_name_once_whatever_happens_meanwhile() {
    let mut files = scratch(1 << 20);
    for index in 0..300 {
        files.put(&format!("file{index}"), b"").unwrap();
    }
    let fd = files.open(".", raw::O_DIRECTORY).unwrap();
    let mut names = files.list_on(fd, 100).unwrap();
    let mut turn = 0;
    loop {
        // Names that were listed go, and new ones come.
        for name in names.iter().filter(|name| name.starts_with("file")).take(turn) {
            let _ = files.remove(name);
        }
        files.put(&format!("new{turn}"), b"").unwrap();
        turn += 1;
        // In the middle, the process is saved and loaded.
        if turn == 5 {
            files = files.saved();
        }
        let more = files.list_on(fd, 300).unwrap();
        if more.is_empty() {
            break;
        }
        names.extend(more);
    }
    let mut old: Vec<_> = names.iter().filter(|name| name.starts_with("file")).collect();
    old.sort();
    old.dedup();
    assert_eq!(old.len(), 300);
    assert_eq!(files.list_on(fd, 300).unwrap(), [""; 0]);
    assert_eq!(files.list(".", 24), Err(Errno::EINVAL));
    let (parts, around) = files.parts();
    parts.seek(around.grants, fd, 0, raw::SEEK_SET).unwrap();
    assert!(!files.list_on(fd, 300).unwrap().is_empty());
}

#[test]
fn links_that_lead_in_a_circle_end() {
    let mut files = scratch(1 << 20);
    files.link("b", "a").unwrap();
    files.link("a", "b").unwrap();
    assert_eq!(files.contents("a"), Err(Errno::ELOOP));
    assert_eq!(files.contents("a/x"), Err(Errno::ELOOP));
    files.link("self/self/self", "self").unwrap();
    assert_eq!(files.contents("self"), Err(Errno::ELOOP));
    // Many that are no circle, but lead through others.
    files.link(".", "l0").unwrap();
    for index in 1..=6 {
        let before = format!("l{}/", index - 1).repeat(10);
        files.link(&before, &format!("l{index}")).unwrap();
    }
    assert_eq!(files.contents("l6/x"), Err(Errno::ELOOP));
}

#[test]
fn names_that_are_too_long_are_refused() {
    let mut files = scratch(1 << 20);
    files.put(&"n".repeat(255), b"").unwrap();
    assert_eq!(files.put(&"n".repeat(256), b""), Err(Errno::ENAMETOOLONG));
    assert_eq!(files.contents(&"./".repeat(2048)), Err(Errno::ENAMETOOLONG));
    assert_eq!(files.link(&"n".repeat(4096), "link"), Err(Errno::ENAMETOOLONG));
    assert_eq!(files.open("", RDONLY), Err(Errno::ENOENT));
}

#[test]
fn a_process_whose_account_is_wrong_is_not_sound() {
    let mut files = scratch(1 << 20);
    files.mkdir("a").unwrap();
    files.put("a/file", b"x").unwrap();
    let limits = Limits::default();
    assert!(files.files.is_sound(&limits));
    let spoiled = |spoil: &dyn Fn(&mut Files)| {
        let mut copy = files.files.clone();
        spoil(&mut copy);
        copy.is_sound(&limits)
    };
    assert!(!spoiled(&|files| files.tree.scratch.used -= 1));
    assert!(!spoiled(&|files| files.tree.scratch.limit = 0));
    assert!(spoiled(&|files| files.tree.anonymous.limit = limits.buffered));
    assert!(!spoiled(&|files| files.tree.anonymous.limit = limits.buffered + 1));
    assert!(!spoiled(&|files| files.current = Place::Memory(1 << 40)));
    assert!(!spoiled(&|files| files.umask = 0o1000));
    assert!(!spoiled(&|files| {
        files.descriptors.insert(1000, files.descriptors[&0]);
    }));
    assert!(!spoiled(&|files| {
        files.open.remove(&0);
    }));
    assert!(!spoiled(&|files| {
        files.descriptors.remove(&0);
    }));
    assert!(!spoiled(&|files| files.open.get_mut(&0).unwrap().offset = u64::MAX));
    // A directory that lies in itself.
    let Place::Memory(root) = files.files.current else { unreachable!() };
    let a = files.files.tree.lookup(root, b"a").unwrap().unwrap();
    assert!(!spoiled(&|files| {
        if let super::super::node::Kind::Directory(directory) =
            &mut files.tree.get_mut(a).unwrap().kind
        {
            directory.parent = a;
        }
    }));
    assert!(!spoiled(&|files| files.tree.get_mut(a).unwrap().links = 2));
    assert!(!spoiled(&|files| files.tree.get_mut(a).unwrap().mode = 1 << 20));
}

#[test]
fn a_process_from_a_file_that_was_tampered_with_is_refused_or_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    let mut options = Options::new();
    options.scratch("/tmp", 64 << 10).file("/data/file", "x").directory("/host", folder.path());
    options.current_directory("/tmp");
    let mut files = Fixture::new(&options);
    files.mkdir("a").unwrap();
    files.mkdir("a/b").unwrap();
    files.put("a/b/file", b"hello").unwrap();
    files.link("a/b", "link").unwrap();
    let removed = files.open("a/b/removed", CREATE).unwrap();
    files.remove("a/b/removed").unwrap();
    files.open("/host/bin", raw::O_DIRECTORY).unwrap();
    let (parts, around) = files.parts();
    let ends = parts.make_pipe(&around, 0, false).unwrap();
    files.write(ends[1].cast_signed(), None, b"bytes").unwrap();
    let bytes = postcard::to_allocvec(&files.files).unwrap();
    let mut state = 99_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 20).unwrap() % below
    };
    let (mut loaded, mut sound) = (0, 0);
    for _ in 0..5000 {
        let mut spoiled = bytes.clone();
        for _ in 0..=next(2) {
            let at = next(spoiled.len());
            spoiled[at] = [0, 1, 0x7f, 0xff, spoiled[at] ^ 1, spoiled[at].wrapping_add(1)][next(6)];
        }
        let Ok(spoiled) = postcard::from_bytes::<Files>(&spoiled) else { continue };
        loaded += 1;
        if !spoiled.is_sound(&files.limits) {
            continue;
        }
        sound += 1;
        let mut used = Fixture::with(spoiled, files.grants.clone());
        let _ = used.put("a/b/new", b"new");
        let _ = used.contents("link/file");
        let _ = used.contents("../../host/bin/../x");
        let _ = used.rename("a/b", "c");
        let _ = used.rename("a", "c/d");
        let _ = used.list("/", 100);
        let _ = used.list("a", 100);
        let _ = used.resolves("..");
        let _ = used.read(removed, None, 100);
        let _ = used.read(3, Some(0), 100);
        for end in ends {
            let end = end.cast_signed();
            let (parts, around) = used.parts();
            let ready = parts.ready(&around, end).is_ok_and(|ready| ready.events & 1 != 0);
            if ready {
                let _ = used.read(end, None, 2);
            }
        }
        let _ = used.remove("c/file");
        let _ = used.rmdir("c");
        for fd in 0..10 {
            let _ = used.files.close(fd);
        }
        assert!(used.files.is_sound(&used.limits));
    }
    eprintln!("{loaded} could be read, {sound} of them are sound");
    assert!(sound > 50 && loaded > sound);
}

#[test]
fn directories_lie_no_deeper_than_a_path_reaches() {
    let mut files = scratch(4 << 20);
    files.go("/tmp").unwrap();
    files.mkdir("/tmp/other").unwrap();
    let mut depth = 0;
    let refused = loop {
        match files.mkdir("d") {
            Ok(()) => files.go("d").unwrap(),
            Err(error) => break error,
        }
        depth += 1;
    };
    assert_eq!((refused, depth), (Errno::ENAMETOOLONG, 2048));
    assert_eq!(files.rename("/tmp/other", "x"), Err(Errno::ENAMETOOLONG));
    files.go("..").unwrap();
    assert_eq!(files.rename("/tmp/other", "x"), Ok(()));
    files.put("d/file", b"x").unwrap();
}
