//! Intercept messages.

use mshv_bindings::{
    HV_INTERCEPT_ACCESS_READ, HV_INTERCEPT_ACCESS_WRITE, hv_message, hv_message_header,
    hv_message_type, hv_message_type_HVMSG_GPA_INTERCEPT as GPA_INTERCEPT,
    hv_message_type_HVMSG_UNMAPPED_GPA as UNMAPPED_GPA,
    hv_message_type_HVMSG_X64_IO_PORT_INTERCEPT as IO_PORT_INTERCEPT,
    hv_x64_intercept_message_header, hv_x64_io_port_access_info, hv_x64_io_port_intercept_message,
    hv_x64_memory_intercept_message, hv_x64_vp_execution_state,
};

use crate::registers::hv_segment;
use crate::user::{Plain, bytes_of};
use crate::vp::State;

/// Protected mode and long mode, in the execution state; below them is the privilege level.
const PROTECTED_LONG: u16 = 1 << 2 | 1 << 4;

/// An instruction that used a port.
#[derive(Clone, Copy)]
pub(crate) struct PortAccess {
    pub(crate) port: u16,
    pub(crate) written: bool,
    /// Bytes at a time.
    pub(crate) size: u8,
    /// Whether it is one of `ins` and `outs`.
    pub(crate) string: bool,
    /// Bytes of the instruction.
    pub(crate) length: u8,
}

fn access(written: bool) -> u8 {
    let access = if written { HV_INTERCEPT_ACCESS_WRITE } else { HV_INTERCEPT_ACCESS_READ };
    access.to_le_bytes()[0]
}

fn message<T: Plain>(message_type: hv_message_type, payload: &T) -> hv_message {
    let mut bytes = bytes_of(payload);
    let header = hv_message_header {
        message_type,
        payload_size: u8::try_from(bytes.len()).expect("a payload has 240 bytes"),
        ..Default::default()
    };
    let mut message = hv_message { header, ..Default::default() };
    bytes.resize(240, 0);
    let mut payload = [0; 30];
    for (word, bytes) in payload.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    message.u.payload = payload;
    message
}

fn header(state: &State, access: u8, length: u8) -> hv_x64_intercept_message_header {
    let mut header = hv_x64_intercept_message_header {
        intercept_access_type: access,
        execution_state: hv_x64_vp_execution_state {
            as_uint16: u16::from(state.sregs.ss.dpl) | PROTECTED_LONG,
        },
        cs_segment: hv_segment(&state.sregs.cs),
        rip: state.regs.rip,
        rflags: state.regs.rflags,
        ..Default::default()
    };
    header.set_instruction_length(length);
    header
}

/// The guest used a port; it is still at that instruction.
pub(crate) fn port(state: &State, of: PortAccess) -> hv_message {
    let mut access_info = hv_x64_io_port_access_info::default();
    access_info.as_uint8 = of.size | u8::from(of.string) << 3;
    let (r, s) = (&state.regs, &state.sregs);
    let payload = hv_x64_io_port_intercept_message {
        header: header(state, access(of.written), of.length),
        port_number: of.port,
        access_info,
        rax: r.rax,
        rcx: r.rcx,
        rsi: r.rsi,
        rdi: r.rdi,
        ds_segment: hv_segment(&s.ds),
        es_segment: hv_segment(&s.es),
        ..Default::default()
    };
    message(IO_PORT_INTERCEPT, &payload)
}

/// The guest used memory that is not there, or that it may not use so.
pub(crate) fn memory(state: &State, gpa: u64, written: bool, mapped: bool) -> hv_message {
    let payload = hv_x64_memory_intercept_message {
        header: header(state, access(written), 0),
        guest_physical_address: gpa,
        ..Default::default()
    };
    message(if mapped { GPA_INTERCEPT } else { UNMAPPED_GPA }, &payload)
}

/// A message that says no more than where the guest is.
pub(crate) fn other(state: &State, message_type: hv_message_type) -> hv_message {
    message(message_type, &header(state, 0, 0))
}
