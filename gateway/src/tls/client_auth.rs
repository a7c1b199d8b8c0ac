//! Client certificates (mTLS): what a host asks of clients, and the verdict on what they show.
//!
//! As in ingress-nginx the verdict does not end the handshake: a client without a good certificate gets an answer that says so (400),
//! and a host may leave the decision to its pods. In the handshake the client only proves that the certificate it shows is its
//! own; afterwards [`ClientAuth::judge`] looks at it, in a new session and a resumed one alike, so that a revoked certificate cannot
//! live on in a session ticket. For each request [`check_client`] decides.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use regex::{Regex, RegexBuilder};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    client_certificate::{ClientCertificate, NOT_SHOWN, Verify},
    identity::Identity,
    limits::{MAX_PATTERN_BYTES, MAX_PATTERN_PROGRAM_BYTES},
    provider,
};

/// What a host asks of its clients.
#[derive(Debug)]
pub struct ClientAuth {
    /// Whether a certificate must be shown.
    pub demand: Demand,
    /// What the subject must match.
    pub match_cn: Option<SubjectPattern>,
    /// Whether pods see the certificate itself.
    pub pass_certificate: bool,
    /// Where a client is sent that shows no good certificate, instead of being told so.
    pub error_page: Option<HeaderValue>,
    /// Whom is trusted; why nobody is, if there is something wrong with the configuration: then nobody is let in.
    trust: Result<Trust, Arc<str>>,
    /// Of all that decides whether a client is let in.
    identity: Identity,
}

/// Whether a client must show a certificate (`auth-tls-verify-client`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// Yes, and it must be good (`on`).
    #[default]
    Required,
    /// No, but if it does, it must be good (`optional`).
    Optional,
    /// No, and it may be of any issuer: the pods decide (`optional_no_ca`).
    OptionalNoCa,
}

/// The certificates a client may show.
#[derive(Debug)]
pub(crate) struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Certificates allowed between the client's and one of a CA.
    depth: u8,
}

/// What [`ClientAuth`] is made of, but for the CAs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientAuthOptions {
    pub(crate) demand: Demand,
    pub(crate) match_cn: Option<SubjectPattern>,
    pub(crate) pass_certificate: bool,
    pub(crate) error_page: Option<HeaderValue>,
}

impl Trust {
    /// Trusts what these CAs have issued and their revocation lists do not name, through at most `depth` intermediates.
    ///
    /// Where there are lists, each issuer in a chain must have one, and a current one: otherwise nobody could know (as with nginx).
    ///
    /// # Errors
    /// What is wrong with a CA or list, in words.
    pub(crate) fn new(
        roots: RootCertStore,
        crls: Vec<CertificateRevocationListDer<'static>>,
        depth: u8,
    ) -> Result<Self, String> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone())
            .with_crls(crls)
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { verifier, depth })
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Verify {
        let Some((certificate, others)) = chain.split_first() else { return Verify::None };
        // A chain is sent in order (RFC 8446 4.4.2), so what stands beyond the depth would be needed only by a longer one. A root
        // is no part of a chain's length.
        let allowed = others.iter().filter(|der| !is_self_signed(der)).take(self.depth.into()).cloned();
        match self.verifier.verify_client_cert(certificate, &allowed.collect::<Vec<_>>(), now) {
            Ok(_) => Verify::Success,
            Err(error) => failed(&error),
        }
    }
}

impl ClientAuth {
    /// `parts` are what `trust` was made of.
    pub(crate) fn new(options: ClientAuthOptions, trust: Result<Trust, Arc<str>>, parts: &[&[u8]]) -> Self {
        let ClientAuthOptions { demand, match_cn, pass_certificate, error_page } = options;
        let (depth, closed) = match &trust {
            Ok(trust) => (trust.depth, ""),
            Err(reason) => (0, &**reason),
        };
        let flags = [demand as u8, depth, u8::from(pass_certificate)];
        let pattern = match_cn.as_ref().map_or("", |pattern| pattern.as_str());
        let page = error_page.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let own = [&flags[..], pattern.as_bytes(), page, closed.as_bytes()];
        let identity = Identity::of(own.into_iter().chain(parts.iter().copied()));
        Self { demand, match_cn, pass_certificate, error_page, trust, identity }
    }

    /// Of all that decides whether a client is let in: two with the same one treat every client alike.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Why nobody is let in, if the configuration is at fault.
    pub fn closed(&self) -> Option<&str> {
        self.trust.as_ref().err().map(|reason| &**reason)
    }

