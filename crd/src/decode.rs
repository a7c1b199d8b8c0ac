//! A tree becomes a typed object, and whatever does not fit is reported with its field and line.
//!
//! serde tells a decoder which fields a type has, so an unknown field is seen where it stands, next to the names it may have meant.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::object::{Kind, Object};
use crate::origin::FieldPath;
use crate::problem::Complaint;
use crate::scalar::{Scalar, resolve};
use crate::suggest;
use crate::tree::{Entry, Node, Value};

/// Longer values are cut in messages.
const LONGEST_QUOTE: usize = 40;

/// Reads an object of this kind. The complaints are about fields it could not use; without an object, one of them says why.
pub(crate) fn decode(kind: Kind, tree: &Node<'_>) -> (Option<Object>, Vec<Complaint>) {
    let unknown = RefCell::new(Vec::new());
    let decoder = Decoder { kind, node: tree, line: tree.line, path: FieldPath::Root, unknown: &unknown };
    let result = Object::decode(kind, decoder).map_err(|error| decoder.locate(error));
    let mut complaints = unknown.into_inner();
    match result {
        Ok(object) => (Some(object), complaints),
        Err(error) => {
            let message = format!("{}: {}", error.field, error.message);
            complaints.push(Complaint::error("InvalidField", error.line, message, error.fix).on(error.field));
            (None, complaints)
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a, 't> {
    kind: Kind,
    node: &'a Node<'t>,
    /// The line of the value's key: the value itself may begin further down.
    line: u32,
    path: FieldPath<'a>,
    unknown: &'a RefCell<Vec<Complaint>>,
}

impl<'a, 't> Decoder<'a, 't> {
    fn mismatch(&self, expected: &str) -> DecodeError {
        let message = format!("expected {expected}, found {}", self.describe());
        self.locate(DecodeError { message, fix: self.advice(expected), ..DecodeError::default() })
    }

    /// An error belongs to the innermost value that it passed.
    fn locate(&self, error: DecodeError) -> DecodeError {
        if error.line != 0 {
            return error;
        }
        let is_secret_data = self.is_secret() && self.path.top() == Some("data");
        let fix = match error.fix {
            fix if !fix.is_empty() => fix,
            _ if is_secret_data => "Encode the value with base64, or move it to `stringData` as plain text.".to_owned(),
            _ => format!("See the fields of {} in {}.", self.kind, self.reference()),
        };
        DecodeError { field: self.path.to_string(), line: self.line as usize, message: error.message, fix }
    }

    /// Where the fields of the kind are told of.
    fn reference(&self) -> &'static str {
        if self.kind.is_own() { "docs/resources.md" } else { "the Kubernetes API reference" }
    }

    fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    fn describe(&self) -> String {
        let (text, noun) = match &self.node.value {
            Value::List(_) => return "a list".to_owned(),
            Value::Map(_) => return "a mapping".to_owned(),
            Value::Scalar(_, Scalar::Null) => return "nothing".to_owned(),
            Value::Scalar(text, Scalar::Text) if self.is_secret() => (text, "string"),
            Value::Scalar(text, Scalar::Text) => return format!("string {:?}", shortened(text)),
            Value::Scalar(text, Scalar::Bool(_)) => (text, "boolean"),
            Value::Scalar(text, Scalar::Int(_) | Scalar::Uint(_)) => (text, "integer"),
            Value::Scalar(text, Scalar::Float(_)) => (text, "number"),
        };
        // What a Secret holds must not end in a log.
        if self.is_secret() { format!("a {noun}") } else { format!("{noun} {}", shortened(text)) }
    }

    fn advice(&self, expected: &str) -> String {
        match (&self.node.value, expected) {
            (Value::Scalar(_, meaning), "string") if *meaning != Scalar::Null => {
                let text = self.node_text();
                let why = if matches!(meaning, Scalar::Bool(_)) {
                    "; plain yes, no, on, off, y and n are booleans to Kubernetes"
                } else {
                    ""
                };
                if self.is_secret() {
                    format!("Put the value in quotes{why}.")
                } else {
                    format!("Put the value in quotes: \"{}\"{why}.", shortened(text))
                }
            }
            (Value::Scalar(text, Scalar::Text), "integer" | "boolean")
                if !matches!(resolve(text), Scalar::Text | Scalar::Null) =>
            {
                "Remove the quotes around the value.".to_owned()
            }
            (_, "boolean") => "Write `true` or `false`.".to_owned(),
            (_, "a list") => "Write a list: each item on its own line, after `- `.".to_owned(),
            (_, "a mapping") => "Write `field: value` lines, indented below this one.".to_owned(),
            (_, "string") => "Write one value here, not a list or mapping.".to_owned(),
            _ => "Write a whole number in that range.".to_owned(),
        }
    }

    fn node_text(&self) -> &str {
        if let Value::Scalar(text, _) = &self.node.value { text } else { "" }
    }

    fn integer<T: TryFrom<i128> + fmt::Display>(&self, range: &RangeInclusive<T>) -> Result<T, DecodeError> {
        let value = match self.node.value {
            Value::Scalar(_, Scalar::Int(value)) => i128::from(value),
            Value::Scalar(_, Scalar::Uint(value)) => i128::from(value),
            _ => return Err(self.mismatch("integer")),
        };
        T::try_from(value).map_err(|_| self.mismatch(&format!("integer from {} to {}", range.start(), range.end())))
    }

    fn entries(&self) -> Result<&'a [Entry<'t>], DecodeError> {
        if let Value::Map(entries) = &self.node.value { Ok(entries) } else { Err(self.mismatch("a mapping")) }
    }

    /// Users do not write `status`; what a newer cluster puts there is not worth a warning.
    fn note_unknown(&self, entries: &[Entry<'_>], fields: &'static [&'static str]) {
        if self.path.top() == Some("status") {
            return;
        }
        for entry in entries.iter().filter(|entry| !fields.contains(&entry.key.as_ref())) {
            let field = FieldPath::Field(&self.path, &entry.key).to_string();
            let fix = match suggest::nearest(&entry.key, fields.iter().copied()) {
                Some(meant) => format!("Did you mean `{meant}`?"),
                None => format!("Remove it, or see where it belongs: {} in {}.", self.kind, self.reference()),
            };
            let message = format!("{field}: unknown field, ignored");
            let complaint = Complaint::warning("UnknownField", entry.line as usize, message, fix).on(field);
            self.unknown.borrow_mut().push(complaint);
        }
    }
}

/// Implements the methods for integers of one width.
macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.integer(&(<$type>::MIN..=<$type>::MAX))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Decoder<'_, '_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Scalar(_, Scalar::Null) => visitor.visit_unit(),
            Value::Scalar(_, Scalar::Bool(value)) => visitor.visit_bool(*value),
            Value::Scalar(_, Scalar::Int(value)) => visitor.visit_i64(*value),
            Value::Scalar(_, Scalar::Uint(value)) => visitor.visit_u64(*value),
            Value::Scalar(_, Scalar::Float(value)) => visitor.visit_f64(*value),
            Value::Scalar(text, Scalar::Text) => visitor.visit_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::Scalar(_, Scalar::Bool(value)) = self.node.value else { return Err(self.mismatch("boolean")) };
        visitor.visit_bool(value)
    }

    integers! {
        deserialize_i32, visit_i32, i32;
        deserialize_i64, visit_i64, i64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Scalar(text, Scalar::Text) => visitor.visit_str(text),
            // As the API server reads it: `annotations: {a: }` is an empty annotation.
            Value::Scalar(_, Scalar::Null) => visitor.visit_str(""),
            _ => Err(self.mismatch("string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::List(items) = &self.node.value else { return Err(self.mismatch("a list")) };
        visitor.visit_seq(Items { parent: self, items: items.iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(Fields { parent: self, entries: self.entries()?.iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.note_unknown(self.entries()?, fields);
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a, 't> {
    parent: Decoder<'a, 't>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node<'t>>>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = FieldPath::Item(&self.parent.path, index);
        let decoder = Decoder { node, line: node.line, path, ..self.parent };
        seed.deserialize(decoder).map(Some).map_err(|error| decoder.locate(error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'a, 't> {
    parent: Decoder<'a, 't>,
    entries: std::slice::Iter<'a, Entry<'t>>,
    current: Option<&'a Entry<'t>>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, DecodeError> = entry.key.as_ref().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let entry = self.current.take().expect("serde asks for a value only after its key");
        let path = FieldPath::Field(&self.parent.path, &entry.key);
        let decoder = Decoder { node: &entry.value, line: entry.line, path, ..self.parent };
        seed.deserialize(decoder).map_err(|error| decoder.locate(error))
    }
}

/// Why a value does not fit its type.
#[derive(Debug, Default)]
struct DecodeError {
    field: String,
    /// 0 until it is known where the value stands.
    line: usize,
    message: String,
    fix: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), ..Self::default() }
    }
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(LONGEST_QUOTE).map_or(text, |(end, _)| &text[..end])
}
