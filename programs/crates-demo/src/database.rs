//! `rusqlite` with the SQLite it bundles: in memory, and on a file in a folder.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::data::Numbers;
use crate::{Outcome, data};

const ROWS: u64 = 100_000;

pub(crate) fn in_memory() -> Outcome {
    work(&mut Connection::open_in_memory()?)
}

/// Once with SQLite's rollback journal, as it is by default, and then, opened again, as a reader.
pub(crate) fn on_disk(folder: &Path) -> Outcome {
    let path = folder.join("demo.sqlite");
    let mut connection = Connection::open(&path)?;
    work(&mut connection)?;
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    println!("journal: {journal}");
    // More than the page cache holds, so that it is in the file already when it is taken back.
    connection.execute_batch(
        "PRAGMA cache_size = 20; BEGIN; UPDATE items SET price = -price WHERE id < 2000; ROLLBACK;
         PRAGMA cache_size = -2000;",
    )?;
    println!("negative after a rollback: {}", count(&connection, "price < 0")?);
    drop(connection);
    println!("file: {} bytes", std::fs::metadata(&path)?.len());
    let connection = Connection::open(&path)?;
    println!("rows when opened again: {}", count(&connection, "1")?);
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    println!("integrity: {check}");
    connection.execute_batch("DELETE FROM items WHERE id % 10 <> 0; VACUUM;")?;
    println!("rows after deletion: {}", count(&connection, "1")?);
    drop(connection);
    println!("file: {} bytes", std::fs::metadata(&path)?.len());
    let mut names: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    println!("left in the folder: {names:?}");
    let absent = Connection::open(folder.join("absent").join("demo.sqlite"));
    println!("in a folder that is not there: {}", absent.is_err());
    Ok(())
}

fn work(connection: &mut Connection) -> Outcome {
    println!("SQLite {}", rusqlite::version());
    connection.execute_batch(
        "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, place TEXT, price REAL);
         CREATE INDEX items_by_place ON items (place, price);",
    )?;
    let mut numbers = Numbers::new(13);
    let transaction = connection.transaction()?;
    {
        let mut insert =
            transaction.prepare("INSERT INTO items (name, place, price) VALUES (?1, ?2, ?3)")?;
        for row in 0..ROWS {
            let place = ["Bonn", "Köln", "Ulm", "Jena", "Kiel"][numbers.below(5) as usize];
            let price = numbers.below(1_000_000) as f64 / 100.0;
            insert.execute(params![format!("item {row}"), place, price])?;
        }
    }
    transaction.commit()?;
    println!("rows: {}", count(connection, "1")?);
    let mut query = connection.prepare(
        "SELECT place, count(*), round(sum(price), 2), max(name) FROM items
         GROUP BY place ORDER BY place",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (place, items): (String, i64) = (row.get(0)?, row.get(1)?);
        let (sum, last): (f64, String) = (row.get(2)?, row.get(3)?);
        println!("{place}: {items} items, {sum:.2} in all, last {last}");
    }
    drop(rows);
    drop(query);
    let mut query = connection
        .prepare("SELECT name, price FROM items WHERE name LIKE '%77%' ORDER BY price, name")?;
    let found = query.query_map([], |row| {
        Ok(format!("{} {:.2}\n", row.get::<_, String>(0)?, row.get::<_, f64>(1)?))
    })?;
    let found = found.collect::<Result<Vec<String>, _>>()?;
    print!("{}", found[..3].concat());
    println!("{} in all, hash {:016x}", found.len(), data::hash(found.concat().as_bytes()));
    let refused = connection.execute("INSERT INTO items (id, name) VALUES (1, 'again')", []);
    println!("a second row 1: {}", refused.expect_err("ids are unique"));
    Ok(())
}

fn count(connection: &Connection, condition: &str) -> rusqlite::Result<i64> {
    let query = format!("SELECT count(*) FROM items WHERE {condition}");
    connection.query_row(&query, [], |row| row.get(0))
}
