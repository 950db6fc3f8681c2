//! A change in the middle of what was read, away from the first 4 KiB and the end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::SystemTime;

use jurat_source::Item;

use super::{Bench, check, word};

/// 100 lines of 1,000 bytes.
const LINES: usize = 100;
const LEN: u64 = 100_000;
const MIDDLE: u64 = 50_500;

/// The scans after which a file that grew is compared.
const SCANS: usize = 2;

fn line(index: usize) -> String {
    format!("{index:0999}\n")
}

fn long_file(bench: &mut Bench) {
    bench.write("a.jsonl", &(0..LINES).map(line).collect::<String>());
    assert_eq!(bench.read().len(), LINES);
}

/// Overwrites one byte, so that the length stays; and again, until the file system's clock has moved.
fn change(path: &Path, at: u64) {
    let time = |file: &File| file.metadata().unwrap().modified().unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    let before = time(&file);
    while time(&file) == before {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(b"X").unwrap();
    }
}

/// The file was read again from its front, and this is what was said first.
fn check_read_again(found: &[String], lost: &str, lines: usize) {
    assert_eq!(found[0], lost);
    assert_eq!(found.len(), 1 + lines);
    assert!(found[1 + 50].contains('X'), "{}", found[1 + 50]);
}

#[test]
fn a_change_in_the_middle_is_noticed_at_once_when_the_length_stays() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    change(&bench.path("a.jsonl"), MIDDLE);
    bench.tail.touch([bench.path("a.jsonl")]);
    let found = bench.read_on();
    check_read_again(&found, &format!("Rewritten {LEN} {LEN} {LINES}"), LINES);
    check(&[], bench.read());
}

#[test]
fn a_change_in_the_middle_is_found_by_the_scan_too() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    change(&bench.path("a.jsonl"), MIDDLE);
    let found = bench.read();
    check_read_again(&found, &format!("Rewritten {LEN} {LEN} {LINES}"), LINES);
}

#[test]
fn a_change_in_the_middle_is_noticed_behind_an_append() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    change(&bench.path("a.jsonl"), MIDDLE);
    bench.write("a.jsonl", "more\n");
    check(&["more"], bench.read());
    let mut found = Vec::new();
    for _ in 0..SCANS {
        found.extend(bench.read());
    }
    let (read, lines) = (LEN + 5, LINES + 1);
    check_read_again(&found, &format!("Rewritten {read} {read} {lines}"), lines);
}

#[test]
fn a_file_that_never_rests_is_compared_too() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    change(&bench.path("a.jsonl"), MIDDLE);
    let mut found = Vec::new();
    for _ in 0..=SCANS {
        bench.write("a.jsonl", "more\n");
        found.extend(bench.read());
    }
    assert!(
        found.iter().any(|word| word.starts_with("Rewritten")),
        "{found:?}"
    );
}

#[test]
fn a_change_in_the_middle_is_noticed_after_a_restart() {
    for append in ["", "more\n"] {
        for restarts in [1, 3] {
            let mut bench = Bench::new();
            long_file(&mut bench);
            for _ in 1..restarts {
                bench.restart();
                bench.write("a.jsonl", "between\n");
                check(&["between"], bench.read());
            }
            let read = fs::metadata(bench.path("a.jsonl")).unwrap().len();
            change(&bench.path("a.jsonl"), MIDDLE);
            bench.write("a.jsonl", append);
            bench.restart();
            let mut found = bench.read();
            if !append.is_empty() {
                assert_eq!(found.remove(0), "more");
            }
            let (read, lines) = (
                read + append.len() as u64,
                LINES + restarts - 1 + usize::from(!append.is_empty()),
            );
            check_read_again(&found, &format!("Rewritten {read} {read} {lines}"), lines);
        }
    }
}

#[test]
fn a_time_set_back_hides_nothing() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    let path = bench.path("a.jsonl");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    for restart in [false, true] {
        if restart {
            bench.restart();
        }
        change(&path, if restart { MIDDLE - 20_000 } else { MIDDLE });
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        let found = bench.read();
        check_read_again(&found, &format!("Rewritten {LEN} {LEN} {LINES}"), LINES);
    }
}

