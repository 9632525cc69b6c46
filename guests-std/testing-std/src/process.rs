//! What a process knows of itself and can ask for: arguments, environment, files.

use std::{env, fs, io};

use glowbox_guest::guest_function;

#[guest_function]
fn arguments() -> Vec<String> {
    env::args().collect()
}

#[guest_function]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

#[guest_function]
fn variables() -> Vec<(String, String)> {
    env::vars().collect()
}

#[guest_function]
fn current_dir() -> Result<String, io::Error> {
    Ok(env::current_dir()?.display().to_string())
}

#[guest_function]
fn read_file(path: &str) -> Result<Vec<u8>, io::Error> {
    fs::read(path)
}

#[guest_function]
fn write_file(path: &str, data: &[u8]) -> Result<(), io::Error> {
    fs::write(path, data)
}

#[guest_function]
fn read_line() -> Result<String, io::Error> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
}
