//! Which call is struck, and how.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// A verb of the store or a call to Graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Accept,
    Recall,
    Record,
    Operation,
    OpenLanes,
    Claim,
    BeginWrite,
    Settle,
    Park,
    Configuration,
    Groups,
    Read,
    Replace,
}

impl Call {
    pub(crate) const ALL: [Self; 13] = [
        Self::Accept,
        Self::Recall,
        Self::Record,
        Self::Operation,
        Self::OpenLanes,
        Self::Claim,
        Self::BeginWrite,
        Self::Settle,
        Self::Park,
        Self::Configuration,
        Self::Groups,
        Self::Read,
        Self::Replace,
    ];

    pub(crate) fn is_of_the_store(self) -> bool {
        !matches!(self, Self::Configuration | Self::Groups | Self::Read | Self::Replace)
    }
}

/// When it is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is gone.
    Stop(Moment),
    /// The call returns an error: after it took effect, or instead.
    Fail(Moment),
    /// A panic in the middle of it.
    Panic,
}

/// Strikes `times` calls, from the n-th on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) call: Call,
    pub(crate) nth: usize,
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

/// A plan as it is carried out.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    plan: Option<Plan>,
    seen: Mutex<usize>,
    pub(crate) struck: AtomicUsize,
    gone: AtomicBool,
    pub(crate) stopped: Notify,
}

impl Faults {
    pub(crate) fn planned(plan: Plan) -> Self {
        Self { plan: Some(plan), ..Self::default() }
    }

    /// What happens to this call.
    fn fault(&self, call: Call) -> Option<Fault> {
        if self.gone.load(Ordering::SeqCst) {
            return Some(Fault::Stop(Moment::Before));
        }
        let plan = self.plan.filter(|plan| plan.call == call)?;
        let mut seen = self.seen.lock().unwrap();
        *seen += 1;
        let hit = (plan.nth..plan.nth + plan.times).contains(&*seen);
        hit.then(|| {
            self.struck.fetch_add(1, Ordering::SeqCst);
            plan.fault
        })
    }

    /// Runs a call under the plan. `broken` makes the error of a call that fails.
    pub(crate) async fn through<T, E>(
        &self,
        call: Call,
        made: impl Future<Output = Result<T, E>>,
        broken: impl FnOnce() -> E,
    ) -> Result<T, E> {
        match self.fault(call) {
            None => made.await,
            Some(Fault::Stop(moment)) => {
                if moment == Moment::After {
                    drop(made.await);
                }
                self.gone.store(true, Ordering::SeqCst);
                self.stopped.notify_one();
                std::future::pending().await
            }
            Some(Fault::Fail(moment)) => {
                if moment == Moment::After {
                    drop(made.await);
                }
                Err(broken())
            }
            Some(Fault::Panic) => panic!("a fault of ours, as planned"),
        }
    }
}
