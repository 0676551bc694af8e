//! The folder of policies: read, parsed and validated, with all faults at once.
//!
//! Guarantees: what is returned passed Cedar's strict validation without a warning (a policy that can never apply causes
//! one, and a `forbid` that never applies protects nobody), and each policy is named by its own `@id`, which is the name
//! that refusals and audit records show. Each fault has its file and, where there is one, its line.
//!
//! It deliberately does not watch the folder. Called by `policy`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use crate::config::Fault;

/// A file that was read.
struct Source {
    place: String,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self, Fault> {
        let place = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self { place, text }),
            Err(error) => Err(unreadable(place, &error)),
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
    }

    fn fault(&self, offset: Option<usize>, what: impl Into<String>, hint: Option<&str>) -> Fault {
        let line = offset.map(|offset| self.line(offset));
        Fault { place: self.place.clone(), line, what: what.into(), hint: hint.map(str::to_owned) }
    }

    /// A fault that Cedar reports, at the first place to which it points.
    fn complaint(&self, complaint: &dyn Diagnostic) -> Fault {
        let label = complaint.labels().and_then(|mut labels| labels.next());
        let mut what = complaint.to_string();
        if let Some(text) = label.as_ref().and_then(|label| label.label()) {
            what = format!("{what}: {text}");
        }
        let hint = complaint.help().map(|help| help.to_string());
        let hint = hint.or_else(|| {
            Some(
                "a policy looks like this: @id(\"name\") permit (principal, action, resource) when { ... };".to_owned(),
            )
        });
        self.fault(label.map(|label| label.offset()), what, hint.as_deref())
    }
}

/// A policy and where it is.
struct Found<'a> {
    policy: Policy,
    source: &'a Source,
    offset: Option<usize>,
}

pub(super) fn schema_path(dir: &Path) -> PathBuf {
    dir.join("schema.cedarschema")
}

/// The contents of a folder.
pub(super) struct Loaded {
    pub(super) schema: Schema,
    pub(super) set: PolicySet,
    /// The file and the line in which each policy begins.
    pub(super) places: BTreeMap<PolicyId, (String, Option<usize>)>,
    /// The approvals that policies require.
    pub(super) approvals: BTreeMap<PolicyId, String>,
}

/// The schema and the policies of a folder.
pub(super) fn load(dir: &Path) -> Result<Loaded, Vec<Fault>> {
    let mut faults = Vec::new();
    let schema = keep(schema(dir), &mut faults);
    let sources: Vec<_> = match names(dir) {
        Ok(paths) => paths.iter().filter_map(|path| keep(Source::read(path), &mut faults)).collect(),
        Err(error) => return Err(vec![unreadable(dir.display().to_string(), &error)]),
    };
    let found: Vec<_> = sources.iter().flat_map(|source| parse(source, &mut faults)).collect();
    if found.is_empty() && faults.is_empty() {
        let hint = Some("without a policy everything is denied: write at least one *.cedar file".to_owned());
        let place = dir.display().to_string();
        faults.push(Fault { place, line: None, what: "there is no policy".to_owned(), hint });
    }
    let (set, places) = named(found, &mut faults);
    if let Some(schema) = &schema {
        faults.extend(validate(schema, &set, &places));
    }
    // Cedar reports a fault once for each action, in any order.
    faults.sort_by(|a, b| (&a.place, a.line, &a.what).cmp(&(&b.place, b.line, &b.what)));
    faults.dedup();
    match schema {
        Some(schema) if faults.is_empty() => {
            let place = |(id, (source, offset)): (PolicyId, At<'_>)| {
                (id, (source.place.clone(), offset.map(|offset| source.line(offset))))
            };
            let approval = |policy: &Policy| Some((policy.id().clone(), policy.annotation("approval")?.to_owned()));
            let approvals = set.policies().filter_map(approval).collect();
            Ok(Loaded { schema, set, places: places.into_iter().map(place).collect(), approvals })
        }
        _ => Err(faults),
    }
}

