//! Changes attributes of the cookies that a pod sets, as nginx's `proxy_cookie_domain` and `proxy_cookie_path` do.

use http::{HeaderMap, HeaderValue, header};

use crate::route::filter::Prefix;

/// A `Domain` that is `from` becomes `to`; a dot in front and the case do not matter.
pub(super) fn domain(change: &Prefix, headers: &mut HeaderMap) {
    let bare = |text: &str| text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
    let from = bare(&change.from);
    edit(headers, "domain", |value| (bare(value) == from).then(|| change.to.to_string()));
}

/// A `Path` that begins with `from` begins with `to` instead.
pub(super) fn path(change: &Prefix, headers: &mut HeaderMap) {
    edit(headers, "path", |value| Some(format!("{}{}", change.to, value.strip_prefix(&*change.from)?)));
}

/// Changes the attribute `name` of every cookie for which `new` gives a new value.
fn edit(headers: &mut HeaderMap, name: &str, new: impl Fn(&str) -> Option<String>) {
    let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) else { return };
    for cookie in cookies.iter_mut() {
        let Ok(text) = cookie.to_str() else { continue };
        let attribute = text.split(';').skip(1).find_map(|attribute| {
            let (found, value) = attribute.split_once('=')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let Some((value, new)) = attribute.and_then(|value| Some((value, new(value)?))) else { continue };
        // Where the value stands in the text: the two are one piece of memory.
        let at = value.as_ptr() as usize - text.as_ptr() as usize;
        let edited = format!("{}{new}{}", &text[..at], &text[at + value.len()..]);
        if let Ok(edited) = HeaderValue::try_from(edited) {
            *cookie = edited;
        }
    }
}
