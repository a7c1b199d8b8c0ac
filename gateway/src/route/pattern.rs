//! A regular expression that a user wrote: compiled once, with limits on its size and on what a match may cost.
//!
//! The syntax is PCRE's as far as people use it in Ingresses, look-ahead and back references included. What needs neither runs
//! in time linear to the text. The rest backtracks, and gives up after [`MAX_STEPS`]: a pattern must not stop the worker.

use std::{fmt, hash, sync::Arc};

use fancy_regex::{Captures, Regex, RegexBuilder};

/// Longest pattern; a path longer than a URL can hardly be meant.
const MAX_BYTES: usize = 2_048;

/// Memory of a compiled pattern. The largest alternations people write take a tenth of it.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Steps of backtracking in one match, about a millisecond; giving up counts as no match.
const MAX_STEPS: usize = 100_000;

/// A pattern. Two are equal if they are written alike.
#[derive(Clone)]
pub struct Pattern {
    written: Arc<str>,
    regex: Arc<Regex>,
}

impl Pattern {
    /// A pattern that matches anywhere, and tells apart upper and lower case; the error says what is wrong with it.
    pub fn new(written: &str) -> Result<Self, String> {
        Self::compile(written, written, false)
    }

    /// A pattern for paths as ingress-nginx reads them: bound to the beginning, open at the end, blind to case. The `^` is put
    /// in front of the text as it is, so of `/a|/b` only the first half is bound, there as here.
    pub fn of_path(written: &str) -> Result<Self, String> {
        Self::compile(written, &format!("^{written}"), true)
    }

    fn compile(written: &str, pattern: &str, ignore_case: bool) -> Result<Self, String> {
        if pattern.len() > MAX_BYTES {
            return Err(format!("it is longer than {MAX_BYTES} bytes"));
        }
        let mut builder = RegexBuilder::new(pattern);
        builder.case_insensitive(ignore_case).backtrack_limit(MAX_STEPS);
        builder.delegate_size_limit(MAX_COMPILED_BYTES).delegate_dfa_size_limit(MAX_COMPILED_BYTES);
        let regex = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { written: written.into(), regex: Arc::new(regex) })
    }

    /// As it was written.
    pub fn as_str(&self) -> &Arc<str> {
        &self.written
    }

    /// Groups in parentheses.
    pub fn groups(&self) -> usize {
        self.regex.captures_len().saturating_sub(1)
    }

    /// Whether it matches. What would cost too much does not.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or(false)
    }

    /// What its groups match.
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t, str>> {
        self.regex.captures(text).ok().flatten()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.regex.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Pattern {}

impl hash::Hash for Pattern {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.regex.as_str().hash(state);
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.regex.as_str().cmp(other.regex.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bound_in_front_open_behind_and_blind_to_case() {
        let pattern = Pattern::of_path("/[A-Z]{3}").unwrap();
        assert!(["/uuid", "/UUID/x", "/abc"].into_iter().all(|path| pattern.is_match(path)));
        assert!(["/ab", "/x/abc", "/12"].into_iter().all(|path| !pattern.is_match(path)));
        assert!(Pattern::of_path("/a|/b").unwrap().is_match("/x/b"));
        assert_eq!((&**pattern.as_str(), pattern.groups()), ("/[A-Z]{3}", 0));
    }

    #[test]
    fn look_ahead_works_and_an_expensive_match_is_none() {
        let pattern = Pattern::of_path("/(?!admin)(.*)").unwrap();
        assert!(pattern.is_match("/shop") && !pattern.is_match("/ADMIN/x"));
        let expensive = Pattern::new(r"^(?:(a+)+\1?)+$(?<=b)").unwrap();
        assert!(!expensive.is_match(&"a".repeat(60)));
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        for bad in ["/(", "/[", &"x".repeat(3_000), "(?:a{1000}){1000}"] {
            assert!(Pattern::of_path(bad).is_err(), "{bad:.20}");
        }
    }
}
