//! The calls to Microsoft Graph: read configurations, their assignments, groups and filters; replace an assignment set.
//!
//! Guarantees: a read is complete to its last page or it is an error; a replacement posts the whole set, one entry per
//! target, each with everything that Graph returned in it. Errors are classified by what can be done about them, above
//! all [`Error::Unknown`]: a write whose answer was lost, and whose effect only reading back can show.
//!
//! It deliberately merges nothing and retries no write whose effect is unknown; the executor does. Only this module holds
//! Graph's token.

mod assertion;
mod certificate;
mod credential;
mod expiry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod live;
mod model;
mod pace;
mod permission;
mod reason;
mod token;
mod token_error;
mod transport;

use std::{fmt, time::Duration};

use async_trait::async_trait;

pub(crate) use self::model::kind_of;
pub use self::{
    expiry::watch,
    live::Trial,
    permission::{FILTERS as FILTERS_PERMISSION, GROUPS as GROUPS_PERMISSION, Permission},
    reason::Reason,
    token::Tokens,
};
use self::{model::Page, transport::Transport};
use crate::{
    clock::Clock,
    config::{self, Credential, Fault, Proof},
    domain::{
        Assignment, AssignmentSet, Configuration, ConfigurationId, Failure, FailureCode, FilterId, GroupId,
        ids::ApiVersion, operation::GraphAnswer,
    },
    outbound::{Outbound, Response},
};

/// The most groups looked up in one call; Graph takes no more values in one `in` of a filter.
pub const GROUPS_MAX: usize = 15;
/// The most pages of one collection: far beyond any real set, so that a server that never ends cannot block a lane for ever.
const PAGES_MAX: usize = 200;

/// Why Graph did not do what was requested, by what can be done about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Too many calls: retry after this pause. Nothing was changed.
    #[error("Graph is throttling, or the gateway's own limits for it are reached; the next call is possible in {} s", pause.as_secs_f64())]
    Throttled {
        /// How long to leave the tenant alone.
        pause: Duration,
    },
    /// No useful answer: retry later. Nothing was changed.
    #[error("Graph is unavailable: {0}")]
    Unavailable(String),
    /// A write's answer was lost: read back before anything else.
    #[error("the answer to a write was lost: {0}")]
    Unknown(String),
    /// The gateway's own credential or token is not accepted: its operators must act.
    #[error("the gateway is not authorised: {0}")]
    Unauthorised(String),
    /// The gateway may not do this, whatever the content.
    #[error("{0}")]
    Forbidden(Refusal),
    /// The object does not exist.
    #[error("{0}")]
    Missing(Refusal),
    /// Graph refuses the content.
    #[error("{0}")]
    Refused(Refusal),
    /// Graph's answer cannot be relied on.
    #[error("Graph's answer cannot be used: {0}")]
    Unreadable(String),
}

/// A refusal in Graph's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The HTTP status; 0 if Graph was not called at all.
    pub status: u16,
    /// Graph's code.
    pub code: String,
    /// Graph's message, unwrapped.
    pub message: String,
    /// Graph's id of the call.
    pub request_id: Option<String>,
    /// Our id of the call.
    pub client_request_id: Option<String>,
    /// What is known beyond these words.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message, .. } = self;
        match (status, code.as_str(), message.as_str()) {
            (0, _, message) => f.write_str(message),
            (status, "", "") => write!(f, "Graph answered {status} and gave no reason"),
            (status, code, "") => write!(f, "Graph answered {status} {code} and gave no reason"),
            (status, "", message) => write!(f, "Graph answered {status}: {message}"),
            (status, code, message) => write!(f, "Graph answered {status} {code}: {message}"),
        }
    }
}

impl Refusal {
    /// The failure of an operation that this refusal ends: our sentence if there is one, with Graph's words beside it.
    pub fn failure(self, otherwise: FailureCode) -> Failure {
        let detail = self.reason.sentence().unwrap_or_else(|| self.to_string());
        let code = self.reason.failure(otherwise);
        let Self { status, code: graphs, message, request_id, client_request_id, .. } = self;
        let answer = GraphAnswer { status, code: graphs, message, request_id, client_request_id };
        Failure { code, detail, graph: (status != 0).then_some(answer) }
    }
}

/// What is assigned at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentAssignments {
    /// The direct assignments: what a change can change.
    pub direct: AssignmentSet,
    /// Those that come from policy sets; they are not ours to post.
    pub from_policy_sets: Vec<Assignment>,
}

/// A group as Entra describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its object id.
    pub id: GroupId,
    /// Its display name, which need not be unique.
    pub name: String,
    /// Whether it is mail-enabled and not security-enabled, so that Intune may not accept it as a target.
    pub mail_only: bool,
}

/// An assignment filter as Intune describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentFilter {
    /// Its id.
    pub id: FilterId,
    /// Its display name.
    pub name: String,
}

