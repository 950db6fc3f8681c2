//! Writes the seeds of every corpus anew, after a format changed: `cargo run -p jurat-fuzz --example seed`.
//! Made from `samples/` and from nothing else.
#![allow(clippy::unwrap_used, reason = "a tool that cannot go on ends")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Disk, FixedClock, Host, Mode};
use jurat_event::{Event, Kind};
use jurat_fuzz::{ACCEPTED, ORIGIN, Piece, SINK, lines_of, log_key, p256_key};
use jurat_key::tls::{self, Authority};
use jurat_key::{HeldKey, P256Key, Secret, SoftwareKey, der_signature};
use jurat_ledger::{Options, Reader};
use jurat_proof::{
    Checkpoint, Cosignature, ForkProof, Note, Receipt, Record, RecordReader, Selection,
    Signer as _, Withhold, consistency_proof, leaf_hash, push_entry, root_of, write_record,
};
use jurat_redact::{Mode as Redact, Redactor};
use jurat_seal::{Sealer, Settings, export};
use jurat_sink::line::Audit;
use jurat_sink::{Take, read_batch};
use jurat_testkit::ima::{measured, old, violated};
use jurat_testkit::{Repeatable, SimDisk};
use jurat_witness::Request;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let dir = root().join("corpus").join(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
}

fn cosigner(name: &str, seed: u8) -> SoftwareKey {
    SoftwareKey::cosigner(&Secret::from_bytes([seed; 32]), name).unwrap()
}

/// The lines of one recorded session.
fn lines() -> Vec<Vec<u8>> {
    let path = "../samples/claude-code/projects/-home-dev-demo-a/afb043a1-c677-435f-b680-e63ed4655bbe.jsonl";
    let text = fs::read(root().join(path)).unwrap();
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn main() {
    let (witness, archive) = (cosigner("w", 6), cosigner("a", 7));
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new("/l");
    let host = Host {
        disk: shared.clone(),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(1)),
    };
    let settings = Settings {
        origin: ORIGIN.into(),
        boot: "b".repeat(32),
        reveal_key: [3; 32],
        opening: serde_json::Map::new(),
        beginning: Vec::new(),
        policy: "p".into(),
        ledger: Options::default(),
    };
    let mut redactor = Redactor::new(Redact::Redact, &[1; 32], &[]).unwrap();
    let mut sealer =
        Sealer::open(host, dir, settings, &[Arc::new(log_key())], &mut |_, _| {}).unwrap();
    for line in lines().iter().take(3) {
        let mut event = Event::new(Kind::PromptSubmitted);
        event.session = Some("s".into());
        event.context = Some(line.clone());
        sealer.push(redactor.redact(event), None).unwrap();
        sealer
            .seal_batch(serde_json::Map::new(), b"", &mut Vec::new)
            .unwrap();
    }
    let head = Checkpoint {
        origin: ORIGIN.into(),
        size: sealer.head().size,
        root: sealer.head().root,
    };
    let mut note = head.sign(&log_key()).unwrap();
    seed("note", "signed", note.encode());
    for key in [&witness, &archive] {
        let cosignature = Cosignature::sign(key, 1_790_000_001, &note.text).unwrap();
        note.signatures.push(cosignature);
    }
    seed("note", "cosigned", note.encode());
    seed("note", "text", &note.text);
    seed("note", "key", log_key().verifier_key().to_string());
    seed("note", "cosigner", witness.verifier_key().to_string());
    seed("note", "p256-key", p256_key().verifier_key().to_string());
    seed(
        "note",
        "p256-signed",
        head.sign(&p256_key()).unwrap().encode(),
    );
    sealer.keep_cosigned(&note.encode()).unwrap();
    sealer.commit(b"", &mut Vec::new).unwrap();

    witnessed(&note, &witness_policy(&witness));
    let trust = format!(
        "log {}\nwitness w {}\narchive a {}\nsame-host w\nquorum 1 # one is enough\n",
        log_key().verifier_key(),
        witness.verifier_key(),
        archive.verifier_key()
    );
    seed("trust", "enrolled", &trust);
    let mut bundle = format!("{trust}\0").into_bytes();
    export(
        shared.clone(),
        dir,
        &Selection::All,
        &Withhold::default(),
        jurat_seal::Enrolled::default(),
        &mut bundle,
    )
    .unwrap();
    seed("bundle", "verified", &bundle);
    // What this log of three batches does not have.
    for name in [
        "payload.erased",
        "quorum.groups",
        "range.later_receipt",
        "rotation",
        "seen",
        "session",
    ] {
        let dir = root().join("../vectors/v2").join(name);
        let read = |file: &str| fs::read(dir.join(file)).unwrap();
        let bytes = [read("trust.txt"), vec![0], read("bundle.jurat")].concat();
        seed("bundle", name, bytes);
    }

    let mut reader = Reader::open(shared, dir, 0).unwrap();
    let batch = read_batch(&mut reader, 0, Take::Many).unwrap().unwrap();
    seed("upload", "sent", &batch.body);
    let raw = zstd::stream::decode_all(batch.body.as_slice()).unwrap();
    seed("upload", "records", [&[1], raw.as_slice()].concat());
    seed("records", "log", &raw);
    siem(&raw);

    let file = disk
        .open(Path::new("/l/0000000000000000.jl"), Mode::Read)
        .unwrap();
    let mut segment = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut segment, 0).unwrap();
    seed("ledger", "segment", [&[0], segment.as_slice()].concat());
    receipt();
    pieces();
    texts();
    measurements();
    peers(&note);
    signer();
    certificate();
    relp();
}

