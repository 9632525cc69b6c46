//! A program that knows nothing of Glowbox.

#![forbid(unsafe_code)]

fn main() {
    println!("hello from {}", std::env::args().next().unwrap_or_default());
}
