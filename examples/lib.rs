//! The examples are the files beside this one; `cargo run --example hello` runs the first.
