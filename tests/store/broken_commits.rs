//! Commits to which PostgreSQL's response is lost or late, and databases that lose what was committed.

use postern::{
    audit::{Entry, Event, Head, Report, VerificationFailure, Verifier},
    clock::Clock,
    store::{Error, Store},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};

use crate::fixture::{
    Fixture, Kind, accept, acceptance, announced, at, claim, is_about, lane, minutes, operation, state, trail, turn,
};

/// Kills the connection that announces a write, during its commit and before that takes effect.
const DIES: &str = "
    CREATE FUNCTION die() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid());
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON lanes DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.intent IS NOT NULL) EXECUTE FUNCTION die();";

#[tokio::test]
async fn a_lost_commit_without_audit_records_is_reported_as_failed() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
    let mut connection = fixture.connection().await;
    sqlx::raw_sql(DIES).execute(&mut connection).await.unwrap();
    let told = store.begin_write(&mut held.lease, &announced(&held.operations), minutes(100)).await;
    assert!(matches!(told, Err(Error::Unavailable(_))), "{told:?}");
    assert!(is_about(held.lease.left(fixture.clock), minutes(10)), "a lease that nobody extended");
    sqlx::raw_sql("DROP TRIGGER die ON lanes").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    store.begin_write(&mut held.lease, &announced(&held.operations), minutes(100)).await.unwrap();
}

/// Kills the connection that commits audit records, before the commit takes effect.
const FORGETS: &str = "
    CREATE FUNCTION die() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid());
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER die AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION die();";

/// The texts of the whole trail.
async fn texts(store: &dyn Store) -> Vec<String> {
    store.audit(None, 1_000).await.unwrap().records
}

async fn newest(store: &dyn Store) -> Head {
    Head::after(texts(store).await.last().unwrap()).unwrap()
}

/// Adds a record behind the gateway's back.
async fn append(fixture: &Fixture, mut head: Head, entry: &Entry) {
    let record = head.append(entry);
    let mut connection = fixture.connection().await;
    let row = sqlx::query("INSERT INTO audit (chain, sequence, text) VALUES ($1, $2, $3)");
    let row = row.bind(&record.chain).bind(i64::try_from(record.sequence).unwrap()).bind(&record.text);
    row.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Does something to the database, and breaks all other connections to it.
async fn meddle(fixture: &Fixture, sql: &str) {
    let mut connection = fixture.connection().await;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    let others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::raw_sql(others).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Accepts an operation on a connection that may be broken.
async fn accept_again(store: &dyn Store, number: u128) {
    if store.accept(acceptance(operation(number, &lane(1)))).await.is_err() {
        accept(store, &lane(1), [number]).await;
    }
}

fn verify(texts: &[String]) -> Result<Report, VerificationFailure> {
    let mut verifier = Verifier::default();
    for text in texts {
        verifier.feed(text).unwrap();
    }
    verifier.finish()
}

/// The records of a trail in which one chain was given up and another begun: there must be one opening that says so.
fn reopened(texts: &[String]) -> Value {
    let records = texts.iter().map(|text| serde_json::from_str::<Value>(text).unwrap());
    let mut reopened: Vec<_> = records.filter(|record| record.get("expected_end").is_some()).collect();
    assert_eq!(reopened.len(), 1, "{texts:#?}");
    reopened.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_whose_end_the_database_lost_is_not_continued_and_the_hole_shows() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), 1..=4).await;
    let lost = newest(&*store).await;
    assert_eq!(lost.sequence, 5);
    meddle(&fixture, "DELETE FROM audit WHERE sequence > 3").await;
    let found = newest(&*store).await;
    accept_again(&*store, 5).await;
    accept(&*store, &lane(1), [6]).await;
    let trail = texts(&*store).await;
    assert_eq!(trail.len(), 6);
    let opening = reopened(&trail);
    assert_eq!(opening["expected_end"]["sequence"], 5);
    assert_eq!(opening["expected_end"]["hash"], lost.hash);
    assert_eq!((&opening["previous_chain"], &opening["previous_sequence"]), (&lost.chain.into(), &3.into()));
    assert_eq!(opening["previous_hash"], found.hash);
    let torn = verify(&trail).unwrap_err();
    let VerificationFailure::BrokenChains { breaks, report } = &torn else { panic!("{torn:?}") };
    assert_eq!((breaks[0].written.sequence, breaks[0].found, report.records), (5, 3, 6));
    assert!(torn.to_string().contains("had ended it with record 5, but the last one there is record 3"), "{torn}");
    let mut verifier = Verifier::default();
    verifier.expect_break(breaks[0].id());
    for text in &trail {
        verifier.feed(text).unwrap();
    }
    assert_eq!(verifier.finish().unwrap().known_breaks, *breaks);
    // The new chain is the run's own from now on.
    let own = store.own_chain_head().await.unwrap().unwrap();
    assert_eq!((own.sequence, own), (3, newest(&*store).await));
    let store = fixture.reopen(store).await;
    accept(&*store, &lane(1), [7]).await;
    assert!(
        matches!(verify(&texts(&*store).await), Err(VerificationFailure::BrokenChains { breaks, .. }) if breaks.len() == 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_the_database_lost_altogether_is_named_by_the_next() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let lost = newest(&*store).await;
    meddle(&fixture, "DELETE FROM audit; DELETE FROM chains").await;
    accept_again(&*store, 2).await;
    let trail = texts(&*store).await;
    assert_eq!(reopened(&trail)["expected_end"]["hash"], lost.hash);
    assert!(matches!(verify(&trail), Err(VerificationFailure::BrokenChains { breaks, .. }) if breaks[0].found == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_to_which_somebody_else_has_added_is_not_continued() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let digest = postern::domain::Digest::of(b"");
    let forged = Event::ConfigurationLoaded { policies: digest.clone(), settings: digest, callers: vec![] };
    let forged = Entry { at: at(0), trace_id: None, event: forged };
    append(&fixture, newest(&*store).await, &forged).await;
    let met = store.accept(acceptance(operation(1, &lane(1)))).await;
    assert!(matches!(met, Err(Error::Unavailable(_))), "{met:?}");
    accept(&*store, &lane(1), [2]).await;
    let trail = texts(&*store).await;
    assert_eq!(reopened(&trail)["expected_end"]["sequence"], 1);
    let torn = verify(&trail).unwrap_err();
    assert!(torn.to_string().contains("others follow up to record 2, which it did not write"), "{torn}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_does_not_break_the_audit_chain() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let before = newest(&*store).await;
    let mut connection = fixture.connection().await;
    sqlx::raw_sql(FORGETS).execute(&mut connection).await.unwrap();
    let given_up = store.accept(acceptance(operation(1, &lane(1)))).await;
    assert!(matches!(given_up, Err(Error::Unavailable(_))), "{given_up:?}");
    sqlx::raw_sql("DROP TRIGGER die ON audit").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    // Simulates a server that was still committing when the connection to it broke.
    append(&fixture, before, &acceptance(operation(1, &lane(1))).entry).await;
    let met = store.accept(acceptance(operation(3, &lane(1)))).await;
    assert!(matches!(met, Err(Error::Unavailable(_))), "{met:?}");
    let clock = Clock::system();
    accept(&*store, &lane(1), [2]).await;
    assert!(clock.elapsed() < minutes(1));
    assert_eq!(state(&*store, 2).await, "queued");
    assert_eq!(trail(&*store).await.len(), 3);
}
