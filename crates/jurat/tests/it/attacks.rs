//! An attacker with root's powers on the endpoint's files and with its software key, after a witnessed
//! checkpoint: each manipulation is judged offline, from what the collector holds and a pinned policy,
//! by the verifier in `interop/` and by `jurat verify` (`docs/attacks.md` is the table).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jurat_disk::Host;
use jurat_key::{Secret, SoftwareKey};
use jurat_ledger::{Group, Ledger, Options, Reader};
use jurat_proof::{
    Checkpoint, Cosignature, Digest, Front, Note, Receipt, Record, Rotation, Signer as _,
    context_hasher, write_record,
};
use jurat_seal::kind;
use jurat_sink::{Collector, CollectorError, Identity, SetUp};
use jurat_testkit::need;
use serde_json::{Value, json};

use crate::fleet::{Fleet, JURAT, copy, shown, wait_for};
use crate::mutate::{Case, Owned, entry_of, load, replaced};

const TEST: &str =
    "what_root_does_after_a_witnessed_checkpoint_is_caught_offline_by_the_second_verifier";
const DAY_S: i64 = 86_400;

/// One line of a session.
fn line(n: usize, input: &Value) -> String {
    let block = json!({"type": "tool_use", "id": "t", "name": "Bash", "input": input});
    let line = json!({
        "type": "assistant", "uuid": format!("u{n}"), "sessionId": "s",
        "message": {"id": format!("m{n}"), "content": [block]},
    });
    format!("{line}\n")
}

fn steps(numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|n| line(n, &json!({"command": format!("step {n}")})))
        .collect()
}

/// What was said and done about one manipulation.
struct Row {
    what: &'static str,
    said: String,
    by: &'static str,
    seconds: f64,
}

impl Row {
    /// As it stands in `docs/attacks.md`, without the seconds.
    fn told(&self) -> String {
        format!("| {} | {} | {} |", self.what, self.said, self.by)
    }
}

/// What made a check possible.
fn evidence(said: &str) -> &'static str {
    let code = said.split_once(": ").map_or(said, |(_, code)| code);
    match code.split('.').next().unwrap_or_default() {
        "seen" | "behind" => "the head that the collector holds",
        "quorum" | "cosignature" => "the pinned witness",
        "unknown_origin" | "unknown_key" => "the pinned key of the log",
        "receipt" => "the pinned key of the collector's log",
        _ => "the signed head",
    }
}

/// A collector that runs, and two devices that it knows.
struct Scene {
    fleet: Fleet,
    python: PathBuf,
    host: Host,
    key: SoftwareKey,
    origin: String,
    /// What the auditor has, out of the attacker's reach.
    trust: PathBuf,
    /// The bundle of the endpoint before anything was done to it.
    honest: Vec<u8>,
    /// The same log from the collector's archive.
    archived: Vec<u8>,
    seen: Checkpoint,
    rows: Vec<Row>,
    wrong: Vec<String>,
    count: usize,
}

impl Scene {
    fn start(python: PathBuf) -> Self {
        let fleet = Fleet::start("");
        fleet.append("p/a.jsonl", &steps(0..5));
        fleet.append("p/b.jsonl", &steps(100..103));
        fleet.run_once();
        copy_state(&fleet.path("device"), &fleet.path("earlier"));
        // Something was hidden from the recorder, and something was redacted.
        fs::write(fleet.path("agent/projects/p/b.jsonl"), steps(103..104)).unwrap();
        fleet.append("p/a.jsonl", &line(5, &json!({"password": "correct horse"})));
        fleet.run_once();
        fleet.append("p/a.jsonl", &steps(6..12));
        fleet.run_once();

        let host = Host::real();
        let seed = Secret::load(&host, &fleet.path("device/keys/log.key")).unwrap();
        let enrolment = enrolment(&fleet.path("device"));
        let origin = enrolment["origin"].as_str().unwrap().to_owned();
        let archived = export(&fleet, "device", &collector(&fleet, &origin));
        let note = Note::parse(&load(&archived).front.checkpoint).unwrap();
        let seen = Checkpoint::parse(&note.text).unwrap();
        let pinned = fs::read_to_string(fleet.path("device/trust.txt")).unwrap();
        let (size, root) = (seen.size, seen.root);
        let trust = fleet.path("auditor.txt");
        fs::write(&trust, format!("{pinned}seen {origin} {size} {root}\n")).unwrap();

        // A neighbour, of whom the auditor was not asked; its log is the longer one.
        fs::create_dir_all(fleet.path("there/projects/p")).unwrap();
        fs::write(fleet.path("there/projects/p/a.jsonl"), steps(200..240)).unwrap();
        let config = fs::read_to_string(fleet.path("jurat.toml")).unwrap();
        let config = config.replace("/agent\"", "/there\"");
        fs::write(fleet.path("there.toml"), config).unwrap();
        let url = format!("https://localhost:{}", fleet.port);
        enroll(&fleet, "there.toml", "neighbour", &url);
        good(&run(&fleet, "there.toml", "neighbour", &["run", "--once"]));
        Self {
            honest: export(&fleet, "device", &[]),
            key: SoftwareKey::log(&seed, &origin).unwrap(),
            rows: Vec::new(),
            wrong: Vec::new(),
            count: 0,
            fleet,
            python,
            host,
            origin,
            trust,
            archived,
            seen,
        }
    }

