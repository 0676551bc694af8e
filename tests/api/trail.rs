//! What the audit trail and Graph's journal must say about each other after every test.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::contract::{self, Ours};

/// Every accepted operation ended once, every write is on record, and Graph saw nothing that no client should do.
pub(crate) fn check(audit: &[Value], journal: &[Value]) {
    let of = |event: &'static str| audit.iter().filter(move |record| record["event"] == event);
    let ids = |event| of(event).map(|record| record["operation"].as_str().unwrap()).collect::<Vec<_>>();
    let ends = ["settled", "cancelled", "rejected", "approval-expired"];
    let (mut accepted, mut ended) = (ids("accepted"), ends.map(ids).concat());
    accepted.sort_unstable();
    ended.sort_unstable();
    assert_eq!(accepted, ended, "every accepted operation ends exactly once");
    let written: BTreeSet<_> = of("written").map(|record| record["client_request_id"].as_str().unwrap()).collect();
    for call in journal {
        assert!(call["violation"].is_null(), "{call}");
        let faults = contract::faults(call, if is_ours(call) { Ours::Yes } else { Ours::No });
        assert!(faults.is_empty(), "{faults:?} in {call}");
        let applied = call["path"].as_str().unwrap().ends_with("/assign")
            && call["status"].as_u64().is_some_and(|status| status < 300)
            && call["fault"] != "answer";
        if applied && is_ours(call) {
            let id = call["client-request-id"].as_str().unwrap();
            assert!(written.contains(id), "a write that is not on record: {call}");
        }
    }
}

/// Whether the gateway made a call in the journal.
pub(crate) fn is_ours(call: &Value) -> bool {
    call["user_agent"].as_str().is_some_and(|agent| agent.starts_with("postern/"))
}
