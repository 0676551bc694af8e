//! Reloads policies, catalogue and log filter when their files change, without a restart.
//!
//! The files are compared by content every few seconds: a mounted `ConfigMap` changes by swapping a link, which no timestamp
//! shows. Guarantees: all or nothing, and only what passes the checks of startup; a refusal is reported once, by log, audit
//! trail and metric (the record waits until the store can write it), and the version in force stays. A change takes effect
//! only if two reads in a row see the same: half a file of policies, still being written, can be valid and lack its last
//! `forbid`. A signal skips that: its sender vouches that the files are complete. A version is in force only once that is
//! recorded.
//!
//! It deliberately leaves every other setting alone: addresses, callers and issuers need a restart, as the log says.
//! Secrets are read where they are used. Started by `app`.

use std::{path::Path, sync::Arc};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Entry, Event},
    clock::Clock,
    config::{self, Catalogue, Config, Fault, Origin},
    domain::Digest,
    gateway::Current,
    policy::Policies,
    store::Store,
    telemetry,
    webhooks::{self, Webhooks},
};

/// Faults that the audit record lists; the log has all.
const FAULTS_MAX: usize = 20;

/// What the files contain, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    settings: Digest,
    policies: Digest,
}

/// What is reloaded, and from where.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) current: Arc<Current>,
    pub(crate) webhooks: Arc<Webhooks>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) origin: Origin,
    pub(crate) policy: config::Policy,
    /// Notified to reload at once.
    pub(crate) requested: Arc<Notify>,
    pub(crate) in_force: Content,
    pub(crate) callers: Vec<String>,
    /// Refusals that are not in the audit trail yet, since the store could not write them.
    pub(crate) unrecorded: Vec<Entry>,
}

/// What was read and has no fault.
struct New {
    policies: Policies,
    catalogue: Catalogue,
    log_filter: String,
}

/// Why the files were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    Time,
    Asked,
}

/// What to do about what was found.
enum Look {
    /// Nothing.
    Known,
    /// It is new: read it again before it counts.
    New,
    /// Put it in force.
    Whole,
}

impl Content {
    /// What is in the files now.
    pub(crate) fn found(origin: &Origin, policies: &Path) -> Self {
        Self { settings: origin.digest_now(), policies: policies_digest(policies) }
    }

    /// The settings as they were read, and the policy files before they are loaded.
    pub(crate) fn at_start(origin: &Origin, policies: &Path) -> Self {
        Self { settings: origin.digest().clone(), policies: policies_digest(policies) }
    }

    /// The audit record of putting it in force.
    pub(crate) fn loaded(&self, callers: Vec<String>, clock: Clock) -> Entry {
        let Self { settings, policies } = self.clone();
        entry(Event::ConfigurationLoaded { policies, settings, callers }, clock)
    }
}

