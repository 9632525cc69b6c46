//! A process that has no more descriptors, address space, data or room in files: errors until it has, and
//! all is well again then.

use glowbox::{Engine, Error, ErrorKind, Mapping, Snapshot};
use tempfile::TempDir;

use crate::inject::{factor, injected};
use crate::level::Level;
use crate::support::{builder, guest, in_fork, leave_out, loader};

/// Sets how much of something this process may have, and returns how much it was.
fn limit(resource: libc::__rlimit_resource_t, most: u64) -> u64 {
    // SAFETY: reads and sets a limit of this process, through structs on this stack.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, most.min(limit.rlim_max));
        let set = libc::setrlimit(resource, &raw const limit);
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        before
    }
}

/// All that is done with sandboxes, from an engine to a file and back.
fn everything(folder: &TempDir) -> Result<(), Error> {
    let engine = Engine::builder().pool_size(1).build()?;
    let mut sandbox = builder().engine(&engine).build(guest("testing"))?;
    sandbox.map("bytes", &Mapping::copy_of(b"of the host")?)?;
    assert_eq!(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32))?, 3);
    sandbox.reset()?;
    let snapshot = sandbox.snapshot()?;
    let mut spawned = snapshot.spawn()?;
    spawned.call::<_, u64>("keep", (1u64 << 20, 3u8))?;
    spawned.reset()?;
    assert_eq!(spawned.call::<_, u64>("kept", ())?, 0);
    let path = folder.path().join("snapshot");
    snapshot.save(&path)?;
    let loaded = loader().engine(&engine).load(&path)?;
    assert_eq!(loaded.spawn()?.call::<_, u32>("add", (1u32, 2u32))?, 3);
    Ok(())
}

/// Checks that it is an error that says what is lacking.
fn check(error: &Error, word: &str) {
    assert!(matches!(error.kind(), ErrorKind::Hypervisor | ErrorKind::Io), "{error:?}");
    assert!(error.to_string().contains(word), "{error:?}");
}

/// Runs everything under each limit of `limits`, which are added to what the process has now, until it
/// succeeds; and without one after each.
fn run_within(
    name: &str,
    resource: libc::__rlimit_resource_t,
    used: fn() -> u64,
    steps: &[u64],
    word: &str,
) {
    let folder = TempDir::new().unwrap();
    let status = in_fork(|| {
        keep_heap_small();
        (0..3).for_each(|_| everything(&folder).unwrap());
        let level = Level::now();
        let mut refused = 0;
        for step in steps {
            let before = limit(resource, used() + step);
            let result = everything(&folder);
            limit(resource, before);
            if let Err(error) = result {
                check(&error, word);
                refused += 1;
            }
            everything(&folder).unwrap();
            level.risen().unwrap();
        }
        assert!(refused > steps.len() / 4, "{refused} of {}", steps.len());
    });
    assert_eq!(status, 0, "{name}");
    injected(format!("{name} reached"), steps.len() as u64);
}

/// Has the heap give back what it does not use, and take no reserves for new threads: they would look like
/// something left behind.
fn keep_heap_small() {
    // SAFETY: options of the allocator that may change at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

fn descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1
}

/// The number on a line of /proc/self/status, in bytes.
fn status(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Steps from what is left for the heap, which Rust ends the process for the want of, to what suffices.
fn sizes() -> Vec<u64> {
    (0..12 * factor() as u64).map(|step| (16 << 20) + step * (40 << 20)).collect()
}

tests! {
    fn without_descriptors_there_are_errors_until_there_are_some() {
        let steps: Vec<u64> = (0..16).collect();
        let name = "RLIMIT_NOFILE";
        run_within(name, libc::RLIMIT_NOFILE, descriptors, &steps, "descriptor");
    }

    fn without_address_space_there_are_errors_until_there_is_some() {
        run_within("RLIMIT_AS", libc::RLIMIT_AS, || status("VmSize:"), &sizes(), "memory");
    }

    fn without_room_for_data_there_are_errors_until_there_is_some() {
        // Only private memory is data.
        if lacks!(private_memory) {
            return;
        }
        run_within("RLIMIT_DATA", libc::RLIMIT_DATA, || status("VmData:"), &sizes(), "memory");
    }

    fn a_file_that_may_not_be_as_large_leaves_the_old_one_at_any_size() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let count = in_fork(|| {
            // SAFETY: a write beyond the limit is an error then, and does not end the process.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
            sandbox.snapshot().unwrap().save(&path).unwrap();
            let old = std::fs::read(&path).unwrap();
            sandbox.call::<_, u64>("keep", (1u64 << 20, 3u8)).unwrap();
            let snapshot = sandbox.snapshot().unwrap();
            let other = folder.path().join("other");
            snapshot.save(&other).unwrap();
            let size = std::fs::metadata(&other).unwrap().len();
            std::fs::remove_file(&other).unwrap();
            for part in 0..20 {
                let before = limit(libc::RLIMIT_FSIZE, size * part / 20);
                let error = snapshot.save(&path).expect_err("it is larger");
                limit(libc::RLIMIT_FSIZE, before);
                assert_eq!(error.kind(), ErrorKind::Io);
                check(&error, "ulimit -f");
                assert!(std::fs::read(&path).unwrap() == old);
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            }
            snapshot.save(&path).unwrap();
            let loaded = loader().engine(&engine).load(&path).unwrap();
            assert_eq!(loaded.spawn().unwrap().call::<_, u64>("kept", ()).unwrap(), 1 << 20);
        });
        assert_eq!(count, 0);
        injected("RLIMIT_FSIZE reached while saving".into(), 20);
    }

    /// The system kills a process whose control group has no memory left, and nobody can make an error of
    /// that. It harms no other process that uses the same file.
    fn a_process_that_its_control_group_has_no_memory_for_dies_alone() {
        let Some(group) = Group::new(48 << 20) else {
            return leave_out("no memory control group can be made here");
        };
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("snapshot");
        let saved = in_fork(|| {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let mut sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
            sandbox.snapshot().unwrap().save(&path).unwrap();
        });
        assert_eq!(saved, 0);
        let load = || -> Snapshot {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            loader().engine(&engine).memory_limit(256 << 20).load(&path).unwrap()
        };
        let ended = in_fork(|| {
            group.enter();
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let builder = builder().engine(&engine).memory_limit(256 << 20);
            let mut sandbox = builder.build(guest("testing")).unwrap();
            let refused = sandbox.call::<_, u64>("keep", (200u64 << 20, 3u8)).expect_err("no memory");
            assert!(refused.to_string().contains("process was ended"), "{refused:?}");
        });
        let killed = libc::WIFSIGNALED(ended) && libc::WTERMSIG(ended) == libc::SIGKILL;
        // Where guests have processes of their own it may be one of these, which its host sees.
        let is_own = !Engine::shared().unwrap().caps().device;
        assert!(killed || is_own && ended == 0, "{ended:#x}");
        let after = in_fork(|| {
            assert_eq!(load().spawn().unwrap().call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        });
        assert_eq!(after, 0);
        injected("memory control group exhausted".into(), 1);
    }
}

/// A control group with little memory, of the first or second version.
struct Group {
    path: std::path::PathBuf,
}

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let name = format!("glowbox-test-{}", std::process::id());
        for (parent, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Group { path: std::path::Path::new(parent).join(&name) };
            // Only a real one has files in it already.
            let made = std::fs::create_dir(&group.path).is_ok() && group.path.join(file).exists();
            if made && std::fs::write(group.path.join(file), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// Has this process in it from now on.
    fn enter(&self) {
        std::fs::write(self.path.join("cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}
