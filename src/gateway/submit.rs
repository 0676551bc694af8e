//! The verb `submit`: from a request to an accepted change, or to the answer of an earlier attempt under the same key.
//!
//! Guarantees: the answer to an earlier attempt holds, even if a name is gone or a policy has changed since.
//!
//! It deliberately looks for an earlier attempt only where there may be one: the store looks for it anyway when it accepts,
//! and most requests come once.

use std::{future::poll_fn, pin::Pin, task::Poll};

use super::{
    About, Error, Gateway, KeyedRequest, Submitted, actor,
    request::{ChangeRequest, RefusedRequest, RequestSubject, pointer},
    resolve::Resolved,
};
use crate::{
    clock,
    domain::{Caller, Change, Target, change::List, operation::Submission},
    policy::{Denial, Permit, Resource},
    store::{Accepted, IdempotencyKey},
};

/// Why a change is not permitted; not recorded yet.
enum Refused {
    /// The request is invalid.
    Invalid(Error),
    /// Policy does not allow it.
    Denied(Denial),
}

impl Gateway {
    /// Accepts a change: when this returns `Ok`, it is durable. A refused change is recorded.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        attempt: Option<KeyedRequest>,
    ) -> Result<Submitted, Error> {
        let asked = RefusedRequest::from(&request);
        match self.submit_or_refuse(caller, request, attempt, &asked).await {
            Err(error) => Err(self.record_refused_change(caller, asked, error).await),
            submitted @ Ok(_) => submitted,
        }
    }

    async fn submit_or_refuse(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        attempt: Option<KeyedRequest>,
        asked: &RefusedRequest,
    ) -> Result<Submitted, Error> {
        let key = attempt.map(|attempt| self.key(attempt));
        let resolved = {
            let mut resolving = Box::pin(self.valid(caller, &request));
            // Cached names take no time. Others may take as long as Graph does, and a retry need not wait for that.
            match at_once(resolving.as_mut()).await {
                Some(Ok(resolved)) => resolved,
                unresolved => match self.replay_of(caller, key.as_ref()).await? {
                    Some(known) => return self.replayed(known).await,
                    None => match unresolved {
                        Some(refused) => refused?,
                        None => resolving.await?,
                    },
                },
            }
        };
        match self.decided(caller, request, &resolved) {
            Ok(permit) => self.accept(actor(caller), permit, key).await,
            Err(refused) => match self.replay_of(caller, key.as_ref()).await? {
                Some(known) => self.replayed(known).await,
                None => Err(self.refusal(caller, &resolved, asked, refused).await),
            },
        }
    }

    /// The change that a request asks for, if it is valid.
    async fn valid(&self, caller: &Caller, request: &ChangeRequest) -> Result<Resolved, Error> {
        self.check_until(request.until)?;
        self.resolve_change(caller, request).await
    }

    pub(super) fn key(&self, KeyedRequest { key, fingerprint }: KeyedRequest) -> IdempotencyKey {
        let used_at = self.clock.now();
        IdempotencyKey { key, fingerprint, used_at, expires_at: clock::after(used_at, self.settings.idempotency_ttl) }
    }

    /// What a key stands for, if one was given and was used before.
    pub(super) async fn replay_of(
        &self,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Accepted>, Error> {
        let Some(key) = key else { return Ok(None) };
        Ok(self.store.find_by_key(&caller.name, key).await?)
    }

    pub(super) async fn replayed(&self, known: Accepted) -> Result<Submitted, Error> {
        match known {
            Accepted::Replayed(operation) => {
                let operation = self.reload_operation(operation.id).await?;
                Ok(Submitted { operation, replayed: true })
            }
            Accepted::KeyReused(operation) => Err(Error::KeyReused(operation)),
            // A key never stands for one of these.
            Accepted::New | Accepted::LimitReached(_) | Accepted::EndAlreadySettled | Accepted::Outdated => {
                Err(Error::UnknownOperation)
            }
        }
    }

    /// Has policy decide on every target of a change.
    fn decided(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        resolved: &Resolved,
    ) -> Result<Permit<Submission>, Refused> {
        let submission = self.submission(caller, request, resolved).map_err(Refused::Invalid)?;
        let resource = Resource { configuration: &resolved.configuration, tags: &resolved.tags };
        let permit = self.policies.decide_change(caller, resource, submission);
        let permit = permit.map_err(Refused::Denied)?;
        self.names_suffice(caller, resolved.unnamed.as_ref()).map_err(Refused::Invalid)?;
        Ok(permit)
    }

    /// As `decided`, but a denial is recorded before this returns.
    pub(super) async fn permit(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        resolved: Resolved,
    ) -> Result<Permit<Submission>, Error> {
        let asked = RefusedRequest::from(&request);
        match self.decided(caller, request, &resolved) {
            Ok(permit) => Ok(permit),
            Err(refused) => Err(self.refusal(caller, &resolved, &asked, refused).await),
        }
    }

    /// Records a refusal if it is policy's, and returns the error that reports it.
    async fn refusal(&self, caller: &Caller, resolved: &Resolved, asked: &RefusedRequest, refused: Refused) -> Error {
        match refused {
            Refused::Invalid(error) => error,
            Refused::Denied(denial) => {
                let reason = format!("{}. Nothing was changed.", told(&denial, &resolved.change, asked));
                let (configuration, change) = (&resolved.configuration.id, Some(&resolved.change));
                let about = About { configuration, change, ticket: asked.ticket.clone() };
                let recorded = self.record_denial(caller, about, &denial).await;
                if matches!(recorded, Error::Denied(_)) { Error::Denied(reason) } else { recorded }
            }
        }
    }
}

/// A denial as its caller learns of it: a group is named by its place in the request, and the configuration as the caller named
/// it, because what names stand for is not for everybody. The record has the ids.
pub(super) fn told(denial: &Denial, change: &Change, asked: &RefusedRequest) -> String {
    let Denial { action, target, reason } = denial;
    let what = target.as_ref().map_or_else(String::new, |denied| {
        let kind = match &denied.target {
            Target::Group(_) => "group".to_owned(),
            Target::ExcludedGroup(_) => "excluded group".to_owned(),
            other @ (Target::AllDevices | Target::AllUsers | Target::Foreign(_)) => other.to_string(),
        };
        format!(" {kind}{}", place(change, &denied.target).map_or_else(String::new, |place| format!(" ({place})")))
    });
    let of = match &asked.of {
        RequestSubject::Configuration(named) => format!(" on {named:?}"),
        RequestSubject::Operation(_) => String::new(),
    };
    // Many policies require one, and nothing else would tell its caller so.
    let lacking = if asked.ticket.is_none() { ", without a ticket" } else { "" };
    format!("{reason}: {action}{what}{of}{lacking}")
}

/// Where a change names a target. Not where policy met it: whether it may be undone is asked of the opposite change.
fn place(change: &Change, target: &Target) -> Option<String> {
    let list = if matches!(change, Change::Replace(_)) { List::Replace } else { List::Add };
    let wanted = change.wanted().iter().position(|wanted| wanted.target == *target);
    let unwanted = || change.unwanted().iter().position(|unwanted| unwanted == target);
    wanted.map(|at| pointer(list, at)).or_else(|| unwanted().map(|at| pointer(List::Remove, at)))
}

/// What a future returns if it need not wait for anything.
async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(given) => Poll::Ready(Some(given)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
