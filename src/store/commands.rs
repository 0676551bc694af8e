//! The writing verbs, as they are handed to a store's one writer, and their results.
//!
//! Guarantees: the duration of a lease is counted from before its command was handed over, so a lane never relies on a lease
//! that has expired in the store; waiters in this process are notified at once.
//!
//! It deliberately contains no SQL; `sqlite` and `postgres` do.

use std::time::Duration;

use super::{
    Acceptance, Accepted, ApprovalOutcome, ApprovalReply, Cancellation, Cancelled, Claim, Claimed, Error, Holder,
    Lease, Notices, Parking, PolicySetsSeen, Purge, Settlement, SinkClaim, UnsettledWrites, UntilSettlement, callbacks,
    writer::Writer,
};
use crate::{audit::Entry, clock::Clock};

/// A writing verb, as the writer carries it out.
#[derive(Debug)]
pub(super) enum WriteCommand {
    Accept(Box<Acceptance>),
    Cancel(Cancellation),
    SettleUntil(UntilSettlement),
    AnswerApproval(Box<ApprovalReply>),
    ClaimCallbacks(callbacks::Claim),
    RecordAttempt(callbacks::AttemptResult),
    ResendCallback(callbacks::Resending),
    NotePolicySets(PolicySetsSeen),
    AppendRecords(Vec<Entry>),
    /// With the time until which its lease lasts at least, by our [`Clock::elapsed`].
    Claim(Claim, Duration),
    BeginWrite(Holder, UnsettledWrites, Duration),
    Settle(Holder, Settlement),
    Park(Holder, Parking),
    Purge(Purge),
    ClaimSink(SinkClaim),
    Probe,
}

/// What a command returns.
#[derive(Debug)]
pub(super) enum CommandOutput {
    Accepted(Accepted),
    Cancelled(Cancelled),
    /// Whether the end was still ahead.
    UntilSettled(bool),
    Answered(ApprovalOutcome),
    Attempts(Vec<callbacks::Attempt>),
    /// Whether it was stored.
    Flag(bool),
    Claimed(Claimed),
    /// The number of rows.
    Purged(usize),
    /// The delivered position, if the sink's turn is ours.
    SinkClaimed(Option<i64>),
    Written,
}

/// The outcome of one command: an error concerns it alone.
pub(super) type CommandResult = Result<CommandOutput, Error>;

impl Holder {
    /// Why a settlement was rolled back: of `operations` to end, only `running` were running on the lane.
    pub(super) fn wrong(&self, operations: usize, running: usize) -> Error {
        Error::Unreadable(format!(
            "of {operations} operations to settle only {running} were running on the lane of {}",
            self.configuration
        ))
    }
}

/// The writer returned another command's result, which no code path can cause.
fn confused() -> Error {
    Error::Unavailable("the writer answered another question".to_owned())
}

/// The writing verbs as functions.
#[derive(Debug)]
pub(super) struct WriterClient {
    pub(super) writer: Writer,
    pub(super) notices: std::sync::Arc<Notices>,
    pub(super) clock: Clock,
}

impl WriterClient {
    pub(super) async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        let configuration = acceptance.operation.submission.configuration.clone();
        let CommandOutput::Accepted(accepted) = self.writer.run(WriteCommand::Accept(Box::new(acceptance))).await?
        else {
            return Err(confused());
        };
        if matches!(accepted, Accepted::New) {
            self.notices.notify_work(configuration);
        }
        Ok(accepted)
    }

    pub(super) async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        let CommandOutput::Cancelled(cancelled) = self.writer.run(WriteCommand::Cancel(cancellation)).await? else {
            return Err(confused());
        };
        if let Cancelled::Done(operation) = &cancelled {
            self.notices.notify_ended([operation.id]);
        }
        Ok(cancelled)
    }

    pub(super) async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        let CommandOutput::UntilSettled(was_ahead) = self.writer.run(WriteCommand::SettleUntil(settlement)).await?
        else {
            return Err(confused());
        };
        Ok(was_ahead)
    }

    pub(super) async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        let CommandOutput::Answered(answered) = self.writer.run(WriteCommand::AnswerApproval(Box::new(reply))).await?
        else {
            return Err(confused());
        };
        if let ApprovalOutcome::Done(operation) = &answered {
            if operation.state.has_ended() {
                self.notices.notify_ended([operation.id]);
            } else {
                self.notices.notify_work(operation.submission.configuration.clone());
            }
        }
        Ok(answered)
    }

    pub(super) async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        let CommandOutput::Attempts(attempts) = self.writer.run(WriteCommand::ClaimCallbacks(claim)).await? else {
            return Err(confused());
        };
        Ok(attempts)
    }

    pub(super) async fn record_attempt(&self, result: callbacks::AttemptResult) -> Result<bool, Error> {
        self.run_flagged(WriteCommand::RecordAttempt(result)).await
    }

    pub(super) async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        let resent = self.run_flagged(WriteCommand::ResendCallback(resending)).await?;
        self.notices.notify_callbacks_due();
        Ok(resent)
    }

    async fn run_flagged(&self, command: WriteCommand) -> Result<bool, Error> {
        let CommandOutput::Flag(noted) = self.writer.run(command).await? else { return Err(confused()) };
        Ok(noted)
    }

    pub(super) async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.writer.run(WriteCommand::NotePolicySets(seen)).await.map(drop)
    }

    pub(super) async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.writer.run(WriteCommand::AppendRecords(entries)).await.map(drop)
    }

    pub(super) async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        let until = self.until(claim.ttl);
        let CommandOutput::Claimed(claimed) = self.writer.run(WriteCommand::Claim(claim, until)).await? else {
            return Err(confused());
        };
        Ok(claimed)
    }

    pub(super) async fn begin_write(
        &self,
        lease: &mut Lease,
        announced: &UnsettledWrites,
        ttl: Duration,
    ) -> Result<(), Error> {
        let until = self.until(ttl);
        self.writer.run(WriteCommand::BeginWrite(lease.holder(), announced.clone(), ttl)).await?;
        lease.until = until;
        Ok(())
    }

    pub(super) async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        let kept_until = settlement.keep.map(|ttl| self.until(ttl));
        let ended: Vec<_> = settlement.ended.iter().map(|(id, _)| *id).collect();
        self.writer.run(WriteCommand::Settle(lease.holder(), settlement)).await?;
        self.notices.notify_ended(ended);
        let kept = |until| {
            let mut lease = lease;
            lease.extend(until);
            lease
        };
        Ok(kept_until.map(kept))
    }

    pub(super) async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        let ended: Vec<_> = parking.ended.iter().map(|(id, _)| *id).collect();
        self.writer.run(WriteCommand::Park(lease.holder(), parking)).await?;
        self.notices.notify_ended(ended);
        Ok(())
    }

    pub(super) async fn purge(&self, purge: Purge) -> Result<usize, Error> {
        let CommandOutput::Purged(rows) = self.writer.run(WriteCommand::Purge(purge)).await? else {
            return Err(confused());
        };
        Ok(rows)
    }

    pub(super) async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        let CommandOutput::SinkClaimed(position) = self.writer.run(WriteCommand::ClaimSink(claim)).await? else {
            return Err(confused());
        };
        Ok(position)
    }

    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.writer.run(WriteCommand::Probe).await.map(drop)
    }

    fn until(&self, ttl: Duration) -> Duration {
        self.clock.elapsed().saturating_add(ttl)
    }
}
