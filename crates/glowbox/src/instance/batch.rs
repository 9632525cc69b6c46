//! Many calls in few entries: `glowbox_abi::batch`, from the host's side.
//!
//! Inputs are packed into the incoming buffer until its share for a batch is full, the guest runs them,
//! and results are taken as the guest hands them over: when its buffer is full, and at the end. However
//! an entry ends, the results that were counted before are still there to be taken.
//!
//! A batch gets half of the incoming buffer: replies of host functions lie behind it. Arguments that
//! need more go as a single call, which has all of it.

use glowbox_abi::mailbox::{BATCH_PROGRESS_OFFSET, ToGuest, ToGuestKind};
use glowbox_abi::wire::WireError;
use glowbox_core::batch::{self, Results};
use glowbox_core::mail::{GuestMail, ProtocolViolation, Return, Untrusted};
use serde::de::DeserializeOwned;

use super::{Instance, out_of_turn, outcome};
use crate::function::Target;
use crate::host_function::contain;
use crate::{Arguments, CallOptions, Error, ErrorKind};

/// The batch that the guest is running.
#[derive(Debug)]
pub(super) struct Batch {
    /// Calls in it.
    calls: usize,
    /// Results that have been taken, in order.
    taken: usize,
    /// Results that the guest handed over while an item of it waited for a host function, where the
    /// type that they decode to is not known.
    aside: Option<Aside>,
    /// The result taken last did not decode. It has been delivered as the error that ended the batch.
    broken: bool,
}

/// A row of results, copied out of the outgoing buffer.
#[derive(Debug)]
struct Aside {
    count: usize,
    bytes: Vec<u8>,
}

/// What has been packed into the incoming buffer, and why no more than that.
struct Packed<A> {
    calls: usize,
    length: usize,
    next: Next<A>,
}

/// What comes after a batch.
enum Next<A> {
    /// Another one, which starts with these.
    Batch(A),
    /// A single call: these do not fit a batch.
    Alone(A),
    /// Arguments that can't be written.
    Refused(Error),
    /// Nothing.
    End,
}

/// The batch's results, for the caller.
type Delivered<'a, R> = &'a mut Vec<Result<R, Error>>;

impl Instance {
    /// Calls a function once for each of `inputs`, from outside.
    pub(crate) fn call_many<A: Arguments, R: DeserializeOwned>(
        &mut self,
        target: &Target,
        mut inputs: impl Iterator<Item = A>,
        options: &CallOptions,
    ) -> Vec<Result<R, Error>> {
        let allowed = match self.allowed_by(options) {
            Ok(allowed) => allowed,
            Err(error) => return inputs.map(|_| Err(error.clone())).collect(),
        };
        let (mut results, mut first) = (Vec::new(), None);
        loop {
            if let Some(by) = &self.spent {
                let error = Error::spent(by);
                results.extend(first.into_iter().chain(inputs).map(|_| Err(error.clone())));
                return results;
            }
            let Packed { calls, length, next } = self.pack(target, first.take(), &mut inputs);
            if calls > 0 {
                let before = results.len();
                self.batch = Some(Batch { calls, taken: 0, aside: None, broken: false });
                let ended = self.timed(allowed, |instance| {
                    instance.run_batch(target, calls, length, &mut results)
                });
                self.finish_batch(target, ended, before, &mut results);
                self.batch = None;
            }
            match next {
                Next::Batch(arguments) => first = Some(arguments),
                Next::Alone(arguments) => results.push(self.call(target, &arguments, options)),
                Next::Refused(error) => results.push(Err(error)),
                Next::End => return results,
            }
        }
    }

    /// Writes as many calls as fit.
    fn pack<A: Arguments>(
        &mut self,
        target: &Target,
        mut first: Option<A>,
        inputs: &mut impl Iterator<Item = A>,
    ) -> Packed<A> {
        let space = self.incoming_mut();
        let share = space.len() / 2;
        let space = &mut space[..share];
        let (mut calls, mut length) = (0, 0);
        let next = loop {
            let Some(arguments) = first.take().or_else(|| inputs.next()) else {
                break Next::End;
            };
            match batch::put_item(space, length, |space| arguments.encode(space)) {
                Ok(used) => (calls, length) = (calls + 1, used),
                Err(WireError::TooLarge { .. }) if calls == 0 => break Next::Alone(arguments),
                Err(WireError::TooLarge { .. }) => break Next::Batch(arguments),
                Err(error) => break Next::Refused(outcome::not_encoded(target, error)),
            }
        };
        Packed { calls, length, next }
    }

