//! The parts of the file with several entries: `[[issuers]]`, `[[callers]]`, `[catalogue]`.
//!
//! Guarantees: names are unique, every caller names a configured issuer, and no token can match two callers, so that
//! the order of the entries never matters.
//!
//! It deliberately does not check with an issuer or Graph whether the things named here exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use super::{
    CallerRule, Catalogue, CatalogueEntry, Clients, Destination, Issuer, KeySource, callbacks,
    diagnostics::Diagnostics,
    table::Table,
    value::{self, Refusal, duration, spell},
};
use crate::domain::{ConfigurationId, Digest, FilterId, GroupId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
/// A clock that is further off is broken, and expired tokens would be accepted for that long.
const LEEWAY_MAX: Duration = Duration::from_mins(5);

/// Reads `[[issuers]]`.
pub(super) fn issuers(tables: Vec<Table<'_>>, diagnostics: &mut Diagnostics) -> Vec<Issuer> {
    let (mut names, mut values) = (BTreeSet::new(), BTreeSet::new());
    let mut issuers = Vec::new();
    for mut table in tables {
        let name = table.required("name", value::name);
        let value = table.required("issuer", value::filled);
        unique(&mut table, "name", name.as_ref(), &mut names);
        unique(&mut table, "issuer", value.as_ref(), &mut values);
        issuers.extend(issuer(&mut table, name, value));
        diagnostics.close(table);
    }
    issuers
}

fn issuer(table: &mut Table<'_>, name: Option<String>, issuer: Option<String>) -> Option<Issuer> {
    let audiences = table.list("audiences", None, value::filled);
    let algorithms = table.list("algorithms", Some(&["RS256"]), value::algorithm);
    let token_types = table.list("token_types", Some(&["JWT", "at+jwt"]), value::token_type);
    let keys = key_source(table);
    let jwks_ttl = table.setting("jwks_ttl", "1h", duration(MINUTE, DAY));
    let jwks_refresh_min = table.setting("jwks_refresh_min", "30s", duration(SECOND, DAY));
    let leeway = table.setting("leeway", "30s", duration(Duration::ZERO, LEEWAY_MAX));
    if let (Some(ttl), Some(refresh)) = (jwks_ttl, jwks_refresh_min)
        && refresh > ttl
    {
        let what = format!("{} is longer than jwks_ttl ({})", spell(refresh), spell(ttl));
        table.refuse("jwks_refresh_min", &what, Some("lower it, or raise jwks_ttl"));
    }
    Some(Issuer {
        name: name?,
        issuer: issuer?,
        audiences,
        algorithms,
        keys: keys?,
        token_types,
        jwks_ttl: jwks_ttl?,
        jwks_refresh_min: jwks_refresh_min?,
        leeway: leeway?,
    })
}

/// Where the keys are, from `jwks_url` or `metadata_url`.
fn key_source(table: &mut Table<'_>) -> Option<KeySource> {
    let set = table.optional("jwks_url", value::guarded_url).map(KeySource::Set);
    let metadata = table.optional("metadata_url", value::guarded_url).map(KeySource::Metadata);
    match (table.given("jwks_url"), table.given("metadata_url")) {
        (false, false) => table.missing("jwks_url"),
        (true, true) => {
            table.refuse("metadata_url", "given together with jwks_url", Some("give one of the two"));
        }
        (true, false) | (false, true) => {}
    }
    set.or(metadata)
}

/// The parts of the settings that callers and webhooks can refer to.
#[derive(Debug)]
pub(super) struct References<'a> {
    /// The names of issuers.
    pub(super) issuers: BTreeSet<String>,
    /// Client certificates, if clients are asked for them.
    pub(super) clients: Option<&'a Clients>,
    /// The destinations of callbacks.
    pub(super) destinations: &'a [Destination],
    /// How long an operation may wait for approval, and then for Graph, if both are valid.
    pub(super) open_max: Option<(Duration, Duration)>,
}

