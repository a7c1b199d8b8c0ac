//! Times as logs write them. The date of a second is worked out once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// One second, written. Always UTC: logs of several nodes are read together.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Since 1970; `None` before the first.
    second: Option<u64>,
    millis: u32,
    /// `2006-01-02T15:04:05`
    date: String,
    /// `02/Jan/2006:15:04:05 +0000`
    local: String,
}

impl Clock {
    /// Makes it this time.
    pub(super) fn set(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.millis = since.subsec_millis();
        if self.second.replace(since.as_secs()) != Some(since.as_secs()) {
            // The largest year that can be written in four digits will do for a wrong clock.
            let second = since.as_secs().min(253_402_300_799);
            let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            text.trim_end_matches('Z').clone_into(&mut self.date);
            let (year, month, day, time) = (&text[..4], &text[5..7], &text[8..10], &text[11..19]);
            let month = month.parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
            self.local = format!("{day}/{}/{year}:{time} +0000", month.copied().unwrap_or("???"));
        }
    }

    /// `02/Jan/2006:15:04:05 +0000`, nginx's `$time_local`.
    pub(super) fn local(&self) -> &str {
        &self.local
    }

    /// `2006-01-02T15:04:05`, without fraction and zone.
    pub(super) fn date(&self) -> &str {
        &self.date
    }

    /// Seconds since 1970, and milliseconds.
    pub(super) fn unix(&self) -> (u64, u32) {
        (self.second.unwrap_or_default(), self.millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_dates() {
        let mut clock = Clock::default();
        for (millis, date, local) in [
            (0, "1970-01-01T00:00:00", "01/Jan/1970:00:00:00 +0000"),
            (951_827_696_789, "2000-02-29T12:34:56", "29/Feb/2000:12:34:56 +0000"),
            (1_798_761_599_001, "2026-12-31T23:59:59", "31/Dec/2026:23:59:59 +0000"),
        ] {
            clock.set(UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!((clock.date(), clock.local()), (date, local));
            assert_eq!(clock.unix(), (millis / 1000, (millis % 1000) as u32));
        }
        clock.set(UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(clock.date(), "9999-12-31T23:59:59");
    }
}
