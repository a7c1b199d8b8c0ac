use std::net::Ipv4Addr;

use serde_json::Value;
use tidegate_l4::{
    model::{Protocol, ServicePortName},
    table::Frontend,
    watch::{Refused, Watch, WhyRefused},
};
use tokio::{sync::watch, time::Instant};

use super::*;
use crate::{
    admin::fixture,
    small_server::Content,
    snapshot::Snapshot,
    tail::{Tail, TailWorker},
};

struct Admin {
    streams: Streams,
    state: Arc<AdminState>,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
}

fn admin() -> Admin {
    let (sender, snapshot) = watch::channel(Some(fixture::snapshot(fixture::MANIFESTS)));
    let state = Arc::new(AdminState { snapshot, ..fixture::state(None, 1) });
    tokio::spawn(state.tail.clone().run());
    let streams = Streams::new(state.clone(), Arc::new(Semaphore::new(2)));
    Admin { streams, state, snapshot: sender }
}

impl Admin {
    fn open(&self, query: &str) -> Reader {
        let response = self.streams.open(query).response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        match response.into_body() {
            Content::Stream(pieces) => Reader(pieces),
            Content::Whole(whole) => panic!("{whole:?}"),
        }
    }
}

struct Reader(mpsc::Receiver<Bytes>);

impl Reader {
    async fn piece(&mut self) -> String {
        String::from_utf8(self.0.recv().await.unwrap().to_vec()).unwrap()
    }

    /// The next event of a kind, and when it came.
    async fn event(&mut self, name: &str) -> (Value, Instant) {
        loop {
            let piece = self.piece().await;
            assert!(piece.ends_with("\n\n"), "{piece}");
            if let Some(data) = piece.strip_prefix(&format!("event: {name}\ndata: ")) {
                return (serde_json::from_str(data).unwrap(), Instant::now());
            }
        }
    }
}

/// Tells the tail of a client that was turned away.
fn refuse(tail: &Arc<Tail>, port: u16) {
    let service = ServicePortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    };
    let frontend = Frontend { ip: Ipv4Addr::LOCALHOST.into(), port: 80, protocol: Protocol::Tcp };
    let client = (Ipv4Addr::LOCALHOST, port).into();
    let refused = Refused { service: &service, frontend, client, why: WhyRefused::NobodyToServe };
    TailWorker::new(tail.clone()).refused(&refused);
}

#[tokio::test(start_paused = true)]
async fn a_state_at_once_and_then_once_a_second_if_there_is_news() {
    let admin = admin();
    let mut reader = admin.open("");
    assert_eq!(reader.piece().await, "retry: 1000\n\n");
    let begun = Instant::now();
    let (state, first) = reader.event("state").await;
    assert!(first - begun < Duration::from_millis(10) && state["servicesTotal"] == 3, "{:?}: {state}", first - begun);
    let requests = || admin.state.http[0].requests.add(1);
    let mut last = first;
    for count in 1..=5_u64 {
        requests();
        let (state, at) = reader.event("state").await;
        assert_eq!(state["totals"]["requests"], count);
        assert!((STATE_INTERVAL..STATE_INTERVAL * 2).contains(&(at - last)), "{:?}", at - last);
        last = at;
    }
    // Nothing new: a comment now and then, and no state.
    let quiet = Instant::now();
    for _ in 0..3 {
        assert_eq!(reader.piece().await, ":\n\n");
    }
    assert!(quiet.elapsed() > KEEP_ALIVE * 2, "{:?}", quiet.elapsed());
    admin.state.runtime.set_draining();
    assert_eq!(reader.event("state").await.0["draining"], true);
}

#[tokio::test(start_paused = true)]
async fn the_first_state_waits_for_the_first_configuration() {
    let admin = admin();
    admin.snapshot.send_replace(None);
    let mut reader = admin.open("filter=kubia");
    assert_eq!(reader.piece().await, "retry: 1000\n\n");
    assert_eq!(reader.piece().await, ":\n\n");
    admin.snapshot.send_replace(Some(fixture::snapshot(fixture::MANIFESTS)));
    let (state, _) = reader.event("state").await;
    assert_eq!((&state["servicesTotal"], &state["version"]), (&2.into(), &env!("CARGO_PKG_VERSION").into()));
}

#[tokio::test(start_paused = true)]
async fn events_come_together_and_soon() {
    let admin = admin();
    assert!(!admin.state.tail.is_watched(), "nobody looks, so nothing is told");
    let mut reader = admin.open("");
    reader.event("state").await;
    assert!(admin.state.tail.is_watched());
    let begun = Instant::now();
    (1..=3).for_each(|port| refuse(&admin.state.tail, port));
    let (events, at) = reader.event("tail").await;
    assert!(at - begun <= TAIL_DELAY * 2, "{:?}", at - begun);
    let clients: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["client"].as_str().unwrap()).collect();
    assert_eq!(clients, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    drop(reader);
    // Whoever leaves is noticed without anything to be sent to him.
    time::sleep(Duration::from_millis(1)).await;
    assert!(!admin.state.tail.is_watched());
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_read_loses_events_and_holds_nobody_up() {
    let admin = admin();
    let (mut sleeper, mut reader) = (admin.open(""), admin.open(""));
    reader.event("state").await;
    for n in 0..20_u16 {
        admin.state.http[0].requests.add(1);
        // As many as a worker may tell of in a second, for twenty seconds.
        (0..200).for_each(|port| refuse(&admin.state.tail, port + 1000 * n));
        let (events, _) = reader.event("tail").await;
        assert_eq!(events.as_array().unwrap().len(), 200);
        time::sleep(STATE_INTERVAL).await;
    }
    // What waited for it is a bounded number, and the rest is counted.
    let mut seen = 0;
    let mut states = 0;
    while let Ok(Some(piece)) = time::timeout(Duration::from_millis(900), sleeper.0.recv()).await {
        let text = String::from_utf8(piece.to_vec()).unwrap();
        seen += text.matches("\"kind\":\"refused\"").count();
        states += text.matches("event: state").count();
    }
    assert!(states <= 3, "{states}");
    admin.state.http[0].requests.add(1);
    let skipped = async |reader: &mut Reader| reader.event("state").await.0["totals"]["tailSkipped"].as_u64().unwrap();
    let lost = skipped(&mut sleeper).await as usize;
    assert!(seen < 1_500 && seen + lost == 20 * 200, "{seen} seen, {lost} lost");
    assert_eq!(skipped(&mut reader).await, 0, "whoever reads has lost nothing");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_streams_at_a_time() {
    let admin = admin();
    let mut readers: Vec<Reader> = (0..MAX_STREAMS).map(|_| admin.open("")).collect();
    let refused = admin.streams.open("").response();
    assert_eq!(refused.status(), 503);
    let Content::Whole(text) = refused.into_body() else { panic!("a stream") };
    assert!(format!("{text:?}").contains("16 live views are open already"), "{text:?}");
    for reader in &mut readers {
        reader.event("state").await;
    }
    readers.pop();
    time::sleep(Duration::from_millis(1)).await;
    admin.open("");
}

#[test]
fn queries() {
    for query in ["", "&", "filter=", "filter=a%2Fb+c"] {
        assert!(filter(query).is_ok(), "{query}");
    }
    assert!(filter("x=1").unwrap_err().contains("use filter"));
    assert!(filter("filter=%ff").unwrap_err().contains("UTF-8"));
    assert!(filter(&format!("filter={}", "x".repeat(MAX_FILTER_BYTES + 1))).unwrap_err().contains("longer"));
}
