//! What a question says besides who asks about what: as plain values, and as Cedar's context.
//!
//! Guarantees: a context is made from these values and from nothing else, so equal values get equal answers. Values that no
//! policy looks at can be [blanked](QuestionContext::without_unused); whether a value is present is kept all the same.
//!
//! It deliberately decides nothing. Called by `policy` only.

use cedar_policy::{Context, RestrictedExpression as Value};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use super::{
    Action,
    attribute_use::{Attribute, AttributeUse},
    facts::text,
};
use crate::domain::{DesiredAssignment, Target, operation::Submission};

/// The values of one question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct QuestionContext {
    target: Option<TargetAttributes>,
    targets: Option<i64>,
    ticket: Option<String>,
    time: Option<Moment>,
    change: Option<&'static str>,
    approval: Option<String>,
    asker: Option<String>,
    own: Option<bool>,
    about: Option<&'static str>,
}

/// A target of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TargetAttributes {
    kind: &'static str,
    id: Option<String>,
    name: Option<String>,
    filter: Option<String>,
    filter_mode: Option<&'static str>,
}

/// A moment, in UTC: in other zones, the hour shifts twice a year.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    now: Timestamp,
    hour: i8,
    weekday: &'static str,
}

impl QuestionContext {
    /// For a question about one target of a change, or about clearing.
    pub(super) fn of_change(submission: &Submission, now: Timestamp, wanted: Option<&DesiredAssignment>) -> Self {
        Self {
            target: wanted.map(|wanted| TargetAttributes::of(wanted, submission)),
            targets: wanted.map(|_| count(submission)),
            ticket: submission.ticket.clone(),
            time: Some(Moment::of(now)),
            ..Self::default()
        }
    }

    /// For a question about an approval of one target.
    pub(super) fn of_approval(
        submission: &Submission,
        now: Timestamp,
        (action, wanted): (&'static str, Option<&DesiredAssignment>),
        approval: &str,
    ) -> Self {
        Self {
            targets: Some(count(submission)),
            change: Some(action),
            approval: Some(approval.to_owned()),
            asker: Some(submission.caller.clone()),
            ..Self::of_change(submission, now, wanted)
        }
    }

    /// For a question that is not about a change.
    pub(super) fn of(action: Action) -> Self {
        let (own, about) = match action {
            Action::Plan | Action::Audit => (None, None),
            Action::Look => (Some(false), Some("assignments")),
            Action::Read { own } => (Some(own), Some("operation")),
            Action::Cancel { own } | Action::Revert { own } => (Some(own), None),
        };
        Self { own, about, ..Self::default() }
    }

    /// The same, but with a fixed value in place of each that no policy looks at.
    pub(super) fn without_unused(mut self, attribute_use: &AttributeUse) -> Self {
        fn blank<T: Default>(value: &mut Option<T>) {
            if let Some(value) = value {
                *value = T::default();
            }
        }
        let unseen = |attribute| !attribute_use.uses(attribute);
        if unseen(Attribute::Targets) {
            blank(&mut self.targets);
        }
        if unseen(Attribute::Ticket) {
            blank(&mut self.ticket);
        }
        if let Some(TargetAttributes { kind: _, id, name, filter, filter_mode }) = &mut self.target {
            for (attribute, value) in
                [(Attribute::TargetId, id), (Attribute::TargetName, name), (Attribute::TargetFilter, filter)]
            {
                if unseen(attribute) {
                    blank(value);
                }
            }
            if unseen(Attribute::TargetFilterMode) {
                blank(filter_mode);
            }
        }
        if let Some(Moment { now, hour, weekday }) = &mut self.time {
            if unseen(Attribute::Now) {
                *now = Timestamp::UNIX_EPOCH;
            }
            if unseen(Attribute::Hour) {
                *hour = 0;
            }
            if unseen(Attribute::Weekday) {
                *weekday = "";
            }
        }
        self
    }

    /// The same as Cedar's context.
    pub(super) fn context(&self) -> Result<Context, String> {
        let Self { target, targets, ticket, time, change, approval, asker, own, about } = self;
        let pairs = [
            ("target", target.as_ref().map(TargetAttributes::value).transpose()?),
            ("targets", targets.map(Value::new_long)),
            ("ticket", ticket.as_deref().map(text)),
            ("time", time.as_ref().map(Moment::value).transpose()?),
            ("change", change.map(text)),
            ("approval", approval.as_deref().map(text)),
            ("asker", asker.as_deref().map(text)),
            ("own", own.map(Value::new_bool)),
            ("about", about.map(text)),
        ];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Context::from_pairs(pairs).map_err(|why| why.to_string())
    }
}

impl TargetAttributes {
    fn of(DesiredAssignment { target, filter }: &DesiredAssignment, submission: &Submission) -> Self {
        let (kind, id) = match target {
            Target::Group(id) => ("group", Some(id.to_string())),
            Target::ExcludedGroup(id) => ("excluded-group", Some(id.to_string())),
            Target::AllDevices => ("all-devices", None),
            Target::AllUsers => ("all-users", None),
            Target::Foreign(_) => ("foreign", None),
        };
        let name = id.as_ref().and_then(|id| submission.names.get(id)).cloned();
        let filter_mode = filter.map(|filter| filter.mode.name());
        Self { kind, id, name, filter: filter.map(|filter| filter.id.to_string()), filter_mode }
    }

    fn value(&self) -> Result<Value, String> {
        let Self { kind, id, name, filter, filter_mode } = self;
        let pairs = [
            ("kind", Some(*kind)),
            ("id", id.as_deref()),
            ("name", name.as_deref()),
            ("filter", filter.as_deref()),
            ("filter_mode", *filter_mode),
        ];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), text(value?))));
        Value::new_record(pairs).map_err(|why| why.to_string())
    }
}

impl Moment {
    fn of(now: Timestamp) -> Self {
        let here = now.to_zoned(TimeZone::UTC);
        let weekday = match here.weekday() {
            Weekday::Monday => "monday",
            Weekday::Tuesday => "tuesday",
            Weekday::Wednesday => "wednesday",
            Weekday::Thursday => "thursday",
            Weekday::Friday => "friday",
            Weekday::Saturday => "saturday",
            Weekday::Sunday => "sunday",
        };
        Self { now, hour: here.hour(), weekday }
    }

    fn value(&self) -> Result<Value, String> {
        let Self { now, hour, weekday } = self;
        let pairs = [
            // Cedar accepts no more than milliseconds.
            ("now", Value::new_datetime(now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())),
            ("hour", Value::new_long((*hour).into())),
            ("weekday", text(weekday)),
        ];
        Value::new_record(pairs.map(|(name, value)| (name.to_owned(), value))).map_err(|why| why.to_string())
    }
}

/// How many targets a change names.
fn count(Submission { change, .. }: &Submission) -> i64 {
    let named = change.wanted().len().saturating_add(change.unwanted().len());
    let count = change.reversal().map_or(named, |reversal| reversal.targets().len());
    i64::try_from(count).unwrap_or(i64::MAX)
}
