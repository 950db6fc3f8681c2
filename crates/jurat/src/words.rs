//! Reports for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jurat_agent::{Erased, Status};
use jurat_proof::{NotProven, Quotes, Reason, Report, Signed, Verdict};
use jurat_sink::line::AuditReport;
use serde_json::Value;

/// A number with thousands separated.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How long ago this second since 1970 was.
pub(crate) fn ago(unix_s: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    match now.saturating_sub(unix_s) {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// Foreign text on one line of a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Bytes in a unit that fits.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", count / 1_000_000),
        _ => format!("{} GB", count / 1_000_000_000),
    }
}

/// Names with their counts, most frequent first.
pub(crate) fn counts(map: &BTreeMap<String, u64>) -> String {
    if map.is_empty() {
        return "none".into();
    }
    let mut list: Vec<_> = map.iter().collect();
    list.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
    list.iter()
        .map(|(name, count)| format!("{name} {}", number(**count)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A verdict as a few lines.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Verified(found) => report(found),
        Verdict::Tampered { place } => format!("TAMPERED: {place}\n"),
        Verdict::Unverifiable { reason } => format!("COULD NOT TELL: {}\n", reason_text(reason)),
    }
}

fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::NoTrust => {
            "no trust file was given; name whom you believe with --trust FILE".into()
        }
        Reason::NotABundle { what, .. } if what.starts_with("not a bundle") => what.clone(),
        // A file that is none is mostly found to be too short for one.
        Reason::NotABundle { what, .. } => format!("not a bundle, or not a whole one: {what}"),
        Reason::UnknownOrigin { origin } => {
            format!("the trust file does not name the log {origin}")
        }
        Reason::UnknownKey { origin } => {
            format!("no key that the trust file accepts for {origin} signed this")
        }
        Reason::Revoked { key } => {
            format!("the key {key} was revoked, and no receipt shows that this was accepted before")
        }
        Reason::Quorum { of, found } => {
            let found = if found.is_empty() {
                "nobody".to_owned()
            } else {
                found.join(", ")
            };
            let head = match of {
                Signed::Head => "the checkpoint",
                Signed::Receipt => "the collector's own checkpoint (the receipt)",
            };
            format!("of the witnesses that the trust file asks for, {found} cosigned {head}")
        }
        Reason::Behind { size } => {
            format!(
                "the log had {} leaves when it was seen; this bundle ends before",
                number(*size)
            )
        }
        Reason::Future { time } => {
            format!(
                "a cosignature is from the future ({time} seconds since 1970); is the clock right?"
            )
        }
        _ => format!("{reason:?}"),
    }
}

/// What holds the key, and on whose word.
fn key_text(report: &Report) -> String {
    let key = report.axes.key.name();
    let Some(said) = &report.attestation else {
        return key.to_owned();
    };
    let copy = said.tpm.as_ref().and_then(|tpm| tpm.get("virtual"));
    let copy = if copy == Some(&Value::Bool(true)) {
        " (a virtual TPM: whose machine it runs on can copy it)"
    } else {
        ""
    };
    format!("{key} by {}, its leaf {}{copy}", said.by, said.leaf)
}

/// What the quotes of a TPM say of its machine.
fn quotes_text(quotes: &Quotes) -> String {
    let made = match quotes.window_s {
        Some(window_s) => format!("each made within {window_s} s by the clocks of who cosigned"),
        None => "nothing says when they were made".to_owned(),
    };
    let first = quotes.findings.first();
    let found = first.map_or_else(String::new, |(seq, code)| format!("; leaf {seq}: {code}"));
    let up_to = quotes
        .size
        .map_or_else(|| "no head".to_owned(), |size| format!("leaf {size}"));
    format!(
        "{}: {} quotes up to {up_to}, {} that do not count, {} starts; {made}{found}",
        quotes.status, quotes.good, quotes.bad, quotes.reboots
    )
}

