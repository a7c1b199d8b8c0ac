//! What TLS needs that only chance can give: the keys of session tickets, and the key of the stand-in certificate. Made once when
//! the process starts.

use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

use super::{certificate::Certificate, tickets::TicketKeys};
use crate::takeover::message::Secret;

/// What makes connections of one process differ from those of another.
#[derive(Debug)]
pub struct Material {
    /// The keys of session tickets, shared by all workers; without them no session is resumed.
    pub(crate) ticket_keys: Option<Arc<TicketKeys>>,
    /// Shown where no certificate is configured; without it such handshakes are refused.
    stand_in: Option<Arc<Certificate>>,
}

impl Material {
    /// That of this process, made when it is first asked for.
    pub fn of_this_process() -> Arc<Self> {
        static MATERIAL: LazyLock<Arc<Material>> = LazyLock::new(|| Arc::new(Material::new()));
        MATERIAL.clone()
    }

    /// Of a process of its own, as far as TLS clients can tell: for tests of several in one.
    pub fn fresh() -> Arc<Self> {
        Arc::new(Self::new())
    }

    /// The keys of session tickets for a successor, see [`TicketKeys::hand_over`]; empty if there are none.
    pub(crate) fn hand_over(&self) -> Secret {
        Secret(self.ticket_keys.as_ref().map(|keys| keys.hand_over()).unwrap_or_default())
    }

    /// Goes on with the keys of session tickets of the process before this one. Those that are not understood, or not there,
    /// cost clients a full handshake.
    pub(crate) fn inherit(&self, handed_over: &Secret) {
        if let Some(keys) = &self.ticket_keys
            && let Err(error) = keys.inherit(&handed_over.0)
        {
            tracing::warn!(
                "TLS sessions of the process before this one are not resumed, as the keys of its tickets are not understood: {error}"
            );
        }
    }

    /// Shown where no certificate is configured.
    pub(crate) fn stand_in(&self) -> Option<Arc<Certificate>> {
        self.stand_in.clone()
    }

    /// What cannot be made for want of randomness is left out, and the log says so.
    fn new() -> Self {
        let ticket_keys = TicketKeys::of_this_process().map(Arc::new);
        let ticket_keys = ticket_keys.inspect_err(|error| tracing::error!("TLS sessions cannot be resumed: {error}"));
        let stand_in = stand_in().map(Arc::new);
        let stand_in = stand_in.inspect_err(|error| tracing::error!("there is no stand-in certificate: {error}"));
        Self { ticket_keys: ticket_keys.ok(), stand_in: stand_in.ok() }
    }
}

/// A certificate that nobody trusts, and whose subject says why it is seen: people look there when their browser complains.
fn stand_in() -> Result<Certificate, String> {
    let mut params = CertificateParams::new(vec!["stand-in.tidegate.invalid".to_owned()]).map_err(|e| e.to_string())?;
    let mut name = DistinguishedName::new();
    // Two attributes, as neither may be longer than 64 characters (RFC 5280 appendix A.1).
    name.push(DnType::OrganizationName, "Tidegate stand-in certificate");
    name.push(DnType::CommonName, "no certificate is configured for this host");
    params.distinguished_name = name;
    // No clock: it is not to be trusted at any time.
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2050, 1, 1));
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let certificate = params.self_signed(&key).map_err(|e| e.to_string())?;
    let read = Certificate::read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes(), None);
    read.map(|(certificate, _)| certificate).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_says_what_it_is() {
        let stand_in = Material::of_this_process().stand_in.clone().unwrap();
        assert_eq!(&*stand_in.subject, "CN=no certificate is configured for this host,O=Tidegate stand-in certificate");
        assert_eq!(stand_in.names.iter().collect::<Vec<_>>(), ["stand-in.tidegate.invalid"]);
    }
}
