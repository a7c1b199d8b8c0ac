//! What Tidegate's account may do in a cluster, and what is missing without it: the table in `docs/kubernetes.md`.

use std::{collections::BTreeSet, fs};

use crate::image::root;

/// A row of the table of permissions in `docs/kubernetes.md`.
#[derive(Clone, Debug)]
pub struct Permission {
    /// What of.
    pub resource: String,
    /// What may be done.
    pub verbs: BTreeSet<String>,
    /// Whether a Tidegate becomes ready that starts without it.
    pub is_ready_without: bool,
    /// What is missing without it.
    pub without: String,
}

/// The whole table.
///
/// # Panics
/// If it is not there, or looks otherwise.
pub fn documented() -> Vec<Permission> {
    let page = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let table = page.split("## Permissions").nth(1).expect("the chapter").split("\n## ").next().unwrap_or_default();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [resource, verbs, ready, without] = cells[..] else { panic!("{line} has no four cells") };
        Some(Permission {
            resource: resource.trim_end_matches('`').to_owned(),
            verbs: verbs.split(", ").map(str::to_owned).collect(),
            is_ready_without: ready == "yes",
            without: without.to_owned(),
        })
    };
    let rows: Vec<Permission> = table.lines().filter_map(row).collect();
    assert!(rows.len() > 10, "the table has moved: {rows:?}");
    rows
}
