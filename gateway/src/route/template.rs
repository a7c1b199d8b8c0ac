//! A text with variables, such as `https://$host/new$request_uri`: parsed when configuration changes, evaluated by
//! `http::template` for each request that needs it.
//!
//! The names are nginx's, as far as ingress-nginx users write them (`upstream-hash-by`, `upstream-vhost`, redirects). A name
//! that is none is an error when it is read, and not an empty text later.

use std::{fmt, sync::Arc};

use http::HeaderName;

/// A text with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    written: Arc<str>,
    pieces: Box<[Piece]>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Itself.
    Text(Arc<str>),
    /// What the request says.
    Variable(Variable),
}

/// What a template can ask of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `$args`, `$query_string`: the query, without `?`.
    Args,
    /// `$arg_NAME`: a parameter of the query, as it was sent.
    Arg(Box<str>),
    /// `$cookie_NAME`.
    Cookie(Box<str>),
    /// `$escaped_request_uri`: the request's target, percent-encoded once more.
    EscapedRequestUri,
    /// `$http_NAME`, `$content_type`, `$content_length`: a field of the request.
    Header(HeaderName),
    /// `$host`, `$best_http_host`, `$server_name`: the request's host in lower case, without port.
    Host,
    /// `$ingress_name`.
    IngressName,
    /// `$is_args`: `?` if there is a query.
    IsArgs,
    /// `$namespace`.
    Namespace,
    /// `$proxy_add_x_forwarded_for`: the request's `X-Forwarded-For`, and the client's address after it.
    ForwardedFor,
    /// `$remote_addr`, `$the_real_ip`: the client's address; `$binary_remote_addr` stands for it too, as it only serves as a key.
    RemoteAddr,
    /// `$request_method`.
    RequestMethod,
    /// `$request_uri`: path and query as they were sent.
    RequestUri,
    /// `$scheme`: `http` or `https`.
    Scheme,
    /// `$server_port`: the port the client connected to.
    ServerPort,
    /// `$service_name`.
    ServiceName,
    /// `$service_port`.
    ServicePort,
    /// `$uri`, `$document_uri`: the path, decoded and normalised.
    Uri,
}

impl Variable {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "args" | "query_string" => Self::Args,
            "best_http_host" | "host" | "server_name" => Self::Host,
            "binary_remote_addr" | "remote_addr" | "the_real_ip" => Self::RemoteAddr,
            "content_length" => Self::Header(http::header::CONTENT_LENGTH),
            "content_type" => Self::Header(http::header::CONTENT_TYPE),
            "document_uri" | "uri" => Self::Uri,
            "escaped_request_uri" => Self::EscapedRequestUri,
            "ingress_name" => Self::IngressName,
            "is_args" => Self::IsArgs,
            "namespace" => Self::Namespace,
            "proxy_add_x_forwarded_for" => Self::ForwardedFor,
            "request_method" => Self::RequestMethod,
            "request_uri" => Self::RequestUri,
            "scheme" => Self::Scheme,
            "server_port" => Self::ServerPort,
            "service_name" => Self::ServiceName,
            "service_port" => Self::ServicePort,
            _ => {
                let (family, rest) = name.split_once('_').filter(|(_, rest)| !rest.is_empty())?;
                match family {
                    "arg" => Self::Arg(rest.into()),
                    "cookie" => Self::Cookie(rest.into()),
                    // nginx writes a field's name with underscores for the dashes.
                    "http" => Self::Header(HeaderName::from_bytes(rest.replace('_', "-").as_bytes()).ok()?),
                    _ => return None,
                }
            }
        })
    }
}

impl Template {
    /// Reads a text; the error says what is wrong with it.
    pub fn parse(written: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = written;
        while let Some(dollar) = rest.find('$') {
            if dollar > 0 {
                pieces.push(Piece::Text(rest[..dollar].into()));
            }
            let after = &rest[dollar + 1..];
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, left) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or("a variable in braces has no end")?,
                None => after.split_at(after.find(|c| !is_part(c)).unwrap_or(after.len())),
            };
            let variable = Variable::named(name).ok_or_else(|| format!("there is no variable ${name}"))?;
            pieces.push(Piece::Variable(variable));
            rest = left;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { written: written.into(), pieces: pieces.into() })
    }

    /// The text, if nothing in it depends on the request.
    pub fn literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_variables() {
        let template = Template::parse("https://${host}_x/$http_x_user$uri").unwrap();
        let expected = [
            Piece::Text("https://".into()),
            Piece::Variable(Variable::Host),
            Piece::Text("_x/".into()),
            Piece::Variable(Variable::Header(HeaderName::from_static("x-user"))),
            Piece::Variable(Variable::Uri),
        ];
        assert_eq!(template.pieces(), expected);
        assert_eq!(template.literal(), None);
        assert_eq!(template.to_string(), "https://${host}_x/$http_x_user$uri");
        assert_eq!(Template::parse("a.b").unwrap().literal(), Some("a.b"));
        assert_eq!(Template::parse("").unwrap().literal(), Some(""));
    }

    #[test]
    fn every_name_that_is_said_to_exist_does() {
        for name in [
            "scheme",
            "host",
            "http_cookie",
            "request_uri",
            "request_method",
            "query_string",
            "args",
            "arg_a",
            "remote_addr",
            "uri",
            "document_uri",
            "server_name",
            "server_port",
            "content_type",
            "content_length",
            "cookie_a",
            "is_args",
            "best_http_host",
            "escaped_request_uri",
            "proxy_add_x_forwarded_for",
            "namespace",
            "ingress_name",
            "service_name",
            "service_port",
            "binary_remote_addr",
            "the_real_ip",
        ] {
            assert!(Template::parse(&format!("${name}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        for bad in ["$nobody", "$", "a$", "${host", "$1", "$http_", "$$", "${}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
