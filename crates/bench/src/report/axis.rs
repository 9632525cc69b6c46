//! Axes of plots: from values to places on the page, and back in words.

/// How values are laid out along a line from `from` to `to`, in SVG units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) logarithmic: bool,
}

impl Axis {
    /// Equal steps for equal factors.
    pub(crate) fn logarithmic(low: f64, high: f64, from: f64, to: f64) -> Axis {
        Axis { low, high, from, to, logarithmic: true }
    }

    /// Equal steps for equal differences, from zero.
    pub(crate) fn linear(high: f64, from: f64, to: f64) -> Axis {
        Axis { low: 0.0, high, from, to, logarithmic: false }
    }

    /// Where a value lies; what is beyond an end lies at the end.
    pub(crate) fn place(self, value: f64) -> f64 {
        self.from + (self.to - self.from) * self.part(value).clamp(0.0, 1.0)
    }

    fn part(self, value: f64) -> f64 {
        if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// The values that get a line.
    pub(crate) fn ticks(self) -> Vec<f64> {
        if self.logarithmic {
            let powers = (-1..12).map(|power| 10f64.powi(power));
            return powers.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let raw = (self.high - self.low) / 5.0;
        let power = 10f64.powf(raw.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| *step >= raw).unwrap_or(raw);
        (0..=10).map(|tick| f64::from(tick) * step).filter(|tick| *tick <= self.high).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_to_places() {
        let axis = Axis::logarithmic(1.0, 100.0, 0.0, 200.0);
        assert_eq!(
            [0.1, 1.0, 10.0, 1000.0].map(|value| axis.place(value)),
            [0.0, 0.0, 100.0, 200.0]
        );
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0]);
        let axis = Axis::linear(42.0, 100.0, 0.0);
        assert_eq!(axis.place(21.0), 50.0);
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
    }
}