/// The axes and what is not proven.
pub(crate) fn report(report: &Report) -> String {
    let mut out = String::new();
    let axes = &report.axes;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<10} {text}");
    };
    let leaves = if report.from == 0 {
        number(report.size)
    } else {
        let count = number(report.size - report.from);
        format!("{count} ({} up to {})", report.from, report.size)
    };
    line("leaves", leaves);
    line("root", report.root.to_string());
    if report.keys.len() > 1 {
        let mut changes = report.keys.iter().filter_map(|span| span.leaf);
        let first = changes.next().unwrap_or(0);
        line(
            "keys",
            format!(
                "{}; changed at leaf {first}{}",
                report.keys.len(),
                more(changes.count())
            ),
        );
    }
    line("integrity", lower(&axes.integrity));
    line("key", key_text(report));
    if let Some(quotes) = report
        .attestation
        .as_ref()
        .and_then(|said| said.quotes.as_ref())
    {
        line("machine", quotes_text(quotes));
    }
    line("isolation", lower(&axes.isolation));
    line("witness", axes.witness.to_string());
    line("archive", axes.archive.to_string());
    line("complete", yes(axes.complete).to_owned());
    line(
        "exposure",
        match report.exposure_s {
            Some(seconds) => format!("{seconds} s between witnessed checkpoints, at the longest"),
            None if axes.witness.names.is_empty() => "without end: nothing was witnessed".into(),
            None => "unknown: nothing here says when it began".into(),
        },
    );
    if let Some(logged) = &report.logged {
        let by = if logged.names.is_empty() {
            "no witness".to_owned()
        } else {
            logged.names.join(", ")
        };
        line(
            "logged",
            format!(
                "leaf {} of the collector's own log, cosigned by {by}",
                number(logged.leaf)
            ),
        );
    }
    if let Some(later) = &report.later {
        line("later", format!("goes on to {} leaves", number(later.size)));
    }
    line("events", counts(&report.events));
    if !report.sessions.is_empty() {
        let whole = report.sessions.values().filter(|session| session.complete);
        let ended = report
            .sessions
            .values()
            .filter(|session| session.complete && session.ended);
        line(
            "sessions",
            format!(
                "{}{}, {} without a gap, {} of those to their end",
                number(report.sessions.len() as u64),
                more(report.sessions_more as usize),
                number(whole.count() as u64),
                number(ended.count() as u64)
            ),
        );
    }
    line("filtered", counts(&report.filtered));
    line("redacted", format!("{} values", number(report.redactions)));
    if report.custody {
        line(
            "custody",
            "content was recorded untouched, secrets included".into(),
        );
    }
    if report.leaves.withheld > 0 {
        line(
            "withheld",
            format!(
                "{} leaves: only their hashes are here",
                number(report.leaves.withheld)
            ),
        );
    }
    let payloads = &report.payloads;
    if payloads.withheld + payloads.erased > 0 {
        line(
            "payloads",
            format!(
                "{} here, {} withheld, {} erased",
                number(payloads.here),
                number(payloads.withheld),
                number(payloads.erased)
            ),
        );
    }
    let gaps: Vec<_> = report
        .gaps
        .iter()
        .take(6)
        .map(|(seq, what)| format!("{what} at leaf {seq}"))
        .collect();
    if !gaps.is_empty() {
        line(
            "gaps",
            format!(
                "{}{}",
                gaps.join(", "),
                more(report.gaps.len() - gaps.len())
            ),
        );
    }
    let _ = writeln!(out, "Not proven:");
    for what in &report.not_proven {
        let _ = writeln!(out, "  - {}", NotProven::text(*what));
    }
    format!("VERIFIED  {}\n{out}", report.origin)
}

fn more(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        format!(", and {count} more")
    }
}

