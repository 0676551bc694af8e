//! What policies would decide about a change, target by target: `postern check --explain`.
//!
//! Policies are evaluated as the gateway does it, but Graph is not called: configurations and groups come from the catalogue,
//! with their aliases as names; what the catalogue does not contain (kind, priority) is given on the command line or assumed,
//! and is printed. Guarantees: the same files and arguments give the same text, except for the time if none is given.
//!
//! It deliberately does not say whether Graph would accept the change; `POST /v1/plan` does. Called by `cli`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::Args;
use jiff::Timestamp;

use crate::{
    api,
    clock::Clock,
    config::{Catalogue, Config, Fault},
    domain::{
        Caller, Change, Configuration, DesiredAssignment, Filter, Kind, Role, Target,
        change::{self, List},
        operation::{Submission, Until},
    },
    gateway::request::{self, ChangeRequest, NamedTarget, RequestedChange, TargetRef, pointer},
    policy::{KnownNames, Policies, Resource, Verdict},
    webhooks,
};

/// Who would request the change that is explained, when, and what its configuration is.
#[derive(Args, Debug)]
pub(super) struct ExplainOptions {
    /// The caller who would request the change; by default every caller.
    #[arg(long, value_name = "NAME", requires = "explain")]
    caller: Option<String>,
    /// A role in the caller's token; repeat the option for several roles.
    #[arg(long = "role", value_name = "ROLE", requires = "explain")]
    roles: Vec<String>,
    /// The kind of the configuration, which the catalogue does not contain.
    #[arg(long, value_name = "KIND", requires = "explain", default_value = "unknown", value_parser = kind)]
    kind: Kind,
    /// The priority of the configuration.
    #[arg(long, value_name = "NUMBER", requires = "explain", default_value_t = 1)]
    priority: i64,
    /// When the change would be requested; by default now.
    #[arg(long, value_name = "TIME", requires = "explain")]
    at: Option<Timestamp>,
}

/// A kind, by its name.
fn kind(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| format!("it must be one of {}", Kind::names().collect::<Vec<_>>().join(", ")))
}

/// What would be decided.
#[derive(Clone, Debug)]
struct Explanation {
    /// For a person, line by line.
    text: String,
    /// Whether the change would be accepted, at once or after approval.
    accepted: bool,
}

/// Warns about names in policies that the settings do not have.
pub(super) fn warn(config: &Config, policies: &Policies) -> io::Result<()> {
    let sources = config.webhooks.iter().map(|webhook| webhooks::issuer(&webhook.source));
    let known = KnownNames {
        callers: callers(config).into_iter().map(|caller| caller.name).collect(),
        issuers: config.issuers.iter().map(|issuer| issuer.name.clone()).chain(sources).collect(),
        tags: config.catalogue.configurations.values().flat_map(|it| it.tags.iter().cloned()).collect(),
    };
    policies.unknown(&known).iter().try_for_each(|unknown| writeln!(io::stderr(), "warning: {unknown}"))
}

/// A configuration and the change to it.
struct ResolvedRequest {
    configuration: Configuration,
    tags: BTreeSet<String>,
    change: Change,
    names: BTreeMap<String, String>,
    request: ChangeRequest,
}

