//! `TlsTable`: from a name to how its connections are secured. Immutable; a part of the snapshot.

use std::sync::Arc;

use ahash::AHashMap;
use tidegate_l4::model::ServicePortName;

use super::{Certificate, ClientAuth, ConfigSpec, Material, TlsConfig};
use crate::route::{HostName, MAX_HOST_BYTES, Owner, normalise};

/// Every name that is served with TLS in a way of its own.
#[derive(Debug)]
pub struct TlsTable {
    exact: AHashMap<Arc<str>, Arc<TlsHost>>,
    wildcard: AHashMap<Arc<str>, Arc<TlsHost>>,
    /// For a name that is not there, and for clients that name none.
    default: Arc<TlsHost>,
    certificates: Vec<CertificateRow>,
    has_client_auth: bool,
}

/// How one host is served.
#[derive(Debug)]
pub struct TlsHost {
    /// The host.
    pub name: HostName,
    /// What is done with its connections.
    pub serve: Serve,
    /// What it asks of its clients, whichever way they come.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// Where its certificate comes from, for people.
    pub source: Source,
    /// Whether an Ingress gives it a TLS section, be its certificate good or not: then plain requests are sent to `https`.
    pub has_section: bool,
}

/// What is done with the connections to a host.
#[derive(Clone, Debug)]
pub enum Serve {
    /// TLS ends here.
    Terminate(Arc<TlsConfig>),
    /// The bytes go to this service port as they come (`ssl-passthrough`).
    Passthrough(ServicePortName),
}

/// Where a host's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Of Secrets that an Ingress names.
    Ingress {
        /// The Ingress.
        ingress: Owner,
        /// The Secrets.
        secrets: Box<[Owner]>,
        /// Whether `spec.tls` lists the host, or the certificate was found to fit.
        listed: bool,
    },
    /// The certificate of `--default-ssl-certificate`.
    Default {
        /// Its Secret.
        secret: Owner,
        /// Why it is shown.
        why: Arc<str>,
    },
    /// The stand-in.
    StandIn {
        /// Why it is shown.
        why: Arc<str>,
    },
}

/// A certificate in use, for metrics and people.
#[derive(Clone, Debug)]
pub struct CertificateRow {
    /// Its Secret.
    pub secret: Owner,
    /// The hosts it is shown for, `*` for all that have none.
    pub hosts: Vec<Arc<str>>,
    /// The certificate.
    pub certificate: Arc<Certificate>,
}

/// A stand-in for everybody.
impl Default for TlsTable {
    fn default() -> Self {
        let material = Material::of_this_process();
        let certificates = material.stand_in().into_iter().collect();
        let config = TlsConfig::new(ConfigSpec { certificates, ..ConfigSpec::default() }, &material);
        let default = TlsHost {
            name: HostName::Any,
            serve: Serve::Terminate(Arc::new(config)),
            client_auth: None,
            source: Source::StandIn { why: "nothing is configured".into() },
            has_section: false,
        };
        Self::new(default, Vec::new(), Vec::new())
    }
}

impl TlsTable {
    /// A table of these hosts; the first of two with one name counts.
    pub(crate) fn new(default: TlsHost, hosts: Vec<TlsHost>, certificates: Vec<CertificateRow>) -> Self {
        let mut table = Self {
            exact: AHashMap::new(),
            wildcard: AHashMap::new(),
            has_client_auth: default.client_auth.is_some(),
            default: Arc::new(default),
            certificates,
        };
        for host in hosts {
            table.has_client_auth |= host.client_auth.is_some();
            let host = Arc::new(host);
            match &host.name {
                HostName::Exact(name) => table.exact.entry(name.clone()).or_insert_with(|| host.clone()),
                HostName::Wildcard(suffix) => table.wildcard.entry(suffix.clone()).or_insert_with(|| host.clone()),
                HostName::Any => continue,
            };
        }
        table
    }

    /// How `host` is served: its SNI, or its `Host` field (any case, perhaps with a port or a final dot). Exact, then a wildcard
    /// of one label, then the default.
    pub fn find(&self, host: &str) -> &Arc<TlsHost> {
        self.find_name(normalise(host, &mut [0; MAX_HOST_BYTES]))
    }

    /// How a client is served that names no host.
    pub fn default_host(&self) -> &Arc<TlsHost> {
        &self.default
    }

    /// Whether a request for `host` may be served on a connection that was secured with `connection` after the client asked
    /// for `sni`. If not, the answer is 421 (Misdirected Request, RFC 9110 15.5.20), and the client comes back on a new connection.
    ///
    /// Two things are asked. What a client had to go through (its certificate above all) must be what the host demands *now*:
    /// otherwise a client could pass a host's client authentication by connecting to another one, or on a connection from before the
    /// authentication was configured. And the certificate it saw must be good for the host, if it asked for one by name: then
    /// browsers may use one HTTP/2 connection for several hosts (RFC 9113 9.1.1), and nobody else is served what belongs elsewhere.
    /// A client that sent no SNI looked at no name, so it may ask for any host that asks nothing of it.
    pub fn serves(&self, connection: &TlsConfig, sni: Option<&str>, host: &str) -> bool {
        let (mut buffer, mut other) = ([0; MAX_HOST_BYTES], [0; MAX_HOST_BYTES]);
        let host = normalise(host, &mut buffer);
        let Serve::Terminate(wanted) = &self.find_name(host).serve else { return false };
        if connection.identity() == wanted.identity() {
            return true;
        }
        let Some(sni) = sni else { return connection.is_as_secure_as(wanted) };
        let sni = normalise(sni, &mut other);
        let is_named = || host.is_some_and(|host| sni == Some(host) || connection.covers(host));
        connection.is_as_secure_as(wanted) && is_named()
    }

    /// What `host` asks of its clients. To be asked for requests without TLS, too: no way in may go round it.
    pub fn client_auth(&self, host: &str) -> Option<&Arc<ClientAuth>> {
        if !self.has_client_auth {
            return None;
        }
        self.find(host).client_auth.as_ref()
    }

    /// Whether a certificate is configured for `host`, by a TLS section of its own or of its wildcard: then plain requests are
    /// sent to `https`, be the certificate good or not (ingress-nginx, `ssl-redirect`).
    pub fn has_section(&self, host: &str) -> bool {
        self.find(host).has_section
    }

    /// Every host with an entry of its own, and the default; in no order.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<TlsHost>> {
        self.exact.values().chain(self.wildcard.values()).chain([&self.default])
    }

    /// Every certificate of a Secret that is shown for some host.
    pub fn certificates(&self) -> &[CertificateRow] {
        &self.certificates
    }

    /// `None` is what is longer than any name.
    fn find_name(&self, name: Option<&str>) -> &Arc<TlsHost> {
        let Some(name) = name else { return &self.default };
        let by_wildcard = || {
            let (label, suffix) = name.split_once('.')?;
            self.wildcard.get(suffix).filter(|_| !label.is_empty())
        };
        self.exact.get(name).or_else(by_wildcard).unwrap_or(&self.default)
    }
}
