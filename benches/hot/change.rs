//! A change: reading its body, merging it into a set, and computing the set's digest.

use std::hint::black_box;

use postern::{
    api::read_change,
    domain::{AssignmentSet, merge},
};

use crate::{Case, Iteration, requests::adding};

pub(crate) fn cases() -> Vec<Case> {
    let bodies = [(2, 5_000), (50, 500)].map(|(targets, counted)| {
        let ready = move |_| -> Iteration {
            let body = body(targets);
            let doing = move || drop(black_box(read_change(black_box(body.as_bytes())).unwrap()));
            Box::new(doing)
        };
        Case::new(format!("read a body of {targets} targets"), counted, ready)
    });
    let merges = [(1, 10_000), (100, 500), (1_000, 50)].map(|(targets, counted)| {
        let ready = move |_| -> Iteration {
            let present = set_of(targets);
            // One target already assigned, one new.
            let change = [adding([1, targets + 1])];
            Box::new(move || drop(black_box(merge(black_box(&present), black_box(&change)))))
        };
        Case::new(format!("merge a change into a set of {targets}"), counted, ready)
    });
    let digests = [(1, 10_000), (100, 500)].map(|(targets, counted)| {
        let ready = move |_| -> Iteration {
            let present = set_of(targets);
            Box::new(move || drop(black_box(black_box(&present).digest())))
        };
        Case::new(format!("digest a set of {targets}"), counted, ready)
    });
    bodies.into_iter().chain(merges).chain(digests).collect()
}

fn set_of(targets: u128) -> AssignmentSet {
    merge(&AssignmentSet::default(), &[adding(1..=targets)]).desired
}

/// As a flow would send it.
fn body(targets: u64) -> String {
    let group = |number| format!(r#"{{"group": "b0a1d3c2-0000-4000-8000-{number:012x}"}}"#);
    let add = (0..targets).map(group).collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"configuration": "sales-esp", "add": [{add}], "ticket": "RITM0012345",
            "requested_for": "jane.doe@contoso.com", "comment": "New sales floor"}}"#
    )
}
