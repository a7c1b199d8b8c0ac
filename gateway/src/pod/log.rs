//! What a pod remembers of its requests, as `kubectl logs` would show it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::limits;

/// The last lines, oldest first.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<VecDeque<String>>);

impl Log {
    /// Adds a line with the time of now before it. The oldest goes if there are too many.
    pub(super) fn write(&self, what: fmt::Arguments<'_>) {
        let mut line = format!("{} {what}", humantime::format_rfc3339_millis(SystemTime::now()));
        if line.len() > limits::LOG_LINE_BYTES_MAX {
            line.truncate(line.floor_char_boundary(limits::LOG_LINE_BYTES_MAX));
            line.push('…');
            // What was cut off would be kept as room for more.
            line.shrink_to_fit();
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == limits::LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All of it; each line ends with a line feed.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_line_goes_first_and_long_ones_are_cut() {
        let log = Log::default();
        assert_eq!(log.text(), "");
        for number in 0..=limits::LOG_LINES_MAX {
            log.write(format_args!("line {number}"));
        }
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), limits::LOG_LINES_MAX);
        assert!(lines[0].ends_with("Z line 1") && lines[999].ends_with("Z line 1000"), "{}", lines[0]);
        assert_eq!(lines[0].len(), "2026-11-27T14:00:00.123Z line 1".len());

        log.write(format_args!("{}", "é".repeat(limits::LOG_LINE_BYTES_MAX)));
        let text = log.text();
        let last = text.lines().last().unwrap();
        assert!(last.ends_with("é…") && last.len() <= limits::LOG_LINE_BYTES_MAX + "…".len(), "{last}");
        let capacity = log.0.lock().unwrap().back().unwrap().capacity();
        assert!(capacity <= limits::LOG_LINE_BYTES_MAX + "…".len(), "{capacity} bytes are kept of it");
    }
}
