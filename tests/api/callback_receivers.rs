//! Receivers of callbacks: a caller's system over HTTP that records messages and responds as configured.

use std::{
    collections::{BTreeMap, VecDeque},
    net::TcpListener,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpResponseBuilder, HttpServer, dev::ServerHandle, http::StatusCode, web,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    webhook_senders::{STANDARD_SECRET, standard_signature},
    world::{EVERYTHING, Setup, TRIES, World},
};

/// How long a message is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedMessage {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl ReceivedMessage {
    pub(crate) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// The operation that it is about.
    pub(crate) fn subject(&self) -> String {
        self.body()["subject"].as_str().unwrap().to_owned()
    }

    /// Whether one of its signatures was made with this secret.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        let timestamp = &self.headers["webhook-timestamp"];
        let expected = standard_signature(secret, self.id(), timestamp, &self.text);
        self.headers["webhook-signature"].split(' ').any(|signature| signature == expected)
    }
}

/// A status and optionally one header.
type Answer = (u16, Option<(&'static str, &'static str)>);

#[derive(Default)]
struct State {
    taken: Mutex<Vec<ReceivedMessage>>,
    answers: Mutex<VecDeque<Answer>>,
    /// Requests to the token endpoint.
    asked: Mutex<Vec<String>>,
    /// What is answered there instead of a token.
    no_token: Mutex<Option<Answer>>,
    tokens_held: watch::Sender<bool>,
    /// What is answered when nothing else was ordered.
    usual: Mutex<Option<u16>>,
    /// How many bytes each answer has.
    length: AtomicUsize,
    count: watch::Sender<usize>,
    /// After how many messages the others wait for their answer.
    held: watch::Sender<Option<usize>>,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    state: web::Data<State>,
    server: ServerHandle,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = web::Data::new(State::default());
        let kept = state.clone();
        let app = move || App::new().app_data(kept.clone()).default_service(web::to(take));
        let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0).listen(listener).unwrap();
        let server = server.run();
        let handle = server.handle();
        drop(tokio::spawn(server));
        Self { url, state, server: handle }
    }

    /// Queues responses for the next messages, in order.
    pub(crate) fn answer(&self, answers: &[Answer]) {
        self.state.answers.lock().unwrap().extend(answers);
    }

    /// The response to every message from now on.
    pub(crate) fn answer_always(&self, status: u16) {
        *self.state.usual.lock().unwrap() = Some(status);
    }

    /// So many bytes come with every answer from now on.
    pub(crate) fn answer_at_length(&self, bytes: usize) {
        self.state.length.store(bytes, Ordering::SeqCst);
    }

    /// The answer to every request for a token from now on.
    pub(crate) fn give_no_token(&self, answer: Answer) {
        *self.state.no_token.lock().unwrap() = Some(answer);
    }

    /// Keeps requests for tokens waiting for their answer.
    pub(crate) fn hold_tokens(&self) {
        self.state.tokens_held.send_replace(true);
    }

    pub(crate) fn release_tokens(&self) {
        self.state.tokens_held.send_replace(false);
    }

    /// Keeps messages waiting for their answer.
    pub(crate) fn hold(&self) {
        self.hold_after(0);
    }

    /// Keeps all messages but the first ones waiting for their answer.
    pub(crate) fn hold_after(&self, messages: usize) {
        self.state.held.send_replace(Some(messages));
    }

    pub(crate) fn release(&self) {
        self.state.held.send_replace(None);
    }

    /// The bodies of requests to its token endpoint, `/token`.
    pub(crate) fn asked_for_tokens(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    pub(crate) fn taken(&self) -> Vec<ReceivedMessage> {
        self.state.taken.lock().unwrap().clone()
    }

    /// Waits until this many messages have arrived.
    pub(crate) async fn received(&self, messages: usize) -> Vec<ReceivedMessage> {
        let mut count = self.state.count.subscribe();
        let came = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= messages)).await;
        assert!(came.is_ok(), "{messages} messages were to come: {:?}", self.taken());
        self.taken()
    }

    pub(crate) async fn end(self) {
        self.server.stop(false).await;
    }
}

