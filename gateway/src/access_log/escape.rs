//! Makes what a client sent harmless: whatever bytes a value has, its line stays one line and its field one field.

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// As in nginx's logs: `"`, `\`, control characters and everything beyond ASCII become `\xHH`.
    Hex,
    /// As the content of a JSON string (RFC 8259 section 7). What is no UTF-8 becomes U+FFFD. The control characters beyond ASCII
    /// and the separators of lines and paragraphs are escaped too: some readers take them for the end of a line.
    Json,
}

impl Escape {
    /// Appends `value`.
    pub(super) fn write(self, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Hex => hex(value, out),
            Self::Json => json(value, out),
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Printable ASCII that means nothing in either form.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn hex(mut value: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = value.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&value[..at]);
        let byte = usize::from(value[at]);
        out.extend_from_slice(&[b'\\', b'x', DIGITS[byte >> 4], DIGITS[byte & 15]]);
        value = &value[at + 1..];
    }
    out.extend_from_slice(value);
}

fn json(value: &[u8], out: &mut Vec<u8>) {
    let plain = value.iter().position(|byte| !is_plain(*byte)).unwrap_or(value.len());
    let (plain, rest) = value.split_at(plain);
    out.extend_from_slice(plain);
    for chunk in rest.utf8_chunks() {
        for char in chunk.valid().chars() {
            json_char(char, out);
        }
        if !chunk.invalid().is_empty() {
            json_char(char::REPLACEMENT_CHARACTER, out);
        }
    }
}

fn json_char(char: char, out: &mut Vec<u8>) {
    match char {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{2028}' | '\u{2029}' => unicode(char, out),
        char if char.is_control() => unicode(char, out),
        char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// All that comes here is below U+10000.
fn unicode(char: char, out: &mut Vec<u8>) {
    let code = char as usize;
    let digit = |shift: u32| DIGITS[(code >> shift) & 15];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(escape: Escape, value: &[u8]) -> String {
        let mut out = Vec::new();
        escape.write(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_nginx_writes_it() {
        assert_eq!(
            written(Escape::Hex, b"a \"b\"\\\r\n\0\x7f\xc3\xa4~"),
            "a \\x22b\\x22\\x5C\\x0D\\x0A\\x00\\x7F\\xC3\\xA4~"
        );
    }

    #[test]
    fn as_json() {
        let odd = "ä\"\\\n\u{1}\u{7f}\u{85}\u{2028}😀";
        assert_eq!(written(Escape::Json, odd.as_bytes()), "ä\\\"\\\\\\n\\u0001\\u007F\\u0085\\u2028😀");
        assert_eq!(written(Escape::Json, b"a\xffb\xc3"), "a\u{fffd}b\u{fffd}");
    }

    proptest! {
        #[test]
        fn json_gives_back_what_went_in(value in any::<Vec<u8>>()) {
            let text = written(Escape::Json, &value);
            let read: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value).into_owned());
            prop_assert_eq!(text.lines().count(), usize::from(!text.is_empty()));
        }

        #[test]
        fn no_value_ends_its_line_or_its_field(value in any::<Vec<u8>>()) {
            let text = written(Escape::Hex, &value);
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"'), "{}", text);
        }
    }
}
