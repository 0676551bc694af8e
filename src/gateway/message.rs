//! Several changes requested by one message.
//!
//! Guarantees: all of them are resolved and permitted before the first is accepted, so a fault in one refuses all. Each is
//! accepted under a key of its own, made from the message's id, so a message that is sent again finds the changes it made
//! the first time and adds only those that are missing; other content under the same id is refused.
//!
//! The store can still separate them: it may be full or fail between two changes. Then those before are accepted, and
//! [`PartialFailure`] names them.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    Error, Gateway, KeyedRequest, Submitted,
    request::{ChangeRequest, RefusedRequest},
};
use crate::{
    clock,
    domain::{Caller, Digest, OperationId},
    store::IdempotencyKey,
};

/// What identifies a message, and for how long it is recognised.
#[derive(Clone, Debug)]
pub struct MessageIdentity {
    /// Different for any two messages of a caller; begins with `webhook:`.
    pub name: String,
    /// Digest of its content.
    pub fingerprint: Digest,
    /// How long the message is recognised when it is sent again.
    pub remember: Duration,
}

/// Not all changes of a message were accepted.
#[derive(Debug)]
pub struct PartialFailure {
    /// Index of the change that failed, from zero.
    pub at: usize,
    /// Why.
    pub error: Error,
    /// The operations of the accepted changes, whether accepted now or when the message came before.
    pub accepted: Vec<OperationId>,
}

/// What is left to do about one of the changes.
enum Step {
    Known(Box<Submitted>),
    Open(Box<ChangeRequest>, Option<IdempotencyKey>),
}

impl Gateway {
    /// Accepts the changes of one message: when this returns `Ok`, all are durable. A refused change is recorded.
    pub async fn submit_all(
        &self,
        caller: &Caller,
        requests: Vec<ChangeRequest>,
        message: Option<&MessageIdentity>,
    ) -> Result<Vec<Submitted>, PartialFailure> {
        let mut asked: Vec<_> = requests.iter().map(RefusedRequest::from).collect();
        match self.submit_or_break(caller, requests, message).await {
            Err(PartialFailure { at, error, accepted }) if at < asked.len() => Err(PartialFailure {
                at,
                error: self.record_refused_change(caller, asked.swap_remove(at), error).await,
                accepted,
            }),
            submitted => submitted,
        }
    }

    async fn submit_or_break(
        &self,
        caller: &Caller,
        requests: Vec<ChangeRequest>,
        message: Option<&MessageIdentity>,
    ) -> Result<Vec<Submitted>, PartialFailure> {
        let mut steps = Vec::new();
        for (at, request) in requests.into_iter().enumerate() {
            let key = message.map(|message| self.key_of(message, at));
            let step = self.look_up(caller, request, key).await.map_err(|error| broken(at, error, &steps))?;
            steps.push(step);
        }
        let mut permits = Vec::new();
        for (at, resolved) in self.resolve_open(caller, &steps).await {
            let Some(Step::Open(request, _)) = steps.get(at) else { continue };
            let permit = match resolved {
                Ok(resolved) => self.permit(caller, (**request).clone(), resolved).await,
                Err(error) => Err(error),
            };
            permits.push(permit.map_err(|error| broken(at, error, &steps))?);
        }
        let mut permits = permits.into_iter();
        let mut submitted = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            let one = match (step, &mut permits) {
                (Step::Known(known), _) => Ok(*known),
                (Step::Open(_, key), permits) => match permits.next() {
                    Some(permit) => self.accept(super::actor(caller), permit, key).await,
                    None => Err(Error::UnknownOperation),
                },
            };
            match one {
                Ok(one) => submitted.push(one),
                Err(error) => {
                    let accepted = submitted.iter().map(|it: &Submitted| it.operation.id).collect();
                    return Err(PartialFailure { at, error, accepted });
                }
            }
        }
        Ok(submitted)
    }

    async fn look_up(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Step, Error> {
        if let Some(known) = self.replay_of(caller, key.as_ref()).await? {
            return self.replayed(known).await.map(Box::new).map(Step::Known);
        }
        self.check_until(request.until)?;
        Ok(Step::Open(Box::new(request), key))
    }

    /// Resolves the changes that are not known yet, concurrently: a sender does not wait for long.
    async fn resolve_open(&self, caller: &Caller, steps: &[Step]) -> Vec<(usize, Result<super::Resolved, Error>)> {
        let open = steps.iter().enumerate().filter_map(|(at, step)| match step {
            Step::Open(request, _) => Some((at, &**request)),
            Step::Known(_) => None,
        });
        join_all(open.map(|(at, request)| async move { (at, self.resolve_change(caller, request).await) })).await
    }

    fn key_of(&self, message: &MessageIdentity, at: usize) -> IdempotencyKey {
        let MessageIdentity { name, fingerprint, remember } = message;
        let attempt = KeyedRequest { key: format!("{name}#{at}"), fingerprint: fingerprint.clone() };
        let key = self.key(attempt);
        IdempotencyKey { expires_at: clock::after(key.used_at, *remember), ..key }
    }
}

/// Whether a key has the form of those under which the changes of messages are accepted, which no caller may give itself: ids of
/// messages can be foreseen, and whoever was first would take the message's place.
pub fn is_key_of_message(key: &str) -> bool {
    key.strip_prefix("webhook:").is_some_and(|rest| rest.contains('#'))
}

fn broken(at: usize, error: Error, steps: &[Step]) -> PartialFailure {
    let known = |step: &Step| match step {
        Step::Known(submitted) => Some(submitted.operation.id),
        Step::Open(..) => None,
    };
    PartialFailure { at, error, accepted: steps.iter().filter_map(known).collect() }
}
