//! The operator erases, on a disk that stops at every single step.

use jurat_event::{EraseRequest, Erased};
use jurat_proof::{Context, Leaf, Report, context_hasher};
use jurat_sink::line::Audit;
use jurat_testkit::{contains, unpacked};

use super::*;
use crate::erase::{EraseError, Plan, carry_out, erase_folder};

const LEAVES_OF_UPLOAD: u64 = 4;

fn payload(seq: u64) -> String {
    format!("{{\"said\":\"what nobody is to know, number {seq:03}\"}}")
}

/// Uploads of a log whose leaves have payloads, but for the first and those that end a batch.
fn uploads(key: &SoftwareKey) -> Vec<Vec<u8>> {
    let mut frontier = Frontier::default();
    let mut chain = Chain::new(ORIGIN);
    let mut numbers = [0; 2];
    let mut out = Vec::new();
    for _ in 0..UPLOADS {
        let mut raw = Vec::new();
        for place in 0..LEAVES_OF_UPLOAD {
            let seq = frontier.size();
            let mut entry = json!({"salt":"c2FsdHNhbHRzYWx0c2FsdA","boot":"b","time":"2026-01-01T00:00:00Z","kind":"other","seq":seq});
            let mut content = None;
            if seq == 0 {
                entry["kind"] = "log.opened".into();
                entry["detail"] = json!({ "origin": ORIGIN });
            } else if place + 1 == LEAVES_OF_UPLOAD {
                entry["kind"] = "batch.sealed".into();
                let head = chain.0.to_string();
                entry["detail"] = json!({ "count": LEAVES_OF_UPLOAD - 1, "chain": head });
            } else {
                let session = place as usize % 2;
                entry["session"] = format!("s{session}").into();
                entry["session_seq"] = numbers[session].into();
                numbers[session] += 1;
                let bytes = payload(seq);
                let mut hasher = context_hasher(&[4; 32]);
                hasher.update(bytes.as_bytes());
                let (sha256, len) = (hasher.finish(), bytes.len() as u64);
                entry["context"] = json!(Context {
                    sha256,
                    len,
                    redactions: 0
                });
                content = Some(bytes);
            }
            let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]);
            write_record(&mut raw, &Record::Entry(entry.as_bytes()));
            if let Some(bytes) = &content {
                let (salt, bytes) = (&[4; 32], bytes.as_bytes());
                write_record(&mut raw, &Record::Payload { salt, bytes });
            }
            frontier.push(leaf_hash(entry.as_bytes()));
            chain.push(&leaf_hash(entry.as_bytes()));
        }
        let checkpoint = Checkpoint {
            origin: ORIGIN.into(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let note = checkpoint.sign(key).unwrap().encode();
        write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
        out.push(zstd::bulk::compress(&raw, 1).unwrap());
    }
    out
}

/// Hands over an upload: what the archive answers.
fn hand_over(open: &mut Open, index: usize, body: Vec<u8>) -> Accepted {
    let nonce = (format!("d/nonce-{index:016}"), 1_790_000_000);
    let key = key();
    let judged = open
        .archive
        .judge(ORIGIN, key.verifier_key(), &nonce, &body.into());
    let Judgement::Store(ask) = judged.unwrap() else {
        panic!()
    };
    match open.writer.commit(vec![ask]).unwrap().pop() {
        Some(Done::Accepted(accepted)) => accepted,
        _ => panic!("not accepted"),
    }
}

/// An upload of nothing but the hashes of its leaves.
fn only_hashes(body: &[u8]) -> Vec<u8> {
    let raw = zstd::stream::decode_all(body).unwrap();
    let (mut out, mut hashes) = (Vec::new(), Vec::new());
    let from = begins_at(&raw).unwrap().unwrap();
    for record in RecordReader::new(&raw).flatten() {
        match record {
            Record::Entry(entry) => hashes.push(leaf_hash(entry).0),
            Record::Checkpoint(_) => {
                let hashes = &hashes;
                write_record(&mut out, &Record::Leaves { from, hashes });
                write_record(&mut out, &record);
            }
            _ => {}
        }
    }
    zstd::bulk::compress(&out, 1).unwrap()
}

