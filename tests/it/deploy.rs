//! What is in `deploy`: the chart in all its forms, and the manifests that are made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use clap::Parser;
use serde_json::Value;
use tidegate::cli::Cli;
use tidegate_tests::{
    chart::{Chart, DAEMON_SET, DEPLOYMENT, EVERYTHING, FORMS, Form, NAMESPACED, NODE, objects, the},
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
        let again = format!("{WRITE}=1 cargo test -p tidegate-tests --test it deploy::");
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
    // `global` belongs to Helm, ports of nodes have no default, claims are rare.
    let others = ["global", "http", "https", "claims"];
    for name in properties.keys().filter(|name| !members.contains_key(*name)) {
        assert!(others.contains(&name.as_str()), "{path}/{name} is not in values.yaml");
    }
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
    assert!(chart.run(&["lint"], &[]).unwrap().contains("0 chart(s) failed"));
}

#[test]
fn every_argument_is_one_of_tidegate() {
    let Some(chart) = Chart::find() else { return };
    for form in FORMS {
        let objects = objects(&chart.render(form, "tidegate"));
        let container = &workload(&objects)["spec"]["template"]["spec"]["containers"][0];
        let from_environment = |argument: &str| {
            let known = strings_of_environment(container);
            known.iter().fold(argument.to_owned(), |text, name| text.replace(&format!("$({name})"), "value"))
        };
        let arguments = strings(&container["args"]).into_iter().map(from_environment);
        let arguments: Vec<String> = std::iter::once("tidegate".to_owned()).chain(arguments).collect();
        assert!(arguments.iter().all(|argument| !argument.contains("$(")), "{}: {arguments:?}", form.name);
        if let Err(error) = Cli::try_parse_from(&arguments) {
            panic!("{}: {arguments:?}: {error}", form.name);
        }
    }
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
        let of_node = [NODE.name, DAEMON_SET.name].contains(&form.name);
        assert_eq!(pod["hostNetwork"].as_bool().unwrap_or(false), of_node, "{}", form.name);
        let (of_pod, container) = (&pod["securityContext"], &pod["containers"][0]);
        assert_eq!((&of_pod["runAsNonRoot"], &of_pod["runAsUser"]), (&true.into(), &65532.into()));
        assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
        let added = if of_node { vec!["NET_BIND_SERVICE"] } else { vec![] };
        assert_eq!(strings(&security["capabilities"]["add"]), added, "{}", form.name);
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            assert!(volume["emptyDir"]["medium"] == "Memory", "{volume}");
        }
        assert!(pod["containers"].as_array().unwrap().len() == 1 && pod["initContainers"].is_null());
    }
    let more = Form { name: "routes", values: &["node.netAdmin=true"], ..NODE };
    let values = [NODE.values, more.values].concat();
    let rendered = objects(&chart.run(&["template", "tidegate"], &values).unwrap());
    let security = &workload(&rendered)["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(strings(&security["capabilities"]["add"]), ["NET_BIND_SERVICE", "NET_ADMIN"]);
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
    let ports = |rule: &Value| rule["ports"].as_array().unwrap().iter().map(|p| p["port"].clone()).collect::<Vec<_>>();
    assert_eq!((ports(&policy[0]), ports(&policy[1])), (vec![8080.into(), 8443.into()], vec![9901.into()]));
    assert_eq!(policy[1]["from"][0]["podSelector"]["matchLabels"]["app"], "prometheus");
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
        "Ingresses with `ingressClassName: tidegate` are served",
        "kubectl --namespace edge get service tidegate",
        "networkPolicy.enabled",
    ] {
        assert!(usual.contains(line), "{line} is not in\n{usual}");
    }
    assert!(!usual.contains("There is one replica") && notes(&["replicaCount=1"]).contains("There is one replica"));
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
