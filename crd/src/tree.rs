//! One YAML document as a tree of nodes that know their line, built from the parser's events.
//!
//! Everything a file could use to cost more than its own size is limited here: nesting, nodes, and what aliases repeat.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use crate::problem::Complaint;
use crate::scalar::{Scalar, resolve};
use crate::split::Chunk;

/// Objects are read with recursion, so the depth is bounded; a Pod, the deepest of ours, with its `managedFields` has about 20.
const MAX_DEPTH: usize = 100;
/// Bounds the memory of one document: a `List` of 10,000 objects with `status` and `managedFields` has about 3 million nodes.
const MAX_NODES: usize = 4_000_000;
/// What anchors may hold and aliases repeat in one document, in nodes and bytes: as much as etcd takes for one object (1.5 MiB).
const MAX_ALIASED: usize = 1_572_864;

/// A value and the line on which it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node<'t> {
    pub(crate) line: u32,
    pub(crate) value: Value<'t>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'t> {
    Scalar(Cow<'t, str>, Scalar),
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>),
}

/// A key, the line of the key, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) line: u32,
    pub(crate) value: Node<'t>,
}

impl<'t> Node<'t> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(_, Scalar::Null))
    }

    /// The value of a field that is there and not null.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value).filter(|value| !value.is_null())
    }

    pub(crate) fn field_mut(&mut self, name: &str) -> Option<&mut Self> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|entry| entry.key == name).map(|entry| &mut entry.value)
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        let Value::Scalar(text, Scalar::Text) = &self.value else { return None };
        Some(text)
    }

    /// Pairs of entries with the same key, the earlier line first.
    pub(crate) fn duplicate_keys(&self) -> Vec<(&Entry<'t>, &Entry<'t>)> {
        let Value::Map(entries) = &self.value else { return Vec::new() };
        let mut sorted: Vec<&Entry<'t>> = entries.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        sorted.windows(2).filter(|pair| pair[0].key == pair[1].key).map(|pair| (pair[0], pair[1])).collect()
    }
}

/// Builds the tree of one document; `None` if it holds nothing.
pub(crate) fn build<'t>(chunk: &Chunk<'t>) -> Result<Option<Node<'t>>, Complaint> {
    let mut parser = Parser::new_from_str(chunk.text);
    let mut builder = Builder {
        line_offset: chunk.line - 1,
        root: None,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
        weight: 0,
        aliased: 0,
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax_error(&error, chunk))?;
        builder.event(event, builder.line(span.start.line()))?;
    }
    Ok(builder.root.filter(|root| !root.is_null()))
}

struct Builder<'t> {
    line_offset: usize,
    root: Option<Node<'t>>,
    open: Vec<Open<'t>>,
    anchors: BTreeMap<usize, Anchored<'t>>,
    nodes: usize,
    /// Nodes and bytes of text so far; the difference between two moments is the size of what was built between them.
    weight: usize,
    aliased: usize,
}

/// A list or mapping of which the end has not been seen.
struct Open<'t> {
    line: u32,
    anchor: usize,
    weight_before: usize,
    /// Levels below this one.
    height: usize,
    content: Content<'t>,
}

enum Content<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<Entry<'t>>,
        key: Option<Key<'t>>,
        /// Values of `<<` (<https://yaml.org/type/merge.html>), which `kubectl` understands too.
        merged: Vec<Node<'t>>,
    },
}

struct Key<'t> {
    text: Cow<'t, str>,
    line: u32,
    is_merge: bool,
}

struct Anchored<'t> {
    node: Node<'t>,
    weight: usize,
    height: usize,
}

impl<'t> Builder<'t> {
    fn line(&self, line_in_chunk: usize) -> u32 {
        u32::try_from(self.line_offset + line_in_chunk).unwrap_or(u32::MAX)
    }

