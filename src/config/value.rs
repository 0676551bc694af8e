//! Parses single values: durations, sizes, addresses, URLs, names.
//!
//! Each function takes the text of one value and returns the checked value, or a [`Refusal`] that says what is wrong
//! and how to write it. Guarantees: an accepted text has only one meaning, and units are always explicit.
//!
//! It deliberately repeats no URL and nothing that could be a secret in a refusal: faults end up in logs and tickets.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use url::{Host, Url};
use uuid::Uuid;

use super::{Algorithm, LogFormat, Postgres, Store, TokenType, suggestion::nearest};
use crate::{domain::Digest, telemetry};

/// Why a value is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Any type whose own parser also says what is expected.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| Refusal::new(format!("{text:?} is not valid")).hint(error.to_string()))
}

/// The units of time, longest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration between two bounds, like `20s`.
pub(super) fn duration(least: Duration, most: Duration) -> impl Fn(&str) -> Result<Duration, Refusal> {
    move |text| {
        let value = counted(text, &TIME_UNITS).map(Duration::from_millis).ok_or_else(|| {
            Refusal::new(format!("{text:?} is not a duration"))
                .hint("write a number and its unit: 500ms, 20s, 5m, 1h, 7d")
        })?;
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(Refusal::new(format!("{text:?} is out of range")).hint(format!(
                "it must be between {} and {}",
                spell(least),
                spell(most)
            )))
        }
    }
}

/// A duration as it would be written in the file.
pub(super) fn spell(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |unit: &&(&str, u64)| millis != 0 && millis.is_multiple_of(unit.1);
    match TIME_UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", millis.checked_div(*unit).unwrap_or(0)),
        None => format!("{}s", duration.as_secs_f64()),
    }
}

const SIZE_UNITS: [(&str, u64); 3] = [("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size between 1 KiB and 64 MiB, like `256KiB`.
pub(super) fn size(text: &str) -> Result<usize, Refusal> {
    let bytes = counted(text, &SIZE_UNITS).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        Refusal::new(format!("{text:?} is not a size")).hint("write a number and its unit: 4096B, 256KiB, 1MiB")
    })?;
    if (1 << 10..=1 << 26).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(Refusal::new(format!("{text:?} is out of range")).hint("it must be between 1KiB and 64MiB"))
    }
}

fn counted(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, name) = text.split_at_checked(digits)?;
    let (_, unit) = units.iter().find(|(unit, _)| *unit == name)?;
    count.parse::<u64>().ok()?.checked_mul(*unit)
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().ok().ok_or_else(|| {
        Refusal::new(format!("{text:?} is not an address and port"))
            .hint("write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080; names are not looked up")
    })
}

/// Allowed query parameters of a PostgreSQL URL.
const POSTGRES_PARAMETERS: [&str; 8] =
    ["host", "port", "user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// The database. A refused URL is not repeated in the fault, because it may contain a password.
pub(super) fn store_url(text: &str) -> Result<Store, Refusal> {
    let hint = "write sqlite: and the path of a file, like sqlite:/var/lib/postern/postern.db, or a URL like \
                postgres://user@host/database";
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return postgres_url(text).map(|url| Store::Postgres(Postgres { url, password: None }));
    }
    match text.strip_prefix("sqlite:") {
        Some("" | ":memory:") => {
            Err(Refusal::new("a database in memory would lose accepted changes at every restart").hint(hint))
        }
        Some(path) if path.starts_with("//") || path.contains('?') => {
            Err(Refusal::new("sqlite: takes a plain path, not a URL").hint(hint))
        }
        Some(path) => Ok(Store::Sqlite(PathBuf::from(path))),
        None => Err(Refusal::new("not the URL of a store").hint(hint)),
    }
}

