//! The vectors, by name, each with what a verifier must say of it.

use jurat_proof::{
    Checkpoint, Digest, Note, Record, Rotation, Signature, Signer as _, root_of, sha256,
};
use serde_json::{Value, json};

use super::maker::{
    Bundle, By, KEYS, LOG_OF_LOGS, Log, ORIGIN, T0, archive, device, entry_of, later_of, note,
    receipt_of, sign, spoilt, witness,
};

/// A bundle, whom to believe, when, and what that gives: the verdict with its seq or `-`, and its code.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) bundle: Vec<u8>,
    pub(super) trust: Option<String>,
    pub(super) now: u64,
    pub(super) says: String,
}

impl Case {
    /// With more lines of trust.
    pub(super) fn trusting(mut self, lines: &str) -> Self {
        let trust = self.trust.get_or_insert_default();
        trust.push_str(lines);
        trust.push('\n');
        self
    }

    pub(super) fn trust(mut self, trust: Option<String>) -> Self {
        self.trust = trust;
        self
    }

    pub(super) fn now(mut self, now: u64) -> Self {
        self.now = now;
        self
    }
}

pub(super) fn case(name: &str, bundle: Bundle, says: &str) -> Case {
    raw(name, bundle.tar(), says)
}

fn raw(name: &str, bundle: Vec<u8>, says: &str) -> Case {
    Case {
        name: name.into(),
        bundle,
        trust: Some(trust(&KEYS.device.verifier_text())),
        now: T0 + 86_400,
        says: says.into(),
    }
}

/// The trust file of most vectors.
pub(super) fn trust(log: &str) -> String {
    let [w1, w2, _] = &KEYS.witnesses;
    format!(
        "# made by cargo xtask vectors\nlog {log}\nwitness w1 {}\nwitness w2 {}\narchive store {}\ncollector {}\n",
        w1.verifier_text(),
        w2.verifier_text(),
        KEYS.archive.verifier_text(),
        KEYS.collector.verifier_text()
    )
}

/// Four leaves, a payload among them, and a batch that closes them.
fn good() -> Log {
    let log = Log::default().opened().said("s", 0);
    let log = log
        .commits("s", 1, b"rm -rf build")
        .payload(b"rm -rf build");
    log.ended("s", 2).batch()
}

/// A log with two batches and the head between them, cosigned.
fn two() -> Log {
    let log = good().head(&[device(), witness(1, 30)]).said("t", 0);
    log.commits("t", 1, b"cargo test")
        .payload(b"cargo test")
        .batch()
}

fn next() -> By {
    (&KEYS.next, 0)
}

fn stranger() -> By {
    (&KEYS.stranger, 0)
}

/// A log whose key was changed after its first batch.
fn rotated() -> Log {
    let log = good().rotated(&KEYS.device, &KEYS.next).batch();
    log.head(&[device(), witness(1, 30)]).said("t", 0).batch()
}

pub(super) fn all() -> Vec<Case> {
    let mut cases = right();
    cases.extend(wrong());
    cases.extend(super::attested::all());
    cases
}