    fn event(&mut self, event: Event<'t>, line: u32) -> Result<(), Complaint> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_deref(), line),
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::SequenceStart(anchor, _) => self.begin(Content::List(Vec::new()), anchor, line),
            Event::MappingStart(anchor, _) => {
                self.begin(Content::Map { entries: Vec::new(), key: None, merged: Vec::new() }, anchor, line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: u32,
    ) -> Result<(), Complaint> {
        let weight = 1 + text.len();
        self.weight += weight;
        let meaning = match (tag.filter(|tag| tag.is_yaml_core_schema()), style) {
            (Some(tag), _) if matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null") => resolve(&text),
            (None, ScalarStyle::Plain) => resolve(&text),
            _ => Scalar::Text,
        };
        if let Some(Open { content: Content::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            let is_merge = style == ScalarStyle::Plain && text == "<<";
            *key = Some(Key { text: text.clone(), line, is_merge });
            let node = Node { line, value: Value::Scalar(text, Scalar::Text) };
            return if anchor == 0 { Ok(()) } else { self.anchor(anchor, &node, weight, 0) };
        }
        let node = Node { line, value: Value::Scalar(text, meaning) };
        if anchor != 0 {
            self.anchor(anchor, &node, weight, 0)?;
        }
        self.place(node)
    }

    fn begin(&mut self, content: Content<'t>, anchor: usize, line: u32) -> Result<(), Complaint> {
        self.refuse_as_key(line)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        let weight_before = self.weight;
        self.weight += 1;
        self.open.push(Open { line, anchor, weight_before, height: 0, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Complaint> {
        let Some(Open { line, anchor, weight_before, height, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map { mut entries, merged, .. } => {
                merge(&mut entries, merged)?;
                Value::Map(entries)
            }
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchor(anchor, &node, self.weight - weight_before, height + 1)?;
        }
        self.grow(height + 1);
        self.place(node)
    }

    fn anchor(&mut self, anchor: usize, node: &Node<'t>, weight: usize, height: usize) -> Result<(), Complaint> {
        self.aliased(weight, node.line)?;
        self.anchors.insert(anchor, Anchored { node: node.clone(), weight, height });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), Complaint> {
        self.refuse_as_key(line)?;
        let Some(Anchored { weight, height, .. }) = self.anchors.get(&anchor) else {
            let message = "an alias stands inside the value that it repeats".to_owned();
            return Err(Complaint::error("InvalidYaml", line as usize, message, "Write the value out."));
        };
        let (weight, height) = (*weight, *height);
        if self.open.len() + height > MAX_DEPTH {
            return Err(too_deep(line));
        }
        // Counted before it is copied.
        self.aliased(weight, line)?;
        self.weight += weight;
        self.nodes += weight;
        self.grow(height);
        let value = self.anchors[&anchor].node.value.clone();
        self.place(Node { line, value })
    }

    fn aliased(&mut self, weight: usize, line: u32) -> Result<(), Complaint> {
        self.aliased += weight;
        if self.aliased <= MAX_ALIASED {
            return Ok(());
        }
        let message = format!("the anchors and aliases of this document repeat more than {MAX_ALIASED} bytes");
        Err(Complaint::error("TooManyNodes", line as usize, message, "Write the values out instead of repeating them."))
    }

    /// The list or mapping that is open now has this many levels below it.
    fn grow(&mut self, height: usize) {
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(height);
        }
    }

    fn refuse_as_key(&self, line: u32) -> Result<(), Complaint> {
        let Some(Open { content: Content::Map { key: None, .. }, .. }) = self.open.last() else { return Ok(()) };
        let message = "the key of a mapping is a list, a mapping or an alias".to_owned();
        let fix = "Write a plain word as key; `{{ }}` of a template must be rendered first.";
        Err(Complaint::error("InvalidYaml", line as usize, message, fix))
    }

    /// Puts a finished node where it belongs: into the innermost open list or mapping.
    fn place(&mut self, node: Node<'t>) -> Result<(), Complaint> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values");
            return Err(Complaint::error("TooManyNodes", node.line as usize, message, "Split it with `---`."));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key, merged }) => match key.take() {
                Some(key) if key.is_merge => merged.push(node),
                Some(Key { text, line, .. }) => entries.push(Entry { key: text, line, value: node }),
                // `refuse_as_key` and `scalar` let nothing else through in the place of a key.
                None => {}
            },
        }
        Ok(())
    }
}

/// Adds the entries of merged mappings whose keys are not there yet; earlier mappings win.
fn merge<'t>(entries: &mut Vec<Entry<'t>>, merged: Vec<Node<'t>>) -> Result<(), Complaint> {
    if merged.is_empty() {
        return Ok(());
    }
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    for node in merged {
        let sources = match node.value {
            Value::List(sources) => sources,
            Value::Map(_) | Value::Scalar(..) => vec![node],
        };
        for source in sources {
            let Value::Map(added) = source.value else {
                let message = "`<<` takes a mapping, or a list of mappings".to_owned();
                let fix = "Give it an alias of a mapping, as in `<<: *defaults`; or put the key in quotes.";
                return Err(Complaint::error("InvalidYaml", source.line as usize, message, fix));
            };
            entries.extend(added.into_iter().filter(|entry| known.insert(entry.key.to_string())));
        }
    }
    Ok(())
}

fn too_deep(line: u32) -> Complaint {
    let message = format!("values are nested more than {MAX_DEPTH} deep");
    Complaint::error(
        "TooDeep",
        line as usize,
        message,
        "No Kubernetes object is that deep: look for brackets left open.",
    )
}

/// What the parser says, and what usually is behind it.
fn syntax_error(error: &ScanError, chunk: &Chunk<'_>) -> Complaint {
    let (row, column) = (error.marker().line(), error.marker().col() + 1);
    // At the end of the text the parser may point one line further than there are.
    let text = chunk.text.lines().nth(row.saturating_sub(1)).unwrap_or_default();
    let indentation = &text[..text.len() - text.trim_start().len()];
    let is_json = chunk.text.trim_start().starts_with('{');
    let said = |words: &str| error.info().contains(words);
    let fix = if (indentation.contains('\t') && !is_json) || said("tab") {
        "Indent with spaces: YAML does not allow tabs there."
    } else if text.contains("{{") {
        "This looks like a template: render it first, for example with `helm template`."
    } else if said("quoted scalar") || said("invalid indentation in quoted") {
        "Close the quotes, or indent the lines that continue the text."
    } else if said("unknown anchor") {
        "Define the anchor with `&name` earlier in the same document, or put a value that begins with `*` in quotes."
    } else if said("mapping values are not allowed") {
        "Check the indentation of this line and the one above; put a value that contains `: ` in quotes."
    } else if said("flow") || said("',' or") || said("recursion limit") {
        "Close every `{` and `[`, and separate what is inside with commas."
    } else if said("cannot start any token") {
        "Put a value that begins with `@`, `` ` `` or `%` in quotes."
    } else {
        "Check the indentation of this line and the one above: fields of one mapping begin at the same column."
    };
    let line = chunk.line - 1 + row;
    Complaint::error("InvalidYaml", line, format!("column {column}: {}", error.info()), fix)
}
