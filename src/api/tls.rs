//! TLS on the API's address: the gateway's certificate, and those that clients present.
//!
//! Guarantees: TLS 1.2 or newer; a new certificate and its key are used once both files match, and until then the previous
//! ones stay in use; a client certificate that was presented was verified, and belongs to its connection.
//!
//! It deliberately authenticates nobody: what a client certificate counts for is decided by `auth` and `webhooks`.

use std::{
    any::Any,
    io,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{dev::Extensions, rt::net::TcpStream};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Clients, Tls},
    domain::Digest,
};

/// How often the files are checked.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The gateway's certificate, as it is in its files.
#[derive(Debug)]
pub struct Certificate {
    settings: Tls,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// The fingerprint of the certificate that a client presented for its connection.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Digest);

impl Certificate {
    /// Reads the certificate and its key, and the authorities whose client certificates are accepted.
    pub fn open(settings: Tls) -> io::Result<Arc<Self>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = settings.clients.as_ref().map(|clients| verifier(clients, &provider)).transpose()?;
        let clients = clients.unwrap_or_else(|| Arc::new(NoClientAuth));
        let current = RwLock::new(read(&settings, &provider)?);
        Ok(Arc::new(Self { settings, provider, clients, current }))
    }

    /// Reloads the certificate when its files change, until the process stops.
    pub async fn keep_fresh(self: Arc<Self>, clock: Clock, stopping: CancellationToken) {
        let mut refused = None;
        while stopping.run_until_cancelled(clock.sleep(POLL_INTERVAL)).await.is_some() {
            match read(&self.settings, &self.provider) {
                Ok(key) if key.cert != self.current().cert => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = key;
                    tracing::info!("the API's new certificate is in use");
                    refused = None;
                }
                Ok(_same) => refused = None,
                // Once for each reason: of two files, one is often replaced before the other.
                Err(error) => {
                    let why = error.to_string();
                    if refused.as_ref() != Some(&why) {
                        tracing::warn!(error = %why, "the API's certificate cannot be read again; the one before stays in use");
                    }
                    refused = Some(why);
                }
            }
        }
    }

    /// The TLS configuration of the API's address.
    pub(super) fn server(self: &Arc<Self>) -> io::Result<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let config = config.with_protocol_versions(&[&TLS13, &TLS12]).map_err(io::Error::other)?;
        let config = config.with_client_cert_verifier(Arc::clone(&self.clients));
        Ok(config.with_cert_resolver(Arc::<Self>::clone(self)))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Notes the certificate that was presented for a connection.
pub(super) fn note(connection: &dyn Any, notes: &mut Extensions) {
    let stream = connection.downcast_ref::<TlsStream<TcpStream>>();
    let certificates = stream.and_then(|stream| stream.get_ref().1.peer_certificates());
    if let Some(certificate) = certificates.and_then(<[_]>::first) {
        notes.insert(Shown(Digest::of(certificate)));
    }
}

fn read(settings: &Tls, provider: &CryptoProvider) -> io::Result<Arc<CertifiedKey>> {
    let chain = certificates(&settings.certificate, "server.tls.certificate_file")?;
    let named = "server.tls.key_file";
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| unusable(named, &settings.key, &error))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| unusable(named, &settings.key, &error))?;
    Ok(Arc::new(key))
}

fn verifier(clients: &Clients, provider: &Arc<CryptoProvider>) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let named = "server.tls.client_ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&clients.authorities, named)? {
        roots.add(certificate).map_err(|error| unusable(named, &clients.authorities, &error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
    verifier.build().map_err(|error| unusable(named, &clients.authorities, &error))
}

/// The certificates in a file; there must be at least one.
fn certificates(path: &Path, named: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unusable(named, path, &error))?;
    if found.is_empty() { Err(unusable(named, path, &"there is no certificate in it")) } else { Ok(found) }
}

/// A fault of a file; nothing of its contents is shown.
fn unusable(named: &str, path: &Path, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{named}: {} cannot be used: {why}", path.display()))
}
