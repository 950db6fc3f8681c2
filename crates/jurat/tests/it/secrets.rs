//! A secret of every rule, planted wherever an agent may write one, and looked for in every byte that
//! leaves the agent's own files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aho_corasick::AhoCorasick;
use jurat_disk::Host;
use jurat_key::tls;
use jurat_ledger::Reader;
use jurat_redact::{Mode, Redactor, Rules};
use jurat_testkit::{Answer, Peer};
use serde_json::{Value, json};

use crate::fleet::{Fleet, shown};
use crate::template::{Draw, expand};

/// A text with a secret in it, and the part that must be found nowhere.
struct Planted {
    kind: String,
    text: String,
    secret: String,
}

/// What a template's longest placeholder became. The rest of the text is no secret.
fn longest_drawn(template: &str, text: &str) -> String {
    let mut rest = text;
    let mut longest = "";
    for (number, part) in template.split('{').enumerate() {
        let literal = if number == 0 {
            part
        } else {
            part.split_once('}').map_or("", |(_, literal)| literal)
        };
        let end = if number == 0 { 0 } else { rest.len() };
        let at = (!literal.is_empty()).then(|| rest.find(literal)).flatten();
        let (drawn, tail) = rest.split_at(at.unwrap_or(end));
        if drawn.len() > longest.len() {
            longest = drawn;
        }
        rest = tail.strip_prefix(literal).unwrap_or(tail);
    }
    longest.to_owned()
}

fn planted() -> Vec<Planted> {
    let rules = Rules::builtin(&[]).unwrap();
    let mut redactor = Redactor::new(Mode::Redact, &[1; 32], &[]).unwrap();
    let mut draw = Draw::new(3);
    let mut all = Vec::new();
    for rule in rules.rules() {
        for template in &rule.example {
            // A drawn secret may be below its rule's entropy by chance: then another one is drawn.
            let found = (0..20).find_map(|_| {
                let text = expand(template, &mut draw);
                redactor.text(&text).map(|_| text)
            });
            let text = found.unwrap_or_else(|| panic!("{}: {template}", rule.kind));
            let secret = longest_drawn(template, &text);
            if secret.len() >= 8 {
                let kind = rule.kind.clone();
                all.push(Planted { kind, text, secret });
            }
        }
    }
    all
}

/// What an agent would write around a text: each place is one that a record may have it in.
fn records(number: usize, text: &str) -> Vec<String> {
    let session = "afb043a1-c677-435f-b680-e63ed4655bbe";
    let record = |fields: Value| {
        let mut record =
            json!({ "type": "user", "sessionId": session, "cwd": "/w", "version": "2.1.0" });
        for (name, value) in fields.as_object().unwrap() {
            record[name] = value.clone();
        }
        record.to_string()
    };
    let tool =
        json!({ "type": "tool_use", "id": "t", "name": "Bash", "input": { "command": text } });
    let result = json!({ "type": "tool_result", "tool_use_id": "t", "content": text });
    let all = [
        record(json!({ "message": { "content": format!("use {text} please") } })),
        record(json!({ "type": "assistant", "message": { "id": "m", "content": [tool] } })),
        record(json!({ "message": { "content": [result] }, "toolUseResult": { "stdout": text } })),
        record(json!({ "gitBranch": text, "cwd": text })),
        record(json!({ "tomorrow": { "nested": [[text]] } })),
        json!({ "display": text, "timestamp": 1, "project": "/w" }).to_string(),
        // Not JSON, and JSON that was cut off.
        format!("debug: {}", text.replace(['\n', '\r'], " ")),
        format!("{{\"type\":\"user\",\"cut\":{}", Value::from(text)),
    ];
    // Two places each, so that every place has many kinds.
    let len = all.len();
    let wanted = [number % len, (number / len + number + 1) % len];
    all.into_iter()
        .enumerate()
        .filter(|(place, _)| wanted.contains(place))
        .map(|(_, line)| line)
        .collect()
}

/// Everything that was searched, by name.
struct Search {
    finder: AhoCorasick,
    planted: Vec<Planted>,
    /// Bytes searched.
    places: BTreeMap<String, usize>,
    found: Vec<String>,
}

impl Search {
    fn bytes(&mut self, place: &str, bytes: &[u8]) {
        *self.places.entry(place.to_owned()).or_default() += bytes.len();
        for hit in self.finder.find_overlapping_iter(bytes) {
            let planted = &self.planted[hit.pattern().as_usize()];
            let around = hit.start().saturating_sub(60)..(hit.end() + 20).min(bytes.len());
            let around = String::from_utf8_lossy(&bytes[around]).into_owned();
            self.found
                .push(format!("{place}: a {}: {around:?}", planted.kind));
        }
    }

    fn files(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.files(&path);
            } else {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                self.bytes(&format!("file {name}"), &fs::read(&path).unwrap());
            }
        }
    }
}

