//! A line in pieces: whatever the cuts, what comes out is what the whole line would have given.

use std::fmt::Write as _;

use jurat_event::{Event, Kind};
use jurat_redact::{Mode, Redacted, Redactor, Stream, WINDOW_BYTES};
use proptest::prelude::*;

use crate::rules::{BUILTIN, redactor, secret_pieces};
use crate::template::{Draw, expand};

/// A secret of every rule, and the longest part of each that must be gone.
fn secrets(draw: &mut Draw) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    for rule in BUILTIN.rules() {
        for template in &rule.example {
            let text = expand(template, draw);
            let part = secret_pieces(template, &text)
                .into_iter()
                .max_by_key(String::len);
            secrets.push((text, part.unwrap_or_default()));
        }
    }
    secrets
}

/// Writes a string of JSON; one character in `unusual` as an escape that it does not need.
fn write_string(text: &str, unusual: usize, draw: &mut Draw, line: &mut String) {
    line.push('"');
    for character in text.chars() {
        if unusual > 0 && draw.below(unusual) == 0 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(line, "\\u{unit:04x}").unwrap();
            }
            continue;
        }
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            '\n' => line.push_str("\\n"),
            '/' if draw.below(20) == 0 => line.push_str("\\/"),
            _ => line.push(character),
        }
    }
    line.push('"');
}

/// Text of about this length with each of these in it, in some order.
fn long_text(len: usize, planted: &[(String, String)], draw: &mut Draw) -> String {
    const WORDS: [&str; 9] = [
        "the",
        "fn main() {\n",
        "\"quoted\"",
        "caf\u{e9}",
        "\u{1f600}",
        "x = 1;",
        "password",
        "C:\\dir",
        "https://example.org/a",
    ];
    let mut text = String::new();
    let mut next = draw.below(planted.len());
    let step = len / planted.len() + 1;
    for _ in 0..planted.len() {
        let end = text.len() + draw.below(2 * step);
        while text.len() < end {
            text.push_str(WORDS[draw.below(WORDS.len())]);
            text.push(' ');
        }
        text.push_str(&planted[next].0);
        text.push('\n');
        next = (next + 1) % planted.len();
    }
    text
}

/// A long line of JSON with secrets in long strings, short ones, under names, in lists.
fn line(seed: u64) -> (String, Vec<String>) {
    let draw = &mut Draw::new(seed);
    let planted = secrets(draw);
    let mut line = String::from("{\"n\":[1,2.5e3 , null],");
    for unusual in [0, 200, 3] {
        for len in [400_000, 30_000, 150_000] {
            write!(line, "\"{unusual} {len}\":{{").unwrap();
            write_string("text", unusual, draw, &mut line);
            line.push_str(": ");
            write_string(&long_text(len, &planted, draw), unusual, draw, &mut line);
            line.push_str(",\"credentials\":{\"a\":[\"correct horse\",12345678, {\"type\":\"basic\"}],\"max\":3},");
            line.push_str("\"input_tokens\":123456,\"db_password\" : ");
            let filler = "z1 ".repeat(draw.below(2) * 60_000);
            write_string(&format!("hunter2 {filler}"), unusual, draw, &mut line);
            line.push_str("},");
        }
    }
    line.push_str("\"numbers\":[");
    line.push_str(&"0.25,".repeat(40_000));
    line.push_str("1]}");
    (line, planted.into_iter().map(|(_, part)| part).collect())
}

fn in_pieces(
    redactor: &mut Redactor,
    line: &[u8],
    mut size: impl FnMut() -> usize,
) -> (Vec<u8>, u64, bool) {
    let mut stream = Stream::new();
    let mut out = Vec::new();
    let mut count = 0;
    let mut withheld = false;
    let mut rest = line;
    let mut given = 0;
    loop {
        let (piece, tail) = rest.split_at(size().min(rest.len()));
        rest = tail;
        given += piece.len();
        let cleaned = stream.push(redactor, piece, rest.is_empty());
        out.extend(cleaned.bytes);
        count += cleaned.redactions;
        withheld |= cleaned.withheld;
        assert!(
            withheld || out.len() + 2 * WINDOW_BYTES + line.len() / 2 >= given,
            "more is held back than the window"
        );
        if rest.is_empty() {
            return (out, count, withheld);
        }
    }
}

