//! What the SQLite store guarantees beyond the verbs: one process, few commits, clear errors.

use std::{borrow::Cow, fs, path::Path};

use futures_util::future::join_all;
use postern::{
    clock::Clock,
    domain::State,
    store::{Acceptance, Accepted, Error, LimitReached, PendingLimits, Purge, Run, Sqlite, Store},
};
use sqlx::{Connection, SqliteConnection, migrate::Migrator};

use crate::fixture::{
    Fixture, Kind, accept, acceptance, at, cancellation, claim, id, lane, operation, settlement, state, trail, turn,
};

async fn fixture() -> Fixture {
    Fixture::new(Kind::Sqlite).await
}

/// The counter in the WAL index header that grows by one with every writing commit
/// (<https://sqlite.org/walformat.html#the_wal_index_header>, `iChange`).
fn commits(path: &Path) -> u32 {
    let index = fs::read(format!("{}-shm", path.display())).unwrap();
    u32::from_ne_bytes(index[8..12].try_into().unwrap())
}

fn run() -> Run {
    Run { chain: "c".to_owned(), clock: Clock::system() }
}

/// Why a file cannot be opened.
async fn refusal(path: &Path) -> String {
    match Sqlite::open(path, run()).await {
        Err(Error::Unusable(why)) => why,
        other => panic!("{} should be unusable, but: {other:?}", path.display()),
    }
}

#[tokio::test]
async fn concurrent_acceptances_share_commits() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    let before = commits(&fixture.path());
    accept(&*store, &lane(1), 1001..=1010).await;
    // Checks the counting: requests one at a time need a commit each.
    assert_eq!(commits(&fixture.path()) - before, 10);
    let before = commits(&fixture.path());
    let burst = join_all((1..=500).map(|number| store.accept(acceptance(operation(number, &lane(1)))))).await;
    assert!(burst.iter().all(|it| matches!(it, Ok(Accepted::New))));
    let shared = commits(&fixture.path()) - before;
    assert!((2..=10).contains(&shared), "500 acceptances took {shared} commits");
}

#[tokio::test]
async fn a_file_in_use_is_refused_and_is_free_after_close() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let why = refusal(&fixture.path()).await;
    assert!(why.contains("postern.db") && why.contains("another gateway uses it"), "{why}");
    // The refused one changed nothing.
    assert_eq!(trail(&*store).await.len(), 2);
    store.close().await;
    assert_eq!(trail(&*fixture.open().await).await.len(), 3);
}

#[tokio::test]
async fn a_closed_store_refuses_every_verb_that_writes() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    store.close().await;
    let refused = store.accept(acceptance(operation(1, &lane(1)))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.probe().await, Err(Error::Unavailable(_))));
    assert!(store.operation(id(1)).await.is_err());
    store.close().await;
}

#[tokio::test]
async fn what_was_begun_before_close_is_finished() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    let burst = join_all((1..=50).map(|number| store.accept(acceptance(operation(number, &lane(1))))));
    let (accepted, ()) = tokio::join!(burst, store.close());
    let durable = accepted.iter().filter(|it| matches!(it, Ok(Accepted::New))).count();
    let store = fixture.open().await;
    assert_eq!(crate::fixture::all(&*store).await.len(), durable);
    assert_eq!(durable, 50);
}

