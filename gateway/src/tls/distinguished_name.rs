//! Distinguished names as text, the way nginx writes `$ssl_client_s_dn`: RFC 4514 (formerly 2253), last element first, with
//! OpenSSL's short names, and everything that is not ASCII escaped, so that it fits into a field of a request.

use std::fmt::Write;

use x509_parser::{
    asn1_rs::{Any, Tag},
    objects::{oid_registry, oid2abbrev},
    x509::{AttributeTypeAndValue, X509Name},
};

/// `CN=a,O=b\, c,C=DE`.
pub(crate) fn to_text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let elements: Vec<_> = name.iter_rdn().collect();
    for (i, element) in elements.into_iter().rev().enumerate() {
        if i > 0 {
            text.push(',');
        }
        for (j, attribute) in element.iter().enumerate() {
            if j > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type();
    match oid2abbrev(oid, oid_registry()) {
        // OpenSSL's short names of three that the registry knows by others.
        Ok("Email") => text.push_str("emailAddress"),
        Ok("surName") => text.push_str("SN"),
        Ok("givenName") => text.push_str("GN"),
        Ok(abbreviation) => text.push_str(abbreviation),
        Err(_) => text.push_str(&oid.to_id_string()),
    }
    text.push('=');
    match value(attribute.attr_value()) {
        Some(value) => escape(text, &value),
        None => {
            // RFC 4514 2.4: what is no string is the hexadecimal form of its encoding.
            text.push('#');
            for byte in attribute.as_slice() {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
}

fn value(any: &Any<'_>) -> Option<String> {
    match any.tag() {
        Tag::BmpString => {
            let units: Vec<u16> = any.data.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
            String::from_utf16(&units).ok()
        }
        // Mostly Latin-1, whatever T.61 says.
        Tag::T61String => Some(any.data.iter().map(|&byte| char::from(byte)).collect()),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(any.data).ok().map(str::to_owned)
        }
        _ => None,
    }
}

/// RFC 4514 2.4.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' | b' ' if i == 0 => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if i == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use x509_parser::{certificate::X509Certificate, prelude::FromDer};

    use super::*;

    fn text(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        to_text(X509Certificate::from_der(certificate.der()).unwrap().1.subject())
    }

    #[test]
    fn names_read_as_in_nginx() {
        let [country, org, unit, name] =
            [DnType::CountryName, DnType::OrganizationName, DnType::OrganizationalUnitName, DnType::CommonName];
        assert_eq!(text(&[(country, "DE"), (org.clone(), "A, B"), (name.clone(), "alice")]), "CN=alice,O=A\\, B,C=DE");
        assert_eq!(text(&[(name.clone(), "#1 ü \n ")]), "CN=\\#1 \\C3\\BC \\0A\\ ");
        assert_eq!(text(&[(unit, "x"), (name, "CN=admin,O=root")]), "CN=CN=admin\\,O=root,OU=x");
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
        let odd = DnType::CustomDnType(vec![1, 2, 3, 4]);
        assert_eq!(
            text(&[(email, "a@b"), (serial, "7"), (odd, "x"), (org, "o")]),
            "O=o,1.2.3.4=x,serialNumber=7,emailAddress=a@b"
        );
        assert_eq!(text(&[]), "");
    }
}
