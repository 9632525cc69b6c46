//! Linux programs of a few instructions, with states that no compiler makes: what the host takes from them and
//! sets, it checks.

use glowbox::{Access, Error, ExitStatus, FaultKind, Guest, Sandbox};
use glowbox_linux::space::ADDRESSES_END;
use glowbox_machine::supervisor::SYSCALL_ENTRY;
use glowbox_testguest::{CODE, DATA, GuestFile};

const SEGV: i32 = 11;
/// A number that none of these programs' calls gives.
const WORKED: i32 = 77;

/// `mov REG, value`, for RAX, RCX, RDX, RBX, RSP, RBP, RSI and RDI by number.
fn set(register: u8, value: u64) -> Vec<u8> {
    [&[0x48, 0xb8 | register][..], &value.to_le_bytes()].concat()
}

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSP: u8 = 4;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// The system call of this number.
fn call(number: u64) -> Vec<u8> {
    [set(RAX, number), vec![0x0f, 0x05]].concat()
}

/// `exit` with RDI.
fn exit() -> Vec<u8> {
    call(60)
}

/// `lea REG, [rip + to]`, at so many bytes of code, to a place from the code's start.
fn lea(register: u8, at: usize, to: usize) -> Vec<u8> {
    let relative = i32::try_from(to).unwrap() - i32::try_from(at + 7).unwrap();
    [&[0x48, 0x8d, 0x05 | register << 3][..], &relative.to_le_bytes()].concat()
}

/// A jump to where `syscall` enters ring 0, as if this were one that returns to RCX.
fn jump_to_the_entry() -> Vec<u8> {
    // jmp rdx
    [set(RDX, SYSCALL_ENTRY.0), vec![0xff, 0xe2]].concat()
}

/// Where the data is, from the code's start.
const DATA_AT: usize = 4096;
const _: () = assert!(CODE + DATA_AT as u64 == DATA);

/// A handler for SIGSEGV that ends the program with `WORKED` if it was at the entry of `syscall`, where the
/// program has jumped to; what follows is the program.
fn handling() -> Vec<u8> {
    let mut code = vec![];
    // It stands behind all this.
    const HANDLER: usize = 77;
    let words = [(RAX, HANDLER, 0), (RAX, HANDLER, 16)];
    let mut begin = |register, to, field: usize| {
        code.extend(lea(register, code.len(), to));
        // mov [rip + data + field], rax
        let relative = DATA_AT + field - (code.len() + 7);
        code.extend([0x48, 0x89, 0x05]);
        code.extend(u32::try_from(relative).unwrap().to_le_bytes());
    };
    words.into_iter().for_each(|(register, to, field)| begin(register, to, field));
    // SA_RESTORER: mov dword [rip + data + 8], 0x0400_0000
    let relative = DATA_AT + 8 - (code.len() + 10);
    code.extend([0xc7, 0x05]);
    code.extend(u32::try_from(relative).unwrap().to_le_bytes());
    code.extend(0x0400_0000_u32.to_le_bytes());
    code.extend(lea(RSI, code.len(), DATA_AT));
    code.extend(set(RDI, 11));
    // xor edx, edx; mov r10d, 8
    code.extend([0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0]);
    code.extend(call(13));
    // jmp over the handler
    // mov rdx, entry; cmp [rsi + 16], rdx; setne al; movzx eax, al; mov rdi, WORKED; add edi, eax
    let look = [0x48, 0x39, 0x56, 0x10, 0x0f, 0x95, 0xc0, 0x0f, 0xb6, 0xc0];
    let worked = u64::try_from(WORKED).unwrap();
    let handler =
        [set(RDX, SYSCALL_ENTRY.0), look.to_vec(), set(RDI, worked), vec![0x01, 0xc7], exit()]
            .concat();
    code.extend([0xeb, u8::try_from(handler.len()).unwrap()]);
    assert_eq!(code.len(), HANDLER, "where the handler stands");
    code.extend(handler);
    code
}

