//! Builds what the benchmarks run: the guests, the module of the compute set (natively and as
//! WebAssembly), and the program that stands for processes.
//!
//! WebAssembly is built with the feature `wasmtime` alone. It needs a target that not every machine has:
//! without it the build goes on, and the scoreboard says which rows it leaves out and why.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the WebAssembly module may use beyond the target's defaults: vectors of 128 bits, as the
/// native code and the guest have them with SSE2.
const WASM_FLAGS: &str = "-Ctarget-feature=+simd128";
const WASM_TARGET: &str = "wasm32-unknown-unknown";
const NATIVE_TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    glowbox_build::Guest::new("../../guests")
        .bin("bench")
        .bin("compute")
        .bin("soak")
        .build_script();
    let std = glowbox_build::Guest::std;
    std("../../guests-std").bin("interpreter-std").bin("testing-std").build_script();
    std("../../programs").bin("coremark-run").bin("syscalls").build_script();

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for folder in ["bench/module", "bench/src", "compute/module", "compute/work"] {
        println!("cargo:rerun-if-changed=../../guests/{folder}");
    }
    let native = modules(&out, NATIVE_TARGET, "", &["compute-module"]);
    println!("cargo:rustc-env=GLOWBOX_NATIVE_COMPUTE={}/libcompute_module.so", native.display());
    if env::var_os("CARGO_FEATURE_WASMTIME").is_some() {
        wasm_modules(&out);
    }
    worker(&out);
    println!("cargo:rustc-env=GLOWBOX_RUSTC={}", rustc_version());
}

/// Builds what Wasmtime runs, where that can be done.
fn wasm_modules(out: &Path) {
    if has_target(WASM_TARGET) {
        let wasm = modules(out, WASM_TARGET, WASM_FLAGS, &["bench-module", "compute-module"]);
        println!("cargo:rustc-env=GLOWBOX_WASM_BENCH={}/bench_module.wasm", wasm.display());
        println!("cargo:rustc-env=GLOWBOX_WASM_COMPUTE={}/compute_module.wasm", wasm.display());
    } else {
        println!(
            "cargo:warning=the target {WASM_TARGET} is not installed (rustup target add \
             {WASM_TARGET}): the scoreboard will leave Wasmtime's rows out"
        );
    }
}

/// Builds modules for a target: in a cargo call of its own, so that no other crate's choice of
/// features reaches them. Returns their folder.
fn modules(out: &Path, target: &str, flags: &str, packages: &[&str]) -> PathBuf {
    let mut command = clean(env::var_os("CARGO").map_or("cargo".into(), PathBuf::from));
    command.args(["build", "--quiet", "--release"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    command.args(["--target", target, "--target-dir"]).arg(out.join("module"));
    command.current_dir("../../guests").env("CARGO_ENCODED_RUSTFLAGS", flags);
    run(command, "a module of the guests");
    out.join("module").join(target).join("release")
}

/// Builds the static program that is started, and that answers over a pipe.
fn worker(out: &Path) {
    println!("cargo:rerun-if-changed=build/worker.rs");
    let mut command = clean(rustc());
    command.args(["--edition=2024", "-Copt-level=3", "-Cpanic=abort", "-Cstrip=symbols"]);
    command.args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
    command.args(["--target", NATIVE_TARGET]);
    let path = out.join("worker");
    command.arg("-o").arg(&path).arg("build/worker.rs");
    run(command, "the worker process");
    println!("cargo:rustc-env=GLOWBOX_WORKER={}", path.display());
}

/// Whether the target's libraries are there. If not, cargo looks again in the next build.
fn has_target(target: &str) -> bool {
    let mut command = clean(rustc());
    command.args(["--print", "target-libdir", "--target", target]);
    let Ok(output) = command.output() else { return false };
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_string();
    println!("cargo:rerun-if-changed={folder}");
    output.status.success() && Path::new(&folder).is_dir()
}

fn rustc_version() -> String {
    let output = clean(rustc()).arg("--version").output();
    output.map_or_else(
        |_| "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_string(),
    )
}

fn rustc() -> PathBuf {
    env::var_os("RUSTC").map_or("rustc".into(), PathBuf::from)
}

/// A program in an environment without this build's own variables: with Clippy's wrapper or a
/// coverage tool's flags, something else would be built.
fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = matches!(&*text, "CARGO_HOME" | "CARGO_TERM_COLOR" | "RUSTC" | "RUSTUP_HOME");
        let flags = matches!(
            &*text,
            "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "CLIPPY_ARGS" | "TARGET"
        );
        if flags || text.starts_with("CARGO") && !kept {
            command.env_remove(name);
        }
    }
    command
}

fn run(mut command: Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} can't be built:\n{said}");
}
