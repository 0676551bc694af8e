//! The catalogue of problems: every failure a caller can be told of, once.
//!
//! A problem is a document by RFC 9457 with a stable code, one sentence that a service desk understands, the trace id,
//! and whether trying again can help. Status, title and advice of a code stand in one table, from which the page behind
//! `type` is made too.
//!
//! It deliberately shows no internals: the store's own words go to the log, and what a caller can use of them is in
//! `detail`. Graph's words of a refusal stand in `graph`, for whoever asks Microsoft about them.

use std::{fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};

use super::document::{CandidateView, Document, ErrorView, OperationView};
use crate::{
    domain::{Failure, OperationId, operation::GraphAnswer},
    gateway::{Candidate, request::Fault},
    telemetry,
};

/// Writes the enum and its table from one list.
macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $code:ident = $name:literal, $status:literal, $retry:ident, $title:literal;)+) => {
        /// The code of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[doc = $doc])+ $code,)+ }

        impl Code {
            /// All codes.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$code,)+];

            fn row(self) -> Row {
                match self {
                    $(Self::$code => Row { name: $name, status: $status, retry: Retry::$retry, title: $title, meaning: concat!($($doc,)+) },)+
                }
            }
        }
    };
}

/// Whether the same call can succeed later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Later,
    Never,
}

struct Row {
    name: &'static str,
    status: u16,
    retry: Retry,
    title: &'static str,
    meaning: &'static str,
}

