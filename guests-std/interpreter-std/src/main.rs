//! A guest that holds a script engine.
//!
//! Making the engine and compiling a library of scripts takes milliseconds. A host does it once,
//! with [`warm`] and [`define`], takes a snapshot, and gives each script a sandbox of its own.

use std::cell::RefCell;

use glowbox_guest::guest_function;
use script_engine::Interpreter;

thread_local! {
    // Not made before it is used: `warm` is what a host measures.
    static INTERPRETER: RefCell<Option<Interpreter>> = const { RefCell::new(None) };
}

fn with<R>(act: impl FnOnce(&mut Interpreter) -> R) -> R {
    INTERPRETER.with_borrow_mut(|slot| act(slot.get_or_insert_with(Interpreter::new)))
}

/// Makes the engine and has it evaluate something of everything; returns what that comes to.
#[guest_function]
fn warm() -> Result<String, String> {
    let script = r#"
        let text = "the quick brown fox jumps over the lazy dog";
        [fibonacci(10), primes(100), words(text)["the"], 1.5 * 2, `${text.len()} letters`]
    "#;
    evaluate(script)
}

/// A script's value, as text.
#[guest_function]
fn evaluate(script: &str) -> Result<String, String> {
    with(|interpreter| interpreter.evaluate(script)).map_err(|error| error.to_string())
}

/// Keeps what a script defines, for all that are evaluated later.
#[guest_function]
fn define(script: &str) -> Result<(), String> {
    with(|interpreter| interpreter.define(script)).map_err(|error| error.to_string())
}

/// Gives a variable a value, for all scripts that are evaluated later.
#[guest_function]
fn set(name: String, value: i64) {
    with(|interpreter| interpreter.set(name, value));
}

fn main() {
    glowbox_guest::serve();
}
