//! What comes next: by chance, but nothing stays out for long.

use std::sync::Mutex;

use super::work;
use super::world::lock;

/// Cards that are dealt in random order, and shuffled again when all were dealt.
///
/// Independent draws would leave the rare kinds out of a short run, and nothing would tell bad luck
/// from a kind that has stopped coming. Threads share a deck, so that it is gone through often.
#[derive(Debug)]
pub(crate) struct Deck(Mutex<Cards>);

#[derive(Debug)]
struct Cards {
    /// How many cards there are of each kind.
    weights: Vec<u32>,
    left: Vec<usize>,
    random: u64,
}

impl Deck {
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>, seed: u64) -> Deck {
        let weights = weights.into_iter().collect();
        Deck(Mutex::new(Cards { weights, left: Vec::new(), random: seed }))
    }

    /// The kind of the next card.
    pub(crate) fn deal(&self) -> usize {
        let mut cards = lock(&self.0);
        let Cards { weights, left, random } = &mut *cards;
        if left.is_empty() {
            left.extend(
                weights.iter().enumerate().flat_map(|(kind, count)| (0..*count).map(move |_| kind)),
            );
        }
        let at = work::next(random) % left.len() as u64;
        left.swap_remove(usize::try_from(at).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_is_dealt_before_one_comes_again() {
        let deck = Deck::new([3, 1, 2], 7);
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let mut round: Vec<usize> = (0..6).map(|_| deck.deal()).collect();
            orders.insert(round.clone());
            round.sort_unstable();
            assert_eq!(round, [0, 0, 0, 1, 2, 2]);
        }
        assert!(orders.len() > 10, "{orders:?}");
    }
}
