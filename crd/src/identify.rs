//! `apiVersion` and `kind` decide what an object is: one of ours, one to leave alone, or a mistake.

use crate::object::Kind;
use crate::policy::GROUP;
use crate::problem::Complaint;
use crate::suggest;
use crate::tree::Node;

/// Versions that clusters no longer serve, and what has replaced them.
///
/// <https://kubernetes.io/docs/reference/using-api/deprecation-guide/>
const REMOVED: &[(&str, Kind, &str)] = &[
    ("extensions/v1beta1", Kind::Ingress, INGRESS_V1),
    ("networking.k8s.io/v1beta1", Kind::Ingress, INGRESS_V1),
    (
        "networking.k8s.io/v1beta1",
        Kind::IngressClass,
        "Write `apiVersion: networking.k8s.io/v1`; the fields are the same.",
    ),
    (
        "discovery.k8s.io/v1beta1",
        Kind::EndpointSlice,
        "Write `apiVersion: discovery.k8s.io/v1`; a `topology` becomes `nodeName`, `zone` and `deprecatedTopology`.",
    ),
];

const INGRESS_V1: &str = "Write `apiVersion: networking.k8s.io/v1`; a backend becomes `service: {name: NAME, port: {number: 80}}` \
                          in place of `serviceName` and `servicePort`, the default one is named `defaultBackend`, and every \
                          path needs a `pathType`.";

/// Ordinary kinds of Kubernetes' own API groups that say nothing about traffic to us. Here so that none of them is taken for a
/// typing error of one of ours.
const ORDINARY: &[&str] = &[
    "APIService",
    "Binding",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ControllerRevision",
    "CronJob",
    "CSIDriver",
    "CSINode",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "Event",
    "FlowSchema",
    "HorizontalPodAutoscaler",
    "IPAddress",
    "Job",
    "Lease",
    "LimitRange",
    "MutatingWebhookConfiguration",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PodTemplate",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ReplicaSet",
    "ReplicationController",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "ServiceAccount",
    "ServiceCIDR",
    "StatefulSet",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
];

/// The kind of an object, or why it is none of ours.
///
/// `inherited` are the apiVersion and kind that a typed list (`ServiceList`) lends to items without their own.
pub(crate) fn identify(object: &Node<'_>, inherited: Option<(&str, &str)>) -> Result<Kind, Complaint> {
    let line = object.line as usize;
    let kind = text_of(object, "kind")?.or_else(|| inherited.map(|(_, kind)| kind));
    let Some(kind) = kind else {
        let message = "the document has no `kind`".to_owned();
        let fix = "Add a `kind`, such as `kind: Service`, and its `apiVersion`; remove the file if it is no manifest.";
        return Err(Complaint::error("MissingKind", line, message, fix).on("kind"));
    };
    let known = Kind::ALL.iter().copied().find(|known| known.as_str() == kind);
    let version = text_of(object, "apiVersion")?.or_else(|| inherited.map(|(version, _)| version));
    let Some(version) = version else {
        let message = format!("{kind} has no `apiVersion`");
        let fix = match known {
            Some(known) => format!("Add `apiVersion: {}`.", known.api_version()),
            None => format!("Add the `apiVersion` of {kind}."),
        };
        return Err(Complaint::error("MissingApiVersion", line, message, fix).on("apiVersion"));
    };
    match known {
        Some(known) if known.api_version() == version => Ok(known),
        Some(known) => Err(other_version(object, known, version)),
        None => Err(other_kind(object, kind, version)),
    }
}

fn text_of<'a>(object: &'a Node<'_>, field: &'static str) -> Result<Option<&'a str>, Complaint> {
    let Some(value) = object.field(field) else { return Ok(None) };
    value.as_text().map(Some).ok_or_else(|| {
        let message = format!("{field}: expected string");
        Complaint::error("InvalidField", value.line as usize, message, "Put the value in quotes.").on(field)
    })
}

fn other_version(object: &Node<'_>, kind: Kind, version: &str) -> Complaint {
    let line = line_of(object, "apiVersion");
    if let Some((_, _, fix)) = REMOVED.iter().find(|(removed, of, _)| *removed == version && *of == kind) {
        let message = format!("apiVersion {version} of {kind} is no longer served by Kubernetes");
        return Complaint::error("RemovedApiVersion", line, message, *fix).on("apiVersion");
    }
    let expected = kind.api_version();
    if is_known_group(version) {
        let message = format!("{kind} is not of apiVersion {version}");
        let fix = format!("Write `apiVersion: {expected}`.");
        return Complaint::error("WrongApiVersion", line, message, fix).on("apiVersion");
    }
    let message = format!("{kind} of {version} is ignored: it is another API's kind of the same name");
    let fix = format!("Nothing, if that is meant; Tidegate reads {kind} of `apiVersion: {expected}`.");
    Complaint::warning("UnknownKind", line, message, fix).on("apiVersion")
}

fn other_kind(object: &Node<'_>, kind: &str, version: &str) -> Complaint {
    let line = line_of(object, "kind");
    let meant = suggest::nearest(kind, Kind::ALL.iter().map(|known| known.as_str()));
    if let Some(meant) = meant.filter(|_| is_known_group(version) && !ORDINARY.contains(&kind)) {
        let message = format!("unknown kind {kind:?}");
        return Complaint::error("UnknownKind", line, message, format!("Did you mean `kind: {meant}`?")).on("kind");
    }
    let message = format!("{kind} of {version} is ignored: Tidegate has no use for this kind");
    Complaint::warning("UnknownKind", line, message, "Nothing, if the object is meant for something else.").on("kind")
}

/// Kubernetes' own groups (no dot, as in `apps/v1`, or under `k8s.io`) and Tidegate's: nobody else has kinds there.
fn is_known_group(version: &str) -> bool {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || group.ends_with(".k8s.io") || group == GROUP
}

fn line_of(object: &Node<'_>, field: &str) -> usize {
    object.field(field).map_or(object.line, |value| value.line) as usize
}
