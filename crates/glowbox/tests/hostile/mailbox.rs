//! What else lies in the mailbox: fields that only the guest reads, the batch's progress, and the records of a
//! batch's results, each at every boundary value.

use glowbox::ErrorKind;
use glowbox_abi::mailbox::{
    BATCH_PROGRESS_OFFSET, BOOT_INFO_OFFSET, BootInfo, ENTROPY_OFFSET, TO_GUEST_OFFSET, ToGuest,
};

use crate::attacker::{Attacker, MESSAGE, Map};
use crate::headers::{BATCH_END, BATCH_FLUSH, is};
use crate::steps::{Header, Place, Step};
use crate::values::{longs, words};

/// Offsets in the control page of fields of 64 and of 32 bits.
type Fields = (Vec<usize>, Vec<usize>);

/// [`ToGuest`] and `Entropy`, which the host writes and never reads; the progress, outside a batch.
fn ignored() -> Fields {
    let to_guest = [0, 4, 8, 12].map(|field| TO_GUEST_OFFSET + field);
    let longs = [TO_GUEST_OFFSET + 16, TO_GUEST_OFFSET + 24, BATCH_PROGRESS_OFFSET];
    let entropy = [0, 16, 24, 32, 40].map(|field| ENTROPY_OFFSET + field);
    const { assert!(ToGuest::SIZE == 32) };
    let words = [&to_guest[..], &[ENTROPY_OFFSET + 8, ENTROPY_OFFSET + 12]].concat();
    ([&longs[..], &entropy].concat(), words)
}

/// `BootInfo`, by which the guest finds its buffers.
fn of_the_guest() -> Fields {
    let longs = (8..BootInfo::SIZE).step_by(8).map(|field| BOOT_INFO_OFFSET + field);
    (longs.collect(), vec![BOOT_INFO_OFFSET, BOOT_INFO_OFFSET + 4])
}

/// Every field with every value, as a raw store of the guest's.
fn stores((wide, narrow): &Fields, map: &Map) -> Vec<Step> {
    let write = |at: &usize, bytes: &[u8]| Step::Write(Place::Control, *at as u64, bytes.to_vec());
    let (longs, words) = (longs(map), words(&[]));
    let wide = wide.iter().flat_map(|at| longs.iter().map(move |value| (at, value)));
    let narrow = narrow.iter().flat_map(|at| words.iter().map(move |value| (at, value)));
    let wide = wide.map(|(at, value)| write(at, &value.to_le_bytes()));
    wide.chain(narrow.map(|(at, value)| write(at, &value.to_le_bytes()))).collect()
}

/// A record of a batch's result.
#[derive(Debug, Clone, Copy)]
struct Record {
    status: u32,
    text_length: u32,
    length: u64,
}

impl Record {
    const PROPER: Record = Record { status: 0, text_length: 0, length: 1 };

    fn to_bytes(self) -> Vec<u8> {
        let Record { status, text_length, length } = self;
        [&status.to_le_bytes()[..], &text_length.to_le_bytes(), &length.to_le_bytes()].concat()
    }
}

