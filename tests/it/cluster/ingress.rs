//! The Ingress conformance suite against Tidegate's Deployment, from outside the nodes, at the address that the status of each Ingress
//! shows; and what Kubernetes' own e2e tests ask of the API of Ingresses, with a controller that writes to them.

use std::{collections::BTreeSet, fs, path::PathBuf, pin::pin};

use futures_util::TryStreamExt;
use kube::{
    Api, Error, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
        WatchEvent, WatchParams,
    },
};
use serde_json::{Value, json};
use tidegate_tests::{
    PATIENCE, Response,
    certificates::{Ca, secret_manifest},
    cluster::{
        Cluster, Namespace, Shared,
        tidegate::{Installed, is_rolled_out},
    },
    ingress_suite::{
        DEFAULT_BACKEND, Feature, HOST_RULES, INGRESS_CLASS, LOAD_BALANCING, PATH_RULES, TLS, USER_AGENT, host_and_path,
    },
};
use tokio::sync::{Mutex, MutexGuard};

use super::bed::until;

/// The class that comes with the installation.
const CLASS: &str = "ingressClassName: tidegate, ";

/// Requests to the ten pods of a Service, and how many pods of it there are.
const REQUESTS: (usize, usize) = (100, 10);

/// What is given before a feature's scenarios: its Services, and a pod for each.
struct Given {
    feature: &'static Feature,
    cluster: Shared,
    installed: &'static Installed,
    namespace: Namespace,
    /// Whom the client believes.
    believed: PathBuf,
}

impl Given {
    /// `None` where there is no such cluster.
    async fn new(feature: &'static Feature) -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let installed = Installed::shared(&cluster).await?;
        let namespace = cluster.namespace(feature.name);
        let (ca, name) = (Ca::new("conformance"), &namespace.name[..]);
        let pair = ca.leaf(&[TLS.1]);
        let secret = secret_manifest(TLS.0, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)]);
        let replicas = if feature.name == LOAD_BALANCING.name { REQUESTS.1 } else { 1 };
        let deployments: String = feature.services.iter().map(|service| deployment(service, replicas)).collect();
        cluster.apply_in(name, &(feature.service_manifests() + &secret + &deployments));
        for service in feature.services {
            is_rolled_out(&cluster, name, &format!("deployment/{service}"));
        }
        let believed = cluster.directory().file(&format!("{name}.pem"));
        fs::write(&believed, ca.pem).expect("the directory is ours");
        Some(Self { feature, cluster, installed, namespace, believed })
    }

    /// The Ingress, which is served by every replica from now on. An Ingress without hosts takes what others leave, so that there is
    /// one at a time.
    async fn ingress(&self) -> Served<'_> {
        static ONE: Mutex<()> = Mutex::const_new(());
        let alone = ONE.lock().await;
        self.cluster.apply_in(&self.namespace.name, &self.feature.ingress(CLASS));
        let served = Served { given: self, _alone: alone };
        // "The Ingress status shows the IP address or FQDN where it is exposed."
        until(&self.cluster, &self.address_of(self.feature.name), &self.installed.address().to_string());
        self.installed.all_serve(&self.cluster, &self.namespace.name, self.feature.name, true);
        served
    }

    /// What asks for the address in the status of an Ingress.
    fn address_of<'a>(&'a self, ingress: &'a str) -> [&'a str; 7] {
        ["get", "ingress", ingress, "-n", &self.namespace.name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"]
    }

    /// Asks with curl, which verifies certificates.
    fn ask(&self, method: &str, url: &str) -> Response {
        let ip = self.installed.address();
        let to = format!("::{ip}:");
        let url = match host_and_path(url) {
            ("", path) => format!("http://{ip}{path}"),
            _ => url.to_owned(),
        };
        let believed = self.believed.display().to_string();
        let options = ["--max-time", "20", "--connect-to", &to, "--cacert", &believed, "-A", USER_AGENT, "-X", method];
        response(&self.cluster.outside(&[&["curl", "-sSi", "--http1.1"], &options[..], &[&url]].concat()))
    }
}

/// An Ingress of a feature; it is gone when this is.
struct Served<'a> {
    given: &'a Given,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let Given { feature, cluster, namespace, installed, .. } = self.given;
        drop(cluster.try_kubectl(&["delete", "ingress", feature.name, "-n", &namespace.name, "--ignore-not-found"]));
        if !std::thread::panicking() {
            installed.all_serve(cluster, &namespace.name, feature.name, false);
        }
    }
}