/// Explains the change in a file; the exit code says whether it would be accepted.
pub(super) fn run(
    config: &Config,
    policies: &Policies,
    file: &Path,
    asked: &ExplainOptions,
) -> anyhow::Result<ExitCode> {
    match explain(config, policies, file, asked) {
        Ok(Explanation { text, accepted }) => {
            super::print(&text)?;
            Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(faults) => super::print_faults(&faults),
    }
}

/// Explains the change in a file, which contains the body of `POST /v1/assignments`.
fn explain(
    config: &Config,
    policies: &Policies,
    file: &Path,
    asked: &ExplainOptions,
) -> Result<Explanation, Vec<Fault>> {
    let place = file.display().to_string();
    let fault = |what: String| Fault { place: place.clone(), line: None, what, hint: None };
    let askers = callers_to_explain(config, asked).map_err(|what| vec![fault(what)])?;
    let body = std::fs::read(file).map_err(|error| vec![fault(format!("cannot be read: {error}"))])?;
    let in_body = |faults: Vec<request::Fault>| {
        let told = |request::Fault { pointer, detail }| {
            // An empty pointer means the whole body.
            fault(if pointer.is_empty() { detail } else { format!("{pointer:?}: {detail}") })
        };
        faults.into_iter().map(told).collect::<Vec<_>>()
    };
    let request = api::read_change(&body).map_err(in_body)?;
    let at = asked.at.unwrap_or_else(|| Clock::system().now());
    if let Some(why) = request.until.and_then(|until| Until::refused(until, at)) {
        return Err(in_body(vec![request::Fault { pointer: "/until".to_owned(), detail: why.to_owned() }]));
    }
    let meant = resolve(config, request, asked).map_err(in_body)?;
    let ResolvedRequest { configuration, tags, change, names, request } = meant;
    let mut submission = Submission {
        configuration: configuration.id.clone(),
        configuration_name: configuration.name.clone(),
        change,
        names,
        caller: String::new(),
        ticket: request.ticket,
        requested_for: request.requested_for,
        comment: request.comment,
        accepted_at: at,
        only_on: request.only_on,
        until: request.until.map(|at| Until { at, policies: Vec::new() }),
        approval: None,
        callback: None,
        traceparent: None,
    };
    let resource = Resource { configuration: &configuration, tags: &tags };
    let not_assignable = not_assignable(&configuration, &submission.change);
    let mut all = Explanation { text: String::new(), accepted: false };
    let mut may_lack_roles = false;
    for caller in askers {
        submission.caller.clone_from(&caller.name);
        let verdicts = policies.explain(&caller, resource, &submission).map_err(|why| vec![fault(why)])?;
        may_lack_roles |= asked.roles.is_empty()
            && by_token(config, &caller)
            && verdicts.iter().any(|verdict| verdict.decision.is_err());
        let Explanation { text, accepted } = render(&caller, resource, &submission, &verdicts, &not_assignable);
        let apart = if all.text.is_empty() { "" } else { "\n\n" };
        all = Explanation { text: all.text + apart + &text, accepted: all.accepted || accepted };
    }
    if may_lack_roles {
        all.text.push_str(NO_ROLES);
    }
    Ok(all)
}

/// Why a caller may be refused here whom the gateway permits.
const NO_ROLES: &str = "\n\nnote: roles come from tokens, and none was given: repeat with --role ROLE";

/// The callers in the settings, each name once per issuer or source.
fn callers(config: &Config) -> Vec<Caller> {
    let caller = |name: &str, issuer: String, roles: Vec<Role>| Caller {
        name: name.to_owned(),
        issuer,
        subject: String::new(),
        token_id: None,
        certificate: None,
        roles,
    };
    let mut known: Vec<Caller> = Vec::new();
    let proven = config.callers.iter().map(|rule| {
        // A token without this role does not belong to the caller.
        let roles = rule.required_role.iter().map(Role::new).collect();
        caller(&rule.name, rule.issuer.clone(), roles)
    });
    let sources = config.webhooks.iter().map(|it| caller(&it.caller, webhooks::issuer(&it.source), it.roles.clone()));
    for caller in proven.chain(sources) {
        if !known.iter().any(|other| (&other.name, &other.issuer) == (&caller.name, &caller.issuer)) {
            known.push(caller);
        }
    }
    known
}

/// The callers to explain the change for, with the given roles.
fn callers_to_explain(
    config: &Config,
    ExplainOptions { caller, roles, .. }: &ExplainOptions,
) -> Result<Vec<Caller>, String> {
    let known = callers(config);
    let names = known.iter().map(|caller| caller.name.as_str()).collect::<BTreeSet<_>>();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let mut askers: Vec<_> =
        known.into_iter().filter(|it| caller.as_ref().is_none_or(|wanted| *wanted == it.name)).collect();
    if askers.is_empty() {
        return Err(caller.as_ref().map_or("the settings have no callers".to_owned(), |wanted| {
            format!("no caller is called {wanted:?}; the callers are {names}")
        }));
    }
    for asker in askers.iter_mut().filter(|asker| by_token(config, asker)) {
        let more = roles.iter().map(Role::new).filter(|role| !asker.roles.contains(role)).collect::<Vec<_>>();
        asker.roles.extend(more);
    }
    Ok(askers)
}

/// Whether a caller authenticates with a token, and has its roles from there. Those of a source are in the settings.
fn by_token(config: &Config, caller: &Caller) -> bool {
    config.callers.iter().any(|rule| rule.issuer == caller.issuer)
}

/// What a request means according to the catalogue alone, or all its faults.
fn resolve(
    config: &Config,
    request: ChangeRequest,
    asked: &ExplainOptions,
) -> Result<ResolvedRequest, Vec<request::Fault>> {
    let catalogue = &config.catalogue;
    let mut faults = Vec::new();
    let reference = &request.configuration;
    let by_id = || catalogue.configurations.iter().find(|(_, it)| it.id.as_str().eq_ignore_ascii_case(reference));
    let found = catalogue.configurations.get_key_value(reference).or_else(by_id);
    if found.is_none() {
        let detail = format!("{reference:?} is not in the catalogue");
        faults.push(request::Fault { pointer: "/configuration".to_owned(), detail });
    }
    let (mut wanted, mut unwanted, mut names) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (list, index, named) in request.change.targets() {
        match target(catalogue, named, &mut names) {
            Ok(one) if list == List::Remove => unwanted.push(one.target),
            Ok(one) => wanted.push(one),
            Err(detail) => faults.push(request::Fault { pointer: pointer(list, index), detail }),
        }
    }
    let Some((alias, catalogued)) = found.filter(|_| faults.is_empty()) else { return Err(faults) };
    let allowed = config.operations.targets_max;
    let change = match request.change {
        RequestedChange::Amend { .. } => Change::amend(wanted, unwanted, allowed),
        RequestedChange::Replace(_) => Change::replace(wanted, allowed),
    };
    let told = |fault: change::Fault| request::Fault { pointer: String::new(), detail: fault.to_string() };
    let change = change.map_err(|faults| faults.into_iter().map(told).collect::<Vec<_>>())?;
    let (id, name) = (catalogued.id.clone(), alias.clone());
    let configuration = Configuration { id, name, kind: asked.kind, priority: asked.priority };
    Ok(ResolvedRequest { configuration, tags: catalogued.tags.clone(), change, names, request })
}

fn target(
    catalogue: &Catalogue,
    named: &NamedTarget,
    called: &mut BTreeMap<String, String>,
) -> Result<DesiredAssignment, String> {
    let mut group = |reference: &String| {
        let known = catalogue.groups.get(reference).copied();
        let id = known.or_else(|| reference.parse().ok());
        let id = id.ok_or_else(|| format!("group {reference:?} is not in the catalogue and is not an id"))?;
        if let Some((alias, _)) = catalogue.groups.iter().find(|(_, other)| **other == id) {
            called.insert(id.to_string(), alias.clone());
        }
        Ok::<_, String>(id)
    };
    let target = match &named.target {
        TargetRef::Group(reference) => Target::Group(group(reference)?),
        TargetRef::ExcludedGroup(reference) => Target::ExcludedGroup(group(reference)?),
        TargetRef::AllDevices => Target::AllDevices,
        TargetRef::AllUsers => Target::AllUsers,
    };
    let filter = named.filter.as_ref().map(|filter| {
        let known = catalogue.filters.get(&filter.reference).copied();
        let id = known.or_else(|| filter.reference.parse().ok());
        let id = id.ok_or_else(|| format!("filter {:?} is not in the catalogue and is not an id", filter.reference))?;
        Ok::<_, String>(Filter { id, mode: filter.mode })
    });
    Ok(DesiredAssignment { target, filter: filter.transpose()? })
}

/// What the configuration does not accept, whatever policies say. If its kind is unknown, only what no kind accepts.
fn not_assignable(configuration: &Configuration, change: &Change) -> Vec<String> {
    if configuration.is_default() {
        return vec!["the assignments of a default configuration cannot be changed".to_owned()];
    }
    let known = configuration.kind != Kind::Unknown;
    let looked_at = change.wanted().iter().filter(|it| known || matches!(it.target, Target::ExcludedGroup(_)));
    looked_at.filter_map(|wanted| configuration.kind.check_accepts(wanted).err()).collect()
}

fn render(
    caller: &Caller,
    resource: Resource<'_>,
    submission: &Submission,
    verdicts: &[Verdict],
    not_assignable: &[String],
) -> Explanation {
    let none = |listed: String| if listed.is_empty() { "none".to_owned() } else { listed };
    let roles = none(caller.roles.iter().map(Role::as_str).collect::<Vec<_>>().join(", "));
    let tags = none(resource.tags.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    let Configuration { name, kind, priority, .. } = resource.configuration;
    let mut text = format!(
        "caller {} (issuer: {}, roles: {roles}), configuration {name:?} (kind: {}, priority: {priority}, tags: {tags}), ticket {}, at {}\n",
        caller.name,
        caller.issuer,
        kind.name(),
        submission.ticket.as_deref().unwrap_or("none"),
        submission.accepted_at,
    );
    let mut approvals = BTreeSet::new();
    for Verdict { action, target, decision } in verdicts {
        let mut line = (*action).to_owned();
        if let Some(target) = target {
            let id =
                if let Target::Group(id) | Target::ExcludedGroup(id) = target { id.to_string() } else { String::new() };
            let name = submission.names.get(&id).map(|name| format!(" {name:?}")).unwrap_or_default();
            line = format!("{line} {target}{name}");
        }
        let said = match decision {
            Ok(allowed) => {
                approvals.extend(allowed.approvals.iter().cloned());
                let by = allowed.policies.iter().cloned().collect::<Vec<_>>().join(", ");
                let asks = allowed.approvals.iter().cloned().collect::<Vec<_>>().join(", ");
                let asks = if asks.is_empty() { asks } else { format!(", with approval: {asks}") };
                format!("permitted by {by}{asks}")
            }
            Err(reason) => reason.to_string(),
        };
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{line}: {said}");
    }
    for why in not_assignable {
        let _written = writeln!(text, "not assignable: {why}");
    }
    let permitted = !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.decision.is_ok());
    let accepted = permitted && not_assignable.is_empty();
    let approvals = approvals.into_iter().collect::<Vec<_>>().join(", ");
    if !accepted {
        text.push_str("the change would be refused");
        return Explanation { text, accepted };
    }
    text.push_str("the change would be accepted");
    if !approvals.is_empty() {
        let _written = write!(text, " and wait for approval ({approvals})");
    }
    // Only Graph knows the rest.
    text.push_str(", if configuration, groups and filters exist");
    if *kind == Kind::Unknown && !submission.change.wanted().is_empty() {
        text.push_str(" and the configuration's kind accepts the targets (--kind)");
    }
    Explanation { text, accepted }
}
