//! The table of calls: what each takes, what it returns, and which problems it can end in.
//!
//! A new route is a new entry here; a test compares this table with the routes, and the black-box tests check every call of
//! theirs against it.

use super::call::{
    ACCEPTING, ANSWER, BODY, Body, CALL, Content, ENDED, EndpointSpec, GRAPH, NAMES, Proof, ResponseSpec,
};
use crate::api::problem::Code;

/// The responses of a call that accepts an operation.
const ACCEPTED: [ResponseSpec; 2] = [
    ResponseSpec {
        text: "The operation has ended, and did not fail.",
        content: Content::Json("Operation"),
        headers: &["Preference-Applied", "Idempotency-Replayed"],
        examples: &["operation"],
        ..ANSWER
    },
    ResponseSpec {
        status: 202,
        text: "The operation is accepted and stored, and has not ended. Read it at `Location`.",
        content: Content::Json("Operation"),
        headers: &["Location", "Retry-After", "Preference-Applied", "Idempotency-Replayed"],
        examples: &["operation-queued"],
    },
];

/// The response of a call that returns an operation.
const OPERATION: [ResponseSpec; 1] = [ResponseSpec {
    text: "The operation in its current state. One that failed is returned like any other, with its `problem` inside.",
    content: Content::Json("Operation"),
    headers: &["Location", "Retry-After", "Preference-Applied"],
    examples: &["operation", "operation-queued"],
    ..ANSWER
}];

/// All calls, in the order in which they are shown.
pub(super) const ALL: &[&EndpointSpec] = &[
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

const SUBMIT: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/assignments",
    id: "submitChange",
    tag: CHANGES,
    summary: "Change the assignments of a configuration",
    text: "Accepts a change, stores it durably, and waits up to 10 seconds for it to end unless `Prefer` says otherwise. If \
           the change fails while the request waits, the response is the problem that it failed with, whose `operation` \
           identifies the operation. Retries are safe with `Idempotency-Key`.",
    parameters: &["Idempotency-Key", "If-Match", "Prefer"],
    body: Body::Json("Change"),
    examples: &["change", "change-replace", "change-until"],
    answers: &ACCEPTED,
    problems: &[&BODY, &NAMES, &GRAPH, &ACCEPTING, &ENDED],
    ..CALL
};

const PLAN: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/plan",
    id: "planChange",
    tag: CHANGES,
    summary: "See what a change would do",
    text: "A dry run: takes the same body as `POST /v1/assignments`, reads the present assignments, and returns the difference \
           that the change would make and whether policy would permit it. Changes nothing.",
    parameters: &["If-Match"],
    body: Body::Json("Change"),
    examples: &["change", "change-replace"],
    answers: &[ResponseSpec {
        text: "What the change would do; `permission` says whether policy would permit this very body, and which approvals \
               it would await.",
        content: Content::Json("Plan"),
        headers: &["ETag"],
        examples: &["plan"],
        ..ANSWER
    }],
    problems: &[&BODY, &NAMES, &GRAPH, &[Code::InvalidHeader, Code::NotPermitted, Code::PreconditionFailed]],
    ..CALL
};