/// Reads `[[callers]]`.
pub(super) fn callers(
    tables: Vec<Table<'_>>,
    known: &References<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<CallerRule> {
    let mut names = BTreeSet::new();
    let mut callers: Vec<CallerRule> = Vec::new();
    for mut table in tables {
        let name = table.required("name", value::name);
        unique(&mut table, "name", name.as_ref(), &mut names);
        if let Some(caller) = caller(&mut table, name, known) {
            for other in callers.iter().filter(|other| overlap(other, &caller)) {
                let what = format!("callers {:?} and {:?} could both match one token", other.name, caller.name);
                table.object(what, "distinguish them by client_id, or by subject, in both");
            }
            callers.push(caller);
        }
        diagnostics.close(table);
    }
    callers
}

/// The client certificates, one of which must be presented.
pub(super) fn certificates(table: &mut Table<'_>, clients: Option<&Clients>) -> BTreeSet<Digest> {
    // Nobody is asked for a certificate where no list is written; one that has become empty must not mean the same.
    let certificates = table.optional_list("certificate_sha256", value::sha256);
    if !certificates.is_empty() && clients.is_none() {
        let hint = "set server.tls.client_ca_file, so that clients are asked for their certificates";
        table.refuse("certificate_sha256", "no client can present a certificate", Some(hint));
    }
    certificates
}

fn caller(table: &mut Table<'_>, name: Option<String>, known: &References<'_>) -> Option<CallerRule> {
    let issuers = &known.issuers;
    let issuer = table.required("issuer", value::name);
    let client_id = table.optional("client_id", value::filled);
    let subject = table.optional("subject", value::filled);
    let required_role = table.optional("required_role", value::filled);
    let certificates = certificates(table, known.clients);
    let calls_max = table.optional_number("calls_max", 1..=1_000_000).and_then(NonZeroU32::new);
    if let Some(issuer) = issuer.as_ref().filter(|issuer| !issuers.contains(*issuer)) {
        let known = issuers.iter().cloned().collect::<Vec<_>>().join(", ");
        let hint = if known.is_empty() { "no [[issuers]] has a name".to_owned() } else { format!("one of {known}") };
        table.refuse("issuer", &format!("no issuer is called {issuer:?}"), Some(&hint));
    }
    if !table.given("client_id") && !table.given("subject") {
        let who = name.as_deref().unwrap_or("without a name");
        let what = format!("caller {who:?} has neither client_id nor subject");
        table.object(what, "every token of the issuer would be this caller: give one of them, or both");
    }
    let callbacks = callbacks::rights(table, known.destinations);
    let (name, issuer) = (name?, issuer?);
    Some(CallerRule { name, issuer, client_id, subject, required_role, certificates, calls_max, callbacks })
}

/// Whether one token could match both rules. Roles do not distinguish rules, because a token can have all of them. A
/// rule that matches everything, or has the same name as another, already has its own fault.
fn overlap(a: &CallerRule, b: &CallerRule) -> bool {
    let agree = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    let narrow = |rule: &CallerRule| rule.client_id.is_some() || rule.subject.is_some();
    let apart = a.name == b.name || a.issuer != b.issuer || !narrow(a) || !narrow(b);
    !apart && agree(&a.client_id, &b.client_id) && agree(&a.subject, &b.subject)
}

/// The tables of `[catalogue]`: one per configuration, by alias, one for groups and one for filters.
#[derive(Debug, Default)]
pub(super) struct CatalogueTables<'p> {
    pub(super) configurations: Vec<(String, Table<'p>)>,
    pub(super) groups: Option<Table<'p>>,
    pub(super) filters: Option<Table<'p>>,
}

/// Reads `[catalogue]`.
pub(super) fn catalogue(tables: CatalogueTables<'_>, diagnostics: &mut Diagnostics) -> Catalogue {
    let mut configurations = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (alias, mut table) in tables.configurations {
        let id = table.required("id", value::parsed::<ConfigurationId>);
        let tags = table.list("tags", Some(&[]), value::filled);
        // Two entries would give one configuration two sets of tags, and policy would see whichever was asked for.
        unique(&mut table, "id", id.as_ref(), &mut ids);
        if let Err(refusal) = alias_of(&alias) {
            table.object(format!("catalogue: {}", refusal.what), refusal.hint.as_deref().unwrap_or_default());
        }
        configurations.extend(id.map(|id| (alias, CatalogueEntry { id, tags })));
        diagnostics.close(table);
    }
    let groups = tables.groups.map(|table| aliases::<GroupId>(table, diagnostics)).unwrap_or_default();
    let filters = tables.filters.map(|table| aliases::<FilterId>(table, diagnostics)).unwrap_or_default();
    Catalogue { configurations, groups, filters }
}

fn aliases<T>(mut table: Table<'_>, diagnostics: &mut Diagnostics) -> BTreeMap<String, T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let ids = table.entries(|alias, text| {
        alias_of(alias)?;
        value::parsed::<T>(text)
    });
    diagnostics.close(table);
    ids
}

/// Refuses an alias that is an id, because it could hide the object with that id.
fn alias_of(alias: &str) -> Result<(), Refusal> {
    let refused = alias.parse::<ConfigurationId>().is_ok() || value::application(alias).is_ok();
    match value::filled(alias) {
        Ok(_) if !refused => Ok(()),
        _ => Err(Refusal::new(format!("{alias:?} cannot be an alias"))
            .hint("an alias must be a name, not an id, and not empty")),
    }
}

/// Refuses a value that an earlier entry already has.
pub(super) fn unique<T: Ord + Clone>(
    table: &mut Table<'_>,
    key: &'static str,
    value: Option<&T>,
    seen: &mut BTreeSet<T>,
) {
    if let Some(value) = value
        && !seen.insert(value.clone())
    {
        table.refuse(key, "an earlier entry has the same value", Some("it must be unique"));
    }
}
