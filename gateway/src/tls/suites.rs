//! Cipher suites by OpenSSL's names, as annotations write them.

use rustls::{SupportedCipherSuite, crypto::aws_lc_rs::cipher_suite as suite};

/// OpenSSL's name of each suite of TLS 1.2 there is; older ones are broken or have no forward secrecy.
const NAMES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// OpenSSL's words for classes of suites that contain all of ours.
const CLASSES: [&str; 8] = ["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kEECDH", "ECDH+AESGCM", "EECDH+AESGCM"];

/// What a list of ciphers comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Suites {
    /// Those of TLS 1.2, in the order they were named. As in OpenSSL the list does not concern TLS 1.3, whose suites are all good.
    pub(crate) tls12: Vec<SupportedCipherSuite>,
    /// Names that are no suite of ours.
    pub(crate) unknown: Vec<String>,
}

impl Suites {
    /// Reads a list such as `ECDHE-RSA-AES128-GCM-SHA256:HIGH:!aNULL`.
    pub(crate) fn parse(list: &str) -> Self {
        let mut suites = Self::default();
        let mut banned = Vec::new();
        for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
            let named = |name: &str| NAMES.iter().find(|(of_suite, _)| *of_suite == name).map(|(_, suite)| *suite);
            if let Some(name) = word.strip_prefix(['!', '-']) {
                // What is banned and unknown is not there anyway.
                banned.extend(named(name));
            } else if let Some(suite) = named(word) {
                suites.add(suite);
            } else if CLASSES.contains(&word) {
                NAMES.iter().for_each(|(_, suite)| suites.add(*suite));
            } else if !word.starts_with(['+', '@']) && !word.starts_with("TLS_") {
                suites.unknown.push(word.to_owned());
            }
        }
        suites.tls12.retain(|suite| !banned.contains(suite));
        suites
    }

    /// OpenSSL's names of all there are.
    pub(crate) fn all() -> String {
        NAMES.map(|(name, _)| name).join(":")
    }

    fn add(&mut self, suite: SupportedCipherSuite) {
        if !self.tls12.contains(&suite) {
            self.tls12.push(suite);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> (Vec<&'static str>, Vec<String>) {
        let suites = Suites::parse(list);
        let name = |suite: &SupportedCipherSuite| NAMES.iter().find(|(_, s)| s == suite).unwrap().0;
        (suites.tls12.iter().map(name).collect(), suites.unknown)
    }

    #[test]
    fn openssl_lists() {
        let [rsa, chacha] = ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"];
        assert_eq!(parse(&format!("{rsa}:{chacha}:{rsa}")).0, [rsa, chacha]);
        assert_eq!(parse("HIGH:!aNULL:!MD5").0.len(), 6);
        assert_eq!(parse(&format!("DEFAULT:!{rsa}:@STRENGTH")).0.len(), 5);
        assert_eq!(
            parse("AES128-SHA DES-CBC3-SHA"),
            (vec![], vec!["AES128-SHA".to_owned(), "DES-CBC3-SHA".to_owned()])
        );
        assert_eq!(parse("TLS_AES_128_GCM_SHA256"), (vec![], vec![]));
        assert_eq!(parse(&Suites::all()).0.len(), 6);
    }
}
