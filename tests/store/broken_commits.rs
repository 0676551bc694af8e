//! Commits to which PostgreSQL's response is lost or late.

use postern::{
    audit::{Entry, Event, Head},
    clock::Clock,
    store::Error,
};
use sqlx::Connection;

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
async fn a_commit_without_records_that_did_not_take_place_is_not_taken_for_done() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_takes_place_after_it_was_given_up_ends_no_chain() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let newest = store.audit(None, 10).await.unwrap().records.pop().unwrap();
    let mut head = Head::after(&newest).unwrap();
    let digest = postern::domain::Digest::of(b"");
    let stopped = Event::ConfigurationLoaded { policies: digest.clone(), settings: digest, callers: vec![] };
    let late = head.append(&Entry { at: at(0), trace_id: None, event: stopped });
    // Simulates a connection that broke while the server was committing.
    let mut connection = fixture.connection().await;
    let row = sqlx::query("INSERT INTO audit (chain, sequence, text) VALUES ($1, $2, $3)");
    let row = row.bind(&late.chain).bind(i64::try_from(late.sequence).unwrap()).bind(&late.text);
    row.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let met = store.accept(acceptance(operation(1, &lane(1)))).await;
    assert!(matches!(met, Err(Error::Unavailable(_))), "{met:?}");
    let clock = Clock::system();
    accept(&*store, &lane(1), [2]).await;
    assert!(clock.elapsed() < minutes(1));
    assert_eq!(state(&*store, 2).await, "queued");
    assert_eq!(trail(&*store).await.len(), 3);
}
