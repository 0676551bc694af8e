//! The second person's answer to a change that policy lets begin only with it.
//!
//! Guarantees: nobody answers for their own change, whatever policy permits: neither the caller that requested it, under
//! whatever name it returns, nor the person for whom it was requested. Whether an answer comes in time is decided by the
//! store in the transaction that stores it. What nobody answers expires by itself.
//!
//! It deliberately does not decide on the change again: policy did when it was requested, and decides now on who answers.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{About, Error, Gateway, actor, operations::LOOK_UP_MAX};
use crate::{
    audit::{Actor, Event},
    clock,
    domain::{
        Caller, Configuration, Operation, OperationId, State,
        approval::{Answer, Approval, Decision},
        operation::Submission,
    },
    graph,
    policy::Resource,
    store::{self, ApprovalOutcome, ApprovalReply},
    telemetry,
};

/// Unanswered operations that are ended in one step.
const STEP_MAX: usize = 100;

/// What a caller answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// The change may begin.
    Approve,
    /// It may not.
    Reject,
}

impl Say {
    fn decision(self) -> Decision {
        match self {
            Self::Approve => Decision::Approved,
            Self::Reject => Decision::Rejected,
        }
    }
}

impl Gateway {
    /// How a permitted change begins: queued, or awaiting the approvals that policies require.
    pub(super) fn begun(&self, submission: Submission, approvals: &[String], actor: &Actor) -> (Submission, State) {
        if approvals.is_empty() {
            return (submission, State::Queued);
        }
        let expires_at = clock::after(submission.accepted_at, self.settings.approval_ttl);
        let (names, asker) = (approvals.to_vec(), actor.subject.clone());
        let approval = Approval { names, asker, expires_at, answer: None };
        (Submission { approval: Some(approval), ..submission }, State::AwaitingApproval)
    }

    /// Takes a caller's answer to an operation that awaits approval; the same answer by the same caller again changes
    /// nothing. An operation that the caller may not read is as unknown as one that does not exist.
    pub async fn answer_approval(
        &self,
        caller: &Caller,
        id: OperationId,
        (say, comment): (Say, Option<String>),
    ) -> Result<Operation, Error> {
        let operation = self.readable_operation(caller, id).await?;
        let Some(approval) = &operation.submission.approval else {
            return Err(Error::NotAwaiting(Box::new(operation)));
        };
        if let Some(reason) = partiality(caller, &operation, approval) {
            return Err(self.record_refusal(caller, About::of(&operation), ("approve", reason.to_owned())).await);
        }
        let policies = self.word_permitted(caller, &operation, approval).await?;
        let answer = Answer { word: say.decision(), at: self.clock.now(), by: Some(caller.name.clone()), comment };
        let (actor, comment) = (actor(caller), answer.comment.clone());
        let configuration = operation.submission.configuration.to_string();
        let entry = self.entry(match say {
            Say::Approve => Event::Approved { operation: id, configuration, actor, comment, policies },
            Say::Reject => Event::Rejected { operation: id, configuration, actor, comment, policies },
        });
        match self.store.answer_approval(ApprovalReply { operation: id, answer: answer.clone(), entry }).await? {
            ApprovalOutcome::Done(operation) => {
                tracing::info!(operation.id = %id, caller.name = caller.name, word = answer.word.name(), "approval answered");
                tell_end(&operation);
                Ok(*operation)
            }
            ApprovalOutcome::TooLate(operation) => {
                let given = operation.submission.approval.as_ref().and_then(|approval| approval.answer.as_ref());
                let same = given.is_some_and(|given| given.word == answer.word && given.by == answer.by);
                if same { Ok(*operation) } else { Err(Error::NotAwaiting(operation)) }
            }
            ApprovalOutcome::Unknown => Err(Error::UnknownOperation),
        }
    }

    /// The policies that permit a caller to answer.
    async fn word_permitted(
        &self,
        caller: &Caller,
        operation: &Operation,
        approval: &Approval,
    ) -> Result<Vec<String>, Error> {
        let submission = &operation.submission;
        let id = &submission.configuration;
        // Unlike reading, this needs all the facts: if Graph cannot answer now, the approval can be given later.
        let known = self.in_time(async { Ok(self.resolver.configuration(id).await?) }).await?;
        let configuration = known.unwrap_or_else(|| Configuration {
            id: id.clone(),
            name: submission.configuration_name.clone(),
            kind: graph::kind_of(id),
            priority: -1,
        });
        self.word_on(caller, operation, (&configuration, approval)).await
    }

    async fn word_on(
        &self,
        caller: &Caller,
        operation: &Operation,
        (configuration, approval): (&Configuration, &Approval),
    ) -> Result<Vec<String>, Error> {
        let submission = &operation.submission;
        let resource = Resource { configuration, tags: &self.resolver.tags(&configuration.id) };
        match self.policies.decide_approval(caller, resource, submission, (&approval.names, self.clock.now())) {
            Ok(permit) => Ok(permit.policies().to_vec()),
            Err(denial) => Err(self.record_denial(caller, About::of(operation), &denial).await),
        }
    }

