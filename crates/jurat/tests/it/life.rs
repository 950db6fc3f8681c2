//! The life of a device, as its owner and the collector's operator see it on the command line.

use std::fs;
use std::io::BufReader;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::Host;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{
    BundleReader, Checkpoint, Digest, Note, Record, RecordReader, Reveal, Signer as _, VerifierKey,
    leaf_hash, parse_entries, root_of, sha256,
};
use serde_json::{Value, json};

use crate::fleet::{Fleet, wait_for};

/// Pauses that a test can wait for.
const QUICK: &str =
    "[seal]\nbatch_s = 1\nscan_s = 1\n[delivery]\nretry_ms = 50\nretry_max_ms = 200";

fn prompt(session: &str, text: &str) -> String {
    let message = json!({ "role": "user", "content": text });
    let line = json!({ "type": "user", "sessionId": session, "message": message });
    line.to_string() + "\n"
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

impl Fleet {
    fn collector(&self) -> String {
        self.path("collector").to_str().unwrap().to_owned()
    }

    /// What a command says that succeeds.
    fn says(&self, args: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.jurat(args);
        assert!(status.success(), "{args:?}: {}", text(stderr));
        text(stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[args, &["--json"]].concat())).unwrap()
    }

    /// A command that does nothing, exits with 1 and says why.
    fn refuses(&self, args: &[&str], why: &str) {
        let out = self.jurat(args);
        let said = text(out.stderr);
        assert!(said.contains(why), "{args:?}: {said}");
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert_eq!(text(out.stdout), "", "{args:?}");
    }

    /// Waits until this many leaves are with the collector, and no head is that it does not have.
    fn wait_for_delivery(&self, leaves: u64) {
        wait_for("delivery", || {
            let status = self.status();
            status["delivered"].as_u64() >= Some(leaves) && status["delivered"] == status["size"]
        });
    }

    /// Exports from the collector, and judges it by the trust of the enrolment.
    fn verdict(&self, name: &str, of: &[&str]) -> Value {
        let (bundle, collector) = (self.path(name), self.collector());
        let bundle = bundle.to_str().unwrap();
        let export = ["export", "-o", bundle, "--collector", &collector];
        self.says(&[&export, of].concat());
        let trust = self.path("device/trust.txt");
        self.json(&["verify", bundle, "--trust", trust.to_str().unwrap()])
    }

    /// The payloads in a bundle, one after the other.
    fn payloads(&self, name: &str) -> String {
        let file = fs::File::open(self.path(name)).unwrap();
        let (mut reader, _) = BundleReader::open(BufReader::new(file)).unwrap();
        let mut out = Vec::new();
        while let Some(part) = reader.next_part().unwrap() {
            for record in RecordReader::new(&part.records) {
                if let Record::Payload { bytes, .. } = record.unwrap() {
                    out.extend_from_slice(bytes);
                }
            }
        }
        text(out)
    }

    /// The verifier key in the `log` line of the trust file: the first one of this log.
    fn first_key(&self) -> String {
        let trust = fs::read_to_string(self.path("device/trust.txt")).unwrap();
        let mut lines = trust.lines();
        let line = lines.find_map(|line| line.strip_prefix("log "));
        line.unwrap().to_owned()
    }

    /// Exports statements in both formats, and checks that this key, and no other, signed them.
    fn assert_stated_by(&self, name: &str, session: &str, key: &str) {
        let held = ["log.key", "log.next.key"].map(|file| {
            let seed = Secret::load(&Host::real(), &self.path("device/keys").join(file)).ok()?;
            let name = VerifierKey::parse(key).unwrap().name;
            let held = SoftwareKey::log(&seed, &name).unwrap();
            (held.verifier_text() == key).then_some(held)
        });
        let key = held.into_iter().flatten().next().unwrap();
        let public = jurat_statement::public_key_pem(&key.verifier_key().key);
        for (flag, what) in [("--cose", "0"), ("--dsse", session)] {
            let statement = self.path(&format!("{name}{flag}"));
            let pem = self.path(&format!("{name}{flag}.pem"));
            let (out, file) = (statement.to_str().unwrap(), pem.to_str().unwrap());
            self.says(&["export", flag, what, "-o", out, "--public-key", file]);
            assert_eq!(fs::read_to_string(pem).unwrap(), public, "{name}");
        }
        let envelope = fs::read(self.path(&format!("{name}--dsse"))).unwrap();
        let envelope: Value = serde_json::from_slice(&envelope).unwrap();
        let field = |value: &Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let payload = field(&envelope["payload"]);
        let kind = envelope["payloadType"].as_str().unwrap();
        let front = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        // Ed25519: one signature for one message.
        let signature = key.sign(&[front.as_bytes(), &payload].concat()).unwrap();
        assert_eq!(
            field(&envelope["signatures"][0]["sig"]),
            signature,
            "{name}"
        );
    }
}

