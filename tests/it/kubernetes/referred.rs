//! Secrets and ConfigMaps: those that something refers to are read, and no others. Objects that cannot be read.

use serde_json::json;

use super::*;

/// A Secret with a certificate for `NAME.example.com`.
fn certificate(name: &str, ca: &Ca) -> String {
    let Pair { chain, key } = ca.leaf(&[&format!("{name}.example.com")]);
    secret_manifest(name, &[("tls.crt", &chain), ("tls.key", &key)])
}

/// A Service, and an Ingress with TLS for it.
fn web(name: &str, pod: IpAddr) -> String {
    let tls = format!("spec: {{tls: [{{hosts: [{name}.example.com], secretName: {name}}}], ");
    service("default", name, &[pod]) + &ingress("default", name).replace("spec: {rules", &format!("{tls}rules"))
}

/// Whether a host is shown a certificate of this CA.
async fn is_shown(bed: &Bed, name: &str, ca: &Ca) -> bool {
    TlsClient::new(ca).connect(bed.app.https().unwrap(), &format!("{name}.example.com")).await.is_ok()
}

async fn until_shown(bed: &Bed, name: &str, ca: &Ca) {
    let wait = async {
        while !is_shown(bed, name, ca).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the certificate is shown");
}

#[tokio::test]
async fn only_what_something_refers_to_is_read() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let ca = Ca::new("ca");
    for name in ["web", "other", "foreign"] {
        server.apply(&certificate(name, &ca));
    }
    server.apply(&web("web", net.ip(2)));
    server.apply(&web("foreign", net.ip(2)).replace("rules:", "ingressClassName: elsewhere, rules:"));
    server.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: somebodys}, data: {a: b}}");
    let bed = start(net, cluster(&server, &[]).await).await;
    // The first configuration has it: nobody was ever shown a stand-in.
    assert_eq!((bed.snapshot().generation, bed.findings()), (1, vec!["UnknownClass"]));
    assert!(is_shown(&bed, "web", &ca).await);
    assert_eq!((server.given("secrets"), server.given("configmaps")), (vec!["default/web".to_owned()], vec![]));

    // A new reference: its Secret is there with it.
    server.apply(&web("other", net.ip(2)));
    // Its Service is told of by another watch, perhaps a moment later.
    let is_whole = |snapshot: &tidegate::snapshot::Snapshot| {
        let has = |reason: &str| snapshot.findings.iter().any(|finding| finding.reason == reason);
        assert!(!has("MissingSecret"), "{:?}", snapshot.findings);
        snapshot.ingresses.len() == 3 && !has("MissingService")
    };
    let snapshot = bed.until(is_whole).await;
    let reasons: Vec<&str> = snapshot.findings.iter().map(|finding| finding.reason).collect();
    assert_eq!(reasons, ["UnknownClass"]);
    assert!(is_shown(&bed, "other", &ca).await);
    let metrics = ask(net, "/metrics").await.1;
    assert!(metrics.contains("tidegate_kubernetes_objects{resource=\"secrets\"} 3\n"), "the names of all: {metrics}");

    // One that is not there, and comes.
    server.apply(&web("late", net.ip(2)));
    bed.until(|snapshot| snapshot.findings.iter().any(|finding| finding.reason == "MissingSecret")).await;
    server.apply(&certificate("late", &ca));
    until_shown(&bed, "late", &ca).await;

    // It changes, and is gone.
    let new = Ca::new("new");
    server.apply(&certificate("other", &new));
    until_shown(&bed, "other", &new).await;
    server.delete(Kind::Secret, "default", "other");
    bed.until(|snapshot| snapshot.findings.iter().any(|finding| finding.reason == "MissingSecret")).await;
    assert!(!is_shown(&bed, "other", &new).await && is_shown(&bed, "web", &ca).await);
    assert!(!server.given("secrets").contains(&"default/foreign".to_owned()), "it is another controller's");
}

#[tokio::test]
async fn trouble_with_one_secret_is_its_own() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let ca = Ca::new("ca");
    server.apply(&(certificate("web", &ca) + &web("web", net.ip(2))));
    server.apply(&(certificate("closed", &ca) + &web("closed", net.ip(2))));
    server.forbid("get secrets/closed");
    let bed = start(net, cluster(&server, &[]).await).await;
    assert!(is_shown(&bed, "web", &ca).await && !is_shown(&bed, "closed", &ca).await);
    let snapshot = bed.until(|snapshot| snapshot.findings.len() == 2).await;
    let said: Vec<String> = snapshot.findings.iter().map(ToString::to_string).collect();
    assert!(
        said[0].contains("[Forbidden] Secret default/closed: not permitted to get (secrets is forbidden"),
        "{said:?}"
    );
    assert!(said[1].contains("[MissingSecret] Ingress default/closed"), "{said:?}");
    assert_eq!(ask(net, "/readyz").await.0, 200);
    // It is asked for at once when it changes.
    server.permit("get secrets/closed");
    let new = Ca::new("new");
    server.apply(&certificate("closed", &new));
    until_shown(&bed, "closed", &new).await;
    bed.until(|snapshot| snapshot.findings.is_empty()).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_takes_down_only_itself() {
    let net = Net::next();
    let (_a, _b) = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    let server = ApiServer::start(net.ip(32)).await;
    let broken = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": "eighty"}]}});
    server.put(Kind::Service, "default", "broken", broken("broken"));
    for name in ["one", "two"] {
        server.apply(&(service("default", name, &[net.ip(2)]) + &ingress("default", name)));
    }
    let bed = start(net, cluster(&server, &[]).await).await;
    until_answered(&bed, "one", (200, Some("a"))).await;
    let said = bed.snapshot().findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(said.starts_with("kubernetes: error[InvalidField] Service default/broken: spec.ports[0].port: "), "{said}");
    // One that could be read before is served as it was; and the watch goes on.
    server.put(Kind::Service, "default", "two", broken("two"));
    bed.until(|snapshot| snapshot.findings.len() == 2).await;
    server.apply(&(slice("default", "one", &[net.ip(3)]) + &slice("default", "two", &[net.ip(3)])));
    until_answered(&bed, "one", (200, Some("b"))).await;
    until_answered(&bed, "two", (200, Some("b"))).await;
    // Also after the next list.
    server.change_unseen(&slice("default", "one", &[net.ip(2)]), &[]);
    until_answered(&bed, "one", (200, Some("a"))).await;
    assert_eq!(bed.get("two.example.com", "/").await.pod().as_deref(), Some("b"));
    server.delete(Kind::Service, "default", "broken");
    server.apply(&service("default", "two", &[net.ip(2)]));
    until_answered(&bed, "two", (200, Some("a"))).await;
    bed.until(|snapshot| snapshot.findings.is_empty()).await;
}

#[tokio::test]
async fn who_may_list_and_not_watch_is_told_so() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    server.forbid("watch services");
    let bed = start(net, cluster(&server, &[]).await).await;
    until_answered(&bed, "web", (200, Some("a"))).await;
    let snapshot = bed.until(|snapshot| !snapshot.findings.is_empty()).await;
    let said = snapshot.findings[0].to_string();
    let expected = "[Forbidden]: services in all namespaces: not permitted to watch (services is forbidden: User \"test\" cannot \
                    see it); what there is, is listed anew every 30 s. Fix: Grant list and watch of services";
    assert!(said.contains(expected), "{said}");
    let ready = ask(net, "/readyz").await;
    assert!(ready.0 == 200 && ready.1.contains("services in all namespaces: not permitted to watch"), "{ready:?}");
}
