//! `MSHV_ROOT_HVCALL`: hypercalls that the driver passes on.

use std::sync::Arc;

use mshv_bindings::{
    HV_HYP_PAGE_SIZE, HV_STATUS_INVALID_HYPERCALL_INPUT, HV_STATUS_INVALID_PARTITION_STATE,
    HV_STATUS_INVALID_VP_INDEX, HV_STATUS_INVALID_VP_STATE, HV_STATUS_SUCCESS,
    HV_STATUS_UNKNOWN_PROPERTY, HVCALL_GET_PARTITION_PROPERTY, HVCALL_GET_VP_CPUID_VALUES,
    HVCALL_GET_VP_REGISTERS, HVCALL_REGISTER_INTERCEPT_RESULT, HVCALL_SET_PARTITION_PROPERTY,
    HVCALL_SET_VP_REGISTERS, hv_input_get_partition_property, hv_input_register_intercept_result,
    hv_input_set_partition_property, hv_intercept_type_HV_INTERCEPT_TYPE_X64_CPUID as CPUID,
    hv_partition_property_code_HV_PARTITION_PROPERTY_SYNTHETIC_PROC_FEATURES as SYNTHETIC_FEATURES,
    hv_register_assoc, mshv_root_hvcall,
};

use crate::Errno;
use crate::partition::Partition;
use crate::user::{self, bytes_of, prefix};
use crate::vp::State;

/// A hypercall's status, where it is no success.
pub(crate) type Status = u32;

/// The hypercalls that the driver passes on (`mshv_passthru_hvcalls`) and that are answered here.
const PASSED: [u32; 6] = [
    HVCALL_GET_PARTITION_PROPERTY,
    HVCALL_SET_PARTITION_PROPERTY,
    HVCALL_GET_VP_REGISTERS,
    HVCALL_SET_VP_REGISTERS,
    HVCALL_REGISTER_INTERCEPT_RESULT,
    HVCALL_GET_VP_CPUID_VALUES,
];

/// Bytes before the repeated part of the hypercalls on registers: partition, processor, trust level and
/// reserved ones; and of the one on `cpuid`.
const REGISTERS_HEADER: usize = 16;
const CPUID_HEADER: usize = 24;
/// Bytes of what is repeated.
const NAME: usize = 4;
const VALUE: usize = 16;
const ASSOCIATION: usize = size_of::<hv_register_assoc>();
const LEAF: usize = 24;
/// A flag of the one on `cpuid`: what has been registered counts.
const APPLY_REGISTERED: u32 = 1 << 1;
const KNOWN_CPUID_FLAGS: u32 = 3;

/// A request's input, as the driver hands it on, and how often it is repeated.
struct Input<'a> {
    partition: &'a Arc<Partition>,
    bytes: Vec<u8>,
    repeats: usize,
}

/// Answers the request. `on_vp`: whether it was made of a virtual processor.
pub(crate) fn request(partition: &Arc<Partition>, on_vp: bool, at: u64) -> Result<i32, Errno> {
    let mut args: mshv_root_hvcall = user::read(at)?;
    let (page, in_size, out_size) = (HV_HYP_PAGE_SIZE as usize, args.in_sz, args.out_sz);
    let nonzero = args.rsvd.iter().any(|byte| *byte != 0);
    if args.status != 0 || args.in_ptr == 0 || in_size < 8 || nonzero || in_size as usize > page {
        return Err(libc::EINVAL);
    }
    if args.out_ptr != 0 && (out_size == 0 || out_size as usize > page) {
        return Err(libc::EINVAL);
    }
    // What the header says of it; the driver lets it pass.
    if args.out_ptr == 0 && out_size != 0 {
        return Err(libc::EINVAL);
    }
    let code = u32::from(args.code);
    // The driver waits for the end of the one that may take longer, and has that made of partitions only.
    if !PASSED.contains(&code) || code == HVCALL_SET_PARTITION_PROPERTY && on_vp {
        return Err(libc::EINVAL);
    }
    let bytes = user::read_bytes(args.in_ptr, in_size.into())?;
    let input = Input { partition, bytes, repeats: args.reps.into() };
    let answer = input.answer(code);
    let (status, output) = match answer {
        Ok(output) => (HV_STATUS_SUCCESS, output),
        Err(status) => (status, Vec::new()),
    };
    args.status = u16::try_from(status).map_err(|_| libc::EIO)?;
    args.reps = if status == HV_STATUS_SUCCESS { args.reps } else { 0 };
    user::write(at, &args)?;
    if args.out_ptr != 0 {
        let mut output = output;
        output.resize(out_size.into(), 0);
        user::write_bytes(args.out_ptr, &output)?;
    }
    errno(status).map_or(Ok(0), Err)
}

/// What the driver makes of a status (`hv_status_infos` in `hv_common.c`).
fn errno(status: Status) -> Option<Errno> {
    match status {
        HV_STATUS_SUCCESS => None,
        HV_STATUS_INVALID_HYPERCALL_INPUT
        | HV_STATUS_INVALID_VP_INDEX
        | mshv_bindings::HV_STATUS_INVALID_PARAMETER => Some(libc::EINVAL),
        _ => Some(libc::EIO),
    }
}

