//! `docs/annotations.md`, made of the rows; and that each of them is shown in an example and tested over real sockets.

use std::{collections::BTreeMap, fmt::Write};

use super::{FAMILIES, OWN_PREFIX, Row, Scope, Support};
use crate::compile::service_annotations;

/// The first example of each annotation, by its full name.
type Examples = BTreeMap<String, String>;

const HEAD: &str = "\
# Annotations

This page is made of the rows in `gateway/src/compile/annotations/` and `gateway/src/compile/service_annotations.rs`; a test fails when it is
stale, and says how to make it anew. It fails, too, when a row has no example or no test over real sockets.

An annotation of an Ingress is about the paths of its own Ingress, about the whole **host** (of several Ingresses with one host, the oldest
that says anything counts), or about the **Service port** (the oldest Ingress that uses it counts). What is not listed has no effect, and is
reported by `tidegate check`. A value that cannot be read is reported, too, and has its default, unless it says *503*: then it closes
its Ingress.

Variables in a value (`upstream-hash-by`, `upstream-vhost`, redirects) are nginx's: `$scheme`, `$host`, `$best_http_host`, `$server_name`,
`$server_port`, `$request_uri`, `$escaped_request_uri`, `$uri`, `$document_uri`, `$args`, `$query_string`, `$is_args`, `$arg_NAME`, `$cookie_NAME`,
`$http_NAME`, `$content_type`, `$content_length`, `$request_method`, `$remote_addr`, `$the_real_ip`, `$binary_remote_addr`,
`$proxy_add_x_forwarded_for`, `$namespace`, `$ingress_name`, `$service_name`, `$service_port`. Any other is an error.
";

/// The page, and the names of the rows that have no example though they should.
fn page(examples: &Examples) -> (String, Vec<String>) {
    let (mut page, mut without) = (HEAD.to_owned(), Vec::new());
    let mut example = |name: String, needed: bool| match examples.get(&name) {
        Some(file) => format!("[{file}](../examples/{file})"),
        None => {
            without.extend(needed.then_some(name));
            String::new()
        }
    };
    for (title, prefix, rows) in FAMILIES {
        // Writing to a text cannot fail.
        let _ = write!(page, "\n## {title}\n\n`{prefix}…`\n\n| annotation | about | | example |\n|---|---|---|---|\n");
        for row in *rows {
            let example = example(format!("{prefix}{}", row.name), has_effect(row));
            let _ = writeln!(page, "| `{}` | {} | {} | {example} |", row.name, scope(row), doc(row));
        }
    }
    let _ = write!(page, "\n## Of a Service\n\n`{OWN_PREFIX}…`\n\n| annotation | | example |\n|---|---|---|\n");
    for (name, doc) in service_annotations::docs() {
        let example = example(format!("{OWN_PREFIX}{name}"), true);
        let _ = writeln!(page, "| `{name}` | {doc} | {example} |");
    }
    (page, without)
}

/// Whether it can be shown: what has no effect, or closes its Ingress, is a finding, and examples have none.
fn has_effect(row: &Row) -> bool {
    match row.support {
        Support::Yes(_) | Support::Closes(_) | Support::Accepted(_) => true,
        Support::Ignored | Support::Guard | Support::Refused => false,
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
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use tidegate_crd::Object;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn examples() -> Examples {
        let mut examples = Examples::new();
        let files = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
        files.sort();
        for path in files {
            for document in tidegate_crd::yaml::parse(&path, &fs::read_to_string(&path).unwrap()).documents {
                let annotations = match document.object {
                    Object::Ingress(ingress) => ingress.metadata.annotations,
                    Object::Service(service) => service.metadata.annotations,
                    _ => None,
                };
                for name in annotations.unwrap_or_default().into_keys() {
                    examples.entry(name).or_insert_with(|| path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
        examples
    }

    /// The text of every test over real sockets.
    fn tests() -> String {
        let (mut text, mut waiting) = (String::new(), vec![root().join("tests/it")]);
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|end| end == "rs") {
                text += &fs::read_to_string(path).unwrap();
            }
        }
        text
    }

    /// Set it to write the page instead of comparing.
    const WRITE: &str = "TIDEGATE_WRITE_DOCS";

    #[test]
    fn the_page_is_what_the_rows_say_and_each_has_an_example() {
        let path = root().join("docs/annotations.md");
        let (page, without) = page(&examples());
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, &page).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page,
            "docs/annotations.md is stale: run `{WRITE}=1 cargo test -p tidegate --lib annotations::docs`"
        );
        assert_eq!(without, [""; 0], "no manifest in examples/ shows them");
    }

    #[test]
    fn each_row_has_a_test_over_real_sockets() {
        let tests = tests();
        let rows =
            FAMILIES.iter().flat_map(|(_, prefix, rows)| rows.iter().map(move |row| format!("{prefix}{}", row.name)));
        let rows = rows.chain(service_annotations::docs().map(|(name, _)| format!("{OWN_PREFIX}{name}")));
        // In quotes, with the prefix or without; or as YAML.
        let is_named = |row: &String| {
            let short = row.rsplit('/').next().unwrap();
            [format!("\"{short}\""), format!("{row}\""), format!("{row}:")].iter().any(|name| tests.contains(name))
        };
        let without: Vec<String> = rows.filter(|row| !is_named(row)).collect();
        assert_eq!(without, [""; 0], "no test in tests/it has them");
    }
}
