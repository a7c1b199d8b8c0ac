//! What a line of the log looks like: read once at the start, then only followed.

use std::str::FromStr;

use http::{HeaderName, header};

use super::{
    escape::Escape,
    json,
    record::Record,
    variables::{Text, VARIABLES, Variable},
};

/// `combined`: what Apache and nginx write by default.
const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;

/// `ingress-nginx`: its `log-format-upstream` as long as nobody sets it.
const INGRESS_NGINX: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id"#;

/// A format: `json`, `combined`, `ingress-nginx`, or text with nginx's variables (`$status`, `${status}`).
///
/// In a format of the user's own that begins with `{`, values are escaped as JSON strings are, and one that is not there is empty
/// (nginx's `escape=json`). In any other, they are escaped as nginx does by default, and one that is not there is `-`.
#[derive(Clone, Debug)]
pub struct Format {
    line: Line,
    pub(super) needs: Needs,
}

#[derive(Clone, Debug)]
enum Line {
    Json,
    Parts { parts: Box<[Part]>, escape: Escape },
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<[u8]>),
    Variable(&'static Variable),
    /// A field of the request, a cookie, or a field of the answer, by its place in what [`Needs`] asks for.
    Value(usize),
    Argument(Box<[u8]>),
}

/// What has to be taken note of while a request is served.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub(super) fields: Vec<HeaderName>,
    pub(super) cookies: Vec<String>,
    pub(super) answer_fields: Vec<HeaderName>,
    /// The name in `Authorization`.
    pub(super) user: bool,
    /// The sizes of heads.
    pub(super) sizes: bool,
}

impl Needs {
    fn json() -> Self {
        let mut fields = vec![header::USER_AGENT; 2];
        fields[json::REFERER] = header::REFERER;
        fields[json::USER_AGENT] = header::USER_AGENT;
        Self { fields, ..Self::default() }
    }
}

/// Why a text is no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// There is no such variable.
    #[error("there is no variable ${name}{}", suggestion.as_ref().map(|name| format!("; is ${name} meant?")).unwrap_or_default())]
    UnknownVariable {
        /// As written.
        name: String,
        /// One that is written alike.
        suggestion: Option<&'static str>,
    },
    /// A `$` that begins no variable.
    #[error("a $ at {0:?} that begins no variable: nginx has no way to write the character itself")]
    LoneDollar(String),
    /// `${` without `}`.
    #[error("there is no }} to ${{{0}")]
    Unclosed(String),
    /// A line end or another control character: a line of the log is one line.
    #[error("it has a line end or another control character")]
    ControlCharacter,
    /// Nothing at all.
    #[error("it is empty: write json, combined, ingress-nginx, or a text with variables such as $status")]
    Empty,
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.trim() {
            "" => Err(FormatError::Empty),
            "json" => Ok(Self { line: Line::Json, needs: Needs::json() }),
            "combined" => parse(COMBINED),
            "ingress-nginx" => parse(INGRESS_NGINX),
            text => parse(text),
        }
    }
}

impl Format {
    /// Appends the line, with its end.
    pub(super) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &self.line {
            Line::Json => json::write(record, out),
            Line::Parts { parts, escape } => {
                for part in parts {
                    part.write(record, &mut Text { out, escape: *escape });
                }
            }
        }
        out.push(b'\n');
    }
}

impl Part {
    fn write(&self, record: &Record<'_>, text: &mut Text<'_>) {
        let begin = text.out.len();
        let is_there = match self {
            Self::Literal(literal) => {
                text.out.extend_from_slice(literal);
                return;
            }
            Self::Variable(variable) => variable.write(record, text),
            Self::Value(number) => record.details.value(*number).and_then(|value| text.value(value)).is_some(),
            Self::Argument(name) => argument(record.query(), name).and_then(|value| text.value(value)).is_some(),
        };
        if !is_there {
            text.out.truncate(begin);
        }
        if text.escape == Escape::Hex && text.out.len() == begin {
            text.out.push(b'-');
        }
    }
}

