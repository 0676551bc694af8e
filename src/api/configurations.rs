//! `GET /v1/configurations` and `GET /v1/configurations/{ref}/assignments`.

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderMap, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    extract::{self, AuthenticatedCaller},
    openapi::schemas,
    operations::header,
    problem::{Code, Problem},
    query,
    view::{ConfigurationView, Names, TargetView},
};
use crate::{
    domain::{Assignment, Configuration, Digest},
    gateway::{ConfigurationAssignments, ConfigurationList, TaggedConfiguration, request::Fault},
};

/// The longest search, in characters; no name is longer.
pub(super) const SEARCH_MAX: usize = 256;

/// A configuration in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = Configuration)]
struct ListedView {
    /// Its id in Graph.
    id: String,
    /// Its display name.
    name: String,
    /// Its kind.
    #[schema(value_type = schemas::Kind)]
    kind: &'static str,
    /// Its priority among those of its kind.
    priority: i64,
    /// Its tags in the catalogue.
    tags: Vec<String>,
    /// Whether it is the default of its kind, whose assignments cannot be changed.
    default: bool,
    /// What its kind can be assigned to.
    #[schema(value_type = Vec<schemas::Taken>)]
    takes: Vec<&'static str>,
}

/// Configurations, by kind and priority.
#[derive(Serialize, ToSchema)]
#[schema(as = ConfigurationList)]
pub(super) struct ManyView {
    /// The configurations that the caller may read.
    configurations: Vec<ListedView>,
    /// Whether there are more than are listed.
    more: bool,
}

impl ListedView {
    fn of(TaggedConfiguration { configuration, tags }: TaggedConfiguration) -> Self {
        let default = configuration.is_default();
        let Configuration { id, name, kind, priority } = configuration;
        // A default is never assigned, whatever its kind accepts.
        let takes = kind.accepted_targets().filter(|_| !default).collect();
        let (id, kind, tags) = (id.to_string(), kind.name(), tags.into_iter().collect());
        Self { id, name, kind, priority, tags, default, takes }
    }
}

/// Returns the configurations that the caller may read.
pub(super) async fn many(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let search = search(request.query_string())
        .map_err(|faults| Problem::with_errors(Code::InvalidQuery, "The query is not valid", faults))?;
    let ConfigurationList { configurations, more } = gateway.configurations(&caller, search.as_deref()).await?;
    let configurations = configurations.into_iter().map(ListedView::of).collect();
    Ok(HttpResponse::Ok().json(ManyView { configurations, more }))
}

/// Reads the query of a list; all its faults at once.
pub(super) fn search(query: &str) -> Result<Option<String>, Vec<Fault>> {
    let mut search = None;
    query::read(query, |key, value| match key {
        "search" if value.chars().count() > SEARCH_MAX => Err(format!("is longer than {SEARCH_MAX} characters")),
        "search" => query::once(&mut search, value),
        _ => Err("is not a known parameter; known: search".to_owned()),
    })?;
    Ok(search)
}

/// An assignment, in the same form as in a change, and where it comes from.
#[derive(Serialize, ToSchema)]
#[schema(as = Assignment)]
pub(super) struct AssignmentView {
    #[serde(flatten)]
    target: TargetView,
    /// Whether it is direct, so that changes can affect it, or comes from a policy set.
    #[schema(value_type = schemas::Source)]
    source: &'static str,
}

impl AssignmentView {
    /// One that a change can affect.
    pub(super) fn direct(assignment: &Assignment, names: &Names) -> Self {
        Self::of(assignment, names, "direct")
    }

    /// One that is shown only.
    pub(super) fn from_policy_set(assignment: &Assignment, names: &Names) -> Self {
        Self::of(assignment, names, "policy-set")
    }

    fn of(Assignment { target, filter, .. }: &Assignment, names: &Names, source: &'static str) -> Self {
        Self { target: TargetView::of(target, *filter, names), source }
    }
}

/// The present assignments of a configuration.
#[derive(Serialize, ToSchema)]
#[schema(as = Assigned)]
pub(super) struct AssignedView {
    /// The configuration.
    configuration: ConfigurationView,
    /// Digest of the direct assignments: the first part of the `ETag`. In quotes, `If-Match` takes it, too.
    digest: String,
    /// All assignments, the direct ones first.
    assignments: Vec<AssignmentView>,
}

/// Returns the present assignments of a configuration, or 304 if the caller knows them already.
pub(super) async fn assignments(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    reference: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let ConfigurationAssignments { configuration, direct, from_policy_sets, names } =
        gateway.assigned(&caller, &reference).await?;
    let digest = direct.digest();
    let ours = direct.iter().map(|assignment| AssignmentView::direct(assignment, &names));
    let theirs = from_policy_sets.iter().map(|assignment| AssignmentView::from_policy_set(assignment, &names));
    let view = AssignedView {
        configuration: ConfigurationView { id: configuration.id.to_string(), name: configuration.name },
        digest: digest.to_string(),
        assignments: ours.chain(theirs).collect(),
    };
    // The set comes first, since a change is bound to that only. The rest covers what else is shown: names, policy sets.
    let shown = Digest::of(&serde_json::to_vec(&view).unwrap_or_default());
    let tag = format!("\"{digest}.{shown}\"");
    let mut response = if knows(request.headers(), &tag) {
        HttpResponse::NotModified().finish()
    } else {
        HttpResponse::Ok().json(view)
    };
    header(response.headers_mut(), "etag", &tag);
    header(response.headers_mut(), "cache-control", "private, no-cache");
    Ok(response)
}

/// Whether `If-None-Match` names this tag (RFC 9110: compared weakly, `*` matches any).
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let named = headers.get_all("if-none-match").filter_map(|value| value.to_str().ok());
    let mut named = named.flat_map(|value| value.split(',')).map(str::trim);
    named.any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named) == tag)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_tag_is_known_in_every_form_in_which_it_may_be_sent() {
        let known = |value: &str| {
            let request = TestRequest::default().insert_header(("if-none-match", value)).to_http_request();
            knows(request.headers(), "\"ab\"")
        };
        for value in ["\"ab\"", "W/\"ab\"", "\"x\", \"ab\"", "*", "\"x\",W/\"ab\""] {
            assert!(known(value), "{value}");
        }
        for value in ["ab", "\"a\"", "\"abc\"", "", "W/ab", "\"x\" \"ab\""] {
            assert!(!known(value), "{value}");
        }
    }

    #[test]
    fn a_search_is_read_and_its_faults_are_told_at_once() {
        assert_eq!(search("").unwrap(), None);
        assert_eq!(search("search=a%26b+c").unwrap().as_deref(), Some("a&b c"));
        let long = format!("search={}&sort=up&search=a&search=b", "x".repeat(257));
        let faults = search(&long).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/search", "/sort", "/search"]);
    }
}
