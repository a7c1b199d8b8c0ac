//! What a request's path means: the form of it that rules are asked about.
//!
//! A rule that guards `/admin` must be asked about whatever a pod may take for `/admin`. So escapes are decoded,
//! slashes merged and dot segments resolved before a rule is chosen, as nginx does (`ngx_http_parse_complex_uri`); the
//! pod is sent the path as the client wrote it. What pods read differently is refused if that could lead past a rule.
//! RFC 3986 6.2.2 names the equivalences, 3.3 the characters.
//!
//! | in a path | is | because |
//! |---|---|---|
//! | `%61`, `%C3%A9` | decoded, once | 2.4: never twice, so `%2561` stays `%2561` |
//! | `%2F` | `/` | as nginx: a pod that decodes it must not be led past a rule |
//! | `//` | `/` | nginx's `merge_slashes` |
//! | `.`, `..` | resolved | 5.2.4; in any spelling, as nginx. Some pods leave `..` standing: see [`other_reading`] |
//! | `/..` above the root | refused | nginx: 400. There is nothing above; whoever asks is looking for a hole |
//! | two of `..`, `%2F`, `%5C`, `;` | refused | what is removed depends on who counts: `/a/b%2Fc/../../d` is `/a/d` or `/d` |
//! | `..;x`, `..%5C` | refused | Java servers cut off `;x`, Windows takes `\` for `/`, and both climb |
//! | `%00`–`%1F`, `%7F` | refused | end strings, split lines of logs; nginx refuses only NUL |
//! | `\` | refused | not in a URL's grammar; browsers send `/` for it, Windows reads `/`, others a letter |
//! | `%`, `%4`, `%zz` | refused | not in the grammar; nginx: 400 |
//! | `%5C` elsewhere | stays escaped | a letter to most, as in `/users/CORP%5Cann`; but see [`other_reading`] |
//! | `;x` elsewhere | a letter | 3.3: what parameters mean is the pod's business; but see [`other_reading`] |
//! | `%25`, bytes that are no UTF-8 | stay escaped | so that the normal form has one spelling, and overlong forms (`%C0%AF`) never become `/` |
//! | `?`, `#` (escaped) | a letter | 3.3 |

use std::{borrow::Cow, fmt::Write as _};

/// Why a path has no meaning that everybody would agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// It does not begin with `/`.
    Relative,
    /// A `%` that two hexadecimal digits do not follow.
    Escape,
    /// A control character, escaped or not.
    Control,
    /// A backslash.
    Backslash,
    /// `..` with nothing left to leave.
    AboveRoot,
    /// `.` or `..` that not all pods take for one, or parts that mean one thing here and another there.
    Disguised,
}

/// The path that rules are asked about: begins with `/`, and has no escape (but `%25`, `%5C` and bytes that are no
/// UTF-8, in capitals), no empty element and no `.` or `..`. Borrowed if `path` is in that form already, as nearly all
/// are.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Malformed> {
    match is_usual(path.as_bytes())? {
        true => Ok(Cow::Borrowed(path)),
        false => {
            let decoded = decode(path)?;
            let disputable = [
                decoded.split('/').any(|element| element == ".."),
                // Escaped slashes are those that decoding adds.
                decoded.matches('/').count() > path.matches('/').count(),
                decoded.contains(';'),
                decoded.contains("%5C"),
            ];
            if disputable.into_iter().filter(|is_there| *is_there).count() > 1 {
                return Err(Malformed::Disguised);
            }
            Ok(Cow::Owned(resolve(&decoded)?))
        }
    }
}

/// The path as the laxest pod reads it, if that is another than [`normalise`] gives: `..` stands where it is, `\` is a
/// slash, and parameters are cut off. It is safe to choose a rule by the normal path only if this one finds the same
/// rule, and to be refused if not: else `/admin/../open` goes under the rule of `/open` to a pod that sees `/admin/`,
/// and `/admin;x` under the rule of `/` to one that sees `/admin`.
pub fn other_reading(path: &str) -> Option<String> {
    if is_usual(path.as_bytes()) != Ok(false) {
        return None;
    }
    let normal = normalise(path).ok()?;
    let decoded = decode(path).ok()?;
    let mut other = String::with_capacity(decoded.len());
    for element in decoded.split('/').flat_map(|element| element.split("%5C")) {
        let element = element.split(';').next().unwrap_or_default();
        if !matches!(element, "" | ".") {
            other.push('/');
            other.push_str(element);
        }
    }
    if other == normal.trim_end_matches('/') {
        return None;
    }
    if other.is_empty() {
        other.push('/');
    }
    Some(other)
}

/// Whether there is nothing to do, and nothing to dispute. One pass, and the only one for usual paths.
fn is_usual(path: &[u8]) -> Result<bool, Malformed> {
    if path.first() != Some(&b'/') {
        return Err(Malformed::Relative);
    }
    let mut before = 0;
    let mut is_usual = true;
    for &byte in path {
        match byte {
            b'/' | b'.' if before == b'/' => is_usual = false,
            b'%' | b';' => is_usual = false,
            b'\\' => return Err(Malformed::Backslash),
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            _ => {}
        }
        before = byte;
    }
    Ok(is_usual)
}

/// Takes escapes off, once.
fn decode(path: &str) -> Result<String, Malformed> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let [high, low, after @ ..] = after else { return Err(Malformed::Escape) };
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(Malformed::Escape) };
        rest = after;
        match high << 4 | low {
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            b'%' => bytes.extend_from_slice(b"%25"),
            b'\\' => bytes.extend_from_slice(b"%5C"),
            byte => bytes.push(byte),
        }
    }
    let mut decoded = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        decoded.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(decoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    Ok(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Merges slashes and resolves dot segments (RFC 3986 5.2.4), but for those that not everybody would.
fn resolve(decoded: &str) -> Result<String, Malformed> {
    let mut path = String::with_capacity(decoded.len());
    // Whether the last element names a directory, and so the path ends in a slash.
    let mut is_open = false;
    for element in decoded.split('/').skip(1) {
        is_open = matches!(element, "" | "." | "..");
        match element {
            "" | "." => {}
            ".." => path.truncate(path.rfind('/').ok_or(Malformed::AboveRoot)?),
            element if is_disguised(element) => return Err(Malformed::Disguised),
            element => {
                path.push('/');
                path.push_str(element);
            }
        }
    }
    if is_open {
        path.push('/');
    }
    Ok(path)
}

/// A dot segment to servers that cut off parameters, or take a backslash for a slash.
fn is_disguised(element: &str) -> bool {
    element.starts_with('.') | element.contains("%5C")
        && element.split("%5C").any(|part| matches!(part.split(';').next(), Some("." | "..")))
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
