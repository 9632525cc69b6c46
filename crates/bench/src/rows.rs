//! What a row of the scoreboard is: a figure's name, what it is divided by, and the bound on that.
//!
//! Rows are fixed before anything is measured, so that a figure that could not be taken is missed
//! and not forgotten, and so that no bound depends on what came out.

use serde::Serialize;

/// The row whose median is R: one bare ring-3 exit round trip.
pub(crate) const EXIT: &str = "floor-exit";

/// Who does what the row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// KVM or memory by itself.
    Floor,
    /// This library.
    Glowbox,
    /// The host's own code.
    Native,
    /// Wasmtime.
    Wasmtime,
    /// Linux processes.
    Process,
}

impl System {
    pub(crate) const ALL: [System; 5] =
        [System::Floor, System::Glowbox, System::Native, System::Wasmtime, System::Process];

    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Floor => "floor",
            System::Glowbox => "Glowbox",
            System::Native => "native",
            System::Wasmtime => "Wasmtime",
            System::Process => "process",
        }
    }
}

/// What a row's samples count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Time.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Memory.
    #[serde(rename = "bytes")]
    Bytes,
}

/// Which of a row's samples stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Quantile {
    /// The one in the middle.
    Median,
    /// The one that 99 of 100 do not exceed.
    P99,
}

impl Quantile {
    pub(crate) fn part(self) -> f64 {
        match self {
            Quantile::Median => 0.5,
            Quantile::P99 => 0.99,
        }
    }
}

/// A sum of other rows' medians, each some times, and of a constant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Yardstick {
    pub(crate) terms: Vec<(f64, String)>,
    pub(crate) constant: f64,
    /// What it is called in the table.
    pub(crate) text: String,
}

impl Yardstick {
    /// The median of another row.
    pub(crate) fn row(id: &str, text: &str) -> Yardstick {
        Yardstick { terms: vec![(1.0, id.into())], constant: 0.0, text: text.into() }
    }

    /// One bare exit round trip.
    pub(crate) fn exit() -> Yardstick {
        Yardstick::row(EXIT, "R")
    }

    /// A figure from outside.
    pub(crate) fn constant(value: f64, text: &str) -> Yardstick {
        Yardstick { terms: vec![], constant: value, text: text.into() }
    }

    /// Adds another row's median, some times.
    pub(crate) fn plus(mut self, times: f64, id: &str) -> Yardstick {
        self.terms.push((times, id.into()));
        self
    }

    pub(crate) fn called(mut self, text: &str) -> Yardstick {
        self.text = text.into();
        self
    }
}

/// A line of the scoreboard.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) system: System,
    pub(crate) unit: Unit,
    /// The row whose samples these are: its own, except where two rows judge one measurement.
    pub(crate) samples: String,
    pub(crate) quantile: Quantile,
    pub(crate) yardstick: Option<Yardstick>,
    pub(crate) bound: Option<f64>,
}

impl Row {
    /// A row of times, divided by a bare exit where it is no floor itself.
    pub(crate) fn new(system: System, id: impl Into<String>, what: impl Into<String>) -> Row {
        let id = id.into();
        Row {
            samples: id.clone(),
            id,
            what: what.into(),
            system,
            unit: Unit::Nanoseconds,
            quantile: Quantile::Median,
            yardstick: (system != System::Floor).then(Yardstick::exit),
            bound: None,
        }
    }

    pub(crate) fn floor(id: impl Into<String>, what: impl Into<String>) -> Row {
        Row::new(System::Floor, id, what)
    }

    pub(crate) fn glowbox(id: impl Into<String>, what: impl Into<String>) -> Row {
        Row::new(System::Glowbox, id, what)
    }

    /// Counts bytes, which no exit divides.
    pub(crate) fn bytes(mut self) -> Row {
        self.unit = Unit::Bytes;
        self.yardstick = None;
        self
    }

    pub(crate) fn by(mut self, quantile: Quantile) -> Row {
        self.quantile = quantile;
        self
    }

    pub(crate) fn against(mut self, yardstick: Yardstick) -> Row {
        self.yardstick = Some(yardstick);
        self
    }

    pub(crate) fn at_most(mut self, bound: f64) -> Row {
        self.bound = Some(bound);
        self
    }

    /// Judges another row's samples.
    pub(crate) fn with_samples_of(mut self, id: &str) -> Row {
        self.samples = id.into();
        self
    }

    /// The rows that it can't be judged without, besides itself.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &str> {
        let terms = self.yardstick.iter().flat_map(|yardstick| &yardstick.terms);
        terms.map(|(_, id)| id.as_str()).chain([self.samples.as_str()])
    }
}
