//! Callbacks: where the end of an operation may be told, and telling it again.
//!
//! Guarantees: an end is told under a destination of its own caller only. Which URLs these are is decided by the settings;
//! that a caller may have the end of its own change told needs no further permission.

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

/// Where the ends of callers' operations may be told.
#[derive(Clone, Debug, Default)]
pub struct Callable {
    destinations: Vec<Destination>,
    callers: BTreeMap<String, Rights>,
}

/// Those of one caller, whichever way it proves itself.
#[derive(Clone, Debug, Default)]
struct Rights {
    destinations: BTreeSet<String>,
    usual: Option<Url>,
}

impl Callable {
    /// As the settings say.
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

    /// Where the end of a change is told, or what is wrong with what its caller asks for.
    fn callback(&self, caller: &str, asked: Option<&CallbackRequest>) -> Result<Option<Callback>, &'static str> {
        let rights = self.callers.get(caller);
        let usual = rights.and_then(|rights| rights.usual.as_ref()).map(Url::as_str);
        let Some(url) = asked.and_then(|asked| asked.url.as_deref()).or(usual) else {
            return if asked.is_some() { Err("is missing: no usual one is set up for you") } else { Ok(None) };
        };
        let mut own =
            self.destinations.iter().filter(|it| rights.is_some_and(|own| own.destinations.contains(&it.name)));
        let admitted = own.find_map(|it| it.admits(url).map(|url| (it, url)));
        let (destination, url) = admitted.ok_or("lies under no destination that is set up for you")?;
        let (url, destination) = (url.to_string(), destination.name.clone());
        Ok(Some(Callback { url, destination, context: asked.and_then(|asked| asked.context.clone()) }))
    }
}

impl Gateway {
    /// Where the end of a change is told.
    pub(super) fn callback(&self, caller: &Caller, asked: Option<&CallbackRequest>) -> Result<Option<Callback>, Error> {
        self.callable.callback(&caller.name, asked).map_err(|detail| {
            Error::InvalidChange(vec![Fault { pointer: "/callback/url".to_owned(), detail: detail.to_owned() }])
        })
    }

    /// Has the end of an operation told again that was told, or could not be. Whoever may cancel an operation may do so.
    pub async fn resend_callback(&self, caller: &Caller, id: OperationId) -> Result<Operation, Error> {
        let operation = self.readable(caller, id).await?;
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
        tracing::info!(operation.id = %id, caller.name = caller.name, "its end is told again");
        telemetry::count_callback("resent");
        Ok(operation)
    }
}