fn right() -> Vec<Case> {
    let w3 = KEYS.witnesses[2].verifier_text();
    let mut cases = vec![
        case("whole", good().bundle(0), "verified"),
        case(
            "whole.no_cosignature",
            good().bundle_under(0, &good().signed_by(&[device()])),
            "verified",
        ),
        case(
            "manifest.leading_space",
            good()
                .bundle(0)
                .edit("jurat.json", |json| json.insert(0, b' ')),
            "verified",
        ),
        case(
            "whole.session_null",
            good().bundle(0).manifest("session", Value::Null),
            "verified",
        ),
        case(
            "whole.two_parts",
            two().split(0, 5, &two().signed()),
            "verified",
        ),
        case(
            "whole.no_batch_at_the_end",
            good().said("t", 0).bundle(0),
            "verified",
        ),
        case("range", two().bundle(5), "verified"),
        case("range.of_one", good().said("t", 0).bundle(5), "verified"),
        case(
            "range.later_receipt",
            two()
                .bundle(5)
                .later(two().later(3, ORIGIN, &[device(), witness(2, 99)]))
                .receipt(&two().receipt()),
            "verified",
        ),
        case(
            "later.same_size",
            good()
                .bundle(0)
                .later(good().later(0, ORIGIN, &[device(), witness(2, 99)])),
            "verified",
        ),
        case(
            "later.stranger",
            good()
                .bundle(0)
                .later(good().later(3, ORIGIN, &[stranger()])),
            "verified",
        ),
        case(
            "receipt.stranger",
            good().bundle(0).receipt(&receipt_of(
                entry_of(&good().accepted(2)),
                LOG_OF_LOGS,
                &[stranger()],
            )),
            "verified",
        ),
        case(
            "receipt.outside_quorum",
            good().bundle(0).receipt(&good().receipt()),
            "verified",
        )
        .trusting("outside w2\nquorum 1"),
        case(
            "session",
            session().bundle(0).manifest("session", json!("s")),
            "verified",
        ),
        case(
            "session.incomplete",
            session().said("u", 4).ended("u", 5).batch().bundle(0),
            "verified",
        ),
        case(
            "session.begins_anew",
            good().said("s", 0).ended("s", 1).batch().bundle(0),
            "verified",
        ),
        case(
            "session.second_run",
            good()
                .said_in("s", 0, 1)
                .ended_in("s", 1, 1)
                .batch()
                .bundle(0),
            "verified",
        ),
        case(
            "session.another_run",
            good().said_in("s", 0, 2).ended("s", 1).batch().bundle(0),
            "verified",
        ),
        case(
            "session.first_run_in_range",
            good()
                .said_in("t", 0, 0)
                .said_in("t", 1, 0)
                .batch()
                .bundle(5),
            "verified",
        ),
        case(
            "session.second_run_in_range",
            good()
                .said_in("t", 0, 1)
                .said_in("t", 1, 1)
                .batch()
                .bundle(5),
            "verified",
        ),
        case(
            "session.withheld_after_its_last",
            session().hidden(1).said_in("t", 0, 0).batch().bundle(0),
            "verified",
        ),
        case(
            "session.two_runs_spliced",
            Log::default()
                .opened()
                .said_in("s", 0, 0)
                .hidden(9)
                .said_in("s", 1, 2)
                .ended_in("s", 2, 2)
                .batch_with(json!({ "count": 12 }))
                .bundle(0),
            "verified",
        ),
        case(
            "session.unnumbered_behind_hidden",
            Log::default()
                .opened()
                .said_in("s", 0, 0)
                .hidden(3)
                .said("s", 1)
                .batch_with(json!({ "count": 5 }))
                .bundle(0),
            "verified",
        ),
        case(
            "session.without_number",
            good()
                .entry("x", json!({ "session": "t" }))
                .entry("x", json!({ "session_seq": 9 }))
                .entry("session.ended", json!({}))
                .bundle(0),
            "verified",
        ),
        case("payload.withheld", withheld().bundle(0), "verified"),
        case(
            "payload.erased",
            withheld()
                .entry(
                    "payload.erased",
                    json!({ "detail": { "ranges": [[6, 7], [9, 3], [5, 6, 7], "x"] } }),
                )
                .batch()
                .bundle(0),
            "verified",
        ),
        case(
            "payload.here_though_erased",
            good()
                .entry(
                    "payload.erased",
                    json!({ "detail": { "ranges": [[2, 3]] } }),
                )
                .batch()
                .bundle(0),
            "verified",
        ),
        case(
            "rotation",
            rotated().bundle_under(0, &rotated().signed_by(&[next(), witness(1, 60)])),
            "verified",
        ),
        case(
            "rotation.range",
            rotated().bundle_under(5, &rotated().signed_by(&[next(), witness(1, 60)])),
            "verified",
        ),
        case("rotation.pending", pending().bundle(0), "verified"),
        case(
            "rotation.pending.head_twice",
            pending().head(&[device(), witness(1, 50)]).bundle(0),
            "verified",
        ),
        case(
            "rotation.head_twice",
            twice_headed().bundle_under(0, &twice_headed().signed_by(&[next(), witness(1, 60)])),
            "verified",
        ),
        case(
            "rotation.new_key_in_trust",
            rotated().bundle_under(0, &rotated().signed_by(&[next()])),
            "verified",
        )
        .trusting(&format!("log {}", KEYS.next.verifier_text())),
        case(
            "rotation.twice",
            twice().bundle_under(0, &twice().signed_by(&[(&KEYS.third, 0)])),
            "verified",
        ),
        p256("key.p256", good()),
        p256(
            "rotation.from_p256",
            good().rotated(&KEYS.hardware, &KEYS.next).batch(),
        ),
        case(
            "quorum.groups",
            good().bundle_under(
                0,
                &good().signed_by(&[device(), witness(1, 60), witness(3, 61), archive(62)]),
            ),
            "verified",
        )
        .trusting(&format!(
            "witness w3 {w3}\ngroup far any w2 w3\ngroup both all w1 far\nquorum both"
        )),
        case(
            "witness.several",
            two().bundle_under(
                0,
                &two().signed_by(&[
                    device(),
                    witness(1, 60),
                    witness(2, 80),
                    witness(2, 75),
                    archive(90),
                ]),
            ),
            "verified",
        )
        .trusting("quorum 2"),
        case("witness.same_host", good().bundle(0), "verified").trusting("same-host w1"),
        case(
            "witness.head_twice",
            good().head(&[device(), witness(1, 40)]).bundle(0),
            "verified",
        ),
        case(
            "witness.begin_of_range",
            two()
                .head(&[device(), witness(2, 50)])
                .said("t", 2)
                .batch()
                .bundle_under(
                    8,
                    &two().said("t", 2).batch().signed_by(&[
                        device(),
                        witness(1, 90),
                        witness(2, 95),
                    ]),
                ),
            "verified",
        ),
        case(
            "note.unknown_lines",
            good().bundle_under(0, &unknown_lines()),
            "verified",
        ),
        case(
            "custody",
            good()
                .entry(
                    "agent.started",
                    json!({ "detail": { "custody": true, "isolation": "shared" } }),
                )
                .batch()
                .bundle(0),
            "verified",
        ),
        case(
            "custody.elsewhere",
            good()
                .entry(
                    "x",
                    json!({ "custody": true, "detail": { "custody": true } }),
                )
                .bundle(0),
            "verified",
        ),
        case(
            "isolation.not_stated",
            good()
                .entry("agent.started", json!({ "detail": {} }))
                .entry("agent.started", json!({ "detail": 7 }))
                .batch()
                .bundle(0),
            "verified",
        ),
        case(
            "boot.returned",
            good()
                .entry("x", json!({ "boot": "" }))
                .entry("agent.started", json!({}))
                .bundle(0),
            "verified",
        ),
        case(
            "entry.unknown_fields",
            good().entry("kind.of.tomorrow", tomorrow()).bundle(0),
            "verified",
        ),
        case(
            "entry.time_that_is_none",
            Log::default()
                .entry(
                    "log.opened",
                    json!({ "time": "2026-02-30T00:00:00Z",
            "detail": { "origin": ORIGIN } }),
                )
                .bundle(0),
            "verified",
        ),
        case("seen", two().bundle(0), "verified").trusting(&format!(
            "seen {ORIGIN} 5 {}\nseen {ORIGIN} 8 {}\nseen {LOG_OF_LOGS} 99 {}",
            good().root(),
            two().root(),
            good().root()
        )),
        case(
            "seen.later",
            good()
                .bundle(0)
                .later(good().later(3, ORIGIN, &[device(), witness(1, 70)])),
            "verified",
        )
        .trusting(&format!("quorum 1\nseen {ORIGIN} 7 {}", good().root())),
        case("seen.before_the_range", two().bundle(5), "verified")
            .trusting(&format!("quorum 1\nseen {ORIGIN} 2 {}", good().root())),
        case(
            "revoked.successor_named",
            rotated().bundle_under(0, &rotated().signed_by(&[next(), witness(1, 60)])),
            "verified",
        )
        .trusting(&format!(
            "log {}\nrevoked {} 9",
            KEYS.next.verifier_text(),
            KEYS.device.verifier_text()
        )),
        case(
            "revoked.accepted_before",
            good().bundle(0).receipt(&good().receipt()),
            "verified",
        )
        .trusting(&format!("revoked {} 3", KEYS.device.verifier_text())),
        case("revoked.another_key", good().bundle(0), "verified")
            .trusting(&format!("revoked {} 0", KEYS.next.verifier_text())),
        raw(
            "tar.more_behind_the_end",
            [good().bundle(0).tar(), b"what follows is not read".to_vec()].concat(),
            "verified",
        ),
        case("future.just_not", good().bundle(0), "verified").now(T0 + 61 - 300),
    ];
    let mut gaps = good();
    for number in 0..1_005 {
        let kind = ["ledger.full", "dead.letter", "clock.stepped"][number % 3];
        gaps = gaps.entry(kind, json!({}));
    }
    cases.push(case("gaps.many", gaps.bundle(0), "verified"));
    let mut names = Log::default().opened().hidden(1);
    for number in 0..1_005 {
        names = names.entry(
            &format!("k{number}"),
            json!({ "session": format!("s{number}"), "session_seq": 0, "session_run": 0 }),
        );
        if number % 200 == 199 {
            let filtered: serde_json::Map<String, Value> = (0..220)
                .map(|reason| (format!("r{}", number * 220 + reason), json!(1)))
                .collect();
            names = names.batch_with(json!({ "filtered": filtered }));
        }
    }
    cases.push(case("names.many", names.bundle(0), "verified"));
    cases
}