#[tokio::test]
async fn a_closed_store_is_one_file() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), 1..=10).await;
    assert_eq!(trail(&*store).await.len(), 11);
    store.close().await;
    let copy = fixture.path().with_file_name("copy.db");
    fs::copy(fixture.path(), &copy).unwrap();
    assert_eq!(Sqlite::read_audit(&copy, None, 100).await.unwrap().records.len(), 11);
    assert!(!fs::exists(format!("{}-wal", fixture.path().display())).unwrap());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_its_name_and_left_as_it_is() {
    let fixture = fixture().await;
    let garbage = "this is not a database, but somebody's notes\n".repeat(100);
    fs::write(fixture.path(), &garbage).unwrap();
    let why = refusal(&fixture.path()).await;
    assert!(why.contains("postern.db") && why.contains("not a database"), "{why}");
    assert_eq!(fs::read_to_string(fixture.path()).unwrap(), garbage);
    let audit = Sqlite::read_audit(&fixture.path(), None, 10).await;
    assert!(matches!(&audit, Err(error) if error.to_string().contains("not a database")), "{audit:?}");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_refused_by_its_name() {
    let fixture = fixture().await;
    let file = fixture.path();
    fs::write(&file, "").unwrap();
    let why = refusal(&file.join("below/postern.db")).await;
    assert!(why.contains("below/postern.db") && why.contains("cannot make its folder"), "{why}");
    // Nobody can create files there, not even root.
    let why = refusal(Path::new("/proc/postern.db")).await;
    assert!(why.contains("/proc/postern.db") && why.contains("cannot make its lock file"), "{why}");
    let folder = file.with_file_name("folder.db");
    fs::create_dir(&folder).unwrap();
    let why = refusal(&folder).await;
    assert!(why.contains("folder.db") && why.contains("unable to open"), "{why}");
}

#[tokio::test]
async fn a_missing_folder_is_made() {
    let fixture = fixture().await;
    let path = fixture.path().with_file_name("var").join("lib").join("postern.db");
    let store = Sqlite::open(&path, run()).await.unwrap();
    store.close().await;
    assert!(path.exists());
}

#[tokio::test]
async fn an_audit_trail_whose_end_is_unreadable_is_not_continued() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    store.close().await;
    let url = format!("sqlite:{}", fixture.path().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE audit SET text = 'nothing'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let why = refusal(&fixture.path()).await;
    assert!(why.contains("postern audit verify"), "{why}");
}

#[tokio::test]
async fn a_trail_can_be_read_while_a_gateway_writes_it() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let page = Sqlite::read_audit(&fixture.path(), None, 10).await.unwrap();
    assert_eq!(page.records, store.audit(None, 10).await.unwrap().records);
    accept(&*store, &lane(1), [2]).await;
    let missing = Sqlite::read_audit(&fixture.path().with_file_name("other.db"), None, 10).await;
    assert!(matches!(missing, Err(Error::Unusable(why)) if why.contains("there is no store at")));
}

#[tokio::test]
async fn leases_of_an_earlier_run_are_void_at_once() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let lost = turn(&*store, claim(&lane(1), "a", 0)).await;
    let store = fixture.reopen(store).await;
    assert_eq!(store.open_lanes(10).await.unwrap(), [lane(1)]);
    // Even before the next claim.
    assert!(store.settle(lost.lease, settlement(&lost.operations, 1)).await.is_err());
    assert_eq!(state(&*store, 1).await, "running");
    let next = turn(&*store, claim(&lane(1), "b", 1)).await;
    assert_eq!(next.operations[0].state, State::Running { started_at: at(0) });
    store.settle(next.lease, settlement(&next.operations, 2)).await.unwrap();
}

#[tokio::test]
async fn a_rolled_back_commit_frees_no_capacity() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), 1..=3).await;
    let limits = PendingLimits { per_configuration: 3, total: 1_000 };
    let bounded = |number| Acceptance { limits, ..acceptance(operation(number, &lane(1))) };
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", fixture.path().display())).await.unwrap();
    let broken =
        "CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'broken'); END; BEGIN IMMEDIATE";
    sqlx::raw_sql(broken).execute(&mut other).await.unwrap();
    // These queue behind the probe into one commit while another writes: three cancellations, and an accept in a freed place.
    let cancelled = join_all((1..=3).map(|number| store.cancel(cancellation(number, 10))));
    let released = sqlx::raw_sql("ROLLBACK").execute(&mut other);
    let (_, cancelled, accepted, released) = tokio::join!(store.probe(), cancelled, store.accept(bounded(4)), released);
    released.unwrap();
    assert!(cancelled.iter().all(Result::is_err), "{cancelled:?}");
    assert!(!matches!(accepted, Ok(Accepted::New)), "{accepted:?}");
    sqlx::raw_sql("DROP TRIGGER broken").execute(&mut other).await.unwrap();
    let full = store.accept(bounded(5)).await;
    assert!(
        matches!(full, Ok(Accepted::LimitReached(LimitReached::Configuration))),
        "three are pending, but: {full:?}"
    );
}

