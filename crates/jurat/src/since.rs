//! A time as somebody types it: `--since`.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// Reads a time for comparison with entries, which write theirs in UTC with nine digits after the second.
pub(crate) fn since(text: &str) -> Result<String, String> {
    read(text, Timestamp::now())
}

fn read(text: &str, now: Timestamp) -> Result<String, String> {
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| date(text))
        .or_else(|| ago(text, now));
    time.map(|time| format!("{time:.9}")).ok_or_else(|| {
        "a time is written 2026-11-01T10:00:00Z, 2026-11-01T10:00:00+02:00 or 2026-11-01, all of them RFC 3339, or how \
         long ago: 30m, 2h, 7d"
            .into()
    })
}

/// A day begins at midnight UTC. Nothing but a date: what has a time without an offset could be any.
fn date(text: &str) -> Option<Timestamp> {
    let date: Date = text.parse().ok().filter(|_| text.len() == 10)?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// So long before now; days have 24 hours.
fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let begins_so = text.starts_with(|first: char| first.is_ascii_digit());
    let span: Span = text.parse().ok().filter(|_| begins_so)?;
    let length: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    now.checked_sub(length.abs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_instant_however_it_is_written_and_nonsense_is_refused() {
        let now: Timestamp = "2026-11-21T16:00:00Z".parse().unwrap();
        let wanted = Ok("2026-11-21T15:09:00.000000000Z".to_owned());
        for same in [
            "2026-11-21T15:09:00Z",
            "2026-11-21T15:09:00.0Z",
            "2026-11-21T17:09:00+02:00",
            "2026-11-21T04:39:00-10:30",
            "51m",
        ] {
            assert_eq!(read(same, now), wanted, "{same}");
        }
        for (text, time) in [
            ("2026-11-21", "2026-11-21T00:00:00.000000000Z"),
            ("2h", "2026-11-21T14:00:00.000000000Z"),
            ("1h 30m", "2026-11-21T14:30:00.000000000Z"),
            ("7d", "2026-11-14T16:00:00.000000000Z"),
        ] {
            assert_eq!(read(text, now), Ok(time.to_owned()), "{text}");
        }
        for wrong in [
            "",
            "0",
            "2026",
            "1763700000",
            "yesterday",
            "2026-11-31",
            "2026-11-21T15:09:00",
            "2026-11",
            "20261121",
            "-2h",
            "1mo",
            "99999999999h",
        ] {
            assert!(read(wrong, now).is_err(), "{wrong}: {:?}", read(wrong, now));
        }
    }
}
