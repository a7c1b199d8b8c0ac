//! How etcd, API server, controller manager and scheduler are started.

use std::{ffi::OsString, net::IpAddr, path::Path};

use super::{
    super::{
        Failure, audit,
        directory::Directory,
        pki::{Pki, Subject},
        programs::Programs,
    },
    daemon::Daemon,
};

/// The port of the API server.
pub(in super::super) const API_SERVER: u16 = 6443;

/// The ports of all four.
pub(super) const PORTS: [u16; 5] = [2379, 2380, API_SERVER, 10257, 10259];

/// Where ClusterIPs come from, and the first of them, which is the API server's.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

/// Where the four are, and who else may ask them.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Their address.
    pub(super) ip: IpAddr,
    /// The address at which this machine's processes reach the API server.
    pub(super) from_here: IpAddr,
    /// What comes before a command, for it to run there.
    pub(super) prefix: Vec<OsString>,
    /// Whether there are nodes.
    pub(super) has_nodes: bool,
}

impl Place {
    /// The API server's URL for those who are there.
    pub(super) fn server(&self) -> String {
        format!("https://{}:{API_SERVER}", self.ip)
    }

    /// A program that runs there.
    pub(super) fn daemon(&self, directory: &Directory, name: &str, command: Vec<OsString>) -> Daemon {
        Daemon::new(directory, name, [self.prefix.clone(), command].concat())
    }
}

/// The four, in the order in which they are started, and the kubeconfigs of whoever administrates: `admin.kubeconfig` for this
/// machine's processes, and `inside.kubeconfig` for those in the cluster's network.
pub(super) fn daemons(
    programs: &Programs,
    directory: &Directory,
    pki: &Pki,
    place: &Place,
) -> Result<[Daemon; 4], Failure> {
    let admin = Subject { name: "tidegate-admin", group: Some("system:masters") };
    pki.kubeconfig("admin", &format!("https://{}:{API_SERVER}", place.from_here), admin)?;
    pki.kubeconfig("inside", &place.server(), admin)?;
    let arguments = [
        ("etcd", etcd(directory, place.ip)),
        ("kube-apiserver", api_server(directory, pki, place)?),
        ("kube-controller-manager", controller_manager(directory, pki, place)?),
        ("kube-scheduler", scheduler(pki, place)?),
    ];
    let daemon = |(name, arguments): (&str, Vec<String>)| {
        let mut command = vec![programs.path(name).into_os_string()];
        command.extend(arguments.into_iter().map(OsString::from));
        place.daemon(directory, name, command)
    };
    Ok(arguments.map(daemon))
}

fn etcd(directory: &Directory, ip: IpAddr) -> Vec<String> {
    let (clients, peers) = (format!("http://{ip}:2379"), format!("http://{ip}:2380"));
    vec![
        format!("--data-dir={}", directory.file("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // Nothing outlives the machine: what the kernel has is safe enough.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(directory: &Directory, pki: &Pki, place: &Place) -> Result<Vec<String>, Failure> {
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let server = Subject { name: "kube-apiserver", group: None };
    let [certificate, key] = pki.write("apiserver", server, &names, &[place.ip, place.from_here, API_SERVICE])?;
    let kubelets = Subject { name: "kube-apiserver-kubelet-client", group: Some("system:masters") };
    let [kubelet_certificate, kubelet_key] = pki.write("kubelet-client", kubelets, &[], &[])?;
    let ca = directory.file("ca.crt");
    let mut arguments = vec![
        format!("--etcd-servers=http://{}:2379", place.ip),
        format!("--bind-address={}", place.ip),
        format!("--advertise-address={}", place.ip),
        format!("--secure-port={API_SERVER}"),
        flag("tls-cert-file", &certificate),
        flag("tls-private-key-file", &key),
        flag("client-ca-file", &ca),
        flag("kubelet-client-certificate", &kubelet_certificate),
        flag("kubelet-client-key", &kubelet_key),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        flag("service-account-key-file", &directory.file("sa.pub")),
        flag("service-account-signing-key-file", &directory.file("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        // Nobody aggregates here, but the others complain every few seconds if there is no CA for it.
        flag("requestheader-client-ca-file", &ca),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    arguments.extend(audit::arguments(directory)?);
    if !place.has_nodes {
        // It would write its address into Endpoints, where a loopback address may not be, and complain every ten seconds.
        arguments.push("--endpoint-reconciler-type=none".to_owned());
    }
    Ok(arguments)
}

fn controller_manager(directory: &Directory, pki: &Pki, place: &Place) -> Result<Vec<String>, Failure> {
    let mut arguments = client("kube-controller-manager", pki, place)?;
    arguments.extend([
        "--use-service-account-credentials=true".to_owned(),
        flag("service-account-private-key-file", &directory.file("sa.key")),
        flag("root-ca-file", &directory.file("ca.crt")),
        // The nodes get their ranges from us, as their routes do.
        "--allocate-node-cidrs=false".to_owned(),
        "--controllers=*,-node-ipam-controller".to_owned(),
    ]);
    Ok(arguments)
}

fn scheduler(pki: &Pki, place: &Place) -> Result<Vec<String>, Failure> {
    client("kube-scheduler", pki, place)
}

/// What controller manager and scheduler have in common. There is one of each: nobody to elect.
fn client(name: &str, pki: &Pki, place: &Place) -> Result<Vec<String>, Failure> {
    let subject = format!("system:{name}");
    let kubeconfig = pki.kubeconfig(name, &place.server(), Subject { name: &subject, group: None })?;
    let mut arguments = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        .map(|name| flag(name, &kubeconfig))
        .to_vec();
    arguments.extend([format!("--bind-address={}", place.ip), "--leader-elect=false".to_owned()]);
    Ok(arguments)
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
