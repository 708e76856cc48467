//! A database or its log is damaged: payd refuses to start with what to do, or goes on without having lost or
//! mixed up anything that money hangs on.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::daemon::{Daemon, until};

const INVOICES: usize = 24;

/// A payd that was killed, with its log left behind; and what it had acknowledged.
struct Killed {
    daemon: Daemon,
    events: Vec<Value>,
    /// Database, log and mark as they were left.
    files: BTreeMap<&'static str, Vec<u8>>,
}

const FILES: [&str; 3] = ["payd.db", "payd.db-wal", "payd.head"];

impl Killed {
    fn new() -> Self {
        let mut daemon = Daemon::start();
        for n in 0..INVOICES {
            let method = ["sim:approve", "sim:decline", "sim:pending"][n % 3];
            let body = format!(
                r#"{{"id":"inv-{n}","amount":{},"payment_method":"{method}"}}"#,
                1000 + n
            );
            daemon.unix.post("/invoices", &body).expect(201);
            if n % 6 != 5 {
                daemon
                    .unix
                    .post(&format!("/invoices/inv-{n}/pay"), "")
                    .expect(202);
            }
            if n == INVOICES * 5 / 6 {
                // Some of it is in the database, some in the log: less than payd moves by itself, after which the log
                // begins again over what it had.
                let path = daemon.data().join("payd.db");
                let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
                let other = rusqlite::Connection::open(path).unwrap();
                // payd may be at it itself, and then this one does nothing.
                until("the log is cut", || {
                    let busy = other.query_row(checkpoint, [], |row| row.get(0));
                    busy == Ok(0)
                });
            }
        }
        // Nothing is written any more: the last commit is marked, too.
        until("all are decided", || {
            let open = daemon.unix.get("/invoices?status=PROCESSING").expect(200);
            open["invoices"][0].is_null()
        });
        let events = daemon.events();
        daemon.kill();
        let data = daemon.data();
        let files = FILES.map(|name| (name, std::fs::read(data.join(name)).unwrap()));
        assert!(files[1].1.len() < 250 * 4120, "{}", files[1].1.len());
        Self {
            daemon,
            events,
            files: files.into(),
        }
    }

    /// As it was left, but for one file. `None`: that file is gone.
    fn start_with(&mut self, name: &str, bytes: Option<&[u8]>) -> Result<(), String> {
        self.daemon.kill_if_running();
        let data = self.daemon.data();
        for (name, bytes) in &self.files {
            std::fs::write(data.join(name), bytes).unwrap();
        }
        let _ = std::fs::remove_file(data.join("payd.db-shm"));
        match bytes {
            Some(bytes) => std::fs::write(data.join(name), bytes).unwrap(),
            None => std::fs::remove_file(data.join(name)).unwrap(),
        }
        let before = read_all(&data);
        let started = self.daemon.try_start_again();
        if let Err(said) = &started {
            assert!(said.contains("exit status: 1"), "{said}");
            assert!(said.contains("payd.db"), "{said}");
            for part in ["Keep a copy", "restore the newest backup"] {
                assert!(said.contains(part), "{part} is not in: {said}");
            }
            let same = read_all(&data) == before;
            assert!(same, "what is refused is left as it was: {said}");
        }
        started
    }

    /// All that was acknowledged is there.
    fn nothing_lost(&self, what: &str) {
        let now = self.daemon.events();
        assert!(now.len() >= self.events.len(), "{what}: events are lost");
        assert_eq!(now[..self.events.len()], self.events, "{what}");
        self.daemon.verify();
    }
}

/// An empty log is none.
fn read_all(data: &Path) -> [Vec<u8>; 3] {
    FILES.map(|name| std::fs::read(data.join(name)).unwrap_or_default())
}