fn witness_policy(witness: &SoftwareKey) -> String {
    let other = cosigner("other.example/w", 8);
    format!(
        "# two of two\nlog {}\nwitness a {} https://w.example/\nwitness b {}\ngroup both all a b\nquorum both\n",
        log_key().verifier_key(),
        witness.verifier_key(),
        other.verifier_key()
    )
}

/// What a witness is sent, what it keeps of a log that forks, and a quorum policy.
fn witnessed(head: &Note, policy: &str) {
    seed("policy", "both", policy);
    let leaf = |number: u64, other: u64| {
        leaf_hash(&(number + u64::from(number >= other) * 99).to_le_bytes())
    };
    let leaves =
        |count: u64, other: u64| -> Vec<_> { (0..count).map(|at| leaf(at, other)).collect() };
    let note = |leaves: &[_]| {
        let head = Checkpoint {
            origin: ORIGIN.into(),
            size: leaves.len() as u64,
            root: root_of(leaves),
        };
        head.sign(&log_key()).unwrap()
    };
    let (small, grown, other) = (leaves(7, 99), leaves(12, 99), leaves(12, 3));
    let proof = consistency_proof(&grown, 7).unwrap();
    let other_proof = consistency_proof(&other, 7).unwrap();
    seed("witness", "first", Request::encode(0, &[], head));
    seed("witness", "small", Request::encode(0, &[], &note(&small)));
    seed(
        "witness",
        "grown",
        Request::encode(7, &proof, &note(&grown)),
    );
    seed(
        "witness",
        "forked",
        Request::encode(7, &other_proof, &note(&other)),
    );
    let equal = ForkProof::find(&note(&small), &note(&other[..7]), &[]).unwrap();
    let linked = ForkProof::find(&note(&small), &note(&other), &other_proof).unwrap();
    seed("fork", "equal", equal.encode());
    seed("fork", "linked", linked.encode());
}

/// The only leaf of a collector's log, proven.
fn receipt() {
    let leaf = leaf_hash(ACCEPTED);
    let head = Checkpoint {
        origin: ORIGIN.into(),
        size: 1,
        root: leaf,
    };
    let receipt = Receipt {
        entry: ACCEPTED.to_vec(),
        index: 0,
        proof: Vec::new(),
        note: head.sign(&log_key()).unwrap(),
    };
    seed("receipt", "only", receipt.encode());
}

