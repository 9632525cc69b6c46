//! `regex`: captures, counts and a replacement over a log.

use std::collections::BTreeMap;

use regex::{Regex, RegexSet};

use crate::{Outcome, data};

pub(crate) fn run() -> Outcome {
    let log = data::log(50_000);
    println!("log: {} bytes, hash {:016x}", log.len(), data::hash(log.as_bytes()));
    let line = Regex::new(
        r#"(?m)^(?<address>\d+(?:\.\d+){3}) .*?\[(?<time>[^\]]+)\] "(?<method>[A-Z]+) /(?<place>[^?]*)\?id=(?<id>\d+) HTTP/1\.1" (?<status>\d{3}) (?<size>\d+)$"#,
    )?;
    let mut found: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for captures in line.captures_iter(&log) {
        let key = (
            captures.name("method").map_or("", |part| part.as_str()),
            captures.name("status").map_or("", |part| part.as_str()),
        );
        let entry = found.entry(key).or_default();
        entry.0 += 1;
        entry.1 += captures["size"].parse::<u64>()?;
    }
    for ((method, status), (count, bytes)) in &found {
        println!("{method} {status}: {count} lines, {bytes} bytes");
    }
    let words = Regex::new(r"\b\p{L}{4,}\b")?;
    println!("words: {}", words.find_iter(&log).count());
    let hidden = Regex::new(r"10\.0\.(\d+)\.(\d+)")?.replace_all(&log, "10.$2.x.$1");
    println!("replaced: hash {:016x}", data::hash(hidden.as_bytes()));
    let set = RegexSet::new(["DELETE.* 500 ", r"id=(\d)\1?|sök", "(?i)LOGIN", "never"]);
    println!("a backreference is refused: {}", set.is_err());
    let set = RegexSet::new(["DELETE.* 500 ", "s[öo]k", "(?i)LOGIN", "never"])?;
    let mut counts = [0; 4];
    for line in log.lines() {
        set.matches(line).iter().for_each(|index| counts[index] += 1);
    }
    println!("set: {counts:?}");
    Ok(())
}