/// A log in which the leaves of another session are only hashes.
fn session() -> Log {
    let log = Log::default()
        .opened()
        .said_in("s", 0, 0)
        .hidden(3)
        .said_in("s", 1, 0)
        .ended_in("s", 2, 0);
    log.batch_with(json!({ "count": 6 }))
}

/// Two payloads that are not here.
fn withheld() -> Log {
    good()
        .commits("t", 0, b"a")
        .commits("t", 1, b"b")
        .commits("t", 2, b"c")
        .payload(b"c")
        .batch()
}

fn pending() -> Log {
    good().rotated(&KEYS.device, &KEYS.next).batch()
}

/// As an archive has it: the device's head, and once more with cosignatures.
fn twice_headed() -> Log {
    let log = pending()
        .head(&[device()])
        .head(&[device(), witness(1, 30)]);
    log.said("t", 0).batch()
}

fn twice() -> Log {
    let log = rotated().rotated(&KEYS.next, &KEYS.third).batch();
    log.head(&[next()]).said("t", 1).batch()
}

/// A head signed by a key as hardware holds them.
fn p256(name: &str, log: Log) -> Case {
    let head = log.signed_by(&[(&KEYS.hardware, 0)]);
    case(name, log.bundle_under(0, &head), "verified")
        .trust(Some(trust(&KEYS.hardware.verifier_key().to_string())))
}

/// Signatures that mean nothing here: other names, our name with another id, 16 of ML-DSA size (type 0x06).
fn unknown_lines() -> Note {
    let mut head = good().signed();
    let line = |name: &str, key_id, bytes| Signature {
        name: name.into(),
        key_id,
        bytes,
    };
    head.signatures
        .push(line(ORIGIN, [1, 2, 3, 4], vec![7; 64]));
    head.signatures.push(line(
        "nobody.example",
        KEYS.device.verifier_key().id(),
        vec![7; 64],
    ));
    for number in 0..16 {
        let name = format!("pq{number}.example/log");
        let id = sha256(&[name.as_bytes(), b"\n", &[6], &[number; 1_312]]).0;
        head.signatures.push(line(
            &name,
            [id[0], id[1], id[2], id[3]],
            vec![number; 4_627],
        ));
    }
    head
}

/// Fields that no verifier of today knows, and known ones of other types that it does not read.
fn tomorrow() -> Value {
    json!({
        "labels": 7, "custody": "yes", "agent": [1], "mono_us": -1.5, "detail": [1, { "a": null }],
        "new": { "a": [1, { "b": 18_446_744_073_709_551_615_u64 }] }, "session": "\u{1f980}\"\\", "session_seq": 0,
        "raw": { "sha256": "0".repeat(64), "len": 1 }, "context": { "sha256": "0".repeat(64), "len": 0 },
    })
}

fn wrong() -> Vec<Case> {
    let mut cases = container();
    cases.extend(heads());
    cases.extend(records());
    cases.extend(entries());
    cases.extend(places());
    cases.extend(others());
    cases
}

/// What is no bundle at all.
fn container() -> Vec<Case> {
    let bundle = good().bundle(0);
    let tar = bundle.tar();
    let no = |name: &str, bytes: Vec<u8>, check: &str| {
        raw(name, bytes, &format!("not_a_bundle - {check}"))
    };
    let manifest = |name: &str, text: &[u8]| {
        no(
            name,
            bundle.clone().set("jurat.json", text).tar(),
            "bundle.manifest",
        )
    };
    let json = String::from_utf8(bundle.get("jurat.json").to_vec()).unwrap();
    let mut flipped = tar.clone();
    flipped[148] ^= 1;
    vec![
        raw("trust.none", tar.clone(), "no_trust - -").trust(None),
        no("tar.empty", Vec::new(), "bundle.cut"),
        no("tar.cut_in_a_header", tar[..700].to_vec(), "bundle.cut"),
        no(
            "tar.cut_in_a_member",
            tar[..tar.len() - 1024 - 700].to_vec(),
            "bundle.cut",
        ),
        no(
            "tar.without_end",
            tar[..tar.len() - 1024].to_vec(),
            "bundle.cut",
        ),
        no("tar.checksum", flipped, "bundle.layout"),
        no(
            "tar.path_traversal",
            bundle
                .clone()
                .before("jurat.json", "../../etc/passwd", "x")
                .tar(),
            "bundle.layout",
        ),
        no(
            "tar.path_in_a_known_name",
            bundle.with_header("checkpoint", 0, b"../checkpoint\0"),
            "bundle.layout",
        ),
        no(
            "tar.path_by_prefix",
            bundle.with_header("checkpoint", 345, b"/etc"),
            "bundle.layout",
        ),
        no(
            "tar.link",
            bundle.with_header("README.md", 156, b"2"),
            "bundle.layout",
        ),
        no(
            "tar.long_name",
            bundle.with_header("jurat.json", 156, b"L"),
            "bundle.layout",
        ),
        no(
            "tar.size_in_base_256",
            bundle.with_header("README.md", 124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 19]),
            "bundle.layout",
        ),
        no(
            "tar.size_no_octal",
            bundle.with_header("README.md", 124, b"0000000008\0"),
            "bundle.layout",
        ),
        no(
            "tar.bomb",
            bundle.with_header("records/000000", 124, b"77777777777\0"),
            "bundle.limit",
        ),
        no(
            "tar.bomb_of_a_text",
            bundle.clone().set("README.md", vec![b' '; 131_073]).tar(),
            "bundle.limit",
        ),
        no(
            "tar.policy_inside",
            bundle
                .clone()
                .before("hashes/000000", "trust.txt", trust("x"))
                .tar(),
            "bundle.layout",
        ),
        no(
            "tar.policy_at_the_end",
            {
                let mut more = bundle.clone();
                more.members
                    .push(("trust.txt".into(), trust("x").into_bytes()));
                more.tar()
            },
            "bundle.layout",
        ),
        no(
            "tar.without_readme",
            bundle.clone().without("README.md").tar(),
            "bundle.layout",
        ),
        no(
            "tar.without_records",
            bundle.clone().without("records/000000").tar(),
            "bundle.layout",
        ),
        no(
            "tar.prefix_without_range",
            bundle
                .clone()
                .before("hashes/000000", "prefix", vec![0; 32])
                .tar(),
            "bundle.layout",
        ),
        no(
            "tar.receipt_before_later",
            bundle
                .clone()
                .before("hashes/000000", "receipt", "x")
                .later("x")
                .tar(),
            "bundle.layout",
        ),
        no(
            "tar.hashes",
            bundle
                .clone()
                .edit("hashes/000000", |hashes| hashes.push(0))
                .tar(),
            "bundle.hashes",
        ),
        manifest(
            "manifest.version_1",
            json.replace("\"v\":2", "\"v\":1").as_bytes(),
        ),
        manifest(
            "manifest.field_more",
            json.replace("\"v\":2", "\"v\":2,\"trust\":\"me\"")
                .as_bytes(),
        ),
        manifest(
            "manifest.field_twice",
            json.replace("\"v\":2", "\"v\":2,\"v\":2").as_bytes(),
        ),
        manifest(
            "manifest.array",
            format!("[\"jurat-bundle\",2,\"{ORIGIN}\",0,5]").as_bytes(),
        ),
        manifest(
            "manifest.fraction",
            json.replace("\"size\":5", "\"size\":5.0").as_bytes(),
        ),
    ]
}