fn siem(raw: &[u8]) {
    let mut hashes = 0_u64.to_le_bytes().to_vec();
    for (seq, record) in RecordReader::new(raw).flatten().enumerate() {
        if let Record::Entry(entry) = record {
            seed("entry", &format!("{seq}"), entry);
            hashes.extend_from_slice(&leaf_hash(entry).0);
        }
    }
    // The hashes of leaves whose entries stay behind.
    let mut withheld = vec![4];
    withheld.extend_from_slice(&(hashes.len() as u32).to_le_bytes());
    withheld.extend_from_slice(&hashes);
    seed("records", "withheld", &withheld);
    let last = RecordReader::new(raw).flatten().last();
    write_record(&mut withheld, &last.unwrap());
    seed("upload", "withheld", [&[1], withheld.as_slice()].concat());
    seed("siem", "file", lines_of(SINK, &mut Audit::default()));
}

fn pieces() {
    let piece = |kind, flags, body: &[u8]| Piece {
        kind,
        flags,
        body: body.to_vec(),
    };
    let good = [
        piece(251, 0, b"first"),
        piece(255, 0, b""),
        piece(1, 0, b"one"),
        piece(250, 0, b"state"),
        piece(255, 0, b""),
        piece(2, 1, b"erased"),
        piece(255, 0, b""),
    ];
    let mut out = vec![1];
    good.iter().for_each(|piece| piece.encode(&mut out));
    seed("ledger", "pieces", out);
    seed("ledger", "changed", [2, 200, 0, 1, 9, 1, 128]);
    seed("ledger", "cut", [2, 0, 2]);
}

fn measurements() {
    let lines = [
        measured(&[1; 32], "boot_aggregate", None),
        measured(&[2; 32], "/usr/bin/sh", Some(b"\x03\x02\x04signed")),
        violated("/var/log/wtmp"),
        old(&[3; 20], "/usr/bin/env"),
    ];
    for (name, line) in ["ng", "sig", "violation", "old"].iter().zip(&lines) {
        seed("ima", name, &line.bytes);
    }
    seed("ima", "list", lines.map(|line| line.bytes).concat());
}

fn texts() {
    for (number, line) in lines().iter().enumerate() {
        // One of each kind of line; the long ones say nothing new.
        if line.len() < 4_000 && number % 3 == 0 {
            seed("transcript", &format!("{number}"), line);
            seed("redact", &format!("{number}"), line);
        }
    }
    seed(
        "redact",
        "text",
        "export AWS_SECRET_ACCESS_KEY=abcdEFGHijklMNOPqrstUVWXyz0123456789ABCD\n\
         curl -H 'Authorization: Bearer abcdefghijklmnopqrstuvwxyz012345' https://u:p4ssw0rdX@h/\n\
         -----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",
    );
    seed(
        "redact",
        "escaped",
        r#"{"password":"hunter2hunter2","a":["\u0067hp_aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2"]}"#,
    );
    seed(
        "settings",
        "endpoint",
        "state_dir = \"/s\"\n[[source]]\nname = \"c\"\ndir = \"/c\"\npatterns = [\"**/*.jsonl\"]\n\
         [filter]\nignore_types = [\"progress\"]\ndrop_meta = true\n[redact]\nmode = \"custody\"\n\
         personal = [\"email\"]\n[seal]\nbatch_events = 10\nbatch_s = 1\nheartbeat_s = 5\nscan_s = 1\n\
         [ledger]\nbytes_max = 1000000\n",
    );
    seed(
        "settings",
        "collector",
        "listen = \"127.0.0.1:8443\"\ndir = \"/d\"\ndomain = \"example.org\"\ncertificate = \"c\"\n\
         key = \"k\"\ntoken_file = \"t\"\nsiem_file = \"s\"\nnext_upload_s = 5\npublic_logs = true\n",
    );
    let digest = "ab".repeat(32);
    seed(
        "machine_policy",
        "states",
        format!(
            "[[accepted]]\nname = \"laptop\"\ndevices = [\"d\"]\nsecure_boot = true\nboot_loaders = [\"{digest}\"]\n\
             boot_log = {{ origin = \"o\", leaf = 7 }}\n[accepted.pcrs.sha256]\n0 = \"{digest}\"\n14 = \"{digest}\"\n\n\
             [[accepted]]\nname = \"any\"\nsecure_boot = false\n"
        ),
    );
    for (name, path) in [
        ("whole", "tile/0/x001/x234/067"),
        ("part", "tile/2/000.p/17"),
        ("entries", "tile/entries/x001/000.p/255"),
        ("checkpoint", "checkpoint"),
    ] {
        seed("tile", name, path);
    }
    let mut bundle = vec![2];
    for entry in [&b"{\"v\":1}"[..], b""] {
        push_entry(&mut bundle, entry).unwrap();
    }
    seed("tile", "bundle", bundle);
}