fn check(line: &[u8], size: impl FnMut() -> usize) {
    let whole = redactor().json(line).unwrap_or((line.to_vec(), 0));
    let (out, count, withheld) = in_pieces(&mut redactor(), line, size);
    assert!(!withheld);
    let differs = out.iter().zip(&whole.0).position(|(a, b)| a != b);
    let around = differs.map(|at| {
        let from = at.saturating_sub(200);
        let show = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[from..bytes.len().min(at + 100)]).into_owned()
        };
        (at, show(&out), show(&whole.0))
    });
    assert_eq!(around, None);
    assert_eq!((out.len(), count), (whole.0.len(), whole.1));
}

#[test]
fn a_line_cut_at_every_byte_gives_what_it_gives_whole() {
    for line in [
        r#"{"a":"\u0067\u0068p_aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2","password":"\"\u00e9\ud83d\ude00 x"}"#,
        r#"{"passwords":["alpha","beta",99999],"x":{"Authorization":"Bearer abc"},"usage":{"input_tokens":12345}}"#,
        r#"{"k":"-----BEGIN PRIVATE KEY-----\nMIIEvQ\nxyz\n-----END PRIVATE KEY-----","t":true}"#,
    ] {
        let whole = redactor().json(line.as_bytes()).unwrap();
        for cut in 0..=line.len() {
            let mut sizes = [cut, line.len()].into_iter();
            let (out, count, withheld) =
                in_pieces(&mut redactor(), line.as_bytes(), || sizes.next().unwrap());
            assert_eq!((out, count, withheld), (whole.0.clone(), whole.1, false));
        }
        check(line.as_bytes(), || 1);
    }
}

#[test]
fn a_secret_longer_than_the_window_takes_the_rest_of_its_value_with_it() {
    let run = "aB3dE5gH1jK2".repeat(WINDOW_BYTES / 4);
    let header = "eyJhbGciOiJSUzI1NiJ9";
    for (front, secret) in [
        ("Authorization: Bearer ", run.clone()),
        ("", format!("{header}.{run}.{run}")),
        ("\\\\ ", format!("{header}.eyJ9.{run}")),
    ] {
        let pad = "word ".repeat(WINDOW_BYTES / 5);
        let line = format!("{{\"a\":\"{pad}{front}{secret} after\",\"b\":\"{pad}\"}}");
        let mut sizes = [1000, 77_777, 300_001].into_iter().cycle();
        let (out, count, withheld) =
            in_pieces(&mut redactor(), line.as_bytes(), || sizes.next().unwrap());
        let out = String::from_utf8(out).unwrap();
        let clean: serde_json::Value = serde_json::from_str(&out).unwrap();
        let kept = clean["a"].as_str().unwrap();
        let (text, mark) = kept.split_once("[redacted:unscanned:").unwrap();
        assert_eq!(text, format!("{pad}{}", front.replace("\\\\", "\\")));
        assert_eq!((mark.len(), count, withheld), (13, 1, false));
        assert_eq!(clean["b"], pad);
    }
}

#[test]
fn a_long_token_is_found_whole_whatever_its_parts_are_long() {
    let part = |len: usize| "aB3-_xYz".repeat(len / 8);
    let header = "eyJhbGciOiJSUzI1NiJ9";
    for token in [
        format!("{header}.{}.{}", part(40_000), part(8_000)),
        format!("{header}.{}.{}", part(1_000_000), part(344)),
        format!(
            "{header}.{}.{}.{}.{}",
            part(4_000),
            part(16),
            part(800_000),
            part(24)
        ),
    ] {
        let clean = redactor().text(&format!("see {token}, then")).unwrap();
        assert!(
            clean.starts_with("see [redacted:jw") && clean.ends_with("], then") && clean.len() < 50,
            "{clean}"
        );
    }
    let not = format!("see eyJ{}.{}.{}", part(4_000), part(4_000), part(4_000));
    assert_eq!(redactor().text(&not), None);
}

