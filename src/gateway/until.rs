//! Ends that callers set for their changes: carrying them out when they are due, and calling them off.
//!
//! Guarantees: what is due is undone once, however many replicas try, since the store settles the end in the transaction
//! that accepts the reversal. What cannot be done now (Graph or the store is down, the operation is running) stays due and
//! is tried again. No limit on pending operations keeps a due reversal out: it was promised when the change was accepted.
//!
//! It deliberately does not ask policy when an end is due. What the end implies was decided with the change, and the ids of
//! the policies that permitted it were stored; `policy` makes the permit from them and from nothing else.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{Error, Gateway, ReversalBasis, actor, approval::named, request::Fault};
use crate::{
    audit::{Actor, Event},
    clock,
    domain::{
        Caller, Operation, OperationId, Reversal, State, Target,
        operation::{Submission, Until, UntilState},
        reversal::Cause,
    },
    policy::Action,
    store::{Cancellation, Cancelled, DueQuery, UntilSettlement},
    telemetry,
};

/// The average time between two checks; random differences keep replicas apart.
const INTERVAL: Duration = Duration::from_secs(1);
/// Due ends that are read at once.
const STEP_MAX: usize = 100;
/// How long an end's configuration must be missing from Graph before it counts as gone: such answers can be temporary.
const GONE_AFTER: Duration = Duration::from_hours(1);
/// Ends whose configuration is missing and for which that time is measured.
pub(super) const NOWHERE_MAX: u64 = 10_000;
/// How far reversals of reversals are followed.
const DEPTH_MAX: u32 = 16;

/// What became of an operation's effect.
#[derive(Default)]
struct Aftermath {
    /// The targets that are undone.
    undone: BTreeSet<Target>,
    /// Reversals, and reversals of those, that have not ended.
    open: Vec<Operation>,
}

impl Gateway {
    /// Carries out due ends, again and again, until it is stopped.
    pub async fn run_until_sweep(&self, stop: CancellationToken) {
        loop {
            let round = async {
                if let Err(error) = self.carry_out_due_untils().await {
                    tracing::warn!(?error, "due ends cannot be carried out at present");
                }
                self.clock.sleep(INTERVAL.mul_f64(0.5 + self.clock.random_fraction())).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = round => {}
            }
        }
    }

    /// Goes once through everything that is due.
    pub async fn carry_out_due_untils(&self) -> Result<(), Error> {
        let mut due = DueQuery { by: self.clock.now(), after: None, limit: STEP_MAX };
        loop {
            let found = self.store.due_untils(due).await?;
            for operation in &found {
                due.after = operation.submission.until.as_ref().map(|until| (until.at, operation.id));
                if let Err(error) = self.carry_out_until(operation).await {
                    tracing::warn!(operation.id = %operation.id, ?error, "the end cannot be carried out at present");
                }
            }
            if found.len() < STEP_MAX {
                return Ok(());
            }
        }
    }

    /// Carries out the end of one operation: one that has not begun is cancelled, one that is running is left to finish,
    /// and what it did is undone as far as it has not been reverted already.
    async fn carry_out_until(&self, operation: &Operation) -> Result<(), Error> {
        match &operation.state {
            State::AwaitingApproval | State::Queued => self.cancel_at_its_end(operation).await.map(drop),
            State::Running { .. } => Ok(()),
            State::Failed { .. } | State::Cancelled { .. } => self.settle_as_moot(operation, "not-done").await,
            State::Succeeded(_) => {
                let Aftermath { undone, open } = self.aftermath(operation.id, DEPTH_MAX).await?;
                // A reversal that awaits approval may wait longer than the end can.
                if open.iter().any(|it| matches!(it.state, State::Queued | State::Running { .. })) {
                    return Ok(());
                }
                // If it were approved later, it could undo, or do again, what somebody wants by then.
                for waiting in &open {
                    // If it was approved just now, what it does is known only when it has ended.
                    if !self.cancel_at_its_end(waiting).await? {
                        return Ok(());
                    }
                }
                match self.reversal(operation, Cause::Until, &undone).await? {
                    (Some(reversal), since) => self.carry_out(operation, reversal, since).await,
                    (None, _) => self.settle_as_moot(operation, "nothing-left").await,
                }
            }
        }
    }

