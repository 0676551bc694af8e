//! Deciding a change by policy: with the shipped policies, alone and among others.

use std::{fmt::Write as _, fs, hint::black_box, path::Path};

use postern::{
    domain::{Caller, Configuration, Kind, Role, operation::Submission},
    policy::{Policies, Resource},
};

use crate::{
    Case, Iteration,
    requests::{acceptance, adding, lane},
};

pub(crate) fn cases() -> Vec<Case> {
    let case = |(targets, least, counted): (u128, usize, u64)| {
        let of = if targets == 1 { "one target".to_owned() } else { format!("{targets} targets") };
        let by = if least == 0 { "the shipped policies".to_owned() } else { format!("{least} policies") };
        Case::new(format!("decide on {of} by {by}"), counted, move |iterations| {
            deciding(targets, policies(least, ""), iterations)
        })
    };
    let looking = |iterations| deciding(1, policies(0, LOOKS_AT_TICKETS), iterations);
    // So many that the cost of preparing policies, which varies by millions between runs, is negligible.
    let mut cases: Vec<_> = [(1, 0, 10_000), (50, 0, 400), (1, 50, 10_000), (50, 50, 400)].map(case).into();
    cases.push(Case::new("decide on one target by policies that look at tickets", 1_000, looking));
    cases
}

/// With it no decision can be reused for another ticket.
const LOOKS_AT_TICKETS: &str = r#"
@id("no-such-tickets")
forbid (principal, action == Postern::Action::"add", resource) when { context has ticket && context.ticket like "NONE*" };
"#;

fn deciding(targets: u128, policies: Policies, iterations: u64) -> Iteration {
    let (caller, configuration) = (caller(), configuration());
    let tags = ["sales".to_owned()].into();
    let submission = acceptance(1, &configuration.id).operation.submission;
    let submission = Submission { change: adding(1..=targets), ..submission };
    // A permit is for one submission, so each iteration needs its own, with a ticket of its own.
    let of = |number| Submission { ticket: Some(format!("RITM{number:07}")), ..submission.clone() };
    let mut asked: Vec<_> = (0..iterations).map(of).collect();
    Box::new(move || {
        let resource = Resource { configuration: &configuration, tags: &tags };
        let permit = policies.decide_change(black_box(&caller), resource, asked.pop().unwrap());
        drop(black_box(permit.unwrap()));
    })
}

/// The shipped policies, `others`, and as many made-up ones for shops as are needed to have `least` in all.
fn policies(least: usize, others: &str) -> Policies {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies");
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for file in fs::read_dir(shipped).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(file.path()).unwrap();
        count += text.matches("@id(").count();
        fs::write(folder.path().join(file.file_name()), text).unwrap();
    }
    let mut others = others.to_owned();
    for shop in count..least {
        write!(
            others,
            "@id(\"shop-{shop}\")\n\
             permit (principal == Postern::Caller::\"shop-{shop}\", action == Postern::Action::\"add\", resource)\n\
             when {{ context.target.kind == \"group\" && context has ticket && resource.tags.contains(\"shop-{shop}\") }};\n"
        )
        .unwrap();
    }
    fs::write(folder.path().join("others.cedar"), others).unwrap();
    Policies::load(folder.path()).unwrap()
}

fn caller() -> Caller {
    Caller {
        name: "servicenow".to_owned(),
        issuer: "entra".to_owned(),
        subject: "servicenow".to_owned(),
        token_id: None,
        roles: vec![Role::new("Assignments.Change")],
        certificate: None,
    }
}

fn configuration() -> Configuration {
    Configuration { id: lane(1), name: "Sales ESP".to_owned(), kind: Kind::StatusPage, priority: 1 }
}