/// A collector that holds them; the SIEM file has the lines of the first so many.
fn filled(disk: &SimDisk, lines_of: usize) -> Open {
    let mut open = open(disk).unwrap();
    for (index, body) in uploads(&key()).into_iter().enumerate() {
        if index == lines_of {
            open.siem.round().unwrap();
        }
        hand_over(&mut open, index, body);
    }
    open
}

/// In the first upload, over the end of one, and a session's of which one is named already.
fn request() -> EraseRequest {
    EraseRequest {
        ranges: vec![(1, 3), (6, 9)].into(),
        sessions: vec!["s1".into()],
        who: "operator".into(),
        reason: "asked for".into(),
    }
}

/// The leaves with a payload that the request names.
fn named() -> Vec<u64> {
    let has = |seq: &u64| *seq > 0 && !(seq + 1).is_multiple_of(LEAVES_OF_UPLOAD);
    let named = |seq: &u64| matches!(seq, 1..3 | 6..9) || seq % LEAVES_OF_UPLOAD == 1;
    let all = 0..UPLOADS as u64 * LEAVES_OF_UPLOAD;
    all.filter(has).filter(named).collect()
}

fn erase(open: &mut Open, request: &EraseRequest) -> Result<Erased, EraseError> {
    let archive = open.archive.clone();
    carry_out(&archive, ORIGIN, request, &mut |ask| {
        Ok(open.writer.commit(vec![ask])?.remove(0))
    })
}

/// Every byte of the archive, unpacked, too.
fn archived(disk: &SimDisk) -> Vec<u8> {
    let dir = Path::new("/c/archive");
    let names = disk.list(dir).unwrap();
    let read = |name: &String| jurat_disk::read(disk, &dir.join(name), u64::MAX).unwrap();
    unpacked(&names.iter().flat_map(read).collect::<Vec<_>>())
}

fn exported(archive: &Archive, see: &mut dyn FnMut(&Leaf<'_>)) -> Report {
    let [witness, archive_key, _] = archive.verifier_keys();
    let trust = format!(
        "log {}\nwitness w {witness}\narchive a {archive_key}\nquorum 1\n",
        key().verifier_key()
    );
    let mut bundle = Vec::new();
    let (all, nothing) = (Selection::All, Withhold::default());
    crate::export(archive, ORIGIN, &all, &nothing, &mut bundle).unwrap();
    match verify(
        bundle.as_slice(),
        Some(&Trust::parse(&trust).unwrap()),
        None,
        see,
    ) {
        Verdict::Verified(report) => *report,
        other => panic!("{other:?}"),
    }
}

/// The log as tiles.
fn tiles(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let mut tiles = BTreeMap::new();
    let shared = Arc::new(disk.clone());
    crate::export_tiles(shared, Path::new("/c"), ORIGIN, |name, bytes| {
        tiles.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    })
    .unwrap();
    assert!(tiles.len() > 2);
    tiles
}

/// Payloads that the bundle does not hold.
fn missing(report: &Report) -> u64 {
    let payloads = report.payloads;
    payloads.withheld + payloads.erased
}

/// The leaves of the own log that say so, with what they name.
fn said(archive: &Archive) -> Vec<u64> {
    let mut named = Vec::new();
    let mut reader = archive.reader(0, archive.end()).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::OWN_ENTRY {
            let entry: Value = serde_json::from_slice(item.body).unwrap();
            if entry["kind"] == "payload.erased" {
                assert_eq!(entry["detail"]["origin"], ORIGIN);
                assert_eq!(
                    (&entry["detail"]["who"], &entry["severity"]),
                    (&"operator".into(), &"medium".into())
                );
                let ranges: Vec<(u64, u64)> =
                    serde_json::from_value(entry["detail"]["ranges"].clone()).unwrap();
                named.extend(ranges.into_iter().flat_map(|(from, to)| from..to));
            }
        }
    }
    named
}