    /// Enters the guest for the calls that have been packed, and comes back when it is done with them.
    /// Results of the last stretch are still to be taken then.
    fn run_batch<R: DeserializeOwned>(
        &mut self,
        target: &Target,
        calls: usize,
        length: usize,
        results: Delivered<'_, R>,
    ) -> Result<(), Error> {
        self.set_progress(0);
        self.tell(&ToGuest {
            kind: ToGuestKind::CallMany as u32,
            function: target.number,
            count: u32::try_from(calls).expect("no message holds that many calls"),
            offset: 0,
            length: length as u64,
            ..ToGuest::default()
        });
        loop {
            match self.run()? {
                GuestMail::BatchFlush => self.take_results(target, results)?,
                GuestMail::Return(returned) => {
                    self.take_results(target, results)?;
                    self.deliver(target, returned, None, results)?;
                    self.set_progress(self.batch().taken as u64);
                }
                GuestMail::BatchEnd => return Ok(()),
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    /// Takes what results are left after the batch's entry, and makes up for those that are missing.
    fn finish_batch<R: DeserializeOwned>(
        &mut self,
        target: &Target,
        ended: Result<(), Error>,
        before: usize,
        results: Delivered<'_, R>,
    ) {
        // Unequal if a `Deserialize` of the caller's panicked: then that result's place is the
        // error's.
        let Batch { taken, calls, .. } = *self.batch();
        let rest = if results.len() - before == taken && !self.batch().broken {
            contain(|| self.take_results(target, results)).unwrap_or_else(|message| {
                let text = format!("the host panicked while it decoded results: {message}");
                Err(Error::new(ErrorKind::HostPanic, text))
            })
        } else {
            Ok(())
        };
        let missing = calls - (results.len() - before);
        self.stats.calls += (calls - missing) as u64;
        // How the entry ended says more than how its results looked then.
        let error = match (ended.and(rest), missing) {
            (Err(error), _) => error,
            (Ok(()), 0) => return,
            (Ok(()), _) => outcome::violation(ProtocolViolation {
                field: "batch progress",
                value: (calls - missing) as u64,
                rule: "the batch has ended, and has more calls than that",
            }),
        };
        let error = self.spend(error);
        if missing == 0 {
            return;
        }
        let spent = Error::spent(&error);
        if !self.batch().broken {
            self.stats.calls += 1;
            results.push(Err(error));
        }
        let end = before + calls;
        results.resize_with(end, || Err(spent.clone()));
    }

    /// Takes the results that the guest has counted and not handed over before.
    fn take_results<R: DeserializeOwned>(
        &mut self,
        target: &Target,
        results: Delivered<'_, R>,
    ) -> Result<(), Error> {
        if let Some(Aside { count, bytes }) = self.batch_mut().aside.take() {
            let mut row = Results::new(count);
            while let Some(returned) = row.next(&bytes) {
                let returned = returned.map_err(outcome::violation)?;
                self.deliver(target, returned, Some(&bytes), results)?;
            }
        }
        let mut row = Results::new(self.new_results()?);
        while let Some(returned) = row.next(self.outgoing()) {
            let returned = returned.map_err(outcome::violation)?;
            self.deliver(target, returned, None, results)?;
        }
        Ok(())
    }

    /// Delivers the next result, whose ranges lie in `bytes` or else in the outgoing buffer.
    fn deliver<R: DeserializeOwned>(
        &mut self,
        target: &Target,
        returned: Return,
        bytes: Option<&[u8]>,
        results: Delivered<'_, R>,
    ) -> Result<(), Error> {
        let batch = self.batch_mut();
        if batch.taken == batch.calls {
            let text = "the guest returned more results than the batch has calls";
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        batch.taken += 1;
        let result = outcome::value(target, returned, bytes.unwrap_or(self.outgoing()));
        let broken = match &result {
            Err(error) if error.kind() == ErrorKind::Protocol => Some(error.clone()),
            _ => None,
        };
        results.push(result);
        match broken {
            Some(error) => {
                self.batch_mut().broken = true;
                Err(self.spend(error))
            }
            None => Ok(()),
        }
    }

    /// Copies the results that the guest hands over while one of its calls waits for a host function.
    pub(super) fn set_results_aside(&mut self) -> Result<(), Error> {
        let count = self.new_results()?;
        if count == 0 {
            return Ok(());
        }
        if self.batch().aside.is_some() {
            // The item that waits has the whole buffer by now; no result can have joined it.
            let text = "the guest handed over results of a batch twice while one call waited";
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        let mut row = Results::new(count);
        while let Some(returned) = row.next(self.outgoing()) {
            returned.map_err(outcome::violation)?;
        }
        let bytes = self.outgoing()[..row.end()].to_vec();
        self.batch_mut().aside = Some(Aside { count, bytes });
        Ok(())
    }

    /// How many results the guest has counted that have not been handed over.
    fn new_results(&self) -> Result<usize, Error> {
        let Batch { calls, taken, aside, .. } = self.batch();
        let taken = taken + aside.as_ref().map_or(0, |aside| aside.count);
        let at = self.setup.places.control + BATCH_PROGRESS_OFFSET;
        let bytes = self.lease.memory()[at..].first_chunk();
        let done = u64::from_le_bytes(*bytes.expect("the control page lies in memory"));
        batch::new_results(Untrusted::new(done), taken, *calls).map_err(outcome::violation)
    }

    fn set_progress(&mut self, done: u64) {
        let at = self.setup.places.control + BATCH_PROGRESS_OFFSET;
        self.lease.memory_mut()[at..at + 8].copy_from_slice(&done.to_le_bytes());
    }

    fn batch(&self) -> &Batch {
        self.batch.as_ref().expect("a batch is under way")
    }

    fn batch_mut(&mut self) -> &mut Batch {
        self.batch.as_mut().expect("a batch is under way")
    }
}
