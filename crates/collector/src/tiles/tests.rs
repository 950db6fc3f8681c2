//! The projection against what was accepted, whatever happens to its files.

use std::collections::BTreeMap;

use axum::body::Bytes;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{Cosignature, Frontier, Signer as _, VerifierKey};
use jurat_testkit::{Fault, Repeatable, SimDisk};

use super::*;
use crate::archive::tests::{ORIGIN, host, key, uploads_of};
use crate::archive::{Ask, Done, Judgement, Writer};

/// 5 uploads of this many entries and one more: a whole tile, a second level, a part of a tile.
const ENTRIES: usize = 120;
const SIZE: u64 = 605;

struct Open {
    archive: Arc<Archive>,
    writer: Writer,
    store: TileStore,
}

fn open(disk: &SimDisk) -> Open {
    let (archive, writer) =
        Archive::open(host(disk), Path::new("/c"), "example.org", 10, 0).unwrap();
    let store = TileStore::new(
        archive.clone(),
        Arc::new(disk.clone()),
        Path::new("/c/tiles"),
    );
    Open {
        archive,
        writer,
        store,
    }
}

impl Open {
    /// Accepts these uploads, and signs the own log after each.
    fn accept(&mut self, numbers: std::ops::Range<usize>) {
        let key = key();
        for (number, (size, body)) in uploads_of(ORIGIN, &key, ENTRIES).into_iter().enumerate() {
            if !numbers.contains(&number) {
                continue;
            }
            let nonce = (format!("d/nonce-{number:016}"), 1_790_000_000);
            let body = Bytes::from(body);
            let judged = self
                .archive
                .judge(ORIGIN, key.verifier_key(), &nonce, &body);
            let Judgement::Store(ask) = judged.unwrap() else {
                panic!()
            };
            let asked: Vec<Ask> = vec![ask];
            let done = self.writer.commit(asked).unwrap().pop();
            let Some(Done::Accepted(accepted)) = done else {
                panic!()
            };
            assert_eq!(accepted.size, size);
            self.writer.seal_own_log().unwrap();
        }
    }
}

fn device() -> Digest {
    sha256(&[ORIGIN.as_bytes()])
}

/// As a client that tries again, a few times.
fn patient<T>(mut ask: impl FnMut() -> Result<T, TilesError>) -> Result<T, TilesError> {
    for _ in 0..4 {
        match ask() {
            Err(TilesError::Behind | TilesError::Torn(_)) => {}
            done => return done,
        }
    }
    ask()
}

type Files = BTreeMap<String, Vec<u8>>;

/// Every file of a log, as a client reads them.
fn read(store: &TileStore, log: Digest) -> Result<Files, TilesError> {
    let mut files = BTreeMap::new();
    let get = |path: TilePath| patient(|| store.get(&log, path));
    let note = get(TilePath::Checkpoint)?.expect("a log that was accepted has a checkpoint");
    let size = Head::of(&note).expect("it is one").size;
    files.insert(TilePath::Checkpoint.to_string(), note);
    for tile in Tile::all(size) {
        let mut paths = vec![TilePath::Hashes(tile)];
        if tile.level() == 0 {
            paths.push(TilePath::Entries(tile));
        }
        for path in paths {
            let bytes = get(path)?;
            files.insert(
                path.to_string(),
                bytes.expect("a tile of the tree is there"),
            );
        }
    }
    Ok(files)
}

fn read_both(store: &TileStore) -> Result<[Files; 2], TilesError> {
    Ok([read(store, device())?, read(store, store.own)?])
}

