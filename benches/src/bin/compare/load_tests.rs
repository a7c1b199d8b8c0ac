use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use super::{Expected, Load, Opening, Outcome, Plan};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno";

/// A server that answers each request, of whatever kind, after a while, and ends a connection after so many.
fn server(answer: &'static str, after: Duration, requests: usize) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                for _ in 0..requests {
                    if stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                        thread::sleep(after);
                        let _ = stream.write_all(answer.as_bytes());
                    }
                }
            });
        }
    });
    addr
}

fn plan(addr: SocketAddr, requests: &[Vec<u8>]) -> Plan<'_> {
    Plan {
        addr,
        connections: 4,
        requests,
        answer: Expected::Http(2),
        opening: Opening::Nothing,
        reconnect: false,
        rate: None,
        time: Duration::from_millis(300),
        stop: None,
    }
}

fn run(plan: Plan<'_>) -> anyhow::Result<Outcome> {
    Load::connect(plan)?.run()
}

fn requests() -> Vec<Vec<u8>> {
    vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()]
}

// Other work may leave these tests little of the processor: what is asserted holds however slowly they run.

#[test]
fn right_answers_are_counted() {
    let requests = requests();
    let addr = server(OK, Duration::ZERO, usize::MAX);
    let outcome = run(plan(addr, &requests)).unwrap();
    assert!(outcome.done > 10 && outcome.failed == 0, "{outcome:?}");
    assert!(outcome.latency[0] > 0.0 && outcome.latency[0] <= outcome.latency[2], "{outcome:?}");
    let outcome = run(Plan { reconnect: true, ..plan(addr, &requests) }).unwrap();
    assert!(outcome.done > 0 && outcome.failed == 0, "{outcome:?}");
}

#[test]
fn a_wrong_status_is_a_failure() {
    let requests = requests();
    let outcome = run(plan(server(BAD, Duration::from_millis(20), usize::MAX), &requests)).unwrap();
    assert_eq!(outcome.done, 0, "{outcome:?}");
    assert!(outcome.failed > 0 && outcome.first_failure.as_deref() == Some("answered 502"), "{outcome:?}");
}

#[test]
fn a_connection_that_ends_between_requests_is_replaced() {
    let requests = requests();
    let addr = server(OK, Duration::ZERO, 1);
    // Slow enough for the end to be seen before the next request is due; four connections, of which each ends twice.
    let outcome = run(Plan { rate: Some(10.0), time: Duration::from_secs(1), ..plan(addr, &requests) }).unwrap();
    assert!(outcome.done > 4 && outcome.failed == 0, "{outcome:?}");
}

#[test]
fn at_a_fixed_rate_time_counts_from_when_a_request_was_due() {
    let requests = requests();
    // Four connections can have 80 answers a second; 1,000 are asked for.
    let addr = server(OK, Duration::from_millis(50), usize::MAX);
    let outcome = run(Plan { rate: Some(1_000.0), time: Duration::from_secs(1), ..plan(addr, &requests) }).unwrap();
    assert!(outcome.latency[1] > 500_000.0, "the last were due long before they were sent: {outcome:?}");
    assert!(outcome.failed > 800, "most were never sent: {outcome:?}");
}
