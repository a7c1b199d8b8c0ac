//! The hosts and paths that everybody routes by: one, or the ten thousand of a large cluster.

use crate::http1;

/// The one host of the measurements with one route.
pub(crate) const HOST: &str = "bench.example.com";

/// The many hosts, and the paths of each.
pub(crate) const HOSTS: usize = 1_000;
pub(crate) const PATHS: usize = 10;

/// Requests of the mix over many routes, which repeats itself.
const MIX: usize = 2_000;

/// Seed of the mix: the same for everybody and in each run.
const SEED: u64 = 7;

/// One host and the paths under it that are served; each ends with a slash, and takes everything below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) prefixes: Vec<String>,
}

/// One host, all paths.
pub(crate) fn one() -> Vec<Host> {
    vec![Host { name: HOST.to_owned(), prefixes: vec!["/".to_owned()] }]
}

/// Many hosts with many paths each; the first host has also those that changes have added.
pub(crate) fn many(changes: usize) -> Vec<Host> {
    let host = |number: usize| Host {
        name: host_name(number),
        prefixes: (0..PATHS).map(|path| format!("/p{path}/")).collect(),
    };
    let mut hosts: Vec<Host> = (0..HOSTS).map(host).collect();
    if let Some(first) = hosts.first_mut() {
        first.prefixes.extend((1..=changes).map(added));
    }
    hosts
}

pub(crate) fn host_name(number: usize) -> String {
    format!("h{number}.example.com")
}

/// The path that change `number`, counted from 1, adds to the first host.
pub(crate) fn added(number: usize) -> String {
    format!("/new-{number}/")
}

/// Requests to many hosts and paths, in an order that no cache likes.
pub(crate) fn mix() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let one = |_| {
        let (host, path) = (random.usize(..HOSTS), random.usize(..PATHS));
        http1::request("GET", &host_name(host), &format!("/p{path}/x/y"), "", &[])
    };
    (0..MIX).map(one).collect()
}
