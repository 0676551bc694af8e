//! Callbacks: where the end of an operation may be reported, and sending a callback again.
//!
//! Guarantees: an end is reported only to a destination of its own caller. The settings decide which URLs these are; a
//! caller needs no further permission to have the end of its own change reported.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{
    Error, Gateway, actor,
    request::{CallbackRequest, Fault},
};
use crate::{
    audit::Event,
    config::{CallbackRights, CallerRule, Destination, Webhook},
    domain::{Callback, Caller, Operation, OperationId},
    policy::Action,
    store::callbacks::Resending,
    telemetry,
};

/// Where the ends of callers' operations may be reported.
#[derive(Clone, Debug, Default)]
pub struct CallbackRules {
    destinations: Vec<Destination>,
    callers: BTreeMap<String, Rights>,
}

/// The destinations of one caller, however it authenticates.
#[derive(Clone, Debug, Default)]
struct Rights {
    destinations: BTreeSet<String>,
    usual: Option<Url>,
}

impl CallbackRules {
    /// As the settings define them.
    pub fn new(destinations: &[Destination], callers: &[CallerRule], webhooks: &[Webhook]) -> Self {
        let by_token = callers.iter().map(|caller| (&caller.name, &caller.callbacks));
        let by_webhook = webhooks.iter().map(|webhook| (&webhook.caller, &webhook.callbacks));
        let mut rights: BTreeMap<String, Rights> = BTreeMap::new();
        for (name, CallbackRights { destinations, usual }) in by_token.chain(by_webhook) {
            let known = rights.entry(name.clone()).or_default();
            known.destinations.extend(destinations.iter().cloned());
            known.usual = known.usual.take().or_else(|| usual.clone());
        }
        Self { destinations: destinations.to_vec(), callers: rights }
    }

    /// Where the end of a change is reported, if anywhere, or what is wrong with what its caller asks for.
    fn callback(&self, caller: &str, asked: Option<&CallbackRequest>) -> Result<Option<Callback>, &'static str> {
        let rights = self.callers.get(caller);
        let usual = rights.and_then(|rights| rights.usual.as_ref()).map(Url::as_str);
        let Some(url) = asked.and_then(|asked| asked.url.as_deref()).or(usual) else {
            return if asked.is_some() { Err("is missing: no default URL is configured for you") } else { Ok(None) };
        };
        let mut own =
            self.destinations.iter().filter(|it| rights.is_some_and(|own| own.destinations.contains(&it.name)));
        let admitted = own.find_map(|it| it.admits(url).map(|url| (it, url)));
        let (destination, url) = admitted.ok_or("is not under a destination that is configured for you")?;
        let (url, destination) = (url.to_string(), destination.name.clone());
        Ok(Some(Callback { url, destination, context: asked.and_then(|asked| asked.context.clone()) }))
    }
}

impl Gateway {
    /// Where the end of a change is reported, if anywhere.
    pub(super) fn callback(&self, caller: &Caller, asked: Option<&CallbackRequest>) -> Result<Option<Callback>, Error> {
        self.callback_rules.callback(&caller.name, asked).map_err(|detail| {
            Error::InvalidChange(vec![Fault { pointer: "/callback/url".to_owned(), detail: detail.to_owned() }])
        })
    }

    /// Sends a callback again that was delivered or parked. Whoever may cancel the operation may do so.
    pub async fn resend_callback(&self, caller: &Caller, id: OperationId) -> Result<Operation, Error> {
        let operation = self.readable_operation(caller, id).await?;
        let own = operation.submission.caller == caller.name;
        let permit = self.permitted(caller, Action::Cancel { own }, &operation).await?;
        let event = Event::CallbackResent {
            operation: id,
            configuration: operation.submission.configuration.to_string(),
            actor: actor(caller),
            policies: permit.policies().to_vec(),
        };
        let entry = self.entry(event);
        if !self.store.resend_callback(Resending { operation: id, at: entry.at, entry }).await? {
            return Err(Error::NothingToResend(Box::new(operation)));
        }
        tracing::info!(operation.id = %id, caller.name = caller.name, "the callback is sent again");
        telemetry::count_callback("resent");
        Ok(operation)
    }
}