/// All of it is as it should be after an erasure that was done.
fn check_erased(disk: &SimDisk, root: Digest, what: &str) {
    let mut opened = open(disk).unwrap();
    opened.siem.round().unwrap();
    let bytes = archived(disk);
    for seq in 0..UPLOADS as u64 * LEAVES_OF_UPLOAD {
        let has = seq > 0 && !(seq + 1).is_multiple_of(LEAVES_OF_UPLOAD);
        let gone = named().contains(&seq);
        let found = contains(&bytes, payload(seq).as_bytes());
        assert_eq!(found, has && !gone, "{what}: payload {seq}");
    }
    assert_eq!(said(&opened.archive), named(), "{what}");
    let mut audit = Audit::default();
    let report = exported(&opened.archive, &mut |leaf| audit.leaf(leaf));
    assert_eq!(missing(&report), named().len() as u64, "{what}");
    assert_eq!((report.root, report.axes.complete), (root, false), "{what}");
    assert_eq!(report.axes.archive.names.len(), 1, "{what}");
    // Lines that were written before hold what they held; every leaf has one.
    let siem = jurat_disk::read(disk, Path::new("/c/siem.jsonl"), u64::MAX).unwrap();
    for line in siem
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        audit.line(line);
    }
    let audited = audit.finish();
    assert!(audited.is_clean(), "{what}: {audited:?}");
}

#[test]
fn wherever_the_power_goes_an_erasure_is_said_and_done_or_neither_and_the_bundle_verifies() {
    for lines_of in [0, 2, UPLOADS] {
        let clean = SimDisk::new();
        let mut opened = filled(&clean, lines_of);
        let whole = exported(&opened.archive, &mut |_| {});
        assert_eq!((missing(&whole), whole.axes.complete), (0, true));
        let tiled = tiles(&clean);
        let first = clean.steps();
        let erased = erase(&mut opened, &request()).unwrap();
        let steps = clean.steps();
        assert_eq!(
            (erased.count, erased.gone_before),
            (named().len() as u64, 0)
        );
        // Once more there is nothing to do.
        let again = erase(&mut opened, &request()).unwrap();
        assert_eq!((again.count, again.gone_before), (0, named().len() as u64));
        drop(opened);
        check_erased(&clean, whole.root, "no fault");
        assert_eq!(
            tiles(&clean),
            tiled,
            "entries and hashes are what they were"
        );
        let mut done = [0; 2];
        for step in first..steps {
            for seed in 0..2 {
                let what = format!("lines of {lines_of}, step {step}, seed {seed}");
                let disk = SimDisk::new();
                let mut opened = filled(&disk, lines_of);
                disk.fail_at(step, Fault::Crash);
                assert!(erase(&mut opened, &request()).is_err(), "{what}");
                drop(opened);
                disk.crash(&Repeatable::new(seed));
                // Opening completes what was begun, wherever it is stopped once more.
                for again in 0..4 {
                    disk.fail_at(disk.steps() + again, Fault::Crash);
                    let _ = open(&disk);
                    disk.crash(&Repeatable::new(seed + again));
                }
                let opened = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
                let begun = !said(&opened.archive).is_empty();
                done[usize::from(begun)] += 1;
                let gone = if begun { named().len() } else { 0 };
                let report = exported(&opened.archive, &mut |_| {});
                assert_eq!(missing(&report), gone as u64, "{what}");
                assert_eq!(report.root, whole.root, "{what}");
                let held = contains(&archived(&disk), payload(1).as_bytes());
                assert_eq!(held, !begun, "{what}");
                drop(opened);
                let mut opened = open(&disk).unwrap();
                let asked = erase(&mut opened, &request()).unwrap();
                assert_eq!(asked.count, (named().len() - gone) as u64, "{what}");
                drop(opened);
                check_erased(&disk, whole.root, &what);
            }
        }
        assert!(done.iter().all(|count| *count > 0), "{done:?}");
    }
}