fn keep<T>(result: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn unreadable(place: String, error: &io::Error) -> Fault {
    let hint = Some("check policy.dir and the permissions of its files".to_owned());
    Fault { place, line: None, what: format!("cannot be read: {error}"), hint }
}

/// The policy files, sorted by name.
fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "cedar"));
    paths.sort_unstable();
    Ok(paths)
}

fn schema(dir: &Path) -> Result<Schema, Fault> {
    let source = Source::read(&schema_path(dir))?;
    match Schema::from_cedarschema_str(&source.text) {
        Ok((schema, _warnings)) => Ok(schema),
        Err(error) => Err(source.complaint(&error)),
    }
}

fn parse<'a>(source: &'a Source, faults: &mut Vec<Fault>) -> Vec<Found<'a>> {
    let set: PolicySet = match source.text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            faults.extend(errors.iter().map(|error| source.complaint(error)));
            return Vec::new();
        }
    };
    for template in set.templates() {
        let offset = template.as_ref().loc().map(|place| place.span.offset());
        let hint = Some("name the principal or resource instead of ?principal or ?resource");
        faults.push(source.fault(offset, "this is a template; templates are never linked, so it has no effect", hint));
    }
    let found = |policy: &Policy| {
        let offset = policy.as_ref().loc().map(|place| place.span.offset());
        Found { policy: policy.clone(), source, offset }
    };
    let mut policies: Vec<_> = set.policies().map(found).collect();
    policies.sort_by_key(|found| found.offset);
    policies
}

/// Where a policy is.
type At<'a> = (&'a Source, Option<usize>);

/// The policies by their `@id`, and where each is. Those without an id of their own are numbered, so that they are
/// validated all the same.
fn named<'a>(found: Vec<Found<'a>>, faults: &mut Vec<Fault>) -> (PolicySet, BTreeMap<PolicyId, At<'a>>) {
    let (mut set, mut places) = (PolicySet::new(), BTreeMap::<PolicyId, At<'_>>::new());
    for (number, Found { policy, source, offset }) in found.into_iter().enumerate() {
        if let Some(approval) = policy.annotation("approval")
            && (approval.trim().is_empty() || policy.effect() == Effect::Forbid)
        {
            let what = "@approval must have a name and stand before a permit";
            faults.push(source.fault(offset, what, Some("write @approval(\"security\") before the permit")));
        }
        let wanted = policy.annotation("id").filter(|id| !id.is_empty()).map(PolicyId::new);
        let first = wanted.as_ref().and_then(|id| places.get(id));
        let id = match (&wanted, first) {
            (Some(id), None) => id.clone(),
            (Some(id), Some(first)) => {
                let hint = format!("each policy needs an @id of its own; the first one is in {}", first.0.place);
                faults.push(source.fault(offset, format!("another policy has the same @id {id}"), Some(&hint)));
                PolicyId::new(format!("{id} #{number}"))
            }
            (None, _) => {
                let hint = Some("write @id(\"...\") before it: refusals and audit records show it");
                faults.push(source.fault(offset, "this policy has no @id", hint));
                PolicyId::new(format!("#{number}"))
            }
        };
        match set.add(policy.new_id(id.clone())) {
            Ok(()) => drop(places.insert(id, (source, offset))),
            Err(error) => faults.push(source.fault(offset, error.to_string(), None)),
        }
    }
    (set, places)
}

fn validate(schema: &Schema, set: &PolicySet, places: &BTreeMap<PolicyId, At<'_>>) -> Vec<Fault> {
    let result = Validator::new(schema.clone()).validate(set, ValidationMode::Strict);
    let errors = result.validation_errors().map(|error| (error.policy_id(), as_diagnostic(error)));
    let warnings = result.validation_warnings().map(|warning| (warning.policy_id(), as_diagnostic(warning)));
    let complaints = errors.chain(warnings);
    complaints.filter_map(|(id, complaint)| Some(places.get(id)?.0.complaint(complaint))).collect()
}

fn as_diagnostic(complaint: &impl Diagnostic) -> &dyn Diagnostic {
    complaint
}
