//! Limits for each caller: calls per minute, and calls that wait at the same time.
//!
//! Guarantees: one caller's calls take nothing from another; memory does not grow, since callers are those of the settings.
//! Every response to an authenticated caller says how many calls it has left (draft-ietf-httpapi-ratelimit-headers-10).
//!
//! It deliberately does not count calls that are not authenticated: they cost one look at a token, and have no name.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use governor::{
    Quota, RateLimiter,
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    operations,
    problem::{Code, Problem, whole_seconds},
};
use crate::{clock::Clock, config};

/// The limits of all callers.
#[derive(Debug)]
pub struct Limits {
    callers: BTreeMap<String, Allowance>,
    clock: Clock,
}

/// The limits of one caller.
#[derive(Debug)]
struct Allowance {
    calls_max: NonZeroU32,
    calls: RateLimiter<NotKeyed, InMemoryState, Clock, StateInformationMiddleware>,
    waits: Arc<Semaphore>,
}

/// How many calls a caller has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemainingCalls {
    calls_max: NonZeroU32,
    remaining: u32,
    /// The time until there are more.
    pause: Duration,
}

impl Limits {
    /// The limits of these callers and sources, from the settings. A source shares the limits of its caller.
    pub fn new(
        callers: &[config::CallerRule],
        sources: &[config::Webhook],
        settings: &config::Server,
        clock: Clock,
    ) -> Self {
        let allowance = |(name, calls_max): (&String, Option<NonZeroU32>)| {
            let calls_max = calls_max.unwrap_or(settings.calls_max);
            let calls = RateLimiter::direct_with_clock(Quota::per_minute(calls_max), clock).with_middleware();
            let waits = Arc::new(Semaphore::new(settings.waits_max));
            (name.clone(), Allowance { calls_max, calls, waits })
        };
        let by_webhook = sources.iter().map(|source| (&source.caller, None));
        // The later of two entries wins: what is set for a caller applies to its source, too.
        let all = by_webhook.chain(callers.iter().map(|caller| (&caller.name, caller.calls_max)));
        Self { callers: all.map(allowance).collect(), clock }
    }

    /// Counts a call of a caller; if it has none left, the problem says how long it should wait.
    pub(super) fn count(&self, caller: &str) -> Result<Option<RemainingCalls>, (RemainingCalls, Problem)> {
        let Some(Allowance { calls_max, calls, .. }) = self.callers.get(caller) else { return Ok(None) };
        let calls_max = *calls_max;
        match calls.check() {
            Ok(state) => {
                let pause = Duration::from_mins(1).checked_div(calls_max.get()).unwrap_or_default();
                Ok(Some(RemainingCalls { calls_max, remaining: state.remaining_burst_capacity(), pause }))
            }
            Err(refused) => {
                let pause = refused.wait_time_from(governor::clock::Clock::now(&self.clock));
                let detail = format!("This caller has exceeded its limit of {calls_max} calls per minute.");
                let problem = Problem::new(Code::RateLimited, detail).retry_after(pause);
                Err((RemainingCalls { calls_max, remaining: 0, pause }, problem))
            }
        }
    }

    /// A place among the caller's calls that wait; none if the limit is reached.
    pub(super) fn place(&self, caller: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.callers.get(caller)?.waits).try_acquire_owned().ok()
    }
}

/// Adds the headers that say how many calls the caller has left.
pub(super) async fn add_limit_headers(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let mut response = next.call(request).await?;
    let left = response.request().extensions().get::<RemainingCalls>().copied();
    if let Some(RemainingCalls { calls_max, remaining, pause }) = left {
        let headers = response.headers_mut();
        operations::header(headers, "ratelimit-policy", &format!("\"caller\";q={calls_max};w=60"));
        let standing = format!("\"caller\";r={remaining};t={}", whole_seconds(pause));
        operations::header(headers, "ratelimit", &standing);
    }
    Ok(response)
}
