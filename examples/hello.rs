//! Calls a function inside a micro-VM, which calls a function of the host back.
//!
//! The guest is `guests/hello`; the build script has built it.

use std::time::Instant;

use glowbox::{Error, Sandbox};

fn main() -> Result<(), Error> {
    let engine = glowbox_examples::engine()?;
    let start = Instant::now();
    let mut sandbox = Sandbox::builder()
        .engine(&engine)
        .host_function("weekday", || "Monday".to_string())
        .build(env!("GLOWBOX_GUEST_HELLO"))?;
    let created = start.elapsed();

    let start = Instant::now();
    let greeting: String = sandbox.call("greet", ("World",))?;
    let called = start.elapsed();

    println!("{greeting}");
    println!("The sandbox was created in {created:?}, the call took {called:?}.");
    Ok(())
}
