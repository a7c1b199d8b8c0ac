//! What is written to a cluster: by one replica, no more than there is to write, and not without permission.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::{
    compile::settings::AddressSource,
    controller::{
        ControllerOptions,
        publish::{Address, Publish},
    },
};
use tidegate_crd::Kind;
use tidegate_tests::{Bed, Net, PATIENCE, api_server::ApiServer, http_pod};

use crate::kubernetes::{admin, ask, ask_until, cluster, ingress, service};

/// An address that all Ingresses are to show.
const EDGE: &str = "192.0.2.200";

fn edge() -> Publish {
    Publish::Addresses(vec![Address::Ip(EDGE.parse().unwrap())])
}

/// A replica that calls itself `name`.
async fn replica(net: Net, server: &ApiServer, name: &str, publish: Publish) -> Bed {
    replica_of(net, server, "tidegate-leader", &["tidegate", "nginx"], name, publish).await
}

/// A replica of the installation with this Lease, which serves these classes.
async fn replica_of(net: Net, server: &ApiServer, lease: &str, classes: &[&str], name: &str, publish: Publish) -> Bed {
    let source = cluster(server, &[]).await;
    let (lease, namespace, identity) = (lease.into(), "tidegate".into(), name.into());
    Bed::start_with(net, "", |options| {
        options.source = source;
        options.settings.addresses = AddressSource::Cluster;
        options.settings.classes.implied = classes.iter().map(|class| (*class).into()).collect();
        options.admin = admin(net);
        options.controller = Some(ControllerOptions { namespace, lease, identity, publish });
    })
    .await
}

