//! What Graph says about configurations and groups, remembered for a while.
//!
//! Guarantees: one look-up at a time for one thing; groups that are asked for while a look-up is under way share the
//! next one, up to Graph's limit. What was not found is asked for again sooner than what was.
//!
//! It deliberately never answers from memory what decides a write: the present set is always read anew.

use std::{
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use crate::{
    domain::{Configuration, ConfigurationId, GroupId},
    graph::{self, GROUPS_MAX, Upstream},
    telemetry,
};

/// Configurations remembered; a tenant has tens.
const CONFIGURATIONS_MAX: u64 = 1_000;
/// Groups remembered.
const GROUPS_REMEMBERED_MAX: u64 = 50_000;
/// How long something that was not found is taken as absent.
const ABSENT_TTL: Duration = Duration::from_secs(15);
/// Look-ups that wait for their call; more wait at the door.
const QUEUE_MAX: usize = 1_024;

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownGroup {
    /// It exists, under this name.
    Named(String),
    /// Graph does not let us look; the id is taken as it is.
    Unchecked,
}

/// The memory.
#[derive(Clone, Debug)]
pub(super) struct Names {
    upstream: Arc<dyn Upstream>,
    configurations: Cache<ConfigurationId, Option<Configuration>>,
    groups: Cache<GroupId, Option<KnownGroup>>,
    questions: mpsc::Sender<Question>,
}

/// A group that somebody waits for.
struct Question {
    id: GroupId,
    /// The trace of whoever asks.
    traceparent: Option<String>,
    answer: oneshot::Sender<Result<Option<KnownGroup>, graph::Error>>,
}

/// Absent things expire sooner.
struct ByPresence {
    ttl: Duration,
}

impl<K: Hash, V> Expiry<K, Option<V>> for ByPresence {
    fn expire_after_create(&self, _key: &K, value: &Option<V>, _created_at: Instant) -> Option<Duration> {
        Some(if value.is_some() { self.ttl } else { ABSENT_TTL.min(self.ttl) })
    }
}

impl Names {
    /// A memory of what this Graph says; needs a running runtime.
    pub(super) fn new(upstream: Arc<dyn Upstream>, ttl: Duration) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(answer(Arc::clone(&upstream), asked));
        let configurations = Cache::builder().max_capacity(CONFIGURATIONS_MAX).expire_after(ByPresence { ttl }).build();
        let groups = Cache::builder().max_capacity(GROUPS_REMEMBERED_MAX).expire_after(ByPresence { ttl }).build();
        Self { upstream, configurations, groups, questions }
    }

    /// The configuration of this id; none if Graph has none.
    pub(super) async fn configuration(&self, id: &ConfigurationId) -> Result<Option<Configuration>, graph::Error> {
        let ask = async {
            match self.upstream.configuration(id).await {
                Ok(configuration) => Ok(Some(configuration)),
                Err(graph::Error::Missing(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.configurations.try_get_with(id.clone(), ask).await.map_err(|error| graph::Error::clone(&error))
    }

    /// The group of this id; none if the directory has none.
    pub(super) async fn group(&self, id: GroupId) -> Result<Option<KnownGroup>, graph::Error> {
        let gone = || graph::Error::Unavailable("the look-up of groups has stopped".to_owned());
        let ask = async {
            let (answer, answered) = oneshot::channel();
            let question = Question { id, traceparent: telemetry::traceparent(), answer };
            self.questions.send(question).await.map_err(|_closed| gone())?;
            answered.await.map_err(|_closed| gone())?
        };
        self.groups.try_get_with(id, ask).await.map_err(|error| graph::Error::clone(&error))
    }
}

/// Answers questions about groups, all that are waiting at once, until nobody can ask any more.
async fn answer(upstream: Arc<dyn Upstream>, mut asked: mpsc::Receiver<Question>) {
    let mut questions = Vec::with_capacity(GROUPS_MAX);
    while asked.recv_many(&mut questions, GROUPS_MAX).await > 0 {
        let ids: Vec<_> = questions.iter().map(|question| question.id).collect();
        // One look-up answers several requests, so it belongs to none of their traces and links to all.
        let span = tracing::info_span!("look up groups", otel.kind = "internal", groups = ids.len());
        for question in &questions {
            telemetry::link(&span, question.traceparent.as_deref());
        }
        // In a task of its own: a fault of ours in one look-up must not end all later ones.
        let upstream = Arc::clone(&upstream);
        let look_up = tokio::spawn(async move { upstream.groups(&ids).await }.instrument(span));
        let found = look_up.await.unwrap_or_else(|ended| {
            tracing::error!(error = %ended, "a look-up of groups broke off");
            Err(graph::Error::Unavailable("the look-up of groups broke off".to_owned()))
        });
        for Question { id, answer, .. } in questions.drain(..) {
            let known = match &found {
                Ok(groups) => {
                    Ok(groups.iter().find(|group| group.id == id).map(|group| KnownGroup::Named(group.name.clone())))
                }
                Err(graph::Error::Forbidden(_)) => Ok(Some(KnownGroup::Unchecked)),
                Err(error) => Err(error.clone()),
            };
            // Whoever asked may have hung up meanwhile.
            drop(answer.send(known));
        }
    }
}
