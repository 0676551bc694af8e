//! A store with a history: ended operations as callers and lanes would have left them, written by the store's own verbs.

use std::{path::Path, sync::Arc};

use futures_util::future::join_all;
use jiff::Timestamp;
use postern::{
    clock::Clock,
    config,
    domain::State,
    store::{Run, Store},
};

use crate::requests::{acceptance, claim, lane, settlement};

/// Operations accepted together and ended together.
const TOGETHER: u64 = 500;
/// Configurations in the history; none of them is used later.
const LANES: u64 = 50;
/// First number of an operation, far from those used later.
const FIRST: u64 = 1_000_000_000;

/// Number of audit records per operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    Two,
    Three,
}

/// Creates a store in which this many operations ended at that time.
pub(crate) async fn store(file: &Path, ended_at: Timestamp, operations: u64, records: Records) {
    let clock = Clock::system();
    let run = Run { chain: clock.new_id().to_string(), clock };
    let store = postern::store::open(&config::Store::Sqlite(file.to_owned()), run).await.unwrap();
    for batch in 0..operations / TOGETHER {
        fill(&store, ended_at, batch, records).await;
    }
    store.close().await;
}

async fn fill(store: &Arc<dyn Store>, ended_at: Timestamp, batch: u64, records: Records) {
    let lane = lane(u32::try_from(batch % LANES).unwrap());
    let accepted = (0..TOGETHER).map(|place| {
        let mut acceptance = acceptance(FIRST + batch * TOGETHER + place, &lane);
        acceptance.operation.submission.accepted_at = ended_at;
        acceptance.entry.at = ended_at;
        store.accept(acceptance)
    });
    for accepted in join_all(accepted.collect::<Vec<_>>()).await {
        accepted.unwrap();
    }
    let turn = store.claim(claim(&lane)).await.unwrap().turn().unwrap();
    let mut settlement = settlement(&turn.operations);
    for (_, state) in &mut settlement.ended {
        let State::Succeeded(success) = state else { panic!("{state:?} is no success") };
        success.ended_at = ended_at;
    }
    settlement.entries.iter_mut().for_each(|entry| entry.at = ended_at);
    if records == Records::Three {
        store.append_records(settlement.entries.clone()).await.unwrap();
    }
    store.settle(turn.lease, settlement).await.unwrap();
}
