//! Metrics of certificates: when they end, by the hosts that are shown them.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use crate::tls::{CertificateRow, TlsTable};

/// Hosts in one scrape: with one series each, half a megabyte.
const MAX_HOSTS: usize = 5_000;

/// Writes the metrics, and gives back how many hosts were left out.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, table: &TlsTable) -> Result<(&'static str, u64), fmt::Error> {
    let shown = |row: &CertificateRow| row.hosts.len();
    let left_out = table.certificates().iter().map(shown).sum::<usize>().saturating_sub(MAX_HOSTS);
    if !table.certificates().is_empty() {
        let help = "When the certificate that a host is shown ends; a host of * is any that has none of its own.";
        let name = "certificate_expiry_timestamp_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let hosts = table.certificates().iter().flat_map(|row| row.hosts.iter().map(move |host| (row, host)));
        for (row, host) in hosts.take(MAX_HOSTS) {
            let labels = [
                ("namespace", &*row.secret.namespace),
                ("secret", &*row.secret.name),
                ("host", host),
                ("key", row.certificate.key_type.as_str()),
            ];
            metric.encode_family(&labels)?.encode_gauge(&row.certificate.not_after)?;
        }
    }
    Ok(("certificate", left_out as u64))
}

#[cfg(test)]
mod tests {

    use crate::{
        admin::{fixture, metrics},
        tls::tests::support::{Ca, ingress, snapshot, tls_secret},
    };

    #[test]
    fn each_host_has_the_end_of_its_certificate() {
        let ca = Ca::new("ca");
        let manifests = tls_secret("a", &ca.leaf(&["a.com", "*.foo.com"]))
            + &tls_secret("b", &ca.rsa_leaf(&["a.com"]))
            + &ingress("a", &[], "[{secretName: a}, {secretName: b}]", &["a.com", "*.foo.com"]);
        let state = fixture::state(Some(snapshot(&manifests)), 1);
        let text = metrics::encode(&state);
        for (secret, host, key) in [("a", "a.com", "ECDSA"), ("a", "*.foo.com", "ECDSA"), ("b", "a.com", "RSA")] {
            let series = format!(
                "tidegate_certificate_expiry_timestamp_seconds{{namespace=\"default\",secret={secret:?},host={host:?},key={key:?}}} 4102444800\n"
            );
            assert!(text.contains(&series), "{series} in {text}");
        }
        assert!(text.contains("tidegate_left_out{kind=\"certificate\"} 0\n"));
    }
}
