//! Faults on demand: calls that are answered wrongly, cut off, or held.
//!
//! An [`Order`] matches calls by method, path and query; it lets `skip` of them pass, then hits `times` of them, or all
//! until it is cleared. The first that matches is applied. Taking one is atomic: concurrent calls cannot exceed `times`.
//!
//! It deliberately has no randomness: the same order gives the same fault. Ordered through `control.rs`, applied by
//! `world.rs`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bearer;
use super::errors::Refusal;
use super::graph;
use super::identity;
use super::login;
use super::switches::Switches;
use super::tenant::Tenant;
use super::wire::{Request, Response};

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    orders: Vec<Order>,
    held: usize,
}

/// The most bytes that can be added to a body.
const SWELL_MAX: u32 = 64 << 20;

/// The effect on a call, and for a stale read the tenant that it shows.
pub(crate) type Taken = (Effect, Option<Arc<Tenant>>);

/// Which calls are hit, how often, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    method: Option<String>,
    path_ends: Option<String>,
    /// A part of the decoded query, for instance `$skiptoken=`.
    query_has: Option<String>,
    /// How many calls pass before the first is hit.
    #[serde(default)]
    skip: u32,
    /// How many calls are still to be hit; without it, all until cleared.
    times: Option<u32>,
    effect: Effect,
    #[serde(skip_deserializing)]
    applied: u32,
    /// The tenant that stale reads show.
    #[serde(skip)]
    past: Option<Arc<Tenant>>,
}

/// What happens to a call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Effect {
    /// It is answered with this, and not applied.
    Answer { status: u16, retry_after: Option<String>, body: Option<Value> },
    /// It is applied, then answered with this regardless.
    AnswerAfter { status: u16 },
    /// A token request is refused with this code of Entra; nothing is applied.
    Refuse { code: u32 },
    /// Only the first half of the response's body is sent.
    Truncate {},
    /// The response's body is followed by this many spaces.
    Swell { bytes: u32 },
    /// The response's body pauses in the middle for this long.
    Halt { millis: u32 },
    /// Its connection is cut; it is not applied.
    CutBefore {},
    /// It is applied, then its connection is cut.
    CutAfter {},
    /// It waits until the faults are cleared, then proceeds; a reset or shutdown cuts its connection.
    Hold {},
    /// It waits for this long, then proceeds.
    Slow { millis: u64 },
    /// A read is answered from the tenant's state when the fault was ordered.
    Stale {},
}

impl Effect {
    /// The name of the effect.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Answer { .. } => "answer",
            Self::AnswerAfter { .. } => "answer_after",
            Self::Refuse { .. } => "refuse",
            Self::Truncate {} => "truncate",
            Self::Swell { .. } => "swell",
            Self::Halt { .. } => "halt",
            Self::CutBefore {} => "cut_before",
            Self::CutAfter {} => "cut_after",
            Self::Hold {} => "hold",
            Self::Slow { .. } => "slow",
            Self::Stale {} => "stale",
        }
    }
}

impl Order {
    fn hits(&self, call: &Request) -> bool {
        let path = format!("/{}", call.segments.join("/"));
        let verb = self.method.as_ref().is_none_or(|method| method.eq_ignore_ascii_case(&call.method));
        // The issuer is hit only if its path is named: an order without a path is meant for Graph and token requests.
        let ends = match &self.path_ends {
            Some(end) => path.ends_with(end) || call.path.ends_with(end),
            None => !path.starts_with("/issuer/"),
        };
        let queried =
            |piece: &String| call.options().iter().any(|(name, value)| format!("{name}={value}").contains(piece));
        verb && ends && self.query_has.as_ref().is_none_or(queried)
    }

    /// Returns itself if this call is to be hit; counts the calls that it lets pass.
    fn reached(&mut self, call: &Request) -> Option<&mut Self> {
        if self.times == Some(0) || !self.hits(call) {
            return None;
        }
        let passes = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        (!passes).then_some(self)
    }

