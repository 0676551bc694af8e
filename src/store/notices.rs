//! Notices: there is work on a lane; an operation has ended.
//!
//! Notices are hints. They make things fast, but nothing depends on them: the executor also sweeps, and a waiting caller reads
//! the operation when its time is up. A lost notice costs time only.
//!
//! Where notices come from other processes too, the board knows whether it is receiving them: [`Notices::epoch`].
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
    epoch: AtomicU64,
}

/// A point in time on a board, for [`Notices::may_have_missed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeEpoch(u64);

/// A panic elsewhere cannot leave these collections half changed, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notices {
    /// Announces that a lane may have work.
    pub fn notify_work(&self, configuration: ConfigurationId) {
        lock(&self.work).insert(configuration);
        self.woken.notify_one();
    }

    /// Waits for lanes that may have work, and takes them all.
    pub async fn wait_for_work(&self) -> BTreeSet<ConfigurationId> {
        loop {
            let lanes = std::mem::take(&mut *lock(&self.work));
            if !lanes.is_empty() {
                return lanes;
            }
            self.woken.notified().await;
        }
    }

    /// Announces that operations have ended.
    pub fn notify_ended(&self, operations: impl IntoIterator<Item = OperationId>) {
        let mut waiting = lock(&self.waiting);
        self.notify_callbacks_due();
        for bell in operations.into_iter().filter_map(|id| waiting.remove(&id)).flatten() {
            // An error means that the caller has stopped waiting, as it may.
            bell.send(()).unwrap_or_default();
        }
    }

    /// Announces that callbacks may have become due, as every end does.
    pub fn notify_callbacks_due(&self) {
        self.to_call_back.send_replace(());
    }

    /// Subscribes to [`Notices::notify_callbacks_due`]. Earlier announcements are not received.
    pub fn subscribe_callbacks(&self) -> watch::Receiver<()> {
        self.to_call_back.subscribe()
    }

    /// Registers for the end of an operation.
    pub fn subscribe_end(&self, operation: OperationId) -> EndSubscription<'_> {
        let (sender, ended) = oneshot::channel();
        lock(&self.waiting).entry(operation).or_default().push(sender);
        EndSubscription { notices: self, operation, ended }
    }

    /// From now on, notices from other processes are missed.
    pub(super) fn mark_disconnected(&self) {
        self.epoch.fetch_or(1, Ordering::SeqCst);
    }

    /// From now on, notices from other processes are received.
    pub(super) fn mark_connected(&self) {
        if self.epoch.load(Ordering::SeqCst) % 2 == 1 {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The present point in time, for [`Notices::may_have_missed`].
    pub fn epoch(&self) -> NoticeEpoch {
        NoticeEpoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Whether notices may have been missed since then; if so, only reading the store helps.
    pub fn may_have_missed(&self, since: NoticeEpoch) -> bool {
        since.0 % 2 == 1 || self.epoch() != since
    }

    /// How many callers are waiting for operations to end.
    pub fn waiter_count(&self) -> usize {
        lock(&self.waiting).values().map(Vec::len).sum()
    }
}

/// A registration for the end of an operation; dropping it unregisters.
#[derive(Debug)]
pub struct EndSubscription<'a> {
    notices: &'a Notices,
    operation: OperationId,
    ended: oneshot::Receiver<()>,
}

impl EndSubscription<'_> {
    /// Waits for the notice.
    pub async fn notified(&mut self) {
        // An error means that the board is gone, and with it any reason to wait.
        drop((&mut self.ended).await);
    }
}

impl Drop for EndSubscription<'_> {
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
        let (mut a, mut b, gone) = (notices.subscribe_end(id), notices.subscribe_end(id), notices.subscribe_end(id));
        assert_eq!(notices.waiter_count(), 3);
        drop(gone);
        assert_eq!(notices.waiter_count(), 2);
        notices.notify_ended([id]);
        a.notified().await;
        b.notified().await;
        assert_eq!(notices.waiter_count(), 0);
    }

    #[test]
    fn every_interruption_of_notices_is_detected() {
        let notices = Notices::default();
        let whole = notices.epoch();
        assert!(!notices.may_have_missed(whole));
        notices.mark_disconnected();
        notices.mark_disconnected();
        assert!(notices.may_have_missed(whole) && notices.may_have_missed(notices.epoch()));
        let deaf = notices.epoch();
        notices.mark_connected();
        assert!(notices.may_have_missed(deaf) && notices.may_have_missed(whole));
        assert!(!notices.may_have_missed(notices.epoch()));
    }

    #[tokio::test]
    async fn a_notice_of_work_given_before_anyone_waits_is_not_lost() {
        let notices = Notices::default();
        let id: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap();
        notices.notify_work(id.clone());
        notices.notify_work(id.clone());
        assert_eq!(notices.wait_for_work().await, BTreeSet::from([id]));
    }
}
