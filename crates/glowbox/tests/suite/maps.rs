//! Files and bytes that the host lends: read where they are, never written, gone when taken back.

use std::io::Write;
use std::os::unix::fs::FileExt;

use glowbox::{Access, ErrorKind, FaultKind, Mapping, Sandbox};
use tempfile::NamedTempFile;

use crate::support::{error, guest, sandbox};

/// Where the first mapping lies, and how much lies between two small ones.
const FIRST: u64 = 384 << 30;
const LARGE_PAGE: u64 = 2 << 20;

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(sandbox: &mut Sandbox, name: &str, offset: u64, length: u32) -> Option<Vec<u8>> {
    sandbox.call("map_read", (name, offset, length)).unwrap()
}

fn length(sandbox: &mut Sandbox, name: &str) -> Option<u64> {
    sandbox.call("map_length", (name,)).unwrap()
}

fn faults() -> Sandbox {
    Sandbox::builder().build(guest("faults")).unwrap()
}

/// How touching an address ends.
fn touch(sandbox: &mut Sandbox, address: u64, access: &str) -> Option<FaultKind> {
    let ended = sandbox.call::<_, ()>("touch_address", (address, access));
    ended.err().map(|error| error.fault().unwrap_or_else(|| panic!("{error}")).kind)
}

/// Kilobytes of this process that are resident, by a name in /proc/self/status.
fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

