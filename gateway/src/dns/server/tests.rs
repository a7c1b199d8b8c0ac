use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::sync::oneshot;

use super::super::{DnsEndpoint, DnsPort, DnsProtocol, DnsService, DnsServiceKind};
use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Long enough for a busy machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(10);

fn zone() -> Arc<Zone> {
    let service = |name: &str, kind| Arc::new(DnsService { namespace: "default".into(), name: name.into(), kind });
    let endpoints =
        (0..200u8).map(|last| DnsEndpoint { ip: [10, 0, 0, last].into(), hostname: None, ports: Vec::new() });
    let port = DnsPort { name: "http".into(), protocol: DnsProtocol::Tcp, port: 80 };
    let few =
        (0..8u8).map(|last| DnsEndpoint { ip: [10, 1, 0, last].into(), hostname: None, ports: vec![port.clone()] });
    let one = DnsServiceKind::ClusterIp { ips: vec![[10, 96, 0, 1].into()], ports: Vec::new() };
    let services = [
        service("web", one),
        service("many", DnsServiceKind::Headless { endpoints: endpoints.collect() }),
        service("few", DnsServiceKind::Headless { endpoints: few.collect() }),
        service("out", DnsServiceKind::ExternalName { target: "www.example.com".into() }),
    ];
    Arc::new(Zone::build("cluster.local", services, []))
}

/// A running server; it stops when this is dropped.
struct Running {
    addr: SocketAddr,
    zone: watch::Sender<Option<Arc<Zone>>>,
    _shutdown: oneshot::Sender<()>,
}

async fn start(zone: Option<Arc<Zone>>, forward: Vec<SocketAddr>) -> Running {
    let server = DnsServer::bind(LOOPBACK).await.unwrap();
    let addr = server.local_addr();
    let (sender, receiver) = watch::channel(zone);
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.run(receiver, forward, async move {
        let _ = stopped.await;
    }));
    Running { addr, zone: sender, _shutdown: stop }
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

async fn udp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.send_to(packet, server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(len);
    buffer
}

async fn ask(server: SocketAddr, message: &Message) -> Message {
    let answer = Message::from_vec(&udp(server, &message.to_vec().unwrap()).await).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    stream.write_all(&with_length(&message.to_vec().unwrap())).await.unwrap();
    let mut answer = vec![0; usize::from(timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A server that answers every question with `addresses`, the first over UDP with TC when there are many.
async fn upstream(code: ResponseCode, addresses: u8) -> SocketAddr {
    let server = DnsServer::bind(LOOPBACK).await.unwrap();
    let addr = server.local_addr();
    let answer = move |packet: &[u8], udp: bool| {
        let question = Message::from_vec(packet).unwrap();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.response_code = code;
        answer.metadata.recursion_available = true;
        answer.metadata.truncation = udp && addresses > 50;
        answer.add_queries(question.queries.clone());
        let count = if answer.metadata.truncation { 0 } else { addresses };
        for last in 0..count {
            let name = question.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last))));
        }
        answer.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (len, client) = server.udp.recv_from(&mut buffer).await.unwrap();
            server.udp.send_to(&answer(&buffer[..len], true), client).await.unwrap();
            if addresses > 50 {
                let (mut stream, _) = server.tcp.accept().await.unwrap();
                let question = read_message(&mut stream).await.unwrap().unwrap();
                stream.write_all(&with_length(&answer(&question, false))).await.unwrap();
            }
        }
    });
    addr
}

#[tokio::test]
async fn answers_with_authority_and_the_case_of_the_question() {
    let server = start(Some(zone()), Vec::new()).await;
    let question = query("wEB.Default.svc.clusteR.local.", RecordType::A);
    let answer = ask(server.addr, &question).await;
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired && !answer.metadata.recursion_available);
    assert!(answer.queries[0].name().eq_case(question.queries[0].name()));
    assert!(answer.answers[0].name.eq_case(question.queries[0].name()));
    assert_eq!(answer.answers[0].data, RData::A(A::new(10, 96, 0, 1)));
    assert!(answer.edns.is_none());
}