/// What lies in the projection's folders.
fn files_on(disk: &SimDisk, store: &TileStore) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = store.dir.clone();
    let folders = [
        dir.clone(),
        store.folder(&device()),
        store.folder(&store.own),
    ];
    let mut files = BTreeMap::new();
    for folder in folders {
        for name in disk.list(&folder).unwrap() {
            let path = folder.join(name);
            let bytes = jurat_disk::read(disk, &path, 1 << 24).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// A collector that accepted all uploads, its tiles laid out in part, and the names of their files durable.
fn half_laid_out() -> SimDisk {
    let disk = SimDisk::new();
    let mut open = open(&disk);
    open.accept(0..3);
    read_both(&open.store).unwrap();
    for folder in [
        open.store.dir.clone(),
        open.store.folder(&device()),
        open.store.folder(&open.store.own),
    ] {
        disk.sync_dir(&folder).unwrap();
    }
    open.accept(3..5);
    disk
}

#[test]
fn tiles_served_are_those_of_the_exported_folder_and_give_the_signed_root() {
    let disk = SimDisk::new();
    let mut open = open(&disk);
    open.accept(0..5);
    let [device_files, own_files] = read_both(&open.store).unwrap();
    for (name, served) in [("jurat/d/0", &device_files), ("collector", &own_files)] {
        let mut files = BTreeMap::new();
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let done = export_tiles(disk, Path::new("/c"), name, |path, bytes| {
            files.insert(path.to_owned(), bytes.to_vec());
            Ok(())
        });
        assert_eq!(done.unwrap().entries_missing, 0);
        assert_eq!(files, *served, "{name}");
    }
    assert!(device_files.contains_key("tile/1/000.p/2"));
    assert!(device_files.contains_key("tile/entries/002.p/93"));
    // The entries give the signed root of both logs, and leaf 0 of each names the log.
    let [_, _, log] = open.archive.verifier_keys();
    for (files, origin) in [(device_files, ORIGIN), (own_files, log.name.as_str())] {
        let head = Head::of(&files["checkpoint"]).unwrap();
        let mut frontier = Frontier::default();
        for tile in Tile::all(head.size).filter(|tile| tile.level() == 0) {
            let bundle = &files[&TilePath::Entries(tile).to_string()];
            for entry in jurat_proof::parse_entries(bundle, tile.width()).unwrap() {
                if frontier.size() == 0 {
                    let view = EntryView::parse(entry).unwrap();
                    assert!(view.is(Kind::LogOpened));
                    assert_eq!(view.detail_map()["origin"], origin);
                }
                frontier.push(leaf_hash(entry));
            }
        }
        assert_eq!((frontier.size(), frontier.root()), (head.size, head.root));
    }
}

#[test]
fn what_does_not_exist_is_not_there() {
    let disk = SimDisk::new();
    let mut open = open(&disk);
    let get = |open: &Open, log, path: &str| {
        let path = TilePath::parse(path).unwrap();
        open.store.get(&log, path).unwrap().is_some()
    };
    assert!(!get(&open, device(), "checkpoint"));
    assert!(!get(&open, open.store.own, "checkpoint"));
    open.accept(0..5);
    assert!(get(&open, device(), "checkpoint"));
    for path in [
        "tile/0/002.p/93",
        "tile/0/002.p/1",
        "tile/0/000",
        "tile/0/000.p/7",
    ] {
        assert!(get(&open, device(), path), "{path}");
    }
    for path in [
        "tile/0/002.p/94",
        "tile/0/002",
        "tile/0/003.p/1",
        "tile/1/000",
        "tile/1/000.p/3",
        "tile/2/000.p/1",
        "tile/entries/002",
        "tile/0/x999/x999/x999/x999/x999/999",
        "tile/63/000",
    ] {
        assert!(!get(&open, device(), path), "{path}");
    }
    assert!(!get(&open, sha256(&[b"another log"]), "checkpoint"));
    // A leaf that no checkpoint covers yet is not shown.
    let own = open.store.own;
    let size = |open: &Open| {
        let note = open.store.get(&own, TilePath::Checkpoint).unwrap().unwrap();
        Head::of(&note).unwrap().size
    };
    let before = size(&open);
    let host = host(&disk);
    let enrolment = jurat_sink::Enrolment {
        device: "11111111-2222-4333-8444-555555555555".into(),
        key: base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            key().public_key(),
        ),
        key_kind: "software".into(),
        ..jurat_sink::Enrolment::default()
    };
    let (row, _) =
        crate::devices::Device::new(&host, "example.org", &enrolment, [4; 65], None, 0).unwrap();
    open.writer.commit(vec![Ask::Enrol(Box::new(row))]).unwrap();
    assert_eq!(size(&open), before);
    let next = Tile::new(0, 0, before as u16 + 1).unwrap();
    let asked = open.store.get(&own, TilePath::Hashes(next)).unwrap();
    assert_eq!(asked, None);
    open.writer.seal_own_log().unwrap();
    assert_eq!(size(&open), before + 1);
    assert!(
        open.store
            .get(&own, TilePath::Hashes(next))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_receipt_leads_from_every_accepted_head_to_the_log_of_logs() {
    let disk = SimDisk::new();
    let mut open = open(&disk);
    open.accept(0..5);
    let [_, _, log]: [VerifierKey; 3] = open.archive.verifier_keys();
    let mut frontier = Frontier::default();
    let mut raw = Vec::new();
    for (number, (size, body)) in uploads_of(ORIGIN, &key(), ENTRIES).into_iter().enumerate() {
        unpack(&body, &mut raw).unwrap();
        frontier.extend(&leaves(&raw).unwrap());
        let receipt = open.store.receipt(ORIGIN, size).unwrap().unwrap();
        let text = receipt.encode();
        let receipt = Receipt::parse(text.as_bytes()).unwrap();
        let received = receipt
            .verify(&log, ORIGIN, size, &frontier.root())
            .unwrap();
        // Leaf 0 opens the log.
        assert_eq!(received.index, number as u64 + 1);
        assert!(receipt.verify(&log, ORIGIN, size, &device()).is_err());
    }
    assert_eq!(frontier.size(), SIZE);
    for (origin, size) in [(ORIGIN, 0), (ORIGIN, 1), (ORIGIN, SIZE + 1), ("other", 121)] {
        assert!(open.store.receipt(origin, size).unwrap().is_none());
    }
}

#[test]
fn a_long_archive_is_read_in_steps_and_who_asks_meanwhile_is_told() {
    let disk = half_laid_out();
    let expected = read_both(&open(&disk).store).unwrap();
    let mut store = open(&disk).store;
    store.clear(&store.dir).unwrap();
    store.clear(&store.folder(&device())).unwrap();
    store.step = 1;
    let mut told = 0;
    let served = loop {
        match store.get(&device(), TilePath::Checkpoint) {
            Err(TilesError::Behind) => told += 1,
            done => break done.unwrap(),
        }
    };
    assert_eq!(served.as_ref(), expected[0].get("checkpoint"));
    assert!(told > 5);
    let path = TilePath::parse("tile/0/002.p/93").unwrap();
    let mut told = 0;
    let served = loop {
        match store.get(&device(), path) {
            Err(TilesError::Behind) => told += 1,
            done => break done.unwrap(),
        }
    };
    assert_eq!(served.as_ref(), expected[0].get("tile/0/002.p/93"));
    assert_eq!(told, 4, "one upload in each step");
}

#[test]
fn after_a_power_cut_at_any_step_the_tiles_are_the_same_bytes() {
    let clean = half_laid_out();
    let before = clean.steps();
    let store = open(&clean).store;
    let opened = clean.steps() - before;
    let expected = read_both(&store).unwrap();
    let files = files_on(&clean, &store);
    assert_eq!(files.len(), 4, "the index, two levels and one level");
    for step in opened..clean.steps() - before {
        let disk = half_laid_out();
        let store = open(&disk).store;
        disk.fail_at(before + step, Fault::Crash);
        assert!(
            read_both(&store).is_err(),
            "the fault at step {step} is met"
        );
        disk.crash(&Repeatable::new(step));
        let store = open(&disk).store;
        assert!(read_both(&store).unwrap() == expected, "step {step}");
        assert!(files_on(&disk, &store) == files, "step {step}");
    }
}

#[test]
fn a_full_disk_delays_tiles_and_changes_none() {
    let clean = half_laid_out();
    let before = clean.steps();
    let store = open(&clean).store;
    let opened = clean.steps() - before;
    let expected = read_both(&store).unwrap();
    let files = files_on(&clean, &store);
    let mut met = 0;
    for step in opened..clean.steps() - before {
        let disk = half_laid_out();
        let store = open(&disk).store;
        disk.fail_at(before + step, Fault::FullForGood);
        met += u32::from(read_both(&store).is_err());
        disk.heal();
        // The same process goes on.
        assert!(read_both(&store).unwrap() == expected, "step {step}");
        assert!(files_on(&disk, &store) == files, "step {step}");
    }
    assert!(met > 5);
}

#[test]
fn a_changed_cut_or_deleted_file_is_never_served_and_is_made_again() {
    let disk = half_laid_out();
    let expected = read_both(&open(&disk).store).unwrap();
    let files = files_on(&disk, &open(&disk).store);
    for (path, bytes) in &files {
        let len = bytes.len();
        for at in (0..len).step_by(len / 7 + 1).chain([len - 1]) {
            for reopened in [false, true] {
                let mut store = open(&disk).store;
                read_both(&store).unwrap();
                disk.corrupt(path, |bytes| bytes[at] ^= 1);
                if reopened {
                    store = open(&disk).store;
                }
                let served = read_both(&store);
                assert!(served.unwrap() == expected, "{} at {at}", path.display());
            }
        }
        for cut in [0, 1, len / 2, len - 1] {
            disk.corrupt(path, |bytes| bytes.truncate(cut));
            let store = open(&disk).store;
            assert!(
                read_both(&store).unwrap() == expected,
                "{} cut",
                path.display()
            );
            assert!(files_on(&disk, &store) == files, "{} cut", path.display());
        }
        disk.remove(path).unwrap();
        let store = open(&disk).store;
        assert!(
            read_both(&store).unwrap() == expected,
            "{} gone",
            path.display()
        );
        assert!(files_on(&disk, &store) == files, "{} gone", path.display());
    }
}

#[test]
fn tiles_of_another_archive_are_not_taken_for_this_ones() {
    let disk = half_laid_out();
    let store = open(&disk).store;
    read_both(&store).unwrap();
    // An archive that begins anew beside the tiles of the one that was there.
    for name in disk.list(Path::new("/c/archive")).unwrap() {
        disk.remove(&Path::new("/c/archive").join(name)).unwrap();
    }
    drop(store);
    for name in disk.list(Path::new("/c/devices")).unwrap() {
        disk.remove(&Path::new("/c/devices").join(name)).unwrap();
    }
    // Beside keys that have cosigned it would be refused.
    let keys = Path::new("/c/keys");
    for name in disk.list(keys).unwrap() {
        disk.remove(&keys.join(name)).unwrap();
    }
    let mut open = open(&disk);
    open.accept(0..2);
    let [device_files, own_files] = read_both(&open.store).unwrap();
    assert_eq!(Head::of(&device_files["checkpoint"]).unwrap().size, 242);
    assert_eq!(Head::of(&own_files["checkpoint"]).unwrap().size, 3);
}

impl Open {
    /// Lets an outside witness cosign the own log's newest head, and says whether that is the quorum.
    fn cosign(&mut self, quorum: bool) -> Note {
        let outside = SoftwareKey::cosigner(&Secret::from_bytes([8; 32]), "outside").unwrap();
        let mut note = Note::parse(self.archive.own_checkpoint().unwrap().as_bytes()).unwrap();
        let line = Cosignature::sign(&outside, 1_790_000_000, &note.text).unwrap();
        note.signatures.push(line);
        let ask = Ask::OwnCosigned {
            note: note.encode(),
            quorum,
        };
        self.writer.commit(vec![ask]).unwrap();
        note
    }

    /// The checkpoint of the receipt for the head of this size, as it is served, and as it is exported.
    fn receipts(&self, size: u64) -> [Note; 2] {
        let served = patient(|| self.store.receipt(ORIGIN, size));
        let exported = crate::export::receipt(&self.archive, ORIGIN, size).unwrap();
        [
            served.unwrap().unwrap().note,
            Receipt::parse(&exported).unwrap().note,
        ]
    }
}

#[test]
fn a_newer_head_below_the_quorum_does_not_displace_the_one_that_met_it() {
    let mut open = open(&SimDisk::new());
    open.accept(0..1);
    let met = open.cosign(true);
    // The own log grows by a leaf that is about no upload.
    let digest = "another".into();
    open.writer
        .commit(vec![Ask::Policy {
            digest,
            machines: None,
        }])
        .unwrap();
    open.writer.seal_own_log().unwrap();
    open.cosign(false);
    assert_eq!(open.receipts(121), [met.clone(), met.clone()]);
    // Only a newer one covers this.
    open.accept(1..2);
    let below = open.cosign(false);
    assert_eq!(open.receipts(121), [met.clone(), met.clone()]);
    assert_eq!(open.receipts(242), [below.clone(), below.clone()]);
    open.accept(2..3);
    let again = open.cosign(true);
    for size in [121, 242, 363] {
        assert_eq!(open.receipts(size), [again.clone(), again.clone()]);
    }
}
