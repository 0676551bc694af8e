//! `[callbacks]` and `[[destinations]]`: where callbacks may go, how the gateway authenticates there, and how long
//! delivery is retried.
//!
//! Guarantees: a URL that a caller names is accepted only if it lies under a destination that this caller may use. It
//! is parsed by the same parser that is used for the call; a URL that other parsers could read differently is refused.
//! A destination is called over TLS, unless it is this machine.
//!
//! It deliberately resolves no host names: addresses are checked when the destination is called.

use std::{collections::BTreeSet, time::Duration};

use url::Url;

use super::{
    SecretRef,
    diagnostics::Diagnostics,
    lists::unique,
    table::Table,
    value::{self, Refusal, duration, spell},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
/// Nobody waits longer than this for a ticket to be closed.
const DAYS_30: Duration = Duration::from_hours(24 * 30);
/// The longest URL that a caller may name.
const URL_MAX: usize = 2_048;

/// `callbacks.*`
#[derive(Clone, Debug)]
pub struct Callbacks {
    /// The `source` of messages (CloudEvents).
    pub source: String,
    /// Timeout of one attempt.
    pub timeout: Duration,
    /// Upper bounds of the first and of the longest pause between two attempts.
    pub pauses: (Duration, Duration),
    /// How long delivery is retried.
    pub give_up_after: Duration,
}

/// A destination of callbacks.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name.
    pub name: String,
    /// What callback URLs must begin with.
    pub url: Url,
    /// Which addresses may be called.
    pub network: Network,
    /// The signing secret, and the previous one while both are in use.
    pub secrets: Vec<SecretRef>,
    /// How the gateway authenticates in addition to the signature.
    pub authentication: Authentication,
    /// Ranges of status codes that count as delivered, both ends included.
    pub delivered: BTreeSet<(u16, u16)>,
    /// Maximum number of concurrent attempts.
    pub calls_at_once_max: usize,
}

/// Which addresses of a destination may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The internet.
    Public,
    /// The internet and the operator's internal network.
    Private,
    /// This machine, for development; also without TLS.
    Loopback,
    /// Whatever the proxy from `outbound` lets through.
    Proxy,
}

/// How the gateway authenticates to a destination in addition to the signature.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// None.
    None,
    /// A fixed bearer token.
    Bearer(SecretRef),
    /// HTTP Basic, with `user:password`.
    Basic(SecretRef),
    /// ServiceNow's HMAC over the body.
    ServiceNowHmac(SecretRef),
    /// Access tokens from an authorisation server (OAuth 2.0 client credentials).
    OAuth {
        /// The token endpoint.
        token_url: Url,
        /// The client id.
        client_id: String,
        /// The client secret.
        secret: SecretRef,
        /// The requested scope.
        scope: Option<String>,
    },
}

impl Authentication {
    /// The secret that it needs.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::None => None,
            Self::Bearer(secret) | Self::Basic(secret) | Self::ServiceNowHmac(secret) | Self::OAuth { secret, .. } => {
                Some(secret)
            }
        }
    }
}

/// Where callbacks for a caller's operations may go.
#[derive(Clone, Debug, Default)]
pub struct CallbackRights {
    /// Names of the destinations.
    pub destinations: BTreeSet<String>,
    /// Default URL, for changes that name none.
    pub usual: Option<Url>,
}

impl Destination {
    /// Parses a URL that a caller names; none if it does not lie under this destination.
    pub fn admits(&self, text: &str) -> Option<Url> {
        let url = plain_url(text)?;
        let (own, path) = (self.url.path(), url.path());
        let below =
            path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || own.ends_with('/') || rest.starts_with('/'));
        let same = url.scheme() == self.url.scheme()
            && url.host_str() == self.url.host_str()
            && url.port_or_known_default() == self.url.port_or_known_default();
        (same && below).then_some(url)
    }

    /// Whether this status code counts as delivered.
    pub fn is_delivered(&self, status: u16) -> bool {
        self.delivered.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// A URL that every parser reads in the same way: no user, no fragment, no characters that parsers drop or convert, no
/// `..`, and no segment that becomes two when it is decoded again.
fn plain_url(text: &str) -> Option<Url> {
    let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'\\' | b'@' | b'#');
    if text.len() > URL_MAX || text.bytes().any(odd) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let path = url.path().to_ascii_lowercase();
    let hidden = ["%2f", "%5c", "%2e", "%00", "//"].iter().any(|piece| path.contains(piece));
    let climbs = text.split(['/', '?']).any(|segment| segment.starts_with(".."));
    (url.has_host() && !hidden && !climbs).then_some(url)
}