fn lower(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// The result of comparing a SIEM's lines.
pub(crate) fn audit(report: &AuditReport) -> String {
    if report.is_clean() {
        return format!(
            "SIEM      every leaf has its one unaltered line ({} lines)\n",
            number(report.lines)
        );
    }
    let list = |numbers: &[u64]| {
        let shown = numbers
            .iter()
            .take(10)
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        if numbers.len() > 10 {
            format!("{shown}, and {} more", numbers.len() - 10)
        } else {
            shown
        }
    };
    let mut out = "SIEM      NOT as sent\n".to_owned();
    for (what, numbers) in [
        ("missing lines (sink_seq)", &report.missing),
        ("altered lines (sink_seq)", &report.altered),
        ("duplicated lines (sink_seq)", &report.duplicated),
        ("leaves without a line (seq)", &report.unwritten),
    ] {
        if !numbers.is_empty() {
            let _ = writeln!(out, "  {what}: {}", list(numbers));
        }
    }
    out
}

/// What was erased, here or in an archive.
pub(crate) fn erased(erased: &Erased) -> String {
    let mut out = format!("erased     {} payloads\n", number(erased.count));
    if erased.gone_before > 0 {
        let _ = writeln!(
            out,
            "before     {} were gone already",
            number(erased.gone_before)
        );
    }
    if erased.awaited > 0 {
        let _ = writeln!(
            out,
            "awaited    {} leaves came as hashes only: what is asked for of them is not stored when it comes",
            number(erased.awaited)
        );
    }
    if erased.not_awaited > 0 {
        let _ = writeln!(
            out,
            "NOT AWAITED {} leaves came as hashes only, and too many orders wait already: ask again when they came",
            number(erased.not_awaited)
        );
    }
    for session in &erased.unknown_sessions {
        let _ = writeln!(
            out,
            "unknown    no leaf of session {} is here; is it the right name?",
            plain(session)
        );
    }
    if erased.count + erased.gone_before == 0 {
        out.push_str("           none of these leaves has a payload here\n");
    }
    if !erased.leaves.is_empty() {
        let leaves: Vec<_> = erased.leaves.iter().map(u64::to_string).collect();
        let _ = writeln!(out, "said by    leaf {}", leaves.join(", "));
    }
    out
}

/// An endpoint's status.
pub(crate) fn status(status: &Status, alive: bool) -> String {
    let mut out = String::new();
    let state = if alive || status.state == "stopped" {
        status.state.clone()
    } else {
        format!(
            "not running (it was {} until {})",
            status.state, status.time
        )
    };
    let _ = writeln!(out, "state      {state}");
    let _ = writeln!(out, "log        {}", status.origin);
    let _ = writeln!(
        out,
        "head       {} leaves, root {}",
        number(status.size),
        status.root
    );
    let _ = writeln!(out, "collector  {}", status.collector);
    let _ = writeln!(out, "crypto     {}", status.crypto);
    let confirmed = if status.frontier_confirmed {
        ""
    } else {
        " (head not confirmed by the collector at the start)"
    };
    let _ = writeln!(
        out,
        "archived   {} leaves{confirmed}",
        number(status.delivered)
    );
    let queue = &status.queue;
    let _ = writeln!(
        out,
        "queue      {} leaves, {}, oldest {} s",
        number(queue.len),
        bytes(queue.bytes),
        queue.oldest_s
    );
    if status.dead_letters > 0 {
        let _ = writeln!(
            out,
            "refused    {} uploads set aside; see `jurat dead-letters list`",
            number(status.dead_letters)
        );
    }
    if status.erased > 0 {
        let _ = writeln!(
            out,
            "erased     {} payloads on request",
            number(status.erased)
        );
    }
    let _ = writeln!(out, "exposure   {} s now", status.exposure_s);
    let _ = writeln!(
        out,
        "files      {} followed, {} not read yet",
        number(status.files),
        bytes(status.unread_bytes)
    );
    if let Some(example) = status.unreadable_examples.first() {
        let count = number(status.unreadable);
        let _ = writeln!(out, "unreadable {count}, for example {example}");
    }
    let _ = writeln!(
        out,
        "records    {} lines read, {} sealed, filtered: {}, shed {}",
        number(status.lines_in),
        number(status.records_sealed),
        counts(&status.records_filtered),
        status.shed
    );
    let _ = writeln!(
        out,
        "redacted   {} values, {} records withheld",
        number(status.redactions),
        status.withheld
    );
    let _ = writeln!(out, "ledger     {}", bytes(status.ledger_bytes));
    if let Some(receipt) = &status.receipt {
        let _ = writeln!(
            out,
            "receipt    {} leaves stand in the collector's log, leaf {}",
            number(receipt.size),
            number(receipt.leaf)
        );
    }
    if let Some(why) = &status.boot_log {
        let _ = writeln!(out, "boot log   cannot be read: {}", plain(why));
    }
    for sink in &status.sinks {
        let behind = status.size.saturating_sub(sink.size);
        let _ = writeln!(
            out,
            "sink       {} ({}, {}): {} sent, {} leaves behind{}",
            sink.name,
            sink.to,
            sink.guarantee.name(),
            number(sink.sent),
            number(behind),
            sink.problem
                .as_ref()
                .map_or_else(String::new, |problem| format!("; {problem}"))
        );
    }
    if let Some(why) = &status.receipt_missing {
        let _ = writeln!(out, "receipt    MISSING: {}", plain(why));
    }
    if let Some(problem) = &status.problem {
        let _ = writeln!(out, "problem    {}", plain(problem));
    }
    out
}
