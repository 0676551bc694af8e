//! Delivering the trail of a store that several processes use: nothing is skipped, and normally nothing is delivered twice.

use std::{fs, sync::Arc};

use postern::{
    audit::ExportFormat,
    clock::Clock,
    config::{AuditFile, Sink},
    delivery::{Delivery, SinkWriter},
    outbound::Outbound,
    store::Store,
};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, Kind, accept, each, lane};

/// Delivers to a file until everything is delivered.
async fn deliver(store: &Arc<dyn Store>, owners: &[&str], file: &AuditFile) {
    let (clock, stop) = (Clock::system(), CancellationToken::new());
    stop.cancel();
    let outbound = Outbound::new(clock).unwrap();
    let sink = SinkWriter::new(&Sink::File(file.clone()), &outbound);
    let one = |owner: &&str| {
        let (store, sink) = (Arc::clone(store), sink.clone());
        Delivery { store, clock, owner: (*owner).to_owned(), format: ExportFormat::Jsonl, sink }.run(stop.clone())
    };
    futures_util::future::join_all(owners.iter().map(one)).await;
}

async fn texts(store: &dyn Store) -> Vec<String> {
    store.audit(None, 10_000).await.unwrap().records
}

fn file(folder: &tempfile::TempDir) -> AuditFile {
    AuditFile { path: folder.path().join("audit.jsonl"), size_max: 1 << 26, keep: 1 }
}

fn lines(file: &AuditFile) -> Vec<String> {
    fs::read_to_string(&file.path).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn of_several_owners_one_delivers_and_the_next_goes_on() {
    each(async |fixture| {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let store = fixture.open().await;
        // More than one batch.
        accept(&*store, &lane(1), 1..=450).await;
        deliver(&store, &["a", "b", "c"], &file).await;
        assert_eq!(lines(&file), texts(&*store).await);
        accept(&*store, &lane(1), 451..=460).await;
        deliver(&store, &["b"], &file).await;
        deliver(&store, &["c"], &file).await;
        assert_eq!(lines(&file), texts(&*store).await);
    })
    .await;
}

#[tokio::test]
async fn a_record_that_is_committed_late_is_not_passed_over() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let store = fixture.open().await;
    let mut late = fixture.connection().await;
    let mut transaction = late.begin().await.unwrap();
    let written = sqlx::query("INSERT INTO audit (chain, sequence, text) VALUES ('late', 1, 'late')");
    written.execute(&mut *transaction).await.unwrap();
    accept(&*store, &lane(1), [1]).await;
    let committed = async {
        // By now the delivery has read, or is waiting for this transaction.
        tokio::task::yield_now().await;
        transaction.commit().await.unwrap();
    };
    tokio::join!(deliver(&store, &["a"], &file), committed);
    deliver(&store, &["a"], &file).await;
    let lines = lines(&file);
    assert_eq!(lines.iter().filter(|line| *line == "late").count(), 1, "{lines:#?}");
    assert_eq!(lines, texts(&*store).await);
}
