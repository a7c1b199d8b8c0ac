use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, protocol: DnsProtocol, port: u16) -> DnsPort {
    DnsPort { name: name.into(), protocol, port }
}

fn service(namespace: &str, name: &str, kind: DnsServiceKind) -> Arc<DnsService> {
    Arc::new(DnsService { namespace: namespace.into(), name: name.into(), kind })
}

fn external(name: &str, target: &str) -> Arc<DnsService> {
    service("default", name, DnsServiceKind::ExternalName { target: target.into() })
}

fn endpoint(address: &str, hostname: Option<&str>, ports: &[DnsPort]) -> DnsEndpoint {
    DnsEndpoint { ip: ip(address), hostname: hostname.map(Into::into), ports: ports.to_vec() }
}

fn zone() -> Zone {
    let web =
        vec![port("http", DnsProtocol::Tcp, 80), port("dns", DnsProtocol::Udp, 53), port("", DnsProtocol::Sctp, 9)];
    let db = [port("sql", DnsProtocol::Tcp, 5432)];
    let endpoints = vec![
        endpoint("10.1.0.1", Some("db-0"), &db),
        endpoint("fd00::1:1", Some("db-0"), &db),
        endpoint("10.1.0.2", None, &db),
        endpoint("10.1.0.2", None, &db),
        endpoint("fd00:1::", None, &[port("other", DnsProtocol::Tcp, 1)]),
    ];
    let services = [
        service(
            "default",
            "web",
            DnsServiceKind::ClusterIp { ips: vec![ip("10.96.0.10"), ip("fd00:96::10")], ports: web },
        ),
        service("default", "four", DnsServiceKind::ClusterIp { ips: vec![ip("10.96.0.11")], ports: Vec::new() }),
        service("data", "db", DnsServiceKind::Headless { endpoints }),
        service("data", "idle", DnsServiceKind::Headless { endpoints: Vec::new() }),
        external("out", "www.example.com"),
        external("out-address", "192.0.2.1"),
        external("out-bad", "not a name..at all"),
        external("near", "web.default.svc.cluster.local."),
        external("far", "near.default.svc.cluster.local"),
        external("gone", "nothing.default.svc.cluster.local"),
        external("ring-a", "ring-b.default.svc.cluster.local"),
        external("ring-b", "ring-a.default.svc.cluster.local"),
    ];
    Zone::build("Cluster.Local", services, ["empty".into()])
}

/// The verdict and the answers, each as `type data`, sorted.
fn ask(name: &str, record_type: RecordType) -> (Verdict, Vec<String>) {
    let answer = zone().answer(&Name::from_ascii(name).unwrap(), record_type);
    assert!(answer.answers.iter().all(|record| record.ttl == TTL_SECONDS));
    (answer.verdict, texts(&answer.answers))
}

fn texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> =
        records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    texts.sort();
    texts
}

#[track_caller]
fn check(name: &str, record_type: RecordType, verdict: Verdict, expected: &[&str]) {
    let (found, texts) = ask(name, record_type);
    assert_eq!(
        (found, texts.iter().map(String::as_str).collect()),
        (verdict, expected.to_vec()),
        "{name} {record_type}"
    );
}

#[test]
fn cluster_ip_addresses_by_family() {
    check("web.default.svc.cluster.local.", RecordType::A, Verdict::Found, &["A 10.96.0.10"]);
    check("web.default.svc.cluster.local.", RecordType::AAAA, Verdict::Found, &["AAAA fd00:96::10"]);
    check("four.default.svc.cluster.local.", RecordType::AAAA, Verdict::NoData, &[]);
    check("web.default.svc.cluster.local.", RecordType::MX, Verdict::NoData, &[]);
    check("web.default.svc.cluster.local.", RecordType::SRV, Verdict::NoData, &[]);
}

#[test]
fn names_in_any_case_are_found_and_come_back_as_asked() {
    let name = Name::from_ascii("WeB.DEFAULT.svc.Cluster.LOCAL.").unwrap();
    let answer = zone().answer(&name, RecordType::A);
    assert!(answer.answers[0].name.eq_case(&name));
}

#[test]
fn srv_for_named_ports_with_glue() {
    let answer =
        zone().answer(&Name::from_ascii("_http._tcp.web.default.svc.cluster.local.").unwrap(), RecordType::SRV);
    assert_eq!(texts(&answer.answers), ["SRV 0 100 80 web.default.svc.cluster.local."]);
    assert_eq!(texts(&answer.additionals), ["A 10.96.0.10", "AAAA fd00:96::10"]);
    check("_http._tcp.web.default.svc.cluster.local.", RecordType::A, Verdict::NoData, &[]);
    check("_http._udp.web.default.svc.cluster.local.", RecordType::SRV, Verdict::NxDomain, &[]);
    check("http.tcp.web.default.svc.cluster.local.", RecordType::SRV, Verdict::NxDomain, &[]);
    check("_._sctp.web.default.svc.cluster.local.", RecordType::SRV, Verdict::NxDomain, &[]);
    check("_tcp.web.default.svc.cluster.local.", RecordType::SRV, Verdict::NoData, &[]);
    check("_sctp.web.default.svc.cluster.local.", RecordType::SRV, Verdict::NxDomain, &[]);
    check("_tcp.db.data.svc.cluster.local.", RecordType::A, Verdict::NoData, &[]);
}

