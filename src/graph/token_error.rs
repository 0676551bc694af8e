//! Why there is no token: classifies the answers of the login service and of a managed identity's endpoint.
//!
//! Guarantees: whether a retry can help is decided by Entra's error codes and the status, never by its text; each code
//! that an operator can act on has a sentence that says how. Entra's trace id is included, because Microsoft's support
//! asks for it.
//!
//! It deliberately never repeats what was sent. Sources: Microsoft's reference of error codes, see `docs/graph.md`;
//! 700021 and 700023 are from other sources.

use std::time::Duration;

use serde::Deserialize;

use super::{Error, credential::TokenProvider};
use crate::outbound::Response;

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Somebody must fix something; an early retry does not help.
    Fix,
    /// It is transient.
    Retry,
    /// It is transient, if the login service is left alone for this long.
    RetryAfter(Duration),
}

use Remedy::{Fix, Retry, RetryAfter};

/// Entra takes frequent identical requests for a loop, and keeps refusing for minutes.
const LOOP_REST: Duration = Duration::from_mins(2);
/// The pause after throttling that names none: short, because it often passes at once, and each further answer starts it anew.
const THROTTLED_REST: Duration = Duration::from_secs(1);
/// The pause after a failure that may pass at once: short for those who wait, but callers do not set our rate of calls.
const AGAIN_REST: Duration = Duration::from_secs(1);
/// The shortest time from a refusal to the next call, so that callers cannot set our rate of calls, and a fixed setting
/// still takes effect soon.
const MEND_REST: Duration = Duration::from_secs(2);

const CODES: [(u32, Remedy, &str); 29] = [
    (
        7_000_215,
        Fix,
        "the client secret is wrong: store its value, not its id, in the file that graph.credential names",
    ),
    (7_000_222, Fix, "the client secret has expired: make a new one in the application and replace the file"),
    (7_000_218, Fix, "no proof was accepted: the application is registered for another kind of credential"),
    (
        700_027,
        Fix,
        "the certificate is not registered with the application, has ended, or its key is another: upload the certificate that \
         graph.credential.certificate_file holds",
    ),
    (700_024, Fix, "the assertion is outside its time: set this machine's clock, or renew the token file"),
    (700_021, Fix, "the assertion is another application's: compare graph.client_id with the credential"),
    (700_023, Fix, "the assertion is for another audience: compare graph.cloud and graph.authority with the tenant"),
    (
        70_021,
        Fix,
        "the application trusts no such federated credential: compare issuer, subject and audience; a new one takes some \
         minutes to work",
    ),
    (
        700_211,
        Fix,
        "no federated credential of the application names the token's issuer: compare it with the cluster's issuer URL",
    ),
    (
        700_212,
        Fix,
        "no federated credential of the application names the token's audience: it is api://AzureADTokenExchange, with \
         USGov or China at its end in those clouds",
    ),
    (
        700_213,
        Fix,
        "no federated credential of the application names the token's subject: it is \
         system:serviceaccount:NAMESPACE:NAME",
    ),
    (700_016, Fix, "the application is unknown in the tenant: compare graph.client_id and graph.tenant_id with Entra"),
    (7_000_112, Fix, "the application is disabled: enable its enterprise application in Entra"),
    (90_002, Fix, "the tenant is unknown: compare graph.tenant_id with Entra, and graph.cloud with where it lives"),
    (900_023, Fix, "the tenant's id is malformed: compare graph.tenant_id with Entra"),
    (90_038, Fix, "the tenant lives in another national cloud: set graph.cloud to that one"),
    (65_001, Fix, "nobody has consented: have an administrator grant consent to the application's permissions"),
    (70_011, Fix, "the scope is not valid: compare graph.cloud with where the tenant lives"),
    (1_002_012, Fix, "the scope is not valid: compare graph.cloud with where the tenant lives"),
    (500_011, Fix, "Graph of this cloud is unknown in the tenant: compare graph.cloud with where the tenant lives"),
    (53_003, Fix, "a conditional access policy blocks the application: exempt it, or allow the gateway's addresses"),
    (530_032, Fix, "a security policy of the tenant blocks the application: have its administrators allow it"),
    (
        50_196,
        RetryAfter(LOOP_REST),
        "the same request came too often and is taken for a loop: look for a second gateway or \
      program with this application",
    ),
    (90_055, RetryAfter(THROTTLED_REST), "the tenant is throttled"),
    (90_006, Retry, "a transient error of the login service"),
    (90_012, Retry, "the login service took too long"),
    (90_024, Retry, "the login service took too long"),
    (90_033, Retry, "a transient error of the login service"),
    (90_090, Retry, "a transient error of the login service"),
];

