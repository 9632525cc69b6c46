//! The page for people: the table and the plots, in one file that asks for nothing from elsewhere.

use super::plot::{self, Plot};
use super::table::digits;
use super::{Board, Line, amount};
use crate::rows::{Quantile, System};

/// Light and dark by the reader's own choice.
const STYLE: &str = include_str!("page.css");

/// The page.
pub(crate) fn page(board: &Board) -> String {
    let machine = &board.machine;
    let plots =
        [plot::distributions(board), plot::pages(board), plot::memory(board), plot::compute(board)];
    let plots: String = plots.into_iter().map(section).collect();
    let rows: String = board.rows.iter().map(row).collect();
    let about = [
        ("Machine", machine.machine.clone()),
        ("CPU", format!("{}, {} in use", machine.cpu, machine.cpus)),
        ("Memory", super::size(machine.memory_bytes as f64)),
        ("Kernel", format!("Linux {}", machine.kernel)),
        ("KVM", machine.kvm.clone()),
        ("Built with", machine.rustc.clone()),
        ("Wasmtime", machine.wasmtime.clone()),
        ("Commit", machine.commit.clone()),
        ("Day", machine.date.clone()),
        ("Rounds", format!("{}{}", board.rounds, if board.quick { ", a short run" } else { "" })),
    ];
    let about = about
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value)));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>Glowbox scoreboard</title><style>{STYLE}</style></head><body><main>\
         <h1>Glowbox scoreboard</h1><p class=\"verdict\">{}</p><dl>{}</dl>{}{plots}\
         <section><h2>All rows</h2><div class=\"wide\"><table><thead><tr><th>Row</th><th>What</th>\
         <th>System</th><th>Min</th><th>Median</th><th>p99</th><th>Ratio</th><th>to</th>\
         <th>Bound</th></tr></thead><tbody>{rows}</tbody></table></div>{}</section>\
         </main></body></html>\n",
        verdict(board),
        about.concat(),
        legend(),
        left_out(board),
    )
}

fn verdict(board: &Board) -> String {
    let judged: Vec<&Line> = board.rows.iter().filter(|line| line.met.is_some()).collect();
    let met = judged.iter().filter(|line| line.met == Some(true)).count();
    let missed = board.missed();
    let names =
        if missed.is_empty() { String::new() } else { format!(" Missed: {}.", missed.join(", ")) };
    format!("{met} of {} bounds are met.{names}", judged.len())
}

fn legend() -> String {
    let key = |system: System| {
        let name = system.name();
        format!("<span class=\"key {}\"></span>{name} ", name.to_lowercase())
    };
    format!("<p class=\"legend\">{}</p>", System::ALL.map(key).concat())
}

fn section(plot: Plot) -> String {
    plot.map_or_else(String::new, |(title, svg)| {
        format!("<section><h2>{title}</h2><div class=\"wide\">{svg}</div></section>")
    })
}

fn row(line: &Line) -> String {
    let figures = line.figures.map_or(["–".into(), "–".into(), "–".into()], |figures| {
        figures.values().map(|value| amount(value, line.unit))
    });
    let cells = figures.map(|figure| format!("<td class=\"n\">{figure}</td>")).concat();
    let by = if line.by == Quantile::P99 { "p99: " } else { "" };
    let ratio = line.ratio.map_or(String::new(), digits);
    let yardstick = line.yardstick.as_deref().filter(|_| line.ratio.is_some()).unwrap_or("");
    let bound = match (line.bound, line.met) {
        (Some(bound), Some(true)) => format!("<td class=\"n met\">≤ {bound} ✓</td>"),
        (Some(bound), Some(false)) => format!("<td class=\"n missed\">≤ {bound} ✗</td>"),
        (Some(bound), None) => format!("<td class=\"n\">≤ {bound}</td>"),
        _ => "<td></td>".into(),
    };
    format!(
        "<tr><td><code>{}</code></td><td>{}</td><td><span class=\"key {}\"></span>{}</td>{cells}\
         <td class=\"n\">{ratio}</td><td>{by}{}</td>{bound}</tr>",
        line.id,
        escaped(&line.what),
        line.system.name().to_lowercase(),
        line.system.name(),
        escaped(yardstick),
    )
}

fn left_out(board: &Board) -> String {
    let item =
        |of: &super::LeftOut| format!("<li><code>{}</code>: {}</li>", of.id, escaped(&of.why));
    let items: String = board.left_out.iter().map(item).collect();
    if items.is_empty() { items } else { format!("<h3>Left out</h3><ul>{items}</ul>") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