fn peers(note: &Note) {
    let body = serde_json::json!({ "size": 7, "note": note.encode(), "next_upload_s": 2 });
    seed("answer", "accepted", format!("200 \n{body}"));
    let body = serde_json::json!({ "size": 7, "root": "0".repeat(64), "note": note.encode() });
    seed("answer", "frontier", format!("200 \n{body}"));
    let body = r#"{"code":"size_conflict","message":"m","size":7}"#;
    seed("answer", "conflict", format!("409 \n{body}"));
    seed("answer", "busy", "429 30\n");
    seed("answer", "proxy", "502 \n<html>bad gateway</html>");
    let body = serde_json::json!({
        "origin": ORIGIN, "token": "t", "hmac_key": "h", "fingerprint_key": "f", "witness": "w", "archive": "a", "log": "l",
    });
    seed("answer", "enrolled", format!("200 \n{body}"));
    let key = "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=";
    let body = serde_json::json!({
        "device": "11111111-2222-4333-8444-555555555555", "key": key, "key_kind": "software", "hostname": "h",
    });
    seed("enrolment", "sent", body.to_string());
    let body = serde_json::json!({
        "device": "d", "origin": ORIGIN, "url": "https://h", "ca": null, "witness": "w", "archive": "a", "log": "l",
    });
    seed("enrolment", "kept", body.to_string());
    let request = jurat_proof::Request {
        method: "POST",
        path: "/v1/batches",
        device: "d",
        encoding: "zstd",
        timestamp: 1_790_000_000,
        nonce: "0123456789abcdef",
        body: b"body",
    };
    let header = request.sign(&[9; 32]);
    seed(
        "request",
        "signed",
        format!("1790000000 0123456789abcdef zstd {header}\nbody"),
    );
}

fn certificate() {
    let disk = SimDisk::new();
    let host = Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(1)),
    };
    let key: Arc<dyn HeldKey> = Arc::new(P256Key::new(&Secret::from_bytes([5; 32])).unwrap());
    let device = "11111111-2222-4333-8444-555555555555";
    seed(
        "certificate",
        "request",
        tls::request(&key, device).unwrap(),
    );
    disk.create_dir_all(Path::new("/k")).unwrap();
    let authority = Authority::load_or_create(&host, Path::new("/k"), "example.org").unwrap();
    let chain = authority
        .issue(&host, device, key.point(), 604_800)
        .unwrap();
    seed("certificate", "chain", chain + authority.pem());
    seed(
        "certificate",
        "pin",
        "sha256/BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
    );
    seed("certificate", "place", "external:sh /etc/jurat/signer.sh");
}

fn relp() {
    seed(
        "relp",
        "answers",
        "1 rsp 15 200 OK\nrelp_version=0\n2 rsp 6 200 OK\n0 serverclose 0\n",
    );
    seed("relp", "destination", "syslog+tcp://[::1]:601");
}

fn signer() {
    let point = BASE64.encode(p256_key().verifier_key().key.bytes());
    seed("signer", "hello", format!("jurat-signer/v1 {point}"));
    let signature = BASE64.encode(der_signature(&[1; 32], &[0x81; 32]));
    seed("signer", "ok", format!("ok {signature}"));
    seed("signer", "error", "error \u{1b}[31mno credit\u{202e}\r");
}