#[test]
fn a_secret_of_every_rule_is_nowhere_outside_of_the_agents_own_files() {
    let mut fleet = Fleet::start("");
    fleet.kill_serve();
    fleet.serve_flags = vec!["--debug", "--debug"];
    fleet.start_serve();
    let server = tls::server(
        &fleet.path("collector/server.pem"),
        &fleet.path("collector/server.key"),
        tls::Ask::Nobody,
    );
    let ca = fs::read(fleet.path("collector/ca.pem")).unwrap();
    let client = shown(&fleet.path("device"), &ca);
    let address = ([127, 0, 0, 1], fleet.port).into();
    let peer = Peer::start(
        server.unwrap().config,
        client,
        address,
        Box::new(|_| Answer::Pass),
    )
    .unwrap();
    let enrolment = fleet.path("device/enrolment.json");
    let text = fs::read_to_string(&enrolment).unwrap();
    let through_peer = text.replace(
        &format!("localhost:{}", fleet.port),
        &format!("localhost:{}", peer.port()),
    );
    assert_ne!(text, through_peer);
    fs::write(&enrolment, through_peer).unwrap();

    let planted = planted();
    assert!(planted.len() > 300, "{}", planted.len());
    let mut written = 0;
    for (number, planted) in planted.iter().enumerate() {
        for line in records(number, &planted.text) {
            assert!(!line.contains('\n'));
            fleet.append(&format!("p/{}.jsonl", number % 5), &format!("{line}\n"));
            written += 1;
        }
    }
    // A line that is read in pieces, with secrets all over it.
    let every: Vec<&str> = planted.iter().map(|planted| &*planted.text).collect();
    let filler = " lorem ipsum dolor sit amet".repeat(600) + " ";
    let long = json!({ "type": "user", "message": { "content": every.join(&filler) } }).to_string();
    assert!(long.len() > 5 * 1024 * 1024, "{}", long.len());
    fleet.append("p/long.jsonl", &format!("{long}\n"));
    written += 1;

    let ran = fleet.jurat(&["--debug", "--debug", "run", "--once"]);
    assert!(ran.status.success());
    let status = fleet.status();
    assert_eq!(status["lines_in"], written);
    assert_eq!(status["records_sealed"], written);
    assert_eq!(
        (&status["withheld"], &status["dead_letters"]),
        (&0.into(), &0.into())
    );
    fleet.wait_for_siem(status["size"].as_u64().unwrap());
    let verdict = fleet.verify("case.jurat");
    assert_eq!(verdict["verdict"], "verified");

    let secrets = planted.iter().map(|planted| planted.secret.as_bytes());
    let mut search = Search {
        finder: AhoCorasick::new(secrets).unwrap(),
        planted,
        places: BTreeMap::new(),
        found: Vec::new(),
    };
    for sent in peer.uploads() {
        search.bytes("heads of uploads", sent.head.as_bytes());
        let records = zstd::stream::decode_all(sent.body.as_slice()).unwrap();
        search.bytes("uploads as sent", &records);
    }
    let disk = Host::real().disk;
    let mut archive = Reader::open(disk, &fleet.path("collector/archive"), 0).unwrap();
    while let Some(item) = archive.next_record().unwrap() {
        // An upload: a header with its length before it, then zstd frames.
        if item.kind == 1 {
            let (len, rest) = item.body.split_first_chunk::<4>().unwrap();
            let (header, body) = rest.split_at(u32::from_le_bytes(*len) as usize);
            search.bytes("archived uploads", header);
            search.bytes("archived uploads", &zstd::stream::decode_all(body).unwrap());
        }
    }
    search.bytes("run, everything it says", &ran.stderr);
    search.bytes("run, its output", &ran.stdout);
    let text = |args: &[&str]| fleet.jurat(args).stdout;
    search.bytes("status", &text(&["status", "--json"]));
    search.bytes("status", &text(&["status"]));
    search.bytes("log", &text(&["log", "--json", "--context"]));
    search.bytes("dry run", &text(&["run", "--test", "--json"]));
    fleet.kill_serve();
    search.bytes(
        "serve, everything it says",
        &fs::read(fleet.path("serve.log")).unwrap(),
    );
    fs::remove_dir_all(fleet.path("agent")).unwrap();
    let root = fleet.path("");
    search.files(&root);

    // Each place was there and had something in it.
    for place in [
        "heads of uploads",
        "uploads as sent",
        "archived uploads",
        "run, everything it says",
        "serve, everything it says",
        "status",
        "log",
        "dry run",
        "file siem.jsonl",
        "file case.jurat",
        "file status.json",
    ] {
        let len = search.places.get(place).copied().unwrap_or(0);
        assert!(len > 500, "{place}: {len} bytes");
    }
    let long = search.places["uploads as sent"].min(search.places["archived uploads"]);
    assert!(long > 5 * 1024 * 1024, "{long}");
    assert!(search.found.is_empty(), "{:#?}", search.found);
}