/// The value of a parameter in a query, as written; its name is compared without case, as nginx does.
fn argument<'a>(query: Option<&'a [u8]>, name: &[u8]) -> Option<&'a [u8]> {
    query?.split(|byte| *byte == b'&').find_map(|pair| {
        let (found, value) = pair.split_at_checked(name.len())?;
        value.strip_prefix(b"=").filter(|_| found.eq_ignore_ascii_case(name))
    })
}

fn parse(text: &str) -> Result<Format, FormatError> {
    if text.chars().any(char::is_control) {
        return Err(FormatError::ControlCharacter);
    }
    let escape = if text.starts_with('{') { Escape::Json } else { Escape::Hex };
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (literal, from) = rest.split_at(at);
        let (name, after) = variable_name(from)?;
        names.push((literal, Some(name)));
        rest = after;
    }
    names.push((rest, None));
    // Where the values of answers begin is known once all others are.
    let mut needs = Needs::default();
    for (_, name) in &names {
        if let Some(name) = name {
            needs.add(name);
        }
    }
    let mut parts = Vec::new();
    for (literal, name) in names {
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.as_bytes().into()));
        }
        if let Some(name) = name {
            parts.push(needs.part(name)?);
        }
    }
    Ok(Format { line: Line::Parts { parts: parts.into(), escape }, needs })
}

/// The name that `text`, which begins with a `$`, begins with, and what follows.
fn variable_name(text: &str) -> Result<(&str, &str), FormatError> {
    let body = &text[1..];
    if let Some(braced) = body.strip_prefix('{') {
        return braced.split_once('}').ok_or_else(|| FormatError::Unclosed(braced.to_owned()));
    }
    let end = body.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(body.len());
    if end == 0 {
        return Err(FormatError::LoneDollar(text.chars().take(10).collect()));
    }
    Ok(body.split_at(end))
}

impl Needs {
    fn add(&mut self, name: &str) {
        if let Some(name) = field(name) {
            push_new(&mut self.fields, name);
        } else if let Some(name) = answer_field(name) {
            push_new(&mut self.answer_fields, name);
        } else if let Some(name) = name.strip_prefix("cookie_") {
            push_new(&mut self.cookies, name.to_owned());
        }
        self.user |= name == "remote_user";
        self.sizes |= ["request_length", "bytes_sent"].contains(&name);
    }

    /// The part for a variable; all of them have been added before.
    fn part(&self, name: &str) -> Result<Part, FormatError> {
        if let Some(name) = field(name) {
            return Ok(Part::Value(position(&self.fields, &name)));
        }
        if let Some(name) = answer_field(name) {
            return Ok(Part::Value(self.fields.len() + self.cookies.len() + position(&self.answer_fields, &name)));
        }
        if let Some(name) = name.strip_prefix("cookie_").filter(|name| !name.is_empty()) {
            return Ok(Part::Value(self.fields.len() + position(&self.cookies, &name.to_owned())));
        }
        if let Some(name) = name.strip_prefix("arg_").filter(|name| !name.is_empty()) {
            return Ok(Part::Argument(name.as_bytes().into()));
        }
        let variable = Variable::find(name).map(Part::Variable);
        variable.ok_or_else(|| FormatError::UnknownVariable { name: name.to_owned(), suggestion: alike(name) })
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn position<T: PartialEq>(list: &[T], item: &T) -> usize {
    list.iter().position(|found| found == item).unwrap_or(list.len())
}

/// The field of the request that a variable stands for.
fn field(name: &str) -> Option<HeaderName> {
    match name {
        "content_type" => Some(header::CONTENT_TYPE),
        "content_length" => Some(header::CONTENT_LENGTH),
        _ => field_name(name.strip_prefix("http_")?),
    }
}

fn answer_field(name: &str) -> Option<HeaderName> {
    field_name(name.strip_prefix("sent_http_")?)
}

/// `user_agent` is `User-Agent`.
fn field_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok()
}

/// The variable that is written most alike, if it is alike at all.
fn alike(name: &str) -> Option<&'static str> {
    let best = VARIABLES.iter().map(|known| (distance(name, known.name), known.name)).min()?;
    (best.0 <= 2.max(name.len() / 4)).then_some(best.1)
}

/// How many letters have to be changed, left out or put in (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