catalogue! {
    /// The body is not JSON, or a key stands in it twice.
    MalformedJson = "malformed-json", 400, Never, "The body is not valid JSON";
    /// A header has a value that cannot be used; `detail` names it.
    InvalidHeader = "invalid-header", 400, Never, "A header cannot be used";
    /// The query has a parameter that is unknown or has a wrong value; `errors` lists them.
    InvalidQuery = "invalid-query", 400, Never, "The query cannot be used";
    /// The call has no credentials, or they are not of the form `Bearer TOKEN`.
    Unauthenticated = "unauthenticated", 401, Never, "Credentials are missing";
    /// The token is expired, not yet valid, wrongly signed, or made for somebody else; get a new one.
    InvalidToken = "invalid-token", 401, Never, "The token is not accepted";
    /// The message comes without the proof that its source is set up with, or the proof does not fit; compare the secret,
    /// and sign the body as it is sent.
    InvalidSignature = "invalid-signature", 401, Never, "The message is not proven to come from its source";
    /// The message is signed, but says that it was sent too long ago, or in the future; set the sender's clock, and sign a
    /// repeated message anew.
    StaleMessage = "stale-message", 401, Never, "The message is too old";
    /// The token is good, but belongs to no caller that this gateway knows; its operators must add one.
    UnknownCaller = "unknown-caller", 403, Never, "The caller is not known here";
    /// No policy permits the call, or one forbids it; `detail` names the policy.
    NotPermitted = "not-permitted", 403, Never, "Policy does not permit this";
    /// The change needed the approval of somebody else, who rejected it; `detail` says who and why.
    ApprovalRejected = "approval-rejected", 403, Never, "The change was rejected";
    /// The change needed the approval of somebody else, and nobody gave it in time. Ask again if it is still wanted.
    ApprovalExpired = "approval-expired", 403, Later, "Nobody approved the change in time";
    /// There is nothing at this path.
    NotFound = "not-found", 404, Never, "There is nothing here";
    /// Neither the catalogue nor Graph has this configuration; `candidates` lists similar names that the caller may see.
    UnknownConfiguration = "unknown-configuration", 404, Never, "The configuration does not exist";
    /// Neither the catalogue nor the directory has this group; `candidates` lists similar names.
    UnknownGroup = "unknown-group", 404, Never, "The group does not exist";
    /// There is no such operation, or the caller may not see it.
    UnknownOperation = "unknown-operation", 404, Never, "The operation does not exist";
    /// The path exists, but not for this method.
    MethodNotAllowed = "method-not-allowed", 405, Never, "The method does not fit the path";
    /// The body arrived too slowly; nothing was done.
    RequestTimeout = "request-timeout", 408, Later, "The request did not arrive in time";
    /// The operation is running or has ended, so it cannot be cancelled; revert it after its end instead.
    TooLateToCancel = "too-late-to-cancel", 409, Never, "The operation can no longer be cancelled";
    /// The operation has no `until` that is still to come, so there is nothing to call off.
    NoUntilAhead = "no-until-ahead", 409, Never, "The operation has no end ahead";
    /// The operation failed, was cancelled or found everything as it wanted it, so there is nothing to undo.
    NothingToRevert = "nothing-to-revert", 409, Never, "The operation changed nothing";
    /// The operation has no callback, or its callback is still to be delivered; `callback` of the operation says which.
    NothingToResend = "nothing-to-resend", 409, Never, "There is no callback to send again";
    /// What an operation did can be undone when it has ended; ask again then. One that is queued can be cancelled.
    NotEnded = "operation-not-ended", 409, Later, "The operation has not ended";
    /// The assignments are not those that `If-Match` names, so the change had no effect; look at them again.
    PreconditionFailed = "precondition-failed", 412, Never, "The assignments are not those that If-Match names";
    /// The operation awaits no approval: none was asked for, somebody has answered, or the time for it is over.
    NotAwaitingApproval = "not-awaiting-approval", 409, Never, "The operation awaits no approval";
    /// The body is larger than the gateway accepts.
    BodyTooLarge = "body-too-large", 413, Never, "The body is too large";
    /// The body must be sent as `application/json`.
    UnsupportedMediaType = "unsupported-media-type", 415, Never, "The body is not sent as JSON";
    /// The change has wrong, unknown or contradictory fields; `errors` lists all of them.
    InvalidChange = "invalid-change", 422, Never, "The change is not valid";
    /// A group or filter of the change does not exist; `errors` names each, and `candidates` lists similar names that the
    /// caller may see, each with the `pointer` of the name it could stand for.
    UnknownTarget = "unknown-target", 422, Never, "A group or filter does not exist";
    /// A display name fits several things, which Graph allows; `candidates` lists those that the caller may see. Give the id
    /// of the one that is meant, or have the gateway's operators give it an alias.
    AmbiguousName = "ambiguous-name", 422, Never, "A name fits several things";
    /// The configuration cannot be assigned as asked; `errors` says why.
    NotAssignable = "not-assignable", 422, Never, "The configuration cannot be assigned so";
    /// A rule of the webhook's source wants the event, and cannot make a change of it; `detail` or `errors` name the rule and
    /// its field. The gateway's operators find out by `postern check --explain-webhook`.
    EventNotMapped = "event-not-mapped", 422, Never, "The event cannot be made into a change";
    /// The idempotency key, or the id of a webhook's message, was used before for a different body; use a new one for
    /// something new.
    KeyReused = "idempotency-key-reused", 422, Never, "The idempotency key was used for something else";
    /// The caller made more calls than it may for a while; `Retry-After` says when there is room for the next. Nothing was
    /// done.
    RateLimited = "rate-limited", 429, Later, "Too many calls from this caller";
    /// As many changes of this configuration are pending as may be. The change was not accepted, and its `Idempotency-Key`
    /// was not used; ask again when some have ended.
    TooManyPending = "too-many-pending", 429, Later, "Too many changes of this configuration are pending";
    /// Intune does not take a group of the change as a valid one: it may have been deleted, or be of a kind that cannot be
    /// assigned. `graph` holds Intune's words, which name it.
    InvalidGroup = "invalid-group", 422, Never, "Intune does not accept a group";
    /// Something in the gateway broke; its log has the trace id.
    Internal = "internal", 500, Later, "The gateway failed";
    /// Graph refused the change; `detail` holds its reason.
    GraphRefused = "graph-refused", 502, Never, "Graph refused the change";
    /// Intune lets applications change enrollment restrictions only with an administrator's role. Users of real tenants report
    /// that the Entra role Intune Administrator, given to the gateway's application, helps, and others that it does not;
    /// otherwise an administrator makes the change in the portal.
    GraphRoleMissing = "graph-role-missing", 502, Never, "Intune wants an administrator's role";
    /// The tenant protects such changes by Multi Admin Approval: a second administrator must approve each. The gateway asks
    /// for no approval and changed nothing. Ask the Intune administrators to exempt enrollment configurations from the
    /// access policy, or to make the change in the portal.
    IntuneApprovalRequired = "intune-approval-required", 502, Never, "Intune wants a second administrator's approval";
    /// The configuration was deleted before the change could be applied.
    ConfigurationGone = "configuration-gone", 502, Never, "The configuration is gone";
    /// The present assignments cannot be understood, so nothing was written on top of them.
    PresentSetUnreadable = "present-set-unreadable", 502, Later, "The present assignments cannot be read safely";
    /// The assignments read as empty though they were not before; nothing was written. If they were cleared on purpose,
    /// a `replace` of the whole set says so; changes are possible again after it.
    PresentSetVanished = "present-set-vanished", 502, Never, "The present assignments have vanished";
    /// Graph kept the change from being applied for as long as it may wait; `detail` says why. Ask again when Graph is
    /// back.
    DeadlinePassed = "deadline-passed", 504, Later, "The change could not be applied in time";
    /// Graph does not accept the gateway's own credentials; its operators must act.
    GraphNotAuthorised = "graph-not-authorised", 502, Later, "The gateway is not authorised in Graph";
    /// The gateway's application lacks a permission in Microsoft Graph; `detail` names the least that does. An administrator
    /// of the tenant must grant it. The change was not accepted. What was accepted before waits, and goes on by itself a
    /// minute or two after the permission is granted.
    GraphPermissionMissing = "graph-permission-missing", 502, Later, "The gateway lacks a permission in Graph";
    /// Graph or its login service throttles the gateway or the tenant. The change was not accepted; ask again after
    /// `Retry-After`.
    GraphThrottled = "graph-throttled", 503, Later, "Graph asks for a pause";
    /// Graph does not answer, or is in trouble. The change was not accepted; ask again.
    GraphUnavailable = "graph-unavailable", 503, Later, "Graph is not available";
    /// The store could not record or read what this call needs. Repeat a change under the same `Idempotency-Key`: if it
    /// was recorded after all, that finds it.
    StoreUnavailable = "store-unavailable", 503, Later, "The store is not available";
    /// As many changes are pending in the gateway as may be, which mostly means that Graph has not let it work for long.
    /// The change was not accepted, and its `Idempotency-Key` was not used; ask again when some have ended.
    GatewayFull = "gateway-full", 503, Later, "Too many changes are pending";
    /// The keys to check the token with cannot be fetched from its issuer, or the secret of a webhook's source cannot be
    /// read.
    KeysUnavailable = "keys-unavailable", 503, Later, "The proof cannot be checked at present";
}

