//! Somebody who looks on while connections and flows begin and end. Nobody does by default, and then it costs a branch.

use std::{cell::Cell, fmt, net::SocketAddr, rc::Rc};

use crate::{
    endpoints::{EndpointIndex, EndpointSet},
    model::{Balance, Endpoint, ServicePortName},
    table::{Frontend, FrontendKind},
};

/// Hears of connections and flows, on the thread that serves them. It must not wait for anything.
pub trait Watch: fmt::Debug {
    /// Whether the next one is of interest: asked for each, so it must cost next to nothing.
    fn is_on(&self) -> bool;

    /// An endpoint has been connected (of a flow: chosen). The number is given back when it ends; none if its end is of no interest.
    fn began(&self, began: &Began<'_>) -> Option<u64>;

    /// The one with this number ended after so many bytes from its client and to it.
    fn ended(&self, number: u64, bytes_in: u64, bytes_out: u64);

    /// A client was turned away.
    fn refused(&self, refused: &Refused<'_>);
}

/// A connection or flow that begins.
#[derive(Clone, Copy, Debug)]
pub struct Began<'a> {
    /// The Service port.
    pub service: &'a ServicePortName,
    /// Where the client connected to.
    pub frontend: Frontend,
    /// What that is.
    pub kind: FrontendKind,
    /// The client.
    pub client: SocketAddr,
    /// Our end of the connection to the endpoint.
    pub upstream: Option<SocketAddr>,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// Why this one.
    pub reason: Reason,
}

/// A client that was turned away.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The Service port.
    pub service: &'a ServicePortName,
    /// Where the client connected to.
    pub frontend: Frontend,
    /// The client.
    pub client: SocketAddr,
    /// Why.
    pub why: WhyRefused,
}

/// Why a client was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyRefused {
    /// No endpoint may be used, or the client is of no allowed source range.
    NobodyToServe,
    /// As many connections are open or waiting as the Service allows.
    Full,
    /// No candidate could be connected.
    NotReached,
    /// This machine has no socket left for it, or the like.
    OurTrouble,
}

/// Why an endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no other.
    Only,
    /// ClientIP affinity: this client was there before.
    Affinity,
    /// ClientIP affinity, and no endpoint that may be used is remembered: by a hash of the client's address.
    NewClient,
    /// By a hash of the client's address.
    Hash,
    /// By the Service's rule of choice.
    Rule(Balance),
    /// The one chosen before could not be reached.
    NotReached,
}

impl Reason {
    /// Why `chosen` is the endpoint of a client that affinity remembered at `remembered`. `first`: no other was tried before.
    pub(crate) fn of(
        set: &EndpointSet,
        remembered: Option<EndpointIndex>,
        chosen: EndpointIndex,
        is_first: bool,
    ) -> Self {
        match (set.affinity_timeout(), set.balance()) {
            _ if set.len() == 1 => Self::Only,
            (Some(_), _) if remembered == Some(chosen) => Self::Affinity,
            _ if !is_first => Self::NotReached,
            (Some(_), _) => Self::NewClient,
            (None, Balance::Hash) => Self::Hash,
            (None, rule) => Self::Rule(rule),
        }
    }
}

/// Receipt for one that is watched; dropping it tells of its end.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: Rc<dyn Watch>,
    number: u64,
    bytes: Cell<(u64, u64)>,
}

impl Watched {
    /// Tells of one that begins, if anybody wants to hear of it. `began` is called only then.
    pub(crate) fn tell<'a>(watch: Option<&Rc<dyn Watch>>, began: impl FnOnce() -> Began<'a>) -> Option<Box<Self>> {
        let watch = watch.filter(|watch| watch.is_on())?;
        let number = watch.began(&began())?;
        Some(Box::new(Self { watch: watch.clone(), number, bytes: Cell::default() }))
    }

    /// So many more bytes came from the client and went to it.
    pub(crate) fn count(&self, bytes_in: u64, bytes_out: u64) {
        let (all_in, all_out) = self.bytes.get();
        self.bytes.set((all_in + bytes_in, all_out + bytes_out));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (bytes_in, bytes_out) = self.bytes.get();
        self.watch.ended(self.number, bytes_in, bytes_out);
    }
}
