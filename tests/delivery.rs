//! How late a sink of the audit trail is, as the metric shows it, in virtual time. A program of its own, since metrics are
//! those of a process.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

#[path = "support/model_store.rs"]
mod model_store;

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use model_store::Database;
use postern::{
    audit::ExportFormat,
    clock::Clock,
    config::Sink,
    delivery::{Delivery, SinkWriter},
    outbound::Outbound,
    store::{Run, SinkClaim, Store},
    telemetry::{self, LogFormat},
};
use tokio_util::sync::CancellationToken;

/// The metrics, which one test at a time looks at.
static METRICS: LazyLock<tokio::sync::Mutex<telemetry::Telemetry>> = LazyLock::new(|| {
    let (log_format, log_filter) = (LogFormat::Json, "off".to_owned());
    let settings = telemetry::Settings { otlp_endpoint: None, traces_percent: 0, log_format, log_filter };
    telemetry::start(&settings, "test").unwrap().into()
});

fn second(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A store with one record, at the present time.
fn store(clock: Clock) -> Arc<dyn Store> {
    Arc::new(Database::new(clock).open(Run { chain: "chain".to_owned(), clock }))
}

fn delivery(store: &Arc<dyn Store>, clock: Clock, sink: SinkWriter) -> Delivery {
    Delivery { store: Arc::clone(store), clock, owner: "a".to_owned(), format: ExportFormat::Jsonl, sink }
}

/// Takes a sink's turn for another replica; whether there was one to take.
async fn take_turn(store: &Arc<dyn Store>, sink: &str) -> bool {
    let (sink, owner) = (sink.to_owned(), "b".to_owned());
    store.claim_sink(SinkClaim { sink, owner, ttl: second(3600), delivered: None }).await.unwrap().is_some()
}

fn lag(sink: &str) -> f64 {
    let shown = telemetry::exposition().unwrap();
    let of_sink = |line: &&str| line.starts_with("postern_audit_lag_seconds{") && line.contains(&format!("\"{sink}\""));
    let line = shown.lines().find(of_sink).unwrap_or_else(|| panic!("{shown}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Lets a delivery go on for so long.
async fn goes_on(clock: Clock, running: &mut (impl Future<Output = ()> + Unpin), time: Duration) {
    tokio::select! {
        () = running => panic!("nobody stopped it"),
        () = clock.sleep(time) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_its_turn_shows_no_lag() {
    let _metrics = METRICS.lock().await;
    let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
    let store = store(clock);
    // Nothing can be sent to such an address, which takes no time.
    let sink = SinkWriter::new(&Sink::Otlp("data:nowhere".parse().unwrap()), &Outbound::new(clock).unwrap());
    let mut running = Box::pin(delivery(&store, clock, sink).run(CancellationToken::new()));
    goes_on(clock, &mut running, second(600)).await;
    assert!(!take_turn(&store, "otlp").await, "the turn is kept while the sink fails");
    assert!(lag("otlp") > 500.0, "{}", lag("otlp"));
    // The process is suspended for longer than its turn lasts, and another replica takes over.
    clock.sleep(second(61)).await;
    assert!(take_turn(&store, "otlp").await);
    goes_on(clock, &mut running, second(120)).await;
    assert!(lag("otlp").abs() < f64::EPSILON, "{}", lag("otlp"));
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn warnings(&self) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches("does not finish taking").count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_blocks_grows_late_and_is_logged_once() {
    let _metrics = METRICS.lock().await;
    let log = Log::default();
    let made = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || made.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
    let store = store(clock);
    // A thread that writes to standard output waits until this is dropped.
    let blocked = io::stdout().lock();
    let sink = SinkWriter::new(&Sink::Stdout, &Outbound::new(clock).unwrap());
    let stop = CancellationToken::new();
    let mut running = Box::pin(delivery(&store, clock, sink).run(stop.clone()));
    goes_on(clock, &mut running, second(15)).await;
    assert!(lag("stdout") > 10.0, "{}", lag("stdout"));
    assert_eq!(log.warnings(), 0);
    goes_on(clock, &mut running, second(1_000)).await;
    assert!(lag("stdout") > 1_000.0, "{}", lag("stdout"));
    assert_eq!(log.warnings(), 1);
    // Once another replica has the turn, this one is not late.
    while !take_turn(&store, "stdout").await {
        goes_on(clock, &mut running, second(20)).await;
    }
    goes_on(clock, &mut running, second(200)).await;
    assert!(lag("stdout").abs() < f64::EPSILON, "{}", lag("stdout"));
    drop(blocked);
    stop.cancel();
    running.await;
}
