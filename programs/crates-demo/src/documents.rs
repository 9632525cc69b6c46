//! `serde_json`: documents written, read, changed and written again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::Numbers;
use crate::{Outcome, data};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Order {
    id: u64,
    customer: String,
    positions: Vec<Position>,
    paid: Option<bool>,
    notes: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Position {
    Goods { name: String, price: f64, count: u32 },
    Voucher { code: String },
}

pub(crate) fn run() -> Outcome {
    let mut numbers = Numbers::new(11);
    let orders: Vec<Order> = (0..20_000).map(|id| order(id, &mut numbers)).collect();
    let text = serde_json::to_string(&orders)?;
    println!("written: {} bytes, hash {:016x}", text.len(), data::hash(text.as_bytes()));
    let read: Vec<Order> = serde_json::from_str(&text)?;
    println!("read the same: {}", read == orders);
    let mut value: Value = serde_json::from_str(&text)?;
    let sum: f64 = value
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|order| order["positions"].as_array().into_iter().flatten())
        .filter_map(|position| Some(position["price"].as_f64()? * position["count"].as_f64()?))
        .sum();
    println!("sum: {sum:.2}");
    value[3]["notes"] = json!({ "changed": [1, 2.5, null, "ü\u{1F600}\n"] });
    println!("{}", serde_json::to_string_pretty(&value[3])?);
    for wrong in ["[1, 2", "{\"a\": nul}", "[\"\\ud800\"]", "1e999"] {
        match serde_json::from_str::<Value>(wrong) {
            Ok(value) => println!("{wrong}: {value}"),
            Err(error) => println!("{wrong}: {error}"),
        }
    }
    Ok(())
}

fn order(id: u64, numbers: &mut Numbers) -> Order {
    let positions = (0..numbers.below(5)).map(|_| match numbers.below(4) {
        0 => Position::Voucher { code: format!("{:08X}", numbers.below(1 << 32)) },
        kind => Position::Goods {
            name: format!("article {kind} \"{}\"", numbers.below(500)),
            price: numbers.below(100_000) as f64 / 100.0,
            count: 1 + numbers.below(9) as u32,
        },
    });
    Order {
        id,
        positions: positions.collect(),
        customer: format!("Kunde Nr. {} \u{2764}", numbers.below(900)),
        paid: [None, Some(true), Some(false)][numbers.below(3) as usize],
        notes: (0..numbers.below(3)).map(|n| (format!("note {n}"), "\t/\\".repeat(3))).collect(),
    }
}
