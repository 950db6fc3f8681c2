//! Rotation, revocation and the next epoch on a disk that is torn at every step.

use jurat_disk::Rng as _;
use jurat_proof::{Rotation, sha256};
use jurat_sink::Predecessor;

use super::*;

/// A log of its own, sealed and rotated as it is told.
struct Log {
    origin: String,
    key: SoftwareKey,
    frontier: Frontier,
    chain: Chain,
}

impl Log {
    fn new(origin: &str, seed: u8) -> Self {
        Self {
            origin: origin.into(),
            key: SoftwareKey::log(&Secret::from_bytes([seed; 32]), origin).unwrap(),
            frontier: Frontier::default(),
            chain: Chain::new(origin),
        }
    }

    fn upload(&mut self, kind: &str, detail: Value) -> Bytes {
        let mut raw = Vec::new();
        let mut add = |kind: &str, detail: Value| {
            let seq = self.frontier.size();
            let opening = json!({ "origin": self.origin });
            let (kind, detail) = if seq == 0 {
                ("log.opened", opening)
            } else {
                (kind, detail)
            };
            let entry = json!({
                "salt": "c2FsdHNhbHRzYWx0c2FsdA", "boot": "b", "time": "t", "seq": seq, "kind": kind, "detail": detail,
            });
            let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]);
            write_record(&mut raw, &Record::Entry(entry.as_bytes()));
            self.frontier.push(leaf_hash(entry.as_bytes()));
            self.chain.push(&leaf_hash(entry.as_bytes()));
            self.chain.0.to_string()
        };
        let chain = add(kind, detail);
        add("batch.sealed", json!({ "count": 1, "chain": chain }));
        let head = Checkpoint {
            origin: self.origin.clone(),
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        let note = head.sign(&self.key).unwrap().encode();
        write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
        Bytes::from(zstd::bulk::compress(&raw, 1).unwrap())
    }

    fn rotation(&mut self, seed: u8) -> Bytes {
        let next = SoftwareKey::log(&Secret::from_bytes([seed; 32]), &self.origin).unwrap();
        let detail = Rotation::detail(self.key.verifier_key(), &next).unwrap();
        let upload = self.upload("key.rotated", detail.into());
        self.key = next;
        upload
    }
}

const ID: &str = DEVICES[0];

fn next_epoch(host: &Host, public: [u8; 32]) -> Device {
    let enrolment = Enrolment {
        device: ID.into(),
        key: BASE64.encode(public),
        key_kind: "software".into(),
        ..Enrolment::default()
    };
    Device::new(host, "example.org", &enrolment, [4; 65], None, 1)
        .unwrap()
        .0
}

/// What was answered before the crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answered {
    size: u64,
    policy: bool,
    allowed: bool,
    reenrolled: bool,
    revoked: Option<u64>,
}

