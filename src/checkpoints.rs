//! Has a key vouch for the audit trail: at start, at the end, and in between while records are written.
//!
//! Guarantees: with a key, no record of this run waits for a checkpoint longer than the settings say, as long as the store
//! works; a run that stops in order leaves no record that none vouches for. A run that writes nothing signs nothing, so
//! replicas do not keep each other busy. A key that takes the place of another in its file signs from the next checkpoint on; where it
//! cannot be used, the one before goes on.
//!
//! It deliberately repeats nothing that failed: the next look comes. Started by the root, if there is a key.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Entry, Signer},
    clock::Clock,
    config,
    store::{Error, Store},
};

/// How often it is looked whether there is something to vouch for, at least.
const LOOK: Duration = Duration::from_secs(2);

/// What is signed, by which key, and how often.
#[derive(Debug)]
pub struct Checkpoints {
    store: Arc<dyn Store>,
    clock: Clock,
    settings: config::Audit,
    /// This run's chain.
    chain: String,
    last: Mutex<Last>,
}

/// The newest checkpoint of this run.
#[derive(Debug)]
struct Last {
    /// The key that was good then.
    signer: Signer,
    /// Up to which record of the own chain it vouches; itself is the next or a later one.
    sequence: u64,
    /// By [`Clock::elapsed`].
    at: Duration,
}

/// The key that the settings name, if they name one, or why it cannot be used.
pub fn signer(settings: &config::Audit) -> Result<Option<Signer>, String> {
    let Some(source) = &settings.key else { return Ok(None) };
    let text = source.read().map_err(|error| error.to_string())?;
    Signer::from_pem(text.expose_secret()).map(Some).map_err(|error| format!("{source}: {error}"))
}

impl Checkpoints {
    /// Checkpoints of the run that writes this chain.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        signer: Signer,
        (chain, settings): (String, &config::Audit),
    ) -> Self {
        let last = Mutex::new(Last { signer, sequence: 0, at: Duration::ZERO });
        Self { store, clock, settings: settings.clone(), chain, last }
    }

    /// Signs, time after time, until it is stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.clock.sleep(self.settings.checkpoint_every.min(LOOK)) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "no checkpoint of the audit trail can be signed at present");
            }
        }
    }

    /// Signs if there is enough to vouch for.
    async fn look(&self) -> Result<(), Error> {
        let new = self.new_records().await?;
        let waited = self.clock.elapsed().saturating_sub(self.last.lock().await.at);
        let config::Audit { checkpoint_every: every, checkpoint_records: records, .. } = self.settings;
        if new >= records || (new > 0 && waited >= every) { self.sign().await } else { Ok(()) }
    }

    /// Records of this run that are younger than its newest checkpoint, itself not counted.
    async fn new_records(&self) -> Result<u64, Error> {
        let ends = self.store.ends().await?;
        // If it is not among them, another run's opening has named its end.
        let end = ends.iter().find(|end| end.chain == self.chain).map_or(0, |end| end.sequence);
        let Last { sequence, .. } = *self.last.lock().await;
        Ok(end.saturating_sub(sequence).saturating_sub(u64::from(sequence > 0)))
    }

    /// Signs now, if there is anything to vouch for.
    pub async fn sign(&self) -> Result<(), Error> {
        if self.new_records().await? == 0 {
            return Ok(());
        }
        let mut last = self.last.lock().await;
        let ends = self.store.ends().await?;
        let at = self.clock.now();
        match signer(&self.settings) {
            Ok(Some(signer)) => last.signer = signer,
            Ok(None) => {}
            Err(why) => tracing::error!(why, "the key of checkpoints cannot be read; the one before signs"),
        }
        let event = last.signer.checkpoint(&ends, at);
        self.store.record(vec![Entry { at, trace_id: None, event }]).await?;
        let own = ends.iter().find(|end| end.chain == self.chain);
        last.sequence = own.map_or(last.sequence, |end| end.sequence);
        last.at = self.clock.elapsed();
        Ok(())
    }
}
