//! What needs no store: the merge of a change, and a record tied to the audit chain.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion};
use postern::{
    audit::Head,
    domain::{AssignmentSet, merge},
};

use crate::requests::{acceptance, adding, lane};

pub(crate) fn measure() {
    let criterion = Criterion::default().without_plots();
    let mut criterion = criterion
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut merges = criterion.benchmark_group("merge a change into a set of");
    for targets in [1_u128, 100, 1_000] {
        let present = merge(&AssignmentSet::default(), &[adding(1..=targets)]).desired;
        // One target that is there, one that is new.
        let change = [adding([1, targets + 1])];
        let whole = BenchmarkId::from_parameter(targets);
        merges.bench_function(whole, |bencher| bencher.iter(|| merge(black_box(&present), black_box(&change))));
    }
    merges.finish();

    let entry = acceptance(1, &lane(1)).entry;
    let (mut head, _) = Head::open("01981d4e-0000-7000-8000-000000000000".to_owned(), &[], "0");
    criterion.bench_function("tie an acceptance to the audit chain", |bencher| {
        bencher.iter(|| head.append(black_box(&entry)));
    });
}
