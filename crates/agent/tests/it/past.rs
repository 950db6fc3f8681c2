//! A device whose state was set back: the collector remembers, and nothing is signed over it.

use std::fs;
use std::path::Path;

use jurat_agent::{AgentError, Finish};
use jurat_collector::Archive;

use crate::site::{Site, quick};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn replace(with: &Path, at: &Path) {
    fs::remove_dir_all(at).unwrap();
    copy(with, at);
}

/// How many heads were signed in this state's ledger.
fn signed(state: &Path) -> Vec<Vec<u8>> {
    let disk = jurat_disk::Host::real().disk;
    let mut reader = jurat_ledger::Reader::open(disk, &state.join("ledger"), 0).unwrap();
    let mut notes = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == jurat_seal::kind::CHECKPOINT {
            notes.push(item.body.to_vec());
        }
    }
    notes
}

/// Runs again: refused as rolled back, with nothing signed and nothing sent.
fn assert_refused(site: &Site, case: &str) {
    let before = signed(&site.state());
    let leaves = site.running.with_archive(|archive| archive.stats().leaves);
    let refused = site.run(Finish::WhenDelivered, |_| false);
    assert!(
        matches!(refused, Err(AgentError::RolledBack { .. })),
        "{case}: {refused:?}"
    );
    assert_eq!(signed(&site.state()), before, "{case}: signed");
    let stats = site.running.with_archive(Archive::stats);
    assert_eq!((stats.leaves, stats.forks), (leaves, 0), "{case}");
}

#[test]
fn a_state_folder_that_was_set_back_signs_nothing() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let old = site.dir.path().join("old");
    copy(&site.state(), &old);
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let new = site.dir.path().join("new");
    copy(&site.state(), &new);

    replace(&old, &site.state());
    assert_refused(&site, "an older copy");
    // The way out that the message names: the ledger as it was.
    replace(&new, &site.state());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    site.assert_whole("the ledger was restored");
}

#[test]
fn a_ledger_that_took_another_way_signs_nothing_however_long_it_has_grown() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let old = site.dir.path().join("old");
    copy(&site.state(), &old);
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let witnessed = site.running.with_archive(|archive| archive.stats().leaves);

    // Another history from the old copy on, while the collector cannot be reached: no one can tell.
    replace(&old, &site.state());
    let address = site.enrolment.url.clone();
    let enrolment = site.state().join("enrolment.json");
    let known = fs::read_to_string(&enrolment).unwrap();
    fs::write(&enrolment, known.replace(&address, "https://localhost:1")).unwrap();
    for _ in 0..2 {
        site.write(20);
        site.run(Finish::WhenSealed, |_| false).unwrap();
    }
    fs::write(&enrolment, known).unwrap();
    let longest = jurat_agent::read_status(&*jurat_disk::Host::real().disk, &site.state());
    assert!(
        longest.unwrap().unwrap().size > witnessed,
        "longer than what was witnessed"
    );
    assert_refused(&site, "longer, and another");
}