/// Reads `[callbacks]`.
pub(super) fn settings(table: &mut Table<'_>) -> Option<Callbacks> {
    let source = table.setting("callbacks.source", "postern", value::filled);
    let timeout = table.setting("callbacks.timeout", "15s", duration(SECOND, MINUTE));
    let first = table.setting("callbacks.pause_first", "10s", duration(Duration::from_millis(10), DAY));
    let longest = table.setting("callbacks.pause_longest", "2h", duration(Duration::from_millis(10), DAY));
    let give_up_after = table.setting("callbacks.give_up_after", "3d", duration(SECOND, DAYS_30));
    if let (Some(first), Some(longest)) = (first, longest)
        && longest < first
    {
        let what = format!("{} is less than callbacks.pause_first ({})", spell(longest), spell(first));
        table.refuse("callbacks.pause_longest", &what, Some("raise it, or lower callbacks.pause_first"));
    }
    Some(Callbacks { source: source?, timeout: timeout?, pauses: (first?, longest?), give_up_after: give_up_after? })
}

/// Reads `[[destinations]]`.
pub(super) fn destinations(tables: Vec<Table<'_>>, diagnostics: &mut Diagnostics) -> Vec<Destination> {
    let mut names = BTreeSet::new();
    let mut destinations = Vec::new();
    for mut table in tables {
        let name = table.required("name", value::name);
        unique(&mut table, "name", name.as_ref(), &mut names);
        destinations.extend(destination(&mut table, name));
        diagnostics.close(table);
    }
    destinations
}

fn destination(table: &mut Table<'_>, name: Option<String>) -> Option<Destination> {
    let network = table.setting("network", "public", network);
    let url = table.required("url", own_url);
    let secrets = ["secret_file", "previous_secret_file"].map(|key| table.secret_file(key));
    if !table.given("secret_file") {
        table.missing("secret_file");
    }
    let authentication = authentication(table);
    let delivered = table.list("delivered", Some(&["2xx"]), statuses);
    let at_once = table.number("calls_at_once_max", 4, 1..=64);
    let (network, url) = (network?, url?);
    if url.scheme() == "http" && network != Network::Loopback {
        table.refuse("url", "http:// would send callbacks unprotected", Some("write https://"));
    }
    Some(Destination {
        name: name?,
        url,
        network,
        secrets: secrets.into_iter().flatten().collect(),
        authentication: authentication?,
        delivered,
        calls_at_once_max: usize::try_from(at_once?).ok()?,
    })
}

fn network(text: &str) -> Result<Network, Refusal> {
    match text {
        "public" => Ok(Network::Public),
        "private" => Ok(Network::Private),
        "loopback" => Ok(Network::Loopback),
        "proxy" => Ok(Network::Proxy),
        _ => Err(Refusal::new(format!("{text:?} is not a network")).hint("one of public, private, loopback, proxy")),
    }
}

/// What callback URLs of a destination must begin with.
fn own_url(text: &str) -> Result<Url, Refusal> {
    let url = value::any_url(text)?;
    if url.query().is_some() || plain_url(text).is_none() {
        return Err(Refusal::new("a destination's URL must be a plain scheme, host and path")
            .hint("write it like https://contoso.service-now.com/api/x/postern"));
    }
    Ok(url)
}

fn authentication(table: &mut Table<'_>) -> Option<Authentication> {
    const KINDS: [&str; 5] = ["none", "bearer", "basic", "servicenow-hmac", "oauth"];
    let kind = table.setting("authentication", "none", |text| {
        let known = KINDS.into_iter().find(|kind| *kind == text);
        known.ok_or_else(|| {
            Refusal::new(format!("{text:?} is not a kind of authentication"))
                .hint(format!("one of {}", KINDS.join(", ")))
        })
    });
    let secret = table.secret_file("credential_file");
    let token_url = table.optional("token_url", value::guarded_url);
    let client_id = table.optional("client_id", value::filled);
    let scope = table.optional("scope", value::filled);
    let kind = kind?;
    let needed: &[&str] = match kind {
        "none" => &[],
        "oauth" => &["credential_file", "token_url", "client_id"],
        _ => &["credential_file"],
    };
    for key in ["credential_file", "token_url", "client_id", "scope"] {
        let (given, takes) = (table.given(key), needed.contains(&key) || (key == "scope" && kind == "oauth"));
        if given && !takes {
            table.refuse(key, &format!("authentication = {kind:?} does not use it"), Some("leave it out"));
        } else if !given && needed.contains(&key) {
            table.missing(key);
        }
    }
    Some(match kind {
        "none" => Authentication::None,
        "bearer" => Authentication::Bearer(secret?),
        "basic" => Authentication::Basic(secret?),
        "servicenow-hmac" => Authentication::ServiceNowHmac(secret?),
        _ => Authentication::OAuth { token_url: token_url?, client_id: client_id?, secret: secret?, scope },
    })
}

/// One successful status code, or all of them.
fn statuses(text: &str) -> Result<(u16, u16), Refusal> {
    let single = || text.parse().ok().filter(|status| (200..300).contains(status)).map(|status| (status, status));
    let all = (text == "2xx").then_some((200, 299));
    all.or_else(single).ok_or_else(|| {
        Refusal::new(format!("{text:?} is not a success status")).hint("write a status from 200 to 299, or 2xx")
    })
}

