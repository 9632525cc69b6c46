//! The table on standard output.

use super::{Board, Line, amount, short};
use crate::rows::Quantile;

/// Prints all rows, and what was left out.
pub(crate) fn print(board: &Board) {
    let machine = &board.machine;
    println!(
        "{}; {}; Linux {}; KVM: {}",
        machine.machine, machine.cpu, machine.kernel, machine.kvm
    );
    println!(
        "{:<34}{:<9}{:>10}{:>10}{:>10}  {:>8} {:<24}{:>7}",
        "row", "system", "min", "median", "p99", "ratio", "to", "bound"
    );
    for line in &board.rows {
        println!("{}", text(line));
    }
    let mut reasons: Vec<&str> = board.left_out.iter().map(|of| of.why.as_str()).collect();
    reasons.dedup();
    for why in reasons {
        let ids = board.left_out.iter().filter(|of| of.why == why).map(|of| of.id.as_str());
        println!("left out: {}\n  because {why}", ids.collect::<Vec<_>>().join(", "));
    }
    let judged = board.rows.iter().filter(|line| line.met.is_some()).count();
    let missed = board.missed();
    println!("{} of {judged} bounds are met", judged - missed.len().min(judged));
    for id in missed {
        println!("missed: {id}");
    }
}

fn text(line: &Line) -> String {
    let mut text = format!("{:<34}{:<9}", line.id, line.system.name());
    match line.figures {
        Some(figures) => {
            for value in figures.values() {
                text += &format!("{:>10}", amount(value, line.unit));
            }
        }
        None => text += &format!("{:>30}", "not measured"),
    }
    if let (Some(ratio), Some(yardstick)) = (line.ratio, &line.yardstick) {
        let by = if line.by == Quantile::P99 { "p99: " } else { "" };
        text += &format!("  {:>8} {:<24}", digits(ratio), format!("{by}{yardstick}"));
        if let (Some(bound), Some(met)) = (line.bound, line.met) {
            text += &format!("{bound:>7}  {}", if met { "met" } else { "MISSED" });
        }
    }
    text.trim_end().to_string()
}

/// A ratio: a small one shows more digits.
pub(crate) fn digits(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { short(ratio) }
}
