//! Who owned which lane when, by the database's own time: every change of a lane's row, logged by a trigger.
//!
//! The trigger writes inside the transaction that changes the row, and so under the row's lock: per lane, the log is in
//! the order of the changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use sqlx::{PgConnection, Row};

const TRIGGER: &str = "
    CREATE TABLE lane_history (
        position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at BIGINT NOT NULL, configuration TEXT NOT NULL, owner TEXT, fencing BIGINT NOT NULL, lease_until BIGINT,
        intent TEXT
    );
    CREATE FUNCTION note_lane() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO lane_history (at, configuration, owner, fencing, lease_until, intent) VALUES (
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT, NEW.configuration, NEW.owner, NEW.fencing,
            (EXTRACT(EPOCH FROM NEW.lease_until) * 1000000)::BIGINT, NEW.intent);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_lane AFTER INSERT OR UPDATE ON lanes FOR EACH ROW EXECUTE FUNCTION note_lane();";

/// A lane after a change of its row.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) configuration: String,
    pub(crate) owner: Option<String>,
    pub(crate) fencing: i64,
    pub(crate) lease_until: Option<Timestamp>,
    /// The client request id of the announced write.
    pub(crate) announced: Option<String>,
}

/// Makes a database keep the history.
pub(crate) async fn begin(database: &mut PgConnection) {
    sqlx::raw_sql(TRIGGER).execute(database).await.unwrap();
}

pub(crate) async fn read(database: &mut PgConnection) -> Vec<Entry> {
    let sql = "SELECT at, configuration, owner, fencing, lease_until, intent FROM lane_history ORDER BY position";
    let moment = |micros| Timestamp::from_microsecond(micros).unwrap();
    let entry = |row: &sqlx::postgres::PgRow| {
        let intent: Option<String> = row.get("intent");
        let announced = intent.map(|text| {
            let intent: Value = serde_json::from_str(&text).unwrap();
            intent["client_request_id"].as_str().unwrap().to_owned()
        });
        Entry {
            at: moment(row.get("at")),
            configuration: row.get("configuration"),
            owner: row.get("owner"),
            fencing: row.get("fencing"),
            lease_until: row.get::<Option<i64>, _>("lease_until").map(moment),
            announced,
        }
    };
    sqlx::query(sql).fetch_all(database).await.unwrap().iter().map(entry).collect()
}

/// Violations of ownership: a lane must never have two owners at once.
pub(crate) fn faults(history: &[Entry]) -> Vec<String> {
    let mut before: BTreeMap<&str, &Entry> = BTreeMap::new();
    let mut faults = Vec::new();
    for entry in history {
        let Some(earlier) = before.insert(&entry.configuration, entry) else { continue };
        if entry.fencing < earlier.fencing {
            faults.push(format!("a fencing number went back: {earlier:?}, then {entry:?}"));
        } else if entry.fencing == earlier.fencing {
            if entry.owner.is_some() && entry.owner != earlier.owner {
                faults.push(format!("two owners under one number: {earlier:?}, then {entry:?}"));
            }
        } else if earlier.owner.is_some() && earlier.lease_until.is_none_or(|until| until > entry.at) {
            faults.push(format!("taken while it was held: {earlier:?}, then {entry:?}"));
        }
    }
    faults
}

/// Writes that reached Graph after their lane had been taken over, or that nobody had announced.
pub(crate) fn late_writes(history: &[Entry], journal: &[Value]) -> Vec<String> {
    let mut announced: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in history {
        if let Some(id) = &entry.announced {
            announced.entry(id).or_insert(entry);
        }
    }
    let assigns = journal.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/assign"));
    let mut faults = Vec::new();
    for call in assigns {
        let reached: Timestamp = call["time"].as_str().unwrap().parse().unwrap();
        let Some(own) = call["client-request-id"].as_str().and_then(|id| announced.get(id)) else {
            faults.push(format!("nobody announced {call}"));
            continue;
        };
        let next = history.iter().find(|it| it.configuration == own.configuration && it.fencing > own.fencing);
        if let Some(next) = next.filter(|next| next.at < reached) {
            faults.push(format!("{own:?} reached Graph at {reached}, after {next:?}"));
        }
    }
    faults
}

#[test]
fn a_history_with_two_owners_at_once_is_noticed() {
    let moment = |second| Timestamp::from_second(second).unwrap();
    let entry = |at, owner: Option<&str>, fencing, until: Option<i64>| Entry {
        at: moment(at),
        configuration: "c".to_owned(),
        owner: owner.map(str::to_owned),
        fencing,
        lease_until: until.map(moment),
        announced: None,
    };
    let a = entry(1, Some("a"), 1, Some(5));
    assert!(faults(&[a.clone(), entry(5, Some("b"), 2, Some(9))]).is_empty());
    assert!(faults(&[a.clone(), entry(2, None, 1, None), entry(3, Some("b"), 2, Some(9))]).is_empty());
    assert_eq!(faults(&[a.clone(), entry(4, Some("b"), 2, Some(9))]).len(), 1);
    assert_eq!(faults(&[a.clone(), entry(4, Some("b"), 1, Some(9))]).len(), 1);
    assert_eq!(faults(&[entry(5, Some("b"), 2, Some(9)), a.clone()]).len(), 1);

    let announced = Entry { announced: Some("x".to_owned()), ..a };
    let call = |second| {
        let path = "/beta/c/assign";
        serde_json::json!({"path": path, "time": moment(second).to_string(), "client-request-id": "x"})
    };
    let history = [announced, entry(5, Some("b"), 2, Some(9))];
    assert!(late_writes(&history, &[call(4)]).is_empty());
    assert_eq!(late_writes(&history, &[call(6)]).len(), 1);
    assert_eq!(late_writes(&history[1..], &[call(4)]).len(), 1);
}
