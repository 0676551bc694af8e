//! The calls of the API, one after the other: what each takes, what it answers, and which problems it can end in.
//!
//! A new route is a new entry here; a test compares this table with the page of routes, and every call of the black-box
//! tests is held against what this table says of it.

use super::call::{ACCEPTING, ANSWER, Answer, BODY, Body, CALL, Call, Content, ENDED, GRAPH, NAMES, Proof};
use crate::api::problem::Code;

/// Answers of a call that accepts an operation.
const ACCEPTED: [Answer; 2] = [
    Answer {
        text: "The operation has ended, and did not fail.",
        content: Content::Json("Operation"),
        headers: &["Preference-Applied", "Idempotency-Replayed"],
        examples: &["operation"],
        ..ANSWER
    },
    Answer {
        status: 202,
        text: "The operation is accepted and has not ended. Nothing that is accepted is lost: ask for it at `Location`.",
        content: Content::Json("Operation"),
        headers: &["Location", "Retry-After", "Preference-Applied", "Idempotency-Replayed"],
        examples: &["operation-queued"],
    },
];

/// The answer of a call that answers an operation.
const OPERATION: [Answer; 1] = [Answer {
    text: "The operation as it stands. One that failed is answered like any other, with its `problem` in it.",
    content: Content::Json("Operation"),
    headers: &["Location", "Retry-After", "Preference-Applied"],
    examples: &["operation", "operation-queued"],
    ..ANSWER
}];

/// All calls, in the order in which they are read.
pub(super) const ALL: &[&Call] = &[
    &SUBMIT,
    &PLAN,
    &OPERATIONS,
    &ONE_OPERATION,
    &CANCEL,
    &REVERT,
    &CALL_OFF,
    &RESEND,
    &APPROVE,
    &REJECT,
    &CONFIGURATIONS,
    &ASSIGNED,
    &REACH,
    &WEBHOOK,
    &HANDSHAKE,
    &AUDIT,
    &PROBLEM,
    &DOCUMENT,
];

const SUBMIT: Call = Call {
    method: "post",
    path: "/v1/assignments",
    id: "submitChange",
    tag: CHANGES,
    summary: "Change what a configuration is assigned to",
    text: "Accepts a change, makes it durable, and waits up to 10 seconds for its end unless `Prefer` says otherwise. A change \
           that fails while the call waits is answered by the problem that it failed with; `operation` in it says which \
           operation that was. Repeating a call is safe with `Idempotency-Key`.",
    parameters: &["Idempotency-Key", "If-Match", "Prefer"],
    body: Body::Json("Change"),
    examples: &["change", "change-replace", "change-until"],
    answers: &ACCEPTED,
    problems: &[&BODY, &NAMES, &GRAPH, &ACCEPTING, &ENDED],
    ..CALL
};

const PLAN: Call = Call {
    method: "post",
    path: "/v1/plan",
    id: "planChange",
    tag: CHANGES,
    summary: "See what a change would do",
    text: "Takes what `POST /v1/assignments` takes, reads the present assignments, and answers the difference that the change \
           would make, and what policy would say of it. Changes nothing.",
    parameters: &["If-Match"],
    body: Body::Json("Change"),
    examples: &["change", "change-replace"],
    answers: &[Answer {
        text: "What the change would do. Whether policy would permit it stands in `permission`.",
        content: Content::Json("Plan"),
        headers: &["ETag"],
        examples: &["plan"],
        ..ANSWER
    }],
    problems: &[&BODY, &NAMES, &GRAPH, &[Code::InvalidHeader, Code::NotPermitted, Code::PreconditionFailed]],
    ..CALL
};

