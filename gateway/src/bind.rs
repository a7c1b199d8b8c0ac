//! The sockets that the command line asks for: bound, or inherited from the process before this one.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

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
    /// DNS, if anywhere.
    pub dns: Option<SocketAddr>,
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
        let admin = match inherited.tcp(Purpose::Admin, at.admin).pop() {
            Some(listener) => tokio::net::TcpListener::from_std(listener),
            None => tokio::net::TcpListener::bind(at.admin).await,
        };
        let admin = admin.map_err(failed("--admin", at.admin))?;
        let dns = match at.dns {
            Some(addr) => Some(dns(addr, inherited).await.map_err(failed("--dns", addr))?),
            None => None,
        };
        Ok(Self { http, http_addr, https, https_addr, admin, dns })
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

async fn dns(addr: SocketAddr, inherited: &mut Inherited) -> io::Result<DnsServer> {
    match (inherited.udp(Purpose::Dns, addr), inherited.tcp(Purpose::Dns, addr).pop()) {
        (Some(udp), Some(tcp)) => DnsServer::adopt(udp, tcp),
        _ => DnsServer::bind(addr).await,
    }
}