/// What the notes say.
fn heads() -> Vec<Case> {
    let log = good();
    let bundle = log.bundle(0);
    let under = |head: &Note| log.bundle_under(0, head);
    let no = |name: &str, text: Vec<u8>, check: &str| {
        case(
            name,
            bundle.clone().set("checkpoint", text),
            &format!("not_a_bundle - {check}"),
        )
    };
    let encoded = log.signed().encode();
    let root = encoded.lines().nth(2).unwrap().to_owned();
    let body = log.signed().text;
    let again = |text: &str| {
        sign(text, &[device(), witness(1, 60)])
            .encode()
            .into_bytes()
    };
    let mut forked = log.leaves.clone();
    forked[1].0[0] ^= 1;
    // The witness saw an older head: its line is put under this one.
    let mut stale = log.signed_by(&[device()]);
    stale
        .signatures
        .extend(good().said("t", 0).signed_by(&[witness(1, 10)]).signatures);
    let mut as_witness = log.signed_by(&[]);
    let line = KEYS.device.sign_note(&as_witness.text).unwrap();
    as_witness.signatures.push(Signature {
        key_id: KEYS.witnesses[0].verifier_key().id(),
        name: KEYS.witnesses[0].verifier_key().name.clone(),
        ..line
    });
    let far = log.signed_by(&[device(), (&KEYS.witnesses[0], 1 << 63)]);
    let mut elsewhere = log.bundle_under(
        0,
        &note(
            &KEYS.elsewhere.verifier_key().name,
            5,
            log.root(),
            &[(&KEYS.elsewhere, 0)],
        ),
    );
    elsewhere = elsewhere.manifest("origin", json!(KEYS.elsewhere.verifier_key().name));
    vec![
        no(
            "note.extension_line",
            again(&format!("{body}more\n")),
            "note.malformed",
        ),
        no(
            "note.size_with_zero",
            again(&body.replace("\n5\n", "\n05\n")),
            "note.malformed",
        ),
        no(
            "note.hash_of_31_bytes",
            again(&body.replace(&root, &root.replace(&root[40..], "AA=="))),
            "note.malformed",
        ),
        no(
            "note.without_signature",
            body.clone().into_bytes(),
            "note.malformed",
        ),
        no(
            "note.crlf",
            encoded.replace('\n', "\r\n").into_bytes(),
            "note.malformed",
        ),
        no(
            "note.not_utf8",
            [encoded.as_bytes(), b"\xff\n"].concat(),
            "note.malformed",
        ),
        no(
            "note.base64_of_two_forms",
            encoded.replace(&root, &two_forms(&root)).into_bytes(),
            "note.malformed",
        ),
        no(
            "note.lines_65",
            (encoded.clone() + &"\u{2014} a AAAAAAA=\n".repeat(62)).into_bytes(),
            "note.malformed",
        ),
        no(
            "note.size_0",
            note(ORIGIN, 0, root_of(&[]), &[device()])
                .encode()
                .into_bytes(),
            "checkpoint.empty",
        ),
        case("origin.unknown", elsewhere, "unknown_origin - -"),
        case(
            "key.unknown",
            under(&log.signed_by(&[stranger(), witness(1, 60)])),
            "unknown_key - -",
        ),
        case(
            "key.bad_signature",
            under(&spoilt(log.signed(), 0)),
            "tampered - checkpoint.signature",
        ),
        case(
            "key.bad_beside_a_good_one",
            under(&spoilt(log.signed_by(&[next(), device()]), 0)),
            "tampered - checkpoint.signature",
        )
        .trusting(&format!("log {}", KEYS.next.verifier_text())),
        case(
            "key.type_of_a_witness",
            under(&as_witness),
            "unknown_key - -",
        ),
        case(
            "manifest.origin",
            bundle
                .clone()
                .manifest("origin", json!("vectors.example/other")),
            "tampered - manifest.head",
        ),
        case(
            "manifest.size",
            bundle.clone().manifest("size", json!(4)),
            "tampered - manifest.head",
        ),
        case("manifest.range", at_the_end(), "tampered - manifest.range"),
        case(
            "prefix.length",
            two()
                .bundle(5)
                .edit("prefix", |prefix| prefix.extend([0; 32])),
            "tampered - prefix.length",
        ),
        case(
            "prefix.root",
            two().bundle(5).edit("prefix", |prefix| prefix[40] ^= 1),
            "tampered 5 head.root",
        ),
        case(
            "prefix.chain",
            two().bundle(5).edit("prefix", |prefix| prefix[3] ^= 1),
            "tampered 7 batch.chain",
        ),
        case(
            "head.malformed",
            log.clone().record(&Record::Checkpoint(b"x")).bundle(0),
            "tampered 5 head.malformed",
        ),
        case(
            "head.origin",
            log.clone()
                .noted(&sign(&body.replace(ORIGIN, "x"), &[device()]))
                .bundle(0),
            "tampered 5 head.origin",
        ),
        case(
            "head.fork",
            log.clone()
                .noted(&note(
                    ORIGIN,
                    5,
                    root_of(&forked),
                    &[device(), witness(1, 30)],
                ))
                .bundle(0),
            "tampered 5 head.root",
        ),
        case(
            "head.size",
            log.clone()
                .noted(&note(ORIGIN, 4, log.root(), &[device()]))
                .bundle(0),
            "tampered 5 head.root",
        ),
        case(
            "head.signature",
            log.clone().noted(&spoilt(log.signed(), 0)).bundle(0),
            "tampered 5 head.signature",
        ),
        case(
            "head.key",
            log.clone().head(&[stranger()]).bundle(0),
            "tampered 5 head.key",
        ),
        case(
            "head.cosignature",
            log.clone().noted(&spoilt(log.signed(), 1)).bundle(0),
            "tampered 5 head.cosignature",
        ),
        case(
            "head.order",
            log.clone()
                .head(&[device(), witness(1, 40)])
                .head(&[device(), witness(1, 39)])
                .bundle(0),
            "tampered 5 head.order",
        ),
        case(
            "cosignature.bad",
            under(&spoilt(log.signed(), 1)),
            "tampered - cosignature.signature",
        ),
        case(
            "cosignature.bad_archive",
            under(&spoilt(log.signed(), 2)),
            "tampered - cosignature.signature",
        ),
        case(
            "cosignature.one_of_two_bad",
            under(&spoilt(
                log.signed_by(&[device(), witness(1, 50), witness(1, 60)]),
                2,
            )),
            "tampered - cosignature.signature",
        ),
        case(
            "cosignature.stale",
            under(&stale),
            "tampered - cosignature.signature",
        ),
        case(
            "cosignature.time_of_64_bits",
            under(&far),
            "tampered - cosignature.signature",
        ),
        case(
            "cosignature.order",
            log.clone().head(&[device(), witness(1, 61)]).bundle(0),
            "tampered - cosignature.order",
        ),
        case("future", bundle.clone(), "future - -").now(T0 + 60 - 300),
        case("future.archive", bundle.clone(), "future - -").now(T0 + 61 - 301),
        case(
            "future.receipt",
            bundle.clone().receipt(&log.receipt()),
            "future - -",
        )
        .now(T0 + 70 - 301),
        case(
            "future.earlier_head",
            two().bundle_under(0, &two().signed_by(&[device()])),
            "future - -",
        )
        .now(T0 + 30 - 301),
    ]
}

