//! Callers that accept and lanes that settle, as fast as a store responds.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use postern::{
    clock::Clock,
    config,
    domain::ConfigurationId,
    store::{Accepted, Run, Store, Turn},
};
use tempfile::TempDir;

use crate::{
    requests::{acceptance, claim, lane, settlement},
    server,
};

/// A kind of store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// Requests a second.
pub(crate) type Rate = f64;

/// Lanes for the changes of accepting callers.
const ACCEPTING: u32 = 32;

/// The place of one store, for as long as this lives.
pub(crate) struct Place {
    settings: config::Store,
    /// For a store in a file: on the target folder's disk, as temporary folders may be in memory.
    _folder: TempDir,
    pub(crate) file: PathBuf,
    /// For a store in a database.
    pub(crate) url: String,
}

impl Place {
    pub(crate) async fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = folder.path().join("postern.db");
        let (url, settings) = match kind {
            Kind::Sqlite => (String::new(), config::Store::Sqlite(file.clone())),
            Kind::Postgres => {
                let url = server::shared().database().await;
                let settings = config::Postgres { url: url.parse().unwrap(), password: None };
                (url, config::Store::Postgres(settings))
            }
        };
        Self { settings, _folder: folder, file, url }
    }

    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        let clock = Clock::system();
        postern::store::open(&self.settings, Run { chain: clock.new_id().to_string(), clock }).await.unwrap()
    }

    /// Opens the store as this many replicas, each with one writing connection.
    pub(crate) async fn open_many(&self, replicas: usize) -> Vec<Arc<dyn Store>> {
        join_all((0..replicas).map(|_| self.open())).await
    }
}

/// Operation numbers, each used once.
fn next() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

async fn accept(store: &dyn Store, lane: &ConfigurationId) {
    let accepted = store.accept(acceptance(next(), lane)).await.unwrap();
    assert!(matches!(accepted, Accepted::New), "{accepted:?}");
}

/// Has callers accept for this long, evenly spread over the stores.
pub(crate) async fn accept_for(stores: &[Arc<dyn Store>], callers: u32, time: Duration) -> Rate {
    let clock = Clock::system();
    let callers = stores.iter().cycle().zip(0..callers).map(|(store, caller)| {
        let (store, lane) = (Arc::clone(store), lane(caller % ACCEPTING));
        tokio::spawn(async move {
            let mut accepted = 0_u32;
            while clock.elapsed() < time {
                accept(&*store, &lane).await;
                accepted += 1;
            }
            accepted
        })
    });
    let accepted: u32 = join_all(callers).await.into_iter().map(Result::unwrap).sum();
    f64::from(accepted) / clock.elapsed().as_secs_f64()
}

/// Has callers accept this many changes in all.
pub(crate) async fn accept_so_many(store: &Arc<dyn Store>, callers: u32, changes: u32) {
    let callers = (0..callers).map(|caller| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for _ in 0..changes / callers {
                accept(&*store, &lane(caller % ACCEPTING)).await;
            }
        })
    });
    join_all(callers).await.into_iter().for_each(Result::unwrap);
}

/// Ends what was accepted: commits of acceptances count pending operations, so a case must not inherit any.
pub(crate) async fn settle_accepted(store: &Arc<dyn Store>) {
    for number in 0..ACCEPTING {
        if let Some(turn) = store.claim(claim(&lane(number))).await.unwrap().turn() {
            store.settle(turn.lease, settlement(&turn.operations)).await.unwrap();
        }
    }
}

/// Accepts one change on each of this many lanes and claims them.
pub(crate) async fn claimed(store: &Arc<dyn Store>, lanes: u32) -> Vec<Turn> {
    let claims = (0..lanes).map(|number| {
        let (store, lane) = (Arc::clone(store), lane(ACCEPTING + 1 + number));
        tokio::spawn(async move {
            accept(&*store, &lane).await;
            store.claim(claim(&lane)).await.unwrap().turn().unwrap()
        })
    });
    join_all(claims).await.into_iter().map(Result::unwrap).collect()
}

/// Has callers settle these turns, each one after another.
pub(crate) async fn settle_all(store: &Arc<dyn Store>, callers: u32, turns: Vec<Turn>) -> Rate {
    let settled = f64::from(u32::try_from(turns.len()).unwrap());
    let turns = Arc::new(Mutex::new(turns));
    let clock = Clock::system();
    let callers = (0..callers).map(|_| {
        let (store, turns) = (Arc::clone(store), Arc::clone(&turns));
        tokio::spawn(async move {
            let next = || turns.lock().unwrap().pop();
            while let Some(Turn { lease, operations, .. }) = next() {
                assert!(store.settle(lease, settlement(&operations)).await.unwrap().is_none());
            }
        })
    });
    join_all(callers).await.into_iter().for_each(Result::unwrap);
    settled / clock.elapsed().as_secs_f64()
}

/// Milliseconds to claim a lane with 500 queued changes.
pub(crate) async fn claim_of_500(store: &Arc<dyn Store>) -> f64 {
    let lane = lane(ACCEPTING);
    join_all((0..500).map(|_| accept(&**store, &lane))).await;
    let clock = Clock::system();
    let turn = store.claim(claim(&lane)).await.unwrap().turn().unwrap();
    let taken = clock.elapsed();
    assert_eq!(turn.operations.len(), 500);
    store.settle(turn.lease, settlement(&turn.operations)).await.unwrap();
    taken.as_secs_f64() * 1_000.0
}
