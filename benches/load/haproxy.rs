//! What the gateway is compared with: HAProxy, checking the same tokens by `jwt_verify` and forwarding the same requests.

use std::{fs, path::Path, process::Command};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};

use crate::{
    environment::{self, client, sent},
    issuer::{AUDIENCE, Issuer},
    process::{Process, until},
};

/// Similar to the gateway's response to `respond-async`.
const ANSWER: &str = include_str!("answer.json");

/// HAProxy in front of a server that reads the body and responds.
pub(crate) struct HaProxy {
    pub(crate) url: String,
    pub(crate) process: Process,
    behind: ServerHandle,
}

impl HaProxy {
    /// None if HAProxy is not installed.
    pub(crate) async fn start(issuer: &Issuer, folder: &Path) -> Option<Self> {
        Command::new("haproxy").arg("-v").output().ok()?;
        let app = || App::new().route("/v1/assignments", web::post().to(answer));
        let server = HttpServer::new(app).disable_signals().workers(1).bind("127.0.0.1:0").unwrap();
        let (behind, port) = (server.addrs()[0], environment::port());
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        let key = folder.join("callers.pem");
        fs::write(&key, &issuer.public).unwrap();
        let settings = format!(
            "global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  option http-keep-alive
frontend gate
  bind 127.0.0.1:{port}
  http-request set-var(txn.token) http_auth_bearer
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_header_query('$.alg') -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.iss') -m str {issuer} }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.aud') -m str {AUDIENCE} }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(\"RS256\",\"{key}\") -m int 1 }}
  default_backend behind
backend behind
  server behind {behind}
",
            issuer = issuer.url,
            key = key.display(),
        );
        fs::write(folder.join("haproxy.cfg"), settings).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(folder.join("haproxy.cfg"));
        let process = Process::start(command, environment::MEASURED, &folder.join("haproxy.log"));
        let peer = Self { url: format!("http://127.0.0.1:{port}"), process, behind: handle };
        let client = client(1);
        until("HAProxy answers", || async { sent(client.get(&peer.url)).await.is_ok() }).await;
        Some(peer)
    }

    pub(crate) async fn stop(self) {
        self.behind.stop(false).await;
    }
}

async fn answer(body: web::Bytes) -> HttpResponse {
    assert!(!body.is_empty(), "the body was forwarded");
    HttpResponse::Accepted().content_type("application/json").body(ANSWER)
}