impl Code {
    /// The stable name.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// The code of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// The page behind the problem's `type`: title, status and meaning.
    pub(crate) fn page(self) -> String {
        let Row { name, status, retry, title, meaning } = self.row();
        let retry = match retry {
            Retry::Later => "The same call may succeed later.",
            Retry::Never => "The same call will fail again; change it first.",
        };
        format!("{name} (HTTP {status})\n{title}.\n\n{}\n{retry}\n", meaning.trim())
    }

    /// What it means in a few words; and at length, with what helps.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        (self.row().title, self.row().meaning.trim())
    }

    /// Its HTTP status.
    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// How long a caller should leave the gateway alone when it is not said more exactly.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest detail, in bytes: some repeat what the caller sent, and all go to the log.
const DETAIL_MAX: usize = 2_000;

/// A problem, ready to be answered.
#[derive(Debug)]
pub(crate) struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    code: Code,
    detail: String,
    errors: Vec<Fault>,
    candidates: Vec<Candidate>,
    operation: Option<OperationId>,
    graph: Option<GraphAnswer>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let (errors, candidates) = (Vec::new(), Vec::new());
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
        Self(Box::new(Content {
            code,
            detail,
            errors,
            candidates,
            operation: None,
            graph: None,
            retry_after: None,
            challenge: None,
        }))
    }

    /// A problem with places in the body or the query.
    pub(crate) fn with_errors(code: Code, what: &str, errors: Vec<Fault>) -> Self {
        // The sentence for the ticket: the first fault itself, or how many there are.
        let detail = match errors.as_slice() {
            [Fault { pointer, detail }] if pointer.is_empty() => format!("{what}: {detail}"),
            [Fault { pointer, detail }] => format!("{what}: {pointer}: {detail}"),
            many => format!("{what}: {} faults, see errors", many.len()),
        };
        let mut problem = Self::new(code, detail);
        problem.0.errors = errors;
        problem
    }

    /// The problem of an operation that failed.
    pub(crate) fn of_failure(failure: &Failure, operation: OperationId) -> Self {
        Self::from(failure).about(operation)
    }

    /// A name that fits several things. One that stood in the path has no place in a body.
    pub(super) fn ambiguous(faults: Vec<Fault>) -> Self {
        match faults.as_slice() {
            [Fault { pointer, detail }] if pointer.is_empty() => Self::new(Code::AmbiguousName, detail),
            _ => Self::with_errors(Code::AmbiguousName, "Nothing was changed", faults),
        }
    }

    /// About this operation.
    pub(super) fn about(mut self, operation: OperationId) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// With Graph's own words.
    pub(super) fn with_words(mut self, answer: Option<&GraphAnswer>) -> Self {
        self.0.graph = answer.cloned();
        self
    }

    /// Which code it has.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller is told to prove itself by, if it is a matter of proof.
    pub(crate) fn challenging(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// The same about a change of a webhook's message; `context` is put before the end of the sentence.
    pub(crate) fn of_message(self, context: &str) -> Self {
        let detail = if self.0.code == Code::KeyReused {
            "A message of this id was accepted before, with another content"
        } else {
            self.0.detail.trim_end_matches('.')
        };
        let detail = format!("{detail}{context}.");
        Self(Box::new(Content { detail, ..*self.0 }))
    }

    /// With names that could be meant.
    pub(super) fn candidates(mut self, candidates: Vec<Candidate>) -> Self {
        self.0.candidates = candidates;
        self
    }

    /// With a pause of its own.
    pub(super) fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    fn document(&self) -> Document<'_> {
        let Content { code, detail, errors, candidates, operation, graph, .. } = &*self.0;
        let Row { name, status, retry, title, .. } = code.row();
        let operation = operation.map(|id| OperationView { id: id.to_string(), href: format!("/v1/operations/{id}") });
        let errors = errors.iter().map(|Fault { pointer, detail }| ErrorView { pointer, detail }).collect();
        let candidates = candidates.iter();
        let candidates =
            candidates.map(|Candidate { pointer, id, name, kind }| CandidateView { pointer, id, name, kind }).collect();
        Document {
            r#type: format!("/problems/{name}"),
            title,
            status,
            detail,
            code: name,
            trace_id: telemetry::trace_id(),
            retryable: retry == Retry::Later,
            errors,
            candidates,
            operation,
            graph: graph.as_ref().map(Into::into),
        }
    }

    /// As JSON, for the operation that it ended.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self.document()).unwrap_or_default()
    }

    /// By RFC 6750: an error code only if there were credentials at all.
    fn challenge(&self) -> Option<&'static str> {
        if self.0.code.status() == StatusCode::UNAUTHORIZED && self.0.challenge.is_some() {
            self.0.challenge
        } else if self.0.code == Code::Unauthenticated {
            Some("Bearer realm=\"postern\"")
        } else if self.0.code == Code::InvalidToken {
            Some("Bearer realm=\"postern\", error=\"invalid_token\"")
        } else {
            None
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name(), self.0.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        if let Some(challenge) = self.challenge() {
            response.insert_header(("www-authenticate", challenge));
        }
        if matches!(status.as_u16(), 429 | 503) {
            let pause = self.0.retry_after.unwrap_or(RETRY_AFTER);
            response.insert_header(("retry-after", whole_seconds(pause)));
        }
        telemetry::count_problem(self.0.code.name());
        tracing::info!(problem.code = self.0.code.name(), problem.detail = self.0.detail, "answered with a problem");
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        response.content_type("application/problem+json").body(body)
    }
}

