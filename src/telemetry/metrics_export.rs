//! Where metrics go: to a collector by OTLP over HTTP if one is configured, and always to Prometheus, which scrapes them.
//!
//! Guarantees: both get the same metrics, from the start of the process; a collector that does not respond delays nothing,
//! since a thread of its own sends the metrics.
//!
//! It deliberately knows no single metric; `meters` does.

use std::sync::LazyLock;

use opentelemetry::global;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Registry, TextEncoder};

use super::{Error, Settings, meters};

/// Holds what Prometheus scrapes.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// All metrics in Prometheus' text format, version 0.0.4.
pub fn exposition() -> Result<String, String> {
    TextEncoder::new().encode_to_string(&REGISTRY.gather()).map_err(|error| error.to_string())
}

/// Starts the metrics. Must run before anything is counted.
pub(super) fn provider(settings: &Settings, resource: Resource) -> Result<SdkMeterProvider, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Exporter(error.to_string());
    let reader = opentelemetry_prometheus::exporter().with_registry(REGISTRY.clone()).build();
    let builder =
        SdkMeterProvider::builder().with_resource(resource).with_reader(reader.map_err(|error| failed(&error))?);
    let provider = match &settings.otlp_endpoint {
        None => builder.build(),
        Some(endpoint) => {
            let endpoint = format!("{}/v1/metrics", endpoint.as_str().trim_end_matches('/'));
            let exporter = opentelemetry_otlp::MetricExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| failed(&error))?;
            builder.with_periodic_exporter(exporter).build()
        }
    };
    global::set_meter_provider(provider.clone());
    meters::begin();
    Ok(provider)
}
