//! What becomes of calls that are denied or refused, and of those that fail to authenticate.
//!
//! Guarantees: such a call is recorded before it is answered, up to a number of each kind per minute. Beyond that, calls
//! are counted, and the count is recorded when the minute is over or the gateway stops; so nobody fills the disk with
//! denials. A kind is a caller or an issuer with an action or a class of bad tokens, all from closed lists, so nobody fills
//! the memory either. A process that is killed loses the counts of the last minute.
//!
//! It deliberately keeps nothing of a token but claims that say whose it is: reasons are the gateway's own sentences.

use std::{
    collections::{BTreeMap, btree_map::Entry as Place},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    About, Error, Gateway, UnknownIdentity, actor,
    request::{RefusedRequest, RequestSubject},
};
use crate::{
    audit::{Actor, Entry, Event, RecordedChange, Repeated},
    domain::Caller,
    policy::Denial,
};

/// How long calls of a kind are counted together.
const WINDOW: Duration = Duration::from_mins(1);
/// How often it is checked which counts are complete.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Who, or nobody, and what they were denied.
type Kind = (String, String);

/// The calls of a kind since a point in time.
#[derive(Debug)]
struct Window {
    /// By the clock's `elapsed`.
    began: Duration,
    recorded: u64,
    counted: Option<Counted>,
}

/// Calls that were counted instead of recorded one by one.
#[derive(Clone, Debug)]
struct Counted {
    actor: Option<Actor>,
    /// The denied action; none for refused changes.
    action: Option<String>,
    reason: String,
    repeated: Repeated,
}

impl Counted {
    /// The reason of one call names its subject, so it is not that of the calls of several who are no callers.
    fn name_nobody_for_all(&mut self) {
        if self.actor.as_ref().is_some_and(|actor| actor.caller.is_none() && actor.subject.is_empty()) {
            "no configured caller has the subjects of these tokens".clone_into(&mut self.reason);
        }
    }
}

/// Recent denials.
#[derive(Debug)]
pub(super) struct Denials {
    per_window: u64,
    windows: Mutex<BTreeMap<Kind, Window>>,
}

/// One denied or refused call.
struct Denied<'a> {
    kind: Kind,
    actor: Option<Actor>,
    /// The denied action; none for a refused change.
    action: Option<&'a str>,
    about: Subject,
    reason: String,
}

/// What such a call was about, as far as that is known.
#[derive(Default)]
struct Subject {
    configuration: Option<String>,
    /// The configuration as the caller named it, or the operation that was to be reverted.
    asked: Option<String>,
    change: Option<RecordedChange>,
    ticket: Option<String>,
}

impl From<About<'_>> for Subject {
    fn from(About { configuration, change, ticket }: About<'_>) -> Self {
        let (configuration, change) = (Some(configuration.to_string()), change.map(RecordedChange::from));
        Self { configuration, asked: None, change, ticket }
    }
}

/// The record of one call, or of many similar ones.
fn event(actor: Option<Actor>, action: Option<String>, about: Subject, why: (String, Option<Repeated>)) -> Event {
    let Subject { configuration, asked, change, ticket } = about;
    let (reason, repeated) = why;
    match action {
        Some(action) => Event::Denied { actor, action, configuration, change, ticket, reason, repeated },
        None => Event::Refused { actor, configuration, asked, ticket, reason, repeated },
    }
}

impl Denials {
    pub(super) fn new(per_window: u64) -> Self {
        Self { per_window, windows: Mutex::default() }
    }

    fn windows(&self) -> MutexGuard<'_, BTreeMap<Kind, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call exceeds the limit; if so, it is counted.
    fn exceeds_limit(&self, denied: &Denied<'_>, now: Duration, at: Timestamp) -> bool {
        let mut windows = self.windows();
        let window = match windows.entry(denied.kind.clone()) {
            Place::Occupied(known) => known.into_mut(),
            Place::Vacant(new) => new.insert(Window { began: now, recorded: 0, counted: None }),
        };
        let over = now.saturating_sub(window.began) >= WINDOW;
        if over && window.counted.is_none() {
            *window = Window { began: now, recorded: 0, counted: None };
        }
        if window.recorded < self.per_window {
            window.recorded = window.recorded.saturating_add(1);
            return false;
        }
        let counted = window.counted.get_or_insert_with(|| Counted {
            // The id of one token out of many would mislead.
            actor: denied.actor.clone().map(|actor| Actor { token_id: None, ..actor }),
            action: denied.action.map(str::to_owned),
            reason: String::new(),
            repeated: Repeated { count: 0, first: at, last: at },
        });
        counted.actor = counted.actor.take().zip(denied.actor.as_ref()).map(|(actor, other)| actor.in_common(other));
        counted.reason.clone_from(&denied.reason);
        counted.name_nobody_for_all();
        counted.repeated.count = counted.repeated.count.saturating_add(1);
        counted.repeated.last = at;
        true
    }