impl Open {
    fn send(&mut self, origin: &str, enrolled: &VerifierKey, body: &Bytes) -> Result<u64, u16> {
        let nonce = (format!("d/{}", sha256(&[body])), 1_790_000_000);
        let judged = self.archive.judge(origin, enrolled, &nonce, body);
        match judged.map_err(|_| 0_u16)? {
            Judgement::Answer(answer) => answer.map(|done| done.size).map_err(|no| no.status),
            Judgement::Store(ask) => {
                match self.writer.commit(vec![ask]).map_err(|_| 0_u16)?.pop() {
                    Some(Done::Accepted(accepted)) => Ok(accepted.size),
                    Some(Done::Refused(refused)) => Err(refused.status),
                    _ => panic!("neither taken nor refused"),
                }
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Done, ArchiveError> {
        Ok(self.writer.commit(vec![ask])?.pop().unwrap())
    }
}

/// Goes through a life, from wherever the archive is: enrolment, an upload, a rotation, an upload by the new
/// key, the next epoch, its revocation. `None`: the disk failed.
fn live(disk: &SimDisk, answered: &mut Answered) -> Option<()> {
    let origin = format!("example.org/jurat/{ID}/0");
    let mut open = open(disk).ok()?;
    let digest = "p".to_owned();
    open.ask(Ask::Policy {
        digest,
        machines: None,
    })
    .ok()?;
    answered.policy = true;
    if open.archive.device(ID).is_none() {
        open.enrol(ID).ok()?;
    }
    let mut log = Log::new(&origin, 5);
    let enrolled = log.key.verifier_key().clone();
    let uploads = [
        log.upload("other", json!({})),
        log.rotation(6),
        log.upload("other", json!({})),
    ];
    if !answered.reenrolled
        && open
            .archive
            .life(&origin)
            .is_none_or(|life| life.closed_by.is_none())
    {
        for (number, body) in uploads.iter().enumerate() {
            let to = 2 * (number as u64 + 1);
            if open.archive.frontier(&origin).ok()?.size < to {
                answered.size = open.send(&origin, &enrolled, body).ok()?;
            }
        }
        let device = ID.to_owned();
        open.ask(Ask::AllowReenrolment { device }).ok()?;
        answered.allowed = true;
    }
    let public = SoftwareKey::log(&Secret::from_bytes([9; 32]), "x")
        .unwrap()
        .public_key();
    if open
        .archive
        .device(ID)
        .is_some_and(|device| device.epoch() == 0)
    {
        let predecessor = Predecessor {
            origin: origin.clone(),
            size: log.frontier.size(),
            root: log.frontier.root(),
        };
        let device = next_epoch(&open.archive.host, public);
        let again = Again {
            predecessor,
            new_key: public.to_vec(),
            proof: None,
        };
        let done = open.ask(Ask::Reenrol(Box::new(device), again)).ok()?;
        assert!(matches!(done, Done::Enrolled));
    }
    answered.reenrolled = true;
    let (device, reason) = (ID.to_owned(), "r".to_owned());
    match open
        .ask(Ask::Revoke {
            device,
            reason,
            epoch: None,
            key: None,
        })
        .ok()?
    {
        Done::Said(leaf) => {
            assert!(answered.revoked.is_none_or(|said| said == leaf));
            answered.revoked = Some(leaf);
        }
        _ => panic!("no leaf"),
    }
    open.writer.seal_own_log().ok()
}

fn assert_lived(disk: &SimDisk, answered: &Answered, case: &str) {
    let mut opened = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let origin = format!("example.org/jurat/{ID}/0");
    assert!(
        opened.archive.frontier(&origin).unwrap().size >= answered.size,
        "{case}"
    );
    if answered.reenrolled {
        assert_eq!(opened.archive.device(ID).unwrap().epoch(), 1, "{case}");
        let closed = opened.archive.life(&origin).unwrap().closed_by;
        assert_eq!(closed, Some(1), "{case}");
        let mut log = Log::new(&origin, 5);
        let enrolled = log.key.verifier_key().clone();
        let _ = log.upload("other", json!({}));
        let _ = log.rotation(6);
        let _ = log.upload("other", json!({}));
        let late = log.upload("other", json!({}));
        assert_eq!(opened.send(&origin, &enrolled, &late), Err(409), "{case}");
    }
    if let Some(leaf) = answered.revoked {
        let next = format!("example.org/jurat/{ID}/1");
        let life = opened.archive.life(&next).unwrap();
        assert_eq!(life.revoked.as_ref().unwrap().leaf, leaf, "{case}");
        let mut log = Log::new(&next, 9);
        let enrolled = log.key.verifier_key().clone();
        let upload = log.upload("other", json!({}));
        assert_eq!(opened.send(&next, &enrolled, &upload), Err(403), "{case}");
    }
}

#[test]
fn at_any_power_cut_what_was_said_of_a_device_holds_and_is_said_once() {
    let clean = SimDisk::new();
    let mut all = Answered::default();
    live(&clean, &mut all).unwrap();
    for fault in [Fault::Crash, Fault::Full, Fault::SyncError] {
        for step in 0..clean.steps() {
            let case = format!("{fault:?} at step {step}");
            let disk = SimDisk::new();
            let mut answered = Answered::default();
            disk.fail_at(step, fault);
            assert!(
                live(&disk, &mut answered).is_none() || answered == all,
                "{case}"
            );
            disk.heal();
            disk.crash(&Repeatable::new(step));
            assert_lived(&disk, &answered, &case);
            live(&disk, &mut answered).unwrap_or_else(|| panic!("{case}"));
            disk.crash(&Repeatable::new(step + 1));
            assert_lived(&disk, &answered, &case);
            let opened = open(&disk).unwrap();
            let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
            let mut reader = opened.archive.reader(0, opened.archive.end()).unwrap();
            while let Some(item) = reader.next_record().unwrap() {
                if item.kind == kind::OWN_ENTRY {
                    let entry: Value = serde_json::from_slice(item.body).unwrap();
                    let kind = entry["kind"].as_str().unwrap().to_owned();
                    *kinds.entry(kind).or_default() += 1;
                }
            }
            // An order to allow may be given twice, when its answer was lost.
            kinds.remove("reenrolment.allowed");
            kinds.remove("log.opened");
            let once = ["key.revoked", "key.rotated", "policy.changed"];
            assert!(
                once.iter().all(|kind| kinds[*kind] == 1),
                "{case}: {kinds:?}"
            );
            let (heads, devices) = (kinds["frontier.accepted"], kinds["device.enrolled"]);
            assert_eq!(
                (heads, devices, kinds.len()),
                (3, 2, 5),
                "{case}: {kinds:?}"
            );
        }
    }
}

#[test]
fn what_became_of_a_log_stands_in_every_snapshot() {
    let disk = SimDisk::new();
    let mut answered = Answered::default();
    live(&disk, &mut answered).unwrap();
    let opened = open(&disk).unwrap();
    let whole = opened.writer.whole();
    let whole = unpack(&whole).unwrap();
    assert_eq!(whole.lives.len(), 2);
    assert_eq!(whole.policy.as_deref(), Some("p"));
    let line = &whole.lines[&*format!("example.org/jurat/{ID}/0")];
    assert!(line.key.is_some());
}

/// Nobody scans all devices each second: who is not due costs nothing.
#[test]
fn silence_is_told_once_whoever_is_heard_meanwhile() {
    let rng = Repeatable::new(1);
    let at = |s: u64| jurat_disk::Time {
        unix_ns: (1_000 + s.cast_signed()) * 1_000_000_000,
        mono_us: s * 1_000_000,
    };
    let names: Vec<Arc<str>> = (0..50)
        .map(|number| format!("log-{number}").into())
        .collect();
    let mut silence = Silence::new(10);
    for name in &names {
        silence.watch(name.clone(), 1_000, false, at(0));
    }
    // The model: when each was heard of last, and whether it is said to be silent.
    let mut model: BTreeMap<&str, (u64, bool)> =
        names.iter().map(|name| (&**name, (0, false))).collect();
    for second in 1..300 {
        let mut draw = [0; 3];
        rng.fill(&mut draw);
        for byte in draw.iter().take(usize::from(second % 4 == 0) * 3) {
            let name = &names[usize::from(*byte) % names.len()];
            silence.heard(name, at(second));
            model.get_mut(&**name).unwrap().0 = second;
        }
        let (fallen, returned) = silence.news(at(second));
        for (name, since) in &fallen {
            let known = model.get_mut(&**name).unwrap();
            assert_eq!((known.1, 1_000 + known.0), (false, *since));
            assert!(second >= known.0 + 10);
            known.1 = true;
            silence.told(name, Some(*since));
        }
        for name in &returned {
            let known = model.get_mut(&**name).unwrap();
            assert!(known.1 && second < known.0 + 10);
            known.1 = false;
            silence.told(name, None);
        }
        for (name, (heard, silent)) in &model {
            assert_eq!(*silent, second >= heard + 10, "{name} at {second}");
        }
    }
    // One that is over is not expected any more.
    silence.forget(&names[0]);
    silence.heard(&names[0], at(300));
    let (fallen, returned) = silence.news(at(1_000));
    assert!(fallen.iter().all(|(name, _)| *name != names[0]));
    assert!(!returned.contains(&names[0]));
    let mut off = Silence::new(0);
    off.watch(names[1].clone(), 0, false, at(0));
    assert!(off.news(at(10_000)).0.is_empty());
}
