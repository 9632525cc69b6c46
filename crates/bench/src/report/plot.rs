//! The plots, as SVG that stands in the page. Colours are classes, which the page's style gives; a
//! plot of which nothing was measured is left out.

use std::fmt::Write;

use super::axis::Axis;
use super::{Board, Line, amount, size, time};
use crate::experiments::WRITTEN_PAGES;
use crate::rows::{EXIT, System, Unit};

const WIDTH: f64 = 860.0;
/// What the distributions show, from the quickest kind of thing to the slowest.
const SHOWN: [&str; 16] = [
    "process-pipe-one-cpu",
    "floor-exit",
    "call-warm",
    "call-host",
    "echo-1kib",
    "wasmtime-pooling",
    "wasmtime-on-demand",
    "spawn-pooled",
    "reset-call-0",
    "reset-call-16",
    "interrupt",
    "load-256mib",
    "floor-create",
    "spawn-cold-call",
    "build-elf",
    "process-spawn",
];
/// Columns of a distribution.
const BINS: usize = 120;

/// A plot with its heading, or nothing.
pub(crate) type Plot = Option<(&'static str, String)>;

/// Line, circle or text at a place.
fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#)
}

fn line(from: (f64, f64), to: (f64, f64), class: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#)
}

fn svg(height: f64, label: &str, content: &str) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{content}</svg>"#
    )
}

fn class(system: System) -> String {
    system.name().to_lowercase()
}

/// How long operations take: a hill for each row, higher where more samples lie.
pub(crate) fn distributions(board: &Board) -> Plot {
    const ROW: f64 = 38.0;
    let find = |id: &&str| board.rows.iter().find(|line| line.id == *id && line.figures.is_some());
    let lines: Vec<&Line> = SHOWN.iter().filter_map(find).collect();
    let sorted = |line: &Line| board.samples.sorted(&line.samples_of);
    let ends = lines
        .iter()
        .filter_map(|line| sorted(line))
        .map(|of| [of.quantile(0.0), of.quantile(0.995)]);
    let (low, high) = ends.fold((f64::MAX, 0f64), |(low, high), [least, most]| {
        (low.min(least.max(1.0)), high.max(most))
    });
    if lines.is_empty() {
        return None;
    }
    let bottom = lines.len() as f64 * ROW + 14.0;
    let axis = Axis::logarithmic(low * 0.8, high * 1.2, 170.0, WIDTH - 90.0);
    let mut content = String::new();
    for tick in axis.ticks() {
        let x = axis.place(tick);
        content += &line_at(x, bottom);
        content += &text(x, bottom + 18.0, "tick middle", &time(tick));
    }
    for (number, line_of) in lines.iter().enumerate() {
        let Some(sorted) = sorted(line_of) else { continue };
        let base = (number + 1) as f64 * ROW;
        content += &hill(axis, sorted.values(), base, ROW - 8.0, &class(line_of.system));
        let median = sorted.quantile(0.5);
        let x = axis.place(median);
        content +=
            &line((x, base), (x, base - ROW + 12.0), &format!("mark {}", class(line_of.system)));
        content += &text(160.0, base - 3.0, "end", &line_of.id);
        content += &text(WIDTH - 80.0, base - 3.0, "value", &amount(median, line_of.unit));
    }
    let plot = svg(bottom + 28.0, "latency distributions", &content);
    Some(("Latency distributions", plot))
}

fn line_at(x: f64, bottom: f64) -> String {
    line((x, 8.0), (x, bottom), "grid")
}

