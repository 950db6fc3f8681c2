//! Lines too long to be held come in pieces.

use std::fs;

use jurat_source::{Item, LINE_BYTES_MAX};

use super::Bench;

/// The longest piece.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Line(u64, Vec<u8>),
    Piece(u64, Vec<u8>, bool),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Line(_, bytes) | Self::Piece(_, bytes, _) => bytes,
        }
    }
}

/// Reads everything, one item at a time; with `restart` each time by a new process.
fn parts(bench: &mut Bench, restart: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    loop {
        bench.tail.scan();
        let before = parts.len();
        bench.tail.read(1, &mut |item| {
            parts.push(match item {
                Item::Line { offset, bytes, .. } => Part::Line(offset, bytes.to_vec()),
                Item::Piece {
                    offset,
                    bytes,
                    more,
                    ..
                } => Part::Piece(offset, bytes.to_vec(), more),
                other => panic!("{other:?}"),
            });
        });
        assert!(parts.len() <= before + 1, "more than the budget");
        if parts.len() == before {
            return parts;
        }
        if restart {
            bench.restart();
        }
    }
}

/// Pieces lie one after the other and make up the line; only the last one says that it is the last.
fn check(parts: &[Part], line: &[u8]) {
    let pieces = &parts[1..parts.len() - 1];
    let mut whole = Vec::new();
    for (index, part) in pieces.iter().enumerate() {
        let Part::Piece(offset, bytes, more) = part else {
            panic!("a line among the pieces")
        };
        assert_eq!(*offset, "one\n".len() as u64 + whole.len() as u64);
        assert_eq!(*more, index + 1 < pieces.len());
        assert!(bytes.len() <= PIECE_BYTES_MAX);
        whole.extend_from_slice(bytes);
    }
    assert!(whole == line, "the pieces are not the line");
    assert_eq!(parts[0], Part::Line(0, b"one".to_vec()));
    assert_eq!(parts[parts.len() - 1].bytes(), b"two");
}

/// A process that is killed between two pieces goes on exactly there: the same pieces, none twice.
#[test]
fn a_kill_between_two_pieces_neither_loses_nor_doubles_a_byte() {
    for extra in [5, PIECE_BYTES_MAX, 3 * PIECE_BYTES_MAX + 77] {
        let line: Vec<u8> = (0..LINE_BYTES_MAX + extra)
            .map(|index| b'a' + (index % 23) as u8)
            .collect();
        let mut bench = Bench::new();
        bench.write("a.jsonl", "one\n");
        bench.write("a.jsonl", std::str::from_utf8(&line).unwrap());
        bench.write("a.jsonl", "\ntwo\n");
        let killed = parts(&mut bench, true);
        check(&killed, &line);
        bench.tail = jurat_source::Tail::new(super::roots(bench.dir.path()), Default::default());
        assert!(parts(&mut bench, false) == killed, "cut somewhere else");
    }
}

#[test]
fn a_piece_ends_before_a_character_that_it_would_split() {
    // Characters of one to four bytes, so that cuts fall on every place inside of one.
    let text = "aé€😀x";
    for shift in 0..text.len() {
        let line = "-".repeat(shift) + &text.repeat(LINE_BYTES_MAX / text.len() + 1_000);
        let mut bench = Bench::new();
        bench.write("a.jsonl", &format!("one\n{line}\ntwo\n"));
        let parts = parts(&mut bench, false);
        check(&parts, line.as_bytes());
        for part in &parts {
            assert!(std::str::from_utf8(part.bytes()).is_ok(), "shift {shift}");
        }
    }
}

#[test]
fn a_long_line_that_is_no_text_is_cut_all_the_same() {
    for byte in [0x80_u8, 0xff] {
        let line = vec![byte; LINE_BYTES_MAX + 10];
        let mut bench = Bench::new();
        fs::write(
            bench.path("a.jsonl"),
            [b"one\n", line.as_slice(), b"\ntwo\n"].concat(),
        )
        .unwrap();
        check(&parts(&mut bench, true), &line);
    }
}

#[test]
fn a_line_up_to_the_limit_comes_whole() {
    let line = "x".repeat(LINE_BYTES_MAX - 1);
    let mut bench = Bench::new();
    bench.write("a.jsonl", &format!("{line}\ntwo\n"));
    let parts = parts(&mut bench, false);
    assert_eq!(parts.len(), 2);
    assert!(parts[0] == Part::Line(0, line.into_bytes()));
}

/// What comes after the pieces given so far is the last one when the file is gone.
#[test]
fn a_long_line_whose_file_is_removed_ends_with_its_last_piece() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", &"x".repeat(LINE_BYTES_MAX + 10));
    let found = bench.read();
    assert_eq!(found, ["<1048576+"; LINE_BYTES_MAX / 1_048_576]);
    fs::remove_file(bench.path("a.jsonl")).unwrap();
    let len = LINE_BYTES_MAX + 10;
    assert_eq!(
        bench.read(),
        ["<10".to_owned(), format!("Deleted {len} 0 1")]
    );
}