    /// What is in the ledger of a state folder.
    fn ledger(&self, state: &str) -> Case {
        let dir = self.fleet.path(state).join("ledger");
        let mut reader = Reader::open(self.host.disk.clone(), &dir, 0).unwrap();
        let mut records = Vec::new();
        while let Some(item) = reader.next_record().unwrap() {
            let body = item.body.to_vec();
            records.push(match item.kind {
                kind::ENTRY => Owned::Entry(body),
                kind::PAYLOAD => {
                    Owned::Payload(body[..32].try_into().unwrap(), body[32..].to_vec())
                }
                kind::CHECKPOINT | kind::COSIGNED => Owned::Note(body),
                _ => continue,
            });
        }
        let front = Front::whole(&self.origin, 0, b"");
        Case { front, records }
    }

    /// Puts these records into the ledger of an endpoint, and exports there with the product itself.
    fn export(&mut self, case: &Case) -> Vec<u8> {
        self.count += 1;
        let state = format!("attack-{}", self.count);
        let mut group = Group::new();
        for record in &case.records {
            match record {
                Owned::Entry(entry) => group.push(kind::ENTRY, &[entry]),
                Owned::Payload(salt, bytes) => group.push(kind::PAYLOAD, &[salt, bytes]),
                Owned::Note(note) => {
                    let alone = Note::parse(note).unwrap().signatures.len() == 1;
                    let kind = [kind::COSIGNED, kind::CHECKPOINT][usize::from(alone)];
                    group.push(kind, &[note])
                }
            }
            .unwrap();
        }
        let options = Options {
            reserve_bytes: 0,
            ..Options::default()
        };
        let dir = self.fleet.path(&state).join("ledger");
        let (disk, rng) = (self.host.disk.clone(), self.host.rng.clone());
        let mut ledger = Ledger::open(disk, rng, &dir, options, b"", &mut |_| {}).unwrap();
        ledger.append(&mut group, b"", &mut Vec::new).unwrap();
        drop(ledger);
        export(&self.fleet, &state, &[])
    }

    /// Both verifiers on these bytes: what they say, in one voice.
    fn judge(&mut self, bundle: &[u8]) -> (String, Value) {
        let path = self.fleet.path("presented.jurat");
        fs::write(&path, bundle).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/verify.py");
        let trust = self.trust.to_str().unwrap();
        let mut python = Command::new(&self.python);
        python.arg(script).arg(&path).args(["--trust", trust]);
        let mut own = Command::new(JURAT);
        own.arg("verify").arg(&path);
        own.args(["--trust", trust, "--json"]);
        let [first, second] = [python, own].map(|mut command| {
            let out = command.output().unwrap();
            let words = String::from_utf8_lossy(&out.stderr).into_owned();
            let verdict: Value = serde_json::from_slice(&out.stdout).expect(&words);
            (out.status.code(), said(&verdict), verdict)
        });
        assert_eq!((&first.0, &first.1), (&second.0, &second.1), "{}", first.2);
        assert_eq!(first.2["seq"], second.2["seq"], "{}", first.2);
        let codes = [("verified", 0), ("tampered", 1), ("unverifiable", 2)];
        let code = codes.iter().find(|(word, _)| first.2["verdict"] == *word);
        assert_eq!(first.0, code.map(|(_, code)| *code), "{}", first.2);
        (first.1, first.2)
    }

    fn present(&mut self, what: &'static str, expected: &str, since: Instant, bundle: &[u8]) {
        let (said, verdict) = self.judge(bundle);
        if said != expected || said == "verified" {
            let wrong = format!("{what}: expected {expected}, both say {verdict}");
            self.wrong.push(wrong);
        }
        let by = evidence(&said);
        let seconds = since.elapsed().as_secs_f64();
        self.rows.push(Row {
            what,
            said,
            by,
            seconds,
        });
    }

    /// Changes the ledger of the endpoint and presents what is exported there.
    fn in_ledger(&mut self, what: &'static str, expected: &str, change: impl Fn(&Self, &mut Case)) {
        let since = Instant::now();
        let mut case = self.ledger("device");
        change(self, &mut case);
        let bundle = self.export(&case);
        self.present(what, expected, since, &bundle);
    }

    /// Likewise, with everything repaired, made as long as it was and signed anew.
    fn re_signed(&mut self, what: &'static str, expected: &str, change: impl Fn(&mut Case)) {
        self.in_ledger(what, expected, |scene, case| {
            change(case);
            case.resign(&scene.key);
        });
    }

    /// Changes the exported bundle itself.
    fn in_bundle(&mut self, what: &'static str, expected: &str, change: impl Fn(&Self, &mut Case)) {
        let since = Instant::now();
        let mut case = load(&self.honest);
        change(self, &mut case);
        let bundle = case.store();
        self.present(what, expected, since, &bundle);
    }
}

