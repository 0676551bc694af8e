//! The catalogue of problems: every failure that callers can see, once.
//!
//! A problem is a document by RFC 9457 with a stable code, one sentence that a service desk understands, the trace id,
//! and whether a retry can help. Status, title and advice of a code are in one table, from which the page behind `type` is
//! generated, too.
//!
//! It deliberately shows no internals: the store's error messages go to the log, and `detail` says what a caller can use of
//! them. Graph's own message about a refusal is in `graph`, for questions to Microsoft.

use std::{fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};

use super::problem_view::{CandidateView, Document, ErrorView, OperationView};
use crate::{
    domain::{Failure, OperationId, operation::GraphAnswer},
    gateway::{Candidate, listed, request::Fault},
    telemetry,
};

/// Generates the enum and its table from one list.
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
    /// The body is not valid JSON, an object in it has a key twice, or a number in it has more digits than a double-precision
    /// number keeps; `detail` says what is wrong.
    MalformedJson = "malformed-json", 400, Never, "The body is not valid JSON";
    /// A header has an invalid value, or is sent more than once; `detail` names it.
    InvalidHeader = "invalid-header", 400, Never, "A header is not valid";
    /// A query parameter is unknown or has an invalid value; `errors` lists all of them.
    InvalidQuery = "invalid-query", 400, Never, "The query is not valid";
    /// The request has no credentials, or they are not of the form `Bearer TOKEN`.
    Unauthenticated = "unauthenticated", 401, Never, "Credentials are missing";
    /// The token has expired, is not yet valid, has an invalid signature, or was issued for another audience; get a new one.
    InvalidToken = "invalid-token", 401, Never, "The token is not accepted";
    /// The message lacks the signature, credentials or client certificate that its source is configured with, or they do not
    /// match. Compare the secret on both sides, and sign the body exactly as it is sent.
    InvalidSignature = "invalid-signature", 401, Never, "The message is not authenticated";
    /// The signature is valid, but the message's timestamp is too old or in the future. Check the sender's clock, and sign a
    /// message again before sending it again.
    StaleMessage = "stale-message", 401, Never, "The message's timestamp is too old or in the future";
    /// The token is valid, but does not identify a caller that this gateway knows, or lacks that caller's role or certificate;
    /// `detail` names the application and subject of the token. Send `detail` to the gateway's operators, who must add the
    /// caller, or get it the role.
    UnknownCaller = "unknown-caller", 403, Never, "The caller is not known to the gateway";
    /// No policy permits the request, or a policy forbids it; `detail` names that policy, and the place in the request of the
    /// target that it is about. Ask the gateway's operators if it should be permitted; many policies require a `ticket`.
    NotPermitted = "not-permitted", 403, Never, "Policy does not permit this";
    /// The change required the approval of a second person, who rejected it; `detail` says who and why.
    ApprovalRejected = "approval-rejected", 403, Never, "The change was rejected";
    /// The change required the approval of a second person, and nobody approved it in time. Request it again if it is still
    /// wanted.
    ApprovalExpired = "approval-expired", 403, Later, "Nobody approved the change in time";
    /// Nothing is served at this path; `/openapi.json` lists all paths.
    NotFound = "not-found", 404, Never, "There is nothing at this path";
    /// Neither the catalogue nor Graph has this configuration; `candidates` lists similar names that the caller may see.
    UnknownConfiguration = "unknown-configuration", 404, Never, "The configuration does not exist";
    /// Neither the catalogue nor the directory has this group; `candidates` lists similar names.
    UnknownGroup = "unknown-group", 404, Never, "The group does not exist";
    /// There is no such operation, or the caller may not see it.
    UnknownOperation = "unknown-operation", 404, Never, "The operation does not exist";
    /// The path exists, but does not support this method; the header `Allow` lists those that it supports.
    MethodNotAllowed = "method-not-allowed", 405, Never, "The path does not support this method";
    /// The body arrived too slowly; nothing was done.
    RequestTimeout = "request-timeout", 408, Later, "The request did not arrive in time";
    /// The operation is running or has ended, so it cannot be cancelled. Once it has ended, it can be reverted instead.
    TooLateToCancel = "too-late-to-cancel", 409, Never, "The operation can no longer be cancelled";
    /// The operation has no `until` that is still ahead, so there is nothing to call off.
    NoUntilAhead = "no-until-ahead", 409, Never, "The operation has no end to call off";
    /// The operation failed, was cancelled, or found everything already as requested, so there is nothing to undo.
    NothingToRevert = "nothing-to-revert", 409, Never, "There is nothing to undo";
    /// The operation has no callback, or its callback is still pending; `callback` in the operation shows which.
    NothingToResend = "nothing-to-resend", 409, Never, "There is no callback to send again";
    /// An operation can be reverted only after it has ended; retry then. One that has not begun can be cancelled instead.
    NotEnded = "operation-not-ended", 409, Later, "The operation has not ended";
    /// The present assignments do not match `If-Match`, so the change had no effect. Read them again, then send a new request.
    PreconditionFailed = "precondition-failed", 412, Never, "The assignments do not match If-Match";
    /// The operation is not awaiting approval: none was required, somebody has answered, or the time to answer has passed.
    NotAwaitingApproval = "not-awaiting-approval", 409, Never, "The operation is not awaiting approval";
    /// The body is larger than the gateway accepts.
    BodyTooLarge = "body-too-large", 413, Never, "The body is too large";
    /// The body must be sent as `application/json`. Webhooks accept other types, too; `detail` says what is expected.
    UnsupportedMediaType = "unsupported-media-type", 415, Never, "The media type of the body is not supported";
    /// The change has invalid, unknown or contradictory fields; `errors` lists all of them.
    InvalidChange = "invalid-change", 422, Never, "The change is not valid";
    /// A group or filter of the change does not exist; `errors` names each, and `candidates` lists similar names that the
    /// caller may see, each with the `pointer` of the name that it could replace.
    UnknownTarget = "unknown-target", 422, Never, "A group or filter does not exist";
    /// Several objects have this display name, which Graph allows; `candidates` lists those that the caller may see. Give the
    /// id of the one that is meant, or ask the gateway's operators to give it an alias.
    AmbiguousName = "ambiguous-name", 422, Never, "A name is ambiguous";
    /// The configuration does not accept a target or filter of the change, or is a default configuration; `errors` says why.
    NotAssignable = "not-assignable", 422, Never, "The configuration cannot be assigned as requested";
    /// A rule of the webhook's source matches the event, but cannot turn it into a valid change; `detail` or `errors` name the
    /// rule and its field. The gateway's operators can test it with `postern check --explain-webhook`.
    EventNotMapped = "event-not-mapped", 422, Never, "The event cannot be turned into a change";
    /// The idempotency key, or the id of a webhook's message, was used before for a different request; use a new one for a
    /// new change.
    KeyReused = "idempotency-key-reused", 422, Never, "The idempotency key was used for a different request";
    /// The caller exceeded its limit of calls per minute; `Retry-After` says when it may make the next one. Nothing was done.
    RateLimited = "rate-limited", 429, Later, "Too many calls from this caller";
    /// The limit of pending changes of this configuration is reached. The change was not accepted, and its `Idempotency-Key`
    /// is still unused; retry when some of them have ended.
    TooManyPending = "too-many-pending", 429, Later, "Too many changes of this configuration are pending";
    /// Intune does not accept a group of the change as valid: it may have been deleted, or be of a kind that cannot be
    /// assigned. `graph` contains Intune's message, which names the group.
    InvalidGroup = "invalid-group", 422, Never, "Intune does not accept a group";
    /// The gateway failed unexpectedly. Report the trace id to its operators, who find the cause in the log by it.
    Internal = "internal", 500, Later, "The gateway failed";
    /// Graph refused the change; `detail` gives its reason. Give the gateway's operators `graph`, which has Microsoft's message
    /// and ids.
    GraphRefused = "graph-refused", 502, Never, "Graph refused the change";
    /// Intune lets applications change enrollment restrictions only with an administrator role. Some users of real tenants
    /// report that giving the gateway's application the Entra role Intune Administrator helps, others that it does not. If it
    /// does not, an administrator must make the change in the portal.
    GraphRoleMissing = "graph-role-missing", 502, Never, "Intune requires an administrator role";
    /// The tenant protects such changes with Multi Admin Approval: a second administrator must approve each. The gateway does
    /// not request that approval and changed nothing. Ask the Intune administrators to exempt enrollment configurations from
    /// the access policy, or to make the change in the portal.
    IntuneApprovalRequired = "intune-approval-required", 502, Never, "Intune requires a second administrator's approval";
    /// The configuration was deleted before the change could be applied.
    ConfigurationGone = "configuration-gone", 502, Never, "The configuration no longer exists";
    /// Graph's answer about the present assignments cannot be interpreted safely, so nothing was written.
    PresentSetUnreadable = "present-set-unreadable", 502, Later, "The present assignments cannot be read safely";
    /// Graph returned no assignments although there were some before, so nothing was written. If they were removed on
    /// purpose, confirm that with a `replace`, which states the whole set; after it, other changes are possible again.
    PresentSetVanished = "present-set-vanished", 502, Never, "The present assignments have vanished";
    /// Graph kept the change from being applied until its deadline had passed; `detail` says why. Request it again when
    /// Graph is available.
    DeadlinePassed = "deadline-passed", 504, Later, "The change could not be applied in time";
    /// Graph does not accept the gateway's own credentials; the gateway's operators must act.
    GraphNotAuthorised = "graph-not-authorised", 502, Later, "The gateway is not authorised in Graph";
    /// The gateway's application lacks a permission in Microsoft Graph; `detail` names the least privileged one that suffices.
    /// An administrator of the tenant must grant it. The change was not accepted. Changes that were accepted before wait, and
    /// continue by themselves a minute or two after the permission is granted.
    GraphPermissionMissing = "graph-permission-missing", 502, Later, "The gateway lacks a permission in Graph";
    /// Graph or its login service throttles the gateway or the tenant. The change was not accepted; retry after the time
    /// in `Retry-After`.
    GraphThrottled = "graph-throttled", 503, Later, "Graph is throttling requests";
    /// Graph does not answer, or answers with errors. The change was not accepted; retry later.
    GraphUnavailable = "graph-unavailable", 503, Later, "Graph is not available";
    /// The gateway's store could not be read or written. Retry a change with the same `Idempotency-Key`: if it was stored
    /// after all, the retry returns its operation.
    StoreUnavailable = "store-unavailable", 503, Later, "The store is not available";
    /// The limit of pending changes in the gateway is reached, usually because Graph has been unavailable for a long time.
    /// The change was not accepted, and its `Idempotency-Key` is still unused; retry when some changes have ended.
    GatewayFull = "gateway-full", 503, Later, "Too many changes are pending";
    /// The keys that verify the token cannot be fetched from its issuer, or the secret of the webhook's source cannot be read;
    /// retry later.
    KeysUnavailable = "keys-unavailable", 503, Later, "The credentials cannot be checked at present";
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
            Retry::Never => {
                "Do not repeat the call unchanged: it fails again until the request or what `detail` names has changed."
            }
        };
        format!("{name} (HTTP {status})\n{title}.\n\n{}\n{retry}\n", meaning.trim())
    }

    /// Its title; and what it means, with advice.
    pub(super) fn title_and_meaning(self) -> (&'static str, &'static str) {
        (self.row().title, self.row().meaning.trim())
    }

    /// Its HTTP status.
    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// `Retry-After` where nothing more exact is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest detail, in bytes: some repeat what the caller sent, and all go to the log.
