//! A collector: receives OTLP over HTTP and exposes spans, metrics and log events.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, NumberDataPoint, metric, number_data_point},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message as _;

/// What was received, available once the sender has ended.
#[derive(Default)]
pub(crate) struct Telemetry {
    pub(crate) spans: Vec<ResourceSpans>,
    pub(crate) logs: Vec<LogRecord>,
    metrics: Vec<Metric>,
}

type Received = Arc<Mutex<Telemetry>>;

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
            App::new()
                .app_data(state.clone())
                .app_data(size)
                .route("/v1/traces", web::post().to(take))
                .route("/v1/metrics", web::post().to(count))
                .route("/v1/logs", web::post().to(note))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        drop(tokio::spawn(server));
        Self { url, received, server: handle }
    }

    /// Everything received, once the sender has ended.
    pub(crate) async fn end(self) -> Telemetry {
        self.server.stop(true).await;
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

async fn take(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    received.lock().unwrap().spans.extend(request.resource_spans);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

async fn count(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let metrics = request.resource_metrics.into_iter().flat_map(|it| it.scope_metrics).flat_map(|it| it.metrics);
    received.lock().unwrap().metrics.extend(metrics);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

async fn note(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let logs = request.resource_logs.into_iter().flat_map(|it| it.scope_logs).flat_map(|it| it.log_records);
    received.lock().unwrap().logs.extend(logs);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

impl Telemetry {
    /// The last value of a counter, of the series with this attribute if one is given.
    pub(crate) fn counted(&self, name: &str, attributes: Option<(&str, &str)>) -> i64 {
        let fits = |point: &&NumberDataPoint| {
            attributes.is_none_or(|(key, value)| attribute(&point.attributes, key).as_deref() == Some(value))
        };
        let of_metric = |metric: &Metric| {
            let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{name} is a counter") };
            let values = sum.data_points.iter().filter(fits).filter_map(|point| point.value.as_ref());
            let number = |value: &number_data_point::Value| match value {
                number_data_point::Value::AsInt(number) => *number,
                number_data_point::Value::AsDouble(_) => panic!("{name} counts whole things"),
            };
            values.map(number).sum::<i64>()
        };
        self.metrics.iter().filter(|metric| metric.name == name).map(of_metric).max().unwrap_or_default()
    }
}

impl Telemetry {
    /// All of it as text, to search for what must not be there.
    pub(crate) fn shown(&self) -> String {
        format!("{:?} {:?} {:?}", self.spans, self.metrics, self.logs)
    }

    /// The names of all metrics.
    pub(crate) fn figures(&self) -> BTreeSet<&str> {
        self.metrics.iter().map(|metric| metric.name.as_str()).collect()
    }

    /// The attributes of each series of a histogram.
    pub(crate) fn series(&self, name: &str) -> Vec<Vec<KeyValue>> {
        let attributes = |metric: &Metric| {
            let Some(metric::Data::Histogram(histogram)) = &metric.data else { panic!("{name} is a histogram") };
            histogram.data_points.iter().map(|point| point.attributes.clone()).collect::<Vec<_>>()
        };
        self.metrics.iter().filter(|metric| metric.name == name).flat_map(attributes).collect()
    }

    /// The last value of a gauge.
    pub(crate) fn measured(&self, name: &str) -> Option<i64> {
        let last = self.metrics.iter().rfind(|metric| metric.name == name)?;
        let Some(metric::Data::Gauge(gauge)) = &last.data else { panic!("{name} is a gauge") };
        match gauge.data_points.last()?.value? {
            number_data_point::Value::AsInt(number) => Some(number),
            number_data_point::Value::AsDouble(_) => panic!("{name} is a whole number"),
        }
    }
}

pub(crate) fn spans(received: &[ResourceSpans]) -> Vec<Span> {
    received.iter().flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans).cloned().collect()
}

/// A string or integer attribute, as text.
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
