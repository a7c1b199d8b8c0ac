//! What a connection speaks, by its first bytes: HTTP/2 after its whole preface and never otherwise.

use tidegate::fuzzing::spoken;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn run(data: &[u8]) {
    for end in 0..=data.len().min(100) {
        check(&data[..end]);
    }
    check(data);
}

fn check(bytes: &[u8]) {
    let expected = match () {
        () if bytes.starts_with(PREFACE) => Some("HTTP/2"),
        () if PREFACE.starts_with(bytes) => None,
        () if names_http(bytes) => Some("HTTP/1"),
        () => Some("nothing"),
    };
    assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
}

/// Whether the first line is not whole, or empty, or its last word begins with `HTTP/`.
fn names_http(bytes: &[u8]) -> bool {
    let text: Vec<char> = bytes.iter().map(|byte| char::from(*byte)).collect();
    let Some(end) = text.iter().position(|c| *c == '\n') else { return true };
    let line: String = text[..end].iter().collect();
    let line = line.trim_matches(|c: char| c.is_ascii_whitespace());
    line.is_empty() || line.split(' ').next_back().is_some_and(|word| word.starts_with("HTTP/"))
}