#[tokio::test]
async fn negative_answers_carry_the_soa() {
    let server = start(Some(zone()), Vec::new()).await;
    for (name, code) in
        [("nope.default.svc.cluster.local.", ResponseCode::NXDomain), ("svc.cluster.local.", ResponseCode::NoError)]
    {
        let answer = ask(server.addr, &query(name, RecordType::A)).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0));
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(
            (answer.authorities[0].name.to_string(), answer.authorities[0].ttl),
            ("cluster.local.".to_owned(), 5)
        );
    }
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let server = start(Some(zone()), Vec::new()).await;
    let question = query("many.default.svc.cluster.local.", RecordType::A);
    for (size, limit) in [(None, 512), (Some(100), 512), (Some(800), 800), (Some(65535), 1232)] {
        let question = match size {
            Some(size) => with_edns(question.clone(), size),
            None => question.clone(),
        };
        let packet = udp(server.addr, &question.to_vec().unwrap()).await;
        let answer = Message::from_vec(&packet).unwrap();
        assert!(answer.metadata.truncation && packet.len() <= limit && packet.len() > limit - 60, "{}", packet.len());
        assert!(!answer.answers.is_empty());
        assert_eq!(answer.edns.is_some(), size.is_some());
    }
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..2 {
        let answer = ask_tcp(&mut stream, &question).await;
        assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 200));
    }
}

#[tokio::test]
async fn addresses_that_do_not_fit_beside_srv_records_are_left_out() {
    let server = start(Some(zone()), Vec::new()).await;
    let question = query("_http._tcp.few.default.svc.cluster.local.", RecordType::SRV);
    let whole = udp(server.addr, &with_edns(question.clone(), 1232).to_vec().unwrap()).await;
    assert_eq!(Message::from_vec(&whole).unwrap().additionals.len(), 8);
    let room = u16::try_from(whole.len()).unwrap() - 1;
    let answer = ask(server.addr, &with_edns(question, room)).await;
    assert!(!answer.metadata.truncation && answer.edns.is_some());
    assert_eq!((answer.answers.len(), answer.additionals.len()), (8, 0));
}

#[tokio::test]
async fn headers_that_are_not_for_us() {
    let server = start(Some(zone()), Vec::new()).await;
    let refused = |answer: &Message| answer.metadata.response_code == ResponseCode::Refused;
    assert!(refused(&ask(server.addr, &query("example.com.", RecordType::A)).await));
    assert!(refused(&ask(server.addr, &query("9.9.9.9.in-addr.arpa.", RecordType::PTR)).await));
    assert!(refused(&ask(server.addr, &query("cluster.local.", RecordType::AXFR)).await));
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(refused(&ask(server.addr, &chaos).await));

    let mut update = query("cluster.local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask(server.addr, &update).await.metadata.response_code, ResponseCode::NotImp);
    let mut two = query("cluster.local.", RecordType::SOA);
    two.add_query(Query::query(Name::root(), RecordType::NS));
    assert_eq!(ask(server.addr, &two).await.metadata.response_code, ResponseCode::FormErr);
    let mut newer = with_edns(query("cluster.local.", RecordType::SOA), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    let answer = ask(server.addr, &newer).await;
    // 16 has two names: BADVERS, and BADSIG where there is a signature.
    assert_eq!((u16::from(answer.metadata.response_code), answer.edns.unwrap().version()), (16, 0));
}

#[tokio::test]
async fn broken_packets_get_formerr_or_nothing() {
    let server = start(Some(zone()), Vec::new()).await;
    let whole = query("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let cut = udp(server.addr, &whole[..20]).await;
    assert_eq!((cut.len(), cut[3] & 0x0F), (12, 1));
    let looped = [&whole[..12], &[0xC0, 12, 0, 1, 0, 1]].concat();
    assert_eq!(udp(server.addr, &looped).await[3] & 0x0F, 1);

    // Neither a response nor a stump is answered: the next answer is the one to a true question.
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let response = query("web.default.svc.cluster.local.", RecordType::A).into_response().to_vec().unwrap();
    for packet in [&response[..], &[], &[1, 2, 3], &whole] {
        socket.send_to(packet, server.addr).await.unwrap();
    }
    let mut buffer = [0; 512];
    timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..2], whole[..2]);
}

#[tokio::test]
async fn random_packets_do_no_harm() {
    let (_sender, zone) = watch::channel(Some(zone()));
    let responder = Responder::new(zone, None);
    let whole = with_edns(query("_a._tcp.web.default.svc.cluster.local.", RecordType::SRV), 600).to_vec().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut packet = whole.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..packet.len());
            packet[at] = random.u8(..);
        }
        packet.truncate(random.usize(..=packet.len()));
        if let Step::Reply(reply) = responder.step(&packet, LOOPBACK, Protocol::Udp) {
            assert!((12..=1232).contains(&reply.len()));
        }
    }
}

