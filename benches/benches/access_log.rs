//! A line of the access log: under 1.5 µs from the head of a request to the bytes in the batch, whatever the format.
//!
//! Without a log a request pays one test of an `Option` at each step; `off` is the loop around it.

use std::{
    hint::black_box,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use tidegate::{
    access_log::{AccessLog, ConnectionFacts, End, Entry, LogOptions, Target, WorkerLog},
    route::{Backend, Owner, PathMatch, Rule},
};

fn rule() -> Rule {
    Rule {
        owner: Owner { namespace: "shop".into(), name: "web".into() },
        host: "shop.example.com".into(),
        path: Some(PathMatch::Prefix("/".into())),
        backend: Backend::Missing { service: "shop/cart:80".into(), reason: "".into() },
        split: None,
        policy: Default::default(),
        issues_cookie: false,
        stats: Default::default(),
    }
}

fn fields() -> HeaderMap {
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    [
        (header::HOST, "shop.example.com"),
        (header::USER_AGENT, agent),
        (header::ACCEPT, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        (header::ACCEPT_LANGUAGE, "en-US,en;q=0.5"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br"),
        (header::REFERER, "https://shop.example.com/articles"),
        (header::COOKIE, "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .into_iter()
    .collect()
}

/// All that the gateway tells the log about one request.
fn request(log: Option<&Rc<WorkerLog>>, on: &Rc<ConnectionFacts>, uri: &Uri, fields: &HeaderMap, rule: &Rule) {
    let mut entry: Option<Entry> = log.map(|log| log.open());
    let pod = SocketAddr::from(([10, 1, 2, 3], 8080));
    if let Some(entry) = &mut entry {
        let now = Instant::now();
        entry.asked(on, (&Method::GET, uri, Version::HTTP_11, fields));
        entry.identified(b"0123456789abcdef0123456789abcdef");
        entry.trying(pod, Some("cart-5d9c7b6f4-x2x7z"), now);
        entry.connected(Duration::ZERO);
        entry.try_answered(200, now);
        entry.answering(StatusCode::OK, fields);
    }
    let end = End { status: 200, failure: None, took: Duration::from_micros(812), bytes_in: 0, bytes_out: 1256 };
    if let Some(entry) = black_box(entry) {
        entry.write(Some(rule), end, Instant::now());
    }
}

fn access_log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access_log");
    let (uri, fields, rule) = (Uri::from_static("/articles/4711?page=2&sort=price"), fields(), rule());
    let mut facts = None;
    for format in ["json", "combined", "ingress-nginx"] {
        let target = Target::File("/dev/null".into());
        let log = AccessLog::start(LogOptions { target, format: format.parse().expect("a format") }).expect("it opens");
        let worker = Rc::new(log.worker(0, 1));
        let ends = (SocketAddr::from(([192, 0, 2, 7], 50_000)), SocketAddr::from(([10, 0, 0, 1], 8080)));
        let on = &*facts.get_or_insert_with(|| Rc::new(worker.connection(ends.0, ends.1, None)));
        group.bench_function(format, |b| b.iter(|| request(Some(&worker), on, &uri, &fields, &rule)));
        assert!(log.finish(Duration::from_secs(10)), "it keeps up");
    }
    let on = facts.expect("there was a format");
    group.bench_function("off", |b| b.iter(|| request(black_box(None), &on, &uri, &fields, &rule)));
    group.finish();
}

criterion_group!(benches, access_log);
criterion_main!(benches);