/// Confirmation of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Graph's id of the call.
    pub request_id: Option<String>,
}

/// Permission to send one announced write.
#[derive(Clone, Debug)]
pub struct WriteGrant {
    /// Our id of the call.
    pub client_request_id: String,
    /// By [`Clock::elapsed`]: a call that could last beyond this is not sent. As Graph has no precondition, this is what
    /// keeps an owner that was suspended from writing after another has taken over.
    pub until: Duration,
}

/// What Postern needs from Graph.
#[async_trait]
pub trait Upstream: Send + Sync + fmt::Debug {
    /// One configuration.
    async fn configuration(&self, id: &ConfigurationId) -> Result<Configuration, Error>;

    /// All configurations of the tenant, to the last page.
    async fn configurations(&self) -> Result<Vec<Configuration>, Error>;

    /// Those of these groups that exist, in any order; at most [`GROUPS_MAX`].
    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, Error>;

    /// All groups with this display name, to the last page; Graph ignores case here.
    async fn groups_named(&self, name: &str) -> Result<Vec<Group>, Error>;

    /// A few groups whose display names begin with this.
    async fn groups_beginning(&self, with: &str) -> Result<Vec<Group>, Error>;

    /// All assignment filters of the tenant, to the last page.
    async fn filters(&self) -> Result<Vec<AssignmentFilter>, Error>;

    /// The present assignments of a configuration, to the last page.
    async fn read_assignments(&self, id: &ConfigurationId) -> Result<CurrentAssignments, Error>;

    /// Makes `set` the direct assignments of a configuration, whatever they were.
    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        grant: &WriteGrant,
    ) -> Result<Receipt, Error>;
}

/// Graph itself.
#[derive(Debug)]
pub struct Graph {
    transport: Transport,
}

impl Graph {
    /// Calls to the Graph that these settings name.
    pub fn new(settings: config::Graph, outbound: Outbound, clock: Clock) -> Self {
        Self { transport: Transport::new(settings, outbound, clock) }
    }

    /// Refuses what the version of Graph in use cannot show or keep: a write based on it would lose something.
    fn admit(&self, id: &ConfigurationId, set: Option<&AssignmentSet>) -> Result<(), Error> {
        let version = self.transport.settings().api_version;
        let kind = kind_of(id);
        let filtered = set.is_some_and(|set| set.iter().any(|assignment| assignment.filter.is_some()));
        let what = match version {
            _ if !kind.is_in(version) => format!("does not know configurations of the kind {}", kind.name()),
            ApiVersion::V1 if filtered => "does not keep assignment filters".to_owned(),
            ApiVersion::V1 | ApiVersion::Beta => return Ok(()),
        };
        Err(beyond(version, &what))
    }

    /// All rows of a collection, page by page.
    async fn all<T>(&self, path: &str, by: &'static Permission, read: Reader<T>) -> Result<Vec<T>, Error> {
        self.all_from(self.transport.read(path, by).await?, path, by, read).await
    }

    /// All rows of a collection whose first page is `answer`.
    async fn all_from<T>(
        &self,
        mut answer: Response,
        path: &str,
        by: &'static Permission,
        read: Reader<T>,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = read(&answer.body)?;
            rows.extend(page.value);
            match page.next {
                None => return Ok(rows),
                Some(next) => answer = self.transport.read_next(&next, by).await?,
            }
        }
        let what = path.split('?').next().unwrap_or_default();
        Err(Error::Unreadable(format!("{what} has more than {PAGES_MAX} pages")))
    }
}

/// Reads a page into rows.
type Reader<T> = fn(&[u8]) -> Result<Page<T>, Error>;

/// The refusal of something that a version of Graph cannot do.
fn beyond(version: ApiVersion, what: &str) -> Error {
    let message = format!("{} of Graph {what}; set graph.api_version to \"beta\"", version.name());
    Error::Refused(Refusal { message, ..Refusal::default() })
}

/// Whether the files of the gateway's own certificate can be read; true if it has none.
pub fn readable(settings: &config::Graph) -> bool {
    let Credential::Application { proof: Proof::Certificate(files), .. } = &settings.credential else { return true };
    files.certificate.read().is_ok() && files.key.read().is_ok()
}

/// What is wrong with the files of the gateway's own certificate, if it has one.
pub fn examine(settings: &config::Graph) -> Option<Fault> {
    let Credential::Application { proof: Proof::Certificate(files), .. } = &settings.credential else { return None };
    let what = certificate::read(files).err()?.to_string();
    let hint = Some("docs/setup-entra.md shows how certificate and key are made".to_owned());
    Some(Fault { place: "graph.credential".to_owned(), line: None, what, hint })
}

const CONFIGURATIONS: &str = "deviceManagement/deviceEnrollmentConfigurations";

