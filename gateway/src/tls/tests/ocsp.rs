//! OCSP responses: shown while they are good.

use base64_der::*;
use rustls::{
    pki_types::UnixTime,
    version::{TLS12, TLS13},
};

use super::support::{Ca, Client, Pair, Server, ingress, snapshot};
use crate::tls::{Certificate, StapleFault};

/// Just enough DER to write what a responder would.
mod base64_der {
    pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        let mut der = vec![tag];
        match length {
            0..=127 => der.push(length as u8),
            _ => der.extend([&[0x82][..], &length.to_be_bytes()].concat()),
        }
        der.extend(content);
        der
    }

    pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        element(0x30, &parts.concat())
    }
}

/// A response about a serial number: `status` is the tag of certStatus.
fn response(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
    let sha1 = sequence(&[element(6, &[0x2b, 0x0e, 3, 2, 0x1a])]);
    let id = sequence(&[sha1, element(4, &[1; 20]), element(4, &[2; 20]), element(2, serial)]);
    let time = |time: &str| element(0x18, time.as_bytes());
    let status = if status == 0xa1 { element(0xa1, &time("20200101000000Z")) } else { element(status, &[]) };
    let next = next_update.map(|at| element(0xa0, &time(at))).unwrap_or_default();
    let single = sequence(&[id, status, time("20200101000000Z"), next]);
    let data = sequence(&[element(0xa2, &element(4, &[3; 20])), time("20200101000000Z"), sequence(&[single])]);
    let algorithm = sequence(&[element(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]);
    let basic = sequence(&[data, algorithm, element(3, &[0, 1, 2, 3])]);
    let bytes = sequence(&[element(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]), element(4, &basic)]);
    sequence(&[element(10, &[0]), element(0xa0, &bytes)])
}

fn pair() -> Pair {
    Ca::new("ca").leaf_with(&["a.com"], |params| params.serial_number = Some(rcgen::SerialNumber::from(0x1234_u64)))
}

fn serial(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let der = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
}

#[test]
fn what_is_read_from_a_response() {
    let pair = pair();
    let serial = serial(&pair);
    let read = |response: &[u8]| {
        let (certificate, fault) =
            Certificate::read(pair.chain.as_bytes(), pair.key.as_bytes(), Some(response)).unwrap();
        assert_eq!(certificate.is_stapled(), fault.is_none());
        fault.map_or_else(|| Ok(certificate.stapled_until()), Err)
    };
    let good = response(&serial, 0x80, Some("20300101000000Z"));
    assert_eq!(read(&good), Ok(Some(1_893_456_000)));
    assert_eq!(read(&response(&serial, 0x80, None)), Ok(None));
    assert_eq!(read(&response(&serial, 0xa1, None)), Err(StapleFault::Revoked));
    assert_eq!(read(&response(&serial, 0x82, None)), Err(StapleFault::Unknown));
    assert_eq!(read(&response(&[1], 0x80, None)), Err(StapleFault::OtherCertificate));
    assert_eq!(read(&sequence(&[element(10, &[6])])), Err(StapleFault::NoSuccess));
    for broken in [&b""[..], b"\x30", b"\x30\x03\x0a\x01\x00", b"-----BEGIN"] {
        assert_eq!(read(broken), Err(StapleFault::Unreadable), "{broken:?}");
    }
    for cut in 0..good.len() {
        assert_eq!(read(&good[..cut]), Err(StapleFault::Unreadable), "cut at {cut}");
    }
}

#[test]
fn an_old_response_is_left_out() {
    let pair = pair();
    let response = response(&serial(&pair), 0x80, Some("20300101000000Z"));
    let (certificate, _) = Certificate::read(pair.chain.as_bytes(), pair.key.as_bytes(), Some(&response)).unwrap();
    let shown_at =
        |seconds| certificate.at(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))).ocsp.clone();
    assert_eq!(shown_at(1_893_455_999), Some(response));
    assert_eq!(shown_at(1_893_456_000), None);
}

#[tokio::test]
async fn it_is_shown_to_clients() {
    let pair = pair();
    let response = response(&serial(&pair), 0x80, Some("20990101000000Z"));
    let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\ndata: {{tls.crt: {}, tls.key: {}, tls.ocsp: {}}}\n",
        base64(pair.chain.as_bytes()),
        base64(pair.key.as_bytes()),
        base64(&response)
    );
    let mut server = Server::start(&snapshot(&(secret + &ingress("a", &[], "[{secretName: a}]", &["a.com"])))).await;
    for version in [&TLS12, &TLS13] {
        let client = Client::of_version(version);
        server.meet(&client, "a.com").await;
        assert_eq!(client.staple(), response);
    }
}
