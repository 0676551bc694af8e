//! `GET /v1/groups/{ref}/assignments`: what reaches a group.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{
    configurations::AssignmentView,
    extract::{self, Proven},
    problem::Problem,
    view::Names,
};
use crate::gateway::{Reach, Reaching};

#[derive(Serialize)]
struct GroupView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Serialize)]
struct ByView {
    id: String,
    name: String,
    kind: &'static str,
    priority: i64,
}

#[derive(Serialize)]
struct ReachingView {
    configuration: ByView,
    #[serde(flatten)]
    assignment: AssignmentView,
}

#[derive(Serialize)]
struct ReachView {
    group: GroupView,
    assignments: Vec<ReachingView>,
    everyone: Vec<ReachingView>,
    unclear: Vec<ReachingView>,
    complete: bool,
}

fn views(all: Vec<Reaching>, names: &Names) -> Vec<ReachingView> {
    let view = |Reaching { configuration, assignment, direct }: Reaching| {
        let assignment = if direct {
            AssignmentView::direct(&assignment, names)
        } else {
            AssignmentView::from_policy_set(&assignment, names)
        };
        let (id, kind, priority) = (configuration.id.to_string(), configuration.kind.name(), configuration.priority);
        ReachingView { configuration: ByView { id, name: configuration.name, kind, priority }, assignment }
    };
    all.into_iter().map(view).collect()
}

/// Answers which configurations reach a group, of those that the caller may read.
pub(super) async fn assignments(
    Proven(caller): Proven,
    request: HttpRequest,
    reference: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let reach = gateway.reach(&caller, &reference).await?;
    let Reach { group, of_group, of_everyone, unclear, complete, names } = reach;
    let id = group.to_string();
    Ok(HttpResponse::Ok().json(ReachView {
        group: GroupView { name: names.get(&id).cloned(), id },
        assignments: views(of_group, &names),
        everyone: views(of_everyone, &names),
        unclear: views(unclear, &names),
        complete,
    }))
}