#[test]
fn a_file_replaced_by_one_with_another_middle_is_noticed() {
    for append in ["", "more\n"] {
        let mut bench = Bench::new();
        long_file(&mut bench);
        let (path, copy) = (bench.path("a.jsonl"), bench.path("copy"));
        fs::copy(&path, &copy).unwrap();
        change(&copy, MIDDLE);
        fs::rename(&copy, &path).unwrap();
        bench.write("a.jsonl", append);
        let found = bench.read();
        let lost = found
            .iter()
            .position(|word| word.starts_with("Rewritten"))
            .unwrap_or_else(|| panic!("{} words, none of them", found.len()));
        let lines = LINES + usize::from(!append.is_empty());
        assert_eq!(found.len() - lost, 1 + lines);
    }
}

#[test]
fn what_was_not_changed_is_never_called_rewritten() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    let path = bench.path("a.jsonl");
    for round in 0..12 {
        match round % 4 {
            0 => bench.write("a.jsonl", "half"),
            1 => bench.write("a.jsonl", " line\n"),
            2 => File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(SystemTime::UNIX_EPOCH)
                .unwrap(),
            _ => bench.restart(),
        }
        for _ in 0..=SCANS {
            for word in bench.read() {
                assert_eq!(word, "half line");
            }
        }
    }
}

/// Comparing a long file takes many turns; what others wrote meanwhile does not wait for it.
#[test]
fn comparing_a_long_file_does_not_hold_up_the_others() {
    let mut bench = Bench::new();
    let long = format!("{}\n", "x".repeat(1023));
    bench.write("a.jsonl", &long.repeat(20 * 1024));
    bench.write("b.jsonl", "one\n");
    assert_eq!(bench.read().len(), 20 * 1024 + 1);
    change(&bench.path("a.jsonl"), 19 << 20);
    bench.write("b.jsonl", "two\n");
    bench.tail.scan();
    let mut turns = Vec::new();
    loop {
        let dir = bench.dir.path();
        let mut turn = Vec::new();
        let more = bench
            .tail
            .read(1 << 20, &mut |item| turn.push(word(dir, &item)));
        let found = turn.iter().any(|word| word.starts_with("Rewritten"));
        turns.push(turn);
        if found || !more {
            break;
        }
    }
    assert_eq!(turns[0], ["two"]);
    assert!(turns[1].is_empty() && turns.len() > 3, "{}", turns.len());
    let last = turns.last().unwrap().first().unwrap();
    assert!(last.starts_with("Rewritten 20971520 "), "{last}");
}

/// A file that is as it was when it was read or compared is not opened again, whatever happens to us.
#[cfg(unix)]
#[test]
fn an_unchanged_file_costs_nothing() {
    let mut bench = Bench::new();
    // A file that was changed long enough ago.
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    std::os::unix::fs::symlink(&old, bench.path("a.jsonl")).unwrap();
    let mut text = String::new();
    File::open(&old).unwrap().read_to_string(&mut text).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(bench.read().len(), lines);
    for _ in 0..4 {
        bench.tail.scan();
        assert!(bench.tail.is_idle());
    }
    let position = bench.tail.positions().into_values().next().unwrap();
    assert_ne!(position.checked, 0);
    bench.restart();
    check(&[], bench.read());
    for _ in 0..4 {
        bench.tail.scan();
        assert!(bench.tail.is_idle());
    }
    // The first look after the start compares only when something was changed.
    let again = bench.tail.positions().into_values().next().unwrap();
    assert_eq!(again, position);
}

#[test]
fn several_lines_of_one_file_are_lost_only_once() {
    let mut bench = Bench::new();
    long_file(&mut bench);
    for at in [MIDDLE, MIDDLE + 20_000, 10_000] {
        change(&bench.path("a.jsonl"), at);
    }
    let mut lost = 0;
    bench.tail.scan();
    for _ in 0..=SCANS {
        while bench.tail.read(1 << 20, &mut |item| {
            lost += u32::from(matches!(item, Item::Lost { .. }));
        }) {}
        bench.tail.scan();
    }
    assert_eq!(lost, 1);
}
