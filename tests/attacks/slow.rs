//! Clients that are slow on purpose, and clients that only hold connections open.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{attacked_gateway::AttackedGateway, wire::spoken, world::ASSIGNMENTS};

/// How long a request may take to arrive here.
const BRIEF: (&str, &str) = ("SERVER__REQUEST_TIMEOUT", "1s");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_or_a_body_that_does_not_arrive_is_cut_off() {
    let attacked = AttackedGateway::with(vec![BRIEF]).await;
    let token = attacked.world.token("servicenow").await;
    let url = attacked.world.gateway().url();
    let answer = spoken(&url, b"POST /v1/assignments HTTP/1.1\r\nHost: x\r\nX: ");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    attacked.is_still_serving().await;
    for framing in ["Content-Length: 500", "Transfer-Encoding: chunked"] {
        let request = format!(
            "POST /v1/assignments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\n1\r\n{{\r\n"
        );
        let answer = spoken(&url, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request-timeout"), "{answer}");
        attacked.is_still_serving().await;
    }
    // An unauthenticated caller is answered without waiting for its body.
    let request = format!("POST {ASSIGNMENTS} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{");
    let answer = spoken(&url, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    attacked.is_still_serving().await;
    // The same on a connection that has served a valid request.
    let good = format!("GET /v1/operations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\nGET /v1/op");
    let answer = spoken(&url, good.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    attacked.is_still_serving().await;
    attacked.end("slow requests").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_only_hold_connections_are_cut_off_and_make_room() {
    let attacked = AttackedGateway::with(vec![BRIEF, ("SERVER__CONNECTIONS_MAX", "4")]).await;
    attacked.world.token("servicenow").await;
    let address = attacked.world.gateway().url().trim_start_matches("http://").to_owned();
    let mut held: Vec<_> = (0..12).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        drop(stream.write_all(b"GET / HTTP/1.1\r\nX: "));
    }
    // Served as soon as some of them were cut off.
    attacked.is_still_serving().await;
    for mut stream in held {
        drop(stream.read_to_end(&mut Vec::new()));
    }
    attacked.is_still_serving().await;
    attacked.end("connections that are only held").await;
}
