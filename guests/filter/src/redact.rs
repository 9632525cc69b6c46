//! What is taken out of messages: e-mail addresses, access tokens, card numbers.

use alloc::borrow::Cow;

use regex::{Captures, Regex};

/// The compiled patterns.
pub(crate) struct Rules {
    email: Regex,
    token: Regex,
    card: Regex,
}

impl Rules {
    pub(crate) fn new() -> Result<Rules, regex::Error> {
        // Without the regex crate's Unicode tables, `\b`, `\d` and `(?i)` have to say that they
        // mean ASCII.
        Ok(Rules {
            email: Regex::new(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")?,
            token: Regex::new(r"(?-u:\b)(?:gh[pos]_|sk-|xox[bp]-)[A-Za-z0-9_-]{12,}")?,
            card: Regex::new(r"(?-u:\b)[0-9](?:[ -]?[0-9]){12,18}(?-u:\b)")?,
        })
    }

    /// The text without them, and how many there were.
    pub(crate) fn apply<'a>(&self, text: &'a str) -> (Cow<'a, str>, u32) {
        let mut count = 0;
        let text = replace(&self.email, Cow::Borrowed(text), "[email]", |_| true, &mut count);
        let text = replace(&self.token, text, "[token]", |_| true, &mut count);
        let text = replace(&self.card, text, "[card]", is_card_number, &mut count);
        (text, count)
    }
}

fn replace<'a>(
    pattern: &Regex,
    text: Cow<'a, str>,
    by: &str,
    applies: impl Fn(&str) -> bool,
    count: &mut u32,
) -> Cow<'a, str> {
    let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
        if !applies(&found[0]) {
            return found[0].into();
        }
        *count += 1;
        alloc::string::String::from(by)
    });
    match replaced {
        Cow::Borrowed(_) => text,
        Cow::Owned(replaced) => Cow::Owned(replaced),
    }
}

/// Whether the last digit of a number is the check digit that cards have (Luhn's formula).
fn is_card_number(text: &str) -> bool {
    let digits = text.chars().rev().filter_map(|character| character.to_digit(10));
    let sum: u32 = digits
        .enumerate()
        .map(|(index, digit)| match (index % 2, digit) {
            (0, _) => digit,
            (_, 0..=4) => digit * 2,
            _ => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}
