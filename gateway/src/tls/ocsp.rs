//! OCSP responses: as much of RFC 6960 as it takes to know whether one belongs to a certificate, and until when it is good.
//!
//! Nothing is fetched: the response comes with the Secret (key `tls.ocsp`, the DER form). Clients check its signature, so it is
//! not checked here; what is checked is what would make them refuse the connection.

use rustls::pki_types::UnixTime;
use x509_parser::{
    asn1_rs::{Any, Class, FromDer, GeneralizedTime, Header, ParseResult, Tag},
    certificate::X509Certificate,
};

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// A response that says its certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staple {
    /// When there will be a newer one, in seconds since the Unix epoch; `None` if it does not say.
    pub(crate) next_update: Option<i64>,
}

impl Staple {
    pub(crate) fn is_good_at(&self, now: UnixTime) -> bool {
        self.next_update.is_none_or(|until| i64::try_from(now.as_secs()).is_ok_and(|now| now < until))
    }
}

/// Why a response is not shown to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StapleFault {
    /// It is no DER-encoded OCSPResponse with a BasicOCSPResponse.
    Unreadable,
    /// The responder answered with an error.
    NoSuccess,
    /// It is about another certificate.
    OtherCertificate,
    /// It says that the certificate is revoked.
    Revoked,
    /// It says that the responder does not know the certificate.
    Unknown,
}

impl StapleFault {
    /// What is wrong, in words that follow "the OCSP response".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read: it must be a DER-encoded OCSPResponse (RFC 6960)",
            Self::NoSuccess => "is one in which the responder reports an error",
            Self::OtherCertificate => "is about another certificate",
            Self::Revoked => "says that the certificate is revoked",
            Self::Unknown => "says that the responder does not know the certificate",
        }
    }
}

/// Reads a response that should be about `certificate`.
pub(crate) fn read(response: &[u8], certificate: &X509Certificate<'_>) -> Result<Staple, StapleFault> {
    let (status, basic) = unwrap_response(response).map_err(|_| StapleFault::Unreadable)?;
    let Some(basic) = basic.filter(|_| status == 0) else {
        return Err(if status == 0 { StapleFault::Unreadable } else { StapleFault::NoSuccess });
    };
    let singles = single_responses(basic).map_err(|_| StapleFault::Unreadable)?;
    for single in singles {
        let single = Single::read(&single).map_err(|_| StapleFault::Unreadable)?;
        // As written in the certificate, leading zero and all; names of issuers are told apart by hashes, which clients check.
        if single.serial != certificate.raw_serial() {
            continue;
        }
        return match single.status {
            0 => Ok(Staple { next_update: single.next_update }),
            1 => Err(StapleFault::Revoked),
            _ => Err(StapleFault::Unknown),
        };
    }
    Err(StapleFault::OtherCertificate)
}

type Parsed<T> = Result<T, ()>;

/// One element of DER, and what follows it.
fn element(bytes: &[u8]) -> Parsed<(&[u8], Any<'_>)> {
    let parsed: ParseResult<'_, Any<'_>> = Any::from_der(bytes);
    parsed.map_err(|_| ())
}

/// What is in an element, if it is of this kind.
fn content<'a>(any: &Any<'a>, class: Class, tag: u32) -> Parsed<&'a [u8]> {
    let header: &Header<'_> = &any.header;
    if header.class() == class && header.tag() == Tag(tag) { Ok(any.data) } else { Err(()) }
}

fn universal<'a>(any: &Any<'a>, tag: Tag) -> Parsed<&'a [u8]> {
    content(any, Class::Universal, tag.0)
}

/// `OCSPResponse`: its status, and the encoded BasicOCSPResponse in it.
fn unwrap_response(response: &[u8]) -> Parsed<(u8, Option<&[u8]>)> {
    let (rest, outer) = element(response)?;
    if !rest.is_empty() {
        return Err(());
    }
    let (rest, status) = element(universal(&outer, Tag::Sequence)?)?;
    let &[status] = universal(&status, Tag::Enumerated)? else { return Err(()) };
    if rest.is_empty() {
        return Ok((status, None));
    }
    let (_, tagged) = element(rest)?;
    let (_, bytes) = element(content(&tagged, Class::ContextSpecific, 0)?)?;
    let (rest, kind) = element(universal(&bytes, Tag::Sequence)?)?;
    if universal(&kind, Tag::Oid)? != BASIC {
        return Err(());
    }
    let (_, octets) = element(rest)?;
    Ok((status, Some(universal(&octets, Tag::OctetString)?)))
}

/// The SingleResponses of a BasicOCSPResponse.
fn single_responses(basic: &[u8]) -> Parsed<Vec<Any<'_>>> {
    let (_, basic) = element(basic)?;
    let (_, data) = element(universal(&basic, Tag::Sequence)?)?;
    let mut rest = universal(&data, Tag::Sequence)?;
    // version [0], if it is not the first, and responderID [1] or [2]; then producedAt.
    loop {
        let (after, next) = element(rest)?;
        rest = after;
        if next.header.class() != Class::ContextSpecific {
            universal(&next, Tag::GeneralizedTime)?;
            break;
        }
    }
    let (_, list) = element(rest)?;
    let mut rest = universal(&list, Tag::Sequence)?;
    let mut singles = Vec::new();
    while !rest.is_empty() {
        let (after, single) = element(rest)?;
        singles.push(single);
        rest = after;
    }
    Ok(singles)
}

/// What one certificate's part of a response says.
struct Single<'a> {
    serial: &'a [u8],
    /// 0 good, 1 revoked, 2 unknown.
    status: u32,
    next_update: Option<i64>,
}

impl<'a> Single<'a> {
    fn read(single: &Any<'a>) -> Parsed<Self> {
        let (rest, id) = element(universal(single, Tag::Sequence)?)?;
        let mut id = universal(&id, Tag::Sequence)?;
        // hashAlgorithm, issuerNameHash, issuerKeyHash
        for _ in 0..3 {
            id = element(id)?.0;
        }
        let (_, serial) = element(id)?;
        let serial = universal(&serial, Tag::Integer)?;
        let (rest, status) = element(rest)?;
        if status.header.class() != Class::ContextSpecific {
            return Err(());
        }
        let (rest, this_update) = element(rest)?;
        universal(&this_update, Tag::GeneralizedTime)?;
        let next_update = match rest.is_empty() {
            true => None,
            false => {
                let (_, next) = element(rest)?;
                match content(&next, Class::ContextSpecific, 0) {
                    Ok(inner) => Some(time(inner)?),
                    // singleExtensions [1]
                    Err(()) => None,
                }
            }
        };
        Ok(Self { serial, status: status.header.tag().0, next_update })
    }
}

fn time(bytes: &[u8]) -> Parsed<i64> {
    let parsed: ParseResult<'_, GeneralizedTime> = GeneralizedTime::from_der(bytes);
    let (_, time) = parsed.map_err(|_| ())?;
    Ok(time.utc_datetime().map_err(|_| ())?.unix_timestamp())
}
