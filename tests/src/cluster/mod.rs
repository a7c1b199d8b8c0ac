//! A real Kubernetes cluster for tests, and for people: etcd, API server, controller manager and scheduler on a loopback address
//! of their own ([`ControlPlane`]), and the same with two nodes in network namespaces ([`Cluster`]). `tests/src/bin/cluster.rs` is how
//! to have one by hand.
//!
//! A cluster belongs to a supervisor, which is a process of its own (`cluster supervise`). It starts everything, answers on
//! a socket, and when its owner ends, however that happens, it ends everything and removes what was written. Should it be killed
//! itself, every process ends with it, and what is left of the rest goes with the next start of any cluster, or with `cluster down`.

pub mod audit;
pub mod control_plane;
pub mod directory;
mod images;
pub mod machine;
pub mod nodes;
pub mod owner;
pub mod pki;
pub mod programs;
pub mod supervisor;
pub mod tidegate;

use std::error::Error;

pub use control_plane::{ControlPlane, Namespace};
pub use images::AGNHOST;
pub use nodes::{Cluster, Disruptive, Shared};

/// Why something about a cluster did not work, for people.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Which of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// No nodes; takes seconds, and no root.
    ControlPlane,
    /// With two nodes; takes root, and more of Debian's packages.
    TwoNodes,
}
