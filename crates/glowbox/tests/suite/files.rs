//! Files that are no guests. The parser's own tests are in glowbox-core; here it is that errors
//! name file and field, and that nothing is left open.

use std::io::Write;

use glowbox::{ErrorKind, Guest, Sandbox};
use glowbox_testguest::{CODE, DATA, GuestFile, R, Record, W, X};

use crate::support::error;

fn refused(file: &GuestFile, words: &[&str]) {
    let error = error(Guest::from_bytes("plugin.elf", file.to_bytes()));
    assert_eq!(error.kind(), ErrorKind::InvalidGuest);
    let text = error.to_string();
    for word in words.iter().chain(&["`plugin.elf`"]) {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

fn changed(change: impl FnOnce(&mut GuestFile)) -> GuestFile {
    let mut file = GuestFile::of_code(&[0xeb, 0xfe]);
    change(&mut file);
    file
}

/// A file of a program that needs a dynamic loader. Those of a machine may all be static.
fn dynamic_program() -> tempfile::TempPath {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let program = changed(|file| file.extra_headers.push((3, DATA, 64, 8)));
    file.write_all(&program.to_bytes()).expect("a file that can be written");
    file.into_temp_path()
}

tests! {
    fn each_kind_of_bad_file_is_a_distinct_error_naming_file_and_field() {
        refused(&changed(|f| f.segments[1].address = CODE), &["segments 0 and 1", "overlap"]);
        refused(&changed(|f| f.segments[1].size = 1 << 40), &["segment 1", "p_memsz"]);
        refused(&changed(|f| f.segments[1].address = u64::MAX - 9), &["segment 1", "p_vaddr"]);
        refused(&changed(|f| f.segments[0].flags = R | W | X), &["writable and executable"]);
        refused(&changed(|f| f.file_type = 1), &["e_type"]);
        refused(&changed(|f| f.entry = DATA), &["e_entry"]);
        refused(&changed(|f| f.extra_headers.push((3, DATA, 64, 8))), &["dynamic loader"]);
        refused(&changed(|f| f.exports = None), &["glowbox_exports", "glowbox-guest"]);
        refused(
            &changed(|f| f.imports = Some(vec![Record::abi(7)])),
            &["glowbox_imports", "ABI version 7"],
        );
        let nonsense = Record::function("f", "(u8");
        let nonsense = changed(|f| f.exports.as_mut().expect("there").push(nonsense));
        refused(&nonsense, &["glowbox_exports", "`f`", "(u8"]);
        refused(&changed(|f| f.relocations.push((6, DATA, 0))), &["relocation 0", "type 6"]);
        refused(&changed(|f| f.relocations.push((8, CODE, 0))), &["relocation 0", "r_offset"]);
    }

    fn other_files_are_refused_by_what_they_are() {
        let path = dynamic_program();
        let program = error(Guest::from_file(&path));
        assert_eq!(program.kind(), ErrorKind::InvalidGuest);
        assert!(program.to_string().contains(&format!("`{}`", path.display())), "{program}");
        let text = error(Guest::from_file("/proc/self/status"));
        assert!(text.to_string().contains("not an ELF file"), "{text}");
        let mut arm = GuestFile::of_code(&[0]).to_bytes();
        arm[18] = 183;
        let arm = error(Guest::from_bytes("arm.elf", arm));
        assert!(arm.to_string().contains("e_machine") && arm.to_string().contains("183"), "{arm}");
    }

    fn a_truncated_file_is_an_error_at_every_length() {
        let whole = GuestFile::of_code(&[0xeb, 0xfe]).to_bytes();
        for length in (0..whole.len()).step_by(7) {
            let cut = error(Guest::from_bytes("cut.elf", &whole[..length]));
            assert_eq!(cut.kind(), ErrorKind::InvalidGuest, "{length} bytes");
        }
    }

    fn a_missing_file_and_a_folder_are_errors_that_name_the_path() {
        for path in ["/no/such/guest.elf", "/tmp"] {
            let missing = error(Sandbox::builder().build(path));
            assert_eq!(missing.kind(), ErrorKind::Io);
            assert!(missing.to_string().contains(path), "{missing}");
            assert!(std::error::Error::source(&missing).is_some());
        }
    }

    fn what_is_no_regular_file_is_refused_without_reading_it() {
        let folder = std::env::temp_dir().join(format!("glowbox-fifo-{}", std::process::id()));
        let path = std::ffi::CString::new(folder.to_str().expect("a path")).expect("a path");
        // SAFETY: makes a named pipe; the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        for path in [std::path::Path::new("/dev/zero"), &folder] {
            let refused = error(Guest::from_file(path));
            assert_eq!(refused.kind(), ErrorKind::InvalidGuest);
            assert!(refused.to_string().contains("no regular file"), "{refused}");
        }
        std::fs::remove_file(folder).expect("it was made above");
    }

    fn a_refused_file_leaves_nothing_open() {
        crate::support::isolated("files::a_refused_file_leaves_nothing_open", || {
            let open = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
            let program = dynamic_program();
            let before = open();
            for _ in 0..100 {
                let _ = error(Guest::from_file(&program));
                let _ = error(Sandbox::builder().build("/no/such/guest.elf"));
            }
            assert_eq!(open(), before);
        });
    }

    fn a_file_that_claims_much_allocates_little() {
        crate::support::isolated("files::a_file_that_claims_much_allocates_little", || {
            let before = peak();
            let huge = changed(|f| f.segments[1].size = 1 << 40);
            let far = changed(|f| f.segments[1].address = 0xff00_0000);
            for file in [huge, far] {
                let _ = error(Guest::from_bytes("huge.elf", file.to_bytes()));
            }
            let mut records = changed(|_| ()).to_bytes();
            // Every word of the file that could be a length or a count, as large as it can be.
            for at in (0..records.len() - 8).step_by(4) {
                let kept: [u8; 8] = *records[at..].first_chunk().expect("eight bytes");
                records[at..at + 8].fill(0xff);
                let _ = Guest::from_bytes("claims.elf", &records[..]);
                records[at..at + 8].copy_from_slice(&kept);
            }
            let grown = peak() - before;
            assert!(grown < 8 << 10, "{grown} KiB more");
        });
    }

    fn a_program_at_a_fixed_address_runs() {
        // mov eax, 1; hlt: that it reaches the `hlt` shows that it ran.
        let mut file = GuestFile::of_code(&[0xb8, 1, 0, 0, 0, 0xf4]);
        file.file_type = 2;
        (file.segments[0].address, file.segments[1].address) = (0x40_1000, 0x40_2000);
        file.entry = 0x40_1000;
        let guest = Guest::from_bytes("fixed.elf", file.to_bytes()).unwrap();
        let ended = error(Sandbox::builder().build(guest));
        let fault = ended.fault().expect("a fault");
        assert_eq!(fault.kind, glowbox::FaultKind::Halt);
        assert_eq!((fault.rip, fault.registers.rax), (0x40_1005, 1));
    }
}

/// The most memory that this process has ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
