//! The order of events: which rows are measured, and when.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use glowbox_bench::subject::Result;

use crate::experiments::{Experiment, Lab, Opened, Plan, Turn};
use crate::rows::{EXIT, Row};
use crate::samples::{Samples, shuffle};

const ROUNDS: u32 = 400;
const QUICK_ROUNDS: u32 = 16;

/// What is to be measured.
pub(crate) struct Choice {
    plans: Vec<Plan>,
    /// The rows of the table: those asked for, and those that they are divided by.
    shown: BTreeSet<String>,
    /// The rows asked for.
    asked: BTreeSet<String>,
}

/// What was.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    pub(crate) samples: Samples,
    /// Rows that were asked for by name or by asking for all.
    pub(crate) asked: BTreeSet<String>,
    /// Rows that could not be measured here, and why.
    pub(crate) left_out: Vec<(String, String)>,
    pub(crate) rounds: u32,
}

impl Choice {
    /// Chooses the rows that begin with one of these IDs; all if there are none.
    pub(crate) fn new(plans: Vec<Plan>, only: &[String]) -> std::result::Result<Choice, String> {
        let rows = || plans.iter().flat_map(|plan| &plan.rows);
        for id in only {
            if !rows().any(|row| row.id.starts_with(id.as_str())) {
                return Err(format!("there is no row `{id}`; --list names them all"));
            }
        }
        let is_asked =
            |row: &&Row| only.is_empty() || only.iter().any(|id| row.id.starts_with(id.as_str()));
        let asked: BTreeSet<String> = rows().filter(is_asked).map(|row| row.id.clone()).collect();
        let mut shown = asked.clone();
        shown.insert(EXIT.into());
        loop {
            let needed: Vec<String> = rows()
                .filter(|row| shown.contains(&row.id))
                .flat_map(|row| row.needs().map(String::from))
                .filter(|id| !shown.contains(id))
                .collect();
            if needed.is_empty() {
                break;
            }
            shown.extend(needed);
        }
        let mut plans = plans;
        plans.retain(|plan| plan.rows.iter().any(|row| shown.contains(&row.id)));
        Ok(Choice { plans, shown, asked })
    }
}

/// An open experiment, and when it takes its turn.
type Running = (Turn, Box<dyn Experiment>);

/// Measures.
pub(crate) fn run(choice: Choice, quick: bool) -> Result<Outcome> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let lab = Lab::open()?;
    let mut progress = Progress::new(rounds);
    let (mut running, mut last) = (Vec::<Running>::new(), Vec::new());
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for plan in choice.plans {
        let shown: Vec<Row> =
            plan.rows.into_iter().filter(|row| choice.shown.contains(&row.id)).collect();
        let name = shown.first().map_or("", |row| row.id.as_str());
        progress.say(&format!("preparing {name}"));
        if plan.turn == Turn::Last {
            last.push((name.to_string(), plan.open));
        } else {
            let opened = (plan.open)(&lab).map_err(|error| format!("{name}: {error}"))?;
            match opened {
                Opened::Ready(experiment) => running.push((plan.turn, experiment)),
                Opened::LeftOut(why) => {
                    left_out.extend(shown.iter().map(|row| (row.id.clone(), why.clone())));
                }
            }
        }
        rows.extend(shown);
    }
    let mut samples = rounds_of(&mut running, rounds, &mut progress)?;
    drop(running);
    for (name, open) in last {
        progress.say(&format!("measuring {name}"));
        match open(&lab)? {
            Opened::Ready(mut experiment) => experiment.sample(&mut samples)?,
            Opened::LeftOut(why) => left_out.push((name, why)),
        }
    }
    progress.end();
    Ok(Outcome { rows, samples, asked: choice.asked, left_out, rounds })
}

/// The first round finds everything cold, and is forgotten.
fn rounds_of(running: &mut [Running], rounds: u32, progress: &mut Progress) -> Result<Samples> {
    for (_, experiment) in running.iter_mut() {
        experiment.sample(&mut Samples::default())?;
    }
    let (mut samples, mut random) = (Samples::default(), 1);
    for round in 0..rounds {
        progress.round(round);
        shuffle(running, &mut random);
        for (turn, experiment) in running.iter_mut() {
            let Turn::Every(every) = *turn else { continue };
            if round.is_multiple_of(every) {
                experiment.sample(&mut samples)?;
            }
        }
    }
    Ok(samples)
}

/// What goes on, on standard error: one line that changes, or a line now and then in a log.
struct Progress {
    rounds: u32,
    start: Instant,
    terminal: bool,
}

impl Progress {
    fn new(rounds: u32) -> Progress {
        Progress { rounds, start: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    fn round(&mut self, round: u32) {
        if round == 0 {
            self.start = Instant::now();
        }
        if !self.terminal && !round.is_multiple_of((self.rounds / 8).max(1)) {
            return;
        }
        let passed = self.start.elapsed().as_secs_f64();
        let left = match round {
            0 => String::new(),
            _ => {
                let left = passed / f64::from(round) * f64::from(self.rounds - round);
                format!(", {left:.0} s to go")
            }
        };
        self.say(&format!("round {round} of {}{left}", self.rounds));
    }

    fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[Kglowbox-bench: {text}");
            // A line that does not show is no reason to stop.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("glowbox-bench: {text}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments;

    fn choice(only: &[&str]) -> Choice {
        let only: Vec<String> = only.iter().map(ToString::to_string).collect();
        Choice::new(experiments::all(), &only).unwrap_or_else(|text| panic!("{text}"))
    }

    #[test]
    fn rows_have_ids_of_their_own_and_yardsticks_that_exist() {
        let plans = experiments::all();
        let rows: Vec<&Row> = plans.iter().flat_map(|plan| &plan.rows).collect();
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids.len(), rows.len());
        for row in rows {
            for needed in row.needs() {
                assert!(ids.contains(needed), "`{}` needs `{needed}`", row.id);
            }
        }
    }

    #[test]
    fn a_row_brings_those_it_is_divided_by() {
        let choice = choice(&["echo-16mib"]);
        let shown: Vec<&str> = choice.shown.iter().map(String::as_str).collect();
        assert_eq!(shown, ["echo-16mib", EXIT, "floor-memcpy-16mib"]);
        assert_eq!(choice.plans.len(), 3);
        assert_eq!(choice.asked.len(), 1);
    }

    #[test]
    fn an_unknown_row_is_named() {
        let result = Choice::new(experiments::all(), &["call-cold".into()]);
        assert!(result.is_err_and(|text| text.contains("call-cold")));
    }
}