#[test]
fn what_is_not_a_line_of_json_is_withheld_to_its_end() {
    let pad = "word ".repeat(WINDOW_BYTES / 5);
    let token = "ghp_aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2";
    for bad in [
        format!("plain {pad}{token}").into_bytes(),
        format!("{{\"a\":\"{pad}\"}} {token} {{\"b\":\"{pad}\"}}").into_bytes(),
        format!("{{\"a\":\"{pad}{token}").into_bytes(),
        format!("{{\"a\":{}{token}", "1".repeat(2 * WINDOW_BYTES)).into_bytes(),
        [b"{\"a\":\"\xff", pad.as_bytes(), token.as_bytes(), b"\"}"].concat(),
    ] {
        for size in [500, 1_000_000] {
            let (out, _, withheld) = in_pieces(&mut redactor(), &bad, || size);
            assert!(withheld && !String::from_utf8_lossy(&out).contains("ghp_"));
        }
    }
}

#[test]
fn the_pieces_of_a_line_become_events_and_a_line_without_its_beginning_is_withheld() {
    let pad = "word ".repeat(WINDOW_BYTES / 2);
    let token = "ghp_aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2";
    let line = format!("{{\"a\":\"{pad}{token} {pad}\"}}");
    let pieces: Vec<&[u8]> = line.as_bytes().chunks(200_000).collect();
    let seal = |redactor: &mut Redactor, mut stream: Stream| {
        let mut sealed = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut event = Event::new(Kind::TranscriptPart);
            event.context = Some(piece.to_vec());
            event.object = Some(token.into());
            sealed.push(redactor.piece(&mut stream, event, index + 1 == pieces.len()));
        }
        sealed
    };
    let sealed = seal(&mut redactor(), Stream::new());
    let whole: Vec<u8> = sealed
        .iter()
        .flat_map(|piece| piece.payload().unwrap())
        .copied()
        .collect();
    assert_eq!(whole, redactor().json(line.as_bytes()).unwrap().0);
    assert_eq!(sealed.iter().map(Redacted::redactions).sum::<u64>(), 1);
    for (piece, original) in sealed.iter().zip(&pieces) {
        assert!(!piece.is_withheld() && piece.original() == Some(*original));
        assert!(!piece.event().object.as_deref().unwrap().contains("ghp_"));
    }
    for piece in seal(&mut redactor(), Stream::resumed()) {
        assert!(piece.is_withheld() && piece.payload().is_none());
    }
    let mut custody = Redactor::new(Mode::Custody, &[7; 32], &[]).unwrap();
    for (piece, original) in seal(&mut custody, Stream::new()).iter().zip(&pieces) {
        assert!(piece.is_custody() && piece.payload() == Some(*original));
    }
}

/// A case is two megabytes long.
fn cases() -> u32 {
    let cases = std::env::var("PROPTEST_CASES").ok();
    cases
        .and_then(|cases| cases.parse::<u32>().ok())
        .map_or(2, |cases| cases.div_ceil(100))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    })]

    /// With a secret of every rule in it, in every spelling that JSON has.
    #[test]
    fn no_secret_of_any_rule_survives_any_cutting_of_a_long_line(seed in any::<u64>(), size in 1_usize..400_000) {
        let (line, parts) = line(seed);
        let mut draw = Draw::new(seed ^ 1);
        check(line.as_bytes(), || 1 + draw.below(size));
        let (out, ..) = in_pieces(&mut redactor(), line.as_bytes(), || size);
        let clean: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let text = clean.to_string();
        // A drawn secret may be below its rule's entropy by chance.
        let survived: Vec<_> = parts.iter().filter(|part| part.len() >= 16 && text.contains(part.as_str())).collect();
        prop_assert!(survived.len() <= 3, "{survived:?}");
        for gone in ["hunter2", "horse", ",12345678,"] {
            prop_assert!(!text.contains(gone), "{gone}");
        }
        prop_assert_eq!(text.matches("\"input_tokens\":123456,\"text\"").count(), 9);
    }
}