/// Pods that say that they are the Service; if there are several, each says its own name.
fn deployment(service: &str, replicas: usize) -> String {
    let name = if replicas == 1 { service } else { "$(POD_NAME)" };
    let (image, port) = (Installed::image(), 8080);
    let pod = json!({
        "metadata": {"labels": {"app": service}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": image,
                "args": ["pod", "--name", name, "--listen", format!("0.0.0.0:{port}")],
                "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "readinessProbe": {"httpGet": {"path": "/", "port": port}, "periodSeconds": 1},
            }],
        },
    });
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": service}}, "template": pod});
    format!(
        "---\n{}\n",
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": service}, "spec": spec})
    )
}

/// What `curl -i` prints.
fn response(text: &str) -> Response {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    Response {
        status: status.unwrap_or_else(|| panic!("no answer: {text}")),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect(),
        body: body.into(),
    }
}

/// All scenarios of a feature.
async fn holds(feature: &'static Feature) {
    let Some(given) = Given::new(feature).await else { return };
    let _served = given.ingress().await;
    feature.holds(async |method: &str, url: &str| given.ask(method, url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn default_backend() {
    holds(&DEFAULT_BACKEND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_rules() {
    holds(&HOST_RULES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn path_rules() {
    holds(&PATH_RULES).await;
}

/// "The Ingress status should not contain the IP address or FQDN", when that of one that came later does.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_class() {
    /// Whom it waits for.
    const LATER: Feature = Feature { name: "later", given: "rules: [{host: later}]", services: &[], scenarios: &[] };
    let Some(given) = Given::new(&INGRESS_CLASS).await else { return };
    given.cluster.apply_in(&given.namespace.name, &INGRESS_CLASS.ingress(""));
    let later = Given { feature: &LATER, ..given };
    let _served = later.ingress().await;
    assert_eq!(later.cluster.kubectl(&later.address_of(INGRESS_CLASS.name)), "");
    INGRESS_CLASS.holds(async |method: &str, url: &str| later.ask(method, url)).await;
}

/// "All the responses status-code must be 200 and the response body should contain the IP address of 10 different pods."
#[tokio::test(flavor = "multi_thread")]
async fn load_balancing() {
    let Some(given) = Given::new(&LOAD_BALANCING).await else { return };
    let _served = given.ingress().await;
    let (requests, pods) = REQUESTS;
    let url = format!("http://{}/?[1-{requests}]", given.installed.http_addr());
    for connection in ["keep-alive", "close"] {
        let header = format!("Connection: {connection}");
        let command = ["curl", "-sS", "--max-time", "60", "-w", "%{http_code}\n", "-H", "Host: load-balancing", "-H"];
        let said = given.cluster.outside(&[&command[..], &[&header, &url]].concat());
        let lines: Vec<&str> = said.lines().collect();
        let (names, statuses): (Vec<&str>, Vec<&str>) = lines.chunks_exact(2).map(|two| (two[0], two[1])).unzip();
        assert_eq!((names.len(), statuses.iter().all(|status| *status == "200")), (requests, true), "{said}");
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len(), pods, "{said}");
    }
}

/// The upstream e2e test "Ingress API should support creating Ingress API operations", step by step, with Ingresses that are ours: the controller
/// writes their status meanwhile, and is in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_of_ingresses_with_a_controller() {
    let Some(cluster) = Cluster::shared().await else { return };
    let Some(_installed) = Installed::shared(&cluster).await else { return };
    let (namespace, client) = (cluster.namespace("ingress-api"), cluster.client());
    let name = &namespace.name[..];
    // The group is in the discovery document, and so is its version, and the resource with its verbs.
    let groups = client.list_api_groups().await.unwrap().groups;
    let group = groups.iter().find(|group| group.name == "networking.k8s.io").expect("the group");
    assert!(group.versions.iter().any(|version| version.version == "v1"));
    let resources = client.list_api_group_resources("networking.k8s.io/v1").await.unwrap().resources;
    let verbs = |of: &str| resources.iter().find(|one| one.name == of).expect("the resource").verbs.clone();
    for verb in ["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"] {
        assert!(verbs("ingresses").iter().any(|there| there == verb), "{verb}");
    }
    assert!(["patch", "update"].iter().all(|verb| verbs("ingresses/status").iter().any(|there| there == verb)));

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("networking.k8s.io", "v1", "Ingress"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, &kind);
    let everywhere: Api<DynamicObject> = Api::all_with(client, &kind);
    let label = format!("special-label={name}");
    let (list, watch) = (ListParams::default().labels(&label), WatchParams::default().labels(&label));
    let mut created = None;
    for host in ["host1.bar.com", "host2.bar.com", "host3.bar.com"] {
        created = Some(api.create(&PostParams::default(), &example(name, host, &kind)).await.unwrap());
    }
    let created = created.expect("there are three");
    let of = &created.name_any()[..];
    assert_eq!(api.get(of).await.unwrap().uid(), created.uid());
    let listed = api.list(&list).await.unwrap();
    assert_eq!((listed.items.len(), everywhere.list(&list).await.unwrap().items.len()), (3, 3));
    let since = listed.metadata.resource_version.expect("a list has a version");
    let mut watched = pin!(api.watch(&watch, &since).await.unwrap());
    let _everywhere = everywhere.watch(&watch, &since).await.expect("it can be watched everywhere");

    let patch = |value: Value| async { api.patch(of, &PatchParams::default(), &Patch::Merge(value)).await.unwrap() };
    let patched = patch(json!({"metadata": {"annotations": {"patched": "true"}}})).await;
    assert_ne!(patched.resource_version(), created.resource_version());
    assert_eq!(patched.annotations()["patched"], "true");
    let updated = update(&api, of, async |mut ingress| {
        ingress.annotations_mut().insert("updated".to_owned(), "true".to_owned());
        api.replace(of, &PostParams::default(), &ingress).await
    });
    assert_eq!(updated.await.annotations()["updated"], "true");
    let seen = async {
        loop {
            match watched.try_next().await.unwrap().expect("the watch goes on") {
                WatchEvent::Modified(ingress) if ingress.annotations().contains_key("patched") => break,
                // Our controller writes to the other two.
                WatchEvent::Modified(_) => {}
                event => panic!("{event:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the change is seen");

    let status = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    let annotated = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status("169.1.1.1")});
    let patched = api.patch_status(of, &PatchParams::default(), &Patch::Merge(annotated)).await.unwrap();
    assert_eq!((&patched.data["status"], &patched.annotations()["patchedstatus"][..]), (&status("169.1.1.1"), "true"));
    let updated = update(&api, of, async |mut ingress| {
        ingress.data["status"] = status("169.1.1.2");
        api.replace_status(of, &PostParams::default(), &ingress).await
    });
    assert_eq!(updated.await.data["status"], status("169.1.1.2"));
    assert_eq!(api.get_status(of).await.unwrap().uid(), created.uid());

    // We have no finalizers: what is deleted is gone at once.
    api.delete(of, &DeleteParams::default()).await.unwrap();
    assert!(matches!(api.get(of).await, Err(Error::Api(status)) if status.code == 404));
    assert_eq!(api.list(&list).await.unwrap().items.len(), 2);
    api.delete_collection(&DeleteParams::default(), &list).await.unwrap();
    assert_eq!(api.list(&list).await.unwrap().items.len(), 0);
}

/// The test's template.
fn example(namespace: &str, host: &str, kind: &ApiResource) -> DynamicObject {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 8080}}});
    let path = json!({"path": "/", "pathType": "ImplementationSpecific", "backend": backend("test-backend")});
    let spec = json!({
        "ingressClassName": "tidegate",
        "defaultBackend": backend("default-backend"),
        "rules": [{"host": host, "http": {"paths": [path]}}],
    });
    let mut ingress = DynamicObject::new("", kind).data(json!({"spec": spec}));
    ingress.metadata.name = None;
    ingress.metadata.generate_name = Some("e2e-example-ing".to_owned());
    ingress.labels_mut().insert("special-label".to_owned(), namespace.to_owned());
    ingress
}

/// Reads and writes until nobody has written in between.
async fn update(
    api: &Api<DynamicObject>,
    name: &str,
    write: impl AsyncFn(DynamicObject) -> kube::Result<DynamicObject>,
) -> DynamicObject {
    loop {
        match write(api.get(name).await.unwrap()).await {
            Err(Error::Api(status)) if status.code == 409 => {}
            written => return written.unwrap(),
        }
    }
}