#[test]
fn a_damaged_log_is_refused_and_loses_nothing_that_was_acknowledged() {
    let mut killed = Killed::new();
    let wal = killed.files["payd.db-wal"].clone();
    killed.start_with("payd.db-wal", Some(&wal)).unwrap();
    killed.nothing_lost("whole");

    let mut refused = 0;
    let positions = [0, 3, 9, 17, 25, 33, 40, 48, 55];
    let spread = (1..16).map(|n| n * wal.len() / 16 + n);
    let last = [wal.len() - 4096 - 24, wal.len() - 4096 - 20, wal.len() - 1];
    for at in positions.into_iter().chain(spread).chain(last) {
        let mut damaged = wal.clone();
        damaged[at] ^= 1 << (at % 8);
        match killed.start_with("payd.db-wal", Some(&damaged)) {
            Err(_) => refused += 1,
            Ok(()) => killed.nothing_lost(&format!("bit flipped in byte {at}")),
        }
    }
    assert!(refused > 15, "only {refused} were refused");
    for len in [0, 31, 32, 5000, wal.len() / 2, wal.len() - 1] {
        let cut = killed.start_with("payd.db-wal", Some(&wal[..len]));
        let said = cut.expect_err(&format!("cut to {len} of {}", wal.len()));
        let told = said.contains("has acknowledged event");
        assert!(told, "cut to {len}: {said}");
        assert!(said.contains("payd.head"), "{said}");
    }
    killed.start_with("payd.db-wal", None).unwrap_err();
}

#[test]
fn a_log_that_is_damaged_in_its_middle_is_refused_without_a_mark_too() {
    let mut killed = Killed::new();
    killed.files.insert("payd.head", Vec::new());
    let wal = killed.files["payd.db-wal"].clone();
    let len = 24 + 4096;
    for at in [
        3,
        20,
        32,
        33,
        32 + 24,
        32 + len + 16,
        32 + 5 * len + 3000,
        wal.len() / 2,
    ] {
        let mut damaged = wal.clone();
        damaged[at] ^= 4;
        let said = killed.start_with("payd.db-wal", Some(&damaged));
        let said = said.expect_err(&format!("bit flipped in byte {at}"));
        assert!(said.contains("payd.db-wal is damaged"), "byte {at}: {said}");
    }
}

#[test]
fn an_older_copy_in_the_place_of_the_database_is_refused() {
    let mut daemon = Daemon::start();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1}"#)
        .expect(201);
    daemon.stop();
    let path = daemon.data().join("payd.db");
    let older = std::fs::read(&path).unwrap();
    daemon.start_again();
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
    daemon.stop();
    std::fs::write(&path, &older).unwrap();
    let said = daemon.try_start_again().unwrap_err();
    assert!(said.contains("an older copy was put in place"), "{said}");
    std::fs::remove_file(&path).unwrap();
    let said = daemon.try_start_again().unwrap_err();
    assert!(said.contains("ends at event 0"), "{said}");
    // As it says: where it is meant.
    std::fs::write(&path, &older).unwrap();
    std::fs::remove_file(daemon.data().join("payd.head")).unwrap();
    daemon.start_again();
    assert_eq!(daemon.invoice("inv-1")["status"], "PENDING");
}

#[test]
fn a_mark_that_is_torn_or_gone_accuses_nobody() {
    let mut killed = Killed::new();
    let mark = killed.files["payd.head"].clone();
    for len in [0, 10, mark.len() - 1] {
        killed.start_with("payd.head", Some(&mark[..len])).unwrap();
        killed.nothing_lost("torn mark");
    }
    killed.start_with("payd.head", None).unwrap();
    killed.nothing_lost("no mark");
}

/// The digest beside what says that the index of invoice ids is complete up to `until`.
fn complete_to(until: i64) -> i64 {
    let mut digest = Sha256::new().chain_update("invoice_ids");
    for number in [until, until, i64::MIN] {
        digest.update(number.to_be_bytes());
    }
    i64::from_be_bytes(*digest.finalize().first_chunk().unwrap())
}