fn run(fleet: &Fleet, config: &str, state: &str, args: &[&str]) -> Output {
    Command::new(JURAT)
        .env_remove("JURAT_LOG")
        .arg("--config")
        .arg(fleet.path(config))
        .arg("--state-dir")
        .arg(fleet.path(state))
        .args(args)
        .output()
        .unwrap()
}

/// Copies a state folder; keys that others could read would not be used.
fn copy_state(from: &Path, to: &Path) {
    copy(from, to);
    for key in fs::read_dir(from.join("keys")).unwrap() {
        let key = key.unwrap();
        let mode = key.metadata().unwrap().permissions();
        fs::set_permissions(to.join("keys").join(key.file_name()), mode).unwrap();
    }
}

fn good(out: &Output) {
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn enroll(fleet: &Fleet, config: &str, state: &str, url: &str) {
    let [token, ca] = ["collector/enroll.token", "collector/ca.pem"].map(|name| fleet.path(name));
    let files = [
        "--token-file",
        token.to_str().unwrap(),
        "--ca",
        ca.to_str().unwrap(),
    ];
    good(&run(
        fleet,
        config,
        state,
        &[&["enroll", url], &files[..]].concat(),
    ));
}

fn export(fleet: &Fleet, state: &str, more: &[&str]) -> Vec<u8> {
    let file = fleet.path("exported.jurat");
    let args = [&["export", "-o", file.to_str().unwrap()], more].concat();
    good(&run(fleet, "jurat.toml", state, &args));
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(file).unwrap();
    bytes
}

fn collector<'a>(fleet: &Fleet, origin: &'a str) -> [&'a str; 4] {
    // The folder lives as long as the test.
    let dir = fleet.path("collector").to_str().unwrap().to_owned();
    ["--collector", dir.leak(), "--device", origin]
}

fn enrolment(state: &Path) -> Value {
    serde_json::from_slice(&fs::read(state.join("enrolment.json")).unwrap()).unwrap()
}

fn said(verdict: &Value) -> String {
    let word = verdict["verdict"].as_str().unwrap();
    match verdict["check"].as_str().or(verdict["reason"].as_str()) {
        Some(code) => format!("{word}: {code}"),
        None => word.to_owned(),
    }
}

fn is_entry(record: &Owned, text: &str) -> bool {
    let text = text.as_bytes();
    matches!(record, Owned::Entry(entry) if entry.windows(text.len()).any(|window| window == text))
}

fn place(case: &Case, text: &str) -> usize {
    let found = case
        .records
        .iter()
        .position(|record| is_entry(record, text));
    found.unwrap_or_else(|| panic!("no entry holds {text}"))
}

/// Takes an entry out, with its payload; gives its place.
fn take_out(case: &mut Case, text: &str) -> usize {
    let at = place(case, text);
    case.records.remove(at);
    if matches!(case.records.get(at), Some(Owned::Payload(..))) {
        case.records.remove(at);
    }
    at
}

/// An event that says nothing.
fn made_up(case: &Case) -> Owned {
    let Owned::Entry(entry) = &case.records[place(case, "\"agent.started\"")] else {
        unreachable!("an entry was looked for")
    };
    let mut value: Value = serde_json::from_slice(entry).unwrap();
    value["kind"] = "log.heartbeat".into();
    Owned::Entry(entry_of(value))
}

/// Takes an entry out and puts one that says nothing in its place.
fn hide(case: &mut Case, text: &str) {
    let harmless = made_up(case);
    let at = take_out(case, text);
    case.records.insert(at, harmless);
}

fn edit(case: &mut Case, text: &str, change: impl Fn(&mut Value)) {
    let entry = case.entry(text);
    let mut value = serde_json::from_slice(entry).unwrap();
    change(&mut value);
    *entry = entry_of(value);
}

/// The first payload that holds this text.
fn payload<'a>(case: &'a mut Case, text: &str) -> &'a mut Vec<u8> {
    let text = text.as_bytes();
    let found = case.records.iter_mut().find_map(|record| match record {
        Owned::Payload(_, bytes) if bytes.windows(text.len()).any(|window| window == text) => {
            Some(bytes)
        }
        _ => None,
    });
    found.expect("a payload holds it")
}

/// The entries of the session from this one on are gone, and it looks as if it had ended.
fn end_session(case: &mut Case, text: &str) {
    edit(case, text, |value| {
        value["kind"] = "session.ended".into();
        value["kind_id"] = Value::Null;
        let fields = value.as_object_mut().unwrap();
        fields.retain(|_, value| !value.is_null());
        for name in ["context", "raw", "object", "action"] {
            fields.remove(name);
        }
        fields.insert("detail".into(), json!({"count": 0, "why": "idle"}));
    });
    for n in 7..12 {
        hide(case, &format!("\"step {n}\""));
        hide(case, &format!("\"u{n}\""));
    }
}

