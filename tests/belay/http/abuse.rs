//! Clients that are odd, slow or many: refused or served, and the daemon goes on.

use std::io::Write as _;
use std::time::{Duration, Instant};

use rstest::rstest;

use super::client::{ask, bearer, connect, exchange, read, request};
use super::site::Site;

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn bodies_that_are_no_orders_are_refused() {
    let site = Site::start("");
    let token = site.operator();
    let post = |fields: &str, body: &str| {
        let fields = format!("{}{fields}", bearer(&token));
        ask(connect(site.address), &request("POST", "/v1/snapshots", &fields, body))
    };
    let large = format!("{{\"database\":\"{}\"}}", "a".repeat(65 << 10));
    let deep = "[".repeat(60_000);
    for (fields, body, status) in [
        (JSON, "", 400),
        (JSON, "{", 400),
        (JSON, "{}", 422),
        (JSON, "[]", 422),
        (JSON, "{\"database\":1}", 422),
        (JSON, "{\"database\":\"\"}", 422),
        (JSON, "{\"database\":\"app\",\"force\":true}", 422),
        (JSON, "{\"database\":\"app\\u0000\"}", 422),
        ("", "{\"database\":\"app\"}", 415),
        ("Content-Type: text/plain\r\n", "{\"database\":\"app\"}", 415),
        (JSON, &deep, 422),
        (JSON, &large, 413),
    ] {
        let answer = post(fields, body);
        assert_eq!(answer.status, status, "{fields}{:.60}: {answer:?}", body);
        assert!(!answer.error().is_empty());
    }
    let long = "a".repeat(64);
    assert_eq!(post(JSON, &format!("{{\"database\":\"{long}\"}}")).status, 422);
    for path in ["/v1/runs?limit=0", "/v1/runs?limit=1001"] {
        assert_eq!(site.get(path, &token).status, 422, "{path}");
    }
    for path in ["/v1/runs?limit=-1", "/v1/runs?limit=1&limit=2", "/v1/status?databases=app", "/v1/runs/%ff"]
    {
        assert_eq!(site.get(path, &token).status, 400, "{path}");
    }
    assert_eq!(site.get("/v1/snapshots/..%2f..%2fetc%2fpasswd", &token).status, 404);
    assert_eq!(site.snapshots().len(), 0);
}

#[test]
fn a_body_without_an_end_is_cut() {
    let site = Site::start("");
    let token = site.operator();
    let head = format!(
        "POST /v1/snapshots HTTP/1.1\r\nHost: belay\r\n{}{JSON}Transfer-Encoding: chunked\r\n\r\n",
        bearer(&token)
    );
    let chunk = format!("1000\r\n{}\r\n", "a".repeat(4096));
    let answer = read(&exchange(connect(site.address), format!("{head}{}", chunk.repeat(64)).as_bytes()));
    assert_eq!(answer.status, 413, "{answer:?}");
    let announced =
        head.replace("Transfer-Encoding: chunked", "Expect: 100-continue\r\nContent-Length: 99999999");
    let begun = Instant::now();
    let answer = read(&exchange(connect(site.address), announced.as_bytes()));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(9), "nothing of it is waited for");
    assert!(site.is_well());
}

/// What no client of ours sends.
#[rstest]
#[case::http_2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")]
#[case::tls(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")]
#[case::noise(b"\x00\xff\xfe\x80GET\r\n\r\n\r\n")]
#[case::http_0_9(b"GET /healthz\r\n\r\n")]
#[case::negative_length(b"POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n")]
#[case::two_lengths(
    b"POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
)]
#[case::odd_coding(b"POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")]
#[case::coding_after_chunked(
    b"POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
)]
#[case::folded_field(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n")]
fn what_is_no_http_1_is_closed(#[case] sent: &'static [u8]) {
    let site = shared_site();
    let answer = exchange(connect(site.address), sent);
    assert!(answer.is_empty() || read(&answer).status == 400, "{}", String::from_utf8_lossy(&answer));
    assert!(site.is_well());
}

/// Those tests change nothing, and may have one daemon.
fn shared_site() -> Site {
    Site::start("header_timeout = \"2s\"\n")
}

#[test]
fn a_second_request_is_not_smuggled_in_a_body() {
    let site = Site::start("");
    let token = site.operator();
    let inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let outer = format!(
        "POST /v1/snapshots HTTP/1.1\r\nHost: x\r\n{}{JSON}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        bearer(&token),
        inner.len() + 5
    );
    let answer = String::from_utf8(exchange(connect(site.address), outer.as_bytes())).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn heads_are_bounded() {
    let site = Site::start("");
    let fields: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(100_000));
    let path = format!("/healthz?{}", "q".repeat(100_000));
    for request in [
        request("GET", "/healthz", &fields, ""),
        request("GET", "/healthz", &long, ""),
        request("GET", &path, "", ""),
    ] {
        let answer = exchange(connect(site.address), request.as_bytes());
        assert_eq!(read(&answer).status, 431, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(site.is_well());
}

#[test]
fn a_client_that_takes_too_long_is_cut() {
    let site = Site::start("header_timeout = \"1s\"\n");
    let begun = Instant::now();
    for sent in ["", "G", "GET /healthz HTTP/1.1\r\nHos", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
        assert_eq!(exchange(connect(site.address), sent.as_bytes()), b"", "{sent}");
    }
    // One that sends a byte now and then has no more time than others.
    let mut slow = connect(site.address);
    let drip = "GET /healthz HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    let cut = drip.bytes().take_while(|byte| {
        std::thread::sleep(Duration::from_millis(100));
        slow.write_all(&[*byte]).is_ok()
    });
    assert!(cut.count() < drip.len(), "it is cut while it sends");
    let idle = exchange(connect(site.address), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(read(&idle).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(45));
    assert!(site.is_well());
}

#[test]
fn two_hundred_connections_at_once_are_answered() {
    let site = Site::start("");
    let token = site.operator();
    assert_eq!(site.get("/v1/status", &token).status, 200);
    let before = site.open_files();
    let asked = request("GET", "/v1/status", &bearer(&token), "");
    let all: Vec<_> = (0..200).map(|_| connect(site.address)).collect();
    let askers: Vec<_> = all
        .into_iter()
        .map(|stream| {
            let asked = asked.clone();
            std::thread::spawn(move || ask(stream, &asked).status)
        })
        .collect();
    let answers: Vec<u16> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
    assert_eq!(answers, vec![200; 200]);
    site.service.wait_until("its files are closed", || site.open_files() <= before);
    assert!(site.is_well());
    let ended = site.service.stop();
    assert!(ended.code == 0 && !ended.log.contains("ERROR"), "{}", ended.log);
}

#[test]
fn more_connections_than_are_served_wait_and_hurt_nobody() {
    let site = Site::start("header_timeout = \"10s\"\n");
    let before = site.open_files();
    // More than are served, and fewer than the system keeps waiting besides.
    let idle: Vec<_> = (0..350).map(|_| connect(site.address)).collect();
    // It may have closed some since, with which it looked around at its start.
    site.service.wait_until("as many are served as may be", || site.open_files() >= before + 240);
    assert!(site.open_files() < before + 300);
    let local = std::os::unix::net::UnixStream::connect(&site.socket).unwrap();
    assert_eq!(ask(local, &request("GET", "/v1/status", "", "")).status, 200, "the socket is another door");
    assert!(site.is_well(), "it waits until the others are cut");
    drop(idle);
    site.service.wait_until("all is as before", || site.open_files() <= before);
    site.service.wait_for_more("WATCHDOG=1", 1);
}
