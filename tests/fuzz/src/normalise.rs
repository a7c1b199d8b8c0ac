//! The normal form of a path: what the table in `route/normalise.rs` says, taken word by word.

use tidegate::route::normalise::{normalise, other_reading};

pub fn run(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let normal = normalise(path);
    assert_eq!(normal.as_deref().ok(), by_the_table(path).as_deref(), "{path:?}");
    let other = other_reading(path);
    let Ok(normal) = normal else {
        assert_eq!(other, None, "another reading of what has none");
        return;
    };
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal), "the normal form has a normal form of its own");
    assert!(normal.starts_with('/'));
    let elements: Vec<&str> = normal[1..].split('/').collect();
    let (last, others) = elements.split_last().expect("there is one");
    assert!(others.iter().all(|element| !["", ".", ".."].contains(element)), "{normal}");
    assert!(![".", ".."].contains(last), "{normal}");
    assert_eq!(normalise(&escaped(path)).as_deref(), Ok(&*normal), "escaping letters makes a difference");
    if let Some(other) = other {
        assert!(other.starts_with('/') && !other.contains("//") && !other.contains(['\\', ';']), "{other}");
        assert_ne!(other.trim_end_matches('/'), normal.trim_end_matches('/'), "another reading that is the same");
    }
    // Where nothing is disputable, there is one reading.
    if !path.contains(['%', ';', '.']) {
        assert_eq!(other_reading(path), None);
    }
}

/// Letters and digits that are no part of an escape, escaped.
fn escaped(path: &str) -> String {
    let mut text = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => {
                text.push('%');
                text.extend(chars.by_ref().take(2));
            }
            c if c.is_ascii_alphanumeric() => text.push_str(&format!("%{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// A byte of a path, and whether it was escaped.
type Letter = (u8, bool);

/// `None` where it is refused.
fn by_the_table(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\\') || path.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let mut letters: Vec<Letter> = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            letters.push((byte, false));
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?].map(char::from);
        let [high, low] = digits.map(|digit| digit.to_digit(16));
        let byte = u8::try_from(high? * 16 + low?).ok()?;
        if byte.is_ascii_control() {
            return None;
        }
        letters.push((byte, true));
    }
    let has = |letter: Letter| letters.contains(&letter);
    let elements: Vec<&[Letter]> = letters.split(|(byte, _)| *byte == b'/').skip(1).collect();
    let is_dots = |letters: &[Letter], dots: &[u8]| letters.iter().map(|(byte, _)| *byte).eq(dots.iter().copied());
    let disputable = [
        elements.iter().any(|element| is_dots(element, b"..")),
        has((b'/', true)),
        has((b';', true)) || has((b';', false)),
        has((b'\\', true)),
    ];
    if disputable.iter().filter(|is_there| **is_there).count() > 1 {
        return None;
    }
    let mut kept: Vec<&[Letter]> = Vec::new();
    let mut is_open = false;
    for element in elements {
        is_open = true;
        match () {
            () if element.is_empty() || is_dots(element, b".") => {}
            () if is_dots(element, b"..") => drop(kept.pop()?),
            () => {
                let mut parts = element.split(|(byte, _)| *byte == b'\\');
                let bare = |part: &[Letter]| part.split(|(byte, _)| *byte == b';').next().unwrap_or(&[]).to_vec();
                if parts.any(|part| is_dots(&bare(part), b".") || is_dots(&bare(part), b"..")) {
                    return None;
                }
                kept.push(element);
                is_open = false;
            }
        }
    }
    let mut normal: String = kept.iter().map(|element| format!("/{}", written(element))).collect();
    if is_open {
        normal.push('/');
    }
    Some(normal)
}

fn written(letters: &[Letter]) -> String {
    let bytes: Vec<u8> = letters.iter().map(|(byte, _)| *byte).collect();
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25").replace('\\', "%5C"));
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}
