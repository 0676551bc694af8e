//! Callers that send on schedule, and their latencies.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use postern::clock::Clock;
use reqwest::{
    Client,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use tokio::sync::{Mutex, mpsc};

use crate::environment::{GROUPS, client, configuration, group, sent};

/// When requests are due.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// This many a second, evenly, whatever the responses.
    Rate(u32),
    /// As soon as a connection is free.
    Closed,
}

/// The `Prefer` header of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Respond at once, while the change is still queued (`respond-async`).
    Async,
    /// Wait for the end of the change.
    Waiting,
}

/// The requests to send.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Base URLs; changes are sent to them in turn.
    pub(crate) urls: Vec<String>,
    pub(crate) tokens: Arc<Vec<HeaderValue>>,
    pub(crate) changes: u64,
    /// Number of configurations that the changes are spread over.
    pub(crate) configurations: u64,
    pub(crate) pace: Pace,
    pub(crate) connections: usize,
    pub(crate) mode: Mode,
}

/// Tokens as values of the `Authorization` header.
pub(crate) fn headers(tokens: &[String]) -> Arc<Vec<HeaderValue>> {
    Arc::new(tokens.iter().map(|token| HeaderValue::from_str(&format!("Bearer {token}")).unwrap()).collect())
}

/// The results.
pub(crate) struct Driven {
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// Latencies in ascending order.
    pub(crate) waits: Vec<Duration>,
    /// Number of responses by status; 0 for none.
    pub(crate) answers: BTreeMap<u16, u64>,
}

impl Driven {
    /// A percentile of the latencies, in milliseconds; `part` is between 0 and 1.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let place = ((self.waits.len() as f64 * part).ceil() as usize).clamp(1, self.waits.len());
        self.waits[place - 1].as_secs_f64() * 1_000.0
    }

    pub(crate) fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.took.as_secs_f64()
    }

    /// Panics unless every change was accepted.
    pub(crate) fn all_accepted(&self) {
        let other: Vec<_> = self.answers.iter().filter(|(status, _)| !matches!(status, 200..300)).collect();
        assert!(other.is_empty(), "refused, by status: {other:?}");
    }
}

/// A request, and when it is due by the clock.
struct Due {
    number: u64,
    since: Duration,
}

/// Sends everything planned; each change has its own key.
pub(crate) async fn drive(plan: &Plan) -> Driven {
    // Numbers continue from one plan to the next, so that no key is reused.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let first = NUMBER.fetch_add(plan.changes, Ordering::Relaxed);
    let clock = Clock::system();
    let (due, queue) = mpsc::unbounded_channel();
    let (pace, changes) = (plan.pace, plan.changes);
    // A thread of its own: a runtime's timers are a millisecond late.
    let timetable = thread::spawn(move || keep_time(pace, first..first + changes, &due, clock));
    let queue = Arc::new(Mutex::new(queue));
    let client = client(plan.connections);
    let connections = (0..plan.connections).map(|_| {
        let (plan, client, queue) = (plan.clone(), client.clone(), Arc::clone(&queue));
        tokio::spawn(async move { answer_all(&plan, &client, &queue, clock).await })
    });
    let answered = join_all(connections.collect::<Vec<_>>()).await;
    let took = clock.elapsed();
    timetable.join().unwrap();
    let mut driven = Driven { took, waits: Vec::new(), answers: BTreeMap::new() };
    for (status, wait) in answered.into_iter().flat_map(Result::unwrap) {
        *driven.answers.entry(status).or_default() += 1;
        driven.waits.push(wait);
    }
    driven.waits.sort_unstable();
    driven
}

fn keep_time(pace: Pace, numbers: std::ops::Range<u64>, due: &mpsc::UnboundedSender<Due>, clock: Clock) {
    let first = numbers.start;
    for number in numbers {
        let since = match pace {
            Pace::Rate(rate) => Duration::from_secs_f64((number - first) as f64 / f64::from(rate)),
            Pace::Closed => Duration::ZERO,
        };
        if let Some(early) = since.checked_sub(clock.elapsed()) {
            thread::sleep(early);
        }
        due.send(Due { number, since }).ok().unwrap();
    }
}

/// Sends what is due over one connection, one after another; returns each status and latency.
async fn answer_all(
    plan: &Plan,
    client: &Client,
    queue: &Mutex<mpsc::UnboundedReceiver<Due>>,
    clock: Clock,
) -> Vec<(u16, Duration)> {
    let mut answered = Vec::new();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(Due { number, since }) = next else { return answered };
        let since = if matches!(plan.pace, Pace::Closed) { clock.elapsed() } else { since };
        let status = ask(plan, client, number).await;
        answered.push((status, clock.elapsed().saturating_sub(since)));
    }
}

async fn ask(plan: &Plan, client: &Client, number: u64) -> u16 {
    // Scattered, so that neighbours share neither caller nor configuration.
    let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let verb = if chance & 1 == 0 { "add" } else { "remove" };
    let (configuration, group) =
        (configuration(u128::from(number % plan.configurations) + 1), group(u128::from((chance >> 8) % GROUPS as u64)));
    let body = format!(
        r#"{{"configuration":"{configuration}","{verb}":[{{"group":"{group}"}}],"ticket":"RITM{number:07}","requested_for":"jane.doe@contoso.com","comment":"New sales floor"}}"#
    );
    let url = &plan.urls[number as usize % plan.urls.len()];
    let mut request = client
        .post(format!("{url}/v1/assignments"))
        .header(AUTHORIZATION, &plan.tokens[number as usize % plan.tokens.len()])
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", format!("key-{number}"))
        .body(body);
    if plan.mode == Mode::Async {
        request = request.header("prefer", "respond-async");
    }
    let Ok(answer) = sent(request).await else { return 0 };
    let status = answer.status().as_u16();
    if answer.bytes().await.is_ok() { status } else { 0 }
}
