//! What is in `deploy`: the chart in all its forms, and the manifests that are made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use clap::Parser;
use regex::Regex;
use serde_json::{Value, json};
use tidegate::cli::Cli;
use tidegate_tests::{
    chart::{CLOUD, Chart, DAEMON_SET, DEPLOYMENT, EVERYTHING, FORMS, Form, HOST, NAMESPACED, NODE, objects, the},
    image::{self, root},
    permissions::documented,
};

/// Set it to write files instead of comparing them.
const WRITE: &str = "TIDEGATE_WRITE_DOCS";

/// What stands above the manifests of a form.
fn head(form: Form) -> String {
    // The node's network is nothing that a namespace may have where nobody is trusted.
    let level = if form.name == DEPLOYMENT.name { "restricted" } else { "privileged" };
    let values: String = form.values.iter().map(|value| format!(" --set '{value}'")).collect();
    let command = format!("helm template tidegate deploy/chart --namespace tidegate{values}");
    format!(
        "# Made of deploy/chart, and a test compares them: {command}\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  \
         name: tidegate\n  labels:\n    pod-security.kubernetes.io/enforce: {level}\n"
    )
}

fn workload(objects: &[Value]) -> &Value {
    let is_workload = |object: &&Value| object["kind"] == "Deployment" || object["kind"] == "DaemonSet";
    objects.iter().find(is_workload).expect("a workload")
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    let Some(chart) = Chart::find() else { return };
    for form in FORMS.into_iter().filter(|form| form.is_checked_in) {
        let path = root().join(format!("deploy/manifests/{}.yaml", form.name));
        let rendered = head(form) + &chart.render(form, "tidegate");
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, &rendered).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        let again = format!("{WRITE}=1 cargo test --test it deploy::");
        assert!(written == rendered, "{} is stale: run `{again}`", path.display());
    }
}

/// Needs no Helm.
#[test]
fn the_chart_has_the_workspaces_version_and_definitions() {
    let chart = fs::read_to_string(root().join("deploy/chart/Chart.yaml")).unwrap();
    let chart = objects(&chart).remove(0);
    assert_eq!((&chart["version"], &chart["appVersion"]), (&tidegate::VERSION.into(), &tidegate::VERSION.into()));

    let read = |directory: &str| -> BTreeMap<String, String> {
        let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| (path.file_name().unwrap().display().to_string(), fs::read_to_string(path).unwrap()))
            .collect()
    };
    let (there, here) = (read("crd/yaml"), "deploy/chart/files/crds");
    assert!(!there.is_empty(), "the definitions have moved");
    if std::env::var_os(WRITE).is_some() {
        for (name, text) in &there {
            fs::write(root().join(here).join(name), text).unwrap();
        }
    }
    assert!(read(here) == there, "{here} is not what is in crd/yaml: copy it, or set {WRITE}=1");
}

/// Needs no Helm.
#[test]
fn every_value_has_a_type() {
    let read = |name: &str| fs::read_to_string(root().join("deploy/chart").join(name)).unwrap();
    let values = objects(&read("values.yaml")).remove(0);
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    compare("", &values, &schema);
}

