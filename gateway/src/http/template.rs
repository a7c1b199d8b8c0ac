//! Evaluates a [`Template`] against a request.

use std::fmt::Write;

use super::facts::Facts;
use crate::route::{
    Rule,
    template::{Piece, Template, Variable},
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The text of `template` for a request that `rule` took.
pub(crate) fn text(template: &Template, rule: &Rule, facts: &Facts<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    write(template, rule, facts, &mut |part| text.extend_from_slice(part));
    text
}

/// The same, piece by piece: whoever only wants a hash of it needs no memory.
pub(crate) fn write(template: &Template, rule: &Rule, facts: &Facts<'_>, out: &mut impl FnMut(&[u8])) {
    for piece in template.pieces() {
        match piece {
            Piece::Text(text) => out(text.as_bytes()),
            Piece::Variable(name) => variable(name, rule, facts, out),
        }
    }
}

fn variable(variable: &Variable, rule: &Rule, facts: &Facts<'_>, out: &mut impl FnMut(&[u8])) {
    match variable {
        Variable::Args => out(facts.query().as_bytes()),
        Variable::Arg(name) => out(argument(facts.query(), name).as_bytes()),
        Variable::Cookie(name) => out(facts.cookie(name).unwrap_or_default()),
        Variable::EscapedRequestUri => escape(facts.target().as_bytes(), out),
        Variable::Header(name) => fields(facts, name, out),
        Variable::Host => lower_case(facts.host_name(), out),
        Variable::IngressName => out(rule.owner.name.as_bytes()),
        Variable::IsArgs if facts.uri.query().is_none_or(str::is_empty) => {}
        Variable::IsArgs => out(b"?"),
        Variable::Namespace => out(rule.owner.namespace.as_bytes()),
        Variable::ForwardedFor => {
            let name = http::HeaderName::from_static("x-forwarded-for");
            if facts.headers.contains_key(&name) {
                fields(facts, &name, out);
                out(b", ");
            }
            displayed(&facts.client, out);
        }
        Variable::RemoteAddr => displayed(&facts.client, out),
        Variable::RequestMethod => out(facts.method.as_str().as_bytes()),
        Variable::RequestUri => out(facts.target().as_bytes()),
        Variable::Scheme => out(facts.scheme.as_str().as_bytes()),
        Variable::ServerPort => displayed(&facts.port, out),
        Variable::ServiceName => out(service(rule).0.as_bytes()),
        Variable::ServicePort => out(service(rule).1.as_bytes()),
        Variable::Uri => out(facts.path.as_bytes()),
    }
}

/// Name and port of `namespace/service:port`.
fn service(rule: &Rule) -> (&str, &str) {
    let label = &**rule.backend.service();
    let service = label.split_once('/').map_or(label, |(_, service)| service);
    service.rsplit_once(':').unwrap_or((service, ""))
}

/// A parameter as it was sent; nginx compares the names without case.
fn argument<'a>(query: &'a str, name: &str) -> &'a str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

/// The values of a field, as one.
fn fields(facts: &Facts<'_>, name: &http::HeaderName, out: &mut impl FnMut(&[u8])) {
    for (i, value) in facts.headers.get_all(name).iter().enumerate() {
        if i > 0 {
            out(b", ");
        }
        out(value.as_bytes());
    }
}

fn lower_case(text: &str, out: &mut impl FnMut(&[u8])) {
    for part in text.as_bytes().chunks(64) {
        let mut buffer = [0u8; 64];
        let buffer = &mut buffer[..part.len()];
        buffer.copy_from_slice(part);
        buffer.make_ascii_lowercase();
        out(buffer);
    }
}

fn escape(text: &[u8], out: &mut impl FnMut(&[u8])) {
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out(&[*byte]);
        } else {
            out(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Writes what can be shown, without memory of its own.
fn displayed(what: &impl std::fmt::Display, out: &mut impl FnMut(&[u8])) {
    struct Out<'a, F>(&'a mut F);
    impl<F: FnMut(&[u8])> std::fmt::Write for Out<'_, F> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            (self.0)(text.as_bytes());
            Ok(())
        }
    }
    // Writing to `Out` cannot fail.
    let _ = write!(Out(out), "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{facts::fixture::Asked, filters::fixture::rule};

    #[test]
    fn every_variable() {
        let fields = [
            ("x-user", "ann"),
            ("x-user", "bob"),
            ("cookie", "a=1; sid=42"),
            ("content-type", "text/plain"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        let asked = Asked::get("/a%20b?x=1&Y=2&empty=", &fields);
        for (template, expected) in [
            ("plain", "plain"),
            ("$scheme://$host$request_uri", "http://shop.example.com/a%20b?x=1&Y=2&empty="),
            ("$best_http_host:$server_port", "shop.example.com:8080"),
            ("$uri$is_args$args", "/a%20b?x=1&Y=2&empty="),
            ("[$arg_x][$arg_y][$arg_empty][$arg_none]", "[1][2][][]"),
            ("$http_x_user|$http_none|$content_type|$content_length", "ann, bob||text/plain|"),
            ("$cookie_sid/$cookie_none", "42/"),
            ("$remote_addr $binary_remote_addr", "192.0.2.7 192.0.2.7"),
            ("$proxy_add_x_forwarded_for", "10.0.0.1, 192.0.2.7"),
            ("$request_method", "GET"),
            ("$escaped_request_uri", "%2Fa%2520b%3Fx%3D1%26Y%3D2%26empty%3D"),
            ("$namespace/$ingress_name $service_name:$service_port", "default/test web:80"),
        ] {
            let parsed = Template::parse(template).unwrap();
            let text = text(&parsed, &rule([]), &asked.facts());
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{template}");
        }
        let bare = Asked::get("/", &[]);
        let parsed = Template::parse("$is_args$args$proxy_add_x_forwarded_for").unwrap();
        assert_eq!(text(&parsed, &rule([]), &bare.facts()), b"192.0.2.7");
    }
}
