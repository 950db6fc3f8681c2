//! A ledger that somebody else wrote, or a crash left behind.

use std::path::Path;
use std::sync::Arc;

use jurat_disk::{Disk, Mode};
use jurat_ledger::{Group, Ledger, Options, Reader, fsck};
use jurat_testkit::{Repeatable, SimDisk};

const DIR: &str = "/l";
const SEGMENT: &str = "/l/0000000000000000.jl";
const ID: [u8; 16] = [7; 16];

/// One piece of a segment whose checksums are made to fit; its bytes are the fuzzer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The kind of record.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its body.
    pub body: Vec<u8>,
}

impl Piece {
    /// How the fuzzer writes a piece: kind, flags, length, body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, self.flags, self.body.len() as u8]);
        out.extend_from_slice(&self.body);
    }
}

/// A reserve is only bytes beside the segments: a small one does.
fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        reserve_bytes: 64,
    }
}

/// Bytes as a segment (first byte 0), records with good checksums (1), or damage to a good ledger (2).
pub fn ledger(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    match mode {
        0 => open(&disk_with(rest)),
        1 => open(&disk_with(&segment(rest))),
        _ => damaged(rest),
    }
}

fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.open(Path::new(SEGMENT), Mode::CreateNew);
    let written = file.and_then(|file| file.write_at(bytes, 0));
    written.expect("a new disk can be written");
    disk
}

fn crc(offset: u64, bytes: &[u8]) -> [u8; 4] {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&ID), &offset.to_le_bytes());
    crc32c::crc32c_append(seed, bytes).to_le_bytes()
}

/// A segment of version 1 (`docs/formats/ledger.md`), written without the ledger's own code.
fn segment(mut pieces: &[u8]) -> Vec<u8> {
    let mut out = b"\x89JLG\r\n\x1a\n\x01\0\0\0\0\0\0\0".to_vec();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&ID);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.resize(64, 0);
    let mut group = out.len() as u64;
    while let Some((&[kind, flags, len], rest)) = pieces.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(len)));
        pieces = rest;
        let offset = out.len() as u64;
        let mut body = body.to_vec();
        if kind == 255 && body.is_empty() {
            body = [group.to_le_bytes().as_slice(), &[1, 0, 0, 0]].concat();
        }
        let mut head = (body.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(&[kind, flags, 0, 0]);
        head.extend_from_slice(&crc(offset, &body));
        head.extend_from_slice(&crc(offset, &head));
        out.extend_from_slice(&head);
        out.extend_from_slice(&body);
        if kind == 255 {
            group = out.len() as u64;
        }
    }
    out
}

fn records(reader: &mut Reader) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut found = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(item)) => found.push((item.kind, item.body.to_vec())),
            Ok(None) => return Some(found),
            Err(_) => return None,
        }
    }
}

/// Opens it. What could be opened can be read to its end, is clean, and takes another group.
fn open(disk: &SimDisk) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(DIR);
    let _ = fsck(disk, dir);
    let mut replayed = 0;
    let opened = Ledger::open(
        shared.clone(),
        Arc::new(Repeatable::new(1)),
        dir,
        options(512),
        b"first",
        &mut |_| replayed += 1,
    );
    let Ok(mut ledger) = opened else { return };
    assert!(replayed <= disk.steps() * 1_000 + 100_000);
    let read = |ledger: &Ledger| {
        ledger
            .read(0)
            .ok()
            .and_then(|mut reader| records(&mut reader))
    };
    let before = read(&ledger).expect("what was opened can be read");
    assert!(fsck(disk, dir).is_ok_and(|found| found.is_clean()));
    let mut group = Group::new();
    group.push(1, &[b"one more"]).expect("it is short");
    ledger
        .append(&mut group, b"", &mut Vec::new)
        .expect("a good disk can be written");
    let after = read(&ledger).expect("what was appended can be read");
    assert_eq!(
        after.split_last(),
        Some((&(1, b"one more".to_vec()), &*before))
    );
}

/// Every three bytes change one byte of a good ledger, the last of them may cut it. What opens after
/// that holds the first of the groups that were appended, whole and in order, and no other.
fn damaged(data: &[u8]) {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut ledger = Ledger::open(
        shared.clone(),
        Arc::new(Repeatable::new(1)),
        Path::new(DIR),
        options(u64::MAX),
        b"",
        &mut |_| {},
    )
    .expect("a new disk can be written");
    let mut written = Vec::new();
    let mut whole = vec![0];
    for number in 0..6_u8 {
        let mut group = Group::new();
        for part in 0..=number % 3 {
            let body = vec![number * 16 + part; usize::from(number) * 40];
            group.push(part, &[&body]).expect("it is short");
            written.push((part, body));
        }
        ledger
            .append(&mut group, &[number], &mut Vec::new)
            .expect("a good disk can be written");
        whole.push(written.len());
    }
    drop(ledger);
    let (edits, rest) = data.as_chunks::<3>();
    // Checksums of 32 bits are made for accidents: a handful of changes, not a search for collisions.
    for [low, high, change] in edits.iter().take(8) {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        disk.corrupt(Path::new(SEGMENT), |bytes| {
            let at = at % bytes.len();
            bytes[at] ^= change;
        });
    }
    if let [low, high] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        disk.corrupt(Path::new(SEGMENT), |bytes| bytes.truncate(len));
    }
    let opened = Ledger::open(
        shared,
        Arc::new(Repeatable::new(2)),
        Path::new(DIR),
        options(u64::MAX),
        b"",
        &mut |_| {},
    );
    let Ok(ledger) = opened else { return };
    let mut reader = ledger.read(0).expect("it can be listed");
    let found = records(&mut reader).expect("what was opened can be read");
    assert!(whole.contains(&found.len()), "a group came back in part");
    assert!(
        written.starts_with(&found),
        "what was not written came back"
    );
}
