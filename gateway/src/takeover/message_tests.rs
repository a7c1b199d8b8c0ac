use proptest::prelude::*;

use super::*;

fn addrs() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn names() -> impl Strategy<Value = SocketName> {
    let purposes = prop_oneof![
        Just(Purpose::Http),
        Just(Purpose::Https),
        Just(Purpose::Admin),
        Just(Purpose::Dns),
        Just(Purpose::Frontend),
        Just(Purpose::HealthCheck),
        Just(Purpose::Metrics),
    ];
    (purposes, protocols(), addrs(), any::<u16>()).prop_map(|(purpose, protocol, addr, number)| SocketName {
        purpose,
        protocol,
        addr,
        number,
    })
}

fn flows() -> impl Strategy<Value = FlowName> {
    (addrs(), any::<u16>(), addrs(), addrs(), any::<bool>()).prop_map(
        |(frontend, number, client, endpoint, replied)| FlowName { frontend, number, client, endpoint, replied },
    )
}

fn affinity() -> impl Strategy<Value = Message> {
    let client = (any::<IpAddr>(), addrs(), any::<u64>()).prop_map(|(client, endpoint, last)| Remembered {
        client,
        endpoint,
        last: UnixMillis(last),
    });
    let text = || "[a-z0-9-]{0,253}".prop_map(|text: String| text.as_str().into());
    let name = (text(), text(), text(), protocols()).prop_map(|(namespace, service, port, protocol)| ServicePortName {
        namespace,
        service,
        port,
        protocol,
    });
    (name, proptest::collection::vec(client, 0..=MAX_CLIENTS))
        .prop_map(|(name, clients)| Message::Affinity(name, clients))
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u16>(), any::<u32>()).prop_map(|(version, pid)| Message::Hello { version, pid }),
        (any::<u16>(), any::<u32>()).prop_map(|(version, pid)| Message::Welcome { version, pid }),
        ".{0,200}".prop_map(Message::Refused),
        Just(Message::Next),
        proptest::collection::vec(names(), 0..=MAX_SOCKETS).prop_map(Message::Sockets),
        proptest::collection::vec(any::<u8>(), 0..=MAX_BYTES).prop_map(|keys| Message::TicketKeys(Secret(keys))),
        Just(Message::End),
        Just(Message::Leave),
        proptest::collection::vec(flows(), 0..=MAX_SOCKETS).prop_map(Message::Flows),
        affinity(),
    ]
}

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was(message in messages()) {
        let bytes = message.encode();
        let head = *bytes.first_chunk::<HEAD_BYTES>().unwrap();
        prop_assert_eq!(Message::length(head), Ok(bytes.len()));
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn hostile_bytes_are_no_message_or_one_within_the_limits(bytes in proptest::collection::vec(any::<u8>(), 0..4_000)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert!(message.sockets() <= MAX_SOCKETS);
        }
    }

    /// Nearly right is more dangerous than nonsense: one byte of a message is another one, or some are missing or too many.
    #[test]
    fn damaged_messages_are_refused_or_are_others(
        message in messages(), at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in 0..40usize,
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(other) = Message::decode(&bytes) {
            prop_assert!(other.sockets() <= MAX_SOCKETS);
        }
        let mut bytes = message.encode();
        let whole = bytes.len();
        bytes.truncate(whole.saturating_sub(cut));
        prop_assert_eq!(Message::decode(&bytes).is_ok(), cut == 0);
        bytes.resize(whole + cut, 0);
        prop_assert!(cut == 0 || Message::decode(&bytes).is_err());
    }
}

#[test]
fn no_log_shows_a_secret() {
    assert_eq!(format!("{:?}", Message::TicketKeys(Secret(vec![1, 2, 3]))), "TicketKeys(Secret(3 bytes))");
}

#[test]
fn lengths_beyond_the_limit_are_refused_before_anything_is_read() {
    let head = |length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        Message::length([kind::TICKET_KEYS, a, b, c, d])
    };
    assert_eq!(head(MAX_BYTES as u32), Ok(HEAD_BYTES + MAX_BYTES));
    assert_eq!(head(MAX_BYTES as u32 + 1), Err(DecodeError::TooLong));
    assert_eq!(head(u32::MAX), Err(DecodeError::TooLong));
}

#[test]
fn as_many_names_as_allowed_fit_and_one_more_is_refused() {
    let addr = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1);
    let flow = FlowName { frontend: addr, number: 0, client: addr, endpoint: addr, replied: true };
    let fits = Message::Flows(vec![flow; MAX_SOCKETS]).encode();
    assert!(fits.len() <= HEAD_BYTES + MAX_BYTES);
    assert_eq!(Message::decode(&fits).unwrap().sockets(), MAX_SOCKETS);
    let text = || "x".repeat(255).as_str().into();
    let name = ServicePortName { namespace: text(), service: text(), port: text(), protocol: Protocol::Tcp };
    let client = Remembered { client: addr.ip(), endpoint: addr, last: UnixMillis(1) };
    assert!(Message::Affinity(name, vec![client; MAX_CLIENTS]).encode().len() <= HEAD_BYTES + MAX_BYTES);
    assert_eq!(Message::decode(&Message::Flows(vec![flow; MAX_SOCKETS + 1]).encode()), Err(DecodeError::TooLong));
}