/// The members of a value, and of its type, are the same.
fn compare(path: &str, value: &Value, schema: &Value) {
    let (Some(members), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else { return };
    for (name, member) in members {
        let path = format!("{path}/{name}");
        let schema = properties.get(name).unwrap_or_else(|| panic!("{path} is not in values.schema.json"));
        compare(&path, member, schema);
    }
    // `global` belongs to Helm, claims are rare, and for the others there are comments.
    let others = ["/global", "/resources/claims"];
    let with_comment = ["/service/nodePorts/", "/strategy/", "/updateStrategy/", "/dnsConfig/"];
    for name in properties.keys().filter(|name| !members.contains_key(*name)) {
        let path = format!("{path}/{name}");
        let may_miss = others.contains(&path.as_str()) || with_comment.iter().any(|of| path.starts_with(of));
        assert!(may_miss, "{path} is not in values.yaml");
    }
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Needs no Helm.
#[test]
fn what_is_named_in_place_of_ingress_nginxs_is_there() {
    let (page, annotations) = (page("docs/kubernetes.md"), page("docs/annotations.md"));
    let values = objects(&fs::read_to_string(root().join("deploy/chart/values.yaml")).unwrap()).remove(0);
    let is_value =
        |name: &str| !values.pointer(&format!("/{}", name.replace('.', "/"))).unwrap_or(&Value::Null).is_null();
    let is_annotation =
        |name: &str| annotations.contains(&format!("\n| `{}` |", name.trim_start_matches("tidegate.io/")));
    let is_argument = |argument: &str| {
        let argument = argument.replace("=N", "=1");
        Cli::try_parse_from(["tidegate", "run", "--kubernetes", &argument]).is_ok()
    };
    let listed =
        Regex::new(r"\b(value|annotation|argument)s? ((?:`[^`]+`(?: \([^)]*\))?(?:, or |, | and )?)+)").unwrap();
    let (quoted, default) = (Regex::new(r"`([^`]+)`").unwrap(), Regex::new(r" \([^)]*\)").unwrap());
    let table = page.split("### What holds for all Ingresses").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut seen = BTreeMap::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (theirs, ours) = row.split_once(" | ").expect("two cells");
        let mut check = |kind: &'static str, name: &str| {
            let is_there = match kind {
                "value" => is_value(name.split('=').next().unwrap()),
                "annotation" => is_annotation(name.split(':').next().unwrap()),
                _ => is_argument(name),
            };
            assert!(is_there, "there is no {kind} {name}: {row}");
            *seen.entry(kind).or_insert(0) += 1;
        };
        for list in listed.captures_iter(ours) {
            let kind = ["value", "annotation", "argument"].into_iter().find(|kind| *kind == &list[1]).unwrap();
            quoted.captures_iter(&list[2]).for_each(|name| check(kind, &name[1]));
        }
        if ours.contains("annotations of the same name") {
            let theirs = format!("`{theirs}");
            quoted.captures_iter(&default.replace_all(&theirs, "")).for_each(|name| check("annotation", &name[1]));
        }
    }
    assert!(seen.len() == 3 && seen.values().all(|count| *count > 4), "the table has moved: {seen:?}");
}

/// What readers are told to type is taken, all of a command together.
#[test]
fn the_values_in_the_documents_are_taken() {
    let Some(chart) = Chart::find() else { return };
    let set = Regex::new(r"--set '?([A-Za-z.]+=(?:\{[^}]*\}|[^\s'`)]+))").unwrap();
    let mut commands = 0;
    for name in ["docs/kubernetes.md", "docs/upgrade.md", "docs/controller.md", "deploy/UPGRADING.md"] {
        for line in page(name).replace("\\\n", " ").lines() {
            let values: Vec<String> = set.captures_iter(line).map(|found| found[1].to_owned()).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if !values.is_empty() {
                let rendered = chart.run(&["template", "tidegate", "--namespace", "tidegate"], &values);
                let rendered = objects(&rendered.unwrap_or_else(|error| panic!("{name}: {line}: {error}")));
                arguments(line, &rendered);
                commands += 1;
            }
        }
    }
    assert!(commands > 7, "the commands have moved");
}

#[test]
fn values_that_are_none_are_refused_by_name() {
    let Some(chart) = Chart::find() else { return };
    let refused = |values: &[&str]| chart.run(&["template", "tidegate"], values).unwrap_err();
    assert!(refused(&["kindd=Deployment"]).contains("'kindd' not allowed"));
    assert!(refused(&["kind=StatefulSet"]).contains("'/kind'"));
    assert!(refused(&["node.enabled=true"]).contains("'/hostNetwork': value must be true"));
    assert!(refused(&["publishService=tidegate"]).contains("'/publishService'"));
    assert!(refused(&["service.headless=true"]).contains("'/service/type': value must be 'ClusterIP'"));
    for (value, path) in [
        // The command line would not take it.
        ("trustedProxies={192.0.2.1}", "/trustedProxies/0"),
        ("trustedProxies={192.0.2.0/33}", "/trustedProxies/0"),
        ("trustedProxies={2001:db8::/129}", "/trustedProxies/0"),
        ("listenAddress=::", "/listenAddress"),
        ("ingressClass.names[0]=nginx\\,outer", "/ingressClass/names/0"),
        // The API server would not.
        ("service.loadBalancerSourceRanges={192.0.2.1}", "/service/loadBalancerSourceRanges/0"),
        ("service.externalIPs={edge.example.com}", "/service/externalIPs/0"),
        ("service.targetPorts.https=8080", "/service/targetPorts/https"),
        ("podSecurityContext.runAsUser=0", "/podSecurityContext/runAsUser"),
        ("podSecurityContext.privileged=true", "/podSecurityContext"),
        ("strategy.type=OnDelete", "/strategy/type"),
        ("strategy.type=Recreate,strategy.rollingUpdate.maxSurge=1", "/strategy/rollingUpdate"),
        ("updateStrategy.type=Recreate", "/updateStrategy/type"),
        ("updateStrategy.rollingUpdate.maxSurge=one", "/updateStrategy/rollingUpdate/maxSurge"),
        ("minReadySeconds=-1", "/minReadySeconds"),
        ("dnsConfig.ndots=1", "/dnsConfig"),
        ("extraVolumes[0].emptyDir.medium=Memory", "/extraVolumes/0"),
        ("extraVolumeMounts[0].name=logs", "/extraVolumeMounts/0"),
        ("metrics.port=0", "/metrics/port"),
        ("metrics.podMonitor.interval=often", "/metrics/podMonitor/interval"),
        ("metrics.podMonitor.namespace=A", "/metrics/podMonitor/namespace"),
    ] {
        let error = refused(&[value]);
        assert!(error.contains(&format!("'{path}'")), "{value}: {error}");
    }
    assert!(chart.run(&["lint"], &[]).unwrap().contains("0 chart(s) failed"));
}

