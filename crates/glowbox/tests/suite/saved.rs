//! Snapshots in files: what is saved comes back, and what is no snapshot is refused by its field.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use glowbox::{Error, ErrorKind, FaultKind, Guest, Sandbox, Snapshot};
use glowbox_core::snapshot_file::{Contents, FeatureWord, Header, ImageHasher};
use glowbox_testguest::GuestFile;
use tempfile::TempDir;

use crate::support::{builder, error, guest, isolated, leave_out, sandbox};
use crate::trace;

/// A saved snapshot of the guest `faults`, which imports nothing, and the folder it is in.
fn saved() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("snapshot");
    Sandbox::builder().build(guest("faults")).unwrap().snapshot().unwrap().save(&path).unwrap();
    (folder, path)
}

fn load(path: &Path) -> Result<Snapshot, Error> {
    Snapshot::load(path)
}

/// A loader with what the guest `testing` imports; no test here calls it.
fn load_testing(path: &Path, verify: bool) -> Snapshot {
    crate::support::loader().verify(verify).load(path).unwrap()
}

/// The file's parts: contents, and the image.
fn parts(bytes: &[u8]) -> (Header, usize) {
    let header = Header::parse(&bytes[..Header::SIZE], bytes.len() as u64).unwrap();
    let image = usize::try_from(header.image().start).unwrap();
    (header, image)
}