fn postgres_url(text: &str) -> Result<Url, Refusal> {
    let url = Url::parse(text).map_err(|error| {
        Refusal::new(format!("not a URL: {error}")).hint("write it like postgres://user@host:5432/database")
    })?;
    if url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password") {
        return Err(Refusal::new("a password in the URL would end up in logs and tickets")
            .hint("remove it, and set store.password_file or store.password_env"));
    }
    for (key, value) in url.query_pairs() {
        if !POSTGRES_PARAMETERS.contains(&&*key) {
            let meant = nearest(&key, POSTGRES_PARAMETERS.into_iter());
            let known = || format!("one of {}", POSTGRES_PARAMETERS.join(", "));
            return Err(Refusal::new(format!("unknown parameter {key:?}"))
                .hint(meant.map_or_else(known, |meant| format!("did you mean {meant:?}?"))));
        }
        if key == "sslmode" && !SSL_MODES.contains(&&*value) {
            return Err(
                Refusal::new(format!("{value:?} is not an sslmode")).hint(format!("one of {}", SSL_MODES.join(", ")))
            );
        }
    }
    let named = !url.path().trim_matches('/').is_empty() || url.query_pairs().any(|(key, _)| key == "dbname");
    if !named {
        return Err(Refusal::new("it names no database").hint("write it like postgres://user@host:5432/database"));
    }
    Ok(url)
}

/// The values of PostgreSQL's `sslmode`.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// A URL with TLS, or on this machine.
pub(super) fn guarded_url(text: &str) -> Result<Url, Refusal> {
    let url = any_url(text)?;
    if url.scheme() == "http" && !loopback(&url) {
        return Err(Refusal::new("http:// to another machine sends tokens and keys unprotected").hint("write https://"));
    }
    Ok(url)
}

/// A base URL, without a slash at its end.
pub(super) fn root_url(text: &str) -> Result<String, Refusal> {
    let url = guarded_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Refusal::new("a base URL has no query and no fragment").hint("end it before ? or #"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// An origin of web pages, spelt exactly as browsers send it.
pub(super) fn origin(text: &str) -> Result<String, Refusal> {
    let url = any_url(text)?;
    let sent = url.origin().ascii_serialization();
    if sent != text {
        return Err(Refusal::new("not an origin as browsers send it").hint(format!("write {sent:?}")));
    }
    Ok(sent)
}

/// An http or https URL.
pub(super) fn any_url(text: &str) -> Result<Url, Refusal> {
    let url = Url::parse(text).map_err(|error| {
        Refusal::new(format!("not a URL: {error}")).hint("write the whole URL, like https://host/path")
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Refusal::new("not an http or https URL").hint("write the whole URL, like https://host/path"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::new("a URL in the settings must not contain a user or password"));
    }
    Ok(url)
}

fn loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The name of a caller or issuer, as used in policies, records and logs.
pub(super) fn name(text: &str) -> Result<String, Refusal> {
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new(format!("{text:?} is not a name"))
            .hint("1 to 64 letters, digits, dots, dashes or underscores"))
    }
}

/// Any text that is not blank.
pub(super) fn filled(text: &str) -> Result<String, Refusal> {
    if text.trim().is_empty() { Err(Refusal::new("it is empty")) } else { Ok(text.to_owned()) }
}

/// The id of an application in Entra.
pub(super) fn application(text: &str) -> Result<String, Refusal> {
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 => Ok(id.as_hyphenated().to_string()),
        _ => Err(Refusal::new(format!("{text:?} is not an application's id"))
            .hint("it is a GUID: \"Application (client) ID\" in Entra")),
    }
}

/// The name of an environment variable. Any other text may be the secret itself, so it is not repeated in the fault.
pub(super) fn variable(text: &str) -> Result<String, Refusal> {
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new("not the name of an environment variable")
            .hint("name the variable that holds the secret; never write the secret itself here"))
    }
}

/// The format of the log.
pub(super) fn log_format(text: &str) -> Result<LogFormat, Refusal> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "pretty" => Ok(LogFormat::Pretty),
        _ => Err(Refusal::new(format!("{text:?} is not a log format")).hint("one of auto, json, pretty")),
    }
}

/// Which events are logged.
pub(super) fn log_filter(text: &str) -> Result<String, Refusal> {
    if telemetry::is_filter(text) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new(format!("{text:?} is not a log filter"))
            .hint("write a level, or directives like postern=debug,info, without spaces"))
    }
}

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

