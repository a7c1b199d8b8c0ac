//! `Origin`: where an object stands in a file. `FieldPath` is how a place inside an object is written.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use crate::tree::{Node, Value};

/// Where an object stands: its file, its first line, and the line of every one of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    file: Arc<Path>,
    line: u32,
    /// Hash of a field's path, and its line; sorted. Paths as text would take ten times the memory of the object itself.
    places: Box<[(u64, u32)]>,
}

impl Origin {
    /// The origin of an object that was in no file; `label` stands where the name of a file would.
    pub fn synthetic(label: &str) -> Arc<Self> {
        Arc::new(Self { file: Path::new(label).into(), line: 0, places: Box::default() })
    }

    /// The file, as the caller of `parse` named it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The first line of the object, from 1; 0 if it was in no file.
    pub fn line(&self) -> usize {
        self.line as usize
    }

    /// The line of a field: `spec.ports[0].nodePort`, or `metadata.annotations["a.b/c"]` where a key is more than a word.
    ///
    /// If the field is not there, the line of the deepest parent that is.
    pub fn line_of(&self, field: &str) -> usize {
        let (mut hash, mut line) = (ROOT, self.line);
        for segment in segments(field) {
            hash = match &segment {
                Segment::Key(key) => hash_of_field(hash, key),
                Segment::Item(index) => hash_of_item(hash, *index),
            };
            let Ok(at) = self.places.binary_search_by_key(&hash, |place| place.0) else { break };
            line = self.places[at].1;
        }
        line as usize
    }

    /// Notes the place of every field of an object, and finds the keys that occur twice.
    pub(crate) fn of(file: &Arc<Path>, object: &Node<'_>) -> (Self, Vec<Duplicate>) {
        let mut survey = Survey::default();
        survey.visit(object, ROOT, FieldPath::Root);
        survey.places.sort_unstable();
        let origin = Self { file: Arc::clone(file), line: object.line, places: survey.places.into() };
        (origin, survey.duplicates)
    }
}

/// A key that occurs twice in one mapping.
#[derive(Debug)]
pub(crate) struct Duplicate {
    pub(crate) field: String,
    pub(crate) first_line: u32,
    pub(crate) line: u32,
}

#[derive(Default)]
struct Survey {
    places: Vec<(u64, u32)>,
    duplicates: Vec<Duplicate>,
}

impl Survey {
    fn visit(&mut self, node: &Node<'_>, hash: u64, path: FieldPath<'_>) {
        match &node.value {
            Value::Scalar(..) => {}
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let hash = hash_of_item(hash, index);
                    self.places.push((hash, item.line));
                    self.visit(item, hash, FieldPath::Item(&path, index));
                }
            }
            Value::Map(entries) => {
                self.find_duplicates(node, path);
                for entry in entries {
                    let hash = hash_of_field(hash, &entry.key);
                    self.places.push((hash, entry.line));
                    self.visit(&entry.value, hash, FieldPath::Field(&path, &entry.key));
                }
            }
        }
    }

    fn find_duplicates(&mut self, map: &Node<'_>, path: FieldPath<'_>) {
        for (first, second) in map.duplicate_keys() {
            let field = FieldPath::Field(&path, &second.key).to_string();
            self.duplicates.push(Duplicate { field, first_line: first.line, line: second.line });
        }
    }
}

const ROOT: u64 = 0;

// The hasher has fixed keys, so equal paths hash alike. Two paths of one object with the same hash would cost a wrong line in
// a message, no more.
fn hash_of_field(parent: u64, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, key).hash(&mut hasher);
    hasher.finish()
}

fn hash_of_item(parent: u64, index: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, index).hash(&mut hasher);
    hasher.finish()
}

/// A place inside an object, while walking down it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FieldPath<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> FieldPath<'a> {
    /// The field of the object in which this place lies: `spec` for `spec.ports[0]`.
    pub(crate) fn top(&self) -> Option<&'a str> {
        match self {
            Self::Root => None,
            Self::Field(Self::Root, key) => Some(key),
            Self::Field(parent, _) | Self::Item(parent, _) => parent.top(),
        }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Field(Self::Root, key) if is_word(key) => f.write_str(key),
            Self::Field(parent, key) if is_word(key) => write!(f, "{parent}.{key}"),
            Self::Field(parent, key) => {
                write!(f, "{parent}[\"{}\"]", key.replace('\\', "\\\\").replace('"', "\\\""))
            }
        }
    }
}

fn is_word(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

#[derive(Debug, PartialEq)]
enum Segment {
    Key(String),
    Item(usize),
}

/// Reads back what `FieldPath` writes; stops at what it cannot read.
fn segments(path: &str) -> impl Iterator<Item = Segment> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, length) = unquote(quoted)?;
            rest = quoted[length..].strip_prefix(']')?;
            Some(Segment::Key(key))
        } else if let Some(item) = rest.strip_prefix('[') {
            let (index, after) = item.split_once(']')?;
            rest = after;
            index.parse().ok().map(Segment::Item)
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let length = field.find(['.', '[']).unwrap_or(field.len());
            rest = &field[length..];
            (length > 0).then(|| Segment::Key(field[..length].to_owned()))
        }
    })
}

/// The text before the closing quote, and the length in bytes up to and including that quote.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((key, at + 1)),
            '\\' => key.push(chars.next()?.1),
            c => key.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        let annotations = FieldPath::Field(&FieldPath::Field(&FieldPath::Root, "metadata"), "annotations").to_string();
        assert_eq!(annotations, "metadata.annotations");
        for key in ["a.b/c", "we\"ird\\", "", "[0]"] {
            let path = FieldPath::Field(&FieldPath::Root, key);
            let path = FieldPath::Item(&path, 7);
            let path = FieldPath::Field(&path, "end");
            let read: Vec<_> = segments(&path.to_string()).collect();
            assert_eq!(read, [Segment::Key(key.into()), Segment::Item(7), Segment::Key("end".into())], "{path}");
        }
    }

    #[test]
    fn malformed_paths_end_where_they_break() {
        assert_eq!(segments("a[x].b").count(), 1);
        assert_eq!(segments("a[\"b").count(), 1);
        assert_eq!(segments("a..b").count(), 1);
        assert_eq!(segments("").count(), 0);
    }

    #[test]
    fn a_synthetic_origin_has_no_lines() {
        let origin = Origin::synthetic("cluster");
        assert_eq!((origin.file(), origin.line_of("spec.ports[0]")), (Path::new("cluster"), 0));
    }
}
