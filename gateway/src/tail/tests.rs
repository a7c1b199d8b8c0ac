use std::{net::Ipv4Addr, rc::Rc, time::Instant};

use http::{HeaderMap, Method, Uri, Version};
use tidegate_l4::{
    model::Protocol,
    table::Frontend,
    watch::{Refused as L4Refused, Watch, WhyRefused},
};

use super::*;
use crate::access_log::End;

fn client() -> std::net::SocketAddr {
    (Ipv4Addr::LOCALHOST, 4711).into()
}

fn end() -> End {
    End { status: 200, failure: None, took: std::time::Duration::from_millis(3), bytes_in: 1, bytes_out: 2 }
}

/// One request from beginning to end; whether anybody was told.
fn request(worker: &Rc<TailWorker>, target: &str, now: Instant) -> bool {
    let Some(told) = worker.open(now) else { return false };
    let mut headers = HeaderMap::new();
    headers.insert("host", "bob:hunter2@a.example".parse().unwrap());
    headers.insert("authorization", "Basic c2VjcmV0OnNlY3JldA==".parse().unwrap());
    let uri: Uri = target.parse().unwrap();
    told.asked(Asker { addr: client(), is_tls: false, nth: 1 }, (&Method::GET, &uri, Version::HTTP_11, &headers));
    let endpoint = ((Ipv4Addr::LOCALHOST, 80).into(), Some("pod-0".into()));
    told.trying(&"default/web:80".into(), endpoint, Reason::Cookie, Some("session=secret".into()));
    told.ended(None, end());
    true
}

/// Lets the tail do all there is to do; the runtime stops it now and then.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The events that are there when all that were told of are handed out.
async fn handed_out(watching: &mut Watching) -> Vec<Arc<Event>> {
    settle().await;
    std::iter::from_fn(|| watching.try_next()).collect()
}

#[tokio::test]
async fn nothing_is_told_while_nobody_watches() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = Rc::new(TailWorker::new(tail.clone()));
    let now = Instant::now();
    assert!(!worker.is_on() && !request(&worker, "/", now));
    let mut watching = tail.watch();
    assert!(worker.is_on() && request(&worker, "/seen", now));
    let seen = handed_out(&mut watching).await;
    drop(watching);
    assert!(!worker.is_on() && !request(&worker, "/", now));
    assert_eq!((seen.len(), tail.skipped()), (1, 0));
    assert!(tail.find(seen[0].id).is_some(), "it can be asked about after its watcher left");
}