const FILTERS: &str = "deviceManagement/assignmentFilters?$select=id,displayName";

/// The fields of groups that are requested.
const GROUP_FIELDS: &str = "id,displayName,securityEnabled,mailEnabled";
/// The most groups returned by the beginning of their names: as many as a person would choose from.
const BEGINNINGS_MAX: &str = "5";
/// The largest page of groups that Graph returns.
const GROUPS_PAGE: &str = "999";

/// The path of the groups that pass a filter, URL-encoded.
fn groups_path(filter: &str, top: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("$filter", filter).append_pair("$select", GROUP_FIELDS);
    if let Some(top) = top {
        query.append_pair("$top", top);
    }
    format!("groups?{}", query.finish())
}

/// A string literal in OData.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[async_trait]
impl Upstream for Graph {
    async fn configuration(&self, id: &ConfigurationId) -> Result<Configuration, Error> {
        self.admit(id, None)?;
        match self.transport.read(&format!("{CONFIGURATIONS}/{id}"), &permission::READING).await {
            Ok(answer) => model::configuration(id, &answer.body),
            // Only the id can be at fault here: Intune has been seen to answer so for what does not exist.
            Err(Error::Refused(refusal)) if refusal.status == 400 && refusal.code == "BadRequest" => {
                Err(Error::Missing(refusal))
            }
            Err(error) => Err(error),
        }
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, Error> {
        self.all(CONFIGURATIONS, &permission::READING, model::configurations).await
    }

    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, Error> {
        let list = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        let path = groups_path(&format!("id in ({list})"), None);
        let page = model::groups(&self.transport.read(&path, &permission::GROUPS).await?.body)?;
        if page.next.is_some() {
            return Err(Error::Unreadable("more groups than were asked for".to_owned()));
        }
        Ok(page.value)
    }

    async fn groups_named(&self, name: &str) -> Result<Vec<Group>, Error> {
        let filter = format!("displayName eq {}", literal(name));
        self.all(&groups_path(&filter, Some(GROUPS_PAGE)), &permission::GROUPS, model::groups).await
    }

    async fn groups_beginning(&self, with: &str) -> Result<Vec<Group>, Error> {
        let filter = format!("startswith(displayName,{})", literal(with));
        let path = groups_path(&filter, Some(BEGINNINGS_MAX));
        Ok(model::groups(&self.transport.read(&path, &permission::GROUPS).await?.body)?.value)
    }

    async fn filters(&self) -> Result<Vec<AssignmentFilter>, Error> {
        match self.transport.settings().api_version {
            ApiVersion::Beta => self.all(FILTERS, &permission::FILTERS, model::filters).await,
            version @ ApiVersion::V1 => Err(beyond(version, "does not know assignment filters")),
        }
    }

    async fn read_assignments(&self, id: &ConfigurationId) -> Result<CurrentAssignments, Error> {
        let path = format!("{CONFIGURATIONS}/{id}/assignments");
        // v1.0 hides filters and does not mark policy sets: writing back what it shows loses the former, doubles the latter.
        let first = self.transport.read_through(ApiVersion::Beta, &path, &permission::READING).await?;
        model::present(self.all_from(first, &path, &permission::READING, model::assignments).await?)
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        grant: &WriteGrant,
    ) -> Result<Receipt, Error> {
        self.admit(id, Some(set))?;
        let body = model::assign_body(set)?;
        let path = format!("{CONFIGURATIONS}/{id}/assign");
        let answer = self.transport.write(&path, body, grant).await?;
        Ok(Receipt { request_id: answer.header("request-id").map(str::to_owned) })
    }
}

/// What tests of several parts need.
#[cfg(test)]
mod fixture {
    use std::{num::NonZeroU32, path::Path, time::Duration};

    use crate::{
        config::{Credential, Graph, Pace, Proof, SecretSource},
        domain::ids::{ApiVersion, Cloud},
    };

    /// Settings with the client secret in this file, for a Graph and a login service that cannot be reached.
    pub(super) fn settings(secret: &Path) -> Graph {
        let (nowhere, many) = ("http://127.0.0.1:1".to_owned(), NonZeroU32::new(1_000).unwrap());
        let proof = Proof::Secret(SecretSource::File(secret.to_path_buf()));
        Graph {
            cloud: Cloud::Sandbox,
            endpoint: nowhere.clone(),
            authority: nowhere,
            scope: "scope".to_owned(),
            api_version: ApiVersion::Beta,
            tenant_id: "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".parse().unwrap(),
            credential: Credential::Application { client_id: "client".to_owned(), proof },
            call_timeout: Duration::from_secs(10),
            attempts_max: 1,
            pace: Pace { writes_max: many, calls_max: many, calls_at_once_max: 4 },
            names_ttl: Duration::ZERO,
        }
    }
}
