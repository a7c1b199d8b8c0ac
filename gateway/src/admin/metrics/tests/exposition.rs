//! A strict reader of the OpenMetrics text format (1.0): what a Prometheus would forgive, it does not.

use std::collections::{BTreeMap, BTreeSet};

/// A series: its name and its labels in order.
type Series = (String, Vec<(String, String)>);

/// Reads all of it, and gives back the samples as written.
///
/// # Panics
/// With what is wrong, if anything is.
pub(crate) fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut family = Family::default();
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family.check();
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "twice: {name}");
            let prefixes = ["tidegate_", "process_", "nginx_ingress_controller_"];
            assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "{line}");
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            family = Family { name: name.to_owned(), ..Family::default() };
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name == family.name && family.kind.is_empty(), "TYPE follows its HELP: {line}");
            kind.clone_into(&mut family.kind);
        } else {
            let (written, value) = line.rsplit_once(' ').unwrap();
            let series = series(written);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            family.add(series, value, line);
            assert!(samples.insert(written.to_owned(), value).is_none(), "twice: {written}");
        }
    }
    family.check();
    samples
}

/// Buckets by bound, sum and count.
type Histogram = (Vec<(f64, f64)>, Option<f64>, Option<f64>);

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    samples: Vec<(Series, f64)>,
}

impl Family {
    fn add(&mut self, series: Series, value: f64, line: &str) {
        let suffix = series.0.strip_prefix(self.name.as_str()).unwrap_or_else(|| panic!("{line} in {}", self.name));
        let suffixes: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" | "unknown" => &[""],
            "info" => &["_info"],
            "histogram" => &["_sum", "_count", "_bucket"],
            other => panic!("type {other:?}: {line}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(self.kind == "gauge" || value >= 0.0, "{line}");
        assert!(self.kind != "info" || value == 1.0, "{line}");
        let has_le = series.1.iter().any(|(name, _)| name == "le");
        assert_eq!(has_le, suffix == "_bucket", "{line}");
        self.samples.push((series, value));
    }

    fn check(&self) {
        assert!(self.name.is_empty() || !self.samples.is_empty(), "no samples: {}", self.name);
        if self.kind == "histogram" {
            self.check_histogram();
        }
    }

    /// For each set of labels: buckets that ascend in bound and count up to `+Inf`, which is the count, and a sum.
    fn check_histogram(&self) {
        let mut sets = BTreeMap::<Vec<(String, String)>, Histogram>::new();
        for ((name, labels), value) in &self.samples {
            let others = labels.iter().filter(|(name, _)| name != "le").cloned().collect();
            let set = sets.entry(others).or_default();
            if let Some((_, le)) = labels.iter().find(|(name, _)| name == "le") {
                assert!(le == "+Inf" || le.contains('.'), "bounds are canonical floats: {le}");
                set.0.push((le.parse().unwrap(), *value));
            } else if name.ends_with("_sum") {
                assert!(set.1.replace(*value).is_none());
            } else {
                assert!(set.2.replace(*value).is_none());
            }
        }
        for (labels, (buckets, sum, count)) in sets {
            let what = format!("{}{labels:?}: {buckets:?}", self.name);
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{what}");
            assert_eq!(buckets.last().copied(), count.map(|count| (f64::INFINITY, count)), "{what}");
            assert!(sum.is_some(), "{what}");
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn series(written: &str) -> Series {
    let Some((name, rest)) = written.split_once('{') else {
        assert!(is_name(written), "{written}");
        return (written.to_owned(), Vec::new());
    };
    assert!(is_name(name), "{written}");
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("no end: {written}"));
    let (mut labels, mut names) = (Vec::new(), BTreeSet::new());
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no value: {written}"));
        assert!(is_name(label) && names.insert(label), "{written}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end of a value: {written}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, escaped @ ('"' | '\\'))) => escaped,
                    other => panic!("escape {other:?}: {written}"),
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels)
}