/// Waits until the cluster is so.
async fn until(what: &str, server: &ApiServer, is_it: impl Fn(&ApiServer) -> bool) {
    let wait = async {
        while !is_it(server) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(in_time, "{what}: {:#?} {:#?}", server.objects("ingresses"), server.objects("leases"));
}

/// The addresses that an Ingress of namespace `default` shows.
fn shown(server: &ApiServer, name: &str) -> Vec<String> {
    let object = server.object("ingresses", "default", name).expect("it is there");
    let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let address = |entry: &Value| entry["ip"].as_str().or_else(|| entry["hostname"].as_str()).map(str::to_owned);
    entries.iter().filter_map(address).collect()
}

fn holder(server: &ApiServer) -> String {
    let lease = server.object("leases", "tidegate", "tidegate-leader");
    lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Requests so far to write the status of this Ingress.
fn writes(server: &ApiServer, name: &str) -> usize {
    let target = format!("/ingresses/{name}/status?");
    server.written().iter().filter(|written| written.contains(&target)).count()
}

fn of_class(name: &str, class: &str) -> String {
    ingress("default", name).replace("spec: {", &format!("spec: {{ingressClassName: {class}, "))
}

const CLASS: &str = "---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: theirs}, spec: {controller: example.com/theirs}}\n";

#[tokio::test]
async fn the_leader_writes_the_status_of_our_ingresses_once_and_nothing_is_compiled_anew() {
    let (net, other) = (Net::next(), Net::next());
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(CLASS.to_owned() + &service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    server.apply(&of_class("theirs", "theirs"));
    let theirs = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    server.write_status("other-controller", Kind::Ingress, "default", "theirs", &theirs);
    let a = replica(net, &server, "a", edge()).await;
    let _b = replica(other, &server, "b", edge()).await;
    until("the address is shown", &server, |server| shown(server, "web") == [EDGE]).await;
    let generation = a.snapshot().generation;
    for name in ["new", "newer", "newest"] {
        server.apply(&ingress("default", name));
        until("the next one's, too", &server, |server| shown(server, name) == [EDGE]).await;
    }
    assert_eq!(a.snapshot().generation, generation + 3, "the Ingresses are new configurations, their statuses are not");
    assert_eq!(["web", "new", "newer", "newest"].map(|name| writes(&server, name)), [1; 4]);
    assert_eq!((shown(&server, "theirs"), writes(&server, "theirs")), (vec!["203.0.113.1".to_owned()], 0));

    // It is somebody else's from now on: what we wrote goes.
    server.apply(&of_class("new", "theirs"));
    until("it is taken back", &server, |server| shown(server, "new").is_empty()).await;
    // And where they have written meanwhile, it stays.
    server.apply(&of_class("web", "theirs"));
    server.write_status("other-controller", Kind::Ingress, "default", "web", &theirs);
    until("ours is theirs", &server, |server| shown(server, "web") == ["203.0.113.1"]).await;
    let metrics = ask(net, "/metrics").await.1 + &ask(other, "/metrics").await.1;
    let leaders = metrics.lines().filter(|line| line.starts_with("tidegate_leader ")).collect::<Vec<_>>();
    assert!(
        leaders == ["tidegate_leader 1", "tidegate_leader 0"] || leaders == ["tidegate_leader 0", "tidegate_leader 1"]
    );
    let done = "tidegate_writes_total{resource=\"ingresses/status\",result=\"done\"} ";
    assert!(metrics.lines().any(|line| line.starts_with(done) && !line.ends_with(" 0")), "{metrics}");
}

#[tokio::test]
async fn a_leader_that_drains_leaves_the_lead_to_the_other() {
    let (net, other) = (Net::next(), Net::next());
    let server = ApiServer::start(net.ip(32)).await;
    let a = replica(net, &server, "a", edge()).await;
    until("one leads", &server, |server| holder(server) == "a").await;
    let b = replica(other, &server, "b", edge()).await;
    let begun = tokio::time::Instant::now();
    a.app.drain(Duration::from_secs(1)).await;
    assert_ne!(holder(&server), "a", "it is given back before the process ends");
    until("the other leads", &server, |server| holder(server) == "b").await;
    assert!(begun.elapsed() < Duration::from_secs(10), "long before the Lease runs out: {:?}", begun.elapsed());
    server.apply(&ingress("default", "web"));
    until("and writes", &server, |server| shown(server, "web") == [EDGE]).await;
    drop(b);
}

#[tokio::test]
async fn a_leader_that_cannot_renew_steps_down_and_serves_on() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let mut server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    let bed = replica(net, &server, "a", edge()).await;
    until("the address is shown", &server, |server| shown(server, "web") == [EDGE]).await;
    server.leave();
    ask_until(net, "/metrics", |_, text| text.contains("tidegate_leader 0\n")).await;
    assert_eq!(bed.get("web.example.com", "/").await.pod().as_deref(), Some("a"));
    let (status, text) = ask(net, "/readyz").await;
    assert!(status == 200 && text.contains("leases in namespace tidegate: "), "{text}");
    server.apply(&ingress("default", "new"));
    server.come_back().await;
    until("it leads and writes again", &server, |server| shown(server, "new") == [EDGE]).await;
    assert_eq!(ask_until(net, "/readyz", |_, text| text == "ok\n").await, "ok\n");
}

#[tokio::test]
async fn permissions_that_are_missing_are_named_with_what_it_costs() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web") + &ingress("default", "lost")));
    for resource in ["leases", "ingresses/status", "events"] {
        server.forbid(resource);
    }
    let bed = replica(net, &server, "a", edge()).await;
    let named = |text: &str, what: &str| text.contains(what);
    let text = ask_until(net, "/readyz", |status, text| status == 200 && named(text, "leases in namespace")).await;
    assert!(named(&text, "leases in namespace tidegate: not permitted to get (leases is forbidden"), "{text}");
    assert!(named(&text, "no replica can lead"), "{text}");
    server.permit("leases");
    let text = ask_until(net, "/readyz", |_, text| named(text, "ingresses/status") && named(text, "events")).await;
    assert!(named(&text, "ingresses/status in namespace default: not permitted to patch"), "{text}");
    assert!(named(&text, "events in namespace default: not permitted to create"), "{text}");
    assert!(!named(&text, "leases"), "{text}");
    assert_eq!(bed.get("web.example.com", "/").await.pod().as_deref(), Some("a"), "all is served");
    let findings: Value = serde_json::from_str(&ask(net, "/findings").await.1).unwrap();
    let forbidden = findings.as_array().unwrap().iter().filter(|finding| finding["reason"] == "Forbidden");
    let fixes: Vec<&str> = forbidden.filter_map(|finding| finding["fix"].as_str()).collect();
    assert_eq!(
        fixes,
        [
            "Grant patch of ingresses/status to the account that Tidegate runs as.",
            "Grant create and patch of events to the account that Tidegate runs as."
        ]
    );
    // It is not asked over and over: both once, and then one of them after 1, 2, 4 s, …
    let before = writes(&server, "web") + writes(&server, "lost");
    assert!((3..=7).contains(&before), "{before}");
}

#[tokio::test]
async fn a_status_that_failed_is_tried_again_though_nothing_changes() {
    let net = Net::next();
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(ingress("default", "web") + &pool("192.0.2.32")));
    for resource in ["ingresses/status", "loadbalancerpools/status"] {
        server.forbid(resource);
    }
    let _bed = replica(net, &server, "a", edge()).await;
    let tried = |server: &ApiServer, what: &str| server.written().iter().any(|written| written.contains(what));
    until("both are tried", &server, |server| {
        tried(server, "/ingresses/web/status?") && tried(server, "/loadbalancerpools/edge/status?")
    })
    .await;
    for resource in ["ingresses/status", "loadbalancerpools/status"] {
        server.permit(resource);
    }
    until("the address is shown", &server, |server| shown(server, "web") == [EDGE]).await;
    until("the pool says so", &server, |server| {
        server.object("loadbalancerpools", "", "edge").is_some_and(|pool| pool["status"]["size"] == 1)
    })
    .await;
}

