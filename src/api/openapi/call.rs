//! How a call is described: what it takes, what it returns, and the problems that several calls share.

use crate::api::problem::Code;

/// How a call is authenticated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// By a caller's token.
    Token,
    /// By what the source of a webhook is configured with.
    Message,
    /// Not at all.
    None,
}

/// The body of a request.
pub(super) enum Body {
    /// Nothing.
    None,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or nothing.
    Optional(&'static str),
    /// An event in any form that webhooks accept.
    Event,
}

/// The body of a response.
pub(super) enum Content {
    /// Nothing.
    None,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON that is described elsewhere.
    Document,
    /// Text.
    Text,
}

/// A response that is not a problem.
pub(super) struct ResponseSpec {
    pub(super) status: u16,
    pub(super) text: &'static str,
    pub(super) content: Content,
    pub(super) headers: &'static [&'static str],
    /// Names of examples.
    pub(super) examples: &'static [&'static str],
}

/// One method of one path.
pub(super) struct EndpointSpec {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) text: &'static str,
    pub(super) proof: Proof,
    /// Names of parameters.
    pub(super) parameters: &'static [&'static str],
    pub(super) body: Body,
    /// Names of examples of the body.
    pub(super) examples: &'static [&'static str],
    pub(super) answers: &'static [ResponseSpec],
    /// Its own problems, besides those of authentication.
    pub(super) problems: &'static [&'static [Code]],
}

/// The defaults of a call.
pub(super) const CALL: EndpointSpec = EndpointSpec {
    method: "get",
    path: "",
    id: "",
    tag: "",
    summary: "",
    text: "",
    proof: Proof::Token,
    parameters: &[],
    body: Body::None,
    examples: &[],
    answers: &[],
    problems: &[],
};

/// The defaults of a response.
pub(super) const ANSWER: ResponseSpec =
    ResponseSpec { status: 200, text: "", content: Content::None, headers: &[], examples: &[] };

impl EndpointSpec {
    /// All problems that it can return, in the order of the catalogue.
    pub(super) fn codes(&self) -> impl Iterator<Item = Code> {
        let proof: &[Code] = match self.proof {
            Proof::Token => &PROVEN,
            Proof::Message => &MESSAGE,
            Proof::None => &[],
        };
        let among = move |code: &Code| proof.contains(code) || self.problems.iter().any(|some| some.contains(code));
        Code::ALL.iter().copied().filter(among)
    }
}

/// Problems of calls with a token.
const PROVEN: [Code; 7] = [
    Code::Unauthenticated,
    Code::InvalidToken,
    Code::UnknownCaller,
    Code::RateLimited,
    Code::Internal,
    Code::StoreUnavailable,
    Code::KeysUnavailable,
];
/// Problems of messages.
const MESSAGE: [Code; 7] = [
    Code::NotFound,
    Code::InvalidSignature,
    Code::StaleMessage,
    Code::RateLimited,
    Code::Internal,
    Code::StoreUnavailable,
    Code::KeysUnavailable,
];
/// Problems of bodies.
pub(super) const BODY: [Code; 5] =
    [Code::MalformedJson, Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType, Code::InvalidChange];
/// Problems of the names in a change.
pub(super) const NAMES: [Code; 4] =
    [Code::UnknownConfiguration, Code::UnknownTarget, Code::AmbiguousName, Code::NotAssignable];
/// Problems of reading from Graph.
pub(super) const GRAPH: [Code; 8] = [
    Code::GraphRefused,
    Code::GraphRoleMissing,
    Code::ConfigurationGone,
    Code::PresentSetUnreadable,
    Code::GraphNotAuthorised,
    Code::GraphPermissionMissing,
    Code::GraphThrottled,
    Code::GraphUnavailable,
];
/// Problems of accepting an operation.
pub(super) const ACCEPTING: [Code; 5] =
    [Code::InvalidHeader, Code::NotPermitted, Code::KeyReused, Code::TooManyPending, Code::GatewayFull];
/// Problems with which an operation can end, for callers that wait for it.
pub(super) const ENDED: [Code; 11] = [
    Code::ApprovalRejected,
    Code::ApprovalExpired,
    Code::PreconditionFailed,
    Code::InvalidGroup,
    Code::GraphRefused,
    Code::GraphRoleMissing,
    Code::IntuneApprovalRequired,
    Code::ConfigurationGone,
    Code::PresentSetUnreadable,
    Code::PresentSetVanished,
    Code::DeadlinePassed,
];
