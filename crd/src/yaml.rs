//! A file of YAML or JSON becomes objects, each with its place in the file, and problems, each with what to do about it.
//!
//! The way of a file: `split` cuts it into documents, `tree` parses each, lists are expanded, `identify` decides what an object
//! is, `decode` gives it its type. What goes wrong on the way costs that document, or that item of a list, and nothing else.

use std::path::Path;
use std::sync::Arc;

use crate::decode::decode;
use crate::identify::identify;
use crate::name;
use crate::object::{Kind, Object, ObjectRef};
use crate::origin::{Duplicate, Origin};
use crate::problem::{Complaint, Problem, Severity};
use crate::split::{self, Chunk};
use crate::tree::{self, Node, Value};

/// A `List` of 10,000 objects as `kubectl get -o yaml` prints them has about 20 MB.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;
/// Nobody reads more; the rest is counted.
const MAX_PROBLEMS: usize = 1000;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects, in the order of the file.
    pub documents: Vec<Document>,
    /// What is wrong with it, in the order of the file.
    pub problems: Vec<Problem>,
}

/// An object, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The object as written: no field is filled in.
    pub object: Object,
    /// Its file and lines.
    pub origin: Arc<Origin>,
}

/// Reads a file of YAML or JSON, with several documents and `List`s. `file` is only a name for messages; nothing is opened.
pub fn parse(file: &Path, text: &str) -> Parsed {
    let mut reader = Reader { file: file.into(), parsed: Parsed::default(), left_out: 0, worst_left_out: None };
    for chunk in split::documents(text) {
        reader.read(&chunk);
    }
    reader.finish()
}

struct Reader {
    file: Arc<Path>,
    parsed: Parsed,
    /// Problems beyond `MAX_PROBLEMS`.
    left_out: usize,
    worst_left_out: Option<Severity>,
}

impl Reader {
    fn read(&mut self, chunk: &Chunk<'_>) {
        if chunk.text.len() > MAX_DOCUMENT_BYTES {
            let message = format!("the document has more than {MAX_DOCUMENT_BYTES} bytes");
            return self.report(Complaint::error("TooLarge", chunk.line, message, "Split it with `---`."), None);
        }
        match tree::build(chunk) {
            Ok(Some(root)) => self.expand(root, None),
            Ok(None) => {}
            Err(complaint) => self.report(complaint, None),
        }
    }

    /// Reads an object, or each item of a list.
    fn expand(&mut self, node: Node<'_>, inherited: Option<(&str, &str)>) {
        let Some(item_kind) = item_kind(&node) else { return self.object(node, inherited) };
        if let Some((first, second)) = node.duplicate_keys().first() {
            let duplicate = Duplicate { field: second.key.to_string(), first_line: first.line, line: second.line };
            return self.report(duplicate_key(duplicate), None);
        }
        let version = node.field("apiVersion").and_then(Node::as_text).unwrap_or_default().to_owned();
        let inherited =
            (!item_kind.is_empty() && !version.is_empty()).then_some((version.as_str(), item_kind.as_str()));
        let Value::Map(entries) = node.value else { return };
        for entry in entries.into_iter().filter(|entry| entry.key == "items") {
            let Value::List(items) = entry.value.value else { return };
            for item in items {
                self.expand(item, inherited);
            }
        }
    }

    fn object(&mut self, mut node: Node<'_>, inherited: Option<(&str, &str)>) {
        if !matches!(node.value, Value::Map(_)) {
            let message = "a manifest is a mapping, and this is not one".to_owned();
            let fix = "Begin with `apiVersion:` and `kind:`; several objects are separated by `---`, or are `items` of a `List`.";
            return self.report(Complaint::error("NotAnObject", node.line as usize, message, fix), None);
        }
        let kind = match identify(&node, inherited) {
            Ok(kind) => kind,
            Err(complaint) => return self.report(complaint, None),
        };
        let reference = reference(&node, kind);
        let (origin, duplicates) = Origin::of(&self.file, &node);
        let mut refused = !duplicates.is_empty();
        for duplicate in duplicates {
            self.report(duplicate_key(duplicate), reference.as_ref());
        }
        join_base64_lines(&mut node, kind);
        let (object, complaints) = decode(kind, &node);
        for complaint in complaints {
            self.report(complaint, reference.as_ref());
        }
        let Some(object) = object else { return };
        if let Some(complaint) = naming(&object, &origin) {
            self.report(complaint, reference.as_ref());
            refused = true;
        }
        if !refused {
            self.parsed.documents.push(Document { object, origin: Arc::new(origin) });
        }
    }

