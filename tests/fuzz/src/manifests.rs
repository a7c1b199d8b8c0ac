//! Manifests to a configuration, as `tidegate check` makes it.

use std::path::Path;

use tidegate::compile::{
    Compiled, allocate::Allocations, compile, finding::Finding, objects::Objects, settings::Settings,
};
use tidegate_crd::{Document, yaml};

/// The objects in some text, and what is wrong with them.
pub fn read(text: &str) -> (Vec<Document>, Vec<Finding>) {
    let parsed = yaml::parse(Path::new("fuzz.yaml"), text);
    (parsed.documents, parsed.problems.into_iter().map(Finding::from).collect())
}

/// These objects, in this order.
pub fn objects(documents: impl IntoIterator<Item = Document>) -> Objects {
    let mut objects = Objects::default();
    for document in documents {
        objects.apply(document);
    }
    objects
}

/// What they come to.
pub fn compiled(objects: &Objects, problems: &[Finding], previous: Option<&Compiled>) -> Compiled {
    thread_local! {
        static SETTINGS: Settings = Settings::default();
    }
    SETTINGS.with(|settings| compile(objects, settings, problems, &Allocations::default(), previous))
}

/// A configuration that is known to be good.
pub fn good(text: &str) -> Compiled {
    let (documents, problems) = read(text);
    assert_eq!(problems, []);
    let compiled = compiled(&objects(documents), &[], None);
    assert!(compiled.snapshot.findings.is_empty(), "{:?}", compiled.snapshot.findings);
    compiled
}