/// A pause as `Retry-After` wants it, rounded up.
pub(crate) fn whole_seconds(pause: Duration) -> String {
    let begun = u64::from(pause.subsec_nanos() > 0);
    pause.as_secs().saturating_add(begun).max(1).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_an_error_status() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.status().as_u16() >= 400 && Code::named(code.name()) == Some(*code)));
    }

    #[test]
    fn the_handbook_tells_operators_of_every_code_and_of_no_other() {
        let handbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
        let (_, table) = handbook.split_once("\n## Problems\n").unwrap();
        let code = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(code, _)| code.to_owned());
        let told: Vec<_> = table.lines().filter_map(code).collect();
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name().to_owned()).collect();
        assert_eq!((told.len(), told.into_iter().collect()), (names.len(), names));
    }

    #[test]
    fn a_detail_is_bounded_and_ends_between_letters() {
        let problem = Problem::new(Code::NotFound, "\u{e9}".repeat(5_000) + "x");
        assert_eq!(problem.0.detail.len(), DETAIL_MAX);
        assert_eq!(Problem::new(Code::NotFound, format!("x{}", "\u{e9}".repeat(5_000))).0.detail.len(), DETAIL_MAX - 1);
    }

    #[test]
    fn a_pause_is_rounded_up_to_whole_seconds_and_never_zero() {
        let rounded = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([rounded(0), rounded(1), rounded(1000), rounded(2128)], ["1", "1", "1", "3"]);
    }
}