/// The arguments of the container. They are some that Tidegate takes.
fn arguments(name: &str, objects: &[Value]) -> Vec<String> {
    let container = &workload(objects)["spec"]["template"]["spec"]["containers"][0];
    let from_environment = |argument: &str| {
        let known = strings_of_environment(container);
        known.iter().fold(argument.to_owned(), |text, name| text.replace(&format!("$({name})"), "value"))
    };
    let arguments = strings(&container["args"]).into_iter().map(from_environment);
    let arguments: Vec<String> = std::iter::once("tidegate".to_owned()).chain(arguments).collect();
    assert!(arguments.iter().all(|argument| !argument.contains("$(")), "{name}: {arguments:?}");
    if let Err(error) = Cli::try_parse_from(&arguments) {
        panic!("{name}: {arguments:?}: {error}");
    }
    arguments
}

#[test]
fn every_argument_is_one_of_tidegate() {
    let Some(chart) = Chart::find() else { return };
    for form in FORMS {
        arguments(form.name, &objects(&chart.render(form, "tidegate")));
    }
}

/// Those of each form that say what its values say.
#[test]
fn the_arguments_say_what_the_values_say() {
    let Some(chart) = Chart::find() else { return };
    let of = |values: &[&str]| {
        let rendered = chart.run(&["template", "tidegate", "--namespace", "edge"], values).unwrap();
        arguments(&values.join(" "), &objects(&rendered))
    };
    let expect = |values: &[&str], there: &[&str], absent: &[&str]| {
        let arguments = of(values);
        for argument in there {
            assert!(arguments.iter().any(|one| one == argument), "{values:?}: no {argument} in {arguments:?}");
        }
        for argument in absent {
            let begins = |one: &&String| one.starts_with(argument);
            assert_eq!(arguments.iter().find(begins), None, "{values:?}");
        }
    };
    let usual = [
        "--http=[::]:8080",
        "--https=[::]:8443",
        "--admin=[::]:9901",
        "--controller-class=tidegate.io/ingress",
        "--ingress-class=tidegate",
        "--leader-election-id=tidegate-leader",
        "--publish-service=value/tidegate",
    ];
    expect(&[], &usual, &["--watch-ingress-without-class", "--metrics", "--publish-status-address"]);
    let host = ["--http=[::]:80", "--https=[::]:443", "--admin=127.0.0.1:9901", "--metrics=[::]:9902"];
    expect(&[HOST.values, &["metrics.enabled=true"]].concat(), &host, &[]);
    let v4 = ["--http=0.0.0.0:8080", "--https=0.0.0.0:8443", "--admin=0.0.0.0:9901", "--metrics=0.0.0.0:9000"];
    expect(EVERYTHING.values, &v4, &[]);
    let classes = ["--ingress-class=tidegate,nginx,outer", "--watch-ingress-without-class"];
    expect(CLOUD.values, &classes, &["--metrics=127"]);
    expect(&["ingressClass.names={tidegate,nginx}"], &["--ingress-class=tidegate,nginx"], &[]);
    expect(&["fullnameOverride=front"], &["--leader-election-id=front-leader", "--publish-service=value/front"], &[]);
    expect(&["publishStatus=false"], &["--leader-election-id=tidegate-leader"], &["--publish"]);
    expect(&["publishStatus=false", "publishStatusAddresses={192.0.2.1}"], &[], &["--publish"]);
    expect(&["publishService=web/front"], &["--publish-service=web/front"], &["--publish-status-address"]);
    expect(EVERYTHING.values, &["--publish-status-address=192.0.2.1,edge.example.com"], &["--publish-service"]);
    let beside = [
        "leaderElection.enabled=false",
        "ingressClass.controllers={tidegate.io/ingress,k8s.io/ingress-nginx}",
        "ingressClass.names={nginx}",
    ];
    let arguments = [
        "--controller-class=tidegate.io/ingress,k8s.io/ingress-nginx",
        "--ingress-class=tidegate,nginx",
        "--leader-election-id=off",
    ];
    expect(&beside, &arguments, &["--publish"]);
}