#[tokio::test]
async fn two_installations_that_publish_the_same_address_do_not_take_it_from_each_other() {
    let (net, other) = (Net::next(), Net::next());
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(of_class("a", "blue") + &of_class("b", "green")));
    let _blue = replica_of(net, &server, "blue", &["blue"], "blue", edge()).await;
    let _green = replica_of(other, &server, "green", &["green"], "green", edge()).await;
    until("both are shown", &server, |server| ["a", "b"].iter().all(|name| shown(server, name) == [EDGE])).await;
    // Both have seen what the other wrote when they have seen what comes after it.
    server.apply(&(of_class("c", "blue") + &of_class("d", "green")));
    until("so are these", &server, |server| ["c", "d"].iter().all(|name| shown(server, name) == [EDGE])).await;
    assert_eq!(["a", "b"].map(|name| writes(&server, name)), [1, 1], "{:?}", server.written());
    assert_eq!(["a", "b"].map(|name| shown(&server, name)), [[EDGE], [EDGE]]);
    // It is the other's from now on: the one takes its address back, and the other writes its own.
    server.apply(&of_class("a", "green"));
    let is_greens = |server: &ApiServer| {
        let object = server.object("ingresses", "default", "a").expect("it is there");
        let owners = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let of_status = owners.iter().filter(|owner| owner["subresource"] == "status");
        of_status.map(|owner| owner["manager"].clone()).collect::<Vec<_>>() == ["tidegate/tidegate/green"]
    };
    until("it is green's", &server, |server| is_greens(server) && shown(server, "a") == [EDGE]).await;
}

#[tokio::test]
async fn ingresses_show_what_the_published_service_has() {
    let net = Net::next();
    let server = ApiServer::start(net.ip(32)).await;
    let edge = |status: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: edge, namespace: tidegate}}, spec: {{type: LoadBalancer, \
             clusterIP: 10.96.0.9, ports: [{{port: 80}}]}}, status: {{loadBalancer: {{{status}}}}}}}"
        )
    };
    server.apply(&ingress("default", "web"));
    let publish = Publish::Service { namespace: "tidegate".into(), name: "edge".into() };
    let _bed = replica(net, &server, "a", publish).await;
    let missing = "Service tidegate/edge of --publish-service: there is none; the status of Ingresses stays as it is";
    ask_until(net, "/readyz", |status, text| status == 200 && text.contains(missing)).await;
    server.apply(&edge("ingress: [{ip: 192.0.2.8}, {ip: 192.0.2.7}]"));
    until("its addresses are shown", &server, |server| shown(server, "web") == ["192.0.2.7", "192.0.2.8"]).await;
    server.apply(&edge("ingress: [{hostname: edge.example.com}]"));
    until("its name is shown", &server, |server| shown(server, "web") == ["edge.example.com"]).await;
    server.apply(&edge(""));
    until("none is shown", &server, |server| shown(server, "web").is_empty()).await;
    assert_eq!(ask(net, "/readyz").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn what_is_wrong_becomes_an_event_once_whoever_leads() {
    let (net, other) = (Net::next(), Net::next());
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&ingress("default", "lost"));
    let a = replica(net, &server, "a", Publish::Nothing).await;
    until("there is an Event", &server, |server| !server.objects("events").is_empty()).await;
    let [event] = server.objects("events").try_into().expect("one");
    let uid = &server.object("ingresses", "default", "lost").unwrap()["metadata"]["uid"];
    let regarding = &event["regarding"];
    assert_eq!((&regarding["kind"], &regarding["name"], &regarding["uid"]), (&json!("Ingress"), &json!("lost"), uid));
    assert_eq!((&event["reason"], &event["type"]), (&json!("MissingService"), &json!("Warning")));
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("spec.rules[0].http.paths[0].backend.service.name: there is no Service"), "{note}");
    assert_eq!(event["reportingController"], "tidegate.io/ingress");
    // The next leader sees that it has been told.
    a.app.drain(Duration::ZERO).await;
    let _b = replica(other, &server, "b", Publish::Nothing).await;
    let told = |server: &ApiServer| {
        let written = server.written();
        written.iter().filter(|written| written.starts_with("POST") && written.contains("/events?")).count() == 2
    };
    until("the other tried", &server, told).await;
    until("and looked", &server, |server| {
        server.written().iter().any(|written| written.starts_with("PATCH") && written.contains("/events/"))
    })
    .await;
    assert_eq!(server.objects("events"), [event]);
    assert_eq!(shown(&server, "lost"), [] as [&str; 0], "nothing is published");
}

