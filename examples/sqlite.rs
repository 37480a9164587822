//! A handler over a database that blocks: SQLite.
//!
//! Each peer's thread has a connection of its own, and waits for it as long as it takes: a slow query holds up one peer. No pool, no
//! `async`, no second thread to hand the query to. A peer says `put KEY VALUE` or `get KEY`, a line at a time.
//!
//! ```text
//! cargo run -p peeloff-examples --bin sqlite tls://127.0.0.1:4433 /tmp/store.db
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure tls://127.0.0.1:4433
//! ```

use std::path::PathBuf;
use std::time::Duration;

use peeloff::{Framing, HandlerError, Identity, Peer, PeerHandler, Server, TcpSettings};
use rusqlite::{Connection, OptionalExtension, params};

/// How long a query waits for another peer's that writes (SQLITE_BUSY).
const BUSY: Duration = Duration::from_secs(5);

struct Store {
    file: PathBuf,
}

impl Store {
    /// Makes the table, before there are peers: a file that cannot be used is an error at the start.
    fn new(file: PathBuf) -> Result<Self, rusqlite::Error> {
        let store = Self { file };
        let database = store.connect()?;
        // Readers and one writer do not wait for each other.
        database.pragma_update(None, "journal_mode", "wal")?;
        database.execute("create table if not exists store (key text primary key, value text) strict", [])?;
        Ok(store)
    }

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let database = Connection::open(&self.file)?;
        database.busy_timeout(BUSY)?;
        Ok(database)
    }
}

/// Answers one line. An error of the database is the peer's end, and is logged; a mistake of the peer's is answered.
fn answer(database: &Connection, line: &str) -> Result<String, rusqlite::Error> {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    Ok(match words[..] {
        ["put", key, value] => {
            let put = "insert into store values (?1, ?2) on conflict (key) do update set value = ?2";
            database.prepare_cached(put)?.execute(params![key, value])?;
            "stored".to_owned()
        }
        ["get", key] => database
            .prepare_cached("select value from store where key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?
            .unwrap_or_else(|| format!("no {key}")),
        _ => "say: put KEY VALUE, or: get KEY".to_owned(),
    })
}

impl PeerHandler for Store {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let database = self.connect()?;
        let mut line = Vec::new();
        while peer.recv_into(&mut line)?.is_some() {
            let answer = answer(&database, String::from_utf8_lossy(&line).trim_end())?;
            peer.send(answer.as_bytes())?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, file] = arguments.as_slice() else {
        return Err("usage: sqlite URL FILE, such as tls://127.0.0.1:4433 /tmp/store.db".into());
    };
    let server = Server::builder()
        .listen(address)
        .identity(Identity::self_signed()?)
        .tcp(TcpSettings::default().framing(Framing::Lines))
        .start(Store::new(file.into())?)?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_value_is_found_and_a_malformed_request_is_answered() {
        // A database in memory is that of one connection, so the table is made by hand.
        let database = Connection::open_in_memory().unwrap();
        database.execute("create table store (key text primary key, value text) strict", []).unwrap();
        for (line, expected) in [
            ("get a", "no a"),
            ("put a one two", "stored"),
            ("put a 1'; drop table store; --", "stored"),
            ("get a", "1'; drop table store; --"),
            ("got a", "say: put KEY VALUE, or: get KEY"),
        ] {
            assert_eq!(answer(&database, line).unwrap(), expected, "{line}");
        }
    }
}
