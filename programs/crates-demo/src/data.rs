//! What the program works on: pseudo-random, the same in every run.

/// A xorshift generator.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// FNV-1a, to compare large results by.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Lines of a made-up access log.
pub(crate) fn log(lines: usize) -> String {
    const METHODS: [&str; 4] = ["GET", "PUT", "POST", "DELETE"];
    const PLACES: [&str; 6] = ["index", "shop", "sök", "api/orders", "static/logo.png", "login"];
    let mut numbers = Numbers::new(7);
    let mut text = String::new();
    for line in 0..lines {
        let method = METHODS[numbers.below(4) as usize];
        let place = PLACES[numbers.below(6) as usize];
        let [a, b] = [numbers.below(256), numbers.below(256)];
        let status = [200, 200, 200, 204, 301, 404, 500][numbers.below(7) as usize];
        let size = numbers.below(100_000);
        let (minute, second) = (line / 60 % 60, line % 60);
        text += &format!(
            "10.0.{a}.{b} - - [03/Mar/2025:10:{minute:02}:{second:02}] \"{method} /{place}?id={} \
             HTTP/1.1\" {status} {size}\n",
            numbers.below(5000),
        );
    }
    text
}