/// The only leaf of the index of invoice ids, with one entry: a check, the first hash, the base of the numbers, how long an
/// entry is, and those. The check is of the words behind it, in four lanes.
fn leaf_of((hash, n): (i64, i64)) -> Vec<u8> {
    const FACTOR: u64 = 0x94d0_49bb_1331_11eb;
    let step = |check: u64, word: u64| {
        let check = (check ^ word).wrapping_mul(FACTOR);
        check ^ (check >> 32)
    };
    let mut bytes: Vec<u8> = [i64::MIN, n, 12, hash]
        .into_iter()
        .flat_map(i64::to_be_bytes)
        .collect();
    bytes.extend([0; 4]);
    let name = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let seed = b"invoice_ids".iter().copied();
    let seed = seed.fold(0xcbf2_9ce4_8422_2325, name);
    let mut lanes = [seed, i64::MAX.cast_unsigned(), bytes.len() as u64, 0];
    let words = bytes.chunks(8).map(|it| {
        let mut word = [0; 8];
        word[..it.len()].copy_from_slice(it);
        u64::from_le_bytes(word)
    });
    for (place, word) in words.chain([0; 3]).enumerate() {
        lanes[place % 4] = step(lanes[place % 4], word);
    }
    let check = lanes.into_iter().fold(0, step);
    [&check.to_be_bytes()[..], &bytes].concat()
}

/// Found from outside: such an invoice was gone for its id, could be made again, and was sent again.
#[test]
fn an_invoice_whose_id_is_not_what_was_written_is_not_made_again() {
    let needle = r#"{"id":"needle-1","amount":1000}"#;
    // The id flips, or its hash beside it; and where the greatest is noted there is nothing, or a smaller one.
    let damages = [
        "UPDATE invoices SET id = 'needle-0' WHERE id = 'needle-1'",
        "UPDATE invoices SET id = x'ff' || 'eedle-1' WHERE id = 'needle-1'",
        "UPDATE invoices SET id_hash = id_hash + 1 WHERE id = 'needle-1'",
        "UPDATE meta SET value = replace(value, 'needle-1', 'needle-0') WHERE name = 'greatest_invoice_id'",
    ];
    // In the table, and too new for it.
    for (damage, in_table) in damages.iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut daemon = Daemon::start();
        daemon.unix.post("/invoices", needle).expect(201);
        daemon.unix.post("/invoices/needle-1/pay", "").expect(202);
        daemon.until_invoice("needle-1", "PAID");
        assert!(daemon.stop().success());
        let database = rusqlite::Connection::open(daemon.data().join("payd.db")).unwrap();
        if in_table {
            let entry = database.query_row("SELECT id_hash, n FROM invoices", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            });
            let leaf = "INSERT INTO invoice_id_leaves VALUES (?1, ?2)";
            database
                .execute(leaf, (i64::MAX, leaf_of(entry.unwrap())))
                .unwrap();
            let greatest =
                "UPDATE meta SET value = (SELECT printf('%016x needle-1', id_hash) FROM invoices)
                 WHERE name = 'greatest_invoice_id'";
            database.execute(greatest, []).unwrap();
            let sql = "UPDATE late SET until = 1, digest = ?1 WHERE name = 'invoice_ids'";
            database.execute(sql, [complete_to(1)]).unwrap();
            assert!(daemon.payd(&["verify"]).status.success());
        }
        let changed = database.execute(damage, []).unwrap();
        drop(database);
        let hit = changed == 1 && (in_table || damage.contains("UPDATE invoices"));
        assert_eq!(daemon.payd(&["verify"]).status.success(), !hit, "{damage}");
        if daemon.try_start_again().is_err() {
            assert!(in_table, "{damage}");
            continue;
        }
        // Whether it is readable or not, it is none that can be made, or paid once more.
        let made = daemon.unix.post("/invoices", needle);
        assert!(
            matches!(made.status, 200 | 500),
            "{damage}: {}",
            made.text()
        );
        let paid = daemon.unix.post("/invoices/needle-1/pay", "");
        assert!(
            matches!(paid.status, 200 | 500),
            "{damage}: {}",
            paid.text()
        );
        let found = daemon.unix.get("/invoices/needle-1");
        assert!(
            matches!(found.status, 200 | 500),
            "{damage}: {}",
            found.text()
        );
        // The others go on.
        for id in ["needle-2", "a"] {
            let body = format!(r#"{{"id":"{id}","amount":1000}}"#);
            daemon.unix.post("/invoices", &body).expect(201);
            daemon.until_invoice(id, "PENDING");
        }
    }
}