#[tokio::test]
async fn operations_behind_unexpired_keys_survive_a_migration() {
    let fixture = fixture().await;
    let url = format!("sqlite:{}?mode=rwc", fixture.path().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let all = sqlx::migrate!("migrations/sqlite");
    let earlier: Vec<_> = all.migrations.iter().filter(|it| it.version <= 9).cloned().collect();
    Migrator { migrations: Cow::Owned(earlier), ..all }.run(&mut connection).await.unwrap();
    for number in [1, 2] {
        let ended = State::Queued.cancel(at(10)).unwrap();
        let operation = operation(number, &lane(1));
        let row = sqlx::query(
            "INSERT INTO operations (id, configuration, caller, state, submission, fate, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        );
        let row = row.bind(operation.id.to_string()).bind(operation.submission.configuration.to_string());
        let row = row.bind(&operation.submission.caller).bind(ended.name());
        let row = row.bind(serde_json::to_string(&operation.submission).unwrap());
        let row = row.bind(serde_json::to_string(&ended).unwrap()).bind(at(10).as_microsecond());
        row.execute(&mut connection).await.unwrap();
    }
    let sql = "INSERT INTO idempotency_keys (caller, key, fingerprint, operation, expires_at) VALUES ('servicenow', ?, 'f', ?, ?)";
    for (key, number, expires_at) in [("sooner", 2, 50), ("later", 2, 100)] {
        let row = sqlx::query(sql).bind(key).bind(id(number).to_string()).bind(at(expires_at).as_microsecond());
        row.execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let store = fixture.open().await;
    let forgotten = async |keys_expired_by| {
        let purge = Purge { ended_before: at(20), keys_expired_by: at(keys_expired_by), limit: 100 };
        store.purge(purge).await.unwrap()
    };
    // The operation without a key; then a key; then the other key with its operation.
    assert_eq!([forgotten(49).await, forgotten(99).await, forgotten(100).await], [1, 1, 2]);
}

#[tokio::test]
async fn a_lane_whose_operations_cannot_be_read_is_parked_and_says_so() {
    let fixture = fixture().await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1, 2]).await;
    let url = format!("sqlite:{}", fixture.path().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let damage = "UPDATE operations SET submission = '[' || submission WHERE id = ?";
    sqlx::query(damage).bind(id(2).to_string()).execute(&mut connection).await.unwrap();
    let claimed = store.claim(claim(&lane(1), "a", 0)).await;
    assert!(matches!(&claimed, Err(Error::Unreadable(what)) if what.contains("submission")), "{claimed:?}");
    let parked = store.parked(&lane(1)).await.unwrap().unwrap();
    assert!(parked.because.contains("cannot be read"), "{parked:?}");
    assert!(store.claim(claim(&lane(1), "b", 1)).await.unwrap().turn().is_none(), "not again and again");
    // Once repaired, and after its pause, it resumes.
    let repair = "UPDATE operations SET submission = substr(submission, 2) WHERE id = ?";
    sqlx::query(repair).bind(id(2).to_string()).execute(&mut connection).await.unwrap();
    sqlx::query("UPDATE lanes SET not_before = 0").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let held = turn(&*store, claim(&lane(1), "b", 2)).await;
    assert_eq!((held.operations.len(), held.attempts), (2, 1));
    store.settle(held.lease, settlement(&held.operations, 3)).await.unwrap();
}