#[test]
fn headless_is_all_endpoints_once() {
    check("db.data.svc.cluster.local.", RecordType::A, Verdict::Found, &["A 10.1.0.1", "A 10.1.0.2"]);
    check("db.data.svc.cluster.local.", RecordType::AAAA, Verdict::Found, &["AAAA fd00:1::", "AAAA fd00::1:1"]);
    for record_type in [RecordType::A, RecordType::SRV, RecordType::ANY] {
        check("idle.data.svc.cluster.local.", record_type, Verdict::NxDomain, &[]);
    }
}

#[test]
fn endpoints_are_named_by_host_name_or_dashed_address() {
    check("db-0.db.data.svc.cluster.local.", RecordType::A, Verdict::Found, &["A 10.1.0.1"]);
    check("db-0.db.data.svc.cluster.local.", RecordType::AAAA, Verdict::Found, &["AAAA fd00::1:1"]);
    check("10-1-0-2.db.data.svc.cluster.local.", RecordType::A, Verdict::Found, &["A 10.1.0.2"]);
    check("10-1-0-2.db.data.svc.cluster.local.", RecordType::AAAA, Verdict::NoData, &[]);
    check("fd00-1--0.db.data.svc.cluster.local.", RecordType::AAAA, Verdict::Found, &["AAAA fd00:1::"]);
    check("10-1-0-1.db.data.svc.cluster.local.", RecordType::A, Verdict::NxDomain, &[]);
    check("db-0.web.default.svc.cluster.local.", RecordType::A, Verdict::NxDomain, &[]);
    check("db-0.out.default.svc.cluster.local.", RecordType::A, Verdict::NxDomain, &[]);
}

#[test]
fn headless_srv_shares_the_weight() {
    let answer = zone().answer(&Name::from_ascii("_sql._tcp.db.data.svc.cluster.local.").unwrap(), RecordType::SRV);
    assert_eq!(
        texts(&answer.answers),
        ["SRV 0 50 5432 10-1-0-2.db.data.svc.cluster.local.", "SRV 0 50 5432 db-0.db.data.svc.cluster.local."]
    );
    assert_eq!(texts(&answer.additionals), ["A 10.1.0.1", "A 10.1.0.2", "AAAA fd00::1:1"]);
}

#[test]
fn srv_weight_is_never_zero() {
    let ports = [port("x", DnsProtocol::Tcp, 1)];
    let endpoints = (0..150).map(|last| endpoint(&format!("10.0.0.{last}"), None, &ports)).collect();
    let zone = Zone::build("z", [service("n", "s", DnsServiceKind::Headless { endpoints })], []);
    let answer = zone.answer(&Name::from_ascii("_x._tcp.s.n.svc.z.").unwrap(), RecordType::SRV);
    assert_eq!(answer.answers.len(), 150);
    assert!(texts(&answer.answers).iter().all(|text| text.starts_with("SRV 0 1 1 ")));
}

#[test]
fn external_name_is_an_alias() {
    let answer = zone().answer(&Name::from_ascii("out.default.svc.cluster.local.").unwrap(), RecordType::A);
    assert_eq!(texts(&answer.answers), ["CNAME www.example.com."]);
    assert_eq!(answer.target, Some(Name::from_ascii("www.example.com.").unwrap()));
    let answer = zone().answer(&Name::from_ascii("out.default.svc.cluster.local.").unwrap(), RecordType::CNAME);
    assert_eq!((texts(&answer.answers), answer.target), (vec!["CNAME www.example.com.".to_owned()], None));
    check("out.default.svc.cluster.local.", RecordType::TXT, Verdict::NoData, &[]);
    check("_http._tcp.out.default.svc.cluster.local.", RecordType::SRV, Verdict::NxDomain, &[]);
    for name in ["out-address", "out-bad"] {
        check(&format!("{name}.default.svc.cluster.local."), RecordType::A, Verdict::NoData, &[]);
    }
}

