//! `proxy-ssl-*` → `BackendTls`.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use tidegate_crd::core::Secret;

use super::{
    annotations::{ProxySslOptions, annotation_field},
    finding::Report,
    objects::Objects,
    tls::secret_name,
    tls_secret::{self, CERTIFICATE, KEY, SecretFault},
};
use crate::tls::{BackendTls, BackendTlsSpec, BackendTrust, Suites, read_chain};

/// Why pods cannot be spoken to as the annotations say. The requests of the rule must be answered 503: what should have been
/// verified is not sent to anybody unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendTlsFault {
    /// The Secret is at fault.
    Secret(SecretFault),
    /// An annotation is, by its short name.
    Annotation { name: &'static str, message: String, fix: &'static str },
}

/// How the pods of an Ingress with `backend-protocol` HTTPS or GRPCS are spoken to; `None` if it cannot be done as the annotations
/// say, which is reported: its requests must be answered 503 then.
pub(crate) fn for_ingress(
    objects: &Objects,
    namespace: &Arc<str>,
    options: &ProxySslOptions,
    h2: bool,
    report: &mut Report<'_>,
) -> Option<Arc<BackendTls>> {
    let secret = match options.secret.as_deref().map(|written| secret_name(written, namespace)).transpose() {
        Ok(name) => name,
        Err(message) => {
            let field = annotation_field("proxy-ssl-secret");
            let message = format!("{message}; every request is answered 503.");
            report.error("InvalidSecretName", &field, message, "Name a Secret of the Ingress's own namespace.");
            return None;
        }
    };
    let stored = secret.as_ref().map(|name| (name, objects.secrets.get(name)));
    if let Some((name, None)) = stored {
        let message = format!("there is no Secret {name}; every request is answered 503.");
        let fix = "Create the Secret, with the CAs of the pods in ca.crt, or correct the name.";
        report.error("MissingSecret", &annotation_field("proxy-ssl-secret"), message, fix);
        return None;
    }
    let secret = stored.and_then(|(_, stored)| stored).map(|stored| &stored.object);
    let tls = backend_tls(secret, options, h2).inspect_err(|fault| fault.report(report)).ok()?;
    if !tls.is_verified {
        let message = "the pods' certificates are not verified: whoever stands between can read and change everything.";
        let fix = "Add proxy-ssl-secret with their CAs in ca.crt, proxy-ssl-name, and proxy-ssl-verify: \"on\".";
        report.warning("UnverifiedBackend", &annotation_field("backend-protocol"), message, fix);
    }
    Some(tls)
}

/// How pods are spoken to with TLS. Without a Secret the other options have no effect, and nothing is verified: ingress-nginx's
/// rule, which manifests rely on. `h2` for HTTP/2.
///
/// # Errors
/// If verification was asked for and cannot be done, or the certificate to show cannot be read.
pub(crate) fn backend_tls(
    secret: Option<&Secret>,
    options: &ProxySslOptions,
    h2: bool,
) -> Result<Arc<BackendTls>, BackendTlsFault> {
    let spec = match secret {
        Some(secret) => spec(secret, options, h2)?,
        None => BackendTlsSpec {
            trust: BackendTrust::All,
            client: None,
            name: None,
            send_name: false,
            versions: (true, true),
            suites: None,
            h2,
        },
    };
    let is_client = spec.client.is_some();
    let tls = BackendTls::new(spec).map_err(|why| {
        let (key, what) = if is_client { (KEY, "certificate") } else { (tls_secret::CA, "CAs") };
        BackendTlsFault::Secret(SecretFault {
            is_error: true,
            reason: "InvalidCertificate",
            key,
            message: format!("the {what} for pods cannot be used ({why})."),
            fix: "Put a PEM certificate in tls.crt and its PEM key in tls.key.",
        })
    })?;
    Ok(Arc::new(tls))
}

fn spec(secret: &Secret, options: &ProxySslOptions, h2: bool) -> Result<BackendTlsSpec, BackendTlsFault> {
    let name = options.name.as_deref().map(|name| ServerName::try_from(name.to_owned()));
    let name = name.transpose().map_err(|_| BackendTlsFault::Annotation {
        name: "proxy-ssl-name",
        message: "it is neither a DNS name nor an address.".to_owned(),
        fix: "Write the name that the pods' certificates are for.",
    })?;
    let trust = match options.verify {
        true if name.is_none() => {
            return Err(BackendTlsFault::Annotation {
                name: "proxy-ssl-verify",
                message: "there is nothing to verify the pods' certificates against.".to_owned(),
                fix: "Add proxy-ssl-name with the name that they are for.",
            });
        }
        // A CA that cannot be read is one less that is trusted; its Secret's finding says so where it is read for clients.
        true => BackendTrust::Roots(tls_secret::roots(secret).map_err(BackendTlsFault::Secret)?.0, options.depth),
        false => BackendTrust::All,
    };
    let suites = options.ciphers.as_deref().map(Suites::parse).map(|suites| suites.tls12);
    let suites = suites.filter(|suites| !suites.is_empty());
    let client = client(secret)?;
    Ok(BackendTlsSpec { trust, client, name, send_name: options.send_name, versions: options.versions, suites, h2 })
}

type ClientKey = (Vec<rustls::pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What is shown to pods: a Secret may hold CAs alone.
fn client(secret: &Secret) -> Result<Option<ClientKey>, BackendTlsFault> {
    let (chain, key) = match (tls_secret::bytes(secret, CERTIFICATE), tls_secret::bytes(secret, KEY)) {
        (None, None) => return Ok(None),
        (chain, key) => (chain.unwrap_or_default(), key.unwrap_or_default()),
    };
    let fault = |reason, key, message| {
        let fix = "Put a PEM certificate in tls.crt and its PEM key in tls.key, or neither.";
        BackendTlsFault::Secret(SecretFault { is_error: true, reason, key, message, fix })
    };
    let chain = read_chain(chain).map_err(|found| fault("InvalidCertificate", CERTIFICATE, format!("{found}.")))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| fault("InvalidPrivateKey", KEY, "it holds no private key in PEM form.".to_owned()))?;
    Ok(Some((chain, key)))
}

impl BackendTlsFault {
    /// Reports it on the Ingress that asks for it.
    pub(crate) fn report(&self, report: &mut Report<'_>) {
        let (reason, name, message, fix) = match self {
            Self::Secret(fault) => {
                (fault.reason, "proxy-ssl-secret", format!("{} of the Secret: {}", fault.key, fault.message), fault.fix)
            }
            Self::Annotation { name, message, fix } => ("InvalidAnnotation", *name, message.clone(), *fix),
        };
        let message = format!("{message} Every request is answered 503.");
        report.error(reason, &annotation_field(name), message, fix);
    }
}
