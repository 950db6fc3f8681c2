//! Files and folders that cannot be read are said, once, and said again when they can.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use jurat_source::Root;
use rustix::thread::set_thread_res_uid;

use super::{Bench, check};

/// Permissions are nothing to root: while this lives, this thread alone is nobody.
struct Nobody {
    was_root: bool,
}

fn root_and(effective: rustix::fs::Uid) {
    let root = rustix::fs::Uid::ROOT;
    set_thread_res_uid(root, effective, root).unwrap();
}

impl Nobody {
    fn new(dir: &Path) -> Self {
        let was_root = rustix::process::geteuid().is_root();
        if was_root {
            mode(dir, 0o755);
            root_and(rustix::fs::Uid::from_raw(65_534));
        }
        Self { was_root }
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        if self.was_root {
            root_and(rustix::fs::Uid::ROOT);
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What reading gives to one who may not do everything.
fn read_as_nobody(bench: &mut Bench) -> Vec<String> {
    let _nobody = Nobody::new(bench.dir.path());
    bench.read()
}

const DENIED: &str = "Permission denied (os error 13)";

#[test]
fn a_file_that_may_not_be_read_is_said_once_and_again_when_it_may() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "one\n");
    bench.write("b.jsonl", "two\n");
    check(&["one", "two"], read_as_nobody(&mut bench));
    bench.write("a.jsonl", "three\n");
    mode(&bench.path("a.jsonl"), 0o000);
    let failed = format!("failed reading a.jsonl at 4: {DENIED}");
    check(&[&failed], read_as_nobody(&mut bench));
    check(&[], read_as_nobody(&mut bench));
    let (count, examples) = bench.tail.failing(10);
    assert_eq!(count, 1);
    assert!(examples[0].contains("a.jsonl") && examples[0].contains(DENIED));
    mode(&bench.path("a.jsonl"), 0o644);
    check(
        &["three", "recovered reading a.jsonl at 10"],
        read_as_nobody(&mut bench),
    );
    assert_eq!(bench.tail.failing(10), (0, Vec::new()));
    mode(&bench.path("a.jsonl"), 0o000);
    bench.write("a.jsonl", "four\n");
    let failed = format!("failed reading a.jsonl at 10: {DENIED}");
    check(&[&failed], read_as_nobody(&mut bench));
}

#[test]
fn a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one() {
    let mut bench = Bench::new();
    bench.write("open/a.jsonl", "one\n");
    bench.write("shut/deep/b.jsonl", "two\n");
    mode(&bench.path("shut"), 0o000);
    let failed = format!("failed listing a folder shut at 0: {DENIED}");
    check(&[&failed, "one"], read_as_nobody(&mut bench));
    check(&[], read_as_nobody(&mut bench));
    mode(&bench.path("shut"), 0o755);
    check(
        &["recovered listing a folder shut at 0", "two"],
        read_as_nobody(&mut bench),
    );
    // What was followed in it is not taken for deleted.
    bench.write("shut/deep/b.jsonl", "three\n");
    mode(&bench.path("shut"), 0o000);
    let file = format!("failed reading shut/deep/b.jsonl at 4: {DENIED}");
    check(&[&failed, &file], read_as_nobody(&mut bench));
    mode(&bench.path("shut"), 0o755);
    check(
        &[
            "recovered listing a folder shut at 0",
            "three",
            "recovered reading shut/deep/b.jsonl at 10",
        ],
        read_as_nobody(&mut bench),
    );
}

#[test]
fn another_reason_is_said_too_and_each_only_once() {
    let mut bench = Bench::new();
    let path = bench.path("a.jsonl");
    let here = |errno: &str| format!("failed reading a.jsonl at 0: {errno}");
    // A link to itself; then a file that opens but cannot be read; then the first again.
    for (target, expected) in [
        (
            "a.jsonl",
            Some(here("Too many levels of symbolic links (os error 40)")),
        ),
        (
            "/proc/self/mem",
            Some(here("Input/output error (os error 5)")),
        ),
        ("a.jsonl", None),
    ] {
        let _ = fs::remove_file(&path);
        symlink(target, &path).unwrap();
        assert_eq!(bench.read(), Vec::from_iter(expected));
    }
    fs::remove_file(&path).unwrap();
    bench.write("a.jsonl", "one\n");
    check(&["one", "recovered reading a.jsonl at 4"], bench.read());
}

#[test]
fn what_vanishes_before_it_could_be_read_is_said_to_be_gone() {
    let mut bench = Bench::new();
    bench.write("shut/b.jsonl", "two\n");
    mode(&bench.path("shut"), 0o000);
    symlink("a.jsonl", bench.path("a.jsonl")).unwrap();
    assert_eq!(read_as_nobody(&mut bench).len(), 2);
    assert_eq!(bench.tail.failing(10).0, 2);
    fs::remove_file(bench.path("a.jsonl")).unwrap();
    mode(&bench.path("shut"), 0o755);
    fs::remove_dir_all(bench.path("shut")).unwrap();
    check(&["Deleted 0 0 0", "Deleted 0 0 0"], bench.read());
    assert_eq!(bench.tail.failing(10).0, 0);
    check(&[], bench.read());
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_hold_the_reader() {
    let mut bench = Bench::new();
    let make = |path: &Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    make(&bench.path("pipe.jsonl"));
    bench.write("a.jsonl", "one\n");
    check(&["one"], bench.read());
    bench.tail.touch([bench.path("pipe.jsonl")]);
    check(&[], bench.read_on());
    fs::remove_file(bench.path("a.jsonl")).unwrap();
    make(&bench.path("a.jsonl"));
    bench.tail.touch([bench.path("a.jsonl")]);
    check(&["Deleted 4 0 1"], bench.read_on());
}

#[test]
fn folders_without_an_end_are_said_and_those_that_no_pattern_reaches_are_left_alone() {
    let mut bench = Bench::new();
    let deep = "d/".repeat(20);
    bench.write(&format!("{deep}a.jsonl"), "too deep\n");
    bench.write("a.jsonl", "one\n");
    let found = bench.read();
    let folder = "d/".repeat(17);
    let expected = format!(
        "failed listing a folder {} at 0: it lies more than 16 folders deep",
        folder.trim_end_matches('/')
    );
    check(&[&expected, "one"], found);

    let globs = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.into()).collect();
        let listing = Root::new("cc", bench.dir.path(), &patterns)
            .unwrap()
            .files();
        (listing.files.len(), listing.failed.len())
    };
    assert_eq!(globs(&["*.jsonl"]), (1, 0));
    assert_eq!(globs(&["x/**/*.jsonl", "d/*/*.jsonl", "a.jsonl"]), (1, 0));
    assert_eq!(globs(&["[d]/d/**/*.jsonl"]), (0, 1));
    assert_eq!(globs(&["{d/d,x}/**/*.jsonl"]), (0, 1));
}