/// What a batch's results have to be, if the guest's buffer has these records in it, claims to have made two
/// results of three, and says that it is done.
fn results_of(first: Record, second: Record) -> Vec<Result<u8, (ErrorKind, String)>> {
    let wrong = |field: &str| Err((ErrorKind::Protocol, format!("has `{field}` =")));
    let spent = || Err((ErrorKind::Spent, String::new()));
    let bytes = |record: Record| [record.to_bytes(), vec![0; 16]].concat();
    let mut buffer = [bytes(first), bytes(second)].concat();
    buffer.resize(usize::try_from(MESSAGE).expect("small"), 0);
    let (mut results, mut at) = (Vec::new(), 0);
    while results.len() < 2 {
        let number = |from: usize, to: usize| {
            let bytes = buffer[at + from..at + to].iter().rev();
            bytes.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        if at + 16 > buffer.len() {
            results.push(wrong("batch progress"));
            break;
        }
        let (status, text, length) = (number(0, 4), number(4, 8), number(8, 16));
        if length > (buffer.len() - at - 16) as u64 {
            results.push(wrong("batch result's length"));
        } else {
            results.push(match status {
                0 if length == 1 => Ok(0),
                0 => Err((ErrorKind::Protocol, "`strike` is not a `u8`".into())),
                1 if text > length => wrong("batch result's text_length"),
                1 => Err((ErrorKind::Guest, "`strike` returned an error: ".into())),
                2 => Err((ErrorKind::BadArguments, "`strike` could not decode".into())),
                _ => wrong("batch result's status"),
            });
            let end = at + 16 + usize::try_from(length).expect("in the buffer");
            at = end.next_multiple_of(16).min(buffer.len());
        }
        if matches!(results.last(), Some(Err((ErrorKind::Protocol, _)))) {
            break;
        }
    }
    if results.len() == 2 && !matches!(results[1], Err((ErrorKind::Protocol, _))) {
        results.push(wrong("batch progress"));
    }
    results.resize_with(3, spent);
    results
}

impl Attacker {
    /// Runs a batch of three of which the second call does these steps.
    fn second_of_three(&mut self, steps: &[Step], wanted: &[Result<u8, (ErrorKind, String)>]) {
        let results = self.strike_many(&[&[], steps, &[]]);
        let same = results.iter().zip(wanted).all(|(found, wanted)| is(found, wanted));
        assert!(same, "{steps:?} has to be {wanted:?}, and is {results:?}");
        self.reset(&steps);
    }
}

tests! {
    fn what_the_host_does_not_read_has_no_effect() {
        let mut attacker = Attacker::new("fields that the host does not read");
        let map = Map::of(&mut attacker);
        for store in stores(&ignored(), &map) {
            let steps = [store, Step::Ask];
            let result = attacker.strike(&steps);
            assert_eq!(result.unwrap_or_else(|error| panic!("{steps:?}: {error:?}")), 1);
            attacker.reset(&steps);
        }
    }

    fn a_guest_that_is_wrong_about_its_own_buffers_harms_itself_alone() {
        let mut attacker = Attacker::new("fields by which the guest finds its buffers");
        let map = Map::of(&mut attacker);
        for store in stores(&of_the_guest(), &map) {
            let steps = [store, Step::Say(20), Step::Ask];
            if let Err(error) = attacker.strike(&steps) {
                // An overflowed stack too: a buffer's address may lie in its guard.
                use ErrorKind::{Fault, Panic, Protocol, StackOverflow};
                let kinds = [Fault, Panic, Protocol, StackOverflow];
                assert!(kinds.contains(&error.kind()), "{steps:?}: {error:?}");
            }
            attacker.reset(&steps);
        }
    }

    fn a_batchs_progress_at_every_boundary() {
        let mut attacker = Attacker::new("a batch's progress and the records of its results");
        let map = Map::of(&mut attacker);
        // Three proper results.
        let records = [Record::PROPER.to_bytes(), vec![0; 16]].concat().repeat(3);
        for progress in longs(&map) {
            for kind in [BATCH_FLUSH, BATCH_END] {
                let wrong = |words: &str| Err((ErrorKind::Protocol, format!("has `batch progress` = {progress:#x}, but {words}")));
                let spent = || Err((ErrorKind::Spent, String::new()));
                // After a flush the guest goes on and counts two more.
                let more = || Err((ErrorKind::Protocol, "has `batch progress` =".into()));
                let wanted = match (progress, kind) {
                    (4.., _) => vec![wrong("the batch has fewer calls than that"), spent(), spent()],
                    (0, BATCH_FLUSH) => vec![Ok(0), Ok(0), more()],
                    (2, BATCH_FLUSH) => vec![Ok(0), Ok(0), more()],
                    (1 | 3, BATCH_FLUSH) | (3, _) => vec![Ok(0), Ok(0), Ok(0)],
                    (0, _) => vec![wrong("the batch has ended"), spent(), spent()],
                    (1, _) => vec![Ok(0), wrong("the batch has ended"), spent()],
                    (_, _) => vec![Ok(0), Ok(0), wrong("the batch has ended")],
                };
                let steps = [
                    Step::Write(Place::Outgoing, 0, records.clone()),
                    Step::Write(Place::Control, BATCH_PROGRESS_OFFSET as u64, progress.to_le_bytes().to_vec()),
                    Step::Leave(Header { kind, ..Header::default() }),
                ];
                attacker.second_of_three(&steps, &wanted);
            }
        }
    }

    fn the_records_of_a_batchs_results_at_every_boundary() {
        let mut attacker = Attacker::new("a batch's progress and the records of its results");
        let map = Map::of(&mut attacker);
        let word = |value: &u64| u32::try_from(value & u64::from(u32::MAX)).expect("masked");
        let values: Vec<u64> = longs(&map).into_iter().chain(words(&[]).into_iter().map(u64::from)).collect();
        let records = values.iter().flat_map(|value| {
            let of = |status, text_length, length| Record { status, text_length, length };
            [
                of(0, 0, *value),
                of(word(value), 0, 1),
                of(1, word(value), 9),
                of(1, 3, *value),
            ]
        });
        let done = [
            Step::Write(Place::Control, BATCH_PROGRESS_OFFSET as u64, vec![2]),
            Step::Leave(Header { kind: BATCH_END, ..Header::default() }),
        ];
        for (number, record) in records.enumerate() {
            let (first, second) = match number % 2 {
                0 => (record, Record::PROPER),
                _ => (Record::PROPER, record),
            };
            let bytes = [first.to_bytes(), vec![0; 16], second.to_bytes(), vec![0; 16]].concat();
            let steps = [&[Step::Write(Place::Outgoing, 0, bytes)], &done[..]].concat();
            attacker.second_of_three(&steps, &results_of(first, second));
        }
    }
}