    /// Takes out the windows that are over.
    fn take_complete(&self, now: Duration) -> Vec<(Kind, Window)> {
        self.windows().extract_if(.., |_, window| now.saturating_sub(window.began) >= WINDOW).collect()
    }

    /// Takes out all windows.
    fn take_all(&self) -> Vec<(Kind, Window)> {
        std::mem::take(&mut *self.windows()).into_iter().collect()
    }

    /// Puts back what could not be recorded.
    fn put_back(&self, taken: Vec<(Kind, Window)>) {
        let mut windows = self.windows();
        for (kind, window) in taken {
            match (windows.entry(kind), window.counted) {
                (Place::Vacant(free), counted @ Some(_)) => {
                    free.insert(Window { counted, ..window });
                }
                (Place::Occupied(newer), Some(older)) => newer.into_mut().add(older),
                (Place::Vacant(_) | Place::Occupied(_), None) => {}
            }
        }
    }
}

impl Window {
    /// Adds a count that began before this window's own; the clock may have been set back in between.
    fn add(&mut self, older: Counted) {
        let Some(newer) = &mut self.counted else {
            self.counted = Some(older);
            return;
        };
        newer.actor = newer.actor.take().zip(older.actor.as_ref()).map(|(actor, other)| actor.in_common(other));
        newer.name_nobody_for_all();
        newer.repeated.count = newer.repeated.count.saturating_add(older.repeated.count);
        newer.repeated.first = newer.repeated.first.min(older.repeated.first);
        newer.repeated.last = newer.repeated.last.max(older.repeated.last);
    }
}

impl Gateway {
    /// Records a denial, and returns the error that reports it.
    pub(super) async fn record_denial(&self, caller: &Caller, about: About<'_>, denial: &Denial) -> Error {
        self.record_refusal(caller, about, (denial.action, denial.to_string())).await
    }

    /// Records that a caller was refused for a reason other than policy, and returns the error that reports it.
    pub(super) async fn record_refusal(
        &self,
        caller: &Caller,
        about: About<'_>,
        (action, reason): (&str, String),
    ) -> Error {
        let kind = (caller.name.clone(), action.to_owned());
        let (actor, action, about) = (Some(actor(caller)), Some(action), about.into());
        match self.record_or_count(Denied { kind, actor, action, about, reason: reason.clone() }).await {
            Ok(()) => Error::Denied(reason),
            Err(error) => error,
        }
    }

    /// Records that a change is refused, and returns the error that reports it. What policy denies is recorded already, and
    /// where Graph or the store cannot be reached nothing was decided.
    pub(super) async fn record_refused_change(&self, caller: &Caller, asked: RefusedRequest, error: Error) -> Error {
        let Some(reason) = error.refusal() else { return error };
        let RefusedRequest { of, ticket } = asked;
        let (asked, configuration) = match of {
            RequestSubject::Configuration(named) if matches!(error, Error::UnknownConfiguration { .. }) => {
                (named, None)
            }
            RequestSubject::Configuration(named) => {
                let configuration = self.resolver.cached_id(&named).await;
                (named, configuration)
            }
            RequestSubject::Operation(id) => match self.store.operation(id).await {
                Ok(known) => (id.to_string(), known.map(|operation| operation.submission.configuration)),
                Err(error) => return error.into(),
            },
        };
        let configuration = configuration.map(|id| id.to_string());
        let about = Subject { configuration, asked: Some(asked), change: None, ticket };
        let kind = (caller.name.clone(), "refused".to_owned());
        match self.record_or_count(Denied { kind, actor: Some(actor(caller)), action: None, about, reason }).await {
            Ok(()) => error,
            Err(error) => error,
        }
    }

    /// Records a call with an authenticated identity that is no configured caller.
    pub async fn record_unknown_caller(&self, identity: UnknownIdentity) -> Result<(), Error> {
        let UnknownIdentity { issuer, subject, token_id, reason } = identity;
        let kind = (issuer.clone(), "authenticate".to_owned());
        let actor = Some(Actor { caller: None, issuer, subject, token_id });
        let (action, about) = (Some("authenticate"), Subject::default());
        self.record_or_count(Denied { kind, actor, action, about, reason }).await
    }

    /// Records that an event could not be turned into changes.
    pub async fn record_unmapped_event(&self, caller: &Caller, reason: String) -> Result<(), Error> {
        let kind = (caller.name.clone(), "map".to_owned());
        let (actor, action, about) = (Some(actor(caller)), Some("map"), Subject::default());
        self.record_or_count(Denied { kind, actor, action, about, reason }).await
    }

