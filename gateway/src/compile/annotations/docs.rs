//! `docs/annotations.md`, made of the rows.

use std::fmt::Write;

use super::{FAMILIES, Family, OWN_PREFIX, PREFIX, Row, Scope, Support};

const HEAD: &str = "\
# Annotations of an Ingress

This page is made of the rows in `gateway/src/compile/annotations/`; a test fails when it is stale, and says how to make it anew.

An annotation is about the paths of its own Ingress, about the whole **host** (of several Ingresses with one host, the oldest that says
anything counts), or about the **Service port** (the oldest Ingress that uses it counts). What is not listed has no effect, and is
reported by `tidegate check`. A value that cannot be read is reported, too, and has its default, unless it says *503*: then it closes
its Ingress.

Variables in a value (`upstream-hash-by`, `upstream-vhost`, redirects) are nginx's: `$scheme`, `$host`, `$best_http_host`, `$server_name`,
`$server_port`, `$request_uri`, `$escaped_request_uri`, `$uri`, `$document_uri`, `$args`, `$query_string`, `$is_args`, `$arg_NAME`, `$cookie_NAME`,
`$http_NAME`, `$content_type`, `$content_length`, `$request_method`, `$remote_addr`, `$the_real_ip`, `$binary_remote_addr`,
`$proxy_add_x_forwarded_for`, `$namespace`, `$ingress_name`, `$service_name`, `$service_port`. Any other is an error.
";

/// The page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, prefix, rows) in FAMILIES {
        family(&mut page, &(title, prefix, rows));
    }
    page
}

fn family(page: &mut String, (title, prefix, rows): &Family) {
    // Writing to a text cannot fail.
    let _ = write!(page, "\n## {title}\n\n`{prefix}…`\n\n| annotation | about | |\n|---|---|---|\n");
    debug_assert!([PREFIX, OWN_PREFIX].contains(prefix));
    for row in *rows {
        let _ = writeln!(page, "| `{}` | {} | {} |", row.name, scope(row), doc(row));
    }
}

fn scope(row: &Row) -> &'static str {
    match row.scope {
        Scope::Location => "paths",
        Scope::Host => "host",
        Scope::Upstream => "Service port",
    }
}

fn doc(row: &Row) -> String {
    match row.support {
        Support::Yes(_) | Support::Guard | Support::Refused => row.doc.to_owned(),
        Support::Closes(_) => format!("{} *A value that cannot be read: 503.*", row.doc),
        Support::Accepted(_) => format!("Accepted. {}", row.doc),
        Support::Ignored => format!("No effect. {}", row.doc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set it to write the page instead of comparing.
    const WRITE: &str = "TIDEGATE_WRITE_DOCS";

    #[test]
    fn the_page_is_what_the_rows_say() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/annotations.md");
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/annotations.md is stale: run `{WRITE}=1 cargo test -p tidegate --lib annotations::docs`"
        );
    }
}