impl Input<'_> {
    fn answer(&self, code: u32) -> Result<Vec<u8>, Status> {
        match code {
            HVCALL_GET_PARTITION_PROPERTY => self.get_property(),
            HVCALL_SET_PARTITION_PROPERTY => self.set_property(),
            HVCALL_GET_VP_REGISTERS => self.get_registers(),
            HVCALL_SET_VP_REGISTERS => self.set_registers(),
            HVCALL_REGISTER_INTERCEPT_RESULT => self.register_result(),
            _ => self.get_cpuid(),
        }
    }

    /// The input of a hypercall that is not repeated.
    fn single<T: user::Plain>(&self) -> Result<T, Status> {
        let fits = self.repeats == 0 && self.bytes.len() == size_of::<T>();
        prefix(&self.bytes).filter(|_| fits).ok_or(HV_STATUS_INVALID_HYPERCALL_INPUT)
    }

    /// The repeated parts of the input, of `size` bytes each, behind `header` bytes.
    fn repeated(&self, header: usize, size: usize) -> Result<std::slice::Chunks<'_, u8>, Status> {
        let fits = self.repeats > 0 && self.bytes.len() == header + self.repeats * size;
        let parts = self.bytes.get(header..).filter(|_| fits);
        Ok(parts.ok_or(HV_STATUS_INVALID_HYPERCALL_INPUT)?.chunks(size))
    }

    /// The 32-bit word at an offset of the input.
    fn word(&self, at: usize) -> Result<u32, Status> {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(HV_STATUS_INVALID_HYPERCALL_INPUT)
    }

    /// Does something with the virtual processor that the input names.
    fn with_vp<T>(&self, what: impl FnOnce(&mut State) -> Result<T, Status>) -> Result<T, Status> {
        let vp = self.partition.vp(self.word(8)?).ok_or(HV_STATUS_INVALID_VP_INDEX)?;
        // One that runs can't be looked at.
        vp.with_state(what).unwrap_or(Err(HV_STATUS_INVALID_VP_STATE))
    }

    fn get_property(&self) -> Result<Vec<u8>, Status> {
        let input: hv_input_get_partition_property = self.single()?;
        if input.padding != 0 || input.property_code != SYNTHETIC_FEATURES {
            return Err(HV_STATUS_UNKNOWN_PROPERTY);
        }
        Ok(bytes_of(&self.partition.synthetic_features()))
    }

    fn set_property(&self) -> Result<Vec<u8>, Status> {
        let input: hv_input_set_partition_property = self.single()?;
        if input.padding != 0 || input.property_code != SYNTHETIC_FEATURES {
            return Err(HV_STATUS_UNKNOWN_PROPERTY);
        }
        let set = self.partition.set_synthetic_features(input.property_value);
        set.then(Vec::new).ok_or(HV_STATUS_INVALID_PARTITION_STATE)
    }

    /// The trust level and the reserved bytes have to be zero.
    fn check_registers_header(&self) -> Result<(), Status> {
        (self.word(12)? == 0).then_some(()).ok_or(HV_STATUS_INVALID_HYPERCALL_INPUT)
    }

    fn get_registers(&self) -> Result<Vec<u8>, Status> {
        self.check_registers_header()?;
        let names = self.repeated(REGISTERS_HEADER, NAME)?;
        let names: Vec<u32> = names.filter_map(prefix).collect();
        self.with_vp(|state| {
            let mut output = Vec::with_capacity(names.len() * VALUE);
            for name in names {
                output.extend(bytes_of(&state.register(name)?));
            }
            Ok(output)
        })
    }

    fn set_registers(&self) -> Result<Vec<u8>, Status> {
        self.check_registers_header()?;
        let parts = self.repeated(REGISTERS_HEADER, ASSOCIATION)?;
        let parts: Vec<hv_register_assoc> = parts.filter_map(prefix).collect();
        self.with_vp(|state| {
            for part in parts {
                if (part.reserved1, part.reserved2) != (0, 0) {
                    return Err(HV_STATUS_INVALID_HYPERCALL_INPUT);
                }
                state.set_register(part.name, part.value)?;
            }
            Ok(Vec::new())
        })
    }

    fn register_result(&self) -> Result<Vec<u8>, Status> {
        let input: hv_input_register_intercept_result = self.single()?;
        if input.intercept_type != CPUID {
            return Err(HV_STATUS_INVALID_HYPERCALL_INPUT);
        }
        // SAFETY: the type says which part of the union it is; all are plain integers.
        let cpuid = unsafe { input.parameters.cpuid };
        let flags = [cpuid.input.subleaf_specific, cpuid.input.always_override];
        if cpuid.input.padding != 0 || flags.iter().any(|flag| *flag > 1) {
            return Err(HV_STATUS_INVALID_HYPERCALL_INPUT);
        }
        self.with_vp(|state| state.register_cpuid(cpuid).map(|()| Vec::new()))
    }

    fn get_cpuid(&self) -> Result<Vec<u8>, Status> {
        let flags = self.word(12)?;
        let reserved = (self.word(16)?, self.word(20)?);
        if flags & !KNOWN_CPUID_FLAGS != 0 || reserved != (0, 0) {
            return Err(HV_STATUS_INVALID_HYPERCALL_INPUT);
        }
        let leaves: Vec<(u32, u32)> = self
            .repeated(CPUID_HEADER, LEAF)?
            .filter_map(|part| Some((prefix(part)?, prefix(&part[4..])?)))
            .collect();
        self.with_vp(|state| {
            let registered = flags & APPLY_REGISTERED != 0;
            let values =
                leaves.into_iter().map(|(leaf, subleaf)| state.cpuid(leaf, subleaf, registered));
            Ok(values.flatten().flat_map(u32::to_le_bytes).collect())
        })
    }
}