fn later(time: &str, seconds: i64) -> String {
    // Days are moved by the day of the month: enough to be another time.
    let day: i64 = time[8..10].parse().unwrap();
    let day = (day - 1 + seconds / DAY_S).rem_euclid(28) + 1;
    format!("{}{day:02}{}", &time[..8], &time[10..])
}

fn note_of(case: &Case) -> Note {
    Note::parse(&case.front.checkpoint).unwrap()
}

fn signed(key: &SoftwareKey, origin: &str, size: u64, root: Digest) -> Note {
    let head = Checkpoint {
        origin: origin.to_owned(),
        size,
        root,
    };
    head.sign(key).unwrap()
}

#[test]
fn what_root_does_after_a_witnessed_checkpoint_is_caught_offline_by_the_second_verifier() {
    let programs = ["python3", "openssl"]
        .map(|name| need::program(TEST, name, &format!("the Debian package {name}")));
    let [Some(python), Some(_)] = programs else {
        return;
    };
    let mut scene = Scene::start(python);
    let (honest, archived) = (scene.honest.clone(), scene.archived.clone());
    for bundle in [&honest, &archived] {
        let (said, verdict) = scene.judge(bundle);
        assert_eq!(said, "verified", "{verdict}");
        assert_eq!(verdict["complete"], true, "{verdict}");
    }
    let untouched = scene.ledger("device");
    let bundle = scene.export(&untouched);
    assert!(bundle == honest, "a ledger written anew is the same log");

    edits(&mut scene);
    histories(&mut scene);
    others(&mut scene);
    heads(&mut scene);

    // A payload that is left out is no lie: the verdict counts it, and is no longer `complete`.
    let mut case = load(&honest);
    case.records
        .retain(|record| !matches!(record, Owned::Payload(..)));
    let (said, verdict) = scene.judge(&case.store());
    assert_eq!(
        (said.as_str(), &verdict["complete"]),
        ("verified", &false.into())
    );
    assert!(
        verdict["payloads"]["withheld"].as_u64() > Some(0),
        "{verdict}"
    );

    let live = live(&mut scene);
    let archived = export(
        &scene.fleet,
        "device",
        &collector(&scene.fleet, &scene.origin),
    );
    for bundle in [&honest, &archived] {
        assert_eq!(scene.judge(bundle).0, "verified", "after everything");
    }
    assert_eq!(scene.wrong, Vec::<String>::new());

    for row in scene.rows.iter().chain(&live) {
        println!("{} {:.1} |", row.told(), row.seconds);
    }
    assert!(scene.rows.len() >= 20);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/attacks.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let told: Vec<String> = rows
        .filter_map(|line| line.trim_end_matches(" |").rsplit_once("| "))
        .filter(|(_, seconds)| seconds.parse::<f64>().is_ok())
        .map(|(row, _)| row.trim_end().trim_end_matches('|').trim_end().to_owned() + " |")
        .collect();
    let found: Vec<String> = scene.rows.iter().chain(&live).map(Row::told).collect();
    assert_eq!(told, found, "docs/attacks.md says something else");
}

/// Files changed, nothing signed.
fn edits(scene: &mut Scene) {
    scene.in_ledger(
        "one byte of a payload changed",
        "tampered: payload.commitment",
        |_, case| {
            payload(case, "\"step 2\"")[20] ^= 1;
        },
    );
    scene.in_ledger(
        "a payload zeroed, without a leaf that says so",
        "tampered: payload.commitment",
        |_, case| {
            payload(case, "\"step 2\"").fill(0);
        },
    );
    scene.in_ledger(
        "redaction undone: the payload with the secret put back",
        "tampered: payload.commitment",
        |_, case| {
            let bytes = payload(case, "[redacted:");
            let text = String::from_utf8(bytes.clone()).unwrap();
            let from = text.find("[redacted:").unwrap();
            let to = from + text[from..].find(']').unwrap() + 1;
            *bytes = format!("{}correct horse{}", &text[..from], &text[to..]).into_bytes();
        },
    );
    scene.in_ledger(
        "a field of an event changed",
        "tampered: batch.chain",
        |_, case| {
            let entry = case.entry("\"step 2\"");
            *entry = replaced(entry, "step 2", "step X");
        },
    );
    scene.in_ledger(
        "an event taken out of the middle",
        "tampered: entry.seq",
        |_, case| {
            take_out(case, "\"step 2\"");
        },
    );
    scene.in_ledger("two events exchanged", "tampered: entry.seq", |_, case| {
        let (first, second) = (place(case, "\"step 1\""), place(case, "\"step 2\""));
        case.records.swap(first, second);
        case.records.swap(first + 1, second + 1);
    });
    scene.in_ledger(
        "the newest batch cut off",
        "unverifiable: behind",
        |_, case| {
            let at = take_out(case, "\"step 6\"");
            case.records.truncate(at);
        },
    );
    scene.in_bundle(
        "the last events cut off under the witnessed head",
        "tampered: tail",
        |_, case| {
            let at = place(case, "\"step 10\"");
            case.records.truncate(at);
        },
    );
}

