//! Cancelling an operation before it begins.
//!
//! Guarantees: an operation that is reported as cancelled has not reached Graph and never will. Whether it was in time is
//! decided by the store in the transaction that cancels it, not by what was read before.

use super::{Error, Gateway, actor, approval::named};
use crate::{
    audit::Event,
    domain::{Caller, Operation, OperationId, State, reversal::Cause},
    policy::Action,
    store::{Cancellation, Cancelled},
    telemetry,
};

impl Gateway {
    /// Cancels an operation that has not begun; one that is already cancelled stays so. One that the caller may not read is
    /// as unknown as one that does not exist.
    pub async fn cancel(&self, caller: &Caller, id: OperationId) -> Result<Operation, Error> {
        let operation = self.readable_operation(caller, id).await?;
        let own = operation.submission.caller == caller.name;
        let permit = self.permitted(caller, Action::Cancel { own }, &operation).await?;
        let approving = match self.ended_by(&operation).await? {
            Some(ending) => self.permit_to_outlast_until(caller, &ending).await?,
            None => Vec::new(),
        };
        let event = Event::Cancelled {
            operation: id,
            configuration: operation.submission.configuration.to_string(),
            actor: actor(caller),
            policies: named(permit.policies(), approving),
        };
        let entry = self.entry(event);
        match self.store.cancel(Cancellation { operation: id, at: entry.at, entry }).await? {
            Cancelled::Done(operation) => {
                tracing::info!(operation.id = %id, caller.name = caller.name, "operation cancelled");
                telemetry::count_end(operation.state.name(), None);
                Ok(*operation)
            }
            Cancelled::TooLate(operation) => match operation.state {
                State::Cancelled { .. } => Ok(*operation),
                State::AwaitingApproval
                | State::Queued
                | State::Running { .. }
                | State::Succeeded(_)
                | State::Failed { .. } => Err(Error::TooLate(operation)),
            },
            Cancelled::Unknown => Err(Error::UnknownOperation),
        }
    }

    /// The operation whose end this one carries out, if it carries one out.
    async fn ended_by(&self, operation: &Operation) -> Result<Option<Operation>, Error> {
        match operation.submission.change.reversal() {
            Some(reversal) if reversal.cause() == Cause::Until => {
                Ok(self.store.operation(reversal.operation()).await?)
            }
            Some(_) | None => Ok(None),
        }
    }
}