/// What was read can no longer be compared: that is said too, also when nothing new is to be read.
#[test]
fn a_comparison_that_fails_is_said_and_so_is_the_next_that_does_not() {
    let mut bench = Bench::new();
    let line = format!("{}\n", "x".repeat(1023));
    bench.write("a.jsonl", &line.repeat(9 * 1024));
    bench.read();
    // Changed, not grown: the first slices of the comparison are done, then the file is shut.
    let changed = |path: &Path| fs::metadata(path).unwrap().ctime_nsec();
    let before = changed(&bench.path("a.jsonl"));
    while changed(&bench.path("a.jsonl")) == before {
        mode(&bench.path("a.jsonl"), 0o444);
    }
    bench.tail.touch([bench.path("a.jsonl")]);
    for _ in 0..2 {
        assert!(bench.tail.read(1 << 20, &mut |item| panic!("{item:?}")));
    }
    mode(&bench.path("a.jsonl"), 0o000);
    let nobody = Nobody::new(bench.dir.path());
    let said = "checking what was read a.jsonl at";
    let failed = format!("failed {said} 9437184: {DENIED}");
    check(&[&failed], bench.read_on());
    drop(nobody);
    mode(&bench.path("a.jsonl"), 0o444);
    let mut found = Vec::new();
    for _ in 0..4 {
        found.extend(bench.read());
    }
    check(&[&format!("recovered {said} 9437184")], found);
}
