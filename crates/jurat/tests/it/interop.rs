//! Two verifiers, one verdict: `interop/verify.py` was written from the pages of `docs/formats/` alone, and
//! says of every bundle what `jurat verify` says.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;

use jurat_attest::Offline;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{
    BundleReader, BundleWriter, Chain, Checkpoint, Cosignature, Digest, Front, Frontier, Record,
    RecordReader, Trust, leaf_hash, verify_with,
};
use jurat_testkit::{Repeatable, need};
use serde_json::Value;

use crate::fleet::{Fleet, JURAT};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Python, when there is one, and openssl with it.
fn python(test: &str) -> Option<PathBuf> {
    let python = need::program(test, "python3", "python3")?;
    need::program(test, "openssl", "openssl")?;
    Some(python)
}

fn folders(of: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("vectors").join(of)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// What both programs say of a bundle.
fn both(python: &Path, bundle: &Path, trust: Option<&Path>, now: &str) -> [Output; 2] {
    let run = |mut command: Command| {
        command.arg(bundle).args(["--now", now]);
        if let Some(trust) = trust {
            command.arg("--trust").arg(trust);
        }
        command.output().unwrap()
    };
    let mut ours = Command::new(JURAT);
    ours.args(["verify", "--json"]);
    let mut theirs = Command::new(python);
    // Without what is installed: the standard library is all that it needs.
    theirs.arg("-S").arg(root().join("interop/verify.py"));
    [run(ours), run(theirs)]
}

fn agreed(python: &Path, bundle: &Path, trust: Option<&Path>, now: &str) -> Value {
    let [ours, theirs] = both(python, bundle, trust, now);
    let read = |out: &Output| -> Value {
        let said = || {
            format!(
                "{}: {}",
                bundle.display(),
                String::from_utf8_lossy(&out.stderr)
            )
        };
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", said()))
    };
    let verdict = read(&ours);
    assert_eq!(verdict, read(&theirs), "{}", bundle.display());
    assert_eq!(
        ours.status.code(),
        theirs.status.code(),
        "{}",
        bundle.display()
    );
    verdict
}

#[test]
fn both_programs_say_and_exit_alike_on_every_vector() {
    let Some(python) = python("both_programs_say_and_exit_alike_on_every_vector") else {
        return;
    };
    let left = Mutex::new(folders("v2"));
    assert!(left.lock().unwrap().len() > 150);
    let work = || {
        loop {
            let Some(dir) = left.lock().unwrap().pop() else {
                return;
            };
            let trust = dir.join("trust.txt");
            let trust = trust.exists().then_some(trust);
            let now = fs::read_to_string(dir.join("now")).unwrap();
            let verdict = agreed(
                &python,
                &dir.join("bundle.jurat"),
                trust.as_deref(),
                now.trim(),
            );
            let expected = fs::read(dir.join("expected.json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            assert_eq!(verdict, expected, "{}", dir.display());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
}

#[test]
fn both_programs_refuse_the_same_trust_files_and_name_the_line() {
    let Some(python) = python("both_programs_refuse_the_same_trust_files_and_name_the_line") else {
        return;
    };
    let bundle = root().join("vectors/v2/whole/bundle.jurat");
    for trust in folders("trust") {
        let (_, line) = trust.to_str().unwrap().rsplit_once(".line-").unwrap();
        let line = format!("line {}:", line.strip_suffix(".txt").unwrap());
        for out in both(&python, &bundle, Some(&trust), "1790000000") {
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(said.contains(&line), "{}: {said}", trust.display());
            assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));
        }
    }
}

#[test]
fn both_programs_say_the_same_of_what_a_device_recorded() {
    let Some(python) = python("both_programs_say_the_same_of_what_a_device_recorded") else {
        return;
    };
    let fleet = Fleet::start("");
    for n in 0..5 {
        fleet.append(
            "p/a.jsonl",
            &format!(
                "{{\"type\":\"user\",\"uuid\":\"u{n}\",\"sessionId\":\"s{}\",\"message\":{{\"content\":\"step {n} of many\"}}}}\n",
                n % 2
            ),
        );
        if n % 2 == 1 {
            fleet.run_once();
        }
    }
    fleet.run_once();
    let trust = fleet.path("device/trust.txt");
    let now = jurat_disk::Host::real().clock.now().unix_s().to_string();
    for (name, args) in [
        ("whole.jurat", &[][..]),
        ("bare.jurat", &["--without-payloads"]),
        ("range.jurat", &["--range", "2..4"]),
        ("session.jurat", &["--session", "s1"]),
    ] {
        let bundle = fleet.path(name);
        let out = fleet.jurat(&[&["export", "-o", bundle.to_str().unwrap()], args].concat());
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let verdict = agreed(&python, &bundle, Some(&trust), &now);
        assert_eq!(verdict["verdict"], "verified", "{name}: {verdict}");
        assert_eq!(agreed(&python, &bundle, None, &now)["reason"], "no_trust");
    }
}

#[test]
fn the_second_verifier_holds_its_own_tests() {
    let Some(python) = python("the_second_verifier_holds_its_own_tests") else {
        return;
    };
    let mut command = Command::new(python);
    command
        .args(["-B", "-m", "unittest"])
        .current_dir(root().join("interop"));
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The second verifier in one process, for many bundles.
struct Batch {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Batch {
    fn start(python: &Path) -> Self {
        let mut child = Command::new(python)
            .arg("-B") // no compiled file beside the script
            .arg(root().join("interop/batch.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn judge(&mut self, bundle: &Path, trust: &Path, now: u64) -> Value {
        let line = format!("{}\t{}\t{now}\n", bundle.display(), trust.display());
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no answer: {answer:?}"))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What stands in for another value of JSON, or for a piece of one.
const PIECES: &[&str] = &[
    "0",
    "-0",
    "1",
    "1.0",
    "1e2",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "null",
    "true",
    "{}",
    "[]",
    "[[0,9]]",
    "\"\"",
    "\"s\"",
    "\"t\"",
    "\"separate\"",
    "\"shared\"",
    "\"\\ud83d\"",
    "\"\\ud83e\\udd80\"",
    "\"batch.sealed\"",
    "\"key.rotated\"",
    "\"log.opened\"",
    "\"session.ended\"",
    "\"payload.erased\"",
    "\"agent.started\"",
    "\"clock.stepped\"",
    "\"2026-02-29T00:00:00Z\"",
    "\"1969-12-31T23:59:59Z\"",
];

/// Spoils bundles and trust files in many ways, some of them signed again with the vectors' keys.
struct Spoiler {
    rng: Repeatable,
    keys: Vec<SoftwareKey>,
    witness: SoftwareKey,
}

impl Spoiler {
    fn new(origin: &str, cases: usize) -> Self {
        let seed = |seed: u8| Secret::from_bytes([seed; 32]);
        let keys = (1..=2).map(|number| SoftwareKey::log(&seed(number), origin).unwrap());
        Self {
            rng: Repeatable::new(cases as u64),
            keys: keys.collect(),
            witness: SoftwareKey::cosigner(&seed(6), "w1.example/witness").unwrap(),
        }
    }

    fn below(&self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn pick<'a, T>(&self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Bytes: one changed, some cut out, doubled or at the end.
    fn bytes(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return bytes.push(0);
        }
        let at = self.below(bytes.len());
        let to = (at + 1 + self.below(40)).min(bytes.len());
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = *self.pick(b"\0 \n\"0129Aaz{}[],.:-+=\xff"),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
            4 => bytes.truncate(at),
            _ => bytes.extend_from_slice(b"\n"),
        }
    }

    /// A tar: one of its members of another content, place or number.
    fn tar(&self, tar: &mut Vec<u8>) {
        let (mut members, mut at) = (Vec::new(), 0);
        while tar.get(at).is_some_and(|byte| *byte != 0) {
            let digits = std::str::from_utf8(&tar[at + 124..at + 135]).unwrap_or("0");
            let size = usize::from_str_radix(digits, 8).unwrap_or(0);
            let end = (at + 512 + size.next_multiple_of(512)).min(tar.len());
            let body = (at + 512).min(end)..(at + 512 + size).min(end);
            members.push((at..end, body));
            at = end;
        }
        if members.is_empty() {
            return self.bytes(tar);
        }
        let (member, body) = self.pick(&members).clone();
        match self.below(4) {
            0 => drop(tar.drain(member)),
            1 => {
                let copy = tar[member.clone()].to_vec();
                let (place, _) = self.pick(&members).clone();
                tar.splice(place.start..place.start, copy);
            }
            // The same length, so that the header stays right.
            _ if !body.is_empty() => {
                let at = body.start + self.below(body.len());
                tar[at] = match self.below(3) {
                    0 => tar[at] ^ 1,
                    1 => *self.pick(b" 0189Aa"),
                    _ => self.below(256) as u8,
                };
            }
            _ => self.bytes(tar),
        }
    }

    fn text(&self, text: &mut Vec<u8>) {
        let lines: Vec<Vec<u8>> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        if lines.is_empty() || self.below(3) == 0 {
            return self.bytes(text);
        }
        let mut lines = lines;
        let at = self.below(lines.len());
        match self.below(4) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = self.below(lines.len());
                lines.swap(at, other);
            }
            _ => {
                let more: &[&[u8]] = &[
                    b"quorum 1\n",
                    b"quorum 3\n",
                    b"outside w1\n",
                    b"same-host w1\n",
                    b"\xc2\xa0\n",
                    b"quorum\t2 # two\r\n",
                    b"group g any w1 w2\n",
                    b"seen vectors.example/jurat/device/0 99 \n",
                    b"quorum g\n",
                    b"group 0 1 w1\n",
                ];
                lines.insert(at, self.pick(more).to_vec());
            }
        }
        *text = lines.concat();
    }

    /// An entry with a value, a name or a piece of text in it exchanged.
    fn entry(&self, entry: &mut Vec<u8>) {
        let mut values = Vec::new();
        for (at, byte) in entry.iter().enumerate() {
            if *byte == b':' && at > 4 {
                let end = entry[at..].iter().position(|byte| b",}".contains(byte));
                values.push(at + 1..at + end.unwrap_or(1));
            }
        }
        if values.is_empty() || self.below(4) == 0 {
            return self.bytes(entry);
        }
        let value = self.pick(&values).clone();
        if self.below(3) == 0 {
            let names = [
                "session",
                "session_seq",
                "session_run",
                "context",
                "raw",
                "detail",
                "of",
                "boot",
                "time",
                "custody",
                "seq",
                "device",
            ];
            let field = format!("\"{}\":{},", self.pick(&names), self.pick(PIECES));
            let after_v = 7.min(entry.len());
            entry.splice(after_v..after_v, field.into_bytes());
        } else {
            let piece = self.pick(PIECES).as_bytes().to_vec();
            entry.splice(value, piece);
        }
    }

    /// Another record somewhere, then everything signed again. `None` when the bundle cannot be read.
    fn records(&self, tar: &[u8]) -> Option<Vec<u8>> {
        let (mut reader, front) = BundleReader::open(tar).ok()?;
        let mut records = Vec::new();
        while let Some(part) = reader.next_part().ok()? {
            for record in RecordReader::new(&part.records) {
                records.push(match record.ok()? {
                    Record::Entry(entry) => Owned::Entry(entry.to_vec()),
                    Record::Payload { salt, bytes } => Owned::Payload(*salt, bytes.to_vec()),
                    Record::Checkpoint(note) => Owned::Note(note.to_vec()),
                    Record::Leaves { from, hashes } => Owned::Leaves(from, hashes.to_vec()),
                });
            }
        }
        if records.is_empty() {
            return None;
        }
        for _ in 0..=self.below(2) {
            let (at, other) = (self.below(records.len()), self.below(records.len()));
            match self.below(8) {
                0 => drop(records.remove(at)),
                1 => records.insert(other, records[at].clone()),
                2 => records.swap(at, other),
                _ => match &mut records[at] {
                    Owned::Entry(entry) => self.entry(entry),
                    Owned::Payload(salt, bytes) => {
                        salt[0] ^= self.below(2) as u8;
                        self.bytes(bytes);
                    }
                    Owned::Note(note) => self.bytes(note),
                    Owned::Leaves(from, hashes) => match self.below(3) {
                        0 => *from += 1,
                        1 => hashes.push([7; 32]),
                        _ => hashes[0][0] ^= 1,
                    },
                },
            }
            if records.is_empty() {
                return None;
            }
        }
        self.mend(&front, &mut records);
        self.sign(front, &records)
    }

    /// Gives most batches the chain before them, so that what stands behind them is looked at, too.
    fn mend(&self, front: &Front, records: &mut [Owned]) {
        let before = front.prefix.first_chunk::<32>();
        let mut chain = match before {
            Some(chain) => Chain(Digest(*chain)),
            None => Chain::new(&front.manifest.origin),
        };
        for record in records {
            match record {
                Owned::Entry(entry) => {
                    let field = b"\"chain\":\"";
                    let at = entry.windows(field.len()).position(|part| part == field);
                    if let Some(hex) =
                        at.and_then(|at| entry.get_mut(at + field.len()..)?.get_mut(..64))
                        && self.below(8) > 0
                    {
                        hex.copy_from_slice(chain.0.to_string().as_bytes());
                    }
                    chain.push(&leaf_hash(entry));
                }
                Owned::Leaves(_, hashes) => hashes.iter().for_each(|hash| {
                    chain.push(&Digest(*hash));
                }),
                Owned::Payload(..) | Owned::Note(_) => {}
            }
        }
    }

    fn sign(&self, mut front: Front, records: &[Owned]) -> Option<Vec<u8>> {
        let roots = front
            .prefix
            .get(32..)
            .unwrap_or_default()
            .as_chunks::<32>()
            .0;
        let roots = roots.iter().map(|root| Digest(*root)).collect();
        let mut frontier = Frontier::from_parts(front.manifest.from, roots)?;
        for record in records {
            match record {
                Owned::Entry(entry) => frontier.push(leaf_hash(entry)),
                Owned::Leaves(_, hashes) => {
                    hashes.iter().for_each(|hash| frontier.push(Digest(*hash)))
                }
                Owned::Payload(..) | Owned::Note(_) => {}
            }
        }
        let head = Checkpoint {
            origin: front.manifest.origin.clone(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let key = &self.keys[usize::from(self.below(4) == 0)];
        let mut note = head.sign(key).ok()?;
        if self.below(2) == 0 {
            let time = 1_789_948_800 + self.rng.below(200);
            note.signatures
                .push(Cosignature::sign(&self.witness, time, &note.text).ok()?);
        }
        front.manifest.size = head.size;
        front.checkpoint = note.encode().into_bytes();
        let mut bundle = BundleWriter::new(Vec::new(), &front).ok()?;
        for record in records {
            let record = match record {
                Owned::Entry(entry) => Record::Entry(entry),
                Owned::Payload(salt, bytes) => Record::Payload { salt, bytes },
                Owned::Note(note) => Record::Checkpoint(note),
                Owned::Leaves(from, hashes) => Record::Leaves {
                    from: *from,
                    hashes,
                },
            };
            bundle.record(&record).ok()?;
        }
        bundle.finish().ok()
    }
}

#[derive(Clone)]
enum Owned {
    Entry(Vec<u8>),
    Payload([u8; 32], Vec<u8>),
    Note(Vec<u8>),
    Leaves(u64, Vec<[u8; 32]>),
}

#[test]
fn both_verifiers_say_the_same_of_bundles_that_nobody_thought_of() {
    let Some(python) = python("both_verifiers_say_the_same_of_bundles_that_nobody_thought_of")
    else {
        return;
    };
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(400_usize);
    let dir = tempfile::tempdir().unwrap();
    let (bundle, trusted) = (dir.path().join("b.jurat"), dir.path().join("trust.txt"));
    let mut good = Vec::new();
    for folder in folders("v2") {
        let (tar, trust) = (
            fs::read(folder.join("bundle.jurat")),
            fs::read(folder.join("trust.txt")),
        );
        // The long ones would be most of the time.
        if let (Ok(tar), Ok(trust)) = (tar, trust)
            && tar.len() < 60_000
        {
            good.push((folder.file_name().unwrap().to_os_string(), tar, trust));
        }
    }
    let spoiler = Spoiler::new("vectors.example/jurat/device/0", cases);
    let mut batch = Batch::start(&python);
    let (mut differ, mut words) = (Vec::new(), std::collections::BTreeMap::new());
    for case in 0..cases {
        let (name, tar, trust) = spoiler.pick(&good);
        let (mut tar, mut trust) = (tar.clone(), trust.clone());
        match spoiler.below(8) {
            0 => spoiler.bytes(&mut tar),
            1 | 2 => spoiler.tar(&mut tar),
            3 => spoiler.text(&mut trust),
            _ => match spoiler.records(&tar) {
                Some(spoilt) => tar = spoilt,
                None => spoiler.tar(&mut tar),
            },
        }
        let now = 1_789_948_800 + [0, 40, 100_000][case % 3];
        fs::write(&bundle, &tar).unwrap();
        fs::write(&trusted, &trust).unwrap();
        let text = std::str::from_utf8(&trust).ok();
        let ours = match text.and_then(|text| Trust::parse(text).ok()) {
            Some(trust) => {
                let (trust, now) = (Some(&trust), Some(now));
                let verdict = verify_with(
                    tar.as_slice(),
                    trust,
                    now,
                    &mut Offline::default(),
                    &mut |_| {},
                );
                serde_json::to_value(verdict).unwrap()
            }
            None => Value::Null,
        };
        let theirs = batch.judge(&bundle, &trusted, now);
        let word = [&ours["check"], &ours["reason"], &ours["verdict"]];
        let word = word
            .iter()
            .find_map(|word| word.as_str())
            .unwrap_or("refused");
        *words.entry(word.to_owned()).or_insert(0_u32) += 1;
        if ours != theirs {
            if let Some(keep) = std::env::var_os("JURAT_KEEP") {
                let keep = PathBuf::from(keep).join(case.to_string());
                fs::create_dir_all(&keep).unwrap();
                fs::write(keep.join("bundle.jurat"), &tar).unwrap();
                fs::write(keep.join("trust.txt"), &trust).unwrap();
            }
            differ.push(format!(
                "case {case}, from {}, now {now}:\n ours {ours}\n theirs {theirs}",
                name.display()
            ));
        }
    }
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
    // The ways to spoil reach what there is to check, and do not only break the outside.
    assert!(words.len() > 25, "{words:?}");
}
