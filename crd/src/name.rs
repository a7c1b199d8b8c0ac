//! Which names Kubernetes allows for objects.
//!
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>

use crate::object::Kind;

/// A DNS label has at most 63 characters (RFC 1035, section 2.3.4).
const LABEL_LENGTH: usize = 63;
/// A DNS name has at most 253 characters as text (RFC 1123, section 2.1; 255 octets on the wire).
const SUBDOMAIN_LENGTH: usize = 253;

/// What is asked of a name of this kind, if `name` does not meet it.
pub(crate) fn broken_rule(kind: Kind, name: &str) -> Option<&'static str> {
    match kind {
        Kind::Service => (!is_service_label(name)).then_some(
            "a Service is named with at most 63 lower-case letters, digits and `-`, beginning with a letter and ending \
             with a letter or digit (DNS-1035 label)",
        ),
        Kind::Namespace => namespace_rule(name),
        Kind::ConfigMap
        | Kind::EndpointSlice
        | Kind::Endpoints
        | Kind::Ingress
        | Kind::IngressClass
        | Kind::IngressClassParameters
        | Kind::LoadBalancerPool
        | Kind::Node
        | Kind::Pod
        | Kind::Secret => (!is_subdomain(name)).then_some(
            "a name has at most 253 lower-case letters, digits, `-` and `.`, and each part between dots begins and ends \
             with a letter or digit (DNS-1123 subdomain)",
        ),
    }
}

/// What is asked of a namespace's name, if `name` does not meet it.
pub(crate) fn namespace_rule(name: &str) -> Option<&'static str> {
    (!is_label(name)).then_some(
        "a namespace is named with at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or \
         digit (DNS-1123 label)",
    )
}

fn is_service_label(name: &str) -> bool {
    is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= SUBDOMAIN_LENGTH && name.split('.').all(is_name_part)
}

fn is_label(name: &str) -> bool {
    name.len() <= LABEL_LENGTH && is_name_part(name)
}

fn is_name_part(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alphanumeric) && part.ends_with(alphanumeric) && part.chars().all(|c| alphanumeric(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let ok = |kind, name: &str| broken_rule(kind, name).is_none();
        assert!(ok(Kind::Service, "kubia") && ok(Kind::Service, "k-9") && ok(Kind::Service, &"a".repeat(63)));
        assert!(!ok(Kind::Service, "9k") && !ok(Kind::Service, "a.b") && !ok(Kind::Service, "a-"));
        assert!(!ok(Kind::Service, "Kubia") && !ok(Kind::Service, "") && !ok(Kind::Service, &"a".repeat(64)));
        assert!(ok(Kind::Pod, "9k.a-b") && ok(Kind::Ingress, &"a".repeat(253)));
        assert!(!ok(Kind::Pod, "a..b") && !ok(Kind::Pod, "a_b") && !ok(Kind::Ingress, &"a".repeat(254)));
        assert!(ok(Kind::Namespace, "9-lives") && !ok(Kind::Namespace, "a.b"));
    }
}