/// The outline of a histogram whose columns are equal factors wide.
fn hill(axis: Axis, values: &[f64], base: f64, height: f64, class: &str) -> String {
    let width = (axis.to - axis.from) / BINS as f64;
    let mut bins = [0f64; BINS + 1];
    for value in values {
        let place = (axis.place(*value) - axis.from) / width;
        let bin = (0..BINS).take_while(|bin| (*bin + 1) as f64 <= place).count();
        bins[bin] += 1.0;
    }
    // Smoothed a little, so that few samples make a hill and no fence.
    let at =
        |bin: usize, step: usize| bins.get((bin + step).wrapping_sub(2)).copied().unwrap_or(0.0);
    let weights = [1.0, 2.0, 3.0, 2.0, 1.0];
    let smooth = |bin| weights.iter().enumerate().map(|(step, by)| by * at(bin, step)).sum::<f64>();
    let heights: Vec<f64> = (0..=BINS).map(smooth).collect();
    let most = heights.iter().copied().fold(1.0, f64::max);
    let mut path = String::new();
    let mut open = false;
    for (bin, value) in heights.iter().enumerate() {
        let (x, y) = (axis.from + (bin as f64 + 0.5) * width, base - height * value / most);
        let started = *value > 0.0;
        // Writing to a string can't fail.
        let _ = match (open, started) {
            (false, true) => write!(path, "M{:.1} {base:.1}L{x:.1} {y:.1}", x - width),
            (true, true) => write!(path, "L{x:.1} {y:.1}"),
            (true, false) => write!(path, "L{x:.1} {base:.1}Z"),
            (false, false) => Ok(()),
        };
        open = started;
    }
    if open {
        let _ = write!(path, "L{:.1} {base:.1}Z", axis.to + width);
    }
    format!(r#"<path d="{path}" class="hill {class}"/>"#)
}

/// A line through points, with its name at the last one.
fn curve(points: &[(f64, f64)], class: &str, name: &str) -> String {
    let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let mut out = format!(r#"<polyline points="{}" class="curve {class}"/>"#, places.join(" "));
    for (x, y) in points {
        out += &format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.2" class="dot {class}"/>"#);
    }
    if let Some((x, y)) = points.last() {
        out += &text(x + 10.0, y + 4.0, &format!("name {class}"), name);
    }
    out
}

/// Spawn and reset against number of written pages.
pub(crate) fn pages(board: &Board) -> Plot {
    const BOTTOM: f64 = 330.0;
    let places = |number: usize| 90.0 + number as f64 * 140.0;
    let series = [
        ("spawn-write-", "glowbox second", "spawn + call + drop"),
        ("reset-call-", "glowbox", "reset + call"),
        ("reset-", "glowbox third", "reset"),
    ];
    let value = |id: &str| board.samples.median(id);
    let all = series.iter().flat_map(|(prefix, ..)| {
        WRITTEN_PAGES.iter().filter_map(move |count| value(&format!("{prefix}{count}")))
    });
    let (low, high) = all.fold((f64::MAX, 0f64), |(low, high), of| (low.min(of), high.max(of)));
    if high == 0.0 {
        return None;
    }
    let axis = Axis::logarithmic(low * 0.6, high * 1.8, BOTTOM, 16.0);
    let right = places(WRITTEN_PAGES.len() - 1);
    let mut content = String::new();
    for tick in axis.ticks() {
        let y = axis.place(tick);
        content += &line((70.0, y), (right, y), "grid");
        content += &text(62.0, y + 4.0, "tick end", &time(tick));
    }
    for (number, count) in WRITTEN_PAGES.iter().enumerate() {
        content += &text(places(number), BOTTOM + 20.0, "tick middle", &count.to_string());
    }
    content +=
        &text(places(2), BOTTOM + 42.0, "tick middle", "pages written by the call, all bytes");
    if let Some(exit) = value(EXIT) {
        let y = axis.place(exit);
        content += &line((70.0, y), (right, y), "curve floor dashed");
        content += &text(74.0, y - 6.0, "name floor", "R, a bare exit");
    }
    let mut names = Vec::new();
    for (prefix, class, name) in series {
        let point = |(number, count): (usize, &u32)| {
            Some((places(number), axis.place(value(&format!("{prefix}{count}"))?)))
        };
        let points: Vec<_> = WRITTEN_PAGES.iter().enumerate().filter_map(point).collect();
        content += &curve(&points, class, "");
        names.extend(points.last().map(|(x, y)| (*y, *x, class, name)));
    }
    let copy = value("floor-memcpy-pages").map(|of| axis.place(of));
    if let Some(y) = copy {
        content += &format!(r#"<circle cx="{right:.1}" cy="{y:.1}" r="6" class="ring floor"/>"#);
        names.push((y, right, "floor", "memcpy of the pages"));
    }
    content += &names_apart(names);
    Some(("Spawn and reset against written pages", svg(BOTTOM + 52.0, "spawn and reset", &content)))
}

/// Names beside their places, moved so that none covers another.
fn names_apart(mut names: Vec<(f64, f64, &str, &str)>) -> String {
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut content, mut free) = (String::new(), f64::MIN);
    for (y, x, class, name) in names {
        let y = (y + 4.0).max(free);
        content += &text(x + 14.0, y, &format!("name {class}"), name);
        free = y + 16.0;
    }
    content
}

/// Memory against number of sandboxes.
pub(crate) fn memory(board: &Board) -> Plot {
    const BOTTOM: f64 = 300.0;
    const RIGHT: f64 = 620.0;
    let last = board.memory.last()?;
    let bound = |sandboxes: u32| f64::from(sandboxes) * 65536.0;
    let most = board.memory.iter().map(|at| at.private.max(at.kernel).max(bound(at.sandboxes)));
    let across = Axis::linear(f64::from(last.sandboxes), 90.0, RIGHT);
    // In whole MiB, so that the ticks are round.
    let up = Axis::linear(most.fold(0.0, f64::max) * 1.1 / 1_048_576.0, BOTTOM, 16.0);
    let mut content = String::new();
    for tick in up.ticks() {
        let y = up.place(tick);
        content += &line((90.0, y), (RIGHT, y), "grid");
        content += &text(80.0, y + 4.0, "tick end", &format!("{tick} MiB"));
    }
    for tick in across.ticks() {
        content += &text(across.place(tick), BOTTOM + 20.0, "tick middle", &tick.to_string());
    }
    content += &text(355.0, BOTTOM + 42.0, "tick middle", "idle sandboxes alive");
    let limit: Vec<_> = [0, last.sandboxes]
        .map(|at| (across.place(f64::from(at)), up.place(bound(at) / 1_048_576.0)))
        .into();
    content += &line(limit[0], limit[1], "curve floor dashed");
    let points = |of: fn(&crate::samples::MemoryPoint) -> f64| -> Vec<(f64, f64)> {
        let place = |at| (across.place(f64::from(at)), 0.0);
        let point = |at: &crate::samples::MemoryPoint| {
            (place(at.sandboxes).0, up.place(of(at) / 1_048_576.0))
        };
        board.memory.iter().map(point).collect()
    };
    let (private, kernel) = (points(|at| at.private), points(|at| at.kernel));
    content += &curve(&kernel, "glowbox second", "");
    content += &curve(&private, "glowbox", "");
    let each = |bytes: f64| size(bytes / f64::from(last.sandboxes));
    let private_name = format!("private: {} each", each(last.private));
    let kernel_name = format!("kernel: {} each", each(last.kernel));
    content += &names_apart(vec![
        (private[private.len() - 1].1, RIGHT, "glowbox", &private_name),
        (kernel[kernel.len() - 1].1, RIGHT, "glowbox second", &kernel_name),
        (limit[1].1, RIGHT, "floor", "bound: 64 KiB each"),
    ]);
    Some(("Memory against number of sandboxes", svg(BOTTOM + 52.0, "memory", &content)))
}

/// The compute set: times of each system, in multiples of native ones.
pub(crate) fn compute(board: &Board) -> Plot {
    const ROW: f64 = 20.0;
    let natives = board.rows.iter().filter(|line| line.id.ends_with("-native"));
    let mut bars = Vec::new();
    for native in natives {
        let name = native.id.trim_end_matches("-native").to_string();
        let base = board.samples.median(&native.id)?;
        let systems = [
            (System::Native, native.id.clone()),
            (System::Glowbox, name.clone()),
            (System::Wasmtime, format!("{name}-wasmtime")),
        ];
        let found = systems.into_iter().filter_map(|(system, id)| {
            let median = board.samples.median(&id)?;
            Some((system, median / base, median))
        });
        bars.push((native.what.clone(), found.collect::<Vec<_>>()));
    }
    let most = bars.iter().flat_map(|(_, of)| of).map(|(_, ratio, _)| *ratio).fold(1.0, f64::max);
    if bars.is_empty() {
        return None;
    }
    let axis = Axis::linear(most * 1.02, 340.0, WIDTH - 120.0);
    let (mut y, mut content) = (8.0, String::new());
    for (what, systems) in &bars {
        content += &text(0.0, y + 14.0, "", what);
        for (system, ratio, median) in systems {
            let (class, width) = (class(*system), axis.place(*ratio) - axis.from);
            content += &text(332.0, y + 14.0, "tick end", system.name());
            content += &format!(
                r#"<rect x="340" y="{y:.1}" width="{width:.1}" height="{:.1}" rx="2" class="bar {class}"/>"#,
                ROW - 4.0
            );
            let label = format!("{} ({ratio:.2})", amount(*median, Unit::Nanoseconds));
            content += &text(348.0 + width, y + 13.0, "tick", &label);
            y += ROW;
        }
        y += 12.0;
    }
    let x = axis.place(1.0);
    content += &line((x, 4.0), (x, y - 10.0), "grid strong");
    Some(("The compute set, in multiples of native", svg(y, "compute set", &content)))
}
