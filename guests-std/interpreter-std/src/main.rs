//! A script engine: Rhai, as it is published.
//!
//! Making the engine and compiling a library of scripts takes milliseconds. A host does it once,
//! with [`warm`] and [`define`], takes a snapshot, and gives each script a sandbox of its own.

use std::cell::RefCell;

use glowbox_guest::guest_function;
use rhai::{AST, Dynamic, Engine, EvalAltResult, Scope};

/// What is called often by scripts, compiled when the engine is made.
const LIBRARY: &str = r#"
fn fibonacci(n) {
    if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

fn primes(below) {
    let sieve = [];
    sieve.pad(below, true);
    let found = 0;
    for n in 2..below {
        if !sieve[n] { continue; }
        found += 1;
        let multiple = n * n;
        while multiple < below {
            sieve[multiple] = false;
            multiple += n;
        }
    }
    found
}

fn words(text) {
    let counts = #{};
    for word in text.to_lower().split() {
        counts[word] = (counts[word] ?? 0) + 1;
    }
    counts
}
"#;

/// An engine, the functions it knows and the variables it has.
struct Interpreter {
    engine: Engine,
    library: AST,
    scope: Scope<'static>,
}

thread_local! {
    // Not made before it is used: `warm` is what a host measures.
    static INTERPRETER: RefCell<Option<Interpreter>> = const { RefCell::new(None) };
}

impl Interpreter {
    fn new() -> Interpreter {
        let mut engine = Engine::new();
        // A script that recurses without end gets an error, long before the stack ends. One that
        // runs without end is for the host to stop.
        engine.set_max_call_levels(256);
        engine.on_print(|text| println!("{text}"));
        let library = engine.compile(LIBRARY).expect("the library is right");
        Interpreter { engine, library, scope: Scope::new() }
    }

    /// Evaluates a script that knows the library and all that was defined.
    fn evaluate(&mut self, script: &str) -> Result<Dynamic, Box<EvalAltResult>> {
        let script = self.engine.compile_with_scope(&self.scope, script)?;
        // Its variables are gone afterwards.
        let before = self.scope.len();
        let result = self.engine.eval_ast_with_scope(&mut self.scope, &self.library.merge(&script));
        self.scope.rewind(before);
        result
    }

    /// Runs a script, and keeps the functions and variables that it defines.
    fn define(&mut self, script: &str) -> Result<(), Box<EvalAltResult>> {
        let script = self.engine.compile_with_scope(&self.scope, script)?;
        let all = self.library.merge(&script);
        self.engine.run_ast_with_scope(&mut self.scope, &all)?;
        self.library = all.clone_functions_only();
        Ok(())
    }
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
    let value = with(|interpreter| interpreter.evaluate(script));
    value.map(|value| value.to_string()).map_err(|error| error.to_string())
}

/// Keeps what a script defines, for all that are evaluated later.
#[guest_function]
fn define(script: &str) -> Result<(), String> {
    with(|interpreter| interpreter.define(script)).map_err(|error| error.to_string())
}

/// Gives a variable a value, for all scripts that are evaluated later.
#[guest_function]
fn set(name: String, value: i64) {
    with(|interpreter| interpreter.scope.set_value(name, value));
}

fn main() {
    glowbox_guest::serve();
}
