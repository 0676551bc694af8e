//! A collector of traces: takes what is sent by OTLP over HTTP and shows the spans.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message as _;

type Received = Arc<Mutex<Vec<ResourceSpans>>>;

pub(crate) struct Collector {
    pub(crate) url: String,
    received: Received,
    server: ServerHandle,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Received::default();
        let state = web::Data::new(Arc::clone(&received));
        let app = move || {
            let size = web::PayloadConfig::new(16 * 1024 * 1024);
            App::new().app_data(state.clone()).app_data(size).route("/v1/traces", web::post().to(take))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        drop(tokio::spawn(server));
        Self { url, received, server: handle }
    }

    /// Everything that came, after the sender has ended.
    pub(crate) async fn end(self) -> Vec<ResourceSpans> {
        self.server.stop(true).await;
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

async fn take(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    received.lock().unwrap().extend(request.resource_spans);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

pub(crate) fn spans(received: &[ResourceSpans]) -> Vec<Span> {
    received.iter().flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans).cloned().collect()
}

/// An attribute that is a text or a whole number, as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let Some(AnyValue { value: Some(value) }) = &found.value else { return None };
    if let any_value::Value::IntValue(number) = value {
        return Some(number.to_string());
    }
    if let any_value::Value::StringValue(text) = value { Some(text.clone()) } else { None }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
