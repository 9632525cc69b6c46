//! Text to parse and to search.

use alloc::string::String;
use core::fmt::Write;

use crate::random;

const NAMES: [&str; 8] =
    ["ada", "barbara", "edsger", "grace", "john", "katherine", "leslie", "tony"];
const WORDS: [&str; 8] =
    ["opened", "request", "in the cache", "from", "took too long;", "again", "by", "closed"];

/// An array of records, of at least that many bytes.
pub(crate) fn json(bytes: usize) -> String {
    let mut text = String::from("[");
    for (id, number) in random().enumerate() {
        let (name, word) = (pick(&NAMES, number), pick(&WORDS, number >> 8));
        let (large, half) = (number >> 4, number % 1000);
        let written = write!(
            text,
            r#"{{"id":{id},"name":"{name}","score":{half}.5,"tags":["{word}","\u00e9t\u00e9\n"],"#
        )
        .and_then(|()| {
            let (flag, place) = (number % 2 == 0, number % 360);
            write!(text, r#""place":{{"x":-{place}.25,"y":{large},"z":null}},"flag":{flag}}}"#)
        });
        if written.is_err() || text.len() >= bytes {
            break;
        }
        text.push(',');
    }
    text.push(']');
    text
}

/// Lines of a log, of at least that many bytes.
pub(crate) fn log(bytes: usize) -> String {
    let mut text = String::new();
    for number in random() {
        let (day, hour, second) = (number % 28 + 1, number % 24, number % 60);
        let level = if number % 16 == 0 { "WARN" } else { "INFO" };
        let (name, word, next) =
            (pick(&NAMES, number >> 3), pick(&WORDS, number >> 6), pick(&WORDS, number >> 9));
        let mut line =
            write!(text, "2026-11-{day:02}T{hour:02}:30:{second:02}Z {level} {word} {next} ");
        if number % 7 == 0 {
            let other = pick(&NAMES, number >> 12);
            line = line.and_then(|()| write!(text, "{name}.{other}@example.org "));
        }
        if line.and_then(|()| writeln!(text, "{number:08x}")).is_err() || text.len() >= bytes {
            break;
        }
    }
    text
}

fn pick<'a>(of: &[&'a str; 8], number: u32) -> &'a str {
    of[usize::from(number.to_le_bytes()[0] % 8)]
}