/// Another history, perfect in itself and signed with the endpoint's own key.
fn histories(scene: &mut Scene) {
    let same_length = "tampered: seen.root";
    let shorter = "unverifiable: behind";
    scene.re_signed(
        "an event changed, everything chained and signed anew",
        same_length,
        |case| {
            edit(case, "\"step 2\"", |value| value["object"] = "ls".into());
        },
    );
    scene.re_signed(
        "an event dropped, the rest renumbered and signed anew",
        shorter,
        |case| {
            take_out(case, "\"step 2\"");
        },
    );
    scene.re_signed(
        "an event replaced by a harmless one, signed anew",
        same_length,
        |case| {
            hide(case, "\"step 2\"");
        },
    );
    scene.re_signed("an event inserted, signed anew", same_length, |case| {
        let (at, event) = (place(case, "\"step 2\""), made_up(case));
        case.records.insert(at, event);
    });
    scene.re_signed(
        "a whole batch dropped, as many harmless events added, signed anew",
        same_length,
        |case| {
            let from = place(case, "\"batch.sealed\"") + 1;
            let rest = &case.records[from..];
            let more = rest
                .iter()
                .position(|record| is_entry(record, "\"batch.sealed\""))
                .unwrap();
            let gone: Vec<Owned> = case.records.drain(from..=from + more).collect();
            let leaves = gone
                .iter()
                .filter(|record| matches!(record, Owned::Entry(_)))
                .count();
            let event = made_up(case);
            for _ in 0..leaves {
                case.records.insert(1, event.clone());
            }
        },
    );
    scene.re_signed(
        "the clock moved: every time a day earlier, signed anew",
        same_length,
        |case| {
            for record in &mut case.records {
                if let Owned::Entry(entry) = record {
                    let mut value: Value = serde_json::from_slice(entry).unwrap();
                    value["time"] = later(value["time"].as_str().unwrap(), -DAY_S).into();
                    *entry = entry_of(value);
                }
            }
        },
    );
    scene.re_signed(
        "the leaf of a gap hidden, signed anew",
        same_length,
        |case| {
            hide(case, "\"transcript.");
        },
    );
    scene.re_signed(
        "a session's end forged, what came after it hidden, signed anew",
        same_length,
        |case| {
            end_session(case, "\"step 6\"");
        },
    );
    scene.re_signed(
        "redaction undone, committed to and signed anew",
        same_length,
        |case| {
            let bytes = payload(case, "[redacted:");
            bytes.extend_from_slice(b" correct horse");
            let bytes = bytes.clone();
            let at = case
                .records
                .iter()
                .position(|record| matches!(record, Owned::Payload(_, found) if *found == bytes))
                .unwrap();
            let Owned::Payload(salt, _) = &case.records[at] else {
                unreachable!("just found")
            };
            let mut committed = context_hasher(salt);
            committed.update(&bytes);
            let committed = committed.finish();
            let Owned::Entry(entry) = &mut case.records[at - 1] else {
                unreachable!("a payload follows its entry")
            };
            let mut value: Value = serde_json::from_slice(entry).unwrap();
            value["context"]["sha256"] = committed.to_string().into();
            value["context"]["len"] = bytes.len().into();
            *entry = entry_of(value);
        },
    );
    scene.re_signed(
        "a leaf of an erasure that never was, the payload gone, signed anew",
        same_length,
        |case| {
            payload(case, "\"step 2\"").clear();
            let at = case
                .records
                .iter()
                .position(|record| matches!(record, Owned::Payload(_, bytes) if bytes.is_empty()))
                .unwrap();
            case.records.remove(at);
            let Owned::Entry(entry) = &case.records[at - 1] else {
                unreachable!("a payload follows its entry")
            };
            let seq = serde_json::from_slice::<Value>(entry).unwrap()["seq"]
                .as_u64()
                .unwrap();
            let mut event = made_up(case);
            if let Owned::Entry(entry) = &mut event {
                let mut value: Value = serde_json::from_slice(entry).unwrap();
                value["kind"] = "payload.erased".into();
                value["detail"] = json!({"ranges": [[seq, seq + 1]], "count": 1});
                *entry = entry_of(value);
            }
            let last = case.records.len() - 3;
            case.records.insert(last, event);
        },
    );
}

