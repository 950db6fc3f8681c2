use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::unix_seconds;
use crate::check::DISABLED;
use crate::rotation::tests::Key;
use crate::{
    Attestations, BundleReader, BundleWriter, Chain, Check, Checkpoint, Digest, Front, Frontier,
    PublicKey, Quotes, Record, Rotation, Signer as _, Trust, VerifierKey, leaf_hash, verify_with,
};

#[test]
fn times_become_seconds() {
    assert_eq!(unix_seconds("1970-01-01T00:00:00.000000000Z"), Some(0));
    assert_eq!(unix_seconds("2000-02-29T12:00:01Z"), Some(951_825_601));
    assert_eq!(
        unix_seconds("2026-10-29T00:00:00.000000007Z"),
        Some(1_793_232_000)
    );
    for wrong in [
        "",
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-10-29T00:00:00+02:00",
        "2026-02-30T00:00:00Z",
        "2026.10.29T00:00:00Z",
        "1969-12-31T23:59:59Z",
    ] {
        assert_eq!(unix_seconds(wrong), None, "{wrong}");
    }
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors")
}

/// Believes the evidence of one vector, whatever space is around it, and hears no quote: judging both is another
/// room's, whose tests hold it to the vectors.
struct Believes {
    evidence: Vec<u8>,
    key: PublicKey,
}

static BELIEVES: LazyLock<Believes> = LazyLock::new(|| {
    let good = Vector::read(&vectors().join("v2/attested"));
    let (_, front) = BundleReader::open(good.bundle.as_slice()).unwrap();
    Believes {
        evidence: front.attestation.unwrap(),
        key: good.trust.unwrap().logs[0].key,
    }
});

impl Attestations for &Believes {
    fn evidence(&mut self, _: &str, _: &[VerifierKey], evidence: &[u8]) -> Option<PublicKey> {
        (evidence.trim_ascii() == self.evidence).then_some(self.key)
    }

    fn head(&mut self, _: u64, _: Digest, _: Option<u64>) {}

    fn quote(&mut self, _: u64, _: &Map<String, Value>) {}

    fn finish(&mut self) -> Option<Quotes> {
        None
    }
}

/// The verdict without what quotes say.
fn without_quotes(mut verdict: Value) -> Value {
    if let Some(quotes) = verdict.pointer_mut("/attestation/quotes") {
        *quotes = Value::Null;
    }
    if let Some(codes) = verdict
        .pointer_mut("/not_proven")
        .and_then(Value::as_array_mut)
    {
        codes.retain(|code| code != "quotes");
    }
    verdict
}

/// A bundle that every verifier must judge alike.
struct Vector {
    name: String,
    bundle: Vec<u8>,
    trust: Option<Trust>,
    now: u64,
    expected: Value,
}

impl Vector {
    fn read(dir: &Path) -> Self {
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        let text = |name: &str| String::from_utf8(read(name)).unwrap();
        let trust = dir.join("trust.txt").exists();
        Self {
            name: dir.file_name().unwrap().to_str().unwrap().to_owned(),
            bundle: read("bundle.jurat"),
            trust: trust.then(|| Trust::parse(&text("trust.txt")).unwrap()),
            now: text("now").trim().parse().unwrap(),
            expected: without_quotes(serde_json::from_slice(&read("expected.json")).unwrap()),
        }
    }

    fn judge(&self) -> Value {
        let (trust, now) = (self.trust.as_ref(), Some(self.now));
        let mut believes = &*BELIEVES;
        let bundle = self.bundle.as_slice();
        let verdict = verify_with(bundle, trust, now, &mut believes, &mut |_| {});
        without_quotes(serde_json::to_value(verdict).unwrap())
    }

    fn all() -> Vec<Self> {
        let dirs = fs::read_dir(vectors().join("v2")).unwrap();
        let all: Vec<Self> = dirs.map(|dir| Self::read(&dir.unwrap().path())).collect();
        assert!(all.len() > 150);
        all
    }
}

/// A bundle that is too long to be kept: a log of these entries, and the head that the last key signs.
struct Made {
    frontier: Frontier,
    chain: Chain,
    records: Vec<(Vec<u8>, Option<String>)>,
}

const ORIGIN: &str = "vectors.example/jurat/device/0";

impl Made {
    fn new() -> Self {
        let mut made = Self {
            frontier: Frontier::default(),
            chain: Chain::new(ORIGIN),
            records: Vec::new(),
        };
        made.entry(
            "log.opened",
            &format!("\"detail\":{{\"origin\":\"{ORIGIN}\"}}"),
        );
        made
    }

