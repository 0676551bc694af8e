//! Notices: there is work on a lane; an operation has ended.
//!
//! Notices are hints. They make things fast, but nothing depends on them: the executor also sweeps, and a waiting caller reads
//! the operation when its time is up. A lost notice costs time only.
//!
//! Where notices come from other processes too, the board knows whether it is receiving them: [`Notices::gaps`].
//!
//! It deliberately keeps no ends for latecomers: a waiter registers first and reads the store second.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, oneshot, watch};

use crate::domain::{ConfigurationId, OperationId};

/// Rung when an operation has ended.
type Bell = oneshot::Sender<()>;

/// The notice board of one store.
#[derive(Debug, Default)]
pub struct Notices {
    work: Mutex<BTreeSet<ConfigurationId>>,
    woken: Notify,
    waiting: Mutex<HashMap<OperationId, Vec<Bell>>>,
    /// Changed whenever a callback may have become due.
    to_call_back: watch::Sender<()>,
    /// How often receiving from other processes began or stopped; odd while nothing is received.
    gaps: AtomicU64,
}

/// A point in time on a board, for [`Notices::may_have_missed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gaps(u64);

/// A panic elsewhere cannot leave these collections half changed, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notices {
    /// Announces that a lane may have work.
    pub fn work_on(&self, configuration: ConfigurationId) {
        lock(&self.work).insert(configuration);
        self.woken.notify_one();
    }

    /// Waits for lanes that may have work, and takes them all.
    pub async fn work(&self) -> BTreeSet<ConfigurationId> {
        loop {
            let lanes = std::mem::take(&mut *lock(&self.work));
            if !lanes.is_empty() {
                return lanes;
            }
            self.woken.notified().await;
        }
    }

    /// Announces that operations have ended.
    pub fn ended(&self, operations: impl IntoIterator<Item = OperationId>) {
        let mut waiting = lock(&self.waiting);
        self.to_call_back();
        for bell in operations.into_iter().filter_map(|id| waiting.remove(&id)).flatten() {
            // An error means that the caller has stopped waiting, as it may.
            bell.send(()).unwrap_or_default();
        }
    }

    /// Announces that callbacks may have become due, as every end does.
    pub fn to_call_back(&self) {
        self.to_call_back.send_replace(());
    }

    /// Subscribes to [`Notices::to_call_back`]. Earlier announcements are not received.
    pub fn calls_back(&self) -> watch::Receiver<()> {
        self.to_call_back.subscribe()
    }

    /// Registers for the end of an operation.
    pub fn end_of(&self, operation: OperationId) -> EndOf<'_> {
        let (sender, ended) = oneshot::channel();
        lock(&self.waiting).entry(operation).or_default().push(sender);
        EndOf { notices: self, operation, ended }
    }

    /// From now on, notices from other processes are missed.
    pub(super) fn miss(&self) {
        self.gaps.fetch_or(1, Ordering::SeqCst);
    }

    /// From now on, notices from other processes are received.
    pub(super) fn hear(&self) {
        if self.gaps.load(Ordering::SeqCst) % 2 == 1 {
            self.gaps.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The present point in time, for [`Notices::may_have_missed`].
    pub fn gaps(&self) -> Gaps {
        Gaps(self.gaps.load(Ordering::SeqCst))
    }

    /// Whether notices may have been missed since then; if so, only reading the store helps.
    pub fn may_have_missed(&self, since: Gaps) -> bool {
        since.0 % 2 == 1 || self.gaps() != since
    }

    /// How many callers are waiting for operations to end.
    pub fn waiting(&self) -> usize {
        lock(&self.waiting).values().map(Vec::len).sum()
    }
}

/// A registration for the end of an operation; dropping it unregisters.
#[derive(Debug)]
pub struct EndOf<'a> {
    notices: &'a Notices,
    operation: OperationId,
    ended: oneshot::Receiver<()>,
}

impl EndOf<'_> {
    /// Waits for the notice.
    pub async fn notice(&mut self) {
        // An error means that the board is gone, and with it any reason to wait.
        drop((&mut self.ended).await);
    }
}

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.ended.close();
        let mut waiting = lock(&self.notices.waiting);
        if let Some(waiters) = waiting.get_mut(&self.operation) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&self.operation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn everyone_who_waits_for_an_operation_is_told_and_forgotten() {
        let notices = Notices::default();
        let id = OperationId::from(Uuid::from_u128(1));
        let (mut a, mut b, gone) = (notices.end_of(id), notices.end_of(id), notices.end_of(id));
        assert_eq!(notices.waiting(), 3);
        drop(gone);
        assert_eq!(notices.waiting(), 2);
        notices.ended([id]);
        a.notice().await;
        b.notice().await;
        assert_eq!(notices.waiting(), 0);
    }

    #[test]
    fn whoever_waits_knows_of_every_gap() {
        let notices = Notices::default();
        let whole = notices.gaps();
        assert!(!notices.may_have_missed(whole));
        notices.miss();
        notices.miss();
        assert!(notices.may_have_missed(whole) && notices.may_have_missed(notices.gaps()));
        let deaf = notices.gaps();
        notices.hear();
        assert!(notices.may_have_missed(deaf) && notices.may_have_missed(whole));
        assert!(!notices.may_have_missed(notices.gaps()));
    }

    #[tokio::test]
    async fn a_notice_of_work_given_before_anyone_waits_is_not_lost() {
        let notices = Notices::default();
        let id: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap();
        notices.work_on(id.clone());
        notices.work_on(id.clone());
        assert_eq!(notices.work().await, BTreeSet::from([id]));
    }
}