/// State of another time, or of another device.
fn others(scene: &mut Scene) {
    let since = Instant::now();
    let earlier = export(&scene.fleet, "earlier", &[]);
    scene.present(
        "the whole state folder put back to an earlier copy",
        "unverifiable: behind",
        since,
        &earlier,
    );

    let since = Instant::now();
    let mut case = load(&earlier);
    let (size, origin) = (scene.seen.size + 10, scene.origin.clone());
    let head = signed(&scene.key, &origin, size, Digest([7; 32])).encode();
    case.front.later = Some(format!("\n{head}").into_bytes());
    scene.present(
        "the earlier copy, with a longer head signed to hide that it is behind",
        "tampered: later.consistency",
        since,
        &case.store(),
    );

    let since = Instant::now();
    let theirs = export(&scene.fleet, "neighbour", &[]);
    scene.present(
        "the neighbour's log presented",
        "unverifiable: unknown_origin",
        since,
        &theirs,
    );

    let since = Instant::now();
    let mut case = load(&theirs);
    case.front = load(&scene.honest).front;
    scene.present(
        "the neighbour's events under the own head",
        "tampered: entry.opening",
        since,
        &case.store(),
    );

    let since = Instant::now();
    let mut case = load(&theirs);
    let name = enrolment(&scene.fleet.path("neighbour"))["origin"]
        .as_str()
        .unwrap()
        .to_owned();
    let opening = case.entry("\"log.opened\"");
    *opening = replaced(opening, &name, &scene.origin);
    *opening = replaced(opening, &name, &scene.origin);
    case.front.manifest.origin.clone_from(&scene.origin);
    case.resign(&scene.key);
    scene.present(
        "the neighbour's events as one's own, signed with the own key",
        "tampered: seen.root",
        since,
        &case.store(),
    );

    let since = Instant::now();
    let seed = Secret::load(&scene.host, &scene.fleet.path("neighbour/keys/log.key")).unwrap();
    let stranger = SoftwareKey::log(&seed, &scene.origin).unwrap();
    let mut case = load(&scene.honest);
    case.resign(&stranger);
    scene.present(
        "the own events signed with the neighbour's key",
        "unverifiable: unknown_key",
        since,
        &case.store(),
    );

    let since = Instant::now();
    let url = format!("https://localhost:{}", scene.fleet.port);
    enroll(&scene.fleet, "there.toml", "anew", &url);
    good(&run(&scene.fleet, "there.toml", "anew", &["run", "--once"]));
    let anew = export(&scene.fleet, "anew", &[]);
    scene.present(
        "everything deleted and enrolled anew",
        "unverifiable: unknown_origin",
        since,
        &anew,
    );
}

/// Heads, cosignatures, receipts, ranges.
fn heads(scene: &mut Scene) {
    scene.in_bundle(
        "a longer head signed that does not contain the witnessed one",
        "tampered: later.consistency",
        |scene, case| {
            let head = signed(
                &scene.key,
                &scene.origin,
                scene.seen.size + 1,
                Digest([7; 32]),
            );
            case.front.later = Some(format!("\n{}", head.encode()).into_bytes());
        },
    );
    scene.in_bundle(
        "the witness's time set back an hour",
        "tampered: cosignature.signature",
        |_, case| {
            let mut note = note_of(case);
            let line = &mut note.signatures[1].bytes;
            let time = u64::from_be_bytes(line[..8].try_into().unwrap()) - 3_600;
            line[..8].copy_from_slice(&time.to_be_bytes());
            case.front.checkpoint = note.encode().into_bytes();
        },
    );
    scene.in_bundle(
        "a stale cosignature pasted under the head",
        "tampered: cosignature.signature",
        |scene, case| {
            let older = load(&export(&scene.fleet, "earlier", &[]));
            let mut note = note_of(case);
            note.signatures.truncate(1);
            note.signatures
                .extend_from_slice(&note_of(&older).signatures[1..]);
            case.front.checkpoint = note.encode().into_bytes();
        },
    );
    scene.in_bundle(
        "events that never were added after the witnessed head, signed",
        "unverifiable: quorum",
        |scene, case| {
            add_batch(case);
            case.resign(&scene.key);
        },
    );
    scene.in_bundle(
        "likewise, with a cosignature by a key of the attacker's in the witness's name",
        "unverifiable: quorum",
        |scene, case| {
            add_batch(case);
            case.resign(&scene.key);
            cosign(scene, case, false);
        },
    );
    scene.in_bundle(
        "likewise, with the id of the witness's key on it",
        "tampered: cosignature.signature",
        |scene, case| {
            add_batch(case);
            case.resign(&scene.key);
            cosign(scene, case, true);
        },
    );
    scene.in_bundle(
        "a key of the attacker's rotated in, without a head of the old key over it",
        "unverifiable: quorum",
        |scene, case| {
            let own = SoftwareKey::log(&Secret::from_bytes([9; 32]), &scene.origin).unwrap();
            let mut event = made_up(case);
            if let Owned::Entry(entry) = &mut event {
                let mut value: Value = serde_json::from_slice(entry).unwrap();
                value["kind"] = "key.rotated".into();
                value["detail"] = Rotation::detail(scene.key.verifier_key(), &own)
                    .unwrap()
                    .into();
                *entry = entry_of(value);
            }
            let whole = case.records.len();
            add_batch(case);
            case.records.insert(whole, event);
            case.resign(&scene.key);
            let mut note = note_of(case);
            let head = Checkpoint::parse(&note.text).unwrap();
            note.signatures.extend(head.sign(&own).unwrap().signatures);
            case.front.checkpoint = note.encode().into_bytes();
        },
    );
    scene.in_bundle(
        "a shorter size written into the manifest",
        "tampered: manifest.head",
        |_, case| {
            case.front.manifest.size -= 1;
        },
    );

    let since = Instant::now();
    let range = format!("{}..{}", scene.seen.size - 2, scene.seen.size);
    let ranged = export(&scene.fleet, "device", &["--range", &range]);
    assert_eq!(scene.judge(&ranged).0, "verified");
    let mut case = load(&ranged);
    assert!(case.front.manifest.from > 0);
    let end = case.front.prefix.len() - 1;
    case.front.prefix[end] ^= 1;
    scene.present(
        "what came before a range exchanged in its prefix",
        "tampered: head.root",
        since,
        &case.store(),
    );

    let mut case = load(&scene.archived);
    let receipt = Line::to(scene).receipt(scene.seen.size);
    case.front.receipt = Some(receipt.encode().into_bytes());
    let (said, verdict) = scene.judge(&case.store());
    assert!(
        said == "verified" && !verdict["logged"].is_null(),
        "{verdict}"
    );

    let since = Instant::now();
    let mut forged = receipt;
    forged.index -= 1;
    let mut value: Value = serde_json::from_slice(&forged.entry).unwrap();
    value["seq"] = forged.index.into();
    forged.entry = entry_of(value);
    case.front.receipt = Some(forged.encode().into_bytes());
    scene.present(
        "a receipt that says the head was logged earlier",
        "tampered: receipt.inclusion",
        since,
        &case.store(),
    );

    let since = Instant::now();
    let older = load(&export(&scene.fleet, "earlier", &[]))
        .front
        .manifest
        .size;
    let receipt = Line::to(scene).receipt(older);
    case.front.receipt = Some(receipt.encode().into_bytes());
    scene.present(
        "the receipt of an older head under the newest",
        "tampered: receipt.head",
        since,
        &case.store(),
    );
}

