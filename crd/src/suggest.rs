//! "Did you mean": the known word nearest to a mistyped one.

/// Words longer than this are not typing errors, and comparing them costs too much.
const LONGEST_WORD: usize = 64;

/// The candidate that differs only in case, or by at most two letters (one letter in short words).
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = if lower.len() <= 4 { 1 } else { 2 };
    candidates
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let words = || ["targetPort", "port", "nodePort"].into_iter();
        assert_eq!(nearest("targetport", words()), Some("targetPort"));
        assert_eq!(nearest("prt", words()), Some("port"));
        assert_eq!(nearest("weight", words()), None);
        assert_eq!(nearest(&"x".repeat(1000), words()), None);
    }
}
