//! The `--listen` syntax of `tidegate pod`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// One address to answer on, and what to speak there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// HTTP over TCP, written `ADDR` or `http://ADDR`.
    Http(SocketAddr),
    /// Datagrams, written `udp://ADDR`.
    Udp(SocketAddr),
}

/// What was given to `--listen` is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen on: write IP:PORT or http://IP:PORT for HTTP, udp://IP:PORT for datagrams")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let parsed = match text.split_once("://") {
            None => text.parse().map(Self::Http),
            Some(("http", address)) => address.parse().map(Self::Http),
            Some(("udp", address)) => address.parse().map(Self::Udp),
            Some(_) => return Err(ListenError(text.to_owned())),
        };
        parsed.map_err(|_| ListenError(text.to_owned()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_alone_means_http() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!("127.0.0.1:80".parse(), Ok(Listen::Http(address)));
        assert_eq!("http://127.0.0.1:80".parse(), Ok(Listen::Http(address)));
        assert_eq!("udp://127.0.0.1:80".parse(), Ok(Listen::Udp(address)));
        assert_eq!("udp://[::1]:53".parse::<Listen>().unwrap().to_string(), "udp://[::1]:53");
    }

    #[test]
    fn what_is_no_address_is_named_in_the_error() {
        for wrong in
            ["", "80", ":80", "127.0.0.1", "localhost:80", "tcp://127.0.0.1:80", "http://127.0.0.1:80/", "::1:80:"]
        {
            let error = wrong.parse::<Listen>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}` is no address")), "{error}");
        }
    }
}
