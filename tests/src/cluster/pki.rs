//! The CA of a cluster, the certificates of its programs, and kubeconfigs.

use std::{fs, io, net::IpAddr, path::PathBuf};

use data_encoding::BASE64;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

use super::{Failure, directory::Directory};
use crate::certificates::{Ca, Pair};

/// A cluster's CA, which is that of its servers, of its clients and of the front proxy.
#[derive(Debug)]
pub struct Pki {
    ca: Ca,
    directory: Directory,
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user.
    pub name: &'a str,
    /// The group, or none.
    pub group: Option<&'a str>,
}

impl Pki {
    /// A new one. Writes `ca.crt`, and the keys of service accounts' tokens to `sa.key` and `sa.pub`.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn create(directory: &Directory) -> Result<Self, Failure> {
        let ca = Ca::new("tidegate-cluster");
        fs::write(directory.file("ca.crt"), &ca.pem)?;
        let accounts = KeyPair::generate()?;
        fs::write(directory.file("sa.key"), accounts.serialize_pem())?;
        fs::write(directory.file("sa.pub"), accounts.public_key_pem())?;
        Ok(Self { ca, directory: directory.clone() })
    }

    /// Writes a certificate for servers and clients to `FILE.crt`, its key to `FILE.key`, and says where they are.
    ///
    /// # Errors
    /// If the names are none, or the directory cannot be written.
    pub fn write(
        &self,
        file: &str,
        subject: Subject<'_>,
        names: &[&str],
        ips: &[IpAddr],
    ) -> Result<[PathBuf; 2], Failure> {
        let pair = self.issue(subject, names, ips)?;
        let paths = ["crt", "key"].map(|suffix| self.directory.file(&format!("{file}.{suffix}")));
        fs::write(&paths[0], pair.chain)?;
        fs::write(&paths[1], pair.key)?;
        Ok(paths)
    }

    /// Writes a kubeconfig for somebody to `FILE.kubeconfig`, and says where it is.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn kubeconfig(&self, file: &str, server: &str, subject: Subject<'_>) -> Result<PathBuf, Failure> {
        let pair = self.issue(subject, &[], &[])?;
        let user = json!({
            "client-certificate-data": BASE64.encode(pair.chain.as_bytes()),
            "client-key-data": BASE64.encode(pair.key.as_bytes()),
        });
        let path = self.directory.file(&format!("{file}.kubeconfig"));
        fs::write(&path, kubeconfig(server, &self.ca.pem, &user))?;
        Ok(path)
    }

    fn issue(&self, subject: Subject<'_>, names: &[&str], ips: &[IpAddr]) -> Result<Pair, Failure> {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(ips.iter().map(|&ip| SanType::IpAddress(ip)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.name);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(self.ca.issue(&params))
    }
}

/// A kubeconfig in JSON, which is YAML too.
fn kubeconfig(server: &str, ca: &str, user: &serde_json::Value) -> String {
    let cluster = json!({"server": server, "certificate-authority-data": BASE64.encode(ca.as_bytes())});
    let context = json!({"cluster": "tidegate", "user": "tidegate"});
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tidegate", "cluster": cluster}],
        "users": [{"name": "tidegate", "user": user}],
        "contexts": [{"name": "tidegate", "context": context}],
        "current-context": "tidegate",
    })
    .to_string()
}

/// The text of a kubeconfig for whoever has this token.
///
/// # Errors
/// If the directory has no CA.
pub fn token_kubeconfig(directory: &Directory, server: &str, token: &str) -> io::Result<String> {
    let ca = fs::read_to_string(directory.file("ca.crt"))?;
    Ok(kubeconfig(server, &ca, &json!({"token": token})))
}