#[test]
fn two_erasures_planned_from_the_same_record_do_not_bring_back_what_the_first_one_took() {
    let disk = SimDisk::new();
    let mut opened = filled(&disk, 0);
    let archive = opened.archive.clone();
    let one = |leaf| EraseRequest {
        ranges: vec![(leaf, leaf + 1)].into(),
        sessions: Vec::new(),
        ..request()
    };
    let (first, second) = (one(1), one(2));
    let ask = |request| {
        Plan::new(&archive, ORIGIN, request)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
    };
    let done = opened
        .writer
        .commit(vec![ask(&first), ask(&second)])
        .unwrap();
    assert!(matches!(
        done.as_slice(),
        [Done::Erased { .. }, Done::Stale]
    ));
    let late = ask(&second);
    assert_eq!(erase(&mut opened, &second).unwrap().count, 1);
    let done = opened.writer.commit(vec![late]).unwrap();
    assert!(matches!(done.as_slice(), [Done::Stale]));
    for leaf in [1, 2] {
        assert!(!contains(&archived(&disk), payload(leaf).as_bytes()));
    }
}

#[test]
fn an_erasure_of_what_is_not_there_or_under_a_running_collector_is_refused() {
    let disk = SimDisk::new();
    let opened = filled(&disk, 0);
    let ask = |device: &str, request: &EraseRequest| {
        erase_folder(&host(&disk), Path::new("/c"), device, request)
    };
    let (url, domain) = ("https://localhost:1".into(), "example.org".into());
    let address = crate::Address { url, domain };
    address.store(&host(&disk), Path::new("/c")).unwrap();
    assert!(matches!(
        ask("d", &request()),
        Err(EraseError::Admin(crate::AdminError::Runs { .. }))
    ));
    drop(opened);
    let refused = [
        ask("e", &request()),
        ask(
            "d",
            &EraseRequest {
                ranges: vec![(0, 1_000)].into(),
                ..request()
            },
        ),
        ask(
            "d",
            &EraseRequest {
                sessions: vec!["s2".into()],
                ..request()
            },
        ),
        ask(
            "d",
            &EraseRequest {
                reason: String::new(),
                ..request()
            },
        ),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(EraseError::Refused(_))),
            "{refused:?}"
        );
    }
    assert!(said(&open(&disk).unwrap().archive).is_empty());
    assert_eq!(ask(ORIGIN, &request()).unwrap().count, named().len() as u64);
    assert!(!said(&open(&disk).unwrap().archive).is_empty());
}

#[test]
fn a_payload_that_was_erased_before_it_came_is_never_stored() {
    for reopened in [false, true] {
        let disk = SimDisk::new();
        let mut opened = open(&disk).unwrap();
        let bodies = uploads(&key());
        // Of the second and the third upload only the hashes came.
        for (index, body) in bodies.iter().enumerate() {
            let withheld = [1, 2].contains(&index);
            let body = if withheld {
                only_hashes(body)
            } else {
                body.clone()
            };
            hand_over(&mut opened, index, body);
        }
        let behind = EraseRequest {
            ranges: vec![(13, 14)].into(),
            sessions: Vec::new(),
            ..request()
        };
        assert_eq!(opened.archive.awaited(ORIGIN, &behind).unwrap(), 0);
        let erased = erase(&mut opened, &request()).unwrap();
        assert_eq!(erased.awaited, 2 * LEAVES_OF_UPLOAD);
        let here = |seq: &u64| !(LEAVES_OF_UPLOAD..3 * LEAVES_OF_UPLOAD).contains(seq);
        let count = named().into_iter().filter(here).count();
        assert_eq!(erased.count, count as u64);
        // Asked again it is the same order.
        assert_eq!(erase(&mut opened, &request()).unwrap().count, 0);
        assert_eq!(opened.archive.state().lines[ORIGIN].awaited.len(), 1);
        if reopened {
            drop(opened);
            opened = open(&disk).unwrap();
        }
        let mut last = None;
        for index in [2, 1] {
            last = Some(hand_over(&mut opened, 10 + index, bodies[index].clone()));
        }
        let answer = last.unwrap();
        assert_eq!((answer.leaves_withheld, answer.payloads_missing), (0, 0));
        assert_eq!(opened.is_witnessed(&answer.note), [true, true]);
        let mut said = said(&opened.archive);
        said.sort_unstable();
        assert_eq!(said, named(), "each once, whenever it came");
        let bytes = archived(&disk);
        for seq in 0..UPLOADS as u64 * LEAVES_OF_UPLOAD {
            let has = seq > 0 && !(seq + 1).is_multiple_of(LEAVES_OF_UPLOAD);
            let found = contains(&bytes, payload(seq).as_bytes());
            assert_eq!(found, has && !named().contains(&seq), "payload {seq}");
        }
        // The order is done with: a later upload is archived as it comes.
        assert!(opened.archive.state().lines[ORIGIN].awaited.is_empty());
        let report = exported(&opened.archive, &mut |_| {});
        assert_eq!(missing(&report), named().len() as u64);
    }
}

