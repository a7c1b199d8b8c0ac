//! The Helm chart of `deploy/chart`, rendered.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::{
    cluster::{control_plane::skipped, programs::Programs},
    image::root,
};

/// Values that make one kind of installation of it.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// What it is called here; with `is_checked_in`, its file in `deploy/manifests`, too.
    pub name: &'static str,
    /// What `--set` is told.
    pub values: &'static [&'static str],
    /// Whether the rendered manifests are in `deploy/manifests`.
    pub is_checked_in: bool,
}

/// As many replicas as you say, behind a Service.
pub const DEPLOYMENT: Form = Form { name: "deployment", values: &[], is_checked_in: true };

/// One on each node, at its ports 80 and 443.
pub const DAEMON_SET: Form = Form {
    name: "daemonset",
    values: &[
        "kind=DaemonSet",
        "hostNetwork=true",
        "ports.http=80",
        "ports.https=443",
        "service.type=ClusterIP",
        "service.headless=true",
    ],
    is_checked_in: true,
};

/// The same, with the service plane of its node.
pub const NODE: Form = Form {
    name: "node",
    values: &[
        "kind=DaemonSet",
        "hostNetwork=true",
        "node.enabled=true",
        "ports.http=80",
        "ports.https=443",
        "service.type=ClusterIP",
        "service.headless=true",
    ],
    is_checked_in: true,
};

/// One that looks at two namespaces, neither of which is its own.
pub const NAMESPACED: Form =
    Form { name: "namespaced", values: &["watchNamespaces={shop,blog}"], is_checked_in: false };

/// Replicas at ports of their nodes, of which there is one at most on each.
pub const HOST: Form =
    Form { name: "host", values: &["hostNetwork=true", "ports.http=80", "ports.https=443"], is_checked_in: false };

/// What clouds and OpenShift ask for: TLS ends at the load balancer, and the cluster chooses the user.
pub const CLOUD: Form = Form {
    name: "cloud",
    values: &[
        "service.targetPorts.https=http",
        "service.appProtocol=false",
        "service.allocateLoadBalancerNodePorts=false",
        "service.loadBalancerSourceRanges={192.0.2.0/24,2001:db8::/32}",
        "service.externalIPs={192.0.2.9,2001:db8::9}",
        "service.labels.team=edge",
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
        "podSecurityContext.fsGroup=null",
        "ingressClass.enabled=false",
        "ingressClass.names={nginx,outer}",
        "ingressClass.watchWithoutClass=true",
        "strategy.type=Recreate",
        "minReadySeconds=5",
        "metrics.enabled=true",
    ],
    is_checked_in: false,
};

/// All that can be turned on.
pub const EVERYTHING: Form = Form {
    name: "everything",
    values: &[
        "autoscaling.enabled=true",
        "networkPolicy.enabled=true",
        "networkPolicy.admin[0].podSelector.matchLabels.app=prometheus",
        "ingressClass.default=true",
        "ingressClass.parameters=edge",
        "ingressClass.controllers={tidegate.io/ingress,k8s.io/ingress-nginx}",
        "service.type=NodePort",
        "service.nodePorts.http=30080",
        "service.externalTrafficPolicy=Local",
        "publishStatusAddresses={192.0.2.1,edge.example.com}",
        "defaultCertificate=web/wildcard",
        "defaultBackend=web/default",
        "trustedProxies={10.0.0.0/8,192.0.2.0/24}",
        "proxyProtocol=true",
        "accessLog=true",
        "defaultLoadBalancer=true",
        "listenAddress=0.0.0.0",
        "extraArgs={--nginx-metrics,--tls-min-version=1.3,--access-log=/var/log/tidegate/access.log}",
        "metrics.enabled=true",
        "metrics.port=9000",
        "networkPolicy.metrics[0].podSelector.matchLabels.app=scraper",
        "strategy.rollingUpdate.maxSurge=2",
        "dnsConfig.options[0].name=edns0",
        "extraVolumes[0].name=logs",
        "extraVolumes[0].emptyDir.sizeLimit=1Gi",
        "extraVolumeMounts[0].name=logs",
        "extraVolumeMounts[0].mountPath=/var/log/tidegate",
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "podAnnotations.a=b",
        "podLabels.c=d",
        "priorityClassName=system-cluster-critical",
        "tolerations[0].operator=Exists",
        "serviceAccount.annotations.e=f",
        "imagePullSecrets[0].name=registry",
    ],
    is_checked_in: false,
};

/// Each of them.
pub const FORMS: [Form; 7] = [DEPLOYMENT, DAEMON_SET, NODE, NAMESPACED, HOST, CLOUD, EVERYTHING];

/// Helm and a chart.
#[derive(Debug)]
pub struct Chart {
    helm: PathBuf,
}

impl Chart {
    /// The chart, if Helm has been built; else a line on stderr says why not.
    ///
    /// # Panics
    /// In CI, if Helm has not been built.
    pub fn find() -> Option<Self> {
        match Programs::helm() {
            Ok(helm) => Some(Self { helm }),
            Err(why) => skipped(&why),
        }
    }

    /// What a form is in a namespace, as YAML, without the lines that say from which template.
    ///
    /// # Panics
    /// If Helm refuses it.
    #[track_caller]
    pub fn render(&self, form: Form, namespace: &str) -> String {
        self.run(&["template", "tidegate", "--namespace", namespace], form.values)
            .unwrap_or_else(|error| panic!("{}: {error}", form.name))
            .lines()
            .filter(|line| !line.starts_with("# Source: "))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// What Helm prints for a subcommand that is given the chart, and these values.
    ///
    /// # Errors
    /// What it complains of.
    pub fn run(&self, arguments: &[&str], values: &[&str]) -> Result<String, String> {
        let mut helm = Command::new(&self.helm);
        helm.args(arguments).arg(root().join("deploy/chart"));
        // An older or newer kubectl in the chart's range makes no difference to it.
        for value in values {
            helm.args(["--set", value]);
        }
        // What Helm keeps of its user is nobody's business here.
        let home = std::env::temp_dir().join(format!("tidegate-helm-{}", std::process::id()));
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(name, &home);
        }
        let output = helm.output().map_err(|error| format!("{}: {error}", self.helm.display()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// The objects of a YAML stream.
///
/// # Panics
/// If it is none.
#[track_caller]
pub fn objects(yaml: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\nin\n{yaml}"));
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

/// The only object of a kind.
///
/// # Panics
/// If there is none, or more than one.
#[track_caller]
pub fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let (first, second) = (found.next(), found.next());
    assert!(second.is_none(), "there is more than one {kind}");
    first.unwrap_or_else(|| panic!("there is no {kind}"))
}
