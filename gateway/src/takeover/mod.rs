//! Binary upgrade in place: a new process takes over the sockets of the one that runs, and only then does that one leave.
//!
//! ```text
//! new                                                 old
//!  │── Hello ─────────────────────────────────────────▶│  opens and closes no socket any more
//!  │◀──────────────────────────────────────── Welcome ──│
//!  │◀──────── Sockets, each with its name … TicketKeys ──│
//!  │◀───────────────────────────────────────────── End ──│
//!  │  its configuration is live, every worker accepts    │  still accepts
//!  │── Leave ─────────────────────────────────────────▶│  receives no datagrams any more
//!  │◀──────── Flows, each with its socket … Affinity ──│
//!  │◀───────────────────────────────────────────── End ──│  drains and exits
//!  │  receives datagrams                                 │
//! ```
//!
//! (Before each message of the old one but the first of each part, the new one says Next: one at a time.)
//!
//! Both hold the same listening sockets meanwhile, so a client in their queues is taken by one or the other, and closing them
//! in the old process resets nobody. Datagrams are received by one of the two only, because the other would not know the flow;
//! between the two they wait in the sockets. If anything goes wrong before `Leave`, the old process goes on as if nothing had
//! been.
//!
//! [`message`] is what they say, without I/O; `wire` carries it with the sockets; [`server`] is the old one's side, [`client`]
//! the new one's; [`estate`] is where the old one's sockets are.

pub mod client;
pub mod estate;
pub mod message;
pub mod server;
mod wire;

pub use self::{
    client::{Inherited, Predecessor},
    estate::{Estate, Freeze},
    message::{Purpose, SocketName},
    wire::WireError,
};

use std::time::Duration;

/// For one message to come or go. Both sides are on one machine and answer at once, unless they are stuck.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// For the new process to become ready, once it has the sockets: reading the manifests of a large cluster takes seconds.
/// Afterwards the old one takes it for failed and goes on.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