/// A root whose last character has bits that are not used.
fn two_forms(root: &str) -> String {
    let mut text = root.to_owned();
    let last = text.as_bytes()[42];
    text.replace_range(42..43, &char::from(last + 1).to_string());
    text
}

/// A range that begins where the head ends.
fn at_the_end() -> Bundle {
    let log = good().said("t", 0);
    let bundle = log.bundle_under(5, &good().signed());
    let bundle = bundle.manifest("size", json!(5));
    bundle.without("hashes/000000").without("records/000000")
}

fn records() -> Vec<Case> {
    let log = good();
    let says =
        |name: &str, log: Log, says: &str| case(name, log.bundle(0), &format!("tampered {says}"));
    let framed = |kind: u8, body: &[u8]| {
        [&[kind], (body.len() as u32).to_le_bytes().as_slice(), body].concat()
    };
    let one = sha256(&[b"x"]).0;
    let key = |name: &str, value: Value| {
        let mut detail = Rotation::detail(KEYS.device.verifier_key(), &KEYS.next).unwrap();
        detail.insert(name.into(), value);
        good().rotated_as(detail).batch()
    };
    let message_of_another =
        Rotation::detail(KEYS.stranger.verifier_key(), &KEYS.next).unwrap()["proof"].clone();
    let back = || {
        let log = rotated().rotated(&KEYS.next, &KEYS.device).batch();
        log.head(&[next()])
    };
    vec![
        says("record.rest", log.clone().bytes(b"x"), "5 record.framing"),
        says(
            "record.type_5",
            log.clone().bytes(&framed(5, b"")),
            "5 record.framing",
        ),
        says(
            "record.too_long",
            log.clone().bytes(&[1, 1, 16, 16, 0]),
            "5 record.framing",
        ),
        says(
            "record.cut",
            log.clone().bytes(&[1, 9, 0, 0, 0, b'{']),
            "5 record.framing",
        ),
        says(
            "record.payload_without_salt",
            log.clone()
                .commits("t", 0, b"x")
                .bytes(&framed(2, &[0; 31])),
            "6 record.framing",
        ),
        says(
            "record.no_hashes",
            log.clone().bytes(&framed(4, &5_u64.to_le_bytes())),
            "5 record.framing",
        ),
        says(
            "record.half_a_hash",
            log.clone().bytes(&framed(4, &[0; 24])),
            "5 record.framing",
        ),
        case(
            "leaf.unlisted",
            log.bundle(0)
                .edit("hashes/000000", |list| list.truncate(128)),
            "tampered 4 leaf.unlisted",
        ),
        case(
            "leaf.unlisted_hash",
            log.clone()
                .hidden(3)
                .bundle(0)
                .edit("hashes/000000", |list| list.truncate(192)),
            "tampered 5 leaf.unlisted",
        ),
        says(
            "leaves.place",
            log.clone().hidden_at(6, 2),
            "5 leaves.place",
        ),
        says(
            "payload.stray",
            log.clone().payload(b"x"),
            "4 payload.stray",
        ),
        says(
            "payload.second",
            log.clone()
                .commits("t", 0, b"x")
                .payload(b"x")
                .payload(b"x"),
            "5 payload.stray",
        ),
        says(
            "payload.of_a_hash",
            log.clone().hidden(1).payload(b"x"),
            "5 payload.stray",
        ),
        case(
            "payload.in_another_part",
            payload_in_another_part(),
            "tampered 2 payload.stray",
        ),
        says(
            "payload.of_another_device",
            log.clone().commits("t", 0, b"mine").payload(b"hers"),
            "5 payload.commitment",
        ),
        says(
            "payload.wrong_salt",
            log.clone()
                .commits("t", 0, b"x")
                .bytes(&framed(2, &[&one[..], b"x"].concat())),
            "5 payload.commitment",
        ),
        says(
            "payload.erased_and_zeroed",
            {
                let log = log
                    .clone()
                    .commits("t", 0, b"secret")
                    .bytes(&framed(2, &[0; 38]));
                log.entry(
                    "payload.erased",
                    json!({ "detail": { "ranges": [[5, 6]] } }),
                )
                .batch()
            },
            "5 payload.commitment",
        ),
        says("session.gap", log.clone().said("t", 1), "5 session.gap"),
        says(
            "session.twice",
            log.clone().said("t", 0).said("t", 0),
            "6 session.gap",
        ),
        says(
            "session.after_its_end",
            log.clone().said("s", 3),
            "5 session.gap",
        ),
        says(
            "session.count",
            log.clone().said("t", 0).entry(
                "session.ended",
                json!({ "session": "t", "session_seq": 1, "detail": { "count": 1 } }),
            ),
            "6 session.count",
        ),
        says(
            "session.no_count",
            log.clone()
                .entry("session.ended", json!({ "session": "t", "session_seq": 0 })),
            "5 session.count",
        ),
        says(
            "batch.count",
            log.clone().said("t", 0).batch_with(json!({ "count": 2 })),
            "6 batch.count",
        ),
        says(
            "batch.count_as_text",
            log.clone().batch_with(json!({ "count": "0" })),
            "5 batch.count",
        ),
        says(
            "batch.chain",
            log.clone().batch_with(json!({ "chain": log.root() })),
            "5 batch.chain",
        ),
        says(
            "batch.chain_in_capitals",
            log.clone()
                .batch_with(json!({ "chain": log.chain_before(5).0.to_string().to_uppercase() })),
            "5 batch.chain",
        ),
        says(
            "rotation.proof",
            key("proof", message_of_another),
            "5 rotation",
        ),
        says(
            "rotation.from_a_stranger",
            log.clone().rotated(&KEYS.stranger, &KEYS.next),
            "5 rotation",
        ),
        says(
            "rotation.to_itself",
            log.clone().rotated(&KEYS.device, &KEYS.device),
            "5 rotation",
        ),
        says(
            "rotation.key_of_another_log",
            log.clone().rotated(&KEYS.device, &KEYS.collector),
            "5 rotation",
        ),
        says(
            "rotation.key_that_is_none",
            key("key", json!("x")),
            "5 rotation",
        ),
        says(
            "rotation.key_with_a_space",
            key("key", json!(format!(" {}", KEYS.next.verifier_text()))),
            "5 rotation",
        ),
        case(
            "rotation.back",
            back().bundle_under(0, &back().signed_by(&[next()])),
            "tampered 9 rotation",
        ),
        says(
            "rotation.second_before_the_head",
            log.clone()
                .rotated(&KEYS.device, &KEYS.next)
                .rotated(&KEYS.device, &KEYS.stranger)
                .batch(),
            "6 rotation.pending",
        ),
        case(
            "rotation.head_overtaken",
            pending().said("t", 0).hidden(2).batch().bundle(0),
            "verified",
        ),
        case(
            "rotation.old_key_goes_on",
            rotated().bundle(0),
            "tampered - checkpoint.retired",
        ),
        case(
            "rotation.behind_the_head",
            rotated()
                .bundle_under(0, &good().signed())
                .manifest("size", json!(5)),
            "tampered 5 tail",
        ),
        case(
            "rotation.twice_behind_the_head",
            twice()
                .bundle_under(0, &pending().signed())
                .manifest("size", json!(7)),
            "tampered 7 tail",
        ),
        case(
            "rotation.new_key_too_early",
            pending().bundle_under(0, &pending().signed_by(&[next()])),
            "unknown_key - -",
        ),
        case(
            "rotation.new_key_bad",
            rotated().bundle_under(0, &spoilt(rotated().signed_by(&[next()]), 0)),
            "tampered - checkpoint.signature",
        ),
        case(
            "rotation.old_key_signs_a_head",
            old_head().bundle_under(0, &old_head().signed_by(&[next()])),
            "tampered 9 head.key",
        ),
    ]
}