/// A signature algorithm of callers' tokens.
pub(super) fn algorithm(text: &str) -> Result<Algorithm, Refusal> {
    let names = || ALGORITHMS.iter().map(|row| row.0);
    if let Some((_, algorithm)) = ALGORITHMS.iter().find(|row| row.0 == text) {
        return Ok(*algorithm);
    }
    let known = names().collect::<Vec<_>>().join(", ");
    Err(if text.starts_with("HS") {
        Refusal::new(format!("{text:?} is refused: whoever can check a shared-key signature can also forge one"))
            .hint(format!("one of {known}"))
    } else if text.eq_ignore_ascii_case("none") {
        Refusal::new(format!("{text:?} is refused: a token without a signature proves nothing"))
            .hint(format!("one of {known}"))
    } else {
        let hint = nearest(text, names()).map_or(format!("one of {known}"), |meant| format!("did you mean {meant:?}?"));
        Refusal::new(format!("{text:?} is not an algorithm that this version supports")).hint(hint)
    })
}

/// Whether something is required; true if it is.
pub(super) fn obligation(text: &str) -> Result<bool, Refusal> {
    match text {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err(Refusal::new(format!("{text:?} is not valid")).hint("one of required, optional")),
    }
}

/// The SHA-256 of something, as tools print it: hexadecimal, with colons or without.
pub(super) fn sha256(text: &str) -> Result<Digest, Refusal> {
    let digits: String = text.chars().filter(|letter| *letter != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(Digest::from_stored(&digits.to_ascii_lowercase()))
    } else {
        Err(Refusal::new(format!("{text:?} is not a SHA-256 fingerprint"))
            .hint("write 64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256` prints them"))
    }
}

/// A `typ` of callers' tokens.
pub(super) fn token_type(text: &str) -> Result<TokenType, Refusal> {
    match text {
        "JWT" => Ok(TokenType::Jwt),
        "at+jwt" => Ok(TokenType::AccessToken),
        _ => Err(Refusal::new(format!("{text:?} is not a type of access tokens")).hint("one of JWT, at+jwt")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_spelt_duration_reads_the_same(millis in 1_u64..10_000_000_000) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(Duration::ZERO, Duration::MAX)(&spell(value)).unwrap(), value);
        }
    }

    #[test]
    fn zero_is_printed_as_0s() {
        assert_eq!(spell(Duration::ZERO), "0s");
        assert_eq!(spell(Duration::from_mins(90)), "90m");
    }

    #[test]
    fn sizes_and_durations_have_a_unit() {
        assert_eq!(size("256KiB").unwrap(), 262_144);
        for text in ["4096", "256kb", "KiB", "", "-1KiB", "1 KiB", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
        let any = duration(Duration::ZERO, Duration::MAX);
        for text in ["20", "s", "", "1.5s", "20S", "18446744073709551615d"] {
            assert!(any(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_called_without_tls() {
        for text in ["http://127.0.0.1:1", "http://[::1]/", "http://localhost", "https://a.test"] {
            assert!(guarded_url(text).is_ok(), "{text}");
        }
        for text in
            ["http://a.test", "http://127.0.0.1.a.test", "http://localhost.a.test", "ftp://a.test", "a.test", ""]
        {
            assert!(guarded_url(text).is_err(), "{text}");
        }
        assert!(any_url("http://collector:4318").is_ok());
    }

    #[test]
    fn a_log_filter_is_plain_text() {
        for text in ["info", "postern=debug,info", "[lane{state=7}]=trace,warn"] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["", " info", "\u{2003}a\u{e9}=info", "a=b=c", "postern=debug, info"] {
            assert!(log_filter(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn symmetric_and_missing_signatures_are_refused() {
        for text in ["HS256", "HS512", "none", "None", "RS257", ""] {
            assert!(algorithm(text).is_err(), "{text}");
        }
        assert_eq!(algorithm("EdDSA").unwrap(), Algorithm::EdDsa);
    }
}
