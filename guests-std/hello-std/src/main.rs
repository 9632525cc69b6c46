//! Greets, with the standard library.

use glowbox_guest::guest_function;

#[guest_function]
fn greet(name: &str) -> String {
    println!("greeting {name}");
    format!("Hello, {name}, from process {}!", std::process::id())
}

fn main() {
    glowbox_guest::serve();
}
