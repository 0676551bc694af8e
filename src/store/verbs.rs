//! The writing verbs, as they are handed to a store's one writer, and their results.
//!
//! Guarantees: the duration of a lease is counted from before its verb was handed over, so a lane never relies on a lease that
//! has expired in the store; waiters in this process are notified at once.
//!
//! It deliberately contains no SQL; `sqlite` and `postgres` do.

use std::time::Duration;

use super::{
    Acceptance, Accepted, Announced, Answered, Cancellation, Cancelled, Claim, Claimed, Error, Following, Forgetting,
    Holder, Lease, Notices, Parking, PolicySetsSeen, Release, Reply, Settlement, callbacks, writer::Writer,
};
use crate::{audit::Entry, clock::Clock};

/// A verb to carry out.
#[derive(Debug)]
pub(super) enum Verb {
    Accept(Box<Acceptance>),
    Cancel(Cancellation),
    Release(Release),
    Answer(Box<Reply>),
    ClaimCallbacks(callbacks::Claim),
    NoteAttempt(callbacks::Attempted),
    ResendCallback(callbacks::Resending),
    NotePolicySets(PolicySetsSeen),
    Record(Vec<Entry>),
    /// With the time until which its lease lasts at least, by our [`Clock::elapsed`].
    Claim(Claim, Duration),
    BeginWrite(Holder, Announced, Duration),
    Settle(Holder, Settlement),
    Park(Holder, Parking),
    Forget(Forgetting),
    Follow(Following),
    Probe,
}

/// The result of a verb.
#[derive(Debug)]
pub(super) enum Done {
    Accepted(Accepted),
    Cancelled(Cancelled),
    /// Whether the end was still ahead.
    Released(bool),
    Answered(Answered),
    Attempts(Vec<callbacks::Attempt>),
    /// Whether it was stored.
    Noted(bool),
    Claimed(Claimed),
    /// The number of rows.
    Forgotten(usize),
    /// The delivered position, if the sink's turn is ours.
    Followed(Option<i64>),
    Written,
}

/// The outcome of one verb: an error concerns it alone.
pub(super) type Outcome = Result<Done, Error>;

impl Holder {
    /// Why a settlement was rolled back: of `operations` to end, only `running` were running on the lane.
    pub(super) fn wrong(&self, operations: usize, running: usize) -> Error {
        Error::Unreadable(format!(
            "of {operations} operations to settle only {running} were running on the lane of {}",
            self.configuration
        ))
    }
}

/// The writer returned another verb's result, which no code path can cause.
fn confused() -> Error {
    Error::Unavailable("the writer answered another question".to_owned())
}

/// The writing verbs as functions.
#[derive(Debug)]
pub(super) struct Verbs {
    pub(super) writer: Writer,
    pub(super) notices: std::sync::Arc<Notices>,
    pub(super) clock: Clock,
}

impl Verbs {
    pub(super) async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        let configuration = acceptance.operation.submission.configuration.clone();
        let Done::Accepted(accepted) = self.writer.run(Verb::Accept(Box::new(acceptance))).await? else {
            return Err(confused());
        };
        if matches!(accepted, Accepted::New) {
            self.notices.work_on(configuration);
        }
        Ok(accepted)
    }

    pub(super) async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        let Done::Cancelled(cancelled) = self.writer.run(Verb::Cancel(cancellation)).await? else {
            return Err(confused());
        };
        if let Cancelled::Done(operation) = &cancelled {
            self.notices.ended([operation.id]);
        }
        Ok(cancelled)
    }

    pub(super) async fn release(&self, release: Release) -> Result<bool, Error> {
        let Done::Released(was_ahead) = self.writer.run(Verb::Release(release)).await? else { return Err(confused()) };
        Ok(was_ahead)
    }

    pub(super) async fn answer(&self, reply: Reply) -> Result<Answered, Error> {
        let Done::Answered(answered) = self.writer.run(Verb::Answer(Box::new(reply))).await? else {
            return Err(confused());
        };
        if let Answered::Done(operation) = &answered {
            if operation.state.has_ended() {
                self.notices.ended([operation.id]);
            } else {
                self.notices.work_on(operation.submission.configuration.clone());
            }
        }
        Ok(answered)
    }

    pub(super) async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        let Done::Attempts(attempts) = self.writer.run(Verb::ClaimCallbacks(claim)).await? else {
            return Err(confused());
        };
        Ok(attempts)
    }

    pub(super) async fn note_attempt(&self, attempted: callbacks::Attempted) -> Result<bool, Error> {
        self.noted(Verb::NoteAttempt(attempted)).await
    }

    pub(super) async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        let resent = self.noted(Verb::ResendCallback(resending)).await?;
        self.notices.to_call_back();
        Ok(resent)
    }

    async fn noted(&self, verb: Verb) -> Result<bool, Error> {
        let Done::Noted(noted) = self.writer.run(verb).await? else { return Err(confused()) };
        Ok(noted)
    }

    pub(super) async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.writer.run(Verb::NotePolicySets(seen)).await.map(drop)
    }

    pub(super) async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.writer.run(Verb::Record(entries)).await.map(drop)
    }

    pub(super) async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        let until = self.until(claim.ttl);
        let Done::Claimed(claimed) = self.writer.run(Verb::Claim(claim, until)).await? else { return Err(confused()) };
        Ok(claimed)
    }

    pub(super) async fn begin_write(
        &self,
        lease: &mut Lease,
        announced: &Announced,
        ttl: Duration,
    ) -> Result<(), Error> {
        let until = self.until(ttl);
        self.writer.run(Verb::BeginWrite(lease.holder(), announced.clone(), ttl)).await?;
        lease.until = until;
        Ok(())
    }

    pub(super) async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        let kept_until = settlement.keep.map(|ttl| self.until(ttl));
        let ended: Vec<_> = settlement.ended.iter().map(|(id, _)| *id).collect();
        self.writer.run(Verb::Settle(lease.holder(), settlement)).await?;
        self.notices.ended(ended);
        let kept = |until| {
            let mut lease = lease;
            lease.extend(until);
            lease
        };
        Ok(kept_until.map(kept))
    }

    pub(super) async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        let ended: Vec<_> = parking.ended.iter().map(|(id, _)| *id).collect();
        self.writer.run(Verb::Park(lease.holder(), parking)).await?;
        self.notices.ended(ended);
        Ok(())
    }

    pub(super) async fn forget(&self, forgetting: Forgetting) -> Result<usize, Error> {
        let Done::Forgotten(rows) = self.writer.run(Verb::Forget(forgetting)).await? else { return Err(confused()) };
        Ok(rows)
    }

    pub(super) async fn follow(&self, following: Following) -> Result<Option<i64>, Error> {
        let Done::Followed(position) = self.writer.run(Verb::Follow(following)).await? else { return Err(confused()) };
        Ok(position)
    }

    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.writer.run(Verb::Probe).await.map(drop)
    }

    fn until(&self, ttl: Duration) -> Duration {
        self.clock.elapsed().saturating_add(ttl)
    }
}