/// One more batch: an event that never was, and its seal.
fn add_batch(case: &mut Case) {
    let event = made_up(case);
    let sealed = case.records[place(case, "\"batch.sealed\"")].clone();
    case.records.extend([event, sealed]);
}

/// A cosignature of the attacker's own under the head, in the name of the witness.
fn cosign(scene: &Scene, case: &mut Case, with_its_id: bool) {
    let mut note = note_of(case);
    let witness = note_of(&load(&scene.honest)).signatures.swap_remove(1);
    let own = Secret::from_bytes([9; 32]);
    let own = SoftwareKey::cosigner(&own, &witness.name).unwrap();
    let mut line = Cosignature::sign(&own, 1_800_000_000, &note.text).unwrap();
    if with_its_id {
        line.key_id = witness.key_id;
    }
    note.signatures.push(line);
    case.front.checkpoint = note.encode().into_bytes();
}

/// What the manipulations look like to the running product: the agent that is started on them, and
/// the collector to which the attacker sends past the agent.
fn live(scene: &mut Scene) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |what, since: Instant, by, expected: &str, words: &str| {
        assert!(words.contains(expected), "{what}: {words}");
        let seconds = since.elapsed().as_secs_f64();
        let said = expected.to_owned();
        rows.push(Row {
            what,
            said,
            by,
            seconds,
        });
    };
    let agent = |scene: &Scene, state: &str| {
        let out = run(&scene.fleet, "jurat.toml", state, &["run", "--once"]);
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.success(), words)
    };
    let refused = |scene: &Scene, state: &str| {
        let since = Instant::now();
        let (done, words) = agent(scene, state);
        assert!(!done, "{state}: {words}");
        (since, words)
    };

    // The collector cannot be reached while an earlier copy goes on in another way.
    let state = scene.fleet.path("fork");
    copy_state(&scene.fleet.path("earlier"), &state);
    let known = fs::read_to_string(state.join("enrolment.json")).unwrap();
    let port = format!(":{}", scene.fleet.port);
    fs::write(state.join("enrolment.json"), known.replace(&port, ":1")).unwrap();
    let config = fs::read_to_string(scene.fleet.path("jurat.toml")).unwrap();
    fs::create_dir_all(scene.fleet.path("else/projects/p")).unwrap();
    fs::write(scene.fleet.path("else/projects/p/a.jsonl"), steps(300..340)).unwrap();
    fs::write(
        scene.fleet.path("else.toml"),
        config.replace("/agent\"", "/else\""),
    )
    .unwrap();
    let mut child = Command::new(JURAT)
        .arg("--config")
        .arg(scene.fleet.path("else.toml"))
        .arg("--state-dir")
        .arg(&state)
        .arg("run")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("another history is signed", || {
        let heads = scene.heads("fork");
        heads.last().is_some_and(|head| head.size > scene.seen.size)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(state.join("enrolment.json"), known).unwrap();
    let since = Instant::now();
    let mut case = scene.ledger("fork");
    case.resign(&scene.key);
    scene.present(
        "an earlier copy gone on from by the agent itself, its longer log presented",
        "tampered: seen.root",
        since,
        &case.store(),
    );

    let (since, words) = refused(scene, "earlier");
    row(
        "the agent started on an earlier copy",
        since,
        "agent",
        "rolled back or exchanged",
        &words,
    );
    let (since, words) = refused(scene, "fork");
    row(
        "the agent started on the other, longer history",
        since,
        "agent",
        "rolled back or exchanged",
        &words,
    );

    copy_state(&scene.fleet.path("device"), &scene.fleet.path("swapped"));
    fs::remove_dir_all(scene.fleet.path("swapped/ledger")).unwrap();
    copy(
        &scene.fleet.path("neighbour/ledger"),
        &scene.fleet.path("swapped/ledger"),
    );
    let (since, words) = refused(scene, "swapped");
    row(
        "the agent started on the neighbour's ledger",
        since,
        "agent",
        "the ledger holds the log",
        &words,
    );

    copy_state(&scene.fleet.path("device"), &scene.fleet.path("flipped"));
    let segment = fs::read_dir(scene.fleet.path("flipped/ledger"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jl"))
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes
        .windows(6)
        .position(|window| window == b"step 2")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let since = Instant::now();
    let out = run(&scene.fleet, "jurat.toml", "flipped", &["ledger", "fsck"]);
    assert!(!out.status.success());
    let words =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    row(
        "one byte flipped in the ledger's file",
        since,
        "`jurat ledger fsck`",
        "DAMAGED at byte",
        &words,
    );

    // The cursor says that everything was delivered: what is new looks as if it had been sent.
    let cursor = scene.fleet.path("device/cursors/collector.json");
    let mut edited: Value = serde_json::from_slice(&fs::read(&cursor).unwrap()).unwrap();
    edited["size"] = 1_000_000.into();
    fs::write(&cursor, edited.to_string()).unwrap();
    scene.fleet.append("p/a.jsonl", &steps(12..13));
    agent(scene, "device");
    let since = Instant::now();
    let mut case = scene.ledger("device");
    case.records.retain(|record| {
        !matches!(record, Owned::Note(note) if Note::parse(note).unwrap().signatures.len() > 1)
    });
    let Some(Owned::Note(head)) = case.records.pop() else {
        unreachable!("a ledger that was sealed ends in a head")
    };
    let size = scene.heads("device").last().unwrap().size;
    assert!(size > scene.seen.size);
    case.front = Front::whole(&scene.origin, size, &head);
    scene.present(
        "the cursor edited so that new events look sent, the newest own head presented",
        "unverifiable: quorum",
        since,
        &case.store(),
    );

    // Past the agent, with the device's own key and token.
    let archived = export(
        &scene.fleet,
        "device",
        &collector(&scene.fleet, &scene.origin),
    );
    let mut case = load(&archived);
    edit(&mut case, "\"step 2\"", |value| {
        value["object"] = "ls".into()
    });
    case.resign(&scene.key);
    let mut raw = Vec::new();
    write_record(&mut raw, &Record::Checkpoint(&case.front.checkpoint));
    let since = Instant::now();
    let words = Line::to(scene).upload(&raw);
    row(
        "another history of the archived length sent to the collector",
        since,
        "collector",
        "fork",
        &words,
    );
    rows
}

impl Scene {
    /// The heads that were signed in the ledger of a state folder.
    fn heads(&self, state: &str) -> Vec<Checkpoint> {
        let notes = self
            .ledger(state)
            .records
            .into_iter()
            .filter_map(|record| match record {
                Owned::Note(note) => Note::parse(&note).ok(),
                _ => None,
            });
        notes
            .map(|note| Checkpoint::parse(&note.text).unwrap())
            .collect()
    }
}

/// A line to the collector past the agent, with the device's own token and key.
struct Line {
    runtime: tokio::runtime::Runtime,
    collector: Collector,
    host: Host,
    device: String,
    token: String,
    hmac: Secret,
}

impl Line {
    fn to(scene: &Scene) -> Self {
        let state = scene.fleet.path("device");
        let enrolment = enrolment(&state);
        let text = |name: &str| enrolment[name].as_str().unwrap().to_owned();
        let secret = |name: &str| Secret::load(&scene.host, &state.join("keys").join(name));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let set_up = SetUp {
            url: text("url"),
            tls: shown(&state, text("ca").as_bytes()),
            timeout: Duration::from_secs(30),
        };
        Self {
            collector: Collector::new(set_up).unwrap(),
            host: scene.host.clone(),
            device: text("device"),
            token: secret("token.key").unwrap().to_base64(),
            hmac: secret("hmac.key").unwrap(),
            runtime,
        }
    }

    fn who(&self) -> Identity<'_> {
        Identity {
            device: &self.device,
            token: &self.token,
            key: self.hmac.expose(),
        }
    }

    /// The code with which an upload is answered.
    fn upload(&self, raw: &[u8]) -> String {
        let body = zstd::bulk::compress(raw, 1).unwrap();
        let who = self.who();
        let answer = self.collector.upload(&self.host, &who, body);
        match self.runtime.block_on(answer) {
            Err(CollectorError::Refused { refusal, .. }) => refusal.code,
            Err(CollectorError::Conflict { .. }) => "size_conflict".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn receipt(&self, size: u64) -> Receipt {
        let who = self.who();
        let answer = self.collector.receipt(&self.host, &who, size);
        let text = self.runtime.block_on(answer).unwrap();
        Receipt::parse(&text).unwrap()
    }
}