/// Runs a program of this code, and twice more as copies of it that has not run; beside another one that works
/// all the time.
fn run(code: &[u8]) -> ExitStatus {
    let program =
        |code: &[u8]| Guest::from_bytes("raw", GuestFile::program(code).to_bytes()).unwrap();
    let honest = [set(RDI, 5), exit()].concat();
    let mut original = Sandbox::builder().load(program(code)).unwrap();
    let mut bystander = Sandbox::builder().load(program(&honest)).unwrap();
    let (snapshot, other) = (original.snapshot().unwrap(), bystander.snapshot().unwrap());
    let ended =
        |result: Result<ExitStatus, Error>| result.unwrap_or_else(|e| panic!("{code:02x?}: {e:?}"));
    let first = ended(original.run());
    for _ in 0..2 {
        let again = ended(snapshot.spawner().load().unwrap().run());
        assert_eq!((first.code(), first.signal()), (again.code(), again.signal()));
        assert_eq!(other.spawner().load().unwrap().run().unwrap().code(), Some(5));
    }
    assert_eq!(bystander.run().unwrap().code(), Some(5));
    first
}

/// Addresses from which no program can go on.
const NOWHERE: [u64; 6] =
    [ADDRESSES_END, 0x8000_0000_0000, 1 << 63, 0xffff_8000_0000_0000, u64::MAX - 4095, u64::MAX];

tests! {
    fn a_call_from_where_no_code_can_lie_is_a_fault() {
        // One from where code lies is a call, whoever makes it: `getpid`, from before the next instruction.
        let mut honest = set(RAX, 39);
        let next = honest.len() + 7 + jump_to_the_entry().len();
        honest.extend(lea(RCX, honest.len(), next));
        honest.extend(jump_to_the_entry());
        // mov edi, eax
        honest.extend([0x89, 0xc7]);
        honest.extend(exit());
        assert_eq!(run(&honest).code(), Some(2));
        for address in NOWHERE {
            let jump = [set(RCX, address), set(RAX, 39), jump_to_the_entry()].concat();
            let status = run(&jump);
            assert_eq!(status.signal(), Some(SEGV), "{address:#x}");
            let fault = status.fault().unwrap();
            assert_eq!(fault.kind, FaultKind::Supervisor(Access::Execute), "{address:#x}");
            assert_eq!(fault.rip, SYSCALL_ENTRY.0, "{address:#x}");
            let handled = [handling(), jump].concat();
            assert_eq!(run(&handled).code(), Some(WORKED), "{address:#x}");
        }
    }

    fn a_signal_frame_that_leads_nowhere_is_a_fault() {
        for address in NOWHERE {
            // rt_sigreturn of a frame in the data whose RIP is that, and everything else zero.
            let at = 16 * 8 + 40;
            let mut code = lea(RSI, 0, DATA_AT + 64);
            code.extend(set(RAX, address));
            // mov [rsi + at], rax; mov rsp, rsi
            code.extend([0x48, 0x89, 0x86]);
            code.extend(u32::to_le_bytes(at));
            code.extend([0x48, 0x89, 0xf4]);
            code.extend(call(15));
            assert_eq!(run(&code).signal(), Some(SEGV), "{address:#x}");
        }
        // A stack of no address at all.
        for address in NOWHERE {
            let code = [set(RSP, address), call(15)].concat();
            assert_eq!(run(&code).signal(), Some(SEGV), "{address:#x}");
        }
    }

    fn segment_bases_that_linux_refuses_are_refused_or_harmless() {
        const EPERM: i32 = 1;
        // mov edi, eax; neg edi; exit
        let tell = [vec![0x89, 0xc7, 0xf7, 0xdf], exit()].concat();
        for address in NOWHERE {
            for which in [0x1001, 0x1002] {
                let code = [set(RDI, which), set(RSI, address), call(158), tell.clone()].concat();
                assert_eq!(run(&code).code(), Some(EPERM), "{address:#x}");
            }
            // wrfsbase rax and wrgsbase rax, which the machine takes if the address is canonical; then a call.
            for write in [[0xf3, 0x48, 0x0f, 0xae, 0xd0], [0xf3, 0x48, 0x0f, 0xae, 0xd8]] {
                let code = [&set(RAX, address)[..], &write, &set(RDI, 0), &exit()].concat();
                let status = run(&code);
                assert!(status.code() == Some(0) || status.signal().is_some(), "{status:?}");
                // And one that it goes on from.
                let code = [&set(RAX, address)[..], &write, &call(39), &set(RDI, 0), &exit()].concat();
                let status = run(&code);
                // SIGILL, where there is no such instruction; and SEGV, where it refuses the address. QEMU takes any.
                let is_canonical = matches!(address >> 47, 0 | 0x1_ffff);
                let ended = (status.code(), status.signal());
                let refused = ended == (None, Some(SEGV)) && !is_canonical;
                let is_well = ended == (Some(0), None) || refused || ended == (None, Some(4));
                assert!(is_well, "{address:#x}: {status:?}");
            }
        }
    }
}
