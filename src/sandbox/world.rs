//! The one state of a running sandbox, and how every call is processed.
//!
//! A call is matched against the ordered faults, then answered and recorded under one lock, so the journal shows the order
//! in which things happened. A held call waits outside the lock.
//!
//! It deliberately knows nothing of sockets: it only says that a connection is to be cut. Called by `mod.rs`; its state is
//! read and changed by every endpoint.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::faults::{self, Effect, Faults};
use super::issuer::Issuer;
use super::journal::Journal;
use super::keys::Key;
use super::limits::Limits;
use super::proof::Register;
use super::seed::Seed;
use super::switches::Switches;
use super::tenant::Tenant;
use super::wire::{Manner, Request, Response};
use super::{control, graph, identity, login};
use crate::clock::Clock;

/// Everything behind the server.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    state: Mutex<State>,
    released: watch::Sender<Release>,
}

/// What changes while the sandbox runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) url: String,
    pub(crate) seed: Seed,
    pub(crate) tenant: Tenant,
    pub(crate) switches: Switches,
    pub(crate) graph_key: Arc<Key>,
    pub(crate) issuer: Issuer,
    pub(crate) register: Register,
    pub(crate) journal: Journal,
    pub(crate) faults: Faults,
    pub(crate) limits: Limits,
}

/// What happens to held calls when the faults are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Proceed,
    Cut,
}

/// What happens to a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Response),
    /// Answered, but the body is sent in an unusual manner.
    Sent(Response, Manner),
    Cut,
}

impl State {
    /// The state at the start.
    pub(crate) fn new(url: String, seed: Seed, graph_key: Arc<Key>, caller_key: Arc<Key>) -> Self {
        Self {
            tenant: Tenant::new(&seed),
            switches: seed.switches.clone(),
            issuer: Issuer::new(&url, caller_key),
            register: Register::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            limits: Limits::default(),
            url,
            seed,
            graph_key,
        }
    }

    fn answer(&mut self, call: &Request) -> Response {
        match call.parts().as_slice() {
            ["issuer", ..] => self.issuer.answer(call),
            [tenant, "oauth2", "v2.0", "token"] => login::answer(call, self, tenant),
            ["metadata", "identity", "oauth2", "token"] => identity::of_machine(call, self),
            ["msi", "token"] => identity::of_app_service(call, self),
            _ => graph::answer(call, self),
        }
    }

    fn record(&mut self, call: &Request, answer: Option<&Response>, fault: Option<&'static str>) {
        if call.segments.first().is_none_or(|first| first != "issuer") {
            self.journal.add(call, answer, fault, self.switches.journal_limit);
        }
    }
}

impl World {
    /// A world in this state.
    pub(crate) fn new(clock: Clock, state: State) -> Self {
        Self { clock, state: Mutex::new(state), released: watch::Sender::new(Release::Proceed) }
    }

    /// Locks the state; the lock must not be held while waiting.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears all faults and releases held calls.
    pub(crate) fn release(&self, release: Release) {
        self.state().faults = Faults::default();
        self.released.send_replace(release);
    }

    /// Processes a call.
    pub(crate) async fn exchange(&self, mut call: Request) -> Outcome {
        if call.segments.first().is_some_and(|first| first == "_sandbox") {
            return Outcome::Answered(control::answer(&call, self).await);
        }
        // Subscribed before the fault is taken, so that a release in between is not missed.
        let mut released = self.released.subscribe();
        let taken = self.state().faults.take(&call);
        let fault = taken.as_ref().map(|(effect, _)| effect.name());
        let (effect, past) = taken.unzip();
        match effect {
            None => Outcome::Answered(self.served(&call, fault)),
            Some(Effect::Stale {}) => {
                let mut state = self.state();
                let past = past.flatten().map_or_else(|| state.tenant.clone(), |past| Tenant::clone(&past));
                let present = std::mem::replace(&mut state.tenant, past);
                let answer = state.answer(&call);
                state.tenant = present;
                state.record(&call, Some(&answer), fault);
                Outcome::Answered(answer)
            }
            Some(Effect::Answer { status, retry_after, body }) => {
                let mut state = self.state();
                let mut answer = faults::answer(&call, status, body.as_ref(), &state.switches);
                answer.headers.extend(retry_after.map(|after| ("Retry-After", after)));
                state.record(&call, Some(&answer), fault);
                Outcome::Answered(answer)
            }
            Some(Effect::AnswerAfter { status }) => {
                let mut state = self.state();
                let applied = state.answer(&call);
                state.record(&call, Some(&applied), fault);
                Outcome::Answered(faults::answer(&call, status, None, &state.switches))
            }
            Some(Effect::Refuse { code }) => {
                let mut state = self.state();
                let answer = login::with_code(&call, code);
                state.record(&call, Some(&answer), fault);
                Outcome::Answered(answer)
            }
            Some(Effect::Truncate {}) => self.sent(&call, fault, Manner::Truncated),
            Some(Effect::Swell { bytes }) => self.sent(&call, fault, Manner::Swollen(bytes)),
            Some(Effect::Halt { millis }) => self.sent(&call, fault, Manner::Halting(millis)),
            Some(Effect::CutBefore {}) => {
                self.state().record(&call, None, fault);
                Outcome::Cut
            }
            Some(Effect::CutAfter {}) => {
                self.served(&call, fault);
                Outcome::Cut
            }
            Some(Effect::Slow { millis }) => {
                self.clock.sleep(Duration::from_millis(millis)).await;
                call.at = self.clock.now();
                Outcome::Answered(self.served(&call, fault))
            }
            Some(Effect::Hold {}) => {
                // An error means that the world is gone, and with it the fault that held the call.
                let gone = released.changed().await.is_err();
                if gone || *released.borrow() == Release::Cut {
                    return Outcome::Cut;
                }
                call.at = self.clock.now();
                Outcome::Answered(self.served(&call, fault))
            }
        }
    }

    fn sent(&self, call: &Request, fault: Option<&'static str>, manner: Manner) -> Outcome {
        Outcome::Sent(self.served(call, fault), manner)
    }

    fn served(&self, call: &Request, fault: Option<&'static str>) -> Response {
        let mut state = self.state();
        let answer = state.answer(call);
        state.record(call, Some(&answer), fault);
        answer
    }
}