const OPERATIONS: Call = Call {
    path: "/v1/operations",
    id: "listOperations",
    tag: OPERATION_TAG,
    summary: "Look for operations",
    text: "Those that fit everything that is given and that the caller may read, newest first. Follow `next` until it is null; \
           a page may be short, even empty, and have a next one.",
    parameters: &["ticket", "configuration", "caller", "state", "after", "limit"],
    answers: &[Answer {
        text: "A page of operations.",
        content: Content::Json("OperationPage"),
        examples: &["operation-page"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery, Code::UnknownConfiguration, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const ONE_OPERATION: Call = Call {
    path: "/v1/operations/{id}",
    id: "getOperation",
    tag: OPERATION_TAG,
    summary: "See what became of a change",
    text: "Answers at once, or waits for the operation's end with `Prefer: wait=N`.",
    parameters: &["id", "Prefer"],
    answers: &OPERATION,
    problems: &[&[Code::UnknownOperation]],
    ..CALL
};

const CANCEL: Call = Call {
    method: "delete",
    path: "/v1/operations/{id}",
    id: "cancelOperation",
    tag: OPERATION_TAG,
    summary: "Take a change back before it begins",
    text: "What is answered as cancelled has not reached Graph and never will. Cancelling what is cancelled changes nothing.",
    parameters: &["id"],
    answers: &OPERATION,
    problems: &[&[Code::UnknownOperation, Code::NotPermitted, Code::TooLateToCancel, Code::GraphUnavailable]],
    ..CALL
};

const REVERT: Call = Call {
    method: "post",
    path: "/v1/operations/{id}/revert",
    id: "revertOperation",
    tag: OPERATION_TAG,
    summary: "Undo what an operation did",
    text: "Accepts an operation of its own that undoes exactly the difference which that one made. What somebody has changed \
           since is left alone, and listed in `difference.kept`. The body may be left out.",
    parameters: &["id", "Idempotency-Key", "If-Match", "Prefer"],
    body: Body::Optional("Revert"),
    examples: &["revert"],
    answers: &ACCEPTED,
    problems: &[
        &BODY,
        &[Code::UnknownOperation, Code::UnknownConfiguration, Code::NothingToRevert, Code::NotEnded],
        &GRAPH,
        &ACCEPTING,
        &ENDED,
    ],
    ..CALL
};

const CALL_OFF: Call = Call {
    method: "delete",
    path: "/v1/operations/{id}/until",
    id: "callOffUntil",
    tag: OPERATION_TAG,
    summary: "Call off the end that was set for a change",
    text: "What the operation did stays. Calling it off again changes nothing.",
    parameters: &["id"],
    answers: &OPERATION,
    problems: &[&[Code::UnknownOperation, Code::NotPermitted, Code::NoUntilAhead, Code::GraphUnavailable]],
    ..CALL
};

const RESEND: Call = Call {
    method: "post",
    path: "/v1/operations/{id}/callback",
    id: "resendCallback",
    tag: OPERATION_TAG,
    summary: "Have the end of an operation told again",
    text: "Sends the message of the operation's `callback` once more, after it was delivered or given up.",
    parameters: &["id"],
    answers: &[Answer {
        status: 202,
        text: "The message will be sent.",
        content: Content::Json("Operation"),
        examples: &["operation"],
        ..ANSWER
    }],
    problems: &[&[Code::UnknownOperation, Code::NotPermitted, Code::NothingToResend, Code::GraphUnavailable]],
    ..CALL
};

/// What an answer to a question for consent can end in.
const ANSWERING: [Code; 3] = [Code::UnknownOperation, Code::NotPermitted, Code::NotAwaitingApproval];

const APPROVE: Call = Call {
    method: "post",
    path: "/v1/operations/{id}/approve",
    id: "approveOperation",
    tag: OPERATION_TAG,
    summary: "Consent to a change that awaits it",
    text: "Only where policy asks for another person's consent, and never by the caller that asked for the change. The same word \
           again changes nothing. The body may be left out.",
    parameters: &["id"],
    body: Body::Optional("Word"),
    examples: &["word"],
    answers: &OPERATION,
    problems: &[&BODY, &ANSWERING, &GRAPH],
    ..CALL
};

const REJECT: Call = Call {
    path: "/v1/operations/{id}/reject",
    id: "rejectOperation",
    summary: "Refuse a change that awaits consent",
    text: "The operation fails as `approval-rejected`. Otherwise as consenting is.",
    ..APPROVE
};

const CONFIGURATIONS: Call = Call {
    path: "/v1/configurations",
    id: "listConfigurations",
    tag: PRESENT,
    summary: "List configurations",
    text: "The enrollment configurations that the caller may read, by kind and priority.",
    parameters: &["search"],
    answers: &[Answer {
        text: "The configurations.",
        content: Content::Json("ConfigurationList"),
        examples: &["configuration-list"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery], &GRAPH],
    ..CALL
};

const ASSIGNED: Call = Call {
    path: "/v1/configurations/{ref}/assignments",
    id: "getAssignments",
    tag: PRESENT,
    summary: "See what is assigned to a configuration",
    text: "Read from Graph for every call. `ETag` is that of the direct assignments, for `If-Match` of a change.",
    parameters: &["configuration-ref", "If-None-Match"],
    answers: &[
        Answer {
            text: "What is assigned at present.",
            content: Content::Json("Assigned"),
            headers: &["ETag", "Cache-Control"],
            examples: &["assigned"],
            ..ANSWER
        },
        Answer {
            status: 304,
            text: "The direct assignments are those that `If-None-Match` names.",
            headers: &["ETag", "Cache-Control"],
            ..ANSWER
        },
    ],
    problems: &[&[Code::NotPermitted, Code::UnknownConfiguration, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const REACH: Call = Call {
    path: "/v1/groups/{ref}/assignments",
    id: "getGroupAssignments",
    tag: PRESENT,
    summary: "See what reaches a group",
    text: "Which of the configurations that the caller may read reach the group, up to 5 seconds late. Groups that the group is \
           itself a member of are not followed.",
    parameters: &["group-ref"],
    answers: &[Answer {
        text: "What reaches the group.",
        content: Content::Json("Reach"),
        examples: &["reach"],
        ..ANSWER
    }],
    problems: &[&[Code::NotPermitted, Code::UnknownGroup, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const WEBHOOK: Call = Call {
    method: "post",
    path: "/v1/webhooks/{source}",
    id: "receiveWebhook",
    tag: WEBHOOKS,
    summary: "Send an event",
    text: "A signed event of a ticketing or HR system, made into changes by rules in the gateway's settings. How it must be \
           proven depends on its source. A message that comes again finds its operations and does nothing more.",
    proof: Proof::Message,
    parameters: &["source", "Idempotency-Key", "Prefer"],
    body: Body::Event,
    answers: &[
        Answer {
            text: "All operations of the message have ended, or it was ignored.",
            content: Content::Json("WebhookAnswer"),
            headers: &["Preference-Applied", "Idempotency-Replayed"],
            examples: &["webhook-ignored"],
            ..ANSWER
        },
        Answer {
            status: 202,
            text: "Operations are accepted, and some have not ended.",
            content: Content::Json("WebhookAnswer"),
            headers: &["Location", "Retry-After", "Preference-Applied", "Idempotency-Replayed"],
            examples: &["webhook-accepted"],
        },
    ],
    problems: &[&BODY, &NAMES, &GRAPH, &ACCEPTING, &[Code::EventNotMapped]],
    ..CALL
};

const HANDSHAKE: Call = Call {
    method: "options",
    path: "/v1/webhooks/{source}",
    id: "consentToWebhook",
    tag: WEBHOOKS,
    summary: "Ask whether events may be sent",
    text: "The handshake of CloudEvents' HTTP webhooks.",
    proof: Proof::None,
    parameters: &["source", "WebHook-Request-Origin", "WebHook-Request-Rate"],
    answers: &[Answer {
        text: "The source is known. Only with `WebHook-Allowed-Origin` is it consent.",
        headers: &["Allow", "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"],
        ..ANSWER
    }],
    problems: &[&[Code::NotFound, Code::Internal]],
    ..CALL
};

const AUDIT: Call = Call {
    path: "/v1/audit",
    id: "listAuditRecords",
    tag: AUDIT_TAG,
    summary: "Read the audit trail",
    text: "Records that fit everything that is given and that the caller may read, oldest first. Follow `next` until it is null; \
           later, go on with `after` set to `cursor`.",
    parameters: &["ticket", "audit-operation", "caller", "from", "to", "audit-after", "limit"],
    answers: &[Answer {
        text: "A page of records.",
        content: Content::Json("AuditPage"),
        examples: &["audit-page"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery, Code::GraphUnavailable]],
    ..CALL
};

const PROBLEM: Call = Call {
    path: "/problems/{code}",
    id: "getProblem",
    tag: PAGES,
    summary: "Read what a problem means",
    text: "The page behind a problem's `type`.",
    proof: Proof::None,
    parameters: &["code"],
    answers: &[Answer { text: "What the problem means, and what helps.", content: Content::Text, ..ANSWER }],
    problems: &[&[Code::NotFound]],
    ..CALL
};

const DOCUMENT: Call = Call {
    path: "/openapi.json",
    id: "getDocument",
    tag: PAGES,
    summary: "Read this document",
    text: "The document that you read, by OpenAPI 3.1. `/docs/` shows it, with forms to try it out.",
    proof: Proof::None,
    answers: &[Answer { text: "The document.", content: Content::Document, ..ANSWER }],
    ..CALL
};

const CHANGES: &str = "Changes";
const OPERATION_TAG: &str = "Operations";
const PRESENT: &str = "What is assigned";
const WEBHOOKS: &str = "Webhooks";
const AUDIT_TAG: &str = "Audit";
const PAGES: &str = "Pages";

/// The groups in which calls are shown, and what each is about.
pub(super) const TAGS: [(&str, &str); 6] = [
    (CHANGES, "Asking for a change, and seeing beforehand what it would do."),
    (OPERATION_TAG, "What became of changes: looking, waiting, taking back, undoing."),
    (PRESENT, "What Graph holds at present."),
    (WEBHOOKS, "Events of other systems, made into changes."),
    (AUDIT_TAG, "What happened, who asked for it, and on whose authority."),
    (PAGES, "What can be read about the gateway."),
];
