//! The audit trail: chaining a record, and exporting it in a standard format.

use std::hint::black_box;

use postern::audit::{ExportFormat, Head};

use crate::{
    Case, Iteration,
    requests::{acceptance, lane},
};

pub(crate) fn cases() -> Vec<Case> {
    let tied = |_| -> Iteration {
        let (mut head, entry) = (head(), acceptance(1, &lane(1)).entry);
        Box::new(move || drop(black_box(head.append(black_box(&entry)))))
    };
    let told = |_| -> Iteration {
        let record = head().append(&acceptance(1, &lane(1)).entry).text;
        Box::new(move || drop(black_box(ExportFormat::Ocsf.line(black_box(&record)))))
    };
    vec![
        Case::new("tie an acceptance to the audit chain", 1_000, tied),
        Case::new("tell an acceptance as OCSF", 1_000, told),
    ]
}

fn head() -> Head {
    Head::open("01981d4e-0000-7000-8000-000000000000".to_owned(), &[], "0").0
}