/// Why there is no token, and how long not to ask again.
#[derive(Clone, Debug)]
pub(super) struct TokenError {
    pub(super) error: Error,
    pub(super) rest: Duration,
}

impl TokenError {
    /// Something on our side is wrong.
    pub(super) fn unauthorised(error: Error) -> Self {
        Self { error, rest: MEND_REST }
    }

    /// Whether a retry can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.error, Error::Throttled { .. } | Error::Unavailable(_))
    }

    pub(super) fn unavailable(words: String) -> Self {
        Self { error: Error::Unavailable(words), rest: AGAIN_REST }
    }
}

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
    #[serde(default)]
    trace_id: String,
}

/// What an answer without a token means. `pause` is the one that the answer names.
pub(super) fn classify(answer: &Response, provider: TokenProvider, pause: Option<Duration>) -> TokenError {
    let status = answer.status.as_u16();
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (then, words) = match provider {
        TokenProvider::LoginService => of_entra(status, &body),
        TokenProvider::Platform => of_platform(status, &body),
    };
    match then {
        Fix => TokenError::unauthorised(Error::Unauthorised(words)),
        Retry => TokenError { error: Error::Unavailable(words), rest: pause.unwrap_or(AGAIN_REST) },
        RetryAfter(usual) => {
            // The error keeps only the pause, so the words are logged here.
            tracing::warn!(words, "no token for now");
            let pause = pause.unwrap_or(usual);
            TokenError { error: Error::Throttled { pause }, rest: pause }
        }
    }
}

fn of_entra(status: u16, body: &Body) -> (Remedy, String) {
    let known = CODES.iter().find(|row| body.error_codes.contains(&row.0));
    let by_status = match status {
        429 => RetryAfter(THROTTLED_REST),
        500.. => Retry,
        _ if body.error == "temporarily_unavailable" => Retry,
        _ => Fix,
    };
    let trace = if body.trace_id.is_empty() { String::new() } else { format!(" (Entra's trace id {})", body.trace_id) };
    match known {
        Some((code, then, sentence)) => (*then, format!("the login service answered AADSTS{code}: {sentence}{trace}")),
        // Its own words contain no secret, and for a code that is unknown here they are all there is.
        None => (by_status, format!("the login service answered {status} {}: {}", body.error, body.error_description)),
    }
}

fn of_platform(status: u16, body: &Body) -> (Remedy, String) {
    let words = format!("the managed identity's endpoint answered {status} {}: {}", body.error, body.error_description);
    match status {
        // Microsoft's advice: the endpoint answers so while it is being updated.
        404 | 410 | 500.. => (Retry, words),
        429 => (RetryAfter(THROTTLED_REST), words),
        _ => (Fix, format!("{words}; is a managed identity assigned, and is graph.client_id its client id?")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{HeaderMap, StatusCode};

    fn entra(status: u16, code: u32) -> TokenError {
        let body = serde_json::json!({"error": "x", "error_codes": [code], "trace_id": "t-1"}).to_string();
        let answer = Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.into_bytes(),
        };
        classify(&answer, TokenProvider::LoginService, None)
    }

    #[test]
    fn a_code_is_explained_once_and_decides_before_the_status() {
        let codes: std::collections::BTreeSet<_> = CODES.iter().map(|row| row.0).collect();
        assert_eq!(codes.len(), CODES.len());
        let wrong = entra(401, 7_000_215).error.to_string();
        assert!(wrong.contains("AADSTS7000215: the client secret is wrong") && wrong.contains("t-1"), "{wrong}");
        assert!(matches!(entra(400, 90_033), TokenError { error: Error::Unavailable(_), rest: AGAIN_REST }));
        assert_eq!(entra(400, 50_196).rest, LOOP_REST);
        assert!(matches!(entra(400, 50_196).error, Error::Throttled { pause: LOOP_REST }));
    }

    #[test]
    fn an_unknown_code_is_judged_by_its_status() {
        assert!(matches!(entra(400, 1).error, Error::Unauthorised(_)));
        assert!(matches!(entra(503, 1), TokenError { error: Error::Unavailable(_), rest: AGAIN_REST }));
        assert_eq!(entra(429, 1).rest, THROTTLED_REST);
    }
}
