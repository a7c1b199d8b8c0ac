//! Reads values as ingress-nginx and nginx write them. Each error says what should have been written.

use std::{borrow::Cow, time::Duration};

use http::{HeaderName, HeaderValue, header};

/// What should have been written.
pub(super) type Expected = Cow<'static, str>;

/// Fields that belong to one hop or frame a message (RFC 9110 7.6.1, 8.6): what a user made of them could be read in two ways.
/// `Host` has `upstream-vhost`.
const FORBIDDEN: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORBIDDEN_TOO: [&str; 2] = ["keep-alive", "proxy-connection"];

/// The spellings of Go's `strconv.ParseBool`, which ingress-nginx uses.
pub(super) fn boolean(value: &str) -> Result<bool, Expected> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// nginx's `on` and `off`.
pub(super) fn on_off(value: &str) -> Result<bool, Expected> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

/// Seconds of a cookie's life, which may lie in the past.
pub(super) fn cookie_seconds(value: &str) -> Result<i64, Expected> {
    value.parse().map_err(|_| "a whole number of seconds".into())
}

/// A bare number of seconds, at least one: `60s` is not a number in ingress-nginx either.
pub(super) fn seconds(value: &str) -> Result<Duration, Expected> {
    match value.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("a whole number of seconds, without a unit, such as \"60\"".into()),
    }
}

/// A time with its unit, as our own annotations have it.
pub(super) fn duration(value: &str) -> Result<Duration, Expected> {
    match humantime::parse_duration(value) {
        Ok(duration) if duration > Duration::ZERO => Ok(duration),
        _ => Err("a time such as 250ms or 2s".into()),
    }
}

/// A number that is not negative.
pub(super) fn number(value: &str) -> Result<u32, Expected> {
    value.parse().map_err(|_| "a whole number".into())
}

/// nginx's sizes: bytes, or with `k`, `m` or `g`.
pub(super) fn size(value: &str) -> Result<u64, Expected> {
    let expected = || "a size such as \"512k\", \"8m\" or \"1g\"".into();
    let (digits, shift) = match value.char_indices().next_back() {
        Some((at, 'b' | 'B')) => (&value[..at], 0),
        Some((at, 'k' | 'K')) => (&value[..at], 10),
        Some((at, 'm' | 'M')) => (&value[..at], 20),
        Some((at, 'g' | 'G')) => (&value[..at], 30),
        _ => (value, 0),
    };
    let number: u64 =
        digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit())).ok_or_else(expected)?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// A path without anything that would end it.
pub(super) fn path(value: &str) -> Result<&str, Expected> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !"?#\"'\\".contains(c);
    if value.starts_with('/') && value.chars().all(is_plain) {
        return Ok(value);
    }
    Err("a path that begins with /".into())
}

/// The name of a field that may be changed.
pub(super) fn field_name(name: &str) -> Result<HeaderName, Expected> {
    let name = name.trim();
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("another name than {name:?}, which no field can have"))?;
    if parsed == header::HOST {
        return Err("other fields than host, which upstream-vhost changes".into());
    }
    if FORBIDDEN.contains(&parsed) || FORBIDDEN_TOO.contains(&parsed.as_str()) {
        return Err(format!("other fields than {parsed}, which belongs to the connection and not to you").into());
    }
    Ok(parsed)
}

/// The value of a field.
pub(super) fn field_value(value: &str) -> Result<HeaderValue, Expected> {
    HeaderValue::from_str(value.trim()).map_err(|_| "values of visible characters".into())
}

/// Lines `Name: value`.
pub(super) fn fields(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Expected> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':').ok_or("lines of \"Name: value\"")?;
        Ok((field_name(name)?, field_value(value)?))
    };
    text.lines().map(str::trim).filter(|text| !text.is_empty()).map(line).collect()
}

/// Names, apart by commas or lines.
pub(super) fn field_names(text: &str) -> Result<Vec<HeaderName>, Expected> {
    text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty()).map(field_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_nginxs() {
        for (text, bytes) in
            [("0", 0), ("100", 100), ("8m", 8 << 20), ("8M", 8 << 20), ("1k", 1024), ("2G", 2 << 30), ("5b", 5)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "8mb", "-1", "+1", "1.5m", "99999999999999999999", "99999999999g", "é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_have_no_unit_and_our_own_times_do() {
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["60s", "", "-1", "1.5", "0", "99999999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(duration("60").is_err() && duration("0s").is_err());
    }

    #[test]
    fn fields_of_the_connection_cannot_be_set() {
        let good = fields("X-A: 1\n\n  x-b:2 : 3 \n").unwrap();
        let good: Vec<_> = good.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(good, [("x-a", "1"), ("x-b", "2 : 3")]);
        for bad in [
            "Host: x",
            "connection: close",
            "Content-Length: 1",
            "Transfer-Encoding: x",
            "Keep-Alive: 1",
            "a b: c",
            "x",
            "x: \u{7f}",
        ] {
            assert!(fields(bad).is_err(), "{bad}");
        }
        assert_eq!(field_names("X-A, x-b\nx-c").unwrap().len(), 3);
        assert!(field_names("X-A, upgrade").is_err());
    }

    #[test]
    fn paths_have_no_query() {
        assert!(path("/a/b.c").is_ok());
        for bad in ["a", "", "/a?b", "/a b", "/a\n", "/#"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