    fn report(&mut self, complaint: Complaint, object: Option<&ObjectRef>) {
        let Complaint { severity, reason, line, field, message, fix } = complaint;
        if self.parsed.problems.len() >= MAX_PROBLEMS {
            self.left_out += 1;
            self.worst_left_out = self.worst_left_out.max(Some(severity));
            return;
        }
        let (object, file) = (object.cloned(), Arc::clone(&self.file));
        self.parsed.problems.push(Problem { severity, reason, object, file, line, field, message, fix });
    }

    fn finish(mut self) -> Parsed {
        if let Some(severity) = self.worst_left_out {
            let line = self.parsed.problems.last().map_or(1, |problem| problem.line);
            self.parsed.problems.push(Problem {
                severity,
                reason: "TooManyProblems",
                object: None,
                file: self.file,
                line,
                field: None,
                message: format!("{} more problems are not shown", self.left_out),
                fix: "Mend the first ones, then look again.".to_owned(),
            });
        }
        self.parsed
    }
}

/// For a list: the kind of its items, or nothing if they may be of any kind.
fn item_kind(node: &Node<'_>) -> Option<String> {
    let item_kind = node.field("kind")?.as_text()?.strip_suffix("List")?;
    // `field` takes null for absent; a list without items holds none.
    let Value::Map(entries) = &node.value else { return None };
    let items = entries.iter().find(|entry| entry.key == "items")?;
    (matches!(items.value.value, Value::List(_)) || items.value.is_null()).then(|| item_kind.to_owned())
}

/// The name of an object before it has a type, so that problems can say whose they are.
fn reference(node: &Node<'_>, kind: Kind) -> Option<ObjectRef> {
    let metadata = node.field("metadata")?;
    let namespace = metadata.field("namespace").and_then(Node::as_text).unwrap_or_default();
    Some(ObjectRef::new(kind, namespace, metadata.field("name")?.as_text()?))
}

/// What is wrong with the name or namespace of an object.
fn naming(object: &Object, origin: &Origin) -> Option<Complaint> {
    let (kind, metadata) = (object.kind(), object.metadata());
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        let fix = match metadata.generate_name {
            Some(_) => "Write a `name` under `metadata`: only a cluster makes names out of `generateName`.",
            None => "Write a `name` under `metadata`.",
        };
        let message = format!("{kind} has no `metadata.name`");
        return Some(
            Complaint::error("MissingName", origin.line_of("metadata.name"), message, fix).on("metadata.name"),
        );
    }
    let namespace = metadata.namespace.as_deref().filter(|namespace| kind.is_namespaced() && !namespace.is_empty());
    let (field, value, rule) = match (name::broken_rule(kind, name), namespace) {
        (Some(rule), _) => ("metadata.name", name, rule),
        (None, Some(namespace)) => ("metadata.namespace", namespace, name::namespace_rule(namespace)?),
        (None, None) => return None,
    };
    let message = format!("{field}: {value:?} is not a valid name");
    Some(Complaint::error("InvalidName", origin.line_of(field), message, format!("Choose another: {rule}.")).on(field))
}

fn duplicate_key(duplicate: Duplicate) -> Complaint {
    let Duplicate { field, first_line, line } = duplicate;
    let message = format!("{field}: written twice, on line {first_line} and on line {line}");
    Complaint::error("DuplicateKey", line as usize, message, "Keep one of the two.").on(field)
}

/// Base64 in a manifest may be broken into lines, which the API server's decoder skips (Go's `encoding/base64`).
fn join_base64_lines(node: &mut Node<'_>, kind: Kind) {
    let field = match kind {
        Kind::Secret => "data",
        Kind::ConfigMap => "binaryData",
        _ => return,
    };
    let Some(Value::Map(entries)) = node.field_mut(field).map(|data| &mut data.value) else { return };
    for entry in entries {
        if let Value::Scalar(text, _) = &mut entry.value.value
            && text.contains(['\r', '\n'])
        {
            *text = text.replace(['\r', '\n'], "").into();
        }
    }
}

#[cfg(test)]
mod tests;
