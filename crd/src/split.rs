//! A file is cut into its documents before any of it is parsed, so that a broken document takes down only itself.

/// The text of one document.
#[derive(Debug, PartialEq)]
pub(crate) struct Chunk<'t> {
    /// Line of the file on which the text begins, from 1.
    pub(crate) line: usize,
    pub(crate) text: &'t str,
}

/// The documents of a file, without those that hold nothing but comments.
///
/// `---` and `...` at the first column, followed by white space, end a document wherever they stand, even inside a block
/// scalar (YAML 1.2.2, section 9.1.2, `c-forbidden`); so looking at lines is enough.
pub(crate) fn documents(file: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut line = 1;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (text, lines) = next_document(rest);
            let chunk = Chunk { line, text };
            rest = &rest[text.len()..];
            line += lines;
            if !is_blank(text) {
                return Some(chunk);
            }
        }
        None
    })
}

/// The text up to the next marker, and the number of its lines. A document begins with its `---`, and ends with its `...`.
fn next_document(text: &str) -> (&str, usize) {
    let (mut length, mut lines) = (0, 0);
    for line in text.split_inclusive('\n') {
        if lines > 0 && is_marker(line, "---") {
            break;
        }
        length += line.len();
        lines += 1;
        if is_marker(line, "...") {
            break;
        }
    }
    (&text[..length], lines)
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Only comments, directives such as `%YAML 1.2`, and markers. The text of a document stops at the first line of content.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let content = if is_marker(line, "---") || is_marker(line, "...") { &line[3..] } else { line };
        let content = content.trim_matches([' ', '\t', '\r', '\u{feff}']);
        content.is_empty() || content.starts_with('#') || line.starts_with('%')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(file: &str) -> Vec<(usize, &str)> {
        documents(file).map(|chunk| (chunk.line, chunk.text)).collect()
    }

    #[test]
    fn documents_keep_their_first_line() {
        assert_eq!(cut("a: 1\n---\nb: 2\n"), [(1, "a: 1\n"), (2, "---\nb: 2\n")]);
        assert_eq!(cut("---\r\na: 1\r\n---\r\nb: 2"), [(1, "---\r\na: 1\r\n"), (3, "---\r\nb: 2")]);
        assert_eq!(cut("--- {a: 1}\n--- # two\nb: 2\n"), [(1, "--- {a: 1}\n"), (2, "--- # two\nb: 2\n")]);
    }

    #[test]
    fn documents_without_content_are_left_out() {
        assert!(cut("").is_empty());
        assert!(cut("\u{feff}# nothing\n---\n---\n\n%YAML 1.2\n--- # still nothing\n...\n").is_empty());
        assert_eq!(cut("# head\n---\n---\na: 1\n"), [(3, "---\na: 1\n")]);
    }

    #[test]
    fn an_end_marker_ends_a_document() {
        assert_eq!(cut("a: 1\n...\n%YAML 1.2\n---\nb: 2\n"), [(1, "a: 1\n...\n"), (4, "---\nb: 2\n")]);
    }

    #[test]
    fn only_a_marker_at_the_first_column_counts() {
        for text in ["a: |\n  ---\n  b\n", "a: ---\n", "----\n", "---a: 1\n", "a:\n ---\n"] {
            assert_eq!(cut(text), [(1, text)]);
        }
    }
}