    /// The policies by which a caller may make an approved change permanent; none are needed if no approval was required.
    /// Whoever approved the change approved its end too, so only somebody who may approve it may drop that end.
    pub(super) async fn permit_to_outlast_until(
        &self,
        caller: &Caller,
        operation: &Operation,
    ) -> Result<Vec<String>, Error> {
        let Some(approval) = &operation.submission.approval else { return Ok(Vec::new()) };
        if partiality(caller, operation, approval).is_some() {
            let reason = "the change needs approval, and its end is part of what is approved: somebody else who may approve it \
                          must call the end off";
            return Err(self.record_refusal(caller, About::of(operation), ("cancel", reason.to_owned())).await);
        }
        let Submission { configuration: id, configuration_name: name, .. } = &operation.submission;
        let (configuration, missing) = self.known_facts(id, Some(name), LOOK_UP_MAX).await;
        // While Graph is away it can be done if what is known suffices: ends that must not come may have to be called off then.
        self.check_decidable(caller, "approve", &missing)?;
        self.word_on(caller, operation, (&configuration, approval)).await
    }

    /// Expires approvals that nobody gave in time, periodically, until it is stopped. Several replicas may do it at once.
    pub async fn run_approval_expiry(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        loop {
            if let Err(error) = self.expire_approvals().await {
                tracing::warn!(%error, "unanswered approvals cannot be expired at present");
            }
            tokio::select! {
                () = self.clock.sleep(every) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn expire_approvals(&self) -> Result<(), store::Error> {
        loop {
            let at = self.clock.now();
            let late = self.store.expired_approvals(at, STEP_MAX).await?;
            for Operation { id: operation, submission, .. } in &late {
                let (operation, configuration) = (*operation, submission.configuration.to_string());
                let answer = Answer { word: Decision::Expired, at, by: None, comment: None };
                let entry = self.entry(Event::ApprovalExpired { operation, configuration });
                if let ApprovalOutcome::Done(operation) =
                    self.store.answer_approval(ApprovalReply { operation, answer, entry }).await?
                {
                    tracing::info!(operation.id = %operation.id, "nobody answered the approval in time");
                    tell_end(&operation);
                }
            }
            if late.len() < STEP_MAX {
                return Ok(());
            }
        }
    }
}

/// The policies of two decisions, each once.
pub(super) fn named(first: &[String], others: Vec<String>) -> Vec<String> {
    let others = others.into_iter().filter(|name| !first.contains(name));
    first.iter().cloned().chain(others).collect()
}

/// Why a caller may not answer for this operation, whatever policy permits.
fn partiality(caller: &Caller, operation: &Operation, approval: &Approval) -> Option<&'static str> {
    const FOR_ITSELF: &str = "the person for whom a change was requested cannot approve or reject it";
    let submission = &operation.submission;
    let is_subject = |subject: &str| !subject.is_empty() && caller.subject == subject;
    let is_named = |person: &String| [&caller.subject, &caller.name].iter().any(|it| it.eq_ignore_ascii_case(person));
    if caller.name == submission.caller || is_subject(&approval.asker) {
        return Some("the caller that requested a change cannot approve or reject it");
    }
    submission.requested_for.as_ref().is_some_and(is_named).then_some(FOR_ITSELF)
}

fn tell_end(operation: &Operation) {
    if let State::Failed { failure, .. } = &operation.state {
        telemetry::count_end(operation.state.name(), Some(failure.code.name()));
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::Change;

    #[test]
    fn nobody_answers_for_itself_under_whatever_name() {
        let approval =
            Approval { names: vec![], asker: "alice".to_owned(), expires_at: Timestamp::UNIX_EPOCH, answer: None };
        let submission = Submission {
            configuration: "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap(),
            configuration_name: String::new(),
            change: Change::replace(vec![], 1).unwrap(),
            names: std::collections::BTreeMap::new(),
            caller: "portal".to_owned(),
            ticket: None,
            requested_for: Some("Jane@contoso.com".to_owned()),
            comment: None,
            accepted_at: Timestamp::UNIX_EPOCH,
            only_on: None,
            until: None,
            approval: Some(approval.clone()),
            callback: None,
            traceparent: None,
        };
        let operation = Operation { id: Uuid::from_u128(1).into(), submission, state: State::AwaitingApproval };
        let refused = |name: &str, subject: &str| {
            let (name, subject) = (name.to_owned(), subject.to_owned());
            let caller =
                Caller { name, issuer: String::new(), subject, token_id: None, roles: vec![], certificate: None };
            partiality(&caller, &operation, &approval).is_some()
        };
        assert!(refused("portal", "bob") && refused("approvers", "alice"));
        assert!(refused("approvers", "jane@CONTOSO.com") && refused("jane@contoso.com", "bob"));
        assert!(!refused("approvers", "bob") && !refused("approvers", ""));
    }
}
