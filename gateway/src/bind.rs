//! The sockets that the command line asks for: bound, or inherited from the process before this one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use rustix::io::Errno;
use tidegate_l4::listen::{Sockets, bind_tcp, complete_tcp};

use crate::{
    dns::DnsServer,
    takeover::{Inherited, Purpose, estate::FixedSockets},
};

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP, if anywhere.
    pub http: Option<SocketAddr>,
    /// HTTPS, if anywhere.
    pub https: Option<SocketAddr>,
    /// Health, metrics and configuration.
    pub admin: SocketAddr,
    /// Health and metrics alone, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// DNS, if anywhere.
    pub dns: Option<SocketAddr>,
}

impl Addresses {
    /// The same where there may be no IPv6: all addresses (`[::]`) are then those of IPv4.
    fn of_families(self, has_ipv6: bool) -> Self {
        let of_families = |addr: SocketAddr| match addr.ip() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !has_ipv6 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())),
            _ => addr,
        };
        let Self { http, https, admin, metrics, dns } = self;
        let [http, https, metrics, dns] = [http, https, metrics, dns].map(|addr| addr.map(of_families));
        Self { http, https, admin: of_families(admin), metrics, dns }
    }
}

/// Whether the kernel has IPv6.
fn has_ipv6() -> bool {
    let unsupported = Some(Errno::AFNOSUPPORT.raw_os_error());
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_or_else(|error| error.raw_os_error() != unsupported, |_| true)
}

/// All of them, ready to be served.
#[derive(Debug)]
pub struct Bound {
    /// One for each worker at least; all are to be served. None if HTTP is not served.
    pub http: Vec<TcpListener>,
    /// Where HTTP is served, if anywhere.
    pub http_addr: Option<SocketAddr>,
    /// As for `http`; none if HTTPS is not served.
    pub https: Vec<TcpListener>,
    /// Where HTTPS is served.
    pub https_addr: Option<SocketAddr>,
    /// The admin server's.
    pub admin: tokio::net::TcpListener,
    /// The metrics server's, if there is one.
    pub metrics: Option<tokio::net::TcpListener>,
    /// The DNS server.
    pub dns: Option<DnsServer>,
}

/// An address given on the command line that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: choose another address with {flag}: {error}")]
pub struct CannotListen {
    flag: &'static str,
    addr: SocketAddr,
    error: io::Error,
}

impl Bound {
    /// Sockets of so many workers that stay clear of what the command line asked for.
    pub(crate) fn beside(&self, workers: usize) -> Sockets {
        self.http_addr.into_iter().chain(self.https_addr).fold(Sockets::new(workers), Sockets::beside)
    }

    /// Binds what was not inherited.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub async fn new(at: Addresses, workers: usize, inherited: &mut Inherited) -> Result<Self, CannotListen> {
        let at = at.of_families(has_ipv6());
        let failed = |flag, addr| move |error| CannotListen { flag, addr, error };
        let mut serving = |addr: Option<SocketAddr>, purpose, flag| match addr {
            Some(addr) => {
                let (listeners, bound) = tcp(addr, workers, inherited, purpose).map_err(failed(flag, addr))?;
                Ok((listeners, Some(bound)))
            }
            None => Ok((Vec::new(), None)),
        };
        let (http, http_addr) = serving(at.http, Purpose::Http, "--http")?;
        let (https, https_addr) = serving(at.https, Purpose::Https, "--https")?;
        let admin = small(at.admin, inherited, Purpose::Admin).await.map_err(failed("--admin", at.admin))?;
        let metrics = match at.metrics {
            Some(addr) => Some(small(addr, inherited, Purpose::Metrics).await.map_err(failed("--metrics", addr))?),
            None => None,
        };
        let dns = match at.dns {
            Some(addr) => Some(dns(addr, inherited).await.map_err(failed("--dns", addr))?),
            None => None,
        };
        Ok(Self { http, http_addr, https, https_addr, admin, metrics, dns })
    }

    /// Keeps handles to all of them for a successor.
    ///
    /// # Errors
    /// If the system has no more file descriptors.
    pub fn keep(&self, fixed: &FixedSockets) -> io::Result<()> {
        use std::os::fd::AsFd;
        fixed.keep_tcp(Purpose::Http, &self.http)?;
        fixed.keep_tcp(Purpose::Https, &self.https)?;
        fixed.keep_tcp(Purpose::Admin, &[self.admin.as_fd().try_clone_to_owned()?.into()])?;
        if let Some(metrics) = &self.metrics {
            fixed.keep_tcp(Purpose::Metrics, &[metrics.as_fd().try_clone_to_owned()?.into()])?;
        }
        if let Some(dns) = &self.dns {
            let (udp, tcp) = dns.handles()?;
            fixed.keep_udp(Purpose::Dns, &udp)?;
            fixed.keep_tcp(Purpose::Dns, &[tcp])?;
        }
        Ok(())
    }
}

/// Listeners for all workers, and where they are.
fn tcp(
    addr: SocketAddr,
    workers: usize,
    inherited: &mut Inherited,
    purpose: Purpose,
) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let inherited = inherited.tcp(purpose, addr);
    let listeners =
        if inherited.is_empty() { bind_tcp(addr, workers)? } else { complete_tcp(addr, workers, inherited) };
    let bound = listeners.first().map_or(Ok(addr), TcpListener::local_addr)?;
    Ok((listeners, bound))
}

/// The listener of a server that has one.
async fn small(addr: SocketAddr, inherited: &mut Inherited, purpose: Purpose) -> io::Result<tokio::net::TcpListener> {
    match inherited.tcp(purpose, addr).pop() {
        Some(listener) => tokio::net::TcpListener::from_std(listener),
        None => tokio::net::TcpListener::bind(addr).await,
    }
}

async fn dns(addr: SocketAddr, inherited: &mut Inherited) -> io::Result<DnsServer> {
    match (inherited.udp(Purpose::Dns, addr), inherited.tcp(Purpose::Dns, addr).pop()) {
        (Some(udp), Some(tcp)) => DnsServer::adopt(udp, tcp),
        _ => DnsServer::bind(addr).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_those_that_the_kernel_knows() {
        let [any, one, v4]: [SocketAddr; 3] =
            ["[::]:80", "[::1]:80", "10.0.0.1:80"].map(|addr| addr.parse().expect("an address"));
        let at = Addresses { http: Some(any), https: Some(one), admin: any, metrics: None, dns: Some(v4) };
        let without = at.of_families(false);
        let all_v4: SocketAddr = "0.0.0.0:80".parse().expect("an address");
        assert_eq!((without.http, without.https), (Some(all_v4), Some(one)), "who names one address means it");
        assert_eq!((without.admin, without.dns), (all_v4, Some(v4)));
        assert_eq!(at.of_families(true).http, Some(any));
    }
}
