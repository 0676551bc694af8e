//! Storing changes: a number of them in one commit, in a new SQLite file.

use std::path::Path;

use futures_util::future::join_all;
use postern::{
    clock::Clock,
    config,
    store::{self, Accepted, Run},
};
use tokio::runtime::Builder;

use crate::{
    Case, Iteration,
    requests::{acceptance, lane},
};

/// Lanes that the changes are spread over.
const LANES: u32 = 32;

pub(crate) fn cases() -> Vec<Case> {
    let case = |(batch, counted): (u32, u64)| {
        let ready = move |iterations| accepting(batch, u32::try_from(iterations).unwrap());
        Case { elements: batch.into(), ..Case::new(format!("accept, {batch} in a commit"), counted, ready) }
    };
    [(1, 64), (16, 16), (64, 8), (256, 2)].map(case).into()
}

fn accepting(batch: u32, iterations: u32) -> Iteration {
    // One thread: all of a batch are queued before the writer looks, so they share a commit.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let clock = Clock::system();
    let run = Run { chain: clock.new_id().to_string(), clock };
    let settings = config::Store::Sqlite(folder.path().join("postern.db"));
    let store = runtime.block_on(store::open(&settings, run)).unwrap();
    let mut changes: Vec<_> =
        (0..batch * iterations).map(|number| acceptance(number.into(), &lane(number % LANES))).collect();
    Box::new(move || {
        let _kept = &folder;
        let left = changes.len().checked_sub(batch.try_into().unwrap()).unwrap();
        let together = changes.drain(left..).map(|it| store.accept(it));
        let accepted = runtime.block_on(join_all(together));
        assert!(accepted.iter().all(|it| matches!(it, Ok(Accepted::New))), "{accepted:?}");
    })
}