const DETAIL_MAX: usize = 2_000;

/// A problem, ready to be sent.
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

    /// A problem with faults at places in the body or the query.
    pub(crate) fn with_errors(code: Code, what: &str, errors: Vec<Fault>) -> Self {
        let mut problem = Self::new(code, format!("{what}: {}", listed(&errors)));
        problem.0.errors = errors;
        problem
    }

    /// The problem of an operation that failed.
    pub(crate) fn of_failure(failure: &Failure, operation: OperationId) -> Self {
        Self::from(failure).about(operation)
    }

    /// An ambiguous name. One in the path or the query has no place in a body.
    pub(super) fn ambiguous(faults: Vec<Fault>) -> Self {
        match faults.as_slice() {
            [Fault { pointer, detail }] if pointer.is_empty() => Self::new(Code::AmbiguousName, detail),
            _ => Self::with_errors(Code::AmbiguousName, "Nothing was changed", faults),
        }
    }

    /// Names the operation that it is about.
    pub(super) fn about(mut self, operation: OperationId) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Adds Graph's own answer.
    pub(super) fn with_graph_answer(mut self, answer: Option<&GraphAnswer>) -> Self {
        self.0.graph = answer.cloned();
        self
    }

    /// Its code.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// Sets the `WWW-Authenticate` challenge, which is sent if the status is 401.
    pub(crate) fn challenging(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// The same for a change of a webhook's message; `context` is inserted before the final full stop.
    pub(crate) fn of_message(self, context: &str) -> Self {
        let detail = if self.0.code == Code::KeyReused {
            "A message with this id was accepted before, with different content or under rules that made other changes of it"
        } else {
            self.0.detail.trim_end_matches('.')
        };
        let detail = format!("{detail}{context}.");
        Self(Box::new(Content { detail, ..*self.0 }))
    }

    /// Adds what a name could have meant.
    pub(super) fn candidates(mut self, candidates: Vec<Candidate>) -> Self {
        self.0.candidates = candidates;
        self
    }

    /// Sets the pause in `Retry-After`.
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

    /// As JSON, to be shown in the failed operation.
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

/// A pause in whole seconds for `Retry-After`, rounded up.
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
