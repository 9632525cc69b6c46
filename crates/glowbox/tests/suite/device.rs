//! Which backend is used, where nothing says which; where there is no KVM, or it may not be used.

use std::os::unix::process::CommandExt;
use std::process::Command;

use glowbox::{Backend, Engine, Error, ErrorKind, Sandbox};
use glowbox_machine::VARIABLE;

use crate::support::{error, guest, isolated, leave_out};

/// Whether this process may make namespaces and change users, which these tests do.
fn is_root() -> bool {
    // SAFETY: takes no arguments and can't fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        leave_out("hiding /dev/kvm takes root");
    }
    root
}

/// Hides all devices but the null device from this process, as a container without `--device` does.
fn hide_devices() -> std::io::Result<()> {
    let failed = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: gives this process, which is a test's own, its own table of mounts.
    failed(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: plain system calls with constant C strings.
    unsafe {
        let (nothing, slash, dev) = (c"none".as_ptr(), c"/".as_ptr(), c"/dev".as_ptr());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        failed(libc::mount(nothing, slash, std::ptr::null(), private, std::ptr::null()))?;
        failed(libc::mount(nothing, dev, c"tmpfs".as_ptr(), 0, std::ptr::null()))?;
        let (mode, device) = (libc::S_IFCHR | 0o666, libc::makedev(1, 3));
        failed(libc::mknod(c"/dev/null".as_ptr(), mode, device))
    }
}

tests! {
    fn a_missing_device_is_an_error_that_says_so_and_what_to_do() {
        if !is_root() {
            return;
        }
        isolated("device::a_missing_device_is_an_error_that_says_so_and_what_to_do", || {
            // The engine that is open goes on working; a new one can't be opened.
            hide_devices().expect("a namespace");
            ask_for_no_backend();
            let missing = error(Engine::new());
            assert_eq!(missing.kind(), ErrorKind::HypervisorMissing);
            assert!(missing.to_string().contains("/dev/kvm does not exist"), "{missing}");
            assert!(missing.to_string().contains("kvm_intel"), "{missing}");
            names_what_to_do_without(&missing);
        });
    }

    fn a_forbidden_device_is_an_error_that_says_so_and_what_to_do() {
        if !is_root() || kvm_can_not_be_forbidden() {
            return;
        }
        isolated("device::a_forbidden_device_is_an_error_that_says_so_and_what_to_do", || {
            // SAFETY: gives up root, in a process of the test's own.
            assert_eq!(unsafe { libc::setgid(65534) | libc::setgroups(0, std::ptr::null()) }, 0);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::setuid(65534) }, 0);
            ask_for_no_backend();
            let denied = error(Engine::new());
            assert_eq!(denied.kind(), ErrorKind::HypervisorDenied);
            assert!(denied.to_string().contains("may not open it"), "{denied}");
            assert!(denied.to_string().contains("usermod -aG kvm"), "{denied}");
            names_what_to_do_without(&denied);
        });
    }

    fn without_a_device_the_suite_says_what_it_left_out_and_why() {
        if !is_root() {
            return;
        }
        let mut suite = Command::new(std::env::current_exe().expect("this program"));
        // SAFETY: between fork and exec only system calls are made.
        unsafe { suite.pre_exec(hide_devices) };
        suite.env(VARIABLE, "kvm");
        let output = suite.args(["--test-threads", "1"]).output().expect("this program runs");
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("left out: /dev/kvm does not exist"), "{errors}");
        let last = text.lines().last().expect("output");
        let (left_out, count) = last.split_once(" of ").expect("a count");
        assert!(count.starts_with(&format!("{left_out} tests")), "{last}");
        assert_ne!(left_out, "0");
    }

    fn without_a_device_and_a_word_the_suite_runs_on_processes_and_says_so() {
        if !is_root() {
            return;
        }
        let test = "device::an_engine_is_of_the_backend_that_is_asked_for";
        let mut suite = Command::new(std::env::current_exe().expect("this program"));
        // SAFETY: between fork and exec only system calls are made.
        unsafe { suite.pre_exec(hide_devices) };
        let output = suite.env_remove(VARIABLE).args(["--exact", test]).output();
        let output = output.expect("this program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
        assert!(errors.contains("warning: /dev/kvm does not exist"), "{errors}");
    }

    fn an_engine_is_of_the_backend_that_is_asked_for() {
        let mut opened = 0;
        for backend in Backend::ALL {
            match Engine::builder().backend(*backend).build() {
                Ok(engine) => {
                    assert_eq!(engine.backend(), *backend);
                    opened += 1;
                }
                Err(error) => eprintln!("there is no {backend} here: {error}"),
            }
        }
        assert_ne!(opened, 0);
    }

    fn hypervisors_are_chosen_where_nothing_is_asked_for_and_microsofts_before_kvm() {
        let test = "device::hypervisors_are_chosen_where_nothing_is_asked_for_and_microsofts_before_kvm";
        isolated(test, || {
            ask_for_no_backend();
            let opens = |backend: &Backend| Engine::builder().backend(*backend).build().is_ok();
            match [Backend::Mshv, Backend::Kvm].into_iter().find(opens) {
                Some(first) => assert_eq!(Engine::new().expect("an engine").backend(), first),
                None => names_what_to_do_without(&error(Engine::new())),
            }
        });
    }

    fn falling_back_is_told_and_only_done_where_nothing_is_asked_for() {
        let test = "device::falling_back_is_told_and_only_done_where_nothing_is_asked_for";
        if !is_root() {
            return;
        }
        isolated(test, || {
            ask_for_no_backend();
            // With a hypervisor there is nothing to tell.
            let silent = |_: &Error| panic!("it warns");
            if let Ok(engine) = Engine::new() {
                let same = Engine::builder().build_with_fallback(silent).expect("an engine");
                assert_eq!(same.backend(), engine.backend());
            }
            hide_devices().expect("a namespace");
            let mut told = None;
            let fallback = Engine::builder().build_with_fallback(|missing| told = Some(missing.clone()));
            let engine = fallback.expect("an engine");
            assert_eq!(engine.backend(), Backend::Process);
            let told = told.expect("a warning");
            assert_eq!(told.kind(), ErrorKind::HypervisorMissing);
            names_what_to_do_without(&told);
            let builder = Sandbox::builder().engine(&engine);
            let mut sandbox =
                builder.host_function("weekday", || "Monday".to_string()).build(guest("hello"));
            let sandbox = sandbox.as_mut().expect("a sandbox");
            assert!(sandbox.call::<_, String>("greet", ("you",)).expect("a value").contains("you"));

            let kvm = Engine::builder().backend(Backend::Kvm);
            assert_eq!(error(kvm.build_with_fallback(silent)).kind(), ErrorKind::HypervisorMissing);
            for (name, kind) in
                [("kvm", ErrorKind::HypervisorMissing), ("xen", ErrorKind::InvalidOption)]
            {
                // SAFETY: the test is alone in its process.
                unsafe { std::env::set_var(VARIABLE, name) };
                assert_eq!(error(Engine::builder().build_with_fallback(silent)).kind(), kind);
            }
            // SAFETY: as above.
            unsafe { std::env::set_var(VARIABLE, "process") };
            let engine = Engine::builder().build_with_fallback(silent).expect("an engine");
            assert_eq!(engine.backend(), Backend::Process);
        });
    }

    fn a_process_out_of_descriptors_gets_an_error_and_goes_on() {
        isolated("device::a_process_out_of_descriptors_gets_an_error_and_goes_on", || {
            let hello = guest("hello");
            let engine = Engine::builder().pool_size(0).build().expect("an engine");
            let build = || {
                let builder = Sandbox::builder().engine(&engine);
                builder.host_function("weekday", String::new).build(&hello)
            };
            drop(build().expect("a sandbox"));
            let open = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
            let before = open();
            let mut alive = Vec::new();
            set_descriptor_limit(32);
            let refused = loop {
                match build() {
                    Ok(sandbox) => alive.push(sandbox),
                    Err(error) => break error,
                }
            };
            set_descriptor_limit(1024);
            assert_eq!(refused.kind(), ErrorKind::Hypervisor);
            assert!(refused.to_string().contains("no file descriptors left"), "{refused}");
            alive.clear();
            assert_eq!(open(), before);
            build().expect("a sandbox");
        });
    }
}

/// As for most users.
fn ask_for_no_backend() {
    // SAFETY: the calling test is alone in its process.
    unsafe { std::env::remove_var(VARIABLE) };
}

/// The library runs guests on nothing but a hypervisor unless told otherwise: how to tell it so is said.
fn names_what_to_do_without(error: &Error) {
    for words in [
        "isolate them less",
        "SECURITY.md",
        "EngineBuilder::backend(Backend::Process)",
        "GLOWBOX_BACKEND=process",
    ] {
        assert!(error.to_string().contains(words), "no {words} in {error}");
    }
}

fn kvm_can_not_be_forbidden() -> bool {
    use std::os::unix::fs::PermissionsExt;
    let Ok(device) = std::fs::metadata("/dev/kvm") else {
        leave_out("there is no /dev/kvm here");
        return true;
    };
    let open = device.permissions().mode() & 0o006 != 0;
    if open {
        leave_out("everybody may use /dev/kvm here");
    }
    open
}

fn set_descriptor_limit(limit: u64) {
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: 1024 };
    // SAFETY: reads a struct on this stack.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) }, 0);
}
