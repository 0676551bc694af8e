//! Warns in time that the gateway's certificate expires.
//!
//! Guarantees: from thirty days before it expires on, this is logged at startup and every day, and a metric reports when
//! it expires, from startup on. A replaced certificate is seen at the next check.
//!
//! It deliberately does not stop anything: a certificate is refused by Entra, not by us. When a client secret expires
//! cannot be seen from here.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::certificate::{self, Certificate};
use crate::{
    clock::{self, Clock},
    config::{self, Credential, Proof},
    telemetry,
};

/// How long before its expiry a certificate is worth a warning.
const AHEAD: Duration = Duration::from_hours(24 * 30);
/// How often the certificate is checked.
const DAILY: Duration = Duration::from_hours(24);

/// Checks the certificate of these settings every day until cancelled; returns at once if there is none.
pub async fn watch(settings: config::Graph, clock: Clock, stopping: CancellationToken) {
    let Credential::Application { proof: Proof::Certificate(files), .. } = &settings.credential else { return };
    loop {
        look(files, clock.now());
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = clock.sleep(DAILY) => {}
        }
    }
}

fn look(files: &config::Certificate, now: Timestamp) {
    match certificate::read_certificate(files) {
        Ok(Certificate { ends_at, .. }) => {
            telemetry::set_certificate_end(ends_at);
            match notice(ends_at, now) {
                Some(Notice::Ended) => {
                    tracing::error!(%ends_at, "the gateway's certificate has expired: Entra will refuse it");
                }
                Some(Notice::EndsIn(days)) => {
                    tracing::warn!(%ends_at, days, "the gateway's certificate expires soon: register and store a new one");
                }
                None => {}
            }
        }
        Err(error) => tracing::error!(%error, "the gateway's certificate cannot be read"),
    }
}

/// What to report about an expiry.
#[derive(Debug, PartialEq, Eq)]
enum Notice {
    EndsIn(u64),
    Ended,
}

fn notice(ends_at: Timestamp, now: Timestamp) -> Option<Notice> {
    let left = clock::until(now, ends_at);
    match left {
        Duration::ZERO => Some(Notice::Ended),
        left if left <= AHEAD => Some(Notice::EndsIn(left.as_secs().div_euclid(DAILY.as_secs()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_expiry_is_reported_thirty_days_ahead_and_once_expired() {
        let now = Timestamp::UNIX_EPOCH;
        let ends_in = |days: u64| clock::after(now, Duration::from_hours(24 * days));
        assert_eq!(notice(ends_in(31), now), None);
        assert_eq!(notice(ends_in(30), now), Some(Notice::EndsIn(30)));
        assert_eq!(notice(ends_in(1), now), Some(Notice::EndsIn(1)));
        assert_eq!(notice(now, ends_in(1)), Some(Notice::Ended));
    }
}
