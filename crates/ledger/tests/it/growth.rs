//! Segments that cannot be closed.

use std::path::Path;
use std::sync::Arc;

use jurat_ledger::{Group, Ledger, Options, RECORD_BYTES_MAX};
use jurat_testkit::{Repeatable, SimDisk};

#[test]
fn a_state_too_large_to_be_kept_is_not_asked_for_at_every_commit() {
    let disk = SimDisk::new();
    let mut ledger = Ledger::open(
        Arc::new(disk),
        Arc::new(Repeatable::new(1)),
        Path::new("/ledger"),
        Options {
            segment_bytes: 10_000,
            reserve_bytes: 0,
        },
        b"",
        &mut |_| {},
    )
    .unwrap();
    let (mut asked, mut too_large) = (0, true);
    for index in 0..200 {
        let mut group = Group::new();
        group.push(7, &[&[1; 500]]).unwrap();
        if index == 190 {
            too_large = false;
        }
        let mut snapshot = || {
            asked += 1;
            vec![0; if too_large { RECORD_BYTES_MAX + 1 } else { 8 }]
        };
        ledger.append(&mut group, b"", &mut snapshot).unwrap();
    }
    // About 110 KB in steps of 10 KB, and not 180 times.
    assert!((8..15).contains(&asked), "{asked}");
    let mut reader = ledger.read(0).unwrap();
    let mut read = 0;
    while reader.next_record().unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, 200);
}