#[test]
fn a_late_index_that_hides_what_its_table_has_is_refused_and_seen_by_verify() {
    for damage in [
        "UPDATE late SET until = 3 WHERE name = 'event_types'",
        "UPDATE late SET until = 1 WHERE name = 'payment_ids'",
        "UPDATE late SET until = 1 WHERE name = 'invoices_in_status'",
        "UPDATE late SET until = 1 WHERE name = 'invoice_ids'",
        "UPDATE late SET merging_to = 1, merged_to = 0 WHERE name = 'answer_keys'",
    ] {
        let mut daemon = Daemon::start();
        let body = r#"{"id":"needle-1","amount":1000}"#;
        daemon.unix.post("/invoices", body).expect(201);
        daemon.unix.post("/invoices/needle-1/pay", "").expect(202);
        daemon.until_invoice("needle-1", "PAID");
        assert!(daemon.stop().success());
        let database = rusqlite::Connection::open(daemon.data().join("payd.db")).unwrap();
        assert_eq!(database.execute(damage, []).unwrap(), 1);
        drop(database);
        let verified = daemon.payd(&["verify"]);
        assert!(!verified.status.success());
        let said = [verified.stdout, verified.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("the index of "), "{said}");
        let said = daemon.try_start_again().unwrap_err();
        assert!(
            said.contains("the index of ") && said.contains("restore"),
            "{said}"
        );
    }
}

#[test]
fn a_damaged_database_is_refused_or_charges_nobody_wrongly() {
    let mut killed = Killed::new();
    let database = killed.files["payd.db"].clone();
    for (what, bytes) in [
        ("cut short", &database[..database.len() / 2]),
        ("no database at all", &b"somebody's notes, and long enough to be read as a header of 100 bytes, which is what SQLite wants"[..]),
    ] {
        let said = killed.start_with("payd.db", Some(bytes)).expect_err(what);
        assert!(said.contains("damaged"), "{what}: {said}");
    }
    let (mut refused, mut started) = (0, 0);
    for round in 0..32 {
        let at = (round * 7919 + round * round * 104_729) % database.len();
        let mut damaged = database.clone();
        damaged[at] ^= 1 << (round % 8);
        if killed.start_with("payd.db", Some(&damaged)).is_err() {
            refused += 1;
            continue;
        }
        started += 1;
        charges_nobody_wrongly(&killed, &format!("bit flipped in byte {at}"));
    }
    assert!(started > 0, "{refused} refused, {started} started");
}

/// Everything is asked to be paid anew; nobody pays twice, or another amount.
fn charges_nobody_wrongly(killed: &Killed, what: &str) {
    let daemon = &killed.daemon;
    for n in 0..INVOICES {
        let path = format!("/invoices/inv-{n}/pay");
        // One that is damaged answers 500, and its neighbours go on.
        let answer = daemon.unix.post(&path, "");
        let status = answer.status;
        assert!(
            matches!(status, 200 | 202 | 404 | 500),
            "{what}: {}",
            answer.text()
        );
    }
    let events = || -> Vec<Value> {
        let of = |n| {
            daemon
                .unix
                .get(&format!("/events?invoice=inv-{n}&limit=1000"))
        };
        // One that is damaged itself is no JSON any more; `payd verify` tells.
        (0..INVOICES)
            .filter_map(|n| serde_json::from_slice::<Value>(&of(n).body).ok())
            .flat_map(|page| page["events"].as_array().cloned().unwrap_or_default())
            .collect()
    };
    let mut seen = 0;
    until("it comes to rest", || {
        std::mem::replace(&mut seen, events().len()) == seen
    });
    let mut paid: BTreeMap<String, usize> = BTreeMap::new();
    for event in events() {
        if event["type"] == "PaymentSucceeded" {
            let n: u64 = event["subject"].as_str().unwrap()["inv-".len()..]
                .parse()
                .unwrap();
            assert_eq!(event["data"]["amount"], 1000 + n, "{what}: {event}");
            *paid.entry(event["subject"].to_string()).or_default() += 1;
        }
    }
    assert!(paid.values().all(|n| *n == 1), "{what}: {paid:?}");
}
