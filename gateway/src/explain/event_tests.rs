use std::{net::Ipv4Addr, time::SystemTime};

use tidegate_l4::{
    model::{Protocol, ServicePortName},
    watch::WhyRefused,
};

use super::*;
use crate::tail::{ConnectionEnd, Refused};

fn event(what: What) -> Event {
    Event { id: 7, time: SystemTime::UNIX_EPOCH, what }
}

fn request() -> Request {
    Request {
        method: "POST".to_owned(),
        nth: 1,
        is_tls: true,
        host: "kubia.example.com:8443".to_owned(),
        path: "/a/b".to_owned(),
        protocol: "HTTP/2.0",
        client: (Ipv4Addr::LOCALHOST, 4711).into(),
        on_behalf_of: None,
        id: "1".to_owned(),
        ingress: None,
        service: None,
        endpoint: None,
        pod: None,
        reason: None,
        tries: 0,
        status: 200,
        failure: None,
        took: Default::default(),
        bytes_in: 0,
        bytes_out: 0,
        session: Some("session=1700000000.1.2.3|abcdef".into()),
    }
}

#[test]
fn a_request_is_asked_again_with_its_cookie_which_is_not_shown() {
    let question = Question::of_event(&event(What::Request(Box::new(request())))).unwrap();
    let text = question.to_string();
    assert_eq!(text, "POST https://kubia.example.com:8443/a/b from 127.0.0.1 with cookie: (not shown)");
    let query = question.to_query();
    assert!(query.contains("abcdef"), "it is part of the question still: {query}");
    let proxied = Request { on_behalf_of: Some([192, 0, 2, 1].into()), session: None, ..request() };
    let question = Question::of_event(&event(What::Request(Box::new(proxied)))).unwrap();
    assert_eq!(question.to_string(), "POST https://kubia.example.com:8443/a/b from 192.0.2.1");
    let nowhere = Request { host: "a b".to_owned(), ..request() };
    assert!(Question::of_event(&event(What::Request(Box::new(nowhere)))).is_err());
}

#[test]
fn a_connection_is_asked_again_by_where_it_came_in() {
    let refused = Refused {
        service: ServicePortName {
            namespace: "default".into(),
            service: "dns".into(),
            port: "".into(),
            protocol: Protocol::Udp,
        },
        frontend: Frontend { ip: Ipv4Addr::LOCALHOST.into(), port: 53, protocol: Protocol::Udp },
        client: (Ipv4Addr::new(127, 0, 0, 9), 4711).into(),
        why: WhyRefused::NobodyToServe,
    };
    let question = Question::of_event(&event(What::Refused(Box::new(refused)))).unwrap();
    assert_eq!(question.to_string(), "udp://127.0.0.1:53 from 127.0.0.9");
    let end = ConnectionEnd { of: 3, took: Default::default(), bytes_in: 0, bytes_out: 0 };
    assert!(Question::of_event(&event(What::ConnectionEnd(end))).unwrap_err().contains("event 3"));
}