impl Reload {
    /// Checks the files again and again, until it is stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (mut seen, mut refused) = (None, None);
        loop {
            let because = tokio::select! {
                () = self.clock.sleep(self.policy.reload_interval) => Because::Time,
                () = self.requested.notified() => Because::Asked,
                () = stop.cancelled() => return,
            };
            self.record_refusals().await;
            let Ok(found) = self.look().await else { continue };
            match self.judge(&found, (&seen, &refused), because) {
                Look::Known => seen = None,
                Look::New => seen = Some(found),
                Look::Whole => {
                    seen = None;
                    refused = self.apply(found).await.err().flatten();
                }
            }
        }
    }

    fn judge(&self, found: &Content, (seen, refused): (&Option<Content>, &Option<Content>), because: Because) -> Look {
        if because == Because::Asked {
            return Look::Whole;
        }
        let known = *found == self.in_force || refused.as_ref() == Some(found);
        match seen {
            _ if known => Look::Known,
            Some(before) if before == found => Look::Whole,
            Some(_) | None => Look::New,
        }
    }

    /// On a thread for blocking calls: reading can take as long as the disk does.
    async fn look(&self) -> Result<Content, tokio::task::JoinError> {
        let (origin, dir) = (self.origin.clone(), self.policy.dir.clone());
        tokio::task::spawn_blocking(move || Content::found(&origin, &dir)).await
    }

    /// Puts what was found in force; what is refused is returned as the error.
    async fn apply(&mut self, found: Content) -> Result<(), Option<Content>> {
        let (origin, dir) = (self.origin.clone(), self.policy.dir.clone());
        let checked = tokio::task::spawn_blocking(move || checked(&origin, &dir)).await;
        let again = self.look().await;
        // They changed while they were read: what was read is neither the old content nor the new.
        if again.ok().as_ref() != Some(&found) {
            return Err(None);
        }
        match checked {
            Ok(Ok(new)) => self.put_in_force(found, new).await,
            Ok(Err(faults)) => Err(self.refuse(found, &faults).await),
            Err(broken) => {
                tracing::error!(error = %broken, "checking the changed settings and policies failed unexpectedly");
                Err(None)
            }
        }
    }

    async fn put_in_force(&mut self, found: Content, new: New) -> Result<(), Option<Content>> {
        let New { policies, catalogue, log_filter } = new;
        if let Err(error) = self.store.append_records(vec![found.loaded(self.callers.clone(), self.clock)]).await {
            tracing::warn!(%error, "new policies and catalogue cannot be recorded, so they are not in force yet");
            return Err(None);
        }
        self.webhooks.replace_catalogue(&catalogue);
        self.current.replace(policies, catalogue);
        telemetry::count_load("loaded");
        tracing::info!(
            policies = %found.policies,
            settings = %found.settings,
            "policies, catalogue and log filter are reloaded; other settings need a restart"
        );
        // Only now, so that the line above is logged under the filter that was in force.
        if let Err(error) = telemetry::refilter(&log_filter) {
            tracing::warn!(%error, "the log filter cannot be changed and stays as it was");
        }
        self.in_force = found;
        Ok(())
    }

    async fn refuse(&mut self, found: Content, faults: &[Fault]) -> Option<Content> {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        tracing::error!(faults = faults.join("\n"), "changed settings or policies are refused; those in force stay");
        let Content { settings, policies } = found.clone();
        let faults = faults.into_iter().take(FAULTS_MAX).collect();
        let event = Event::ConfigurationRefused { policies, settings, faults };
        self.unrecorded.push(entry(event, self.clock));
        self.record_refusals().await;
        telemetry::count_load("refused");
        Some(found)
    }

    /// Records refusals; those that the store cannot write now are kept for the next time.
    async fn record_refusals(&mut self) {
        if self.unrecorded.is_empty() {
            return;
        }
        match self.store.append_records(self.unrecorded.clone()).await {
            Ok(()) => self.unrecorded.clear(),
            Err(error) => {
                tracing::warn!(%error, "the refusal cannot be recorded in the audit trail yet; it is tried again");
            }
        }
    }
}

fn entry(event: Event, clock: Clock) -> Entry {
    Entry { at: clock.now(), trace_id: None, event }
}

/// What is in the files, checked as at startup.
fn checked(origin: &Origin, dir: &Path) -> Result<New, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut keep = |found: Vec<Fault>| faults.extend(found);
    let config = origin.load().map_err(&mut keep).ok();
    let settings = config.map(|Config { catalogue, webhooks, telemetry, .. }| {
        keep(webhooks::examine(&webhooks, &catalogue));
        (catalogue, telemetry.log_filter)
    });
    let policies = Policies::load(dir).map_err(&mut keep).ok();
    let new = policies.zip(settings).filter(|_| faults.is_empty());
    new.map(|(policies, (catalogue, log_filter))| New { policies, catalogue, log_filter }).ok_or(faults)
}

/// A digest of all policy files, by name and content. Files that cannot be read have one, too.
fn policies_digest(dir: &Path) -> Digest {
    let text = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => format!("{:?}", String::from_utf8_lossy(&bytes)),
        Err(error) => format!("unreadable: {:?}", error.kind()),
    };
    let mut files: Vec<_> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "cedar" || ending == "cedarschema"))
            .map(|path| format!("{:?} {}\n", path.file_name().unwrap_or_default().to_string_lossy(), text(&path)))
            .collect(),
        Err(error) => vec![format!("unreadable: {:?}", error.kind())],
    };
    files.sort();
    Digest::of(files.concat().as_bytes())
}
