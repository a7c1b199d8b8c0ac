//! What keeps somebody out, and is not supported yet; and what is refused.

use super::{Row, Scope, Support};

pub(super) const ROWS: &[Row] = &[
    guard("allowlist-source-range"),
    guard("auth-secret"),
    refused("auth-snippet"),
    guard("auth-type"),
    guard("auth-url"),
    refused("configuration-snippet"),
    guard("denylist-source-range"),
    guard("enable-global-auth"),
    guard("enable-modsecurity"),
    guard("enable-owasp-core-rules"),
    refused("modsecurity-snippet"),
    refused("server-snippet"),
    refused("stream-snippet"),
    guard("whitelist-source-range"),
];

const fn guard(name: &'static str) -> Row {
    Row {
        name,
        doc: "Not supported yet: every request is answered 503.",
        scope: Scope::Location,
        support: Support::Guard,
    }
}

const fn refused(name: &'static str) -> Row {
    let doc = "Refused by design: every request is answered 503.";
    Row { name, doc, scope: Scope::Location, support: Support::Refused }
}