fn strings_of_environment(container: &Value) -> Vec<&str> {
    let environment = container["env"].as_array().expect("variables");
    environment.iter().filter_map(|variable| variable["name"].as_str()).collect()
}

/// What the Restricted Pod Security Standard asks of a Pod, and a little more. (That the API server agrees is tested in `cluster`.)
#[test]
fn no_pod_may_do_more_than_it_must() {
    let Some(chart) = Chart::find() else { return };
    for form in FORMS {
        let objects = objects(&chart.render(form, "tidegate"));
        let pod = &workload(&objects)["spec"]["template"]["spec"];
        let of_node = [NODE.name, DAEMON_SET.name, HOST.name].contains(&form.name);
        assert_eq!(pod["hostNetwork"].as_bool().unwrap_or(false), of_node, "{}", form.name);
        let (of_pod, container) = (&pod["securityContext"], &pod["containers"][0]);
        assert_eq!(of_pod["runAsNonRoot"], true);
        for name in ["runAsUser", "runAsGroup", "fsGroup"] {
            let expected = if form.name == CLOUD.name { Value::Null } else { 65532.into() };
            assert_eq!(of_pod[name], expected, "{}: {name}", form.name);
        }
        assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
        let added = if of_node { vec!["NET_BIND_SERVICE"] } else { vec![] };
        assert_eq!(strings(&security["capabilities"]["add"]), added, "{}", form.name);
        let names = |list: &Value| list.as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
        let extra: &[&str] = if form.name == EVERYTHING.name { &["logs"] } else { &[] };
        assert_eq!(names(&pod["volumes"]), [&["cache"], extra].concat());
        assert_eq!(names(&container["volumeMounts"]), [&["cache"], extra].concat());
        assert_eq!(pod["volumes"][0]["emptyDir"]["medium"], "Memory");
        assert!(pod["containers"].as_array().unwrap().len() == 1 && pod["initContainers"].is_null());
    }
    let more = Form { name: "routes", values: &["node.netAdmin=true"], ..NODE };
    let values = [NODE.values, more.values].concat();
    let rendered = objects(&chart.run(&["template", "tidegate"], &values).unwrap());
    let security = &workload(&rendered)["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(strings(&security["capabilities"]["add"]), ["NET_BIND_SERVICE", "NET_ADMIN"]);
    // Of each port that is below 1024, and of nothing else.
    let low = |port: &str| {
        let rendered = objects(&chart.run(&["template", "tidegate"], &["metrics.enabled=true", port]).unwrap());
        let security = &workload(&rendered)["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        strings(&security["capabilities"]["add"]) == ["NET_BIND_SERVICE"]
    };
    assert!(["ports.http=80", "ports.https=443", "ports.admin=901", "metrics.port=902"].into_iter().all(low));
    assert!(!low("ports.http=1024"));
}

/// What is left in a Pod, and in the object that makes it, of values that are only passed on.
#[test]
fn what_a_pod_is_given_beside() {
    let Some(chart) = Chart::find() else { return };
    let rendered = objects(&chart.render(EVERYTHING, "tidegate"));
    let pod = &workload(&rendered)["spec"]["template"]["spec"];
    assert_eq!(pod["dnsConfig"]["options"][0]["name"], "edns0");
    assert_eq!(pod["volumes"][1]["emptyDir"]["sizeLimit"], "1Gi");
    assert_eq!(pod["containers"][0]["volumeMounts"][1]["mountPath"], "/var/log/tidegate");
    let alone = ["cache.enabled=false", "extraVolumes[0].name=logs", "extraVolumes[0].hostPath.path=/var/log"];
    let rendered = objects(&chart.run(&["template", "tidegate"], &alone).unwrap());
    let pod = &workload(&rendered)["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"].as_array().unwrap().len(), 1);
    assert!(pod["volumes"][0]["name"] == "logs" && pod["containers"][0]["volumeMounts"].is_null());
    let rendered = objects(&chart.render(CLOUD, "tidegate"));
    assert_eq!(workload(&rendered)["spec"]["minReadySeconds"], 5);
    let user = ["podSecurityContext.runAsUser=1000650000", "podSecurityContext.runAsGroup=0"];
    let rendered = objects(&chart.run(&["template", "tidegate"], &user).unwrap());
    let security = &workload(&rendered)["spec"]["template"]["spec"]["securityContext"];
    let ids = ["runAsUser", "runAsGroup", "fsGroup"].map(|name| security[name].as_u64());
    assert_eq!(ids, [Some(1_000_650_000), Some(0), Some(65532)]);
}

/// Where nobody serves a node, its Services are not there.
#[test]
fn a_service_plane_is_on_every_node() {
    let Some(chart) = Chart::find() else { return };
    let of = |form: Form, values: &[&str]| {
        let values = [form.values, values].concat();
        let rendered = objects(&chart.run(&["template", "tidegate"], &values).unwrap());
        let pod = &workload(&rendered)["spec"]["template"]["spec"];
        (pod["tolerations"].clone(), pod["priorityClassName"].clone())
    };
    assert_eq!(of(NODE, &[]), (json!([{"operator": "Exists"}]), "system-node-critical".into()));
    assert_eq!(of(DAEMON_SET, &[]), (Value::Null, Value::Null));
    let others = ["tolerations[0].key=edge", "tolerations[0].operator=Exists", "priorityClassName=edge"];
    assert_eq!(of(NODE, &others), (json!([{"key": "edge", "operator": "Exists"}]), "edge".into()));
}

/// Where two pods on a node would ask for the same port, one goes before the next one comes.
#[test]
fn a_pod_is_replaced_as_its_ports_allow() {
    let Some(chart) = Chart::find() else { return };
    let of = |form: Form, values: &[&str]| {
        let values = [form.values, values].concat();
        let rendered = objects(&chart.run(&["template", "tidegate"], &values).unwrap());
        let spec = &workload(&rendered)["spec"];
        if spec["strategy"].is_null() { spec["updateStrategy"].clone() } else { spec["strategy"].clone() }
    };
    let rolling = |unavailable: Value, surge: Value| {
        let rolling = json!({"maxUnavailable": unavailable, "maxSurge": surge});
        json!({"type": "RollingUpdate", "rollingUpdate": rolling})
    };
    let (surge, unavailable) = (rolling(0.into(), 1.into()), rolling(1.into(), 0.into()));
    for form in [DEPLOYMENT, Form { values: &["kind=DaemonSet"], ..DAEMON_SET }] {
        assert_eq!(of(form, &[]), surge);
    }
    for form in [HOST, DAEMON_SET, NODE] {
        assert_eq!(of(form, &[]), unavailable);
    }
    // What the user says counts.
    assert_eq!(of(EVERYTHING, &[]), rolling(0.into(), 2.into()));
    assert_eq!(of(HOST, &["strategy.rollingUpdate.maxSurge=50%"]), rolling(0.into(), "50%".into()));
    assert_eq!(of(NODE, &["updateStrategy.rollingUpdate.maxUnavailable=3"]), rolling(3.into(), 0.into()));
    assert_eq!(of(NODE, &["updateStrategy.type=OnDelete"]), json!({"type": "OnDelete"}));
    assert_eq!(of(CLOUD, &[]), json!({"type": "Recreate"}));
}

#[test]
fn the_service_is_what_a_load_balancer_asks_for() {
    let Some(chart) = Chart::find() else { return };
    let of = |form: Form| the(&objects(&chart.render(form, "tidegate")), "Service").clone();
    let ports = |service: &Value, field: &str| {
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| port[field].clone()).collect::<Vec<_>>()
    };
    let usual = of(DEPLOYMENT);
    assert_eq!(ports(&usual, "name"), ["http", "https"]);
    assert_eq!(
        (ports(&usual, "targetPort"), ports(&usual, "appProtocol")),
        (ports(&usual, "name"), ports(&usual, "name"))
    );
    for field in ["allocateLoadBalancerNodePorts", "externalIPs", "loadBalancerSourceRanges"] {
        assert!(usual["spec"][field].is_null(), "{field}");
    }
    let cloud = of(CLOUD);
    assert_eq!((ports(&cloud, "name"), ports(&cloud, "targetPort")), (ports(&usual, "name"), vec!["http".into(); 2]));
    assert_eq!(ports(&cloud, "appProtocol"), [Value::Null, Value::Null]);
    assert_eq!(cloud["spec"]["allocateLoadBalancerNodePorts"], false);
    assert_eq!(strings(&cloud["spec"]["externalIPs"]), ["192.0.2.9", "2001:db8::9"]);
    assert_eq!(strings(&cloud["spec"]["loadBalancerSourceRanges"]), ["192.0.2.0/24", "2001:db8::/32"]);
    let labels = &cloud["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["app.kubernetes.io/name"]), (&"edge".into(), &"tidegate".into()));
    let said = Form { values: &["service.targetPorts.https=http"], ..CLOUD };
    assert_eq!(ports(&of(said), "appProtocol"), ["http", "http"], "what is spoken with pods");
}

#[test]
fn prometheus_finds_a_port_that_it_can_read() {
    let Some(chart) = Chart::find() else { return };
    let render = |values: &[&str]| {
        let values = [&["metrics.podMonitor.enabled=true"], values].concat();
        chart.run(&["template", "tidegate", "--namespace", "edge"], &values)
    };
    let asks = |values: &[&str]| {
        let rendered = objects(&render(values).unwrap());
        let monitor = the(&rendered, "PodMonitor").clone();
        assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
        let (spec, pod) = (&monitor["spec"], &workload(&rendered)["spec"]["template"]);
        for (name, value) in spec["selector"]["matchLabels"].as_object().expect("a selector") {
            assert_eq!(&pod["metadata"]["labels"][name], value);
        }
        assert_eq!(spec["namespaceSelector"]["matchNames"][0], workload(&rendered)["metadata"]["namespace"]);
        let endpoint = &spec["podMetricsEndpoints"][0];
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == endpoint["port"]).expect("the container has the port");
        assert_eq!(endpoint["path"], "/metrics");
        (monitor.clone(), port["containerPort"].as_u64().unwrap())
    };
    let (monitor, port) = asks(&[]);
    assert_eq!((port, &monitor["spec"]["podMetricsEndpoints"][0]["interval"]), (9901, &"30s".into()));
    assert_eq!(monitor["metadata"]["namespace"], "edge");
    assert_eq!(asks(&["metrics.enabled=true"]).1, 9902);
    let values = ["metrics.podMonitor.namespace=monitoring", "metrics.podMonitor.labels.release=prometheus"];
    let more = ["metrics.podMonitor.interval=1m30s", "metrics.enabled=true", "metrics.port=9000", "hostNetwork=true"];
    let (monitor, port) = asks(&[&values[..], &more].concat());
    assert_eq!((port, &monitor["metadata"]["namespace"]), (9000, &"monitoring".into()));
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["interval"], "1m30s");
    let refused = render(&["hostNetwork=true"]).unwrap_err();
    assert!(refused.contains("metrics.podMonitor.enabled: with hostNetwork"), "{refused}");
    let none = objects(&chart.render(EVERYTHING, "edge"));
    assert!(none.iter().all(|object| object["kind"] != "PodMonitor"));
}

