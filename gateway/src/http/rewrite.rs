//! Paths on their way to a pod: what a [`PathRewrite`] makes of one, and how it is written into a request.

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::route::filter::PathRewrite;

/// What nginx escapes when it writes a path that it had decoded.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The path that is asked for instead of `path`; `None` if it stays as it is. Both are decoded.
pub(crate) fn rewritten(rewrite: &PathRewrite, path: &str) -> Option<String> {
    match rewrite {
        PathRewrite::Full(full) => Some(full.to_string()),
        PathRewrite::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.from.trim_end_matches('/'))?;
            match rest {
                "" => Some(prefix.to.to_string()),
                rest if rest.starts_with('/') => Some(format!("{}{rest}", prefix.to.trim_end_matches('/'))),
                _ => None,
            }
        }
        PathRewrite::Regex { pattern, replacement } => {
            let captures = pattern.captures(path)?;
            let mut text = String::with_capacity(replacement.len() + path.len());
            let mut rest = &**replacement;
            while let Some(dollar) = rest.find('$') {
                text.push_str(&rest[..dollar]);
                rest = &rest[dollar + 1..];
                match rest.bytes().next().filter(u8::is_ascii_digit) {
                    Some(digit) => {
                        let group = captures.get(usize::from(digit - b'0'));
                        text.push_str(group.map_or("", |group| group.as_str()));
                        rest = &rest[1..];
                    }
                    None => text.push('$'),
                }
            }
            text.push_str(rest);
            Some(text)
        }
    }
}

/// A decoded path and a query as the target of a request; `None` if nobody could read that.
pub(crate) fn target(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = utf8_percent_encode(path, ESCAPED);
    let target = match query {
        Some(query) => format!("{slash}{path}?{query}"),
        None => format!("{slash}{path}"),
    };
    PathAndQuery::from_maybe_shared(target.into_bytes()).ok()
}

/// A decoded URL as the value of `Location`.
pub(crate) fn location(url: &str, query: Option<&str>) -> String {
    let url = utf8_percent_encode(url, ESCAPED);
    match query {
        Some(query) => format!("{url}?{query}"),
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{filter::Prefix, pattern::Pattern};

    fn regex(path: &str, replacement: &str) -> PathRewrite {
        PathRewrite::Regex { pattern: Pattern::of_path(path).unwrap(), replacement: replacement.into() }
    }

    #[test]
    fn the_whole_path_becomes_the_replacement() {
        let rewrite = regex("/something(/|$)(.*)", "/$2");
        for (path, expected) in [
            ("/something/new", Some("/new")),
            ("/something/new/", Some("/new/")),
            ("/SOMETHING", Some("/")),
            ("/somethingelse", None),
        ] {
            assert_eq!(rewritten(&rewrite, path).as_deref(), expected, "{path}");
        }
        for path in ["/api/x", "/apifoo", "/api"] {
            assert_eq!(rewritten(&regex("/api", "/v1"), path).unwrap(), "/v1");
        }
        assert_eq!(rewritten(&regex("/(a)(b)?", "/$1-$2-$3$$x$"), "/a").unwrap(), "/a--$$x$");
        assert_eq!(rewritten(&PathRewrite::Full("/x".into()), "/y").unwrap(), "/x");
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_elements() {
        for (from, to, path, expected) in [
            ("/foo", "/bar", "/foo", Some("/bar")),
            ("/foo", "/bar", "/foo/x", Some("/bar/x")),
            ("/foo/", "/bar/", "/foo/x/", Some("/bar/x/")),
            ("/foo", "/", "/foo", Some("/")),
            ("/foo", "/", "/foo/x", Some("/x")),
            ("/", "/bar", "/x", Some("/bar/x")),
            ("/foo", "/bar", "/foobar", None),
        ] {
            let rewrite = PathRewrite::Prefix(Prefix { from: from.into(), to: to.into() });
            assert_eq!(rewritten(&rewrite, path).as_deref(), expected, "{from} {to} {path}");
        }
    }

    #[test]
    fn what_was_decoded_is_encoded_again() {
        for (path, query, expected) in [
            ("/a b/ü?#%", Some("x=%20&y"), "/a%20b/%C3%BC%3F%23%25?x=%20&y"),
            ("/a\r\nb", None, "/a%0D%0Ab"),
            ("x", None, "/x"),
            ("", Some(""), "/?"),
            ("/a{\"|}<>\\^`", None, "/a%7B%22%7C%7D%3C%3E%5C%5E%60"),
        ] {
            assert_eq!(target(path, query).unwrap().as_str(), expected);
        }
        assert_eq!(location("https://a.b/x y", Some("q")), "https://a.b/x%20y?q");
    }
}
