//! The backend without a hypervisor: what its processes can do and what they have. Whatever backend the other
//! tests run on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glowbox::{Backend, Engine, ErrorKind, FaultKind, Guest, Sandbox};
use glowbox_testguest::{CODE, DATA, GuestFile};

use crate::support::{builder, error, guest, in_fork, isolated, leave_out};

/// An engine whose guests are processes, where that can be.
fn engine() -> Option<Engine> {
    match Engine::builder().backend(Backend::Process).build() {
        Ok(engine) => Some(engine),
        Err(error) => {
            leave_out(&format!("no processes for guests: {error}"));
            None
        }
    }
}

/// The processes that this one has started and that are there yet.
fn children() -> BTreeSet<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_task = |task: std::fs::DirEntry| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let numbers = children.split_whitespace().map(|number| number.parse().unwrap());
        numbers.collect::<Vec<i32>>()
    };
    tasks.flatten().flat_map(of_task).collect()
}

fn read(process: i32, file: &str) -> std::io::Result<String> {
    std::fs::read_to_string(format!("/proc/{process}/{file}"))
}

/// Code of guests lies below, and no code of a Linux program does that the system has placed.
const LAYOUTS_END: u64 = 512 << 30;

/// The only architecture whose system calls the host makes.
const X86_64: u32 = 0xc000_003e;