/// Reads where callbacks for a caller's operations may go.
pub(super) fn rights(table: &mut Table<'_>, known: &[Destination]) -> CallbackRights {
    let destinations = table.list("destinations", Some(&[]), |text| {
        if known.iter().any(|destination| destination.name == text) {
            return Ok(text.to_owned());
        }
        let names = known.iter().map(|destination| destination.name.as_str()).collect::<Vec<_>>().join(", ");
        let hint =
            if names.is_empty() { "no [[destinations]] has a name".to_owned() } else { format!("one of {names}") };
        Err(Refusal::new(format!("no destination is called {text:?}")).hint(hint))
    });
    let own = || known.iter().filter(|destination| destinations.contains(&destination.name));
    let usual = table.optional("callback_url", |text| {
        own().find_map(|destination| destination.admits(text)).ok_or_else(|| {
            Refusal::new("it is not under any of the caller's destinations").hint("add its destination to destinations")
        })
    });
    CallbackRights { destinations, usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(url: &str) -> Destination {
        Destination {
            name: "desk".to_owned(),
            url: own_url(url).unwrap(),
            network: Network::Public,
            secrets: Vec::new(),
            authentication: Authentication::None,
            delivered: BTreeSet::from([(200, 201), (204, 204)]),
            calls_at_once_max: 1,
        }
    }

    #[test]
    fn what_lies_under_a_destination_is_admitted() {
        let desk = destination("https://desk.contoso.com/api/postern");
        for url in [
            "https://desk.contoso.com/api/postern",
            "https://desk.contoso.com/api/postern/",
            "https://desk.contoso.com:443/api/postern/tickets?id=7&x=a%2fb",
            "HTTPS://DESK.contoso.com/api/postern",
        ] {
            assert!(desk.admits(url).is_some(), "{url}");
        }
        assert!(destination("https://desk.contoso.com").admits("https://desk.contoso.com/anything").is_some());
        assert!(destination("https://desk.contoso.com/a/").admits("https://desk.contoso.com/a/b").is_some());
    }

    #[test]
    fn no_other_url_is_admitted_however_it_is_spelt() {
        let desk = destination("https://desk.contoso.com/api/postern");
        for url in [
            "http://desk.contoso.com/api/postern",
            "https://desk.contoso.com:8443/api/postern",
            "https://desk.contoso.com./api/postern",
            "https://desk.contoso.com.evil.com/api/postern",
            "https://evil.com/api/postern",
            "https://desk.contoso.com@evil.com/api/postern",
            "https://evil.com\\@desk.contoso.com/api/postern",
            "https://evil.com#@desk.contoso.com/api/postern",
            "https://user:word@desk.contoso.com/api/postern",
            "https://desk.contoso.com/api/postern#x",
            "https://desk.contoso.com/api/posterns",
            "https://desk.contoso.com/api/",
            "https://desk.contoso.com/api/postern/../admin",
            "https://desk.contoso.com/api/postern/%2e%2e/admin",
            "https://desk.contoso.com/api/postern/..%2fadmin",
            "https://desk.contoso.com/api/postern/..;/admin",
            "https://desk.contoso.com/api/postern/..\\admin",
            "https://desk.contoso.com/api/postern/%5c..",
            "https://desk.contoso.com//api/postern",
            "https://desk.contoso.com/api/postern//evil.com",
            "https://desk.contoso.com\t/api/postern",
            " https://desk.contoso.com/api/postern",
            "https://desk.contoso.c\u{043e}m/api/postern",
            "//desk.contoso.com/api/postern",
            "/api/postern",
            "file:///api/postern",
            "gopher://desk.contoso.com/api/postern",
            "https://127.0.0.1/api/postern",
            "https://2130706433/api/postern",
            "https://0x7f.1/api/postern",
            "https://0177.0.0.1/api/postern",
            "https://[::ffff:127.0.0.1]/api/postern",
            "https://169.254.169.254/api/postern",
            "https://metadata.google.internal/api/postern",
            "https://localhost/api/postern",
            "",
        ] {
            assert!(desk.admits(url).is_none(), "{url}");
        }
        let long = format!("https://desk.contoso.com/api/postern/{}", "x".repeat(URL_MAX));
        assert!(desk.admits(&long).is_none());
    }

    #[test]
    fn a_destination_says_which_statuses_mean_success() {
        let desk = destination("https://desk.contoso.com");
        assert_eq!([200, 201, 204].map(|status| desk.is_delivered(status)), [true; 3]);
        assert_eq!([199, 202, 205, 302, 404].map(|status| desk.is_delivered(status)), [false; 5]);
        assert!(statuses("2xx").is_ok() && statuses("302").is_err() && statuses("200-299").is_err());
    }
}
