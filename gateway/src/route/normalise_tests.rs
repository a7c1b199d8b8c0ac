use proptest::prelude::*;

use super::*;

#[test]
fn usual_paths_are_not_copied() {
    for path in ["/", "/a", "/a/", "/a/b.c/d..e/g:h@i", "/a.", "/é", "/a..", "/index.html", "/.well-known/x"] {
        let normal = normalise(path).unwrap();
        assert_eq!(normal, path);
        // A dot in front is worth a second look, and no more.
        assert_eq!(matches!(normal, Cow::Borrowed(_)), !path.contains("/."), "{path}");
    }
}

#[test]
fn equal_paths_have_one_form() {
    for (path, normal) in [
        ("/%61", "/a"),
        ("/caf%C3%A9", "/café"),
        ("/caf%c3%a9", "/café"),
        ("//", "/"),
        ("///a//b//", "/a/b/"),
        ("/a%2Fb", "/a/b"),
        ("/a%2f%2Fb", "/a/b"),
        ("/.", "/"),
        ("/./", "/"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../", "/a/"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a//../b", "/b"),
        ("/a/...", "/a/..."),
        ("/a/..b", "/a/..b"),
        ("/a/b..", "/a/b.."),
        ("/a%3Fb%23c", "/a?b#c"),
        ("/a%3bb", "/a;b"),
        ("/admin;x/y", "/admin;x/y"),
        ("/%20", "/ "),
        // Once, not twice.
        ("/%2561", "/%2561"),
        ("/%252e%252e%252fadmin", "/%252e%252e%252fadmin"),
        ("/100%25", "/100%25"),
        // No UTF-8: Latin-1, overlong slash and dot, a surrogate, a lone continuation.
        ("/caf%E9", "/caf%E9"),
        ("/a/..%c0%afb", "/a/..%C0%AFb"),
        ("/a/%c0%ae%c0%ae/b", "/a/%C0%AE%C0%AE/b"),
        ("/%ed%a0%80", "/%ED%A0%80"),
        ("/%80", "/%80"),
        ("/corp%5cbob", "/corp%5Cbob"),
    ] {
        assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
    }
}

#[test]
fn what_readers_would_dispute_is_refused() {
    for (path, malformed) in [
        ("", Malformed::Relative),
        ("*", Malformed::Relative),
        ("a/b", Malformed::Relative),
        ("/..", Malformed::AboveRoot),
        ("/../etc/passwd", Malformed::AboveRoot),
        ("/a/../..", Malformed::AboveRoot),
        ("/a/%2e%2e/%2e%2e/b", Malformed::AboveRoot),
        ("//..", Malformed::AboveRoot),
        ("/%", Malformed::Escape),
        ("/%4", Malformed::Escape),
        ("/%zz", Malformed::Escape),
        ("/%+1", Malformed::Escape),
        ("/a%2", Malformed::Escape),
        ("/%u002e", Malformed::Escape),
        ("/%é1", Malformed::Escape),
        ("/a%00", Malformed::Control),
        ("/a%00.html", Malformed::Control),
        ("/a%0d%0aX:1", Malformed::Control),
        ("/a%7f", Malformed::Control),
        ("/a\tb", Malformed::Control),
        ("/a\0", Malformed::Control),
        ("/a\\b", Malformed::Backslash),
        ("/a\\..\\b", Malformed::Backslash),
        ("/%2e%2e%2f", Malformed::Disguised),
        ("/public/..%2fadmin", Malformed::Disguised),
        ("/open/b%2Fc/../../admin", Malformed::Disguised),
        ("/open/;x/../admin", Malformed::Disguised),
        ("/%3b%2fx/admin", Malformed::Disguised),
        ("/;x%5Cy/admin", Malformed::Disguised),
        ("/open/a%5Cb/../../admin", Malformed::Disguised),
        ("/a/..;/b", Malformed::Disguised),
        ("/a/..;x=1/b", Malformed::Disguised),
        ("/a/.;/b", Malformed::Disguised),
        ("/a/%2e%2e;/b", Malformed::Disguised),
        ("/a/..%3b/b", Malformed::Disguised),
        ("/a/..%5cb", Malformed::Disguised),
        ("/a/b%5C..%5Cc", Malformed::Disguised),
        ("/a%5c..", Malformed::Disguised),
        ("/a%5c..;x", Malformed::Disguised),
    ] {
        assert_eq!(normalise(path), Err(malformed), "{path}");
    }
}

#[test]
fn what_other_pods_read() {
    for (path, expected) in [
        ("/a", None),
        ("/a/", None),
        ("/a//b/./%63", None),
        ("/a..", None),
        ("/corp%5cann", Some("/corp/ann")),
        ("/admin%5c", Some("/admin")),
        ("/admin;x", Some("/admin")),
        ("/a%3bx/b;y", Some("/a/b")),
        ("/;x/admin", Some("/admin")),
        ("/admin/../open", Some("/admin/../open")),
        ("/admin/%2e%2e/open", Some("/admin/../open")),
        ("//admin/./x/../..//open/", Some("/admin/x/../../open")),
        ("/admin/..%2fopen", None),
        ("/%", None),
    ] {
        assert_eq!(other_reading(path).as_deref(), expected, "{path}");
    }
}