/// From now on whatever process this thread or one that it starts makes is ended by a system call from where
/// guests' code lies, and by a 32-bit one (`int 0x80` or of 32-bit code) from anywhere. Not by one from the page of
/// system calls from old times: the kernel asks filters before it would make that, and the process's own is what
/// refuses it, as the guest's fault shows.
fn end_who_calls_from_guests_addresses() {
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let jump = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        // The architecture.
        statement(load, 4, 0, 0),
        statement(equal, X86_64, 0, 2),
        // The upper half of the instruction pointer.
        statement(load, 12, 0, 0),
        statement(jump, u32::try_from(LAYOUTS_END >> 32).unwrap(), 1, 0),
        statement(end, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        statement(end, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 6, filter: program.as_mut_ptr() };
    // SAFETY: the filter is read while the call lasts, and forbids nothing that this process does.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Runs `mov eax, number`, this instruction, and `ret` at an address.
fn call_from(address: usize, number: u8, [first, second]: [u8; 2]) {
    let code = [0xb8, number, 0, 0, 0, first, second, 0xc3];
    // SAFETY: maps a page where nothing is, writes a function to it (getppid and return), and calls that.
    unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let place = std::ptr::without_provenance_mut(address);
        let page = libc::mmap(place, 4096, rights, flags, -1, 0);
        assert_eq!(page, place);
        page.cast::<[u8; 8]>().write(code);
        std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(page)();
    }
}

/// Where 32-bit code lies.
const AT: u64 = 0x40_0000;

/// A program at a fixed address, which 32-bit code can have, with this code of that kind.
fn in_32_bit_code(code: &[u8]) -> GuestFile {
    let there = u32::try_from(AT + CODE + 9).unwrap().to_le_bytes();
    // push 0x23; push there; retfq
    let far = [&[0x6a, 0x23, 0x68][..], &there, &[0x48, 0xcb]].concat();
    let mut file = GuestFile::of_code(&[&far, code].concat());
    file.file_type = 2;
    file.entry += AT;
    file.segments.iter_mut().for_each(|segment| segment.address += AT);
    file
}

fn run_code(engine: &Engine, code: &[u8]) -> glowbox::Error {
    let guest = Guest::from_bytes("raw", GuestFile::of_code(code).to_bytes()).expect("a guest");
    error(Sandbox::builder().engine(engine).build(guest))
}

tests! {
    fn no_system_call_of_a_guest_reaches_the_kernel() {
        isolated("processes::no_system_call_of_a_guest_reaches_the_kernel", || {
            end_who_calls_from_guests_addresses();
            let Some(engine) = engine() else { return };
            // Such a call does end a process.
            let guests = 4 << 30;
            let others = usize::try_from(LAYOUTS_END + guests).unwrap();
            let status = in_fork(|| call_from(usize::try_from(guests).unwrap(), 110, [0x0f, 0x05]));
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status}");
            assert_eq!(in_fork(|| call_from(others, 110, [0x0f, 0x05])), 0);
            // Where there are no 32-bit calls, by SIGSEGV.
            let status = in_fork(|| call_from(others, 64, [0xcd, 0x80]));
            assert!(libc::WIFSIGNALED(status), "{status}");
            for number in (0..470_u32).chain([u32::MAX, 1 << 30, 0x4000_0000 | 59]) {
                let [a, b, c, d] = number.to_le_bytes();
                // mov eax, number; syscall, or int 0x80, or sysenter.
                let mov = [0xb8, a, b, c, d];
                let ended = run_code(&engine, &[&mov[..], &[0x0f, 0x05]].concat());
                assert_eq!(ended.fault().map(|fault| fault.kind), Some(FaultKind::Syscall), "{ended}");
                let ended = run_code(&engine, &[&mov[..], &[0xcd, 0x80]].concat());
                let kind = ended.fault().map(|fault| fault.kind);
                assert_eq!(kind, Some(FaultKind::SoftwareInterrupt(0x80)), "{ended}");
                if number < 8 {
                    let ended = run_code(&engine, &[&mov[..], &[0x0f, 0x34]].concat());
                    assert_eq!(ended.kind(), ErrorKind::Fault, "{ended}");
                }
            }
            // And in 32-bit code: mov eax, number, and one of the three.
            for number in 0..8 {
                for call in [[0xcd, 0x80], [0x0f, 0x05], [0x0f, 0x34]] {
                    let code = [&[0xb8, number, 0, 0, 0][..], &call].concat();
                    let raw = Guest::from_bytes("raw", in_32_bit_code(&code).to_bytes());
                    let ended = error(Sandbox::builder().engine(&engine).build(raw.unwrap()));
                    assert_eq!(ended.kind(), ErrorKind::Fault, "{call:x?}: {ended}");
                    let kind = ended.fault().map(|fault| fault.kind);
                    let is_80 = kind == Some(FaultKind::SoftwareInterrupt(0x80));
                    assert_eq!(is_80, call[0] == 0xcd, "{call:x?}: {ended}");
                }
            }
            // Neither at the only instruction that makes calls for the tracer, nor in the page of system
            // calls from old times, with and without a stack that can be read. sub rsp, 64 or nothing;
            // mov rax, address; jmp rax.
            for address in [0x7ff0_0000_0000_u64, 0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_0400] {
                for start in [&[][..], &[0x48, 0x83, 0xec, 0x40]] {
                    let jump = [&[0x48, 0xb8][..], &address.to_le_bytes(), &[0xff, 0xe0]].concat();
                    let ended = run_code(&engine, &[start, &jump].concat());
                    let fault = ended.fault().unwrap_or_else(|| panic!("{address:#x}: {ended}"));
                    assert_eq!((fault.vector, fault.address), (Some(14), Some(address)), "{ended}");
                }
            }
        });
    }

    fn a_guest_in_32_bit_code_is_one_like_any_other_and_so_is_the_next() {
        isolated("processes::a_guest_in_32_bit_code_is_one_like_any_other_and_so_is_the_next", || {
            let Some(engine) = engine() else { return };
            let data = u32::try_from(AT + DATA).unwrap();
            // mov eax, 0x2b; mov ds, eax; mov eax, [data], of a page that has not been used;
            // out PORT, al
            let segment = [0xb8, 0x2b, 0, 0, 0, 0x8e, 0xd8];
            let load = [&segment[..], &[0xa1], &data.to_le_bytes(), &[0xe6, 0x47]].concat();
            let file = in_32_bit_code(&load);
            for _ in 0..3 {
                let raw = Guest::from_bytes("raw", file.to_bytes()).expect("a guest");
                let ended = error(Sandbox::builder().engine(&engine).build(raw));
                assert_eq!(ended.kind(), ErrorKind::Protocol, "{ended}");
                // The same process runs this one.
                let mut next = builder().engine(&engine).build(guest("testing")).unwrap();
                assert_eq!(next.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
            }
        });
    }

    fn a_guests_process_has_its_memory_and_little_else() {
        isolated("processes::a_guests_process_has_its_memory_and_little_else", || {
            let before = children();
            let Some(engine) = engine() else { return };
            let mut sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
            assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
            let new: Vec<i32> = children().difference(&before).copied().collect();
            let [process] = new[..] else { panic!("{new:?}") };
            let Ok(maps) = read(process, "maps") else {
                return leave_out("looking into a process that can't be dumped takes root");
            };
            for line in maps.lines() {
                let names = ["glowbox-guest", "glowbox-stub", "glowbox-frames", "[vsyscall]"];
                assert!(names.iter().any(|name| line.contains(name)), "{maps}");
                assert!(!line.contains("rwx"), "{maps}");
            }
            let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
            assert_eq!(descriptors, 2, "its memory and a socket to the host");
            let status = read(process, "status").unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).expect(name);
                line.split_whitespace().nth(1).unwrap().to_string()
            };
            assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"));
            assert_eq!(field("Threads:"), "1");
            assert_ne!(field("TracerPid:"), "0");
            let limits = read(process, "limits").unwrap();
            for name in ["Max core file size", "Max processes", "Max locked memory"] {
                let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
                let numbers: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
                assert_eq!(numbers, ["0", "0"], "{line}");
            }
            drop((sandbox, engine));
            assert_eq!(children(), before);
        });
    }

    fn signals_that_others_send_do_nothing_to_guests() {
        isolated("processes::signals_that_others_send_do_nothing_to_guests", || {
            if engine().is_none() {
                return;
            }
            // To each process of the group at first, and to guests' own.
            let status = in_fork(|| {
                // SAFETY: takes integers; the signals are such that end nobody.
                let send = |to: i32| unsafe {
                    libc::kill(to, libc::SIGCONT);
                    libc::kill(to, libc::SIGWINCH);
                };
                // SAFETY: takes integers.
                assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
                let ended = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !ended.load(Ordering::Relaxed) {
                            send(0);
                            children().into_iter().for_each(send);
                        }
                    });
                    let results = std::panic::catch_unwind(|| {
                        for _ in 0..20 {
                            let engine = engine().unwrap();
                            let mut sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
                            for _ in 0..20 {
                                assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
                            }
                            let ended = run_code(&engine, &[0x0f, 0x0b]);
                            let kind = ended.fault().map(|fault| fault.kind);
                            assert_eq!(kind, Some(FaultKind::InvalidOpcode), "{ended}");
                        }
                    });
                    ended.store(true, Ordering::Relaxed);
                    results.unwrap();
                });
            });
            assert_eq!(status, 0);
        });
    }

    fn a_guest_has_no_right_of_its_hosts_to_ports() {
        isolated("processes::a_guest_has_no_right_of_its_hosts_to_ports", || {
            // As far as this process may have them itself, which takes root.
            // SAFETY: takes integers, and gives this thread and those that it starts rights that they don't use.
            unsafe {
                libc::ioperm(0x80, 1, 1);
                libc::syscall(libc::SYS_iopl, 3);
            }
            let Some(engine) = engine() else { return };
            // in al, 0x80; ud2
            let ended = run_code(&engine, &[0xe4, 0x80, 0x0f, 0x0b]);
            let kind = ended.fault().map(|fault| fault.kind);
            assert_eq!(kind, Some(FaultKind::ForbiddenPort), "{ended}");
        });
    }

    fn a_guest_whose_process_is_killed_is_spent_and_others_go_on() {
        isolated("processes::a_guest_whose_process_is_killed_is_spent_and_others_go_on", || {
            let Some(engine) = engine() else { return };
            let build = || builder().engine(&engine).build(guest("testing")).unwrap();
            let mut other = build();
            let before = children();
            let mut killed = build();
            let new: Vec<i32> = children().difference(&before).copied().collect();
            let [process] = new[..] else { panic!("{new:?}") };
            // SAFETY: ends a process that this one has started.
            unsafe { libc::kill(process, libc::SIGKILL) };
            let ended = error(killed.call::<_, u32>("add", (1u32, 2u32)));
            assert_eq!(ended.kind(), ErrorKind::Hypervisor, "{ended}");
            assert!(killed.is_spent() && killed.reset().is_err());
            assert_eq!(other.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
            drop(killed);
            assert_eq!(build().call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        });
    }

    fn a_guests_process_ends_with_its_host() {
        isolated("processes::a_guests_process_ends_with_its_host", || {
            if engine().is_none() {
                return;
            }
            let (mut reader, writer) = std::io::pipe().unwrap();
            // The host is killed while its guest runs, which would go on for ever by itself.
            let status = in_fork(|| {
                let engine = engine().unwrap();
                // jmp to itself
                std::thread::spawn(move || run_code(&engine, &[0xeb, 0xfe]));
                let process = loop {
                    if let Some(process) = children().into_iter().find(|process| has_run(*process)) {
                        break process;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                };
                std::io::Write::write_all(&mut &writer, &process.to_le_bytes()).unwrap();
                // SAFETY: ends this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            });
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL, "{status}");
            drop(writer);
            let mut number = [0; 4];
            std::io::Read::read_exact(&mut reader, &mut number).unwrap();
            let process = i32::from_le_bytes(number);
            let end = Instant::now() + Duration::from_secs(20);
            // SAFETY: signal 0 is none; it asks whether the process is there.
            while unsafe { libc::kill(process, 0) } == 0 && !is_a_zombie(process) {
                assert!(Instant::now() < end, "{process} is there yet");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

/// Whether a process has run its own code for a while.
fn has_run(process: i32) -> bool {
    let Ok(stat) = read(process, "stat") else { return false };
    // The time in hundredths of a second, the twelfth field behind the name.
    let time = stat.rsplit(") ").next().and_then(|rest| rest.split_whitespace().nth(11));
    time.is_some_and(|time| time.parse::<u64>().unwrap() >= 5)
}

/// Whether a process has ended, and nobody has asked how.
fn is_a_zombie(process: i32) -> bool {
    read(process, "stat").is_ok_and(|stat| stat.contains(") Z "))
}