    fn entry(&mut self, kind: &str, said: &str) {
        let seq = self.frontier.size();
        let entry = format!(
            "{{\"v\":1,\"salt\":\"{seq:022}\",\"seq\":{seq},\"boot\":\"\",\"time\":\"\",\"kind\":\"{kind}\",{said}}}"
        );
        let leaf = leaf_hash(entry.as_bytes());
        self.frontier.push(leaf);
        self.chain.push(&leaf);
        self.records.push((entry.into_bytes(), None));
    }

    fn head(&self, key: &Key) -> String {
        let head = Checkpoint {
            origin: ORIGIN.into(),
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        head.sign(key).unwrap().encode()
    }

    fn vector(&self, check: &str, trusted: &Key, signer: &Key) -> Vector {
        let front = Front::whole(ORIGIN, self.frontier.size(), self.head(signer).as_bytes());
        let mut bundle = BundleWriter::new(Vec::new(), &front).unwrap();
        for (entry, head) in &self.records {
            bundle.record(&Record::Entry(entry)).unwrap();
            if let Some(head) = head {
                bundle.record(&Record::Checkpoint(head.as_bytes())).unwrap();
            }
        }
        let trust = Trust {
            logs: vec![trusted.verifier_key().clone()],
            ..Trust::default()
        };
        let last = self.frontier.size() - 1;
        Vector {
            name: check.into(),
            bundle: bundle.finish().unwrap(),
            trust: Some(trust),
            now: 0,
            expected: serde_json::json!({ "verdict": "tampered", "seq": last, "check": check }),
        }
    }
}

/// More sessions without an end than a log may have: 15 MB.
fn many_sessions() -> Vector {
    let mut log = Made::new();
    for seq in 1..100_002 {
        log.entry("x", &format!("\"session\":\"{seq}\",\"session_seq\":0"));
    }
    let key = Key::new(1, ORIGIN);
    log.vector("session.many", &key, &key)
}

/// One more rotation than a log may have.
fn many_rotations() -> Vector {
    let mut log = Made::new();
    let keys: Vec<Key> = (0..=257).map(|seed| Key::new(seed, ORIGIN)).collect();
    for pair in keys.windows(2) {
        let detail = Rotation::detail(&pair[0].1, &pair[1]).unwrap();
        let detail = serde_json::to_string(&detail).unwrap();
        log.entry("key.rotated", &format!("\"detail\":{detail}"));
        let head = log.head(&pair[0]);
        log.records.last_mut().unwrap().1 = Some(head);
    }
    log.vector("rotation.many", &keys[0], &keys[256])
}

#[test]
fn every_vector_gives_the_whole_verdict_that_stands_beside_it() {
    for vector in Vector::all() {
        assert_eq!(vector.judge(), vector.expected, "{}", vector.name);
    }
}

/// A verifier that forgets a check is noticed: for each of them there is a vector that needs it.
#[test]
fn no_check_can_be_taken_away_without_a_vector_that_notices() {
    let mut vectors = Vector::all();
    for made in [many_sessions(), many_rotations()] {
        assert_eq!(made.judge(), made.expected);
        vectors.push(made);
    }
    let mut idle = BTreeSet::new();
    for check in Check::ALL {
        // Those that name the check come first: mostly one of them is enough.
        let (named, others): (Vec<&Vector>, Vec<&Vector>) = vectors.iter().partition(|vector| {
            [&vector.expected["check"], &vector.expected["reason"]].contains(&&check.code().into())
        });
        DISABLED.set(Some(*check));
        let needed = named
            .iter()
            .chain(&others)
            .any(|vector| vector.judge() != vector.expected);
        DISABLED.set(None);
        if !needed {
            idle.insert(check.code());
        }
    }
    assert!(idle.is_empty(), "no vector needs {idle:?}");
}

#[test]
fn a_trust_file_that_could_mean_something_else_is_refused_with_its_line() {
    let mut count = 0;
    for file in fs::read_dir(vectors().join("trust")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (_, line) = name.rsplit_once(".line-").unwrap();
        let refused = Trust::parse(&fs::read_to_string(&path).unwrap()).unwrap_err();
        assert_eq!(refused.line.to_string(), line, "{name}: {refused}");
        count += 1;
    }
    assert!(count > 30);
}
