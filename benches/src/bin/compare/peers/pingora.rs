//! The proxy made with pingora for this comparison: `benches/compare/pingora`.

use std::{fmt::Write, process::Command};

use super::{File, Setup};
use crate::routes::Host;

pub(super) fn files(setup: &Setup, hosts: &[Host]) -> Vec<File> {
    let mut text = String::new();
    for host in hosts {
        for prefix in &host.prefixes {
            let _ = writeln!(text, "{} {prefix}", host.name);
        }
    }
    vec![File { path: setup.directory.join("routes"), text }]
}

pub(super) fn start(command: &mut Command, setup: &Setup) {
    command.args([setup.addr.to_string(), setup.https.to_string()]);
    command.args([&setup.certificate.certificate, &setup.certificate.key]);
    command.args([setup.backend.to_string(), setup.workers.to_string()]).arg(setup.directory.join("routes"));
}
