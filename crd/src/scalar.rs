//! What a plain (unquoted) YAML scalar means.
//!
//! We read what `kubectl` would read. Its parser (`sigs.k8s.io/yaml`, a YAML 1.1 parser) takes plain `yes`, `no`, `on`, `off`,
//! `y` and `n` for booleans and `0644` for octal, which YAML 1.2 does not. So a manifest that the cluster accepts means the
//! same here, and one that it refuses (`annotations: {a: yes}`) is refused here, with the advice to use quotes.

use std::borrow::Cow;

/// The meaning of a scalar; its text is kept beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Only for numbers above `i64::MAX`.
    Uint(u64),
    Float(f64),
    Text,
}

/// The meaning of a plain scalar.
pub(crate) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) => number(text),
        _ => Scalar::Text,
    }
}

fn number(text: &str) -> Scalar {
    let digits = if text.contains('_') { Cow::Owned(text.replace('_', "")) } else { Cow::Borrowed(text) };
    if let Some(integer) = integer(&digits) {
        return match (i64::try_from(integer), u64::try_from(integer)) {
            (Ok(integer), _) => Scalar::Int(integer),
            (_, Ok(integer)) => Scalar::Uint(integer),
            // Larger than any field can hold: the range check of that field reports it.
            _ => Scalar::Float(integer as f64),
        };
    }
    // Rust also reads "inf" and "infinity", which start with a letter after the sign; YAML has them as text.
    let is_number = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    match digits.parse::<f64>() {
        Ok(float) if is_number => Scalar::Float(float),
        _ => Scalar::Text,
    }
}

/// `12`, `0x1f`, `0o17`, `017` and `0b11`, with or without a sign.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        for (text, meaning) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("yes", Scalar::Bool(true)),
            ("off", Scalar::Bool(false)),
            ("true", Scalar::Bool(true)),
            ("80", Scalar::Int(80)),
            ("-1", Scalar::Int(-1)),
            ("+7", Scalar::Int(7)),
            ("0", Scalar::Int(0)),
            ("0644", Scalar::Int(0o644)),
            ("0o17", Scalar::Int(15)),
            ("0x1f", Scalar::Int(31)),
            ("0b11", Scalar::Int(3)),
            ("1_000", Scalar::Int(1000)),
            ("18446744073709551615", Scalar::Uint(u64::MAX)),
            ("1.5", Scalar::Float(1.5)),
            ("1e3", Scalar::Float(1000.0)),
            (".5", Scalar::Float(0.5)),
            ("089", Scalar::Float(89.0)),
            ("1.2.3", Scalar::Text),
            ("10.0.0.1", Scalar::Text),
            ("2024-01-01T00:00:00Z", Scalar::Text),
            ("--1", Scalar::Text),
            ("-", Scalar::Text),
            ("0x", Scalar::Text),
            ("-infinity", Scalar::Text),
            ("80Mi", Scalar::Text),
            ("1:30", Scalar::Text),
            ("http", Scalar::Text),
            ("truely", Scalar::Text),
        ] {
            assert_eq!(resolve(text), meaning, "{text:?}");
        }
    }
}