    fn fault(&self) -> Option<String> {
        if self.times == Some(0) {
            return Some("`times` must be at least 1; leave it out for no limit".to_owned());
        }
        let reads = self.method.as_ref().is_some_and(|method| method.eq_ignore_ascii_case("GET"));
        if matches!(self.effect, Effect::Stale {}) && !reads {
            return Some("`effect.kind` stale is for reads: `method` must be GET".to_owned());
        }
        let (status, retry_after) = match &self.effect {
            Effect::Answer { status, retry_after, .. } => (status, retry_after),
            Effect::AnswerAfter { status } => (status, &None),
            Effect::Refuse { code } => return login::unknown_code(*code),
            Effect::Swell { bytes } if *bytes > SWELL_MAX => {
                return Some(format!("`effect.bytes` must be at most {SWELL_MAX}"));
            }
            Effect::CutBefore {}
            | Effect::CutAfter {}
            | Effect::Truncate {}
            | Effect::Swell { .. }
            | Effect::Halt { .. }
            | Effect::Hold {}
            | Effect::Slow { .. }
            | Effect::Stale {} => return None,
        };
        if !(200..=599).contains(status) {
            return Some(format!("`effect.status` must lie between 200 and 599, not be {status}"));
        }
        let unsendable = |text: &String| text.chars().any(|c| !(c.is_ascii_graphic() || c == ' '));
        retry_after.as_ref().is_some_and(unsendable).then(|| "`effect.retry_after` must be plain ASCII".to_owned())
    }
}

impl Faults {
    /// Adds an order, or says what is wrong with it.
    pub(crate) fn order(&mut self, mut order: Order, tenant: &Tenant) -> Result<(), String> {
        if let Some(fault) = order.fault() {
            return Err(fault);
        }
        order.past = matches!(order.effect, Effect::Stale {}).then(|| Arc::new(tenant.clone()));
        self.orders.push(order);
        Ok(())
    }

    /// Takes the fault for this call, if any, and counts the hit.
    pub(crate) fn take(&mut self, call: &Request) -> Option<Taken> {
        let order = self.orders.iter_mut().find_map(|order| order.reached(call))?;
        order.applied = order.applied.saturating_add(1);
        order.times = order.times.map(|times| times.saturating_sub(1));
        let (effect, past) = (order.effect.clone(), order.past.clone());
        if matches!(effect, Effect::Hold {}) {
            self.held = self.held.saturating_add(1);
        }
        Some((effect, past))
    }

    /// All orders with their remaining counts, and how many calls were held.
    pub(crate) fn shown(&self) -> Value {
        json!({"faults": self.orders, "held": self.held})
    }
}

/// The response that an order asks for, in the format of the service that was called.
pub(crate) fn answer(call: &Request, status: u16, body: Option<&Value>, switches: &Switches) -> Response {
    if let Some(body) = body {
        return graph::identified(Response::json(status, body.clone()), call);
    }
    match call.parts().as_slice() {
        ["issuer", ..] => Response::json(status, json!({"error": "ordered"})),
        ["metadata" | "msi", ..] => identity::ordered(status),
        [_, "oauth2", ..] => login::ordered(call, status),
        _ if status < 400 => graph::identified(Response::empty(status), call),
        _ => graph::identified(refusal(status).answer(call, switches), call),
    }
}

fn refusal(status: u16) -> Refusal {
    let message = "An error has occurred";
    match status {
        400 => Refusal::intune(status, "BadRequest", message),
        401 => bearer::invalid("Lifetime validation failed, the token is expired."),
        403 => Refusal::intune(status, "Forbidden", message),
        404 => Refusal::intune(status, "ResourceNotFound", message),
        429 => Refusal::graph(status, "TooManyRequests", "An error has occurred."),
        503 => Refusal::graph(status, "ServiceUnavailable", "The service is temporarily unavailable."),
        504 => Refusal::graph(status, "GatewayTimeout", "The service did not answer in time."),
        500..=599 => Refusal::intune(status, "InternalServerError", message),
        _ => Refusal::intune(status, "UnknownError", message),
    }
}
