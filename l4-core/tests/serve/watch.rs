//! What somebody who looks on hears.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tidegate_l4::{
    model::{Affinity, Protocol},
    watch::{Began, Refused, Watch, WhyRefused},
};
use tokio::{io::AsyncWriteExt, net::UdpSocket};

use crate::support::*;

#[derive(Debug, Default)]
struct Notes {
    is_on: Cell<bool>,
    lines: RefCell<Vec<String>>,
    clients: RefCell<Vec<(std::net::SocketAddr, Option<std::net::SocketAddr>)>>,
    refused: RefCell<Vec<WhyRefused>>,
}

impl Watch for Notes {
    fn is_on(&self) -> bool {
        self.is_on.get()
    }

    fn began(&self, began: &Began<'_>) -> Option<u64> {
        let number = self.clients.borrow().len() as u64;
        self.clients.borrow_mut().push((began.client, began.upstream));
        let (service, kind) = (&began.service, began.kind);
        self.lines.borrow_mut().push(format!("{number} {service} {kind:?} {} {:?}", began.endpoint.addr, began.reason));
        Some(number)
    }

    fn ended(&self, number: u64, bytes_in: u64, bytes_out: u64) {
        self.lines.borrow_mut().push(format!("{number} ended {bytes_in} {bytes_out}"));
    }

    fn refused(&self, refused: &Refused<'_>) {
        self.refused.borrow_mut().push(refused.why);
    }
}

fn watched(proxy: &Proxy) -> Rc<Notes> {
    let notes = Rc::new(Notes::default());
    proxy.worker.tell(notes.clone());
    notes
}

#[test]
fn connections_are_told_of_with_their_reason_and_their_end() {
    run(async {
        let addrs = [pod("a").await, pod("b").await];
        let proxy = Proxy::start(service(&addrs));
        let notes = watched(&proxy);
        drop(proxy.greeted().await);
        notes.is_on.set(true);
        for _ in 0..2 {
            let (mut client, _) = proxy.greeted().await;
            client.write_all(b"ping\n").await.unwrap();
            assert_eq!(line(&mut client).await.unwrap(), "ping");
            let here = client.local_addr().unwrap();
            assert_eq!(notes.clients.borrow().last().unwrap().0, here);
            drop(client);
            proxy.quiet().await;
        }
        let rule = "default/web ClusterIp";
        let expected = [
            format!("0 {rule} {} Rule(RoundRobin)", addrs[1]),
            "0 ended 5 7".to_owned(),
            format!("1 {rule} {} Rule(RoundRobin)", addrs[0]),
            "1 ended 5 7".to_owned(),
        ];
        assert_eq!(*notes.lines.borrow(), expected, "and nothing of the connection before anybody looked");
        assert!(notes.clients.borrow().iter().all(|(_, upstream)| upstream.is_some_and(|addr| addr.port() != 0)));
    });
}

#[test]
fn reasons_of_affinity_of_failures_and_of_refusals() {
    run(async {
        let dead = Dead::tcp();
        let mut config = service(&[pod("a").await, dead.addr()]);
        config.affinity = Affinity::ClientIp { timeout: Duration::from_secs(60) };
        let proxy = Proxy::start(config);
        let notes = watched(&proxy);
        notes.is_on.set(true);
        for _ in 0..2 {
            drop(proxy.greeted().await);
        }
        proxy.publish_endpoints(|endpoints| drop(endpoints.pop()));
        drop(proxy.greeted().await);
        proxy.publish_endpoints(|endpoints| *endpoints = vec![endpoint(dead.addr())]);
        assert_reset(line(&mut proxy.connect().await).await);
        proxy.publish_endpoints(|endpoints| endpoints.clear());
        assert_reset(line(&mut proxy.connect().await).await);
        let lines = notes.lines.borrow();
        let reasons: Vec<&str> =
            lines.iter().filter(|l| !l.contains("ended")).filter_map(|l| l.split(' ').nth(4)).collect();
        // Whether the one that is dead was the first choice is a matter of the hash.
        assert!(["NewClient", "NotReached"].contains(&reasons[0]), "{reasons:?}");
        assert_eq!(reasons[1..], ["Affinity", "Only"]);
        assert_eq!(*notes.refused.borrow(), [WhyRefused::NotReached, WhyRefused::NobodyToServe]);
    });
}

#[test]
fn flows_are_told_of_too() {
    run(async {
        let addr = udp_pod("a").await;
        let mut config = service(&[addr]);
        config.name.protocol = Protocol::Udp;
        let proxy = Proxy::start(config);
        let notes = watched(&proxy);
        notes.is_on.set(true);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"hello", proxy.addr()).await.unwrap();
        let mut answer = [0; 16];
        let (n, _) = client.recv_from(&mut answer).await.unwrap();
        assert_eq!(&answer[..n], b"ahello");
        proxy.worker.close(&proxy.frontend);
        until(|| notes.lines.borrow().len() == 2).await;
        assert_eq!(*notes.lines.borrow(), [format!("0 default/web ClusterIp {addr} Only"), "0 ended 5 6".to_owned()]);
    });
}