#[tokio::test]
async fn no_event_shows_a_query_a_field_or_a_cookie() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = Rc::new(TailWorker::new(tail.clone()));
    let mut watching = tail.watch();
    assert!(request(&worker, "/path?token=secret", Instant::now()));
    let text = handed_out(&mut watching).await[0].to_json().to_string();
    assert!(text.contains(r#""path":"/path""#) && text.contains(r#""host":"a.example""#), "{text}");
    assert!(request(&worker, "http://alice:hunter2@a.example/path", Instant::now()));
    let text = text + &handed_out(&mut watching).await[0].to_json().to_string();
    for secret in ["secret", "token", "Basic", "c2Vj", "hunter2", "alice", "bob"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn a_worker_tells_so_much_a_second_and_counts_the_rest() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = Rc::new(TailWorker::new(tail.clone()));
    let mut watching = tail.watch();
    let now = Instant::now();
    let told = (0..EVENTS_PER_SECOND + 50).filter(|_| request(&worker, "/", now)).count();
    assert_eq!((told as u32, tail.skipped()), (EVENTS_PER_SECOND, 50));
    assert!(request(&worker, "/", now + std::time::Duration::from_secs(1)), "a second later there is room again");
    assert_eq!(handed_out(&mut watching).await.len(), told + 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_loses_events_and_who_asks_late_finds_the_last_ones() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = Rc::new(TailWorker::new(tail.clone()));
    let mut watching = tail.watch();
    let begun = Instant::now();
    let mut told = 0;
    for round in 0..(REMEMBERED as u32 + 500).div_ceil(EVENTS_PER_SECOND) {
        let second = std::time::Duration::from_secs(1);
        told += (0..EVENTS_PER_SECOND).filter(|_| request(&worker, "/", begun + second * round)).count();
        settle().await;
        tokio::time::advance(second).await;
    }
    let seen = handed_out(&mut watching).await;
    assert_eq!(seen.len(), PER_WATCHER);
    let last = seen.last().unwrap().id;
    assert!(tail.find(last).is_some() && tail.find(last - told as u64 + 1).is_none());
    assert_eq!((tail.recent().len(), tail.skipped()), (REMEMBERED, 0));
}

#[tokio::test]
async fn all_workers_together_tell_no_more_than_can_be_sent() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let _watching = tail.watch();
    let now = Instant::now();
    for _ in 0..HANDED_OUT_PER_SECOND / EVENTS_PER_SECOND + 2 {
        let worker = Rc::new(TailWorker::new(tail.clone()));
        assert_eq!((0..EVENTS_PER_SECOND).filter(|_| request(&worker, "/", now)).count() as u32, EVENTS_PER_SECOND);
    }
    settle().await;
    assert_eq!((tail.recent().len() as u32, tail.skipped()), (HANDED_OUT_PER_SECOND, 400));
}

#[tokio::test]
async fn many_connections_that_end_at_once_are_counted_not_told() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = TailWorker::new(tail.clone());
    let mut watching = tail.watch();
    for number in 0..u64::from(EVENTS_PER_SECOND) + 30 {
        worker.has_begun(number, Instant::now());
        worker.ended(number, 1, 2);
    }
    let ends = handed_out(&mut watching).await;
    assert!(ends.iter().all(|event| matches!(&event.what, What::ConnectionEnd(end) if end.bytes_out == 2)));
    assert_eq!((ends.len() as u32, tail.skipped()), (EVENTS_PER_SECOND, 30));
}

#[tokio::test]
async fn what_a_stranger_can_make_long_is_cut() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = Rc::new(TailWorker::new(tail.clone()));
    let mut watching = tail.watch();
    let told = worker.open(Instant::now()).unwrap();
    let (long, mut headers) = ("x".repeat(20_000), HeaderMap::new());
    headers.insert("host", long.parse().unwrap());
    let (method, uri) = (Method::from_bytes(long.as_bytes()).unwrap(), format!("/{long}").parse::<Uri>().unwrap());
    told.asked(Asker { addr: client(), is_tls: true, nth: 1 }, (&method, &uri, Version::HTTP_2, &headers));
    told.identified(client().ip(), long.as_bytes());
    told.trying(&"default/web:80".into(), (client(), None), Reason::Cookie, Some(long.into()));
    told.ended(None, end());
    let event = handed_out(&mut watching).await.remove(0);
    let size = event.to_json().to_string().len();
    assert!(size < 2_500, "{size} bytes");
    assert!(matches!(&event.what, What::Request(request) if request.session.is_none()));
}

#[tokio::test]
async fn clients_who_are_turned_away_are_told_of() {
    let tail = Arc::new(Tail::default());
    tokio::spawn(tail.clone().run());
    let worker = TailWorker::new(tail.clone());
    let mut watching = tail.watch();
    let service = tidegate_l4::model::ServicePortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    };
    let frontend = Frontend { ip: Ipv4Addr::LOCALHOST.into(), port: 80, protocol: Protocol::Tcp };
    for why in [WhyRefused::NobodyToServe, WhyRefused::Full, WhyRefused::NotReached] {
        worker.refused(&L4Refused { service: &service, frontend, client: client(), why });
    }
    let events = handed_out(&mut watching).await;
    let texts: Vec<_> = events.iter().map(|event| event.to_json()["why"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events[0].to_json()["service"], "default/web:http");
    assert!(texts.len() == 3 && texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}