/// Changes a file in a way that keeps its checksums right.
fn forge(bytes: &[u8], change: impl FnOnce(&mut Contents<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let (header, at) = parts(bytes);
    let mut contents = Contents::parse(&header, &bytes[Header::SIZE..at]).unwrap();
    let mut image = bytes[at..].to_vec();
    change(&mut contents, &mut image);
    let mut hasher = ImageHasher::new();
    hasher.update(&image);
    let mut forged = contents.encode(hasher.finish()).unwrap();
    forged.extend_from_slice(&image);
    forged
}

/// The kind and text of the error with which a file of these bytes is refused.
fn refused(folder: &TempDir, bytes: &[u8]) -> String {
    let path = folder.path().join("changed");
    std::fs::write(&path, bytes).unwrap();
    let refused = error(load(&path));
    assert_eq!(refused.kind(), ErrorKind::InvalidSnapshot, "{refused}");
    refused.to_string()
}

/// The most that this process has had in memory, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Bytes that this process has read by system calls.
fn read_so_far() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

tests! {
    fn what_is_saved_comes_back() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let mut original = sandbox();
        original.call::<_, u64>("keep", (1u64 << 20, 3u8)).unwrap();
        original.snapshot().unwrap().save(&path).unwrap();
        original.call::<_, u64>("keep", (10u64, 3u8)).unwrap();
        for verify in [true, false] {
            let snapshot = load_testing(&path, verify);
            assert_eq!(snapshot.guest().name(), original.guest().name());
            let mut sandbox = snapshot.spawn().unwrap();
            for _ in 0..3 {
                assert_eq!(sandbox.call::<_, u64>("kept", ()).unwrap(), 1 << 20);
                assert_eq!(sandbox.call::<_, u64>("sum_kept", (1u32,)).unwrap(), 3 << 20);
                assert_eq!(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)).unwrap(), 3);
                sandbox.call::<_, u64>("keep", (100u64, 9u8)).unwrap();
                sandbox.reset().unwrap();
            }
            let again = snapshot.spawn().unwrap().snapshot().unwrap();
            assert_eq!(again.spawn().unwrap().call::<_, u64>("kept", ()).unwrap(), 1 << 20);
            let faulted = error(sandbox.call::<_, ()>("panic_with", ("a text",)));
            assert_ne!(faulted.kind(), ErrorKind::MemoryLost, "{faulted}");
        }
    }

    fn host_functions_are_not_part_of_a_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let mut original =
            Sandbox::builder().host_function("weekday", String::new).build(guest("hello")).unwrap();
        original.snapshot().unwrap().save(&path).unwrap();
        let snapshot = load(&path).unwrap();
        let missing = error(snapshot.spawn());
        assert_eq!(missing.kind(), ErrorKind::HostFunctionMissing);
        assert!(missing.to_string().contains("`weekday`"), "{missing}");
        let greet = |mut sandbox: Sandbox| sandbox.call::<_, String>("greet", ("you",)).unwrap();
        let spawner = snapshot.spawner().host_function("weekday", || "Friday".to_string());
        assert!(greet(spawner.spawn().unwrap()).contains("Friday"));
        let loader = Snapshot::loader().host_function("weekday", || "Sunday".to_string());
        assert!(greet(loader.load(&path).unwrap().spawn().unwrap()).contains("Sunday"));
        let wrong = error(Snapshot::loader().host_function("weekday", || 7u32).load(&path));
        assert_eq!(wrong.kind(), ErrorKind::SignatureMismatch);
    }

    fn a_truncated_file_is_refused_at_any_length() {
        let (folder, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        let (_, image) = parts(&bytes);
        for length in [0, 1, 7, 8, 100, 4095, 4096, 4097, image - 1, image, image + 1, bytes.len() - 1] {
            let text = refused(&folder, &bytes[..length]);
            let named = text.contains("truncated") || text.contains("magic");
            assert!(named, "{length} bytes: {text}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(refused(&folder, &longer).contains("file length"));
    }

    fn an_altered_file_is_refused_by_what_was_altered() {
        let (folder, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        let (header, image) = parts(&bytes);
        let contents = Contents::parse(&header, &bytes[Header::SIZE..image]).unwrap();
        let program = image - contents.program.len().next_multiple_of(4096) + 4096;
        for (at, field) in [
            (0, "magic"),
            (8, "format version"),
            (12, "architecture"),
            (40, "header"),
            (Header::SIZE + 1, "metadata"),
            (program, "program"),
            (image, "memory image"),
            (bytes.len() - 1, "memory image"),
        ] {
            let mut altered = bytes.clone();
            altered[at] ^= 4;
            let text = refused(&folder, &altered);
            assert!(text.contains(&format!("`{field}`")), "byte {at}: {text}");
        }
    }

    fn a_file_that_needs_a_missing_cpu_feature_is_refused_by_its_name() {
        let (folder, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        // AVX-512F, which guests are never shown.
        let forged = forge(&bytes, |contents, _| {
            let seven = |word: &&mut FeatureWord| {
                word.leaf == 7 && word.register == glowbox_core::snapshot_file::CpuidRegister::Ebx
            };
            contents.metadata.features.iter_mut().find(seven).unwrap().mask |= 1 << 16;
        });
        let text = refused(&folder, &forged);
        assert!(text.contains("AVX512F") || text.contains("leaf 0x7 EBX bit 16"), "{text}");
        let forged = forge(&bytes, |contents, _| contents.metadata.load_base = 0x1000);
        assert!(refused(&folder, &forged).contains("`load base`"));
        let forged = forge(&bytes, |contents, _| contents.metadata.window_size += 2 << 20);
        assert!(refused(&folder, &forged).contains("`window size`"));
    }

    fn nothing_in_a_file_reaches_ring_0_or_the_page_tables() {
        let (folder, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        // All that lies before the program is overwritten: the supervisor by code and tables that
        // would never come back, page-table entries by ones that map everything to everyone.
        let forged = forge(&bytes, |contents, image| {
            assert_eq!(contents.runs[0].first_page, 0);
            image[..3 << 12].fill(0xf4);
            for entry in image[4 << 12..12 << 12].chunks_mut(8) {
                entry.copy_from_slice(&0x0007u64.to_le_bytes());
            }
        });
        let path = folder.path().join("forged");
        std::fs::write(&path, forged).unwrap();
        let snapshot = load(&path).unwrap();
        for _ in 0..2 {
            let mut sandbox = snapshot.spawn().unwrap();
            for address in [511u64 << 30, (511 << 30) + 0x4000] {
                // A plain store, which every machine reports as a write.
                let call = sandbox.call::<_, ()>("touch_address", (address, "store"));
                let fault = error(call).fault().unwrap().kind;
                let expected = match address % 0x8000 {
                    0 => FaultKind::Supervisor(glowbox::Access::Write),
                    _ => FaultKind::PageTables(glowbox::Access::Write),
                };
                assert_eq!(fault, expected);
                sandbox.reset().unwrap();
            }
        }
    }

    fn an_image_that_was_not_verified_is_a_guest_like_any_other() {
        let (folder, path) = saved();
        let mut bytes = std::fs::read(&path).unwrap();
        let (_, image) = parts(&bytes);
        // The program, its stack, its variables: everything is noise.
        for (at, byte) in bytes[image + (12 << 12)..].iter_mut().enumerate() {
            *byte = (at * 7).to_le_bytes()[0] ^ at.to_le_bytes()[1];
        }
        let path = folder.path().join("noise");
        std::fs::write(&path, bytes).unwrap();
        let snapshot = Snapshot::loader().verify(false).load(&path).unwrap();
        for _ in 0..3 {
            let mut sandbox = snapshot.spawn().unwrap();
            let ended = error(sandbox.call::<_, ()>("touch_address", (0u64, "read")));
            assert_ne!(ended.kind(), ErrorKind::HostPanic, "{ended}");
            assert!(sandbox.is_spent());
            sandbox.reset().unwrap();
        }
    }

    fn a_file_cut_short_after_loading_ends_in_an_error_and_not_the_host() {
        if lacks!(private_memory) {
            return;
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let mut original = sandbox();
        original.call::<_, u64>("keep", (4u64 << 20, 3u8)).unwrap();
        original.snapshot().unwrap().save(&path).unwrap();
        let snapshot = load_testing(&path, false);
        let mut running = snapshot.spawn().unwrap();
        running.call::<_, ()>("dirty_kept", (3u32, 1u8)).unwrap();
        let (_, image) = parts(&std::fs::read(&path).unwrap());
        for length in [image + (20 << 12), image, 0] {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
            let lost = |error: Error| assert_eq!(error.kind(), ErrorKind::MemoryLost, "{error}");
            // It may end in other ways too: what is read of a page that was cut is zero.
            assert!(running.call::<_, u64>("sum_kept", (1u32,)).is_err());
            lost(error(running.reset()));
            assert!(running.is_spent());
            match snapshot.spawn() {
                Ok(mut fresh) => assert!(fresh.call::<_, u64>("sum_kept", (1u32,)).is_err()),
                Err(error) => lost(error),
            }
            assert!(running.snapshot().is_err());
        }
        // The pool is none the worse.
        assert_eq!(sandbox().call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    }

    fn saving_replaces_a_file_as_a_whole_and_leaves_nothing_else() {
        let (folder, path) = saved();
        let first = std::fs::read(&path).unwrap();
        let snapshot = load(&path).unwrap();
        let mut sandbox = snapshot.spawn().unwrap();
        // Over the very file that it is mapped from.
        snapshot.save(&path).unwrap();
        sandbox.call::<_, ()>("touch_place", ("heap", "write", &[0u8; 4][..])).unwrap();
        sandbox.reset().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let failed = error(snapshot.save(folder.path().join("nowhere/snapshot")));
        assert_eq!(failed.kind(), ErrorKind::Io, "{failed}");
        // A folder has the name.
        std::fs::create_dir(folder.path().join("taken")).unwrap();
        assert_eq!(error(snapshot.save(folder.path().join("taken"))).kind(), ErrorKind::Io);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(error(load(folder.path())).kind(), ErrorKind::InvalidSnapshot);
        assert_eq!(error(load(&folder.path().join("none"))).kind(), ErrorKind::Io);
    }

    fn saving_writes_the_file_and_its_name_through_to_the_disk() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let calls = trace::count_system_calls(|mark| {
            let engine = glowbox::Engine::new().unwrap();
            let builder = Sandbox::builder().engine(&engine);
            let snapshot = builder.build(guest("faults")).unwrap().snapshot().unwrap();
            mark();
            snapshot.save(&path).unwrap();
            mark();
        });
        let times = |number| calls.get(&(number, 0)).copied().unwrap_or(0);
        // The file, and its folder.
        assert_eq!(times(libc::SYS_fsync), 2, "{calls:?}");
        let renamed = [libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2];
        assert_eq!(renamed.map(times).iter().sum::<u64>(), 1, "{calls:?}");
        assert!(load(&path).is_ok());
    }

    fn loading_and_the_first_call_read_as_little_of_a_large_image_as_of_a_small_one() {
        if lacks!(private_memory) {
            return;
        }
        isolated(
            "saved::loading_and_the_first_call_read_as_little_of_a_large_image_as_of_a_small_one",
            || {
                let folder = TempDir::new().unwrap();
                let read = [1u64, 64].map(|mebibytes| {
                    let path = folder.path().join(mebibytes.to_string());
                    let builder = builder().memory_limit(128 << 20);
                    let mut original = builder.build(guest("testing")).unwrap();
                    original.call::<_, u64>("keep", (mebibytes << 20, 3u8)).unwrap();
                    original.snapshot().unwrap().save(&path).unwrap();
                    let before = read_so_far();
                    let loader = crate::support::loader().verify(false).memory_limit(128 << 20);
                    let mut sandbox = loader.load(&path).unwrap().spawn().unwrap();
                    assert_eq!(sandbox.call::<_, u64>("kept", ()).unwrap(), mebibytes << 20);
                    let read = read_so_far() - before;
                    assert!(read >= 4096);
                    read
                });
                assert!(read[1] < read[0] + (64 << 10), "{read:?}");
            },
        );
    }

    fn who_loads_a_file_decides_how_much_its_guest_may_have() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        type Change = fn(glowbox::Builder) -> glowbox::Builder;
        type Allow = fn(glowbox::Loader) -> glowbox::Loader;
        let cases: [(&str, Change, Allow); 3] = [
            ("heap limit", |b| b.memory_limit(128 << 20), |l| l.memory_limit(128 << 20)),
            ("stack limit", |b| b.stack_size(2 << 20), |l| l.stack_size(2 << 20)),
            ("incoming limit", |b| b.message_size(32 << 20), |l| l.message_size(32 << 20)),
        ];
        for (field, change, allow) in cases {
            let mut original = change(Sandbox::builder()).build(guest("faults")).unwrap();
            original.snapshot().unwrap().save(&path).unwrap();
            let refused = error(load(&path));
            assert_eq!(refused.kind(), ErrorKind::InvalidSnapshot);
            assert!(refused.to_string().contains(&format!("`{field}`")), "{refused}");
            allow(Snapshot::loader()).load(&path).unwrap().spawn().unwrap();
        }
        // An ordinary program that ends at once, by `exit`.
        let program = || {
            let code = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
            Guest::from_bytes("ends", GuestFile::program(&code).to_bytes()).unwrap()
        };
        let cases: [(&str, &str, Change, Allow); 4] = [
            ("heap limit", "memory_limit", |b| b.memory_limit(128 << 20), |l| l.memory_limit(128 << 20)),
            ("stack limit", "stack_size", |b| b.stack_size(9 << 20), |l| l.stack_size(9 << 20)),
            ("scratch limit", "scratch_limit", |b| b.scratch("/tmp", 1 << 40), |l| l.scratch_limit(1 << 40)),
            ("files size", "file_limit", |b| b.file("/large", vec![1; 65 << 20]), |l| l.file_limit(66 << 20)),
        ];
        for (field, option, change, allow) in cases {
            let mut original = change(Sandbox::builder()).load(program()).unwrap();
            original.snapshot().unwrap().save(&path).unwrap();
            let refused = error(load(&path));
            assert_eq!(refused.kind(), ErrorKind::InvalidSnapshot);
            let text = refused.to_string();
            assert!(text.contains(&format!("`{field}`")), "{text}");
            assert!(text.contains(&format!("Loader::{option}")), "{text}");
            let loaded = allow(Snapshot::loader()).load(&path).unwrap();
            assert_eq!(loaded.spawner().load().unwrap().run().unwrap().code(), Some(0));
        }
        // As much as there is, to the byte.
        let builder = Sandbox::builder().scratch("/tmp", 4096).file("/tmp/a", "text");
        builder.load(program()).unwrap().snapshot().unwrap().save(&path).unwrap();
        let limited = |bytes| Snapshot::loader().scratch_limit(bytes).load(&path);
        assert!(error(limited(4095)).to_string().contains("4096 bytes, and 4095 are allowed"));
        limited(4096).unwrap();
    }

    fn a_process_larger_than_it_may_be_is_refused_before_it_is_read() {
        isolated("saved::a_process_larger_than_it_may_be_is_refused_before_it_is_read", || {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("snapshot");
            let program = Guest::from_bytes("ends", GuestFile::program(&[0xf4]).to_bytes()).unwrap();
            Sandbox::builder().load(program).unwrap().snapshot().unwrap().save(&path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            static LARGE: [u8; 96 << 20] = [0; 96 << 20];
            std::fs::write(&path, forge(&bytes, |contents, _| contents.process = &LARGE)).unwrap();
            let before = read_so_far();
            let refused = error(load(&path));
            let read = read_so_far() - before;
            assert_eq!(refused.kind(), ErrorKind::InvalidSnapshot);
            let text = refused.to_string();
            assert!(text.contains("`process length` is 100663296 bytes"), "{text}");
            assert!(text.contains("Loader::scratch_limit or Loader::file_limit"), "{text}");
            assert!(read < 1 << 20, "{read} bytes were read");
            // So is one whose few bytes would become many: five million mappings that it claims to have
            // started with, of seven bytes each.
            static CLAIMS: [u8; 40 << 20] = {
                let mut bytes = [0; 40 << 20];
                [bytes[1], bytes[2], bytes[3], bytes[4]] = [0xc0, 0x96, 0xb1, 0x02];
                bytes
            };
            let claims = folder.path().join("claims");
            std::fs::write(&claims, forge(&bytes, |contents, _| contents.process = &CLAIMS)).unwrap();
            let before = peak();
            let refused = error(load(&claims));
            assert!(refused.to_string().contains("take more memory than they may"), "{refused}");
            // What is read, and less than they would have taken.
            let grown = peak() - before;
            assert!(grown < 200 << 10, "{grown} KiB");
            // Whoever allows it is told what it is.
            let refused = error(Snapshot::loader().file_limit(96 << 20).load(&path));
            assert!(refused.to_string().contains("its `process` is none"), "{refused}");
        });
    }

    fn memory_in_very_many_pieces_is_saved_and_comes_back_and_takes_no_more_than_it_has() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        // Small messages, so that heap and mailbox lie close together.
        let builder = builder().message_size(64 << 10).memory_limit(60 << 20);
        let mut original = builder.build(guest("testing")).unwrap();
        let small = original.snapshot().unwrap().image_size();
        original.call::<_, u64>("keep", (32u64 << 20, 0u8)).unwrap();
        original.call::<_, ()>("scatter_kept", (300u32, 27u32, 5u8)).unwrap();
        let snapshot = original.snapshot().unwrap();
        let size = snapshot.image_size();
        assert!(size < small + (400 << 12), "{size} bytes, {small} before");
        snapshot.save(&path).unwrap();
        let file = std::fs::metadata(&path).unwrap().len();
        assert!(file < size + (1 << 20), "{file} bytes of {size}");
        for snapshot in [snapshot, load_testing(&path, true)] {
            let mut sandbox = snapshot.spawn().unwrap();
            for _ in 0..3 {
                assert_eq!(sandbox.call::<_, u64>("sum_kept", (1u32,)).unwrap(), 300 * 5);
                sandbox.call::<_, ()>("scatter_kept", (600u32, 13u32, 9u8)).unwrap();
                sandbox.reset().unwrap();
            }
        }
    }

    fn a_loaded_sandbox_that_keeps_nothing_is_reset_as_any_other() {
        let (_folder, path) = saved();
        let engine = glowbox::Engine::builder().kept_memory(0).build().unwrap();
        let snapshot = Snapshot::loader().engine(&engine).load(&path).unwrap();
        for _ in 0..3 {
            let mut sandbox = snapshot.spawn().unwrap();
            for _ in 0..3 {
                error(sandbox.call::<_, ()>("touch_address", (0u64, "read")));
                sandbox.reset().unwrap();
                sandbox.call::<_, ()>("touch_place", ("heap", "read", &[0u8; 4][..])).unwrap();
            }
        }
    }

    fn a_deterministic_sandbox_stays_so() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let mut original = builder().deterministic(7).build(guest("testing")).unwrap();
        let snapshot = original.snapshot().unwrap();
        snapshot.save(&path).unwrap();
        let draw = |snapshot: &Snapshot| -> Vec<u64> {
            snapshot.spawn().unwrap().call("random_u64s", (5u32,)).unwrap()
        };
        let numbers = draw(&snapshot);
        assert_eq!(draw(&snapshot), numbers);
        assert_eq!(draw(&load_testing(&path, true)), numbers);
        // And one that is not, is not.
        sandbox().snapshot().unwrap().save(&path).unwrap();
        let fresh = load_testing(&path, true);
        assert_ne!(draw(&fresh), draw(&fresh));
    }

    fn a_full_disk_is_an_error_and_leaves_the_old_file() {
        // A file system of one MiB, in a namespace of its own.
        isolated("saved::a_full_disk_is_an_error_and_leaves_the_old_file", || {
            let folder = TempDir::new().unwrap();
            let target = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
            // SAFETY: changes the mounts of this process's own namespace; all strings are C's.
            let mounted = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(),
                        libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) == 0
                    && libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0,
                        c"size=1m".as_ptr().cast()) == 0
            };
            if !mounted {
                return leave_out("this process may not mount a file system");
            }
            let path = folder.path().join("snapshot");
            let mut sandbox = sandbox();
            sandbox.snapshot().unwrap().save(&path).unwrap();
            let old = std::fs::read(&path).unwrap();
            sandbox.call::<_, u64>("keep", (2u64 << 20, 3u8)).unwrap();
            let full = error(sandbox.snapshot().unwrap().save(&path));
            assert_eq!(full.kind(), ErrorKind::Io, "{full}");
            assert_eq!(std::fs::read(&path).unwrap(), old);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        });
    }
}
