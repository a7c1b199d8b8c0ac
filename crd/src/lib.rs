//! The Kubernetes objects Tidegate reads, and where in a file they stand.
//!
//! This crate is the surface a user writes against: wire types and the reader of manifests. It gives no field a meaning
//! and no field a default; it knows no cluster, no socket and no clock. Whoever wants behaviour compiles these objects
//! into something else.
//!
//! | question | answer |
//! |---|---|
//! | which kinds are understood | [`object`] |
//! | the types of Services, Pods, Secrets… | [`core`] |
//! | the types of Ingresses | [`ingress`] |
//! | Tidegate's own kinds, and the CustomResourceDefinitions made of them | [`policy`] |
//! | a file becomes objects and problems | [`yaml::parse`] |
//! | the line of a field | [`Origin::line_of`] |
//! | which apiVersions are accepted, which are ignored | `identify.rs` |
//! | limits on what a file may hold | `tree.rs`, `yaml.rs` |
//!
//! ```
//! use std::path::Path;
//!
//! let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: kubia\nspec:\n  ports:\n  - port: 80\n";
//! let parsed = tidegate_crd::yaml::parse(Path::new("kubia.yaml"), text);
//! let document = &parsed.documents[0];
//! assert_eq!(document.object.object_ref().to_string(), "Service default/kubia");
//! assert_eq!(document.origin.line_of("spec.ports[0].port"), 7);
//! ```

pub mod core;
pub mod ingress;
pub mod object;
pub mod policy;
pub mod yaml;

mod decode;
mod identify;
mod name;
mod origin;
mod problem;
mod scalar;
mod split;
pub mod suggest;
mod tree;

pub use object::{Kind, Object, ObjectRef};
pub use origin::Origin;
pub use problem::{Problem, Severity};
pub use yaml::{Document, Parsed};