fn revoke<'a>(id: &'a str, dir: &'a str) -> [&'a str; 7] {
    let why = "stolen";
    ["devices", "revoke", id, "--reason", why, "--collector", dir]
}

#[test]
fn a_revoked_device_uploads_nothing_more_and_its_status_says_why() {
    let mut fleet = Fleet::start(QUICK);
    fleet.append("p/a.jsonl", &prompt("s1", "one"));
    fleet.start_run();
    fleet.wait_for_delivery(5);
    let dir = fleet.collector();
    let at = ["--collector", dir.as_str()];
    let list = fleet.json(&[&["devices"], &at[..]].concat());
    let id = list[0]["device"].as_str().unwrap();
    assert_eq!(list[0]["epochs"][0]["standing"][0]["state"], "active");
    let shown = fleet.says(&[&["devices"], &at[..]].concat());
    assert!(shown.contains(id) && shown.contains("active"), "{shown}");
    fleet.refuses(&revoke("nobody", &dir), "no device nobody");
    let done = fleet.json(&revoke(&id[..8], &dir));

    fleet.append("p/a.jsonl", &prompt("s1", "two"));
    wait_for("the refusal", || {
        let status = fleet.status();
        let problem = status["problem"].as_str().unwrap_or_default();
        status["records_sealed"] == 2 && problem.contains("revoked")
    });
    let status = fleet.jurat(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let said = text(status.stdout);
    assert!(
        said.contains("problem") && said.contains("revoked"),
        "{said}"
    );

    // The same from the folder of a collector that does not run.
    let show = [&["devices", "show", id], &at[..]].concat();
    let running = fleet.json(&show);
    fleet.kill_serve();
    let stopped = fleet.json(&show);
    assert_eq!(stopped["epochs"][0]["size"], running["epochs"][0]["size"]);
    let status = fleet.status();
    assert!(status["size"].as_u64() > stopped["epochs"][0]["size"].as_u64());
    assert_eq!(fleet.json(&revoke(id, &dir)), done, "it is revoked once");
    let shown = fleet.says(&[&["devices"], &at[..]].concat());
    let leaf = &done["leaf"];
    assert!(
        shown.contains(&format!("REVOKED at leaf {leaf}: stolen")),
        "{shown}"
    );
}

#[test]
fn a_key_rotated_under_a_running_endpoint_is_in_the_history_and_signs_from_then_on() {
    let mut fleet = Fleet::start(QUICK);
    fleet.append("p/a.jsonl", &prompt("s1", "one"));
    fleet.start_run();
    fleet.wait_for_delivery(5);
    let first = fleet.first_key();
    fleet.assert_stated_by("first", "s1", &first);

    // The collector is away: the rotation is sealed and waits, and so does the old key.
    fleet.kill_serve();
    let rotated = fleet.json(&["rotate-key"]);
    let second = rotated["key"].as_str().unwrap();
    let next = fleet.path("device/keys/log.next.key");
    assert!(next.exists());
    fleet.assert_stated_by("sealed", "s1", second);
    fleet.refuses(&["rotate-key"], "under way");
    fleet.start_serve();
    wait_for("the old key is gone", || !next.exists());
    // Whether the new key has signed a head by now or not.
    fleet.assert_stated_by("delivered", "s1", second);
    let held = fleet.status()["size"].as_u64().unwrap();
    fleet.append("p/a.jsonl", &prompt("s1", "two"));
    fleet.wait_for_delivery(held + 2);
    fleet.assert_stated_by("signs", "s1", second);
    let third = fleet.json(&["rotate-key"]);
    fleet.kill_run();
    fleet.run_once();

    let verdict = fleet.verdict("rotated.jurat", &[]);
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    let keys = verdict["keys"].as_array().unwrap();
    let found: Vec<_> = keys.iter().map(|span| span["key"].as_str()).collect();
    assert_eq!(found, [Some(&*first), Some(second), third["key"].as_str()]);
    let from: Vec<_> = keys.iter().map(|span| &span["from"]).collect();
    assert_eq!(from, [&json!(0), &rotated["size"], &third["size"]]);
    let (bundle, trust) = (fleet.path("rotated.jurat"), fleet.path("device/trust.txt"));
    let trust = trust.to_str().unwrap();
    let said = fleet.says(&["verify", bundle.to_str().unwrap(), "--trust", trust]);
    assert!(said.contains("3; changed at leaf"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_state_folder_that_was_set_back_goes_on_in_the_next_epoch_and_both_logs_verify() {
    let fleet = Fleet::start("");
    let copy = |from: &str, to: &str| {
        let mut copy = Command::new("cp");
        let copy = copy.arg("-Rp").args([fleet.path(from), fleet.path(to)]);
        assert!(copy.status().unwrap().success());
    };
    fleet.append("p/a.jsonl", &prompt("s1", "one"));
    fleet.run_once();
    copy("device", "backup");
    fleet.append("p/a.jsonl", &prompt("s1", "two"));
    fleet.run_once();
    fs::remove_dir_all(fleet.path("device")).unwrap();
    copy("backup", "device");
    fleet.refuses(&["run", "--once"], "jurat enroll URL --again");
    let url = format!("https://localhost:{}", fleet.port);
    let token = fleet.path("collector/enroll.token");
    let enrol = ["enroll", &url, "--token-file", token.to_str().unwrap()];
    fleet.refuses(&enrol, "--again");
    let before = fleet.status()["origin"].as_str().unwrap().to_owned();
    let said = fleet.says(&[&enrol[..], &["--again"]].concat());
    assert!(said.contains(&format!("goes on from {before}")), "{said}");
    fleet.append("p/a.jsonl", &prompt("s1", "three"));
    fleet.run_once();

    let now = fleet.status()["origin"].as_str().unwrap().to_owned();
    assert_eq!(now, before.strip_suffix('0').unwrap().to_owned() + "1");
    for (name, origin, prompts) in [("before", &before, 2), ("now", &now, 2)] {
        let verdict = fleet.verdict(name, &["--device", origin]);
        assert_eq!(verdict["verdict"], "verified", "{name}: {verdict}");
        assert_eq!(verdict["complete"], true, "{name}: {verdict}");
        assert_eq!(verdict["origin"], **origin);
        // The second one is in both: the copy did not know that it had been read.
        assert_eq!(verdict["events"]["prompt.submitted"], prompts, "{name}");
    }
    let opened = fleet.says(&["log", "--json", "--kind", "log.opened"]);
    let opened: Value = serde_json::from_str(&opened).unwrap();
    assert_eq!(opened["detail"]["predecessor"]["origin"], *before);
    let device = before.split('/').nth(2).unwrap();
    let show = ["devices", "show", device, "--collector"];
    let shown = fleet.says(&[&show[..], &[&fleet.collector()]].concat());
    assert!(shown.contains("closed by epoch 1"), "{shown}");
}

#[cfg(unix)]
#[test]
fn after_enrolling_again_an_earlier_log_is_read_only_when_it_is_named_and_never_by_mistake() {
    let fleet = Fleet::start("");
    fleet.append("p/a.jsonl", &prompt("s1", "apricot"));
    fleet.run_once();
    let before = fleet.status()["origin"].as_str().unwrap().to_owned();
    let url = format!("https://localhost:{}", fleet.port);
    let token = fleet.path("collector/enroll.token");
    let token = ["--token-file", token.to_str().unwrap(), "--again"];
    fleet.says(&[&["enroll", &url], &token[..]].concat());
    fleet.append("p/a.jsonl", &prompt("s1", "quince"));
    fleet.run_once();
    // The leaf of the one prompt in each of the logs.
    let leaf = |epoch: &[&str]| {
        let asked = ["log", "--json", "--kind", "prompt.submitted"];
        let entry: Value = serde_json::from_str(&fleet.says(&[&asked, epoch].concat())).unwrap();
        entry["seq"].to_string()
    };
    let reveal = |leaf: &str, epoch: &[&str]| {
        let said = fleet.says(&[&["reveal", leaf], epoch].concat());
        text(Reveal::parse(said.as_bytes()).unwrap().bytes)
    };
    let (then, now) = (leaf(&["--epoch", "0"]), leaf(&[]));
    assert!(reveal(&now, &[]).contains("quince"));
    assert!(reveal(&then, &["--epoch", "0"]).contains("apricot"));
    fleet.refuses(&["reveal", "0", "--epoch", "7"], "no epoch 7");

    let (bundle, trust) = (fleet.path("then.jurat"), fleet.path("device/trust.txt"));
    let (bundle, trust) = (bundle.to_str().unwrap(), trust.to_str().unwrap());
    let export = ["export", "--epoch", "0", "--session", "s", "-o", bundle];
    fleet.says(&export);
    let verdict = fleet.json(&["verify", bundle, "--trust", trust]);
    assert_eq!(verdict["origin"], *before, "{verdict}");
    assert!(fleet.payloads("then.jurat").contains("apricot"));
    let nowhere = fleet.path("nowhere.jurat");
    let export = ["export", "--epoch", "7", "-o", nowhere.to_str().unwrap()];
    fleet.refuses(&export, "epoch 7");
    assert!(!nowhere.exists());
    // At the collector a device's id is its newest log, and it is said which.
    let device = before.split('/').nth(2).unwrap();
    let dir = fleet.collector();
    let newest = fleet.path("newest.jurat");
    let export = ["export", "--collector", &dir, "--device", device, "-o"];
    let said = fleet.says(&[&export[..], &[newest.to_str().unwrap()]].concat());
    let origin = fleet.status()["origin"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("of {origin} in ")), "{said}");

    // An erasure here says what it does not reach, whether it finds something or not.
    let ledger = fleet.path("device/ledger");
    for asked in [["--seq", &*now], ["--session", "nobody"]] {
        let erase = [&["erase", "--reason", "asked for"], &asked[..]].concat();
        let said = text(fleet.jurat(&erase).stderr);
        for word in ["epoch 0", &before, ledger.to_str().unwrap()] {
            assert!(said.contains(word), "{said}");
        }
    }
    fleet.refuses(&["reveal", &now], "not here any more");
    // What it says to do is sound: the newest log needs nothing of the folder.
    fs::remove_dir_all(&ledger).unwrap();
    fleet.append("p/a.jsonl", &prompt("s1", "medlar"));
    fleet.run_once();
    let verdict = fleet.verdict("now.jurat", &["--device", device]);
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    assert_eq!(verdict["origin"], *origin);
    let erase = ["erase", "--reason", "asked for", "--session", "s1"];
    assert_eq!(text(fleet.jurat(&erase).stderr), "");
}

#[test]
fn run_once_ends_with_an_error_when_the_collector_refuses_the_device_or_is_away() {
    let mut fleet = Fleet::start(QUICK);
    fleet.append("p/a.jsonl", &prompt("s1", "one"));
    fleet.run_once();
    assert_eq!(fleet.status()["state"], "stopped");
    let gives_up = |fleet: &Fleet, args: &[&str], words: &[&str]| {
        let out = fleet.jurat(&[&["run", "--once"], args].concat());
        let said = text(out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        for word in [&["leaves wait in the ledger"], words].concat() {
            assert!(said.contains(word), "{said}");
        }
    };
    fleet.kill_serve();
    fleet.append("p/a.jsonl", &prompt("s1", "two"));
    gives_up(&fleet, &["--wait", "1"], &["did not answer"]);
    // What waited is delivered by the next one.
    fleet.start_serve();
    fleet.run_once();
    assert_eq!(fleet.status()["queue"]["len"], 0);
    let dir = fleet.collector();
    let id = fleet.json(&["devices", "--collector", &dir])[0]["device"].clone();
    fleet.says(&revoke(id.as_str().unwrap(), &dir));
    fleet.append("p/a.jsonl", &prompt("s1", "three"));
    gives_up(&fleet, &[], &["revoked"]);
}

#[test]
fn what_is_erased_on_device_and_archive_is_in_no_bundle_and_no_tile_and_the_root_stays() {
    let mut fleet = Fleet::start("");
    // No entry names it: its digest stands there.
    let long = "s".repeat(200);
    fleet.append(
        "p/a.jsonl",
        &(prompt("s1", "apricot") + &prompt("s2", "pear")),
    );
    fleet.append("p/b.jsonl", &prompt(&long, "quince"));
    fleet.run_once();
    let origin = fleet.status()["origin"].as_str().unwrap().to_owned();
    let device = origin.split('/').nth(2).unwrap();
    let dir = fleet.collector();
    let here = [
        "erase",
        "--reason",
        "asked for",
        "--session",
        "s1",
        "--session",
        &long,
    ];
    let there = [&here[..], &["--collector", &dir, "--device", device]].concat();
    let erased = fleet.json(&here);
    assert_eq!(erased["count"], 2, "{erased}");
    let log = fleet.says(&["log", "--json", "--context"]);
    let holds = |text: &str| ["apricot", "pear", "quince"].map(|fruit| text.contains(fruit));
    assert_eq!(holds(&log), [false, true, false]);
    // The leaf that says so is delivered; what the archive holds is the operator's.
    fleet.run_once();
    let verdict = fleet.verdict("archived", &[]);
    assert_eq!(holds(&fleet.payloads("archived")), [true; 3], "{verdict}");
    // The collector goes on meanwhile, and in its folder the same is found done.
    let erased = fleet.json(&there);
    assert_eq!(erased["count"], 2, "{erased}");
    assert_eq!(erased["leaves"].as_array().unwrap().len(), 1, "{erased}");
    fleet.kill_serve();
    assert_eq!(fleet.json(&there)["gone_before"], 2, "asked for again");
    fleet.start_serve();

    let after = fleet.verdict("erased", &[]);
    assert_eq!(after["verdict"], "verified", "{after}");
    assert_eq!(after["payloads"]["erased"], 2, "{after}");
    assert_eq!(
        (&after["size"], &after["root"]),
        (&verdict["size"], &verdict["root"])
    );
    assert_eq!(holds(&fleet.payloads("erased")), [false, true, false]);

    let read = |name: &str| fleet.read_tile(&origin, name);
    let note = Note::parse(&read("checkpoint")).unwrap();
    let key = VerifierKey::parse(&fleet.first_key()).unwrap();
    assert_eq!(note.is_signed_by(&key), Ok(true));
    let head = Checkpoint::parse(&note.text).unwrap();
    assert_eq!(after["root"], head.root.to_string());
    let width = u16::try_from(head.size).unwrap();
    let entries = read(&format!("tile/entries/000.p/{width}"));
    let hashes: Vec<Digest> = parse_entries(&entries, width)
        .unwrap()
        .into_iter()
        .map(leaf_hash)
        .collect();
    assert_eq!(root_of(&hashes), head.root);
    let tile = read(&format!("tile/0/000.p/{width}"));
    assert_eq!(
        tile,
        hashes.iter().flat_map(|hash| hash.0).collect::<Vec<_>>()
    );
    assert_eq!(holds(&String::from_utf8_lossy(&entries)), [false; 3]);
}

impl Fleet {
    /// A file of a log's tiles, over HTTPS with the token for reading.
    fn read_tile(&self, origin: &str, name: &str) -> Vec<u8> {
        let ca = fs::read(self.path("collector/ca.pem")).unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(jurat_key::tls::client(Some(&ca)).unwrap())
            .https_only(true)
            .build()
            .unwrap();
        let log = sha256(&[origin.as_bytes()]);
        let url = format!("https://localhost:{}/logs/{log}/{name}", self.port);
        let token = fs::read_to_string(self.path("collector/read.token")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut found = Vec::new();
        // The hashes are laid out after a start.
        wait_for(name, || {
            let asked = client.get(&url).bearer_auth(token.trim()).send();
            let answer = runtime.block_on(asked).unwrap();
            let is_there = answer.status() == 200;
            found = runtime.block_on(answer.bytes()).unwrap().to_vec();
            is_there
        });
        found
    }
}
