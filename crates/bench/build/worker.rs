//! What a process does in a sandbox's place: nothing and end, or add numbers that come over a pipe.

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).is_none() {
        return Ok(());
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut numbers = [0; 8];
    while input.read_exact(&mut numbers).is_ok() {
        let [a, b, c, d, e, f, g, h] = numbers;
        let sum = u32::from_le_bytes([a, b, c, d]).wrapping_add(u32::from_le_bytes([e, f, g, h]));
        output.write_all(&sum.to_le_bytes())?;
        output.flush()?;
    }
    Ok(())
}
