//! Secrets as TLS reads them: a certificate and its key, CAs and revocation lists.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateRevocationListDer, pem::PemObject},
};
use tidegate_crd::{Kind, core::Secret};

use super::{
    finding::{Finding, Report},
    objects::{Name, Stored},
};
use crate::tls::{Certificate, CertificateFault, read_chain};

/// The certificate and those it is issued by.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub(super) const KEY: &str = "tls.key";
/// An OCSP response for it, in DER form. Kubernetes has no name for it; this is ours.
const OCSP: &str = "tls.ocsp";
/// CAs.
pub(super) const CA: &str = "ca.crt";
/// Revocation lists of the CAs.
pub(super) const CRL: &str = "ca.crl";

/// What a key of a Secret holds; `stringData` wins over `data`, as in the API server.
pub(super) fn bytes<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    let text = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
    text.or_else(|| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice()))
}

/// Something wrong with a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretFault {
    pub(super) is_error: bool,
    pub(crate) reason: &'static str,
    /// The key in its data.
    pub(super) key: &'static str,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

impl SecretFault {
    fn error(reason: &'static str, key: &'static str, message: String, fix: &'static str) -> Self {
        Self { is_error: true, reason, key, message, fix }
    }

    fn warning(reason: &'static str, key: &'static str, message: String, fix: &'static str) -> Self {
        Self { is_error: false, ..Self::error(reason, key, message, fix) }
    }
}

/// A Secret with a certificate, read.
#[derive(Clone, Debug)]
pub(crate) struct CertificateSecret {
    pub(super) stored: Arc<Stored<Secret>>,
    /// `None` if there is something wrong with it.
    pub(super) certificate: Option<Arc<Certificate>>,
    faults: Vec<SecretFault>,
}

impl CertificateSecret {
    pub(super) fn read(stored: &Arc<Stored<Secret>>) -> Self {
        let (certificate, faults) = match read_certificate(&stored.object) {
            Ok((certificate, faults)) => (Some(Arc::new(certificate)), faults),
            Err(fault) => (None, vec![fault]),
        };
        Self { stored: stored.clone(), certificate, faults }
    }

    /// What is wrong with it, at `now` in seconds since the Unix epoch, if that is known.
    pub(super) fn findings(&self, name: &Name, now: Option<i64>) -> Vec<Finding> {
        let timely = self.certificate.as_ref().zip(now).and_then(|(certificate, now)| expiry(certificate, now));
        findings(name, &self.stored, self.faults.iter().chain(&timely))
    }
}

/// Faults as findings on their Secret.
pub(super) fn findings<'a>(
    name: &Name,
    stored: &Stored<Secret>,
    faults: impl IntoIterator<Item = &'a SecretFault>,
) -> Vec<Finding> {
    let mut report = Report::on(Kind::Secret, &name.namespace, &name.name, &stored.origin);
    for fault in faults {
        // What is missing stands where the rest is.
        let Secret { data, string_data, .. } = &stored.object;
        let in_data = data.as_ref().map_or_else(|| string_data.is_none(), |data| data.contains_key(fault.key));
        let in_text = string_data.as_ref().is_some_and(|text| !in_data || text.contains_key(fault.key));
        let field = format!("{}[{:?}]", if in_text { "stringData" } else { "data" }, fault.key);
        if fault.is_error {
            report.error(fault.reason, &field, fault.message.as_str(), fault.fix);
        } else {
            report.warning(fault.reason, &field, fault.message.as_str(), fault.fix);
        }
    }
    report.into_findings()
}

