//! The same experiments on the process backend, beside KVM's.
//!
//! They are the same code on other engines; their samples go to rows of their own, which are divided by KVM's.

use glowbox_bench::subject::Result;

use super::{Experiment, Lab, Opened, Plan};
use crate::rows::{Quantile, Row, System, Yardstick};
use crate::samples::Samples;

/// What a row's ID on KVM has in front of it.
const PREFIX: &str = "on-process-";

/// Plans, each with its like on the process backend behind it.
pub(super) fn beside(plans: impl Fn() -> Vec<Plan>) -> Vec<Plan> {
    let pairs = plans().into_iter().zip(plans());
    pairs.flat_map(|(plan, again)| [Some(plan), on_process(again)]).flatten().collect()
}

/// `None` for a plan that measures no sandboxes.
fn on_process(plan: Plan) -> Option<Plan> {
    let Plan { rows, turn, open } = plan;
    let sandboxes = rows.iter().filter(|row| row.system == System::Glowbox);
    let rows: Vec<Row> = sandboxes.map(row).collect();
    let open = move |lab: &Lab| {
        let lab = match lab.process()? {
            Ok(lab) => lab,
            Err(reason) => return Ok(Opened::LeftOut(reason.clone())),
        };
        Ok(match open(lab)? {
            Opened::Ready(experiment) => Opened::Ready(Box::new(OnProcess(experiment))),
            left_out => left_out,
        })
    };
    (!rows.is_empty()).then(|| Plan { rows, turn, open: Box::new(open) })
}

fn id(on_kvm: &str) -> String {
    format!("{PREFIX}{on_kvm}")
}

fn row(on_kvm: &Row) -> Row {
    Row {
        id: id(&on_kvm.id),
        what: format!("{}, on the process backend", on_kvm.what),
        samples: id(&on_kvm.samples),
        quantile: Quantile::Median,
        yardstick: Some(Yardstick::row(&on_kvm.samples, "KVM")),
        bound: None,
        ..on_kvm.clone()
    }
}

/// An experiment whose samples belong to the rows of the process backend.
struct OnProcess(Box<dyn Experiment>);

impl Experiment for OnProcess {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let mut own = Samples::default();
        self.0.sample(&mut own)?;
        samples.take_in(own, id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl Experiment for One {
        fn sample(&mut self, samples: &mut Samples) -> Result<()> {
            samples.add("call-warm", 5.0);
            Ok(())
        }
    }

    #[test]
    fn samples_go_to_the_row_beside_that_of_kvm() {
        let on_kvm = Row::glowbox("call-warm", "a call").at_most(1.05);
        let row = row(&on_kvm);
        assert_eq!((row.id.as_str(), row.bound), ("on-process-call-warm", None));
        assert_eq!(row.needs().collect::<Vec<_>>(), ["call-warm", "on-process-call-warm"]);
        let mut samples = Samples::default();
        samples.add("call-warm", 2.0);
        OnProcess(Box::new(One)).sample(&mut samples).unwrap();
        assert_eq!((samples.median("call-warm"), samples.ratio(&row)), (Some(2.0), Some(2.5)));
    }

    #[test]
    fn what_measures_no_sandbox_has_nothing_beside_it() {
        let floors = || vec![Plan::new(vec![Row::floor("floor", "")], |_| Err("".into()))];
        assert_eq!(beside(floors).len(), 1);
    }
}