#[test]
fn a_collector_that_stops_does_not_wait_until_an_erasure_has_read_its_archive() {
    let disk = SimDisk::new();
    let opened = filled(&disk, 0);
    let request = request();
    let mut plan = Plan::new(&opened.archive, ORIGIN, &request).unwrap();
    opened.archive.stop();
    assert!(matches!(plan.next(), Err(ArchiveError::Stopping)));
    let begun = Plan::new(&opened.archive, ORIGIN, &request).map(|_| ());
    assert!(matches!(
        begun,
        Err(EraseError::Archive(ArchiveError::Stopping))
    ));
    assert!(said(&opened.archive).is_empty());
}

#[test]
fn a_full_list_of_waiting_orders_keeps_nothing_that_is_here_from_being_erased() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    let bodies = uploads(&key());
    hand_over(&mut opened, 0, bodies[0].clone());
    hand_over(&mut opened, 1, only_hashes(&bodies[1]));
    let waiting = |opened: &Open| {
        let orders = &opened.archive.state().lines[ORIGIN].awaited;
        orders
            .iter()
            .map(|order| order.request.clone())
            .collect::<Vec<_>>()
    };
    let here = |reason: String, leaf: u64| EraseRequest {
        ranges: vec![(leaf, leaf + 1)].into(),
        sessions: vec!["s1".into(), "mistyped".into()],
        reason,
        ..request()
    };
    // Of the same words it is one order, whatever it asks for.
    for leaf in 0..LEAVES_OF_UPLOAD {
        let erased = erase(&mut opened, &here("again".into(), leaf)).unwrap();
        assert_eq!(erased.awaited, LEAVES_OF_UPLOAD);
        assert_eq!(erased.unknown_sessions, ["mistyped"]);
    }
    let [one] = &waiting(&opened)[..] else {
        panic!("one order")
    };
    assert_eq!(one.ranges.leaves(), LEAVES_OF_UPLOAD);
    assert_eq!(one.sessions, ["s1", "mistyped"]);
    // What came since of a session that is not named again is not meant.
    hand_over(&mut opened, 2, only_hashes(&bodies[2]));
    let other = EraseRequest {
        sessions: vec!["s9".into()],
        ..here("again".into(), 0)
    };
    erase(&mut opened, &other).unwrap();
    let found = waiting(&opened);
    assert_eq!(
        found
            .iter()
            .map(|order| order.sessions.len())
            .collect::<Vec<_>>(),
        [2, 1]
    );
    // Until it is full.
    let reason = |number: usize| format!("{number:0500}");
    let refused = (0..1_000)
        .map(|number| erase(&mut opened, &here(reason(number), 0)).unwrap())
        .find(|erased| erased.not_awaited > 0)
        .unwrap();
    assert_eq!(
        (refused.awaited, refused.not_awaited),
        (0, 2 * LEAVES_OF_UPLOAD)
    );
    hand_over(&mut opened, 3, bodies[3].clone());
    let leaf = 3 * LEAVES_OF_UPLOAD + 2;
    let last = EraseRequest {
        sessions: Vec::new(),
        ranges: vec![(LEAVES_OF_UPLOAD, leaf + 1)].into(),
        ..here(reason(2_000), 0)
    };
    let erased = erase(&mut opened, &last).unwrap();
    assert!(erased.not_awaited > 0 && erased.ranges.contains(leaf));
    assert!(!contains(&archived(&disk), payload(leaf).as_bytes()));
    // Once all of it came nothing waits, and an order that was on its way is not kept.
    let request = here("late".into(), 0);
    for index in [1, 2] {
        hand_over(&mut opened, 10 + index, bodies[index].clone());
    }
    let origin = ORIGIN.to_owned();
    let done = opened.writer.commit(vec![Ask::Await { origin, request }]);
    assert!(matches!(done.unwrap().as_slice(), [Done::Nothing]));
    assert!(waiting(&opened).is_empty());
}