fn read_certificate(secret: &Secret) -> Result<(Certificate, Vec<SecretFault>), SecretFault> {
    const SHOWN: &str = "its hosts are shown the default or a stand-in certificate";
    let fault =
        |reason, key, message: String, fix| SecretFault::error(reason, key, format!("{message}; {SHOWN}."), fix);
    let missing = |key| {
        let fix = "Put a PEM certificate in tls.crt and its PEM key in tls.key, as `kubectl create secret tls` does.";
        fault("InvalidCertificate", key, format!("the Secret has no {key}"), fix)
    };
    let chain = bytes(secret, CERTIFICATE).ok_or_else(|| missing(CERTIFICATE))?;
    let key = bytes(secret, KEY).ok_or_else(|| missing(KEY))?;
    let ocsp = bytes(secret, OCSP);
    let (certificate, staple_fault) = Certificate::read(chain, key, ocsp).map_err(|found| match found {
        CertificateFault::NoCertificate(_) | CertificateFault::BadCertificate(_) => {
            let fix = "Put the PEM certificate there, and behind it those of the CAs in between.";
            fault("InvalidCertificate", CERTIFICATE, found.to_string(), fix)
        }
        CertificateFault::NoKey | CertificateFault::BadKey => {
            fault("InvalidPrivateKey", KEY, found.to_string(), "Put the PEM key there, unencrypted.")
        }
        CertificateFault::KeyMismatch => {
            let fix =
                "Put the key there with which the certificate was requested; the certificate comes first in tls.crt.";
            fault("KeyMismatch", KEY, found.to_string(), fix)
        }
    })?;
    let mut faults = Vec::new();
    if let Some(found) = staple_fault {
        let message = format!("the OCSP response {}; it is not shown.", found.as_str());
        faults.push(SecretFault::warning("InvalidOcspResponse", OCSP, message, "Fetch it anew, or remove it."));
    }
    if !certificate.is_chain_in_order {
        let message = "the certificates are not in order: each should be issued by the one behind it.".to_owned();
        let fix = "Put the host's certificate first, then the CA that issued it, and so on; leave the root out.";
        faults.push(SecretFault::warning("ChainOrder", CERTIFICATE, message, fix));
    }
    Ok((certificate, faults))
}

/// What time has done to a certificate.
fn expiry(certificate: &Certificate, now: i64) -> Option<SecretFault> {
    const FIX: &str = "Renew it, and put the new one here: it is served at once, and no connection is cut.";
    let warning = |reason, message: String| Some(SecretFault::warning(reason, CERTIFICATE, message, FIX));
    let soon = i64::try_from(crate::tls::limits::EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX);
    let left = certificate.not_after - now;
    let date = |seconds: i64| {
        let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
        time.map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
    };
    match left {
        ..0 => warning("CertificateExpired", format!("the certificate ended on {}.", date(certificate.not_after))),
        left if left < soon => {
            let days = left / (24 * 60 * 60);
            let message = format!("the certificate ends on {}, {days} days from now.", date(certificate.not_after));
            warning("CertificateExpires", message)
        }
        _ if certificate.not_before > now => {
            let message = format!("the certificate is not good before {}.", date(certificate.not_before));
            warning("CertificateNotYetValid", message)
        }
        _ => None,
    }
}

/// The CAs of a Secret. One that cannot be read is left out: fewer are trusted, not more.
pub(super) fn roots(secret: &Secret) -> Result<(RootCertStore, Vec<SecretFault>), SecretFault> {
    const FIX: &str = "Put the PEM certificates of the CAs there.";
    let error = |message| SecretFault::error("InvalidCa", CA, message, FIX);
    let pem = bytes(secret, CA).ok_or_else(|| error("the Secret has no ca.crt: nobody is trusted.".to_owned()))?;
    let chain = read_chain(pem).map_err(|fault| error(format!("{fault}: nobody is trusted.")))?;
    let (mut roots, mut faults) = (RootCertStore::empty(), Vec::new());
    for (number, der) in chain.into_iter().enumerate() {
        if let Err(found) = roots.add(der) {
            let message = format!("certificate {} in it cannot be read ({found}), and is not trusted.", number + 1);
            faults.push(error(message));
        }
    }
    match roots.is_empty() {
        true => Err(error("none of the certificates in it can be read: nobody is trusted.".to_owned())),
        false => Ok((roots, faults)),
    }
}

/// The revocation lists of a Secret, if it has any. One that cannot be read is not passed over: it may name somebody.
pub(super) fn crls(secret: &Secret) -> Result<Vec<CertificateRevocationListDer<'static>>, SecretFault> {
    let Some(pem) = bytes(secret, CRL) else { return Ok(Vec::new()) };
    let error = |why: String| {
        let message = format!("it holds no revocation list that can be read ({why}): nobody is trusted.");
        SecretFault::error("InvalidCrl", CRL, message, "Put the PEM lists of all CAs there, or remove the key.")
    };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.map_err(|found| error(found.to_string()))?;
    if lists.is_empty() { Err(error("nothing between BEGIN X509 CRL and END X509 CRL".to_owned())) } else { Ok(lists) }
}

/// A list that PEM could hold but nobody can read.
pub(super) fn bad_crl(why: &str) -> SecretFault {
    let message = format!("it holds a revocation list that cannot be read ({why}): nobody is trusted.");
    SecretFault::error("InvalidCrl", CRL, message, "Put the PEM lists of all CAs there, or remove the key.")
}
