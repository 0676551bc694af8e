//! `GET /v1/groups/{ref}/assignments`: what reaches a group.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    configurations::AssignmentView,
    extract::{self, AuthenticatedCaller},
    openapi::schemas,
    problem::Problem,
    view::Names,
};
use crate::gateway::{GroupReach, ReachingAssignment};

/// A group.
#[derive(Serialize, ToSchema)]
#[schema(as = Group)]
struct GroupView {
    /// Its object id.
    id: String,
    /// Its display name, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A configuration that reaches a group.
#[derive(Serialize, ToSchema)]
#[schema(as = ReachingConfiguration)]
struct ByView {
    /// Its id in Graph.
    id: String,
    /// Its display name.
    name: String,
    /// Its kind.
    #[schema(value_type = schemas::Kind)]
    kind: &'static str,
    /// Its priority among those of its kind.
    priority: i64,
}

/// An assignment and the configuration that it belongs to.
#[derive(Serialize, ToSchema)]
#[schema(as = ReachingAssignment)]
struct ReachingView {
    /// The configuration that it assigns.
    configuration: ByView,
    #[serde(flatten)]
    assignment: AssignmentView,
}

/// What reaches a group.
#[derive(Serialize, ToSchema)]
#[schema(as = Reach)]
pub(super) struct ReachView {
    /// The group.
    group: GroupView,
    /// Assignments that name the group.
    assignments: Vec<ReachingView>,
    /// Assignments to all users or all devices, which include the group's members.
    everyone: Vec<ReachingView>,
    /// Assignments to targets of a type that this version does not know.
    unclear: Vec<ReachingView>,
    /// Whether the caller may read all configurations of the tenant; if not, more may reach the group.
    complete: bool,
}

fn views(all: Vec<ReachingAssignment>, names: &Names) -> Vec<ReachingView> {
    let view = |ReachingAssignment { configuration, assignment, direct }: ReachingAssignment| {
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

/// Returns which of the configurations that the caller may read reach a group.
pub(super) async fn assignments(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    reference: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let reach = gateway.reach(&caller, &reference).await?;
    let GroupReach { group, of_group, of_everyone, unclear, complete, names } = reach;
    let id = group.to_string();
    Ok(HttpResponse::Ok().json(ReachView {
        group: GroupView { name: names.get(&id).cloned(), id },
        assignments: views(of_group, &names),
        everyone: views(of_everyone, &names),
        unclear: views(unclear, &names),
        complete,
    }))
}