    /// What reversals have undone of an operation, except what their own reversals have done again, and so on.
    fn aftermath(&self, id: OperationId, depth: u32) -> BoxFuture<'_, Result<Aftermath, Error>> {
        Box::pin(async move {
            let mut found = Aftermath::default();
            for reversal in self.store.follow_ups(id).await?.reversals {
                match &reversal.state {
                    State::AwaitingApproval | State::Queued | State::Running { .. } => found.open.push(reversal),
                    State::Failed { .. } | State::Cancelled { .. } => {}
                    State::Succeeded(success) => {
                        let again = match depth.checked_sub(1) {
                            Some(depth) => self.aftermath(reversal.id, depth).await?,
                            None => Aftermath::default(),
                        };
                        let lasting = success.difference.targets().filter(|target| !again.undone.contains(target));
                        found.undone.extend(lasting.cloned());
                        found.open.extend(again.open);
                    }
                }
            }
            Ok(found)
        })
    }

    async fn carry_out(
        &self,
        operation: &Operation,
        reversal: Reversal,
        reverted_since: Vec<OperationId>,
    ) -> Result<(), Error> {
        let resolved = match self.in_time(self.resolver.resolve_reversal(operation, reversal)).await {
            Err(Error::UnknownConfiguration { .. }) => return self.wait_for_configuration(operation).await,
            known => {
                self.ends_nowhere.invalidate(&operation.id).await;
                known?
            }
        };
        let submission = Submission { comment: None, ..self.undoing(operation, &resolved) };
        let permit = self.policies.permit_until_reversal(operation, submission);
        let permit = permit.map_err(|denial| Error::Denied(denial.to_string()))?;
        let basis = ReversalBasis { ends: Some(operation.id), reverted_since };
        match self.accept_reversal(of_the_gateway(operation), permit, None, Some(basis)).await {
            Ok(Some(submitted)) => {
                tracing::info!(operation.id = %operation.id, by = %submitted.operation.id, "the end is carried out");
                telemetry::count_until("reverted");
                Ok(())
            }
            // Something else was reverted meanwhile, which the next check takes into account; or another replica was first, or
            // the end was called off.
            Ok(None) | Err(Error::UntilOver(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Settles an end as moot whose configuration is gone, and its assignments too; until that has lasted, it stays due.
    async fn wait_for_configuration(&self, operation: &Operation) -> Result<(), Error> {
        let now = self.clock.now();
        let since = self.ends_nowhere.get_with(operation.id, async { now }).await;
        if clock::until(since, now) >= GONE_AFTER {
            tracing::warn!(operation.id = %operation.id, "the end is due, but the configuration is gone");
            return self.settle_as_moot(operation, "configuration-gone").await;
        }
        if since == now {
            tracing::warn!(operation.id = %operation.id, "the end is due, but Graph does not know the configuration");
        }
        Ok(())
    }

    /// The operation has not begun, so it need not. Returns whether it is cancelled: if it has just begun, was approved, or was
    /// cancelled by somebody else, the next check deals with that.
    async fn cancel_at_its_end(&self, operation: &Operation) -> Result<bool, Error> {
        let until = operation.submission.until.as_ref();
        let policies = until.map(|until| until.policies.clone()).unwrap_or_default();
        let event = Event::Cancelled {
            operation: operation.id,
            configuration: operation.submission.configuration.to_string(),
            actor: of_the_gateway(operation),
            policies,
        };
        let entry = self.entry(event);
        let cancelled = self.store.cancel(Cancellation { operation: operation.id, at: entry.at, entry }).await?;
        let Cancelled::Done(operation) = cancelled else { return Ok(false) };
        tracing::info!(operation.id = %operation.id, "the end was due before the operation began; it is cancelled");
        telemetry::count_end(operation.state.name(), None);
        self.settle_as_moot(&operation, "not-done").await?;
        Ok(true)
    }

    /// Settles an end as moot: there is nothing to undo.
    async fn settle_as_moot(&self, operation: &Operation, because: &'static str) -> Result<(), Error> {
        let configuration = operation.submission.configuration.to_string();
        let event = Event::UntilMoot { operation: operation.id, configuration, because };
        let settlement =
            UntilSettlement { operation: operation.id, state: UntilState::Moot, entry: Some(self.entry(event)) };
        if self.store.settle_without_reversal(settlement).await? {
            telemetry::count_until(UntilState::Moot.name());
        }
        Ok(())
    }

    /// Calls an end off: what the operation did stays. Calling it off again changes nothing.
    pub async fn call_off(&self, caller: &Caller, id: OperationId) -> Result<Operation, Error> {
        let operation = self.readable_operation(caller, id).await?;
        let own = operation.submission.caller == caller.name;
        let permit = self.permitted(caller, Action::Cancel { own }, &operation).await?;
        let approving = self.permit_to_outlast_until(caller, &operation).await?;
        let event = Event::UntilCalledOff {
            operation: id,
            configuration: operation.submission.configuration.to_string(),
            actor: actor(caller),
            policies: named(permit.policies(), approving),
        };
        let settlement =
            UntilSettlement { operation: id, state: UntilState::CalledOff, entry: Some(self.entry(event)) };
        if self.store.settle_without_reversal(settlement).await? {
            tracing::info!(operation.id = %id, caller.name = caller.name, "the end is called off");
            telemetry::count_until(UntilState::CalledOff.name());
            return Ok(operation);
        }
        match self.store.follow_ups(id).await?.until {
            Some(UntilState::CalledOff) => Ok(operation),
            None | Some(UntilState::Ahead | UntilState::Reverted(_) | UntilState::Moot) => {
                Err(Error::UntilOver(Box::new(operation)))
            }
        }
    }

    /// Refuses an end that is not in the future, or too far ahead.
    pub(super) fn check_until(&self, until: Option<jiff::Timestamp>) -> Result<(), Error> {
        let refused = until.and_then(|until| Until::refused(until, self.clock.now()));
        let Some(detail) = refused else { return Ok(()) };
        let fault = Fault { pointer: "/until".to_owned(), detail: detail.to_owned() };
        Err(Error::InvalidChange(vec![fault]))
    }
}

/// Who acts when an end is due: the gateway, on behalf of the caller that set it.
fn of_the_gateway(operation: &Operation) -> Actor {
    Actor {
        caller: Some(operation.submission.caller.clone()),
        issuer: "postern".to_owned(),
        subject: "until".to_owned(),
        token_id: None,
    }
}