const OPERATIONS: EndpointSpec = EndpointSpec {
    path: "/v1/operations",
    id: "listOperations",
    tag: OPERATION_TAG,
    summary: "List operations",
    text: "The operations that match all given parameters and that the caller may read, newest first. Follow `next` until it \
           is null; a page can be short, or even empty, and still have a next one.",
    parameters: &["ticket", "configuration", "caller", "state", "after", "limit"],
    answers: &[ResponseSpec {
        text: "A page of operations.",
        content: Content::Json("OperationPage"),
        examples: &["operation-page"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery, Code::UnknownConfiguration, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const ONE_OPERATION: EndpointSpec = EndpointSpec {
    path: "/v1/operations/{id}",
    id: "getOperation",
    tag: OPERATION_TAG,
    summary: "Read an operation",
    text: "Returns at once, or waits for the operation to end with `Prefer: wait=N`.",
    parameters: &["id", "Prefer"],
    answers: &OPERATION,
    problems: &[&[Code::UnknownOperation]],
    ..CALL
};

const CANCEL: EndpointSpec = EndpointSpec {
    method: "delete",
    path: "/v1/operations/{id}",
    id: "cancelOperation",
    tag: OPERATION_TAG,
    summary: "Cancel a change before it begins",
    text: "A cancelled operation has not reached Graph and never will. Cancelling it again changes nothing.",
    parameters: &["id"],
    answers: &OPERATION,
    problems: &[&[Code::UnknownOperation, Code::NotPermitted, Code::TooLateToCancel, Code::GraphUnavailable]],
    ..CALL
};

const REVERT: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/operations/{id}/revert",
    id: "revertOperation",
    tag: OPERATION_TAG,
    summary: "Undo what an operation did",
    text: "Accepts a new operation that undoes exactly the difference that this one made, except for what somebody has changed \
           since; that is left as it is, and listed in `difference.kept`. The body is optional.",
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

const CALL_OFF: EndpointSpec = EndpointSpec {
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

const RESEND: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/operations/{id}/callback",
    id: "resendCallback",
    tag: OPERATION_TAG,
    summary: "Send the callback of an operation again",
    text: "Sends the message again after it was delivered or parked.",
    parameters: &["id"],
    answers: &[ResponseSpec {
        status: 202,
        text: "The message will be sent.",
        content: Content::Json("Operation"),
        examples: &["operation"],
        ..ANSWER
    }],
    problems: &[&[Code::UnknownOperation, Code::NotPermitted, Code::NothingToResend, Code::GraphUnavailable]],
    ..CALL
};

/// Problems of approving and rejecting.
const ANSWERING: [Code; 3] = [Code::UnknownOperation, Code::NotPermitted, Code::NotAwaitingApproval];

const APPROVE: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/operations/{id}/approve",
    id: "approveOperation",
    tag: OPERATION_TAG,
    summary: "Approve a change that awaits approval",
    text: "Only where policy requires the approval of a second person, and never by the caller that requested the change. \
           Giving the same answer again changes nothing. The body is optional.",
    parameters: &["id"],
    body: Body::Optional("Word"),
    examples: &["word"],
    answers: &OPERATION,
    problems: &[&BODY, &ANSWERING, &GRAPH],
    ..CALL
};

const REJECT: EndpointSpec = EndpointSpec {
    path: "/v1/operations/{id}/reject",
    id: "rejectOperation",
    summary: "Reject a change that awaits approval",
    text: "The operation fails as `approval-rejected`. Otherwise like approving.",
    ..APPROVE
};

const CONFIGURATIONS: EndpointSpec = EndpointSpec {
    path: "/v1/configurations",
    id: "listConfigurations",
    tag: PRESENT,
    summary: "List configurations",
    text: "The enrollment configurations that the caller may read, by kind and priority.",
    parameters: &["search"],
    answers: &[ResponseSpec {
        text: "The configurations.",
        content: Content::Json("ConfigurationList"),
        examples: &["configuration-list"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery], &GRAPH],
    ..CALL
};

const ASSIGNED: EndpointSpec = EndpointSpec {
    path: "/v1/configurations/{ref}/assignments",
    id: "getAssignments",
    tag: PRESENT,
    summary: "Read the assignments of a configuration",
    text: "Read from Graph at every call. The first part of `ETag` identifies the direct assignments, for `If-Match` of a \
           change; the second covers whatever else is shown.",
    parameters: &["configuration-ref", "If-None-Match"],
    answers: &[
        ResponseSpec {
            text: "The present assignments.",
            content: Content::Json("Assigned"),
            headers: &["ETag", "Cache-Control"],
            examples: &["assigned"],
            ..ANSWER
        },
        ResponseSpec {
            status: 304,
            text: "The response would be one that `If-None-Match` names.",
            headers: &["ETag", "Cache-Control"],
            ..ANSWER
        },
    ],
    problems: &[&[Code::NotPermitted, Code::UnknownConfiguration, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const REACH: EndpointSpec = EndpointSpec {
    path: "/v1/groups/{ref}/assignments",
    id: "getGroupAssignments",
    tag: PRESENT,
    summary: "Read which configurations reach a group",
    text: "Which of the configurations that the caller may read reach the group; the answer can be up to 5 seconds old. Groups \
           of which the group is a member are not considered.",
    parameters: &["group-ref"],
    answers: &[ResponseSpec {
        text: "What reaches the group.",
        content: Content::Json("Reach"),
        examples: &["reach"],
        ..ANSWER
    }],
    problems: &[&[Code::NotPermitted, Code::UnknownGroup, Code::AmbiguousName], &GRAPH],
    ..CALL
};

const WEBHOOK: EndpointSpec = EndpointSpec {
    method: "post",
    path: "/v1/webhooks/{source}",
    id: "receiveWebhook",
    tag: WEBHOOKS,
    summary: "Send an event",
    text: "Receives an event of a ticketing or HR system, which rules in the gateway's settings turn into changes. How it must \
           be authenticated depends on its source. A message that is sent again returns its operations and does nothing more.",
    proof: Proof::Message,
    parameters: &["source", "Idempotency-Key", "Prefer"],
    body: Body::Event,
    answers: &[
        ResponseSpec {
            text: "All operations of the message have ended, or it was ignored.",
            content: Content::Json("WebhookAnswer"),
            headers: &["Preference-Applied", "Idempotency-Replayed"],
            examples: &["webhook-ignored"],
            ..ANSWER
        },
        ResponseSpec {
            status: 202,
            text: "Changes were accepted, and some of their operations have not ended.",
            content: Content::Json("WebhookAnswer"),
            headers: &["Location", "Retry-After", "Preference-Applied", "Idempotency-Replayed"],
            examples: &["webhook-accepted"],
        },
    ],
    problems: &[&BODY, &NAMES, &GRAPH, &ACCEPTING, &[Code::EventNotMapped]],
    ..CALL
};

const HANDSHAKE: EndpointSpec = EndpointSpec {
    method: "options",
    path: "/v1/webhooks/{source}",
    id: "consentToWebhook",
    tag: WEBHOOKS,
    summary: "Ask whether events may be sent",
    text: "The handshake of CloudEvents' HTTP webhooks.",
    proof: Proof::None,
    parameters: &["source", "WebHook-Request-Origin", "WebHook-Request-Rate"],
    answers: &[ResponseSpec {
        text: "The source exists. Events may be sent only if `WebHook-Allowed-Origin` is present.",
        headers: &["Allow", "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"],
        ..ANSWER
    }],
    problems: &[&[Code::NotFound, Code::Internal]],
    ..CALL
};

const AUDIT: EndpointSpec = EndpointSpec {
    path: "/v1/audit",
    id: "listAuditRecords",
    tag: AUDIT_TAG,
    summary: "Read the audit trail",
    text: "The records that match all given parameters and that the caller may read, oldest first. Follow `next` until it is \
           null; later, continue with `after` set to `cursor`.",
    parameters: &["ticket", "audit-operation", "caller", "from", "to", "audit-after", "limit"],
    answers: &[ResponseSpec {
        text: "A page of records.",
        content: Content::Json("AuditPage"),
        examples: &["audit-page"],
        ..ANSWER
    }],
    problems: &[&[Code::InvalidQuery, Code::GraphUnavailable]],
    ..CALL
};

const PROBLEM: EndpointSpec = EndpointSpec {
    path: "/problems/{code}",
    id: "getProblem",
    tag: PAGES,
    summary: "Read what a problem means",
    text: "The page behind a problem's `type`.",
    proof: Proof::None,
    parameters: &["code"],
    answers: &[ResponseSpec {
        text: "What the problem means, and what to do about it.",
        content: Content::Text,
        ..ANSWER
    }],
    problems: &[&[Code::NotFound]],
    ..CALL
};

const DOCUMENT: EndpointSpec = EndpointSpec {
    path: "/openapi.json",
    id: "getDocument",
    tag: PAGES,
    summary: "Read this document",
    text: "This document, in OpenAPI 3.1. `/docs/` displays it, with forms to try it out.",
    proof: Proof::None,
    answers: &[ResponseSpec { text: "The document.", content: Content::Document, ..ANSWER }],
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
    (CHANGES, "Requesting a change, and seeing beforehand what it would do."),
    (OPERATION_TAG, "Accepted changes: reading, waiting, cancelling, reverting, approving."),
    (PRESENT, "What Graph holds at present."),
    (WEBHOOKS, "Events from other systems, turned into changes."),
    (AUDIT_TAG, "What happened, who asked for it, and on whose authority."),
    (PAGES, "Reference pages about the API."),
];
