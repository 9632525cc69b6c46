//! A script engine with a library of functions: Rhai, as it is published.
//!
//! In a crate of its own, so that the same can be done natively.

#![forbid(unsafe_code)]

use rhai::{AST, Engine, EvalAltResult, Scope};

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
#[derive(Debug)]
pub struct Interpreter {
    engine: Engine,
    library: AST,
    scope: Scope<'static>,
}

impl Default for Interpreter {
    fn default() -> Interpreter {
        Interpreter::new()
    }
}

impl Interpreter {
    /// An engine that knows the library.
    pub fn new() -> Interpreter {
        let mut engine = Engine::new();
        // A script that recurses without end gets an error, long before the stack ends. One that
        // runs without end is for the host to stop.
        engine.set_max_call_levels(256);
        engine.on_print(|text| println!("{text}"));
        let library = engine.compile(LIBRARY).expect("the library is right");
        Interpreter { engine, library, scope: Scope::new() }
    }

    /// The value, as text, of a script that knows the library and all that was defined. What it
    /// defines itself is gone afterwards.
    ///
    /// # Errors
    ///
    /// What the engine says of a script that it can't compile or evaluate.
    pub fn evaluate(&mut self, script: &str) -> Result<String, Box<EvalAltResult>> {
        let script = self.engine.compile_with_scope(&self.scope, script)?;
        let before = self.scope.len();
        let result: Result<rhai::Dynamic, _> =
            self.engine.eval_ast_with_scope(&mut self.scope, &self.library.merge(&script));
        self.scope.rewind(before);
        result.map(|value| value.to_string())
    }

    /// Runs a script, and keeps the functions and variables that it defines.
    ///
    /// # Errors
    ///
    /// As [`Interpreter::evaluate`].
    pub fn define(&mut self, script: &str) -> Result<(), Box<EvalAltResult>> {
        let script = self.engine.compile_with_scope(&self.scope, script)?;
        let all = self.library.merge(&script);
        self.engine.run_ast_with_scope(&mut self.scope, &all)?;
        self.library = all.clone_functions_only();
        Ok(())
    }

    /// Gives a variable a value, for all that are evaluated later.
    pub fn set(&mut self, name: String, value: i64) {
        self.scope.set_value(name, value);
    }
}