tests! {
    fn a_guest_reads_files_and_bytes_by_name() {
        let text = b"what the file says".repeat(1000);
        let file = file(&text);
        let mut sandbox = sandbox();
        assert_eq!(length(&mut sandbox, "text"), None);
        sandbox.map("text", &Mapping::file(file.path()).unwrap()).unwrap();
        let numbers = Mapping::bytes(5000, |bytes| {
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
        });
        sandbox.map("numbers", &numbers.unwrap()).unwrap();
        sandbox.map("copied", &Mapping::copy_of(b"abc").unwrap()).unwrap();
        assert_eq!(sandbox.call::<_, Vec<String>>("map_names", ()).unwrap(), ["text", "numbers", "copied"]);
        assert_eq!(length(&mut sandbox, "text"), Some(18000));
        assert_eq!(read(&mut sandbox, "text", 0, 18000).as_deref(), Some(&text[..]));
        assert_eq!(sandbox.call::<_, Option<u64>>("map_sum", ("numbers",)).unwrap(), Some(35000));
        assert_eq!(read(&mut sandbox, "copied", 0, 10).as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(&mut sandbox, "text", 18001, 1), None);
        assert_eq!(length(&mut sandbox, "tex"), None);
    }

    fn a_gibibyte_is_lent_without_being_copied() {
        let sparse = NamedTempFile::new().unwrap();
        sparse.as_file().set_len(1 << 30).unwrap();
        let places = [0, 4096, (1 << 21) - 1, 1 << 21, 700_000_000, (1 << 30) - 1];
        for (place, byte) in places.iter().zip(1u8..) {
            sparse.as_file().write_all_at(&[byte], *place).unwrap();
        }
        let mut sandbox = sandbox();
        // What is anonymous is what would have been copied.
        let before = resident("RssAnon:");
        sandbox.map("sparse", &Mapping::file(sparse.path()).unwrap()).unwrap();
        assert_eq!(length(&mut sandbox, "sparse"), Some(1 << 30));
        for (place, byte) in places.iter().zip(1u8..) {
            assert_eq!(read(&mut sandbox, "sparse", *place, 1), Some(vec![byte]), "{place}");
        }
        let grown = resident("RssAnon:").saturating_sub(before);
        assert!(grown < 64 << 10, "{grown} KiB more");
        // A second one, in another GiB of addresses.
        sandbox.map("again", &Mapping::file(sparse.path()).unwrap()).unwrap();
        assert_eq!(read(&mut sandbox, "again", (1 << 30) - 1, 9), Some(vec![6]));
    }

    fn nothing_that_a_guest_does_changes_what_it_is_lent() {
        let file = file(&[0xc3; 100]);
        let mapping = Mapping::file(file.path()).unwrap();
        for access in ["write", "store", "execute"] {
            let mut sandbox = faults();
            sandbox.map("file", &mapping).unwrap();
            assert_eq!(touch(&mut sandbox, FIRST, "read"), None);
            let expected = match access {
                "execute" => FaultKind::ExecuteData(glowbox::RegionKind::Lent),
                _ => FaultKind::WriteToReadOnly,
            };
            assert_eq!(touch(&mut sandbox, FIRST, access), Some(expected), "{access}");
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), [0xc3; 100]);
    }

    fn nothing_lies_before_behind_or_between_mappings() {
        let mapping = Mapping::copy_of(&[1; 5000]).unwrap();
        let (one, two) = (FIRST, FIRST + 2 * LARGE_PAGE);
        let fine = [one, one + LARGE_PAGE - 1, two, two + LARGE_PAGE - 1];
        let beyond = [one - 1, one + LARGE_PAGE, two - 1, two + LARGE_PAGE, (511 << 30) - 1];
        for address in fine.into_iter().chain(beyond) {
            let mut sandbox = faults();
            sandbox.map("one", &mapping).unwrap();
            sandbox.map("two", &mapping).unwrap();
            let expected = beyond.contains(&address).then_some(FaultKind::Unmapped(Access::Read));
            assert_eq!(touch(&mut sandbox, address, "read"), expected, "{address:#x}");
        }
    }

    fn what_is_taken_back_is_out_of_reach() {
        type TakeBack = fn(&mut Sandbox);
        let take_back: [(&str, TakeBack); 3] = [
            ("unmap_all", |sandbox| sandbox.unmap_all().unwrap()),
            ("reset", |sandbox| sandbox.reset().unwrap()),
            ("restore", |sandbox| {
                let mut other = Sandbox::builder().build(sandbox.guest()).unwrap();
                let snapshot = other.snapshot().unwrap();
                sandbox.restore(&snapshot).unwrap();
            }),
        ];
        for (how, take_back) in take_back {
            let mut sandbox = faults();
            sandbox.map("file", &Mapping::copy_of(&[1; 10]).unwrap()).unwrap();
            assert_eq!(touch(&mut sandbox, FIRST, "read"), None);
            take_back(&mut sandbox);
            let gone = Some(FaultKind::Unmapped(Access::Read));
            assert_eq!(touch(&mut sandbox, FIRST, "read"), gone, "{how}");
            sandbox.reset().unwrap();
            assert_eq!(touch(&mut sandbox, FIRST, "read"), gone, "{how}, then reset");
        }
    }

    fn the_next_user_of_a_vm_does_not_see_what_the_last_was_lent() {
        let mut first = faults();
        let snapshot = first.snapshot().unwrap();
        for _ in 0..3 {
            let mut sandbox = snapshot.spawn().unwrap();
            sandbox.map("file", &Mapping::copy_of(&[1; 10]).unwrap()).unwrap();
            assert_eq!(touch(&mut sandbox, FIRST, "read"), None);
            drop(sandbox);
            let mut next = snapshot.spawn().unwrap();
            assert_eq!(touch(&mut next, FIRST, "read"), Some(FaultKind::Unmapped(Access::Read)));
        }
    }

    fn another_mapping_in_the_same_place_shows_its_own_bytes() {
        let mut sandbox = sandbox();
        for round in 0..20u8 {
            sandbox.map("now", &Mapping::copy_of(&[round; 100]).unwrap()).unwrap();
            assert_eq!(read(&mut sandbox, "now", 99, 1), Some(vec![round]));
            match round % 2 {
                0 => sandbox.reset().unwrap(),
                _ => sandbox.unmap_all().unwrap(),
            }
            assert_eq!(length(&mut sandbox, "now"), None);
        }
    }

    fn a_file_that_is_cut_short_ends_the_call_and_not_the_host() {
        let file = file(&[7; 64 << 10]);
        let mut sandbox = sandbox();
        let mapping = Mapping::file(file.path()).unwrap();
        sandbox.map("file", &mapping).unwrap();
        assert_eq!(read(&mut sandbox, "file", 0, 1), Some(vec![7]));
        file.as_file().set_len(4096).unwrap();
        assert_eq!(read(&mut sandbox, "file", 0, 1), Some(vec![7]));
        let lost = error(sandbox.call::<_, Option<u64>>("map_sum", ("file",)));
        assert_eq!(lost.kind(), ErrorKind::MemoryLost, "{lost}");
        assert!(lost.to_string().contains("cut short"), "{lost}");
        assert!(sandbox.is_spent());
        sandbox.reset().unwrap();
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        // Lending it again is no worse.
        sandbox.map("file", &mapping).unwrap();
        assert_eq!(read(&mut sandbox, "file", 4095, 1), Some(vec![7]));
        let lost = error(sandbox.call::<_, Option<u64>>("map_sum", ("file",)));
        assert_eq!(lost.kind(), ErrorKind::MemoryLost, "{lost}");
    }

    fn one_mapping_serves_many_sandboxes_at_once() {
        let mapping = Mapping::bytes(1 << 20, |bytes| bytes.fill(3)).unwrap();
        let snapshot = sandbox().snapshot().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let mut sandbox = snapshot.spawn().unwrap();
                        sandbox.map("shared", &mapping).unwrap();
                        let sum: Option<u64> = sandbox.call("map_sum", ("shared",)).unwrap();
                        assert_eq!(sum, Some(3 << 20));
                    }
                });
            }
        });
    }

    fn what_cannot_be_lent_is_refused() {
        let kind = |result: Result<Mapping, glowbox::Error>| error(result).kind();
        assert_eq!(kind(Mapping::file("/nonexistent")), ErrorKind::Io);
        assert_eq!(kind(Mapping::file("/")), ErrorKind::Io);
        assert_eq!(kind(Mapping::file("/dev/null")), ErrorKind::Io);
        assert_eq!(kind(Mapping::file(file(b"").path())), ErrorKind::Io);
        assert_eq!(kind(Mapping::copy_of(b"")), ErrorKind::InvalidOption);
        assert_eq!(kind(Mapping::bytes(usize::MAX, |_| ())), ErrorKind::Io);
        let mapping = Mapping::copy_of(b"abc").unwrap();
        let mut sandbox = sandbox();
        sandbox.map("a", &mapping).unwrap();
        for name in ["", "a", &"n".repeat(41)] {
            let refused = error(sandbox.map(name, &mapping));
            assert_eq!(refused.kind(), ErrorKind::InvalidOption, "{refused}");
        }
        for number in 1..63 {
            sandbox.map(&number.to_string(), &mapping).unwrap();
        }
        assert_eq!(error(sandbox.map("64th", &mapping)).kind(), ErrorKind::InvalidOption);
        assert_eq!(sandbox.call::<_, Vec<String>>("map_names", ()).unwrap().len(), 63);
        sandbox.reset().unwrap();
        let huge = NamedTempFile::new().unwrap();
        huge.as_file().set_len(64 << 30).unwrap();
        let huge = Mapping::file(huge.path()).unwrap();
        sandbox.map("first", &huge).unwrap();
        let refused = error(sandbox.map("second", &huge));
        assert_eq!(refused.kind(), ErrorKind::InvalidOption);
        assert!(refused.to_string().contains("127 GiB"), "{refused}");
        assert_eq!(read(&mut sandbox, "first", (64 << 30) - 1, 2), Some(vec![0]));
    }

    fn a_snapshot_holds_nothing_that_is_lent() {
        let mut sandbox = sandbox();
        sandbox.map("a", &Mapping::copy_of(b"abc").unwrap()).unwrap();
        let refused = error(sandbox.snapshot());
        assert_eq!(refused.kind(), ErrorKind::InvalidOption);
        assert!(refused.to_string().contains("unmap_all"), "{refused}");
        sandbox.unmap_all().unwrap();
        let mut fresh = sandbox.snapshot().unwrap().spawn().unwrap();
        assert_eq!(length(&mut fresh, "a"), None);
        fresh.map("a", &Mapping::copy_of(b"abc").unwrap()).unwrap();
        assert_eq!(length(&mut fresh, "a"), Some(3));
    }
}
