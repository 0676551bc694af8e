//! What stands between a gateway and Graph in a company: a proxy that speaks CONNECT, and behind it a server for
//! [`HOST`], a name that nobody else resolves, with a certificate of an authority made for the test.
//!
//! The server gives a token to anyone and serves one configuration.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::certificate::pem;

pub(crate) const HOST: &str = "graph.postern.test";

/// The proxy, which serves until the test's process ends.
pub(crate) struct Tunnel {
    /// The proxy's URL.
    pub(crate) url: String,
    /// The authority's certificate, in PEM.
    pub(crate) authority: String,
    connected: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    pub(crate) fn start() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![server.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connected = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&connected);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, seen) = (Arc::clone(&config), Arc::clone(&seen));
                // A client that does not trust the server disconnects, as it may.
                std::thread::spawn(move || drop(served(stream.unwrap(), config, &seen)));
            }
        });
        Self { url, authority: pem("CERTIFICATE", authority.der()), connected }
    }

    /// The request line of every call so far.
    pub(crate) fn connected(&self) -> Vec<String> {
        self.connected.lock().unwrap().clone()
    }
}

fn served(mut stream: TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (line, _) = head(&mut BufReader::new(&stream))?;
    seen.lock().unwrap().push(line);
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let (line, length) = head(&mut reader)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let answer = answer(&line).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
        reader.get_mut().write_all(format!("{head}{answer}").as_bytes())?;
        reader.get_mut().flush()?;
    }
}

/// The first line of a request, and the length of its body.
fn head(reader: &mut impl BufRead) -> std::io::Result<(String, usize)> {
    let mut lines = reader.by_ref().lines();
    let mut line = || lines.next().unwrap_or_else(|| Err(std::io::Error::other("closed")));
    let first = line()?;
    let mut length = 0;
    loop {
        let header = line()?.to_ascii_lowercase();
        if header.is_empty() {
            return Ok((first, length));
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
}

fn answer(line: &str) -> serde_json::Value {
    if line.contains("/token") {
        let claims =
            json!({"roles": ["DeviceManagementServiceConfig.ReadWrite.All", "GroupMember.Read.All"]}).to_string();
        let token = format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(claims));
        return json!({"access_token": token, "expires_in": 3599});
    }
    json!({"value": [{"id": "x", "displayName": "Behind the tunnel"}]})
}