async fn take(request: HttpRequest, body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    if request.path() == "/token" {
        let number = {
            let mut asked = state.asked.lock().unwrap();
            asked.push(String::from_utf8(body.to_vec()).unwrap());
            asked.len()
        };
        state.tokens_held.subscribe().wait_for(|held| !held).await.unwrap();
        let no_token = *state.no_token.lock().unwrap();
        return match no_token {
            Some(answer) => response(answer).finish(),
            None => response((200, None)).json(json!({"access_token": format!("token-{number}"), "expires_in": 3600})),
        };
    }
    let text = |value: &actix_web::http::header::HeaderValue| value.to_str().unwrap().to_owned();
    let taken = ReceivedMessage {
        path: request.uri().to_string(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        text: String::from_utf8(body.to_vec()).unwrap(),
    };
    let answer = state.answers.lock().unwrap().pop_front();
    let usual = state.usual.lock().unwrap().unwrap_or(204);
    let number = {
        let mut all = state.taken.lock().unwrap();
        all.push(taken);
        state.count.send_replace(all.len());
        all.len()
    };
    let mut held = state.held.subscribe();
    held.wait_for(|held| held.is_none_or(|after| number <= after)).await.unwrap();
    response(answer.unwrap_or((usual, None))).body("x".repeat(state.length.load(Ordering::SeqCst)))
}

fn response((status, header): Answer) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    if let Some(header) = header {
        response.insert_header(header);
    }
    response
}

/// A world in which servicenow may have callbacks sent to a receiver.
pub(crate) struct CallbackWorld {
    pub(crate) world: World,
    pub(crate) receiver: Receiver,
    /// The folder of secrets: `signing` and `credential`.
    pub(crate) secrets: TempDir,
}

impl CallbackWorld {
    pub(crate) async fn start() -> Self {
        Self::with("", &[]).await
    }

    /// With more settings for its destination, and callback settings as environment variables.
    pub(crate) async fn with(more: &str, settings: &[(&'static str, &'static str)]) -> Self {
        let receiver = Receiver::start();
        Self::of(&receiver.url.clone(), more, settings, receiver).await
    }

    /// With a destination of this URL, and this receiver.
    pub(crate) async fn of(
        url: &str,
        more: &str,
        settings: &[(&'static str, &'static str)],
        receiver: Receiver,
    ) -> Self {
        let secrets = tempfile::tempdir().unwrap();
        std::fs::write(secrets.path().join("signing"), format!("{STANDARD_SECRET}\n")).unwrap();
        std::fs::write(secrets.path().join("credential"), "a credential of 32 characters at least\n").unwrap();
        let setup = Setup {
            policies: vec![EVERYTHING],
            settings: [("CALLBACKS__PAUSE_FIRST", "10ms"), ("CALLBACKS__PAUSE_LONGEST", "10ms")]
                .into_iter()
                .chain(settings.iter().copied())
                .collect(),
            edits: edits(url, more, &secrets),
            ..Setup::default()
        };
        Self { world: World::with(setup).await, receiver, secrets }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/api/postern", self.receiver.url)
    }

    /// A change with a callback.
    pub(crate) fn with_callback_to_receiver(&self, change: Value, context: impl Into<Value>) -> Value {
        with_callback(change, json!({"url": self.url(), "context": context.into()}))
    }

    /// The callback of an operation, once it is in this state.
    pub(crate) async fn callback(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..TRIES {
            last = self.world.operation(id).await.body["callback"].clone();
            if last["state"] == state {
                return last;
            }
            tokio::task::yield_now().await;
        }
        panic!("the callback of {id} never was {state}: {last}");
    }

    pub(crate) async fn end(self) {
        self.world.end().await;
        self.receiver.end().await;
    }
}

/// A destination called `desk`, which servicenow may use.
pub(crate) fn edits(url: &str, more: &str, secrets: &TempDir) -> Vec<(&'static str, String)> {
    let signing = secrets.path().join("signing");
    let network = if more.contains("network") { "" } else { "network = \"loopback\"\n" };
    let destination = format!(
        "[[destinations]]\nname = \"desk\"\nurl = \"{url}/api\"\n{network}secret_file = \"{}\"\n{}\n[catalogue.groups]\n",
        signing.display(),
        more.replace("SECRETS", &secrets.path().display().to_string()),
    );
    let caller = "name = \"servicenow\"\nissuer = \"sandbox\"\n";
    vec![("[catalogue.groups]\n", destination), (caller, format!("{caller}destinations = [\"desk\"]\n"))]
}

pub(crate) fn with_callback(mut change: Value, callback: Value) -> Value {
    change["callback"] = callback;
    change
}