    /// The verdict on the chain a client showed, if any: its own certificate first.
    pub fn judge(&self, chain: Option<&[CertificateDer<'_>]>, now: UnixTime) -> ClientCertificate {
        let (Some(chain @ [certificate, ..]), Ok(trust)) = (chain, &self.trust) else { return NOT_SHOWN.clone() };
        ClientCertificate::shown(certificate, trust.verify(chain, now), self.pass_certificate)
    }

    /// What asks for the certificate in the handshake; `None` if there is no point in asking.
    pub(crate) fn question(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let trust = self.trust.as_ref().ok()?;
        Some(Arc::new(Question(trust.verifier.clone())))
    }
}

/// Why a request is not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400 without a good certificate, 403 if it is not one of those who may; 302 to an error page.
    pub status: StatusCode,
    /// Why, for the client and the log.
    pub text: &'static str,
    /// Where the client is sent instead.
    pub location: Option<HeaderValue>,
}

/// Whether a request to a host with `auth` may be passed on, from a client that showed `presented`: `None` if it was not asked,
/// because it came without TLS or to another host.
///
/// Statuses and texts are those of nginx (495 and 496 become 400) and ingress-nginx (403).
///
/// # Errors
/// What to answer.
pub fn check_client(auth: &ClientAuth, presented: Option<&ClientCertificate>) -> Result<(), Refusal> {
    let forbidden = |text| Refusal { status: StatusCode::FORBIDDEN, text, location: None };
    if auth.closed().is_some() {
        return Err(forbidden("client certificates cannot be verified here"));
    }
    let bad = |text| {
        let status = if auth.error_page.is_some() { StatusCode::FOUND } else { StatusCode::BAD_REQUEST };
        Refusal { status, text, location: auth.error_page.clone() }
    };
    let presented = presented.unwrap_or(&NOT_SHOWN);
    match (presented.verify, auth.demand) {
        (Verify::Success, _)
        | (Verify::None, Demand::Optional | Demand::OptionalNoCa)
        | (Verify::Failed { unknown_issuer: true, .. }, Demand::OptionalNoCa) => {}
        (Verify::None, Demand::Required) => return Err(bad("no required SSL certificate was sent")),
        (Verify::Failed { .. }, _) => return Err(bad("the SSL certificate error")),
    }
    match &auth.match_cn {
        Some(pattern) if !pattern.matches(&presented.subject) => {
            Err(forbidden("the client certificate is not authorised"))
        }
        Some(_) | None => Ok(()),
    }
}

/// What a subject must match (`auth-tls-match-cn`): a regular expression that begins with `CN=`.
#[derive(Clone, Debug)]
pub struct SubjectPattern(Regex);

impl SubjectPattern {
    /// # Errors
    /// What to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with("CN=") && !text.starts_with("^CN=") {
            return Err("CN= and a regular expression, such as CN=(alice|bob)");
        }
        let pattern = RegexBuilder::new(text).size_limit(MAX_PATTERN_PROGRAM_BYTES).build();
        match pattern {
            Ok(pattern) if text.len() <= MAX_PATTERN_BYTES => Ok(Self(pattern)),
            Ok(_) | Err(_) => Err("a regular expression that is not too long, without look-around and back-references"),
        }
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it matches a subject (RFC 4514), from the beginning of one of its attributes. nginx matches anywhere, so there
    /// an organisation named `CN=admin` is let in as well as the admin.
    fn matches(&self, subject: &str) -> bool {
        let begins_attribute = |at: usize| match subject[..at].strip_suffix([',', '+']) {
            // An odd number of backslashes escapes the separator.
            Some(before) => (before.len() - before.trim_end_matches('\\').len()).is_multiple_of(2),
            None => at == 0,
        };
        self.0.find_iter(subject).any(|found| begins_attribute(found.start()))
    }
}

/// Asks for a certificate and takes any of which the client has the key: who that is, is for [`ClientAuth::judge`] to say.
#[derive(Debug)]
struct Question(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Question {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn is_self_signed(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// OpenSSL's words, which pods may look for in `ssl-client-verify`.
fn failed(error: &Error) -> Verify {
    let Error::InvalidCertificate(error) = error else {
        return Verify::Failed { reason: "certificate is not valid", unknown_issuer: false };
    };
    let reason = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not yet valid",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownIssuer => "unable to verify the first certificate",
        CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "CRL has expired"
        }
        CertificateError::BadSignature => "certificate signature failure",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsupported certificate purpose"
        }
        CertificateError::BadEncoding => "certificate cannot be read",
        _ => "certificate is not valid",
    };
    Verify::Failed { reason, unknown_issuer: *error == CertificateError::UnknownIssuer }
}
