//! Machine code, made and not picked: encodings of everything, random bytes, and random instructions of which
//! it is known how many they are.

/// A reproducible source of random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Prefixes and what is common of their combinations.
pub(crate) const PREFIXES: [&[u8]; 18] = [
    &[],
    &[0x66],
    &[0xf2],
    &[0xf3],
    &[0xf0],
    &[0x48],
    &[0x41],
    &[0x4f],
    &[0x64],
    &[0x65],
    &[0x67],
    &[0x66, 0x48],
    &[0xf2, 0x48],
    &[0xf3, 0x48],
    &[0xf0, 0x48],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
    &[0xf0, 0x66, 0x67],
];

/// What stands before the last opcode byte, in each map that has no further fields.
pub(crate) const MAPS: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];

/// ModRM bytes, with what belongs to them, that the sweep of all opcodes uses: each opcode extension with
/// memory behind RDI, with memory behind RAX and a displacement, and with a register.
pub(crate) fn operands() -> impl Iterator<Item = Vec<u8>> {
    (0..8u8).flat_map(|extension| {
        let digit = extension << 3;
        [vec![digit | 7], vec![0x40 | digit, 0x10], vec![0xc0 | digit | 1]]
    })
}

/// Random instructions that do no harm: computation in registers and on data behind R15, straight on, with
/// no exception. `DATA` bytes behind R15 are used.
pub(crate) struct Harmless {
    pub(crate) bytes: Vec<u8>,
    /// Where each instruction starts.
    pub(crate) starts: Vec<usize>,
}

/// Bytes behind R15 that harmless instructions use.
pub(crate) const REACH: usize = 4096;

impl Harmless {
    pub(crate) fn new(random: &mut Random, count: usize) -> Harmless {
        let mut made = Harmless { bytes: Vec::new(), starts: Vec::new() };
        for _ in 0..count {
            made.starts.push(made.bytes.len());
            one(random, &mut made.bytes);
        }
        made
    }

    /// At least how many of them have been executed, if the guest started with the first and its instruction
    /// pointer was then `at` bytes behind that: there is but one way to get there.
    pub(crate) fn executed(&self, at: usize) -> u64 {
        self.starts.iter().filter(|start| **start < at).count() as u64
    }
}

/// A register that may change: neither RSP nor R15.
fn register(random: &mut Random) -> u8 {
    loop {
        let number = random.byte() & 15;
        if number != 4 && number != 15 {
            return number;
        }
    }
}

/// REX prefix with W, for a register field and a register in the other.
fn rex(wide: bool, field: u8, other: u8) -> u8 {
    0x40 | u8::from(wide) << 3 | (field >> 3) << 2 | other >> 3
}

/// Two registers, or a register and memory behind R15, as REX and what follows the opcode.
fn pair(random: &mut Random, wide: bool, align: usize) -> (u8, Vec<u8>) {
    let field = register(random);
    if random.byte() & 1 == 0 {
        let other = register(random);
        return (rex(wide, field, other), vec![0xc0 | (field & 7) << 3 | other & 7]);
    }
    let displacement = random.below(REACH / align - 1) * align;
    let mut rest = vec![0x80 | (field & 7) << 3 | 7];
    rest.extend(u32::try_from(displacement).expect("a page").to_le_bytes());
    (rex(wide, field, 15), rest)
}

fn one(random: &mut Random, code: &mut Vec<u8>) {
    let wide = random.byte() & 1 == 0;
    match random.below(9) {
        // add, or, adc, sbb, and, sub, xor, cmp in both directions; test, xchg, mov, movsxd
        0 | 1 => {
            let opcodes: Vec<u8> = (0..8).flat_map(|n| [8 * n + 1, 8 * n + 3]).collect();
            let more = [&opcodes[..], &[0x85, 0x87, 0x89, 0x8b, 0x63]].concat();
            let opcode = *random.pick(&more);
            let (rex, rest) = pair(random, wide, 8);
            code.extend([rex, opcode]);
            code.extend(rest);
        }
        // The same with a constant.
        2 => {
            let digit = random.byte() & 7;
            let to = register(random);
            code.extend([rex(wide, 0, to), 0x81, 0xc0 | digit << 3 | to & 7]);
            code.extend(random.bytes(4));
        }
        // rol to sar, by a constant
        3 => {
            let digit = *random.pick(&[0, 1, 2, 3, 4, 5, 7]);
            let to = register(random);
            let by = random.byte();
            code.extend([rex(wide, 0, to), 0xc1, 0xc0 | digit << 3 | to & 7, by]);
        }
        // mov with a constant of eight bytes
        4 => {
            let to = register(random);
            code.extend([rex(true, 0, to), 0xb8 | to & 7]);
            code.extend(random.bytes(8));
        }
        // imul, cmov, movzx and movsx, bsf, bsr, xadd
        5 | 6 => {
            let more = [0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xbc, 0xbd, 0xc1];
            let cmov = 0x40 | random.byte() & 15;
            let opcode = if random.byte() & 1 == 0 { cmov } else { *random.pick(&more) };
            let (rex, rest) = pair(random, wide, 8);
            code.extend([rex, 0x0f, opcode]);
            code.extend(rest);
        }
        // bswap, cwde, cdq, nop, lahf, cmc, clc, stc, cld
        7 => {
            let plain: [&[u8]; 9] = [
                &[0x48, 0x0f, 0xc8],
                &[0x98],
                &[0x99],
                &[0x90],
                &[0x9f],
                &[0xf5],
                &[0xf8],
                &[0xf9],
                &[0xfc],
            ];
            code.extend(*random.pick(&plain));
        }
        // SSE and SSE2: arithmetic, logic, shuffles, moves; memory aligned
        _ => {
            let opcodes = [
                0x10, 0x28, 0x29, 0x14, 0x15, 0x51, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5c, 0x5d,
                0x5e, 0x5f,
            ];
            if random.byte() & 1 == 0 {
                code.push(0x66);
            }
            let opcode = *random.pick(&opcodes);
            let (rex, rest) = pair(random, false, 16);
            code.extend([rex, 0x0f, opcode]);
            code.extend(rest);
        }
    }
}
