//! Files that grow, rotate, shrink, are rewritten, vanish and come back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod pieces;
mod rewritten;
#[cfg(target_os = "linux")]
mod unreadable;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jurat_source::{Item, Root, Tail};

struct Bench {
    dir: tempfile::TempDir,
    tail: Tail,
}

fn roots(dir: &Path) -> Vec<Root> {
    vec![Root::new("cc", dir, &["**/*.jsonl".to_owned()]).unwrap()]
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tail = Tail::new(roots(dir.path()), Default::default());
        Self { dir, tail }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Everything that reading gives now, one word an item.
    fn read(&mut self) -> Vec<String> {
        self.tail.scan();
        self.read_on()
    }

    /// The same without looking for what changed.
    fn read_on(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        let dir = self.dir.path();
        while self
            .tail
            .read(1 << 20, &mut |item| out.push(word(dir, &item)))
        {}
        out
    }

    /// A new process with the positions of this one.
    fn restart(&mut self) {
        let json = serde_positions(&self.tail);
        self.tail = Tail::new(roots(self.dir.path()), json);
    }
}

fn word(dir: &Path, item: &Item<'_>) -> String {
    let name = |path: &Path| path.strip_prefix(dir).unwrap().display().to_string();
    match item {
        Item::Line {
            bytes,
            unterminated,
            ..
        } => {
            let end = if *unterminated { "!" } else { "" };
            format!("{}{end}", String::from_utf8_lossy(bytes))
        }
        Item::Piece { bytes, more, .. } => {
            format!("<{}{}", bytes.len(), if *more { "+" } else { "" })
        }
        Item::Lost {
            what,
            read,
            len,
            lines,
            ..
        } => format!("{what:?} {read} {len} {lines}"),
        Item::Failed {
            path,
            doing,
            error,
            offset,
            ..
        } => format!("failed {doing} {} at {offset}: {error}", name(path)),
        Item::Recovered {
            path,
            doing,
            offset,
            ..
        } => format!("recovered {doing} {} at {offset}", name(path)),
    }
}

fn serde_positions(tail: &Tail) -> std::collections::BTreeMap<PathBuf, jurat_source::Position> {
    tail.positions()
}

fn check(after: &[&str], found: Vec<String>) {
    assert_eq!(found, after);
}

#[test]
fn lines_come_once_and_an_unfinished_one_is_held_back() {
    let mut bench = Bench::new();
    bench.write("p/a.jsonl", "one\ntwo\nthr");
    bench.write("p/ignored.txt", "no\n");
    check(&["one", "two"], bench.read());
    check(&[], bench.read());
    bench.write("p/a.jsonl", "ee\n\nfour\n");
    bench.write("q/r/later.jsonl", "late\n");
    check(&["three", "four", "late"], bench.read());
    bench.restart();
    check(&[], bench.read());
    bench.write("p/a.jsonl", "five\n");
    check(&["five"], bench.read());
}

#[test]
fn a_file_that_became_shorter_is_named_and_read_again() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "one\ntwo\nthree\n");
    bench.read();
    File::options()
        .write(true)
        .open(bench.path("a.jsonl"))
        .unwrap()
        .set_len(4)
        .unwrap();
    check(&["Truncated 14 4 3", "one"], bench.read());
    bench.restart();
    fs::write(bench.path("a.jsonl"), "").unwrap();
    check(&["Truncated 4 0 1"], bench.read());
    bench.write("a.jsonl", "new\n");
    check(&["new"], bench.read());
}

#[test]
fn a_rewritten_file_is_named_running_or_not() {
    for restart in [false, true] {
        let mut bench = Bench::new();
        bench.write("a.jsonl", "one\ntwo\n");
        bench.read();
        if restart {
            bench.restart();
        }
        fs::write(bench.path("a.jsonl"), "one\nTWO\nthree\n").unwrap();
        check(&["Rewritten 8 14 2", "one", "TWO", "three"], bench.read());
    }
}

#[test]
fn what_was_written_just_before_a_file_was_removed_is_still_read() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "one\n");
    check(&["one"], bench.read());
    bench.write("a.jsonl", "two\nunfin");
    fs::remove_file(bench.path("a.jsonl")).unwrap();
    check(&["two", "unfin!", "Deleted 13 0 3"], bench.read());
    check(&[], bench.read());
    bench.write("a.jsonl", "again\n");
    check(&["again"], bench.read());
}

#[test]
fn a_long_file_that_is_removed_while_it_is_read_comes_in_portions_and_whole() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "first\n");
    bench.read();
    let line = format!("{}\n", "x".repeat(999));
    bench.write("a.jsonl", &line.repeat(5_000));
    fs::remove_file(bench.path("a.jsonl")).unwrap();
    bench.tail.scan();
    let (mut lines, mut portions, mut deleted) = (0, 0, 0);
    loop {
        let mut now = 0;
        let more = bench.tail.read(1 << 20, &mut |item| match item {
            Item::Line { .. } => now += 1,
            Item::Lost { .. } => deleted += 1,
            other => panic!("{other:?}"),
        });
        assert!(now <= 1_024, "{now} lines at once");
        lines += now;
        portions += 1;
        if !more {
            break;
        }
    }
    assert_eq!((lines, deleted), (5_000, 1));
    assert!(portions > 5);
}

#[test]
fn a_file_of_nothing_but_line_ends_does_not_hold_the_reader() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", &"\n".repeat(3 << 20));
    bench.tail.scan();
    for portion in [true, true, true, false] {
        let more = bench.tail.read(1 << 20, &mut |item| panic!("{item:?}"));
        assert_eq!(more, portion);
    }
}

#[test]
fn a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_front() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "one\n");
    bench.read();
    bench.write("a.jsonl", "two\n");
    fs::rename(bench.path("a.jsonl"), bench.path("a.1")).unwrap();
    bench.write("a.jsonl", "three\n");
    check(&["two", "Truncated 8 6 2", "three"], bench.read());
}

#[test]
fn a_renamed_file_goes_on_under_its_new_name() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "one\n");
    bench.read();
    fs::rename(bench.path("a.jsonl"), bench.path("b.jsonl")).unwrap();
    bench.write("b.jsonl", "two\n");
    let found = bench.read();
    assert!(
        found.contains(&"two".to_owned()) && !found.contains(&"one".to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_prefix_grows_with_its_file_so_that_small_files_are_known_too() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "a\n");
    bench.read();
    for index in 0..2_000 {
        bench.write("a.jsonl", &format!("line {index}\n"));
    }
    assert_eq!(bench.read().len(), 2_000);
    bench.restart();
    check(&[], bench.read());
    bench.write("a.jsonl", "end\n");
    check(&["end"], bench.read());
}
