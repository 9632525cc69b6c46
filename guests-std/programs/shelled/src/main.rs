//! What the tests of `glowbox run` run: its first argument says what it does.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => return code.parse().map_or(ExitCode::FAILURE, |code: u8| code.into()),
        ["arguments", ..] => println!("{:?}", &words[1..]),
        ["environment"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["upper"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).expect("text comes in");
            print!("{}", text.to_uppercase());
            eprint!("{} bytes", text.len());
        }
        ["read", path] => match std::fs::read_to_string(path) {
            Ok(text) => print!("{text}"),
            Err(error) => return failed(&error),
        },
        ["write", path, text] => {
            if let Err(error) = std::fs::write(path, text) {
                return failed(&error);
            }
            println!("{}", std::fs::read_to_string(path).expect("it was just written"));
        }
        ["fill", path] => {
            let mut file = std::fs::File::create(path).expect("it can be made");
            let error = loop {
                if let Err(error) = file.write_all(&[1; 4096]) {
                    break error;
                }
            };
            return failed(&error);
        }
        ["folder"] => println!("{}", std::env::current_dir().expect("there is one").display()),
        ["time"] => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            println!("{}", now.expect("it is past 1970").as_secs());
        }
        ["random"] => {
            let random = std::collections::hash_map::RandomState::new();
            println!("{}", std::hash::BuildHasher::hash_one(&random, 7));
        }
        ["allocate", bytes] => {
            let data = vec![1u8; bytes.parse().expect("a number")];
            println!("{}", std::hint::black_box(&data).len());
        }
        ["spin"] => {
            println!("spinning");
            loop {
                std::hint::spin_loop();
            }
        }
        ["sleep"] => {
            println!("sleeping");
            std::thread::sleep(Duration::from_secs(3600));
        }
        ["abort"] => std::process::abort(),
        ["panic"] => panic!("it broke"),
        ["fault"] => {
            // SAFETY: nothing is at this address, so the write ends the program.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }
        }
        _ => return ExitCode::from(99),
    }
    ExitCode::SUCCESS
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(3)
}
