//! Several gateways share a store: one of them at a time sends each callback, only once if its receiver accepts it.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use tokio::sync::watch;

use crate::fleet::{Change, Fleet, PATIENCE, configuration, group};

/// What a receiver has seen of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    attempts: usize,
    under_way: usize,
    delivered: usize,
}

#[derive(Default)]
struct Receiver {
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Whether two attempts at one message were in flight at once.
    overlapped: AtomicBool,
    /// Whether messages are kept waiting.
    held: watch::Sender<bool>,
    news: watch::Sender<()>,
}

/// Rejects the first attempt at every message, and accepts the second.
async fn take(request: HttpRequest, receiver: web::Data<Receiver>) -> HttpResponse {
    let id = request.headers().get("webhook-id").unwrap().to_str().unwrap().to_owned();
    let attempts = {
        let mut seen = receiver.seen.lock().unwrap();
        let seen = seen.entry(id.clone()).or_default();
        (seen.attempts, seen.under_way) = (seen.attempts + 1, seen.under_way + 1);
        receiver.overlapped.fetch_or(seen.under_way > 1, Ordering::Relaxed);
        seen.attempts
    };
    receiver.news.send_replace(());
    let held = tokio::time::timeout(PATIENCE, receiver.held.subscribe().wait_for(|held| !held)).await.is_err();
    let is_taken = attempts > 1 && !held;
    {
        let mut seen = receiver.seen.lock().unwrap();
        let seen = seen.get_mut(&id).unwrap();
        (seen.under_way, seen.delivered) = (seen.under_way - 1, seen.delivered + usize::from(is_taken));
    }
    receiver.news.send_replace(());
    if is_taken { HttpResponse::NoContent() } else { HttpResponse::InternalServerError() }.finish()
}

fn start() -> (String, web::Data<Receiver>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let receiver = web::Data::new(Receiver::default());
    let kept = receiver.clone();
    let app = move || App::new().app_data(kept.clone()).default_service(web::to(take));
    let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0).listen(listener).unwrap();
    drop(tokio::spawn(server.run()));
    (url, receiver)
}

impl Receiver {
    async fn until(&self, so: impl Fn(&BTreeMap<String, Seen>) -> bool) -> BTreeMap<String, Seen> {
        let mut news = self.news.subscribe();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if so(&seen) {
                return seen;
            }
            let changed = tokio::time::timeout(PATIENCE, news.changed()).await;
            assert!(changed.is_ok(), "nothing more came: {seen:?}");
        }
    }
}

/// Three gateways whose changes have callbacks to a receiver.
async fn fleet(configurations: usize, url: &str) -> Fleet {
    let edit = |folder: &Path| {
        let file = folder.join("gateway.toml");
        let caller = "name = \"servicenow\"\nissuer = \"sandbox\"\n";
        let told = format!("{caller}destinations = [\"desk\"]\ncallback_url = \"{url}/told\"\n");
        let destination = format!(
            "[callbacks]\npause_first = \"10ms\"\npause_longest = \"10ms\"\ntimeout = \"1s\"\n[[destinations]]\n\
             name = \"desk\"\nurl = \"{url}\"\nnetwork = \"loopback\"\nsecret_file = \"signing\"\n"
        );
        let text = std::fs::read_to_string(&file).unwrap().replace(caller, &told);
        std::fs::write(&file, text + &destination).unwrap();
        std::fs::write(folder.join("signing"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    };
    Fleet::with(configurations, edit).await
}

async fn changed(fleet: &Fleet, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let change = Change {
            key: format!("change-{number}"),
            configuration: configuration(number % 3),
            list: "add",
            group: group(number % 8),
        };
        let url = &fleet.replicas[number % fleet.replicas.len()].url;
        Fleet::submit(&fleet.client, url, &fleet.token, &change).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_end_is_told_by_one_gateway_at_a_time_and_once() {
    let (url, receiver) = start();
    let fleet = fleet(3, &url).await;
    changed(&fleet, 0..30).await;
    let all_told = |seen: &BTreeMap<String, Seen>| seen.len() == 30 && seen.values().all(|it| it.delivered == 1);
    let seen = receiver.until(all_told).await;
    assert!(seen.values().all(|seen| seen.attempts == 2), "{seen:?}");
    assert!(!receiver.overlapped.load(Ordering::Relaxed), "two gateways sent one message at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gateways_were_sending_when_they_died_is_sent_by_the_next() {
    let (url, receiver) = start();
    let mut fleet = fleet(3, &url).await;
    receiver.held.send_replace(true);
    changed(&fleet, 0..3).await;
    receiver.until(|seen| seen.values().filter(|seen| seen.under_way > 0).count() == 3).await;
    for place in 0..fleet.replicas.len() {
        fleet.signal(place, "KILL");
    }
    receiver.held.send_replace(false);
    let next = fleet.replica().await;
    let seen = receiver.until(|seen| seen.values().all(|seen| seen.delivered == 1)).await;
    assert_eq!(seen.len(), 3);
    drop(next);
}