    /// Records a call that failed to authenticate: its token is `missing`, `malformed` or `invalid`, or it is a message to
    /// a webhook source whose `signature` does not match.
    pub async fn record_failed_authentication(
        &self,
        source: &str,
        class: &'static str,
        reason: String,
    ) -> Result<(), Error> {
        let kind = (source.to_owned(), class.to_owned());
        let (action, about) = (Some("authenticate"), Subject::default());
        self.record_or_count(Denied { kind, actor: None, action, about, reason }).await
    }

    async fn record_or_count(&self, denied: Denied<'_>) -> Result<(), Error> {
        if self.denials.exceeds_limit(&denied, self.clock.elapsed(), self.clock.now()) {
            return Ok(());
        }
        let Denied { actor, action, about, reason, .. } = denied;
        let event = event(actor, action.map(str::to_owned), about, (reason, None));
        Ok(self.store.append_records(vec![self.entry(event)]).await?)
    }

    /// Records counts as they become complete, until it is stopped.
    pub async fn run_count_flush(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.clock.sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            self.record_counts(self.denials.take_complete(self.clock.elapsed())).await;
        }
    }

    /// Records all counts. Call this when no more calls can come.
    pub async fn flush_counts(&self) {
        self.record_counts(self.denials.take_all()).await;
    }

    async fn record_counts(&self, taken: Vec<(Kind, Window)>) {
        let entries: Vec<_> =
            taken.iter().filter_map(|(_, window)| window.counted.clone()).map(|it| self.count_entry(it)).collect();
        if entries.is_empty() {
            return;
        }
        if let Err(error) = self.store.append_records(entries).await {
            tracing::warn!(%error, "counts of denied or refused calls cannot be recorded at present");
            self.denials.put_back(taken);
        }
    }

    fn count_entry(&self, counted: Counted) -> Entry {
        let Counted { actor, action, reason, repeated } = counted;
        let event = event(actor, action, Subject::default(), (reason, Some(repeated)));
        Entry { at: self.clock.now(), trace_id: None, event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(denials: &Denials, who: &str, second: u64) -> bool {
        call_at(denials, who, (second, i64::try_from(second).unwrap()))
    }

    /// A call at a second of the running time, and of the clock.
    fn call_at(denials: &Denials, who: &str, (second, wall): (u64, i64)) -> bool {
        let kind = (who.to_owned(), "add".to_owned());
        let (action, about, reason) = (Some("add"), Subject::default(), format!("at {second}"));
        let denied = Denied { kind, actor: None, action, about, reason };
        denials.exceeds_limit(&denied, Duration::from_secs(second), Timestamp::from_second(wall).unwrap())
    }

    #[test]
    fn beyond_the_rate_calls_are_counted_by_kind_until_their_minute_is_over() {
        let denials = Denials::new(2);
        assert_eq!([0, 1, 2, 30].map(|second| call(&denials, "a", second)), [false, false, true, true]);
        assert!(!call(&denials, "b", 3), "others are not affected");
        assert!(denials.take_complete(Duration::from_secs(59)).is_empty());
        // The minute is over, but its count is not recorded yet.
        assert!(call(&denials, "a", 61));
        let over = denials.take_complete(Duration::from_secs(62));
        assert_eq!(over.len(), 1);
        let counted = over[0].1.counted.clone().unwrap();
        assert_eq!((counted.repeated.count, counted.reason.as_str()), (3, "at 61"));
        let moment = |second| Timestamp::from_second(second).unwrap();
        assert_eq!((counted.repeated.first, counted.repeated.last), (moment(2), moment(61)));
        assert!(!call(&denials, "a", 63), "a new minute has begun");
        // The store was down: the count is added to that of the new minute.
        assert_eq!([64, 65].map(|second| call(&denials, "a", second)), [false, true]);
        denials.put_back(over);
        let all = denials.take_all();
        let counted = all.iter().find_map(|(kind, window)| window.counted.clone().filter(|_| kind.0 == "a")).unwrap();
        assert_eq!((counted.repeated.count, counted.repeated.first), (4, moment(2)));
        assert!(denials.take_all().is_empty());
    }

    #[test]
    fn counts_that_could_not_be_recorded_are_kept_when_the_clock_is_set_back() {
        let denials = Denials::new(0);
        assert!(call(&denials, "a", 100));
        let taken = denials.take_all();
        assert!(call_at(&denials, "a", (101, 40)));
        denials.put_back(taken);
        let all = denials.take_all();
        let counted = all[0].1.counted.clone().unwrap().repeated;
        let moment = |second| Timestamp::from_second(second).unwrap();
        assert_eq!((counted.count, counted.first, counted.last), (2, moment(40), moment(100)));
    }

    #[test]
    fn a_minute_without_a_count_just_begins_anew() {
        let denials = Denials::new(1);
        assert_eq!([0, 61, 122].map(|second| call(&denials, "a", second)), [false, false, false]);
    }
}