/// The table on top of the file read naively: all bytes decoded, then a stack of elements.
fn naive(path: &str) -> Result<String, ()> {
    let written = path.as_bytes();
    if written.first() != Some(&b'/') || written.iter().any(|b| b.is_ascii_control() || *b == b'\\') {
        return Err(());
    }
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < written.len() {
        if written[at] == b'%' {
            let digits = path.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(())?;
            let byte = u8::from_str_radix(digits, 16).map_err(drop)?;
            if byte.is_ascii_control() {
                return Err(());
            }
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(written[at]);
            at += 1;
        }
    }
    let climbs = decoded.split(|byte| *byte == b'/').any(|element| element == b"..");
    let lower = path.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let odd = [climbs, has(&["%2f"]), has(&["%5c"]), has(&[";", "%3b"])];
    if odd.iter().filter(|odd| **odd).count() > 1 {
        return Err(());
    }
    let mut elements: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for element in decoded[1..].split(|byte| *byte == b'/') {
        last = element;
        match element {
            b"" | b"." => {}
            b".." => drop(elements.pop().ok_or(())?),
            other => {
                let is_dots = |part: &[u8]| matches!(part.split(|b| *b == b';').next(), Some(b"." | b".."));
                if other.split(|byte| *byte == b'\\').any(is_dots) {
                    return Err(());
                }
                elements.push(other);
            }
        }
    }
    let mut normal = String::new();
    for element in elements {
        normal.push('/');
        for chunk in element.utf8_chunks() {
            normal += &chunk.valid().replace('%', "%25").replace('\\', "%5C");
            normal.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
        }
    }
    if matches!(last, b"" | b"." | b"..") {
        normal.push('/');
    }
    Ok(normal)
}

/// Paths out of what is hard about paths.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("/".to_owned()),
        2 => prop::sample::select(vec!["a", "admin", ".", "..", "...", ";", ";x", "é", "-"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["%2f", "%2F", "%2e", "%2E", "%5c", "%25", "%3b", "%61", "%c0", "%af", "%C3%A9"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\\", "%", "%0", "%00", "%0a", "\t", "%zz", "?"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn agrees_with_the_table_read_naively(path in path()) {
        prop_assert_eq!(normalise(&path).map(Cow::into_owned).map_err(drop), naive(&path), "{}", path);
    }

    #[test]
    fn of_anything_too(path in "/?\\PC{0,12}|/[/.%;a2fe5c]{0,16}") {
        prop_assert_eq!(normalise(&path).map(Cow::into_owned).map_err(drop), naive(&path), "{}", path);
    }

    #[test]
    fn a_normal_path_stays_as_it_is_and_climbs_nowhere(path in path()) {
        let Ok(normal) = normalise(&path) else { return Ok(()) };
        let again = normalise(&normal).map(Cow::into_owned);
        prop_assert_eq!(again, Ok(normal.clone().into_owned()), "{}", path);
        prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{} of {}", normal, path);
        prop_assert!(!normal.split('/').any(|element| matches!(element, "." | "..")), "{} of {}", normal, path);
    }

    /// However a pod reads a path, it does not come to a place under /admin unless the rules were asked about /admin:
    /// by the normal path or, if there is one, by the other reading (if then the two disagree, the path is refused).
    #[test]
    fn no_reading_leads_past_a_rule(path in path()) {
        let Ok(normal) = normalise(&path) else { return Ok(()) };
        let is_admin = |path: &str| path == "/admin" || path.starts_with("/admin/");
        let is_guarded = is_admin(&normal) || other_reading(&path).is_some_and(|path| is_admin(&path));
        for (name, reading) in readings(&path) {
            prop_assert!(!is_admin(&reading) || is_guarded, "{} reads {} of {} ({})", name, reading, path, normal);
        }
    }
}

/// How pods read paths: which escapes they decode, what they take for a slash, and whether they resolve `..`.
fn readings(path: &str) -> Vec<(String, String)> {
    let mut readings = Vec::new();
    for decodes in ["nothing", "all but slashes", "all"] {
        for backslash in [false, true] {
            for cuts in [false, true] {
                for resolves in [false, true] {
                    let mut read = match decodes {
                        "nothing" => path.to_owned(),
                        "all but slashes" => decoded(&path.replace("%2f", "%252f").replace("%2F", "%252F")),
                        _ => decoded(path),
                    };
                    if backslash {
                        read = read.replace('\\', "/");
                    }
                    let mut elements: Vec<&str> = Vec::new();
                    for element in read.split('/') {
                        let cut = if cuts { element.split(';').next().unwrap() } else { element };
                        match cut {
                            "" => {}
                            "." if resolves => {}
                            ".." if resolves => drop(elements.pop()),
                            other => elements.push(other),
                        }
                    }
                    readings.push((
                        format!("decodes {decodes}, backslash {backslash}, cuts {cuts}, resolves {resolves}"),
                        format!("/{}", elements.join("/")),
                    ));
                }
            }
        }
    }
    readings
}

fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escape = path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (out.push(byte), at += 3).1,
            None => (out.push(bytes[at]), at += 1).1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
