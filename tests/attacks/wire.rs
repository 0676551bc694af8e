//! Malformed requests, byte by byte: those that two servers in a row could read as different requests.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{attacked_gateway::AttackedGateway, world::add};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);

/// The bytes received on a new connection until the gateway closes it.
pub(crate) fn spoken(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // It may have closed the connection before the last byte.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the gateway keeps the connection: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Heads that must be refused before anything is done for their requests.
fn heads() -> Vec<(&'static str, &'static str)> {
    vec![
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nTransfer-Encoding: chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: chunked\r\nContent-Length: LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nContent-Length: LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: 0\r\nContent-Length: LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: +LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: -1\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN, LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: 0xLEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: 99999999999999999999999\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length:\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: xchunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: chunked, chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: identity, chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: gzip\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding: \"chunked\"\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding : chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length : LEN\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Transfer-Encoding:\u{b}chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nX: a\r\n folded\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nX: a\r\n\tTransfer-Encoding: chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nX: a\0b\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nX: a\rTransfer-Encoding: chunked\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\n: empty\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nX\r\n"),
        ("POST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\nHost: other\r\n"),
        ("POST /v1/assignments HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        ("POST /v1/assignments HTTP/1.2", "Content-Length: LEN\r\n"),
        ("POST /v1/assignments HTTP/2.0", "Content-Length: LEN\r\n"),
        ("POST /v1/assignments http/1.1", "Content-Length: LEN\r\n"),
        ("POST /v1/assignments", "Content-Length: LEN\r\n"),
        ("POST  /v1/assignments HTTP/1.1", "Content-Length: LEN\r\n"),
        ("POST /v1/assignments X HTTP/1.1", "Content-Length: LEN\r\n"),
        ("POST\t/v1/assignments\tHTTP/1.1", "Content-Length: LEN\r\n"),
        ("PO ST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\n"),
        ("POST /v1/assignments\0 HTTP/1.1", "Content-Length: LEN\r\n"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nPOST /v1/assignments HTTP/1.1", "Content-Length: LEN\r\n"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let attacked = AttackedGateway::start().await;
    let token = attacked.world.token("servicenow").await;
    let url = attacked.world.gateway().url();
    let change = add("Sales ESP", "Sales Laptops").to_string();
    let inner = format!(
        "POST /v1/assignments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{change}",
        change.len()
    );
    for (line, headers) in heads() {
        // By its length this is one body; by its chunks, a change follows it.
        let body = format!("0\r\n\r\n{inner}");
        let headers = headers.replace("LEN", &body.len().to_string());
        let request = format!(
            "{line}\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
        );
        let answer = spoken(&url, request.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{line} {headers}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{line} {headers}: {answer}");
        assert!(!answer.contains(&token));
        attacked.is_still_serving().await;
    }
    attacked.end("heads that can be read in two ways").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_lie_about_their_size_carry_no_change() {
    let attacked = AttackedGateway::start().await;
    let token = attacked.world.token("servicenow").await;
    let url = attacked.world.gateway().url();
    let change = add("Sales ESP", "Sales Laptops").to_string();
    let size = format!("{:x}", change.len());
    for chunks in [
        format!("-1\r\n{change}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{change}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{change}\r\n0\r\n\r\n"),
        format!("10000000000000000{size}\r\n{change}\r\n0\r\n\r\n"),
        format!("{size}\n{change}\n0\n\n"),
        format!("{size}\r\n{change}0\r\n\r\n"),
        format!("{size}\r\n{change}xx0\r\n\r\n"),
        format!("g\r\n{change}\r\n0\r\n\r\n"),
        format!("\r\n{change}\r\n0\r\n\r\n"),
        format!("{size} {size}\r\n{change}\r\n0\r\n\r\n"),
    ] {
        let request = format!(
            "POST /v1/assignments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        );
        let answer = spoken(&url, request.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{chunks}: {answer}");
        attacked.is_still_serving().await;
    }
    attacked.end("chunks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded_and_what_is_no_http_is_not_answered_to() {
    let attacked = AttackedGateway::start().await;
    let token = attacked.world.token("servicenow").await;
    let url = attacked.world.gateway().url();
    let head = |extra: &str| {
        format!(
            "GET /v1/operations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{extra}\r\n"
        )
    };
    assert!(spoken(&url, head("").as_bytes()).starts_with("HTTP/1.1 200 "));
    let many = (0..100).map(|number| format!("X-{number}: a\r\n")).collect::<Vec<_>>().concat();
    let long = format!("GET /v1/operations?ticket={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(140_000));
    for request in [
        head(&many).into_bytes(),
        head(&format!("X: {}\r\n", "a".repeat(140_000))).into_bytes(),
        head(&format!("{}: a\r\n", "X".repeat(140_000))).into_bytes(),
        long.into_bytes(),
        vec![0; 2_000],
        vec![0xff; 200_000],
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".repeat(300),
        b"{\"configuration\": \"Sales ESP\"}\r\n\r\n".to_vec(),
        "\r\n".repeat(80_000).into_bytes(),
    ] {
        let answer = spoken(&url, &request);
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 413 ", "HTTP/1.1 431 ", "HTTP/1.1 408 "];
        let fits = answer.is_empty() || refused.iter().any(|start| answer.starts_with(start));
        assert!(fits, "{}: {answer:.200}", String::from_utf8_lossy(&request[..request.len().min(60)]));
        attacked.is_still_serving().await;
    }
    attacked.end("heads beyond the bounds").await;
}