#[test]
fn aliases_within_the_zone_are_followed_and_bounded() {
    check(
        "far.default.svc.cluster.local.",
        RecordType::A,
        Verdict::Found,
        &["A 10.96.0.10", "CNAME near.default.svc.cluster.local.", "CNAME web.default.svc.cluster.local."],
    );
    let gone = "CNAME nothing.default.svc.cluster.local.";
    check("gone.default.svc.cluster.local.", RecordType::A, Verdict::NxDomain, &[gone]);
    let (verdict, chain) = ask("ring-a.default.svc.cluster.local.", RecordType::A);
    assert_eq!((verdict, chain.len()), (Verdict::Found, MAX_ALIASES));
}

#[test]
fn names_between_exist_without_records() {
    for name in ["svc", "pod", "default.svc", "empty.svc", "ns.dns"] {
        check(&format!("{name}.cluster.local."), RecordType::A, Verdict::NoData, &[]);
    }
    for name in ["none.svc", "x", "x.none.svc", "none.default.svc", "default", "a.b.web.default.svc", "default.pod"] {
        check(&format!("{name}.cluster.local."), RecordType::A, Verdict::NxDomain, &[]);
    }
    for name in ["10-1-0-1.default.pod", "*.default.svc", "a.b.c.d.e.f.g"] {
        check(&format!("{name}.cluster.local."), RecordType::A, Verdict::NxDomain, &[]);
    }
}

#[test]
fn apex_and_version() {
    let soa = "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";
    check("cluster.local.", RecordType::SOA, Verdict::Found, &[soa]);
    check("cluster.local.", RecordType::NS, Verdict::Found, &["NS ns.dns.cluster.local."]);
    check("cluster.local.", RecordType::A, Verdict::NoData, &[]);
    check("dns-version.cluster.local.", RecordType::TXT, Verdict::Found, &["TXT 1.1.0"]);
    check("dns-version.cluster.local.", RecordType::A, Verdict::NoData, &[]);
}

#[test]
fn transfers_are_refused_and_any_is_minimal() {
    check("cluster.local.", RecordType::AXFR, Verdict::Refused, &[]);
    check("web.default.svc.cluster.local.", RecordType::IXFR, Verdict::Refused, &[]);
    assert_eq!(ask("web.default.svc.cluster.local.", RecordType::ANY).1.len(), 1);
    check("none.default.svc.cluster.local.", RecordType::ANY, Verdict::NxDomain, &[]);
}

#[test]
fn reverse_names_of_our_addresses() {
    let web = "PTR web.default.svc.cluster.local.";
    let db = "PTR db-0.db.data.svc.cluster.local.";
    check("10.0.96.10.in-addr.arpa.", RecordType::PTR, Verdict::Found, &[web]);
    check("1.0.1.10.IN-ADDR.arpa.", RecordType::PTR, Verdict::Found, &[db]);
    let six = "1.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    check(six, RecordType::PTR, Verdict::Found, &[db]);
    check("10.0.96.10.in-addr.arpa.", RecordType::A, Verdict::NoData, &[]);
    // Without a host name, unknown, and only part of an address.
    for name in ["2.0.1.10.in-addr.arpa.", "9.9.9.9.in-addr.arpa.", "96.10.in-addr.arpa.", "x.in-addr.arpa."] {
        check(name, RecordType::PTR, Verdict::Outside, &[]);
    }
}

#[test]
fn a_cluster_ip_comes_before_pods_and_pods_have_a_name_per_service() {
    let pod = |hostname| DnsServiceKind::Headless { endpoints: vec![endpoint("10.0.0.1", Some(hostname), &[])] };
    let own = DnsServiceKind::ClusterIp { ips: vec![ip("10.0.0.1")], ports: Vec::new() };
    let name = Name::from_ascii("1.0.0.10.in-addr.arpa.").unwrap();
    let pods = [service("n", "a", pod("p")), service("n", "b", pod("p"))];
    let answer = Zone::build("z", pods.clone(), []).answer(&name, RecordType::PTR);
    assert_eq!(texts(&answer.answers), ["PTR p.a.n.svc.z.", "PTR p.b.n.svc.z."]);
    let all = pods.into_iter().chain([service("n", "own", own)]);
    let answer = Zone::build("z", all, []).answer(&name, RecordType::PTR);
    assert_eq!(texts(&answer.answers), ["PTR own.n.svc.z."]);
}

#[test]
fn other_names_are_outside() {
    for name in ["example.com.", "local.", ".", "xcluster.local.", "arpa."] {
        check(name, RecordType::A, Verdict::Outside, &[]);
    }
}

#[test]
fn a_domain_that_is_no_name_falls_back() {
    for domain in ["", ".", "a..b"] {
        let zone = Zone::build(domain, [], []);
        let answer = zone.answer(&Name::from_ascii("cluster.local.").unwrap(), RecordType::SOA);
        assert_eq!(answer.verdict, Verdict::Found, "{domain:?}");
    }
}
