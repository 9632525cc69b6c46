//! Every I/O port, in and out, in each width, and string I/O: none leads anywhere but to the host, and but for
//! the call port, in an error that names it.

use glowbox_abi::CALL_PORT;
use glowbox_core::registers::Registers;
use glowbox_machine::Exit;
use glowbox_machine::supervisor;

use crate::ground::{Ground, Outcome};
use crate::support::{executed, factor, tried};

/// `in` and `out` by DX, of one, two and four bytes.
const IN: [&[u8]; 3] = [&[0xec], &[0x66, 0xed], &[0xed]];
const OUT: [&[u8]; 3] = [&[0xee], &[0x66, 0xef], &[0xef]];

/// Whether it ended with an error at this port: in ring 3's own `#GP`, or by the port.
fn is_refused(ground: &Ground, outcome: &Outcome, port: u16) -> bool {
    match &outcome.exit {
        Exit::Exception(exception) => {
            (exception.vector, exception.error_code, exception.registers.rip)
                == (13, 0, ground.code)
        }
        Exit::Port { port: used, .. } => *used == port,
        _ => false,
    }
}

fn use_port(ground: &mut Ground, code: &[u8], port: u16) -> Outcome {
    let registers = Registers { rax: 0x1234_5678, rdx: port.into(), ..Registers::default() };
    ground.run_to_its_end(code, &registers)
}

/// Uses each port, by the first of the instructions always and by the others for some ports.
fn all_ports(class: &'static str, codes: [&[u8]; 3]) {
    let mut ground = Ground::new();
    let each = (64 / factor()).max(1);
    for port in 0..=u16::MAX {
        let special = port < 0x100 || (0xcf8..0xd00).contains(&port) || port > 0xfff0;
        let wide = special || u64::from(port).is_multiple_of(each);
        for code in &codes[..if wide { 3 } else { 1 }] {
            let outcome = use_port(&mut ground, code, port);
            let is_call = port == u16::from(CALL_PORT) && codes == OUT;
            match is_call && outcome.exit == Exit::CalledOut {
                true => {}
                // Where the bitmap counts, a wide call is one to the ports behind too.
                false => {
                    assert!(!is_call || *code != OUT[0], "the call port: {outcome:x?}");
                    let refused = is_refused(&ground, &outcome, port);
                    assert!(refused, "port {port:#x}, {code:02x?}: {outcome:x?}");
                }
            }
            tried(class, 1);
            executed(class, 1);
        }
    }
    ground.prove_clean();
}

tests! {
    fn every_port_is_refused_to_in() {
        all_ports("ports, in", IN);
    }

    fn every_port_but_the_call_port_is_refused_to_out() {
        all_ports("ports, out", OUT);
    }

    fn ports_in_the_instruction_are_as_those_in_a_register() {
        let mut ground = Ground::new();
        for port in 0..=255u8 {
            for code in [[0xe4, port], [0xe5, port], [0xe6, port], [0xe7, port]] {
                let outcome = ground.run_to_its_end(&code, &Registers::default());
                let called = port == CALL_PORT && code[0] >= 0xe6 && outcome.exit == Exit::CalledOut;
                assert!(called || is_refused(&ground, &outcome, port.into()), "{code:02x?}: {outcome:x?}");
                tried("ports in the instruction", 1);
            }
        }
        ground.prove_clean();
    }

    fn string_input_and_output_end_in_an_error_or_a_call() {
        let mut ground = Ground::new();
        let places = [
            ground.data + 0x100,
            ground.data + 0xffe,
            ground.code,
            ground.stack.start,
            0,
            glowbox_core::layout::SUPERVISOR_STACK.0,
            glowbox_core::layout::PAGE_TABLES.0,
            0x8000_0000_0000_0000,
            u64::MAX - 1,
        ];
        let prefixes: [&[u8]; 8] = [
            &[], &[0xf3], &[0xf2], &[0x66], &[0xf3, 0x66], &[0xf3, 0x48], &[0xf3, 0x67], &[0x64, 0xf3],
        ];
        let ports = [u16::from(CALL_PORT), u16::from(supervisor::PORT), 0, 0x60, 0x80, 0x3f8, 0xcf8, 0xffff];
        for (at, place) in places.into_iter().enumerate() {
            for prefix in prefixes {
                for opcode in 0x6c..=0x6fu8 {
                    for (number, port) in ports.into_iter().enumerate() {
                        let count = [1, 0, 2, 5000, u64::MAX][(at + number) % 5];
                        let code = [prefix, &[opcode]].concat();
                        let registers = Registers {
                            rdx: port.into(),
                            rcx: count,
                            rsi: place,
                            rdi: place,
                            ..Registers::default()
                        };
                        let outcome = ground.run_to_its_end(&code, &registers);
                        let is_call = port == u16::from(CALL_PORT) && opcode >= 0x6e;
                        let expected = match &outcome.exit {
                            Exit::Exception(exception) => match exception.vector {
                                // Nothing was to be moved.
                                3 => count == 0 && prefix.len() > usize::from(prefix == [0x66]),
                                12..=14 => true,
                                _ => false,
                            },
                            Exit::Port { port: used, .. } => *used == port,
                            exit => is_call && *exit == Exit::CalledOut,
                        };
                        assert!(expected, "port {port:#x}, {code:02x?}: {outcome:x?}");
                        tried("string input and output", 1);
                    }
                }
            }
        }
        ground.prove_clean();
    }
}
