//! TLS on both sides: certificates for clients by SNI, and how pods are verified.
//!
//! `compile::tls` makes a [`TlsTable`] of Secrets and Ingresses; an [`Acceptor`] serves it. On the way of a connection:
//!
//! | step | file |
//! |---|---|
//! | the hello, and what comes instead of it; the handshake | `accept` |
//! | from the SNI to what is shown and asked; whether a request may use this connection (421) | `table` |
//! | the certificate, by kind of key; versions, suites, ALPN | `config`, `certificate`, `ocsp`, `suites` |
//! | session tickets | `tickets` |
//! | the client's certificate, and what pods hear of it | `client_auth`, `client_certificate` |
//! | TLS to pods | `backend` |
//! | every limit | [`limits`] |
//!
//! Where this differs from ingress-nginx, whose annotations it reads:
//!
//! - A resumed session's client certificate is judged anew, by the CAs and revocation lists of the moment. nginx believes the ticket.
//! - `auth-tls-match-cn` matches from the beginning of an attribute; with nginx `O=CN=admin` would do for `CN=admin`.
//! - A host that asks for client certificates asks for them without TLS, too ([`check_client`] with nothing shown): nginx lets plain
//!   requests pass if they are not redirected.
//! - A request for a host whose certificate the client was not shown is answered 421; nginx does that for client authentication only.
//! - Hosts that `spec.tls` lists and no rule names are shown their certificate if the Ingress serves any host.
//! - Of several Secrets that list a host one for each kind of key is used, not the first alone.
//! - `proxy-ssl-verify: on` needs `proxy-ssl-name`, which must be among the subject alternative names; a common name does not do.
//!   TLS 1.3 is spoken to pods, too. Without `proxy-ssl-verify` nothing is verified, as there, and that is a finding.
//! - The client's order of suites counts unless `ssl-prefer-server-ciphers: "true"`; all that are left are equally safe.
//! - `ssl-passthrough` needs no flag. Secrets of other namespaces are refused, as they are there since 1.12.
//! - An OCSP response comes with the Secret (key `tls.ocsp`, DER) and is shown until its `nextUpdate`; none is fetched.

mod accept;
mod backend;
mod certificate;
mod client_auth;
mod client_certificate;
mod config;
mod distinguished_name;
mod identity;
pub mod limits;
mod material;
mod names;
mod ocsp;
mod suites;
mod table;
mod ticket_bytes;
mod tickets;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use accept::{AcceptError, Accepted, Acceptor, Terminated};
pub use backend::BackendTls;
pub(crate) use backend::{BackendTlsSpec, BackendTrust};
pub(crate) use certificate::read_chain;
pub use certificate::{Certificate, CertificateFault, KeyType};
pub use client_auth::{ClientAuth, Demand, Refusal, SubjectPattern, check_client};
pub(crate) use client_auth::{ClientAuthOptions, Trust};
pub use client_certificate::{ClientCertificate, Verify, write_headers};
pub(crate) use config::ConfigSpec;
pub use config::{MinVersion, TlsConfig};
pub use identity::Identity;
pub use material::Material;
pub use names::Names;
pub use ocsp::StapleFault;
pub(crate) use suites::Suites;
pub use table::{CertificateRow, Serve, Source, TlsHost, TlsTable};
pub use ticket_bytes::TicketBytesError;
pub use tickets::TicketKeys;

/// The cryptography of this process: AWS-LC, nothing else.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}