/// `docs/upgrade.md` says why.
#[test]
fn a_pod_has_the_time_to_end() {
    let Some(chart) = Chart::find() else { return };
    for form in FORMS {
        let objects = objects(&chart.render(form, "tidegate"));
        let pod = &workload(&objects)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let drain = strings(&container["args"]).into_iter().find_map(|a| a.strip_prefix("--drain-timeout="));
        let drain: u64 = drain.unwrap().trim_end_matches('s').parse().unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > sleep + drain && sleep > 0, "{}: {grace} s for {sleep} s and {drain} s", form.name);
        for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            let probe = &container[probe]["httpGet"];
            assert_eq!((&probe["path"], &probe["port"]), (&path.into(), &9901.into()));
            // Where the port is the node's, only the node itself reaches it.
            assert_eq!(probe["host"] == "127.0.0.1", pod["hostNetwork"] == true, "{}", form.name);
        }
        let noticed = container["readinessProbe"]["periodSeconds"].as_u64().unwrap() * 3;
        assert!(sleep >= noticed, "{}: it is gone before anybody notices", form.name);
    }
}

#[test]
fn replicas_are_spread_and_never_all_away() {
    let Some(chart) = Chart::find() else { return };
    let rendered = objects(&chart.render(DEPLOYMENT, "tidegate"));
    let spec = &the(&rendered, "Deployment")["spec"];
    assert_eq!(spec["replicas"], 2);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let spread = spec["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap();
    let keys: Vec<&Value> = spread.iter().map(|constraint| &constraint["topologyKey"]).collect();
    assert_eq!(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    for (name, value) in selector["matchLabels"].as_object().unwrap() {
        assert_eq!(&labels[name], value);
    }
    assert!(spread.iter().all(|constraint| &constraint["labelSelector"] == selector));
    let budget = &the(&rendered, "PodDisruptionBudget")["spec"];
    assert_eq!((&budget["maxUnavailable"], &budget["selector"]), (&1.into(), selector));
    assert_eq!(&the(&rendered, "Service")["spec"]["selector"], &selector["matchLabels"]);

    let rendered = objects(&chart.render(EVERYTHING, "tidegate"));
    assert!(the(&rendered, "Deployment")["spec"]["replicas"].is_null(), "the autoscaler decides");
    assert_eq!(the(&rendered, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"], "tidegate");
    assert_eq!(the(&rendered, "IngressClass")["spec"]["controller"], "tidegate.io/ingress");
    assert_eq!(the(&rendered, "IngressClass")["spec"]["parameters"]["name"], "edge");
    let policy = &the(&rendered, "NetworkPolicy")["spec"]["ingress"];
    let ports = |rule: &Value| -> Vec<u64> {
        rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect()
    };
    assert_eq!([0, 1, 2].map(|rule| ports(&policy[rule])), [vec![8080, 8443], vec![9901, 9000], vec![9000]]);
    for (rule, app) in [(1, "prometheus"), (2, "scraper")] {
        assert_eq!(policy[rule]["from"][0]["podSelector"]["matchLabels"]["app"], app);
    }
    let values = [EVERYTHING.values, &["metrics.enabled=false"]].concat();
    let rendered = objects(&chart.run(&["template", "tidegate"], &values).unwrap());
    let policy = the(&rendered, "NetworkPolicy")["spec"]["ingress"].as_array().unwrap();
    assert_eq!((policy.len(), ports(&policy[1])), (2, vec![9901]));
}

/// `resource: verbs`, of every rule of these roles.
fn permissions(objects: &[Value], kind: &str, is_it: impl Fn(&Value) -> bool) -> BTreeMap<String, BTreeSet<String>> {
    let mut permissions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for role in objects.iter().filter(|object| object["kind"] == kind && is_it(&object["metadata"])) {
        for rule in role["rules"].as_array().expect("rules") {
            for resource in strings(&rule["resources"]) {
                let verbs = permissions.entry(resource.to_owned()).or_default();
                verbs.extend(strings(&rule["verbs"]).into_iter().map(str::to_owned));
            }
        }
    }
    permissions
}

/// That each of them is used is seen in `cluster::rbac`, which takes away one after the other.
#[test]
fn the_permissions_are_those_that_are_documented() {
    let Some(chart) = Chart::find() else { return };
    let documented: BTreeMap<_, _> = documented().into_iter().map(|row| (row.resource, row.verbs)).collect();
    for form in [DEPLOYMENT, DAEMON_SET, NODE] {
        let rendered = objects(&chart.render(form, "tidegate"));
        let mut granted = permissions(&rendered, "ClusterRole", |_| true);
        granted.extend(permissions(&rendered, "Role", |_| true));
        assert_eq!(granted, documented, "{}", form.name);
    }
    let rendered = objects(&chart.render(NAMESPACED, "tidegate"));
    let of_cluster = permissions(&rendered, "ClusterRole", |_| true);
    for namespace in ["shop", "blog"] {
        let mut granted = permissions(&rendered, "Role", |metadata| metadata["namespace"] == namespace);
        assert!(granted.keys().all(|resource| !of_cluster.contains_key(resource)));
        granted.extend(of_cluster.clone());
        // The namespaces are those that were named.
        let but_for = ["leases", "namespaces"];
        let mut expected = documented.clone();
        expected.retain(|resource, _| !but_for.contains(&resource.as_str()));
        assert_eq!(granted, expected);
    }
    // Where the Service of `publishService` is, nothing else is read.
    let of_publish = |values: &[&str]| {
        let values = [&["watchNamespaces={shop,blog}"], values].concat();
        let rendered = objects(&chart.run(&["template", "tidegate", "--namespace", "edge"], &values).unwrap());
        let role = rendered
            .iter()
            .find(|object| object["metadata"]["name"] == "edge-tidegate-publish" && object["kind"] == "Role");
        role.map(|role| (role["metadata"]["namespace"].clone(), role["rules"].clone()))
    };
    let rules = |service: &str| {
        json!([
            {"apiGroups": [""], "resources": ["services"], "resourceNames": [service], "verbs": ["list"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
        ])
    };
    assert_eq!(of_publish(&[]), Some(("edge".into(), rules("tidegate"))));
    assert_eq!(of_publish(&["publishService=web/front"]), Some(("web".into(), rules("front"))));
    for none in ["publishService=shop/front", "publishStatus=false", "publishStatusAddresses={192.0.2.1}"] {
        assert_eq!(of_publish(&[none]), None, "{none}");
    }
    let renamed = objects(&chart.run(&["template", "tidegate"], &["fullnameOverride=front"]).unwrap());
    let of_lease =
        renamed.iter().filter(|object| object["kind"] == "Role").flat_map(|role| role["rules"].as_array().unwrap());
    let named: Vec<&str> = of_lease.flat_map(|rule| strings(&rule["resourceNames"])).collect();
    assert_eq!(named, ["front-leader"]);
    for (rendered, resources) in objects(&chart.render(EVERYTHING, "tidegate"))
        .iter()
        .filter(|object| object["kind"] == "ClusterRole")
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .map(|rule| (rule.to_string(), rule["resources"].clone()))
    {
        assert!(!rendered.contains('*') && !strings(&resources).is_empty(), "{rendered}");
    }
}

/// The second of two releases in one cluster.
#[test]
fn who_does_not_write_may_only_read() {
    let Some(chart) = Chart::find() else { return };
    let values = [NODE.values, &["leaderElection.enabled=false", "watchNamespaces={shop}"]].concat();
    let rendered = objects(&chart.run(&["template", "tidegate", "--namespace", "tidegate"], &values).unwrap());
    for kind in ["ClusterRole", "Role"] {
        let granted = permissions(&rendered, kind, |_| true);
        let verbs: BTreeSet<&str> = granted.values().flatten().map(String::as_str).collect();
        assert!(!verbs.is_empty() && verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{granted:?}");
        assert!(!granted.contains_key("leases"), "{granted:?}");
    }
    let arguments = strings(&workload(&rendered)["spec"]["template"]["spec"]["containers"][0]["args"]).join(" ");
    assert!(arguments.contains("--leader-election-id=off") && !arguments.contains("--publish"), "{arguments}");
}

#[test]
fn the_notes_say_what_to_do_next() {
    let Some(chart) = Chart::find() else { return };
    let install = ["install", "tidegate", "--namespace", "edge", "--dry-run=client"];
    let notes = |values: &[&str]| {
        let said = chart.run(&install, values).unwrap();
        said.split("NOTES:").nth(1).expect("the notes").to_owned()
    };
    let usual = notes(DEPLOYMENT.values);
    for line in [
        "is being installed as Deployment edge/tidegate.",
        "kubectl --namespace edge rollout status deployment tidegate",
        "These Ingresses are served:\n  - of class tidegate\n\n",
        "kubectl --namespace edge get service tidegate",
        "networkPolicy.enabled",
    ] {
        assert!(usual.contains(line), "{line} is not in\n{usual}");
    }
    assert!(!usual.contains("There is one replica") && notes(&["replicaCount=1"]).contains("There is one replica"));
    let classes = |values: &[&str]| {
        let said = notes(values);
        let list = said.split("are served:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the list");
        list.lines().map(|line| line.trim_start_matches("  - ").to_owned()).collect::<Vec<_>>()
    };
    let controllers = "ingressClass.controllers={tidegate.io/ingress,k8s.io/ingress-nginx}";
    assert_eq!(
        classes(&[controllers, "ingressClass.names={nginx}", "ingressClass.default=true"]),
        [
            "of class tidegate",
            "of class nginx, where there is no IngressClass of that name",
            "of each IngressClass of controller k8s.io/ingress-nginx",
            "that name no class, as tidegate is the default class",
        ]
    );
    assert_eq!(
        classes(&["ingressClass.enabled=false", "ingressClass.watchWithoutClass=true"]),
        [
            "of class tidegate, where there is no IngressClass of that name",
            "of each IngressClass of controller tidegate.io/ingress",
            "that name no class, where no class is the default",
        ]
    );
    assert!(
        !usual.contains("Nothing is written")
            && notes(&["leaderElection.enabled=false"]).contains("Nothing is written")
    );
    let node = notes(NODE.values);
    assert!(node.contains("daemonset tidegate") && !node.contains("networkPolicy.enabled"), "{node}");
}

/// A copy of the program that is permitted what the image permits it, started as a container would be: by a user who is not root, and
/// with what the container's capabilities leave.
#[test]
fn ports_below_1024_take_what_the_container_adds_and_nothing_less() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        eprintln!("skipped: it takes root to permit a program anything");
        return;
    }
    let directory = std::env::temp_dir().join(format!("tidegate-capabilities-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let program = directory.join("tidegate");
    fs::copy(tidegate_tests::process::program(), &program).unwrap();
    let permitted = tidegate_tests::oci::file_capabilities(image::PERMITTED);
    rustix::fs::setxattr(&program, "security.capability", &permitted, rustix::fs::XattrFlags::empty()).unwrap();
    let run = |bounds: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"]);
        command.arg(format!("--bounding-set={bounds}")).arg(&program);
        command.args(["run", "--manifests", "/nonexistent", "--http", "0.0.0.0:80", "--https", "0.0.0.0:443"]);
        command.args(["--admin", "0.0.0.0:9901"]).env("TIDEGATE_STATE_DIR", &directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("unshare and setpriv are there");
        let (mut first, mut error) = (String::new(), String::new());
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        if first.is_empty() {
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        }
        drop(child.kill());
        child.wait().unwrap();
        first + &error
    };
    let (with, without) = (run("-all,+net_bind_service"), run("-all"));
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(with.trim_end(), "listening  http   0.0.0.0:80");
    assert!(without.contains("0.0.0.0:80") && without.contains("ermission denied"), "{without}");
}
