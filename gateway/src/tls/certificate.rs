//! `Certificate`: a chain and its key, as a Secret has them, checked and ready to be shown.

use std::{fmt, sync::Arc};

use rustls::{
    SignatureAlgorithm,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    distinguished_name,
    identity::Identity,
    limits::MAX_CHAIN,
    names::Names,
    ocsp::{self, Staple, StapleFault},
    provider,
};

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// The same with its OCSP response, and until when that is good.
    stapled: Option<(Arc<CertifiedKey>, Staple)>,
    /// What hosts it is for.
    pub names: Names,
    /// From when it is good, in seconds since the Unix epoch.
    pub not_before: i64,
    /// Until when it is good, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Subject, as RFC 4514 writes it.
    pub subject: Arc<str>,
    /// Issuer, as RFC 4514 writes it.
    pub issuer: Arc<str>,
    /// Serial number in hexadecimal.
    pub serial: Arc<str>,
    /// What kind of key it has.
    pub key_type: KeyType,
    /// Whether every certificate of the chain is issued by the one after it, as TLS asks for.
    pub is_chain_in_order: bool,
    /// Of chain, key and OCSP response.
    pub identity: Identity,
}

/// What kind of key a certificate has; clients understand them differently well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// ECDSA: the cheapest to serve.
    Ecdsa,
    /// Ed25519, which browsers do not know.
    Ed25519,
    /// RSA, which every client knows.
    Rsa,
}

impl KeyType {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ecdsa => "ECDSA",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }
}

/// Why a chain and a key make no certificate. None of the texts contains anything of the key.
#[derive(Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// The chain's PEM holds no certificate, or is broken.
    NoCertificate(String),
    /// A certificate cannot be read.
    BadCertificate(String),
    /// The key's PEM holds no private key.
    NoKey,
    /// The key cannot be read, or is of a kind that TLS does not know.
    BadKey,
    /// The key is another certificate's.
    KeyMismatch,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate(why) => write!(f, "it holds no certificate in PEM form ({why})"),
            Self::BadCertificate(why) => write!(f, "a certificate in it cannot be read ({why})"),
            Self::NoKey => f.write_str("it holds no private key in PEM form, or an encrypted one"),
            Self::BadKey => f.write_str("the private key in it cannot be read: ECDSA, RSA and Ed25519 keys can"),
            Self::KeyMismatch => f.write_str("the private key is not that of the certificate"),
        }
    }
}

impl Certificate {
    /// Reads a PEM chain, the certificate itself first, and its PEM key. An OCSP response that is not good for it is left out.
    ///
    /// # Errors
    /// If the two are not what they should be, or do not belong together.
    pub fn read(
        chain: &[u8],
        key: &[u8],
        ocsp: Option<&[u8]>,
    ) -> Result<(Self, Option<StapleFault>), CertificateFault> {
        let chain = read_chain(chain)?;
        let key_der = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateFault::NoKey)?;
        let key_bytes = key_der.secret_der().to_vec();
        let identity =
            |ocsp: &[u8]| Identity::of(chain.iter().map(|der| der.as_ref()).chain([key_bytes.as_slice(), ocsp]));
        let key = provider().key_provider.load_private_key(key_der).map_err(|_| CertificateFault::BadKey)?;
        let key_type = match key.algorithm() {
            SignatureAlgorithm::ECDSA => KeyType::Ecdsa,
            SignatureAlgorithm::ED25519 => KeyType::Ed25519,
            SignatureAlgorithm::RSA => KeyType::Rsa,
            _ => return Err(CertificateFault::BadKey),
        };
        let parsed = parse_chain(&chain)?;
        let certified = CertifiedKey::new(chain.clone(), key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(CertificateFault::KeyMismatch);
            }
            Err(error) => return Err(CertificateFault::BadCertificate(error.to_string())),
        }
        let leaf = &parsed[0];
        let (staple, fault) = match ocsp.map(|response| ocsp::read(response, leaf)) {
            Some(Ok(staple)) => (Some(staple), None),
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        let identity = identity(if staple.is_some() { ocsp.unwrap_or_default() } else { &[] });
        let certificate = Self {
            names: Names::of(leaf),
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            subject: distinguished_name::to_text(leaf.subject()).into(),
            issuer: distinguished_name::to_text(leaf.issuer()).into(),
            serial: leaf.serial.to_str_radix(16).into(),
            key_type,
            is_chain_in_order: parsed.windows(2).all(|pair| pair[0].issuer().as_raw() == pair[1].subject().as_raw()),
            identity,
            stapled: staple
                .map(|staple| (Arc::new(CertifiedKey { ocsp: ocsp.map(<[u8]>::to_vec), ..certified.clone() }), staple)),
            key: Arc::new(certified),
        };
        Ok((certificate, fault))
    }

    /// What is shown to a client at `now`: with the OCSP response as long as it is good. Browsers refuse an old one (RFC 6960
    /// 4.2.2.1), while with none they ask for themselves or go without.
    pub(crate) fn at(&self, now: UnixTime) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, staple)) if staple.is_good_at(now) => stapled,
            Some(_) | None => &self.key,
        }
    }

    /// Until when its OCSP response is good, in seconds since the Unix epoch, if it has one that says so.
    pub fn stapled_until(&self) -> Option<i64> {
        self.stapled.as_ref().and_then(|(_, staple)| staple.next_update)
    }

    /// Whether an OCSP response is shown with it.
    pub fn is_stapled(&self) -> bool {
        self.stapled.is_some()
    }
}

/// The certificates of a PEM text.
pub(crate) fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        chain.push(certificate.map_err(|error| CertificateFault::NoCertificate(error.to_string()))?);
        if chain.len() > MAX_CHAIN {
            return Err(CertificateFault::BadCertificate(format!("more than {MAX_CHAIN} certificates")));
        }
    }
    match chain.is_empty() {
        true => {
            Err(CertificateFault::NoCertificate("nothing between BEGIN CERTIFICATE and END CERTIFICATE".to_owned()))
        }
        false => Ok(chain),
    }
}

fn parse_chain<'a>(chain: &'a [CertificateDer<'static>]) -> Result<Vec<X509Certificate<'a>>, CertificateFault> {
    let parse = |der: &'a CertificateDer<'static>| match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(CertificateFault::BadCertificate("there is something behind it".to_owned())),
        Err(error) => Err(CertificateFault::BadCertificate(error.to_string())),
    };
    chain.iter().map(parse).collect()
}