#[tokio::test]
async fn before_the_first_zone_everything_fails_for_now() {
    let server = start(None, Vec::new()).await;
    let answer = ask(server.addr, &query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.zone.send_replace(Some(zone()));
    let answer = ask(server.addr, &query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
}

#[tokio::test]
async fn other_names_are_forwarded() {
    let server = start(Some(zone()), vec![upstream(ResponseCode::NoError, 2).await]).await;
    let answer = ask(server.addr, &query("Example.com.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 2));
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(answer.queries[0].name().eq_case(&Name::from_ascii("Example.com.").unwrap()));
    assert!(answer.edns.is_none());
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_again_over_tcp() {
    let server = start(Some(zone()), vec![upstream(ResponseCode::NoError, 100).await]).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let answer = ask_tcp(&mut stream, &query("example.com.", RecordType::A)).await;
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 100));
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    // Nobody listens on the first: it was bound and closed.
    let closed = DnsServer::bind(LOOPBACK).await.unwrap().local_addr();
    let bad = upstream(ResponseCode::ServFail, 0).await;
    let good = upstream(ResponseCode::NoError, 1).await;
    let server = start(Some(zone()), vec![closed, bad, good]).await;
    for _ in 0..2 {
        assert_eq!(ask(server.addr, &query("example.com.", RecordType::A)).await.answers.len(), 1);
    }
    let server = start(Some(zone()), vec![closed, bad]).await;
    let answer = ask(server.addr, &query("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_silent_server_is_waited_for_only_once() {
    let silent = UdpSocket::bind(LOOPBACK).await.unwrap();
    let good = upstream(ResponseCode::NoError, 1).await;
    let server = start(Some(zone()), vec![silent.local_addr().unwrap(), good]).await;
    for _ in 0..2 {
        assert_eq!(ask(server.addr, &query("example.com.", RecordType::A)).await.answers.len(), 1);
    }
    let mut buffer = [0; 512];
    assert!(silent.try_recv(&mut buffer).is_ok() && silent.try_recv(&mut buffer).is_err());
}

#[tokio::test]
async fn an_external_name_is_completed_if_we_may_ask() {
    let name = "out.default.svc.cluster.local.";
    let server = start(Some(zone()), Vec::new()).await;
    let answer = ask(server.addr, &query(name, RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));

    let server = start(Some(zone()), vec![upstream(ResponseCode::NoError, 1).await]).await;
    let answer = ask(server.addr, &query(name, RecordType::A)).await;
    let types: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [RecordType::CNAME, RecordType::A]);
    assert_eq!(answer.answers[1].name.to_string(), "www.example.com.");
    assert!(answer.metadata.authoritative);
}

#[tokio::test]
async fn a_server_never_asks_itself() {
    let server = DnsServer::bind(LOOPBACK).await.unwrap();
    let addr = server.local_addr();
    let (_sender, receiver) = watch::channel(Some(zone()));
    tokio::spawn(server.run(receiver, vec![addr], std::future::pending()));
    let answer = ask(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn shutdown_frees_the_port() {
    let server = DnsServer::bind(LOOPBACK).await.unwrap();
    let addr = server.local_addr();
    let (_sender, receiver) = watch::channel(None);
    server.run(receiver, Vec::new(), std::future::ready(())).await;
    assert_eq!(DnsServer::bind(addr).await.unwrap().local_addr(), addr);
}

#[tokio::test]
async fn an_overlong_question_ends_the_connection() {
    let server = start(Some(zone()), Vec::new()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
}