fn old_head() -> Log {
    rotated().head(&[device()]).said("t", 1)
}

/// The payload of leaf 2 stands in the part after it.
fn payload_in_another_part() -> Bundle {
    let log = good();
    let bundle = log.split(0, 3, &log.signed());
    let first = Log::default()
        .opened()
        .said("s", 0)
        .commits("s", 1, b"rm -rf build");
    let records = first.bundle(0).get("records/000000").to_vec();
    let moved = bundle.get("records/000000")[records.len()..].to_vec();
    let bundle = bundle.set("records/000000", records);
    // A head may stand between an entry and its payload, but not the end of a part.
    bundle.edit("records/000001", |rest| {
        *rest = [moved.as_slice(), rest].concat()
    })
}

fn entries() -> Vec<Case> {
    let log = good();
    let plain = String::from_utf8(entry_of(&log.fields("x", json!({})))).unwrap();
    let bad = |name: &str, entry: &[u8]| {
        let log = good().record(&Record::Entry(entry));
        case(
            &format!("entry.{name}"),
            log.bundle(0),
            "tampered 5 entry.malformed",
        )
    };
    let with = |name: &str, field: &str| {
        bad(
            name,
            format!("{},{field}}}", &plain[..plain.len() - 1]).as_bytes(),
        )
    };
    let levels = |field: &str, count: usize| {
        format!("\"{field}\":{}{}", "[".repeat(count), "]".repeat(count))
    };
    let zeros = "0".repeat(64);
    vec![
        bad("version_2", plain.replace("\"v\":1", "\"v\":2").as_bytes()),
        bad("space", plain.replace("{\"v\"", "{ \"v\"").as_bytes()),
        bad(
            "line_end",
            plain.replace(",\"kind\"", ",\n\"kind\"").as_bytes(),
        ),
        bad(
            "without_kind",
            plain.replace("\"kind\"", "\"kinf\"").as_bytes(),
        ),
        bad("salt_of_21", plain.replace("00005\"", "0005\"").as_bytes()),
        bad(
            "salt_padded",
            plain.replace("00005\"", "0000=\"").as_bytes(),
        ),
        bad(
            "seq_as_fraction",
            plain.replace("\"seq\":5", "\"seq\":5.0").as_bytes(),
        ),
        bad(
            "not_utf8",
            &plain
                .bytes()
                .map(|byte| if byte == b'x' { 0xff } else { byte })
                .collect::<Vec<u8>>(),
        ),
        with("field_twice", "\"kind\":\"x\""),
        with("field_twice_by_escape", "\"k\\u0069nd\":\"x\""),
        with(
            "field_twice_inside",
            "\"detail\":{\"a\":[{\"b\":1,\"b\":1}]}",
        ),
        with("field_reserved", "\"leaf_hash\":1"),
        with("session_null", "\"session\":null"),
        with(
            "session_too_long",
            &format!("\"session\":\"{}\"", "s".repeat(129)),
        ),
        with("session_run_text", "\"session_run\":\"0\""),
        with("session_seq_negative", "\"session_seq\":-0"),
        with("context_array", &format!("\"context\":[\"{zeros}\",1]")),
        with(
            "context_field_more",
            &format!("\"context\":{{\"sha256\":\"{zeros}\",\"len\":1,\"x\":1}}"),
        ),
        with(
            "raw_in_capitals",
            &format!("\"raw\":{{\"sha256\":\"A{}\",\"len\":1}}", &zeros[1..]),
        ),
        with(
            "fields_257",
            &format!(
                "\"x\":{{{}}}",
                (0..257)
                    .map(|n| format!("\"{n}\":0"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
        with("levels_128", &levels("x", 127)),
        with("levels_128_in_detail", &levels("detail", 127)),
        with("surrogate", "\"x\":\"\\ud83d\""),
        with("number_too_large", "\"x\":1e309"),
        with("not_a_number", "\"x\":NaN"),
        with("too_long", &format!("\"x\":\"{}\"", "x".repeat(16_384))),
        case(
            "entry.levels_127",
            good()
                .record(&Record::Entry(
                    format!("{},{}}}", &plain[..plain.len() - 1], levels("detail", 126)).as_bytes(),
                ))
                .bundle(0),
            "verified",
        ),
        case(
            "entry.seq",
            log.clone().entry("x", json!({ "seq": 6 })).bundle(0),
            "tampered 5 entry.seq",
        ),
        case(
            "entry.opening",
            Log::default()
                .entry("log.opened", json!({ "detail": { "origin": LOG_OF_LOGS } }))
                .batch()
                .bundle(0),
            "tampered 0 entry.opening",
        ),
        case(
            "entry.opening_kind",
            Log::default().said("s", 0).bundle(0),
            "tampered 0 entry.opening",
        ),
    ]
}

/// Leaves that are not those of the signed head.
fn places() -> Vec<Case> {
    let log = good();
    let bundle = log.bundle(0);
    let short = Log::default().opened().said("s", 0);
    let four = short
        .clone()
        .commits("s", 1, b"rm -rf build")
        .payload(b"rm -rf build")
        .ended("s", 2);
    let says =
        |name: &str, bundle: Bundle, says: &str| case(name, bundle, &format!("tampered {says}"));
    // The leaves 1 and 2 stand where the other should.
    let swapped = {
        let records = bundle.get("records/000000");
        let part = |log: &Log| log.bundle(0).get("records/000000").len();
        let (one, two) = (part(&Log::default().opened()), part(&short));
        let three = part(
            &short
                .clone()
                .commits("s", 1, b"rm -rf build")
                .payload(b"rm -rf build"),
        );
        [
            &records[..one],
            &records[two..three],
            &records[one..two],
            &records[three..],
        ]
        .concat()
    };
    let swapped_list = |list: &mut Vec<u8>| list.rotate_left(32);
    let seen = |size: u64, root: Digest| format!("seen {ORIGIN} {size} {root}");
    let other_root = sha256(&[b"x"]);
    vec![
        says(
            "tail.cut",
            bundle
                .clone()
                .set("records/000000", four.bundle(0).get("records/000000")),
            "4 tail",
        ),
        says(
            "tail.cut_with_its_hash",
            four.bundle_under(0, &log.signed())
                .manifest("size", json!(5)),
            "4 tail",
        ),
        says(
            "tail.longer",
            log.clone()
                .said("t", 0)
                .bundle_under(0, &log.signed())
                .manifest("size", json!(5)),
            "5 tail",
        ),
        says(
            "leaf.changed",
            bundle
                .clone()
                .replace("records/000000", "tool.call", "tool.cull"),
            "1 leaf.changed",
        ),
        says(
            "leaf.unreadable",
            bundle
                .clone()
                .replace("records/000000", "\"seq\":1", "\"seq\":x"),
            "1 leaf.changed",
        ),
        says(
            "leaf.swapped",
            bundle.clone().set("records/000000", swapped),
            "1 leaf.changed",
        ),
        says(
            "leaf.hash_changed",
            log.clone()
                .hidden(2)
                .bundle(0)
                .edit("records/000000", |records| {
                    *records.last_mut().unwrap() ^= 1;
                }),
            "6 leaf.changed",
        ),
        says(
            "root",
            {
                let other = Log::default().opened().said("x", 0);
                let other = other
                    .commits("x", 1, b"rm -rf build")
                    .payload(b"rm -rf build");
                other.ended("x", 2).batch().bundle_under(0, &log.signed())
            },
            "- root",
        ),
        says(
            "leaf.list",
            bundle.clone().edit("hashes/000000", swapped_list),
            "- leaf.list",
        ),
        says(
            "leaf.list_longer",
            bundle
                .clone()
                .edit("hashes/000000", |list| list.extend([0; 32])),
            "- leaf.list",
        ),
        says("seen.fork", two().bundle(0), "- seen.root").trusting(&seen(5, other_root)),
        says("seen.fork_of_the_head", two().bundle(5), "- seen.root")
            .trusting(&seen(8, other_root)),
        says("seen.fork_of_the_prefix", two().bundle(5), "- seen.root")
            .trusting(&seen(5, other_root)),
        case("seen.behind", bundle.clone(), "behind - -").trusting(&seen(8, two().root())),
        case(
            "seen.behind_later",
            bundle.clone().later(log.later(3, ORIGIN, &[device()])),
            "behind - -",
        )
        .trusting(&format!("quorum 1\n{}", seen(9, other_root))),
        case(
            "seen.later_of_the_key_alone",
            bundle.clone().later(log.later(3, ORIGIN, &[device()])),
            "behind - -",
        )
        .trusting(&format!("quorum 1\n{}", seen(7, other_root))),
        says(
            "seen.later_fork",
            bundle.clone().later(log.later(3, ORIGIN, &[device()])),
            "- seen.root",
        )
        .trusting(&seen(8, other_root)),
        case(
            "seen.before_a_range_that_nobody_saw",
            two().bundle(5),
            "behind - -",
        )
        .trusting(&seen(2, other_root)),
    ]
}

/// The later head, the receipt, and what the trust file asks for.
fn others() -> Vec<Case> {
    let log = good();
    let bundle = log.bundle(0);
    let later = |name: &str, bytes: Vec<u8>| {
        let check = name.split('_').next().unwrap().to_owned();
        case(
            name,
            bundle.clone().later(bytes),
            &format!("tampered - {check}"),
        )
    };
    let signers = [device(), witness(2, 99)];
    let proof = log.later(3, ORIGIN, &signers);
    let smaller = note(ORIGIN, 4, root_of(&log.leaves[..4]), &signers);
    let bad = |lines: usize| {
        later_of(
            &[],
            &spoilt(log.signed_by(&[device(), witness(2, 99)]), lines),
        )
    };
    let receipt = log.receipt();
    let collector: By = (&KEYS.collector, 0);
    let text = receipt.encode();
    let receipt_text = |name: &str, text: String, check: &str| {
        case(
            name,
            bundle.clone().before("hashes/000000", "receipt", text),
            &format!("tampered - receipt.{check}"),
        )
    };
    let of = |name: &str, field: &str, value: Value| {
        let mut fields = log.accepted(2);
        match field {
            "seq" | "kind" => fields[field] = value,
            field => fields["detail"][field] = value,
        }
        let receipt = receipt_of(entry_of(&fields), LOG_OF_LOGS, &[collector]);
        case(
            name,
            bundle.clone().receipt(&receipt),
            "tampered - receipt.head",
        )
    };
    let device_key = KEYS.device.verifier_text();
    let mut other_origin = receipt.clone();
    other_origin.note = note(
        ORIGIN,
        5,
        Checkpoint::parse(&receipt.note.text).unwrap().root,
        &[collector],
    );
    let mut bad_receipt = receipt.clone();
    bad_receipt.note = spoilt(receipt.note.clone(), 0);
    let mut bad_witness = receipt.clone();
    bad_witness.note = spoilt(receipt.note.clone(), 1);
    let mut short_path = receipt.clone();
    short_path.proof.pop();
    vec![
        later("later.malformed", b"x".to_vec()),
        later(
            "later.malformed_hash",
            [b"AAAA\n".as_slice(), &proof].concat(),
        ),
        later(
            "later.malformed_65",
            later_of(&[sha256(&[]); 65], &log.signed()),
        ),
        later(
            "later.origin",
            log.later(3, "vectors.example/other", &signers),
        ),
        later("later.size", later_of(&[], &smaller)),
        later("later.signature", bad(0)),
        later("later.signature_of_a_witness", bad(1)),
        later(
            "later.consistency",
            later_of(&[], &note(ORIGIN, 8, log.root(), &signers)),
        ),
        later(
            "later.consistency_fork",
            later_of(&[], &note(ORIGIN, 5, sha256(&[b"x"]), &signers)),
        ),
        receipt_text("receipt.malformed", text.replace("@v1", "@v2"), "malformed"),
        receipt_text(
            "receipt.index_beyond",
            text.replace("index 2", "index 5"),
            "malformed",
        ),
        receipt_text(
            "receipt.index_with_zero",
            text.replace("index 2", "index 02"),
            "malformed",
        ),
        receipt_text(
            "receipt.entry",
            {
                let entry = b"{\"v\":1}".to_vec();
                receipt_of(entry, LOG_OF_LOGS, &[collector]).encode()
            },
            "malformed",
        ),
        receipt_text(
            "receipt.malformed_of_a_stranger",
            receipt_of(b"{}".to_vec(), LOG_OF_LOGS, &[stranger()]).encode(),
            "malformed",
        ),
        receipt_text("receipt.origin", other_origin.encode(), "origin"),
        receipt_text("receipt.signature", bad_receipt.encode(), "signature"),
        receipt_text(
            "receipt.signature_of_a_witness",
            bad_witness.encode(),
            "signature",
        ),
        of("receipt.head", "root", json!(sha256(&[b"x"]))),
        of("receipt.head_of_another_size", "size", json!(4)),
        of("receipt.head_of_another_log", "origin", json!(LOG_OF_LOGS)),
        of("receipt.head_at_another_place", "seq", json!(1)),
        of(
            "receipt.head_of_another_kind",
            "kind",
            json!("device.enrolled"),
        ),
        receipt_text("receipt.inclusion", short_path.encode(), "inclusion"),
        case("revoked", bundle.clone(), "revoked - -").trusting(&format!("revoked {device_key} 9")),
        case(
            "revoked.gives_no_word",
            rotated().bundle_under(0, &rotated().signed_by(&[next(), witness(1, 60)])),
            "revoked - -",
        )
        .trusting(&format!("revoked {device_key} 9")),
        case(
            "revoked.accepted_too_late",
            bundle.clone().receipt(&receipt),
            "revoked - -",
        )
        .trusting(&format!("revoked {device_key} 2")),
        case("quorum", bundle.clone(), "quorum - -").trusting("quorum 2"),
        case("quorum.group", bundle.clone(), "quorum - -")
            .trusting("group both all w1 w2\nquorum both"),
        case(
            "quorum.outside",
            bundle.clone().receipt(&receipt),
            "quorum - -",
        )
        .trusting("outside w1"),
        case("quorum.outside_without_receipt", bundle, "quorum - -").trusting("outside 1"),
    ]
}

/// Trust files that must be refused, with the line.
pub(super) fn refused() -> Vec<(String, String, usize)> {
    let good = trust(&KEYS.device.verifier_text());
    let line = good.lines().count() + 1;
    let device = KEYS.device.verifier_text();
    let [w1, _, w3] = &KEYS.witnesses;
    let (w1, w3) = (w1.verifier_text(), w3.verifier_text());
    let store = KEYS.archive.verifier_text();
    let weak = |mut key: [u8; 32], high: u8| {
        key[31] |= high;
        let blob = [&[1], key.as_slice()].concat();
        let id = sha256(&[b"x\n", &blob]).0;
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD.encode(blob);
        format!(
            "x+{:08x}+{base64}",
            u32::from_be_bytes([id[0], id[1], id[2], id[3]])
        )
    };
    let mut above_p = [0xff; 32];
    (above_p[0], above_p[31]) = (0xee, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    let statements = [
        ("word", "believe me".to_owned()),
        ("log-without-key", "log".into()),
        ("log-not-a-key", "log x".into()),
        ("log-two-keys", format!("log {device} {device}")),
        ("log-key-of-a-witness", format!("log {w3}")),
        (
            "log-key-id",
            format!("log {}", device.replacen('+', "+0", 1)),
        ),
        ("log-key-small-order", format!("log {}", weak(one, 0))),
        (
            "log-key-small-order-negative",
            format!("log {}", weak(one, 0x80)),
        ),
        ("log-key-order-4", format!("log {}", weak([0; 32], 0))),
        ("log-key-not-canonical", format!("log {}", weak(above_p, 0))),
        ("witness-key-of-a-log", format!("witness w3 {device}")),
        ("witness-name-twice", format!("witness w1 {w3}")),
        ("witness-key-twice", format!("witness w3 {w1}")),
        ("witness-called-none", format!("witness none {w3}")),
        ("witness-called-2", format!("witness 2 {w3}")),
        ("archive-name-twice", format!("archive store {w3}")),
        ("archive-key-twice", format!("archive two {store}")),
        ("group-unknown-member", "group g any w9".into()),
        ("group-of-itself", "group g any g".into()),
        ("group-empty", "group g all".into()),
        ("group-0", "group g 0 w1".into()),
        ("group-too-many", "group g 3 w1 w2".into()),
        ("group-member-twice", "group g 1 w1 w1".into()),
        ("group-name-of-a-witness", "group w1 any w2".into()),
        ("quorum-0", "quorum 0".into()),
        ("quorum-03", "quorum 01".into()),
        ("quorum-too-many", "quorum 3".into()),
        ("quorum-unknown", "quorum w9".into()),
        ("quorum-of-an-archive", "quorum store".into()),
        ("outside-too-many", "outside 3".into()),
        (
            "collector-twice",
            format!("collector {}", KEYS.collector.verifier_text()),
        ),
        ("same-host-unknown", "same-host w9".into()),
        ("same-host-of-an-archive", "same-host store".into()),
        ("seen-size-0", format!("seen {ORIGIN} 0 {}", "0".repeat(64))),
        ("seen-root", format!("seen {ORIGIN} 5 {}", "A".repeat(64))),
        ("revoked-without-leaf", format!("revoked {device}")),
        ("revoked-negative", format!("revoked {device} -1")),
        ("revoked-plus", format!("revoked {device} +1")),
    ];
    let one_more =
        |(name, statement): (&str, String)| (name.to_owned(), format!("{good}{statement}\n"), line);
    let mut files: Vec<_> = statements.into_iter().map(one_more).collect();
    files.push((
        "quorum-twice".into(),
        format!("{good}quorum 1\nquorum 1\n"),
        line + 1,
    ));
    files.push((
        "outside-twice".into(),
        format!("{good}outside 1 # one\n\noutside none\n"),
        line + 2,
    ));
    files
}