/// A LoadBalancer Service of ours.
fn balancer(name: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{type: LoadBalancer, \
         loadBalancerClass: tidegate.io/load-balancer, ipFamilies: [IPv4], ports: [{{port: 80}}]}}}}\n"
    )
}

fn pool(addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {{name: edge}}, \
         spec: {{addresses: [{addresses}]}}}}\n"
    )
}

/// The address in the status of a Service of namespace `default`, and its `ipMode`.
fn given(server: &ApiServer, name: &str) -> Option<(String, String)> {
    let object = server.object("services", "default", name)?;
    let point = &object["status"]["loadBalancer"]["ingress"][0];
    Some((point["ip"].as_str()?.to_owned(), point["ipMode"].as_str()?.to_owned()))
}

fn service_writes(server: &ApiServer) -> usize {
    server.written().iter().filter(|written| written.contains("/services/") && written.contains("/status?")).count()
}

#[tokio::test]
async fn load_balancers_are_given_addresses_that_stay_with_them() {
    let (net, other) = (Net::next(), Net::next());
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(balancer("a") + &balancer("b")));
    server.apply(&balancer("theirs").replace("tidegate.io/load-balancer", "example.com/lb"));
    let theirs = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    server.write_status("other-controller", Kind::Service, "default", "theirs", &theirs);
    let a = replica(net, &server, "a", Publish::Nothing).await;
    let reason = |server: &ApiServer, name: &str| {
        let object = server.object("services", "default", name).expect("it is there");
        object["status"]["conditions"][0]["reason"].as_str().map(str::to_owned)
    };
    until("it is pending", &server, |server| reason(server, "a").as_deref() == Some("LoadBalancerPending")).await;
    let is_told = |event: &Value| event["reason"] == "LoadBalancerPending" && event["regarding"]["kind"] == "Service";
    until("an Event says why", &server, |server| server.objects("events").iter().any(is_told)).await;

    server.apply(&pool("192.0.2.32-192.0.2.33"));
    until("both have one", &server, |server| given(server, "a").is_some() && given(server, "b").is_some()).await;
    let (first, second) = (given(&server, "a").unwrap(), given(&server, "b").unwrap());
    assert!(first.0 != second.0 && [&first, &second].iter().all(|(_, mode)| mode == "Proxy"), "{first:?} {second:?}");
    let counts = |server: &ApiServer| {
        let status = server.object("loadbalancerpools", "", "edge").expect("it is there")["status"].clone();
        (status["size"].as_i64(), status["allocated"].as_i64(), status["conditions"][0]["status"] == "True")
    };
    until("the pool says so", &server, |server| counts(server) == (Some(2), Some(2), true)).await;
    let writes = service_writes(&server);
    assert_eq!(writes, 4, "each was pending, and then it was not: {:?}", server.written());

    // A third finds none, and the others keep theirs: also under another leader, and when the pool shrinks.
    server.apply(&balancer("c"));
    until("the third is pending", &server, |server| reason(server, "c").as_deref() == Some("LoadBalancerPending"))
        .await;
    a.app.drain(Duration::ZERO).await;
    drop(a);
    server.apply(&pool("192.0.2.40"));
    let _b = replica(other, &server, "b", Publish::Nothing).await;
    until("it has one of the other pool", &server, |server| {
        given(server, "c").is_some_and(|(ip, _)| ip == "192.0.2.40")
    })
    .await;
    assert_eq!((given(&server, "a").unwrap(), given(&server, "b").unwrap()), (first.clone(), second));

    // With the type goes what we wrote, and nothing else; with the Service goes the address.
    server.apply(&balancer("a").replace("type: LoadBalancer", "type: ClusterIP"));
    until("it is taken back", &server, |server| given(server, "a").is_none() && reason(server, "a").is_none()).await;
    server.apply(&pool(&format!("{}, 192.0.2.40", first.0)));
    server.apply(&balancer("d"));
    until("the next has it", &server, |server| given(server, "d").is_some_and(|(ip, _)| ip == first.0)).await;
    let theirs = server.object("services", "default", "theirs").unwrap();
    assert_eq!(theirs["status"]["loadBalancer"], json!({"ingress": [{"ip": "203.0.113.1"}]}));
    assert!(!server.written().iter().any(|written| written.contains("/services/theirs/")));
}
