//! What a client showed of itself in the handshake, and what a pod hears of it.

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{ClientAuth, distinguished_name};

/// `SUCCESS`, `FAILED:reason` or `NONE` (nginx, `$ssl_client_verify`).
const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
/// The subject, as RFC 4514 writes it.
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
/// The issuer, as RFC 4514 writes it.
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
/// The certificate in PEM form, percent-encoded.
const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");

/// What nginx leaves as it is in `$ssl_client_escaped_cert` (RFC 3986 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Bytes of a line of base64 in PEM (RFC 7468 2), before the encoding.
const PEM_LINE: usize = 48;

/// The outcome of asking a client for its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whether it is one we trust.
    pub verify: Verify,
    /// Its subject, as RFC 4514 writes it; empty if none was shown.
    pub subject: String,
    /// What pods hear, prepared: of subject, issuer and certificate.
    fields: Option<Fields>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    subject: HeaderValue,
    issuer: HeaderValue,
    /// Only where it is asked for.
    certificate: Option<HeaderValue>,
}

/// Whether a client's certificate is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// It is.
    Success,
    /// It is not.
    Failed {
        /// Why, in OpenSSL's words.
        reason: &'static str,
        /// Nothing is wrong with it but that it was not issued by a CA we know: `optional_no_ca` forgives that.
        unknown_issuer: bool,
    },
    /// The client showed none.
    None,
}

impl Verify {
    fn value(self) -> HeaderValue {
        match self {
            Self::Success => HeaderValue::from_static("SUCCESS"),
            Self::None => HeaderValue::from_static("NONE"),
            Self::Failed { reason, .. } => HeaderValue::try_from(format!("FAILED:{reason}"))
                .unwrap_or(HeaderValue::from_static("FAILED:certificate is not valid")),
        }
    }
}

/// None was shown.
pub(crate) static NOT_SHOWN: ClientCertificate =
    ClientCertificate { verify: Verify::None, subject: String::new(), fields: None };

impl ClientCertificate {
    /// Whom it names, as RFC 4514 writes it; `None` if none was shown.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.fields.as_ref().map(|_| self.subject.as_str())
    }

    /// One that was shown; `keep` if pods are to see all of it.
    pub(crate) fn shown(certificate: &CertificateDer<'_>, verify: Verify, keep: bool) -> Self {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            let verify = Verify::Failed { reason: "certificate cannot be read", unknown_issuer: false };
            return Self { verify, ..NOT_SHOWN.clone() };
        };
        let subject = distinguished_name::to_text(parsed.subject());
        let value = |text: &str| HeaderValue::try_from(text).ok();
        let fields = value(&subject).zip(value(&distinguished_name::to_text(parsed.issuer())));
        let fields = fields.map(|(subject, issuer)| {
            let certificate =
                if keep { value(&percent_encode(pem(certificate).as_bytes(), ESCAPED).to_string()) } else { None };
            Fields { subject, issuer, certificate }
        });
        Self { verify, subject, fields }
    }
}

/// Tells a pod who the client is, for a host that asks clients for certificates. Whatever the client itself wrote into these
/// fields goes: a pod must be able to believe them.
pub fn write_headers(headers: &mut HeaderMap, auth: &ClientAuth, presented: Option<&ClientCertificate>) {
    for name in [VERIFY, SUBJECT, ISSUER, CERTIFICATE] {
        headers.remove(name);
    }
    let presented = presented.unwrap_or(&NOT_SHOWN);
    headers.insert(VERIFY, presented.verify.value());
    let Some(fields) = &presented.fields else { return };
    headers.insert(SUBJECT, fields.subject.clone());
    headers.insert(ISSUER, fields.issuer.clone());
    if let Some(certificate) = fields.certificate.as_ref().filter(|_| auth.pass_certificate) {
        headers.insert(CERTIFICATE, certificate.clone());
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in certificate.chunks(PEM_LINE) {
        BASE64.encode_append(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
