//! Signs checkpoints of the audit trail: at startup, at shutdown, and in between while records are written.
//!
//! Guarantees: as long as the store works, no record of this run waits for a checkpoint longer than the settings say, apart
//! from the time between two looks; an orderly shutdown leaves no record without one. A run that writes nothing signs nothing,
//! so replicas do not keep each other busy. When the key in its file is replaced, the new one signs from the next checkpoint
//! on; if it cannot be used, the previous one continues.
//!
//! It deliberately does not retry what failed: the next look will. Started by the root, if there is a key.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Entry, Head, Signer},
    clock::Clock,
    config,
    store::{Error, Store},
};

/// The longest time between two looks for records to vouch for.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What is signed, by which key, and how often.
#[derive(Debug)]
pub struct Checkpoints {
    store: Arc<dyn Store>,
    clock: Clock,
    settings: config::Audit,
    last: Mutex<Last>,
}

/// The newest checkpoint of this run.
#[derive(Debug)]
struct Last {
    /// The last key that could be used.
    signer: Signer,
    /// The record of our own chain up to which it vouches; the checkpoint itself is a later one. None if there is no checkpoint.
    end: Option<Head>,
    /// When it was signed, by [`Clock::elapsed`].
    at: Duration,
}

/// The key that the settings name, if they name one, or why it cannot be used.
pub fn signer(settings: &config::Audit) -> Result<Option<Signer>, String> {
    let Some(source) = &settings.key else { return Ok(None) };
    let text = source.read().map_err(|error| error.to_string())?;
    Signer::from_pem(text.expose_secret()).map(Some).map_err(|error| format!("{source}: {error}"))
}

impl Checkpoints {
    /// Checkpoints of the run that opened this store.
    pub fn new(store: Arc<dyn Store>, clock: Clock, signer: Signer, settings: &config::Audit) -> Self {
        let last = Mutex::new(Last { signer, end: None, at: Duration::ZERO });
        Self { store, clock, settings: settings.clone(), last }
    }

    /// Looks and signs until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.clock.sleep(self.settings.checkpoint_every.min(POLL_INTERVAL)) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "no checkpoint of the audit trail can be signed at present");
            }
        }
    }

    /// Signs if there is enough to vouch for.
    async fn look(&self) -> Result<(), Error> {
        let Some(own) = self.store.own_chain_head().await? else { return Ok(()) };
        let new = self.new_records(&own).await;
        let waited = self.clock.elapsed().saturating_sub(self.last.lock().await.at);
        let config::Audit { checkpoint_every: every, checkpoint_records: records, .. } = self.settings;
        if new >= records || (new > 0 && waited >= every) { self.sign().await } else { Ok(()) }
    }

    /// How many records this run has written up to `own`, the end of its chain, since its newest checkpoint, which itself is
    /// not counted. If the run has continued in a new chain since, all records of that chain are new.
    async fn new_records(&self, own: &Head) -> u64 {
        let last = self.last.lock().await;
        let vouched =
            last.end.as_ref().filter(|last| last.chain == own.chain).map(|last| last.sequence.saturating_add(1));
        own.sequence.saturating_sub(vouched.unwrap_or(0))
    }

    /// Signs now, if there is anything to vouch for.
    pub async fn sign(&self) -> Result<(), Error> {
        // If there is none, another run's opening has named it.
        let Some(own) = self.store.own_chain_head().await? else { return Ok(()) };
        if self.new_records(&own).await == 0 {
            return Ok(());
        }
        let mut last = self.last.lock().await;
        let ends = self.store.chain_heads().await?;
        let at = self.clock.now();
        match signer(&self.settings) {
            Ok(Some(signer)) => last.signer = signer,
            Ok(None) => {}
            Err(why) => tracing::error!(why, "the key of checkpoints cannot be read; the one before signs"),
        }
        let event = last.signer.checkpoint(&ends, at);
        self.store.append_records(vec![Entry { at, trace_id: None, event }]).await?;
        last.end = ends.into_iter().find(|end| end.chain == own.chain).or(last.end.take());
        last.at = self.clock.elapsed();
        Ok(())
    }
}
