//! What is not so on Linux: refusals, and ends that the sandbox makes.

use std::time::{Duration, Instant};

use glowbox::{ErrorKind, ExitStatus, Output, Sandbox};
use glowbox_testprograms::Libc;

use crate::support::{DATA, Folders, Which, builder, leave_out};

/// Runs a program with both folders: how it ended, standard output, standard error.
fn run(which: Which, arguments: &[&str]) -> Option<(ExitStatus, String, String)> {
    let program = which.program().inspect_err(leave_out).ok()?;
    let folders = Folders::new();
    let (builder, output, errors) = builder(&folders);
    let mut process =
        builder.args(arguments.iter().copied()).load(program.path()).expect("it is loaded");
    let status = process.run().expect("it runs to its end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Some((status, text(output.take()), text(errors.take())))
}

tests! {
    fn c_refused() {
        for libc in Libc::ALL {
            let Some((status, output, _)) = run(Which::C("system", libc), &["refused"]) else {
                continue;
            };
            assert!(status.success(), "{libc:?}: {status}\n{output}");
            assert!(output.contains("\n0 failed\n"), "{output}");
        }
    }

    fn c_forbidden() {
        for libc in Libc::ALL {
            let arguments = ["forbidden", DATA];
            let Some((status, output, _)) = run(Which::C("files", libc), &arguments) else { continue };
            assert!(status.success(), "{libc:?}: {status}\n{output}");
        }
    }

    fn crates_refused() {
        for libc in Libc::ALL {
            let program = Which::Rust("crates-demo", libc);
            let Some((status, output, _)) = run(program, &["refused"]) else { continue };
            assert!(status.success(), "{status}");
            assert_eq!(output.lines().count(), 5, "{output}");
            assert!(output.lines().all(|line| line.ends_with(": true")), "{output}");
        }
    }

    fn what_is_not_granted_is_not_there() {
        for path in ["/etc/passwd", "/proc/1/environ", "/sys/kernel", "/root", "/data/../etc/passwd"] {
            let Some((status, output, errors)) = run(Which::Busybox, &["cat", path]) else { return };
            assert_eq!((status.code(), output.as_str()), (Some(1), ""), "{path}");
            assert!(errors.contains(path), "{errors}");
        }
    }

    fn a_shell_cannot_fork() {
        let script = "x=$(echo forked) && echo \"$x\"";
        let Some((status, output, errors)) = run(Which::Busybox, &["sh", "-c", script]) else { return };
        assert!(!status.success(), "{status}");
        assert_eq!(output, "");
        assert!(errors.contains("fork"), "{errors}");
    }

    fn a_deadline_ends_a_shell_that_spins() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let folders = Folders::new();
        let (builder, ..) = builder(&folders);
        let builder = builder.args(["sh", "-c", "while :; do :; done"]);
        let mut process = builder.deadline(Duration::from_millis(200)).load(program.path()).unwrap();
        let start = Instant::now();
        let error = process.run().expect_err("it spins for ever");
        assert_eq!(error.kind(), ErrorKind::Deadline);
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    fn an_interrupt_ends_one_too() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let folders = Folders::new();
        let (builder, ..) = builder(&folders);
        let builder = builder.args(["sh", "-c", "while :; do :; done"]);
        let mut process = builder.load(program.path()).unwrap();
        let handle = process.interrupt_handle();
        let error = std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                handle.interrupt();
            });
            process.run().expect_err("it spins until it is stopped")
        });
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    fn a_program_runs_once() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let folders = Folders::new();
        let (builder, ..) = builder(&folders);
        let mut process = builder.args(["true"]).load(program.path()).unwrap();
        assert!(process.run().unwrap().success());
        assert_eq!(process.run().unwrap_err().kind(), ErrorKind::Spent);
    }

    fn a_program_has_no_functions() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let refused = Sandbox::builder().build(program.path()).map(drop).unwrap_err();
        let snapshot = Sandbox::builder().load(program.path()).unwrap().snapshot().unwrap();
        let spawned = [snapshot.spawn(), snapshot.spawner().spawn()];
        let errors = spawned.map(|sandbox| sandbox.map(drop).unwrap_err());
        for error in errors.iter().chain([&refused]) {
            assert_eq!(error.kind(), ErrorKind::InvalidGuest);
            assert!(error.to_string().contains("::load"), "{error}");
        }
    }

    fn a_snapshot_does_not_hold_the_environment() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let (stdout, output) = Output::buffer(1 << 10);
        let secret = ["TOKEN=s3cr3t", "value"].join("-");
        let builder = Sandbox::builder().args(["env"]).env("TOKEN", &secret[6..]).stdout(stdout);
        let mut process = builder.load(program.path()).unwrap();
        let snapshot = process.snapshot().unwrap();
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("snapshot");
        snapshot.save(&path).unwrap();
        let saved = std::fs::read(path).unwrap();
        assert!(!saved.windows(secret.len()).any(|window| window == secret.as_bytes()));
        // It is still the process's own, and that of one that is not told otherwise.
        for process in [&mut process, &mut snapshot.spawner().load().unwrap()] {
            assert!(process.run().unwrap().success());
            assert_eq!(String::from_utf8(output.take()).unwrap(), format!("{secret}\n"));
        }
        assert!(snapshot.spawner().env("A", "B").load().unwrap().run().unwrap().success());
        assert_eq!(output.take(), b"A=B\n");
    }

    fn the_memory_limit_holds() {
        let program = Which::Rust("crates-demo", Libc::Musl).program();
        let Ok(program) = program.inspect_err(leave_out) else { return };
        let folders = Folders::new();
        let (builder, ..) = builder(&folders);
        let builder = builder.args(["system"]).memory_limit(64 << 20);
        // It asks for 256 MiB: either it is told that there is not as much, or it is ended.
        match builder.load(program.path()).unwrap().run() {
            Ok(status) => assert!(!status.success(), "{status}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
        }
    }

    fn the_folder_is_as_it_was() {
        let Ok(program) = Which::Busybox.program().inspect_err(leave_out) else { return };
        let folders = Folders::new();
        let listing = || {
            let mut files: Vec<_> = std::fs::read_dir(folders.data())
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    (entry.file_name(), entry.metadata().unwrap().modified().unwrap())
                })
                .collect();
            files.sort();
            files
        };
        let before = listing();
        for arguments in [
            ["sh", "-c", "echo x > /data/a.txt"],
            ["sh", "-c", "echo x > /data/new"],
            ["rm", "-f", "/data/a.txt"],
            ["mv", "/data/a.txt", "/data/new"],
            ["touch", "-c", "/data/a.txt"],
            ["chmod", "777", "/data/a.txt"],
            ["truncate", "-s0", "/data/a.txt"],
            ["rm", "-rf", "/data/sub"],
        ] {
            let (builder, ..) = builder(&folders);
            let status = builder.args(arguments).load(program.path()).unwrap().run().unwrap();
            assert!(!status.success(), "{arguments:?}: {status}");
        }
        assert_eq!(listing(), before);
        assert_eq!(std::fs::read(folders.data().join("a.txt")).unwrap(), b"alpha\nbeta\ngamma\n");
    }
}