/// A disk on which something happens while a file is opened for reading, the so-manieth.
struct Meddled {
    disk: SimDisk,
    opened: std::sync::atomic::AtomicUsize,
    at: usize,
    meddle: Mutex<Box<dyn FnMut() + Send>>,
}

impl Disk for Meddled {
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn open(
        &self,
        path: &Path,
        mode: jurat_disk::Mode,
    ) -> std::io::Result<Box<dyn jurat_disk::File>> {
        let before = self.opened.fetch_add(1, Ordering::SeqCst);
        if before == self.at {
            (self.meddle.lock().unwrap())();
        }
        self.disk.open(path, mode)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn jurat_disk::Lock>> {
        self.disk.lock(path)
    }
}

#[test]
fn exports_beside_an_erasure_hold_every_leaf_and_need_no_second_try() {
    let untouched = SimDisk::new();
    let root = exported(&filled(&untouched, 0).archive, &mut |_| {}).root;
    let tiled = tiles(&untouched);
    for at in 0.. {
        let disk = SimDisk::new();
        let mut opened = filled(&disk, 0);
        let one = |from, to| EraseRequest {
            ranges: vec![(from, to)].into(),
            sessions: Vec::new(),
            ..request()
        };
        // Every upload twice.
        let meddle = move || {
            for (from, to) in [(1, 6), (6, 20), (1, 20)] {
                erase(&mut opened, &one(from, to)).unwrap();
            }
        };
        let meddled = Arc::new(Meddled {
            disk: disk.clone(),
            opened: 0.into(),
            at,
            meddle: Mutex::new(Box::new(meddle)),
        });
        let mut bundle = Vec::new();
        crate::export_folder(
            meddled.clone(),
            Path::new("/c"),
            ORIGIN,
            &Selection::All,
            &Withhold::default(),
            &mut bundle,
        )
        .unwrap_or_else(|error| panic!("at {at}: {error}"));
        let trust = Trust::parse(&format!("log {}\n", key().verifier_key())).unwrap();
        match verify(bundle.as_slice(), Some(&trust), None, &mut |_| {}) {
            Verdict::Verified(report) => assert_eq!(report.root, root, "at {at}"),
            other => panic!("at {at}: {other:?}"),
        }
        let met = meddled.opened.load(Ordering::SeqCst) > at;
        if !met {
            assert!(at > 4, "there is something to come between");
            break;
        }
    }
    for at in 0.. {
        let disk = SimDisk::new();
        let mut opened = filled(&disk, 0);
        let meddle = move || drop(erase(&mut opened, &request()).unwrap());
        let meddled = Arc::new(Meddled {
            disk: disk.clone(),
            opened: 0.into(),
            at,
            meddle: Mutex::new(Box::new(meddle)),
        });
        let mut files = BTreeMap::new();
        crate::export_tiles(meddled.clone(), Path::new("/c"), ORIGIN, |name, bytes| {
            files.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("at {at}: {error}"));
        assert_eq!(files, tiled, "at {at}");
        if meddled.opened.load(Ordering::SeqCst) <= at {
            break;
        }
    }
}
