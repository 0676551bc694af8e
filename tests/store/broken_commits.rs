//! Commits of which PostgreSQL's answer does not come.

use postern::store::Error;
use sqlx::Connection;

use crate::fixture::{Fixture, Kind, accept, claim, intent, is_about, lane, minutes, turn};

/// Ends the connection that announces a write, in its commit and before that takes effect.
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
    let announced = store.begin_write(&mut held.lease, &intent(&held.operations), minutes(100)).await;
    assert!(matches!(announced, Err(Error::Unavailable(_))), "{announced:?}");
    assert!(is_about(held.lease.left(fixture.clock), minutes(10)), "a lease that nobody extended");
    sqlx::raw_sql("DROP TRIGGER die ON lanes").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    store.begin_write(&mut held.lease, &intent(&held.operations), minutes(100)).await.unwrap();
}
