//! Logs as tiles over HTTP, and what code that nobody here wrote makes of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use jurat_collector::export_tiles;
use jurat_disk::RealDisk;
use jurat_proof::{
    Checkpoint, Digest, Note, Receipt, Signer as _, Tile, TilePath, VerifierKey, parse_entries,
    sha256,
};

use crate::withheld::only_hashes;
use crate::{Bench, DEVICE};
use jurat_event::header;
use jurat_proof::Request;

/// What came back: status, content type, cache control, body.
struct Got {
    status: u16,
    kind: String,
    cache: String,
    body: Vec<u8>,
}

impl Bench {
    async fn get(&self, path: &str, token: Option<&str>) -> Got {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let head = |name: &str| {
            let value = response.headers().get(name);
            value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        Got {
            status: response.status().as_u16(),
            kind: head("content-type"),
            cache: head("cache-control"),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    fn read_token(&self) -> String {
        let token = std::fs::read_to_string(self.dir.path().join("read.token")).unwrap();
        token.trim().to_owned()
    }

    fn device_log(&self) -> Digest {
        sha256(&[self.enrolled.origin.as_bytes()])
    }

    fn own_log(&self) -> (Digest, VerifierKey) {
        let key = VerifierKey::parse(&self.enrolled.log).unwrap();
        (sha256(&[key.name.as_bytes()]), key)
    }

    /// Every file of a log, fetched.
    async fn fetch(&self, log: Digest) -> BTreeMap<String, Vec<u8>> {
        let token = self.read_token();
        let mut files = BTreeMap::new();
        let get = async |path: TilePath| {
            let got = self.get(&format!("/logs/{log}/{path}"), Some(&token)).await;
            assert_eq!(got.status, 200, "{path}");
            got.body
        };
        let note = get(TilePath::Checkpoint).await;
        let size = head(&note).size;
        files.insert("checkpoint".to_owned(), note);
        for tile in Tile::all(size) {
            let path = TilePath::Hashes(tile);
            files.insert(path.to_string(), get(path).await);
            if tile.level() == 0 {
                let path = TilePath::Entries(tile);
                files.insert(path.to_string(), get(path).await);
            }
        }
        files
    }
}

fn head(note: &[u8]) -> Checkpoint {
    Checkpoint::parse(&Note::parse(note).unwrap().text).unwrap()
}

/// Waits until the own log's checkpoint covers this many leaves: it is signed once a second.
async fn wait_for_own(bench: &Bench, leaves: u64) {
    let path = format!("/logs/{}/checkpoint", bench.own_log().0);
    for _ in 0..600 {
        let got = bench.get(&path, None).await;
        if got.status == 200 && head(&got.body).size >= leaves {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no checkpoint over {leaves} leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_with_the_token_and_only_the_own_logs_hashes_without() {
    let mut bench = Bench::start().await;
    let raw = bench.log.batch(3, "a");
    bench.upload(&raw).await.unwrap();
    wait_for_own(&bench, 3).await;
    let token = bench.read_token();
    let (device, (own, key)) = (bench.device_log(), bench.own_log());
    for (log, path, open, kind) in [
        (device, "checkpoint", false, "text/plain; charset=utf-8"),
        (device, "tile/0/000.p/4", false, "application/octet-stream"),
        (
            device,
            "tile/entries/000.p/4",
            false,
            "application/octet-stream",
        ),
        (own, "checkpoint", true, "text/plain; charset=utf-8"),
        (own, "tile/0/000.p/3", true, "application/octet-stream"),
        (
            own,
            "tile/entries/000.p/3",
            false,
            "application/octet-stream",
        ),
    ] {
        let path = format!("/logs/{log}/{path}");
        for wrong in [None, Some("wrong"), Some(bench.enrolled.token.as_str())] {
            let status = if open { 200 } else { 401 };
            assert_eq!(bench.get(&path, wrong).await.status, status, "{path}");
        }
        let got = bench.get(&path, Some(&token)).await;
        assert_eq!((got.status, &*got.kind), (200, kind), "{path}");
        let cache = match (kind.starts_with("text"), open) {
            (true, _) => "no-cache",
            (false, true) => "public, max-age=31536000, immutable",
            (false, false) => "private, max-age=31536000, immutable",
        };
        assert_eq!(got.cache, cache, "{path}");
    }
    for path in [
        format!("/logs/{device}/tile/0/000"),
        format!("/logs/{device}/tile/0/000.p/5"),
        format!("/logs/{device}/tile/0/001.p/1"),
        format!("/logs/{device}/tile/1/000.p/1"),
        format!("/logs/{device}/tile/0/0"),
        format!("/logs/{device}/tile/0/000.p/04"),
        format!("/logs/{device}/checkpoint/"),
        format!("/logs/{device}/tile/data/000.p/4"),
        format!("/logs/{}/checkpoint", device.to_string().to_uppercase()),
        format!("/logs/{}/checkpoint", sha256(&[b"no log"])),
        "/logs/x/checkpoint".into(),
    ] {
        let got = bench.get(&path, Some(&token)).await;
        assert_eq!((got.status, &*got.cache), (404, ""), "{path}");
    }
    // Compressed for who asks for it.
    let path = format!("/logs/{device}/tile/entries/000.p/4");
    let plain = bench.get(&path, Some(&token)).await.body;
    let request = bench.http.get(format!("{}{path}", bench.url));
    let request = request
        .bearer_auth(&token)
        .header("accept-encoding", "gzip, zstd");
    let packed = request.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "zstd");
    let packed = packed.bytes().await.unwrap();
    assert_eq!(zstd::stream::decode_all(&packed[..]).unwrap(), plain);
    // Both checkpoints are signed, and what was served is what a folder holds.
    let note = bench.fetch(own).await.remove("checkpoint").unwrap();
    assert_eq!(Note::parse(&note).unwrap().is_signed_by(&key), Ok(true));
    let mut folder = BTreeMap::new();
    export_tiles(
        Arc::new(RealDisk),
        bench.dir.path(),
        DEVICE,
        |path, bytes| {
            folder.insert(path.to_owned(), bytes.to_vec());
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(bench.fetch(device).await, folder);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_withheld_entries_is_absent_until_they_came_late() {
    let mut bench = Bench::start().await;
    let (first, second) = (bench.log.batch(3, "a"), bench.log.batch(2, "b"));
    bench.upload(&first).await.unwrap();
    bench.upload(&only_hashes(&second, 4)).await.unwrap();
    let (token, log) = (bench.read_token(), bench.device_log());
    let path = |width: u16| format!("/logs/{log}/tile/entries/000.p/{width}");
    assert_eq!(bench.get(&path(7), Some(&token)).await.status, 404);
    assert_eq!(bench.get(&path(5), Some(&token)).await.status, 404);
    assert_eq!(bench.get(&path(4), Some(&token)).await.status, 200);
    let hashes = format!("/logs/{log}/tile/0/000.p/7");
    let before = bench.get(&hashes, Some(&token)).await.body;
    assert_eq!(before.len(), 7 * 32);
    bench.upload(&second).await.unwrap();
    let bundle = bench.get(&path(7), Some(&token)).await;
    assert_eq!(bundle.status, 200);
    let entries = parse_entries(&bundle.body, 7).unwrap();
    assert!(entries.iter().any(|entry| {
        let text = std::str::from_utf8(entry).unwrap();
        text.contains("\"object\":\"b\"")
    }));
    assert_eq!(bench.get(&hashes, Some(&token)).await.body, before);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_fetches_the_receipt_of_its_own_heads_and_of_no_other() {
    let mut bench = Bench::start().await;
    let raw = bench.log.batch(3, "a");
    bench.upload(&raw).await.unwrap();
    let root = bench.log.frontier.root();
    wait_for_own(&bench, 3).await;
    let ask = async |nonce: &str, path: &str, signed: &str| {
        let timestamp = bench.host.clock.now().unix_s();
        let request = Request {
            method: "GET",
            path: signed,
            device: DEVICE,
            encoding: "",
            timestamp,
            nonce,
            body: b"",
        };
        let response = bench
            .http
            .get(format!("{}{path}", bench.url))
            .bearer_auth(&bench.enrolled.token)
            .header(header::DEVICE, DEVICE)
            .header(header::TIMESTAMP, timestamp.to_string())
            .header(header::NONCE, nonce)
            .header(header::SIGNATURE, request.sign(&bench.key()))
            .send()
            .await
            .unwrap();
        (
            response.status().as_u16(),
            response.bytes().await.unwrap().to_vec(),
        )
    };
    let path = "/v1/receipt?size=4";
    let (status, text) = ask("0123456789abcde0", path, path).await;
    assert_eq!(status, 200);
    let receipt = Receipt::parse(&text).unwrap();
    let key = bench.own_log().1;
    receipt
        .verify(&key, &bench.enrolled.origin, 4, &root)
        .unwrap();
    // The size is part of what was signed.
    let (status, _) = ask("0123456789abcde1", path, "/v1/receipt?size=3").await;
    assert_eq!(status, 401);
    for (nonce, path, expected) in [
        ("0123456789abcde2", "/v1/receipt?size=3", 404),
        ("0123456789abcde3", "/v1/receipt?size=5", 404),
        ("0123456789abcde4", "/v1/receipt?size=x", 400),
        ("0123456789abcde5", "/v1/receipt", 400),
    ] {
        assert_eq!(ask(nonce, path, path).await.0, expected, "{path}");
    }
    bench.running.stop().await.unwrap();
}

/// Files that were fetched, as the `tlog_tiles` crate reads tiles.
struct Foreign(BTreeMap<String, Vec<u8>>);

impl tlog_tiles::TileReader for Foreign {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            // This crate names the height in its paths, as Go's checksum database does.
            let path = tile.path().replacen("tile/8/", "tile/", 1);
            let bytes = self.0.get(&path).cloned();
            bytes.ok_or(tlog_tiles::Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tlog_tiles_crate_reads_our_logs_and_proves_every_leaf() {
    let mut bench = Bench::start().await;
    for count in [100, 200, 299] {
        let raw = bench.log.batch(count, "x");
        bench.upload(&raw).await.unwrap();
    }
    wait_for_own(&bench, 5).await;
    for (log, most) in [(bench.device_log(), 602), (bench.own_log().0, 5)] {
        let files = Foreign(bench.fetch(log).await);
        let note = Note::parse(&files.0["checkpoint"]).unwrap();
        let head = tlog_tiles::Checkpoint::from_bytes(note.text.as_bytes()).unwrap();
        assert_eq!(head.size(), most);
        assert!(head.extension().is_empty());
        let (size, root) = (head.size(), *head.hash());
        let reader = tlog_tiles::TileHashReader::new(size, root, &files);
        for tile in Tile::all(size).filter(|tile| tile.level() == 0) {
            let bundle = &files.0[&TilePath::Entries(tile).to_string()];
            let entries = parse_entries(bundle, tile.width()).unwrap();
            for (index, entry) in (tile.first()..).zip(entries) {
                let leaf = tlog_tiles::record_hash(entry);
                let proof = tlog_tiles::prove_record(size, index, &reader).unwrap();
                tlog_tiles::check_record(&proof, size, root, index, leaf).unwrap();
            }
        }
        for old in (1..=size).step_by(13) {
            let before = tlog_tiles::tree_hash(old, &reader).unwrap();
            let proof = tlog_tiles::prove_tree(size, old, &reader).unwrap();
            tlog_tiles::check_tree(&proof, size, root, old, before).unwrap();
        }
    }
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn go_sumdb_and_transparency_dev_read_an_exported_folder() {
    let name = "tiles read by golang.org/x/mod and transparency-dev/formats";
    let Some(go) = jurat_testkit::need::go(name) else {
        return;
    };
    let mut bench = Bench::start().await;
    for count in [100, 199] {
        let raw = bench.log.batch(count, "x");
        bench.upload(&raw).await.unwrap();
    }
    wait_for_own(&bench, 4).await;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-tiles");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/go/tiles");
    let built = Command::new(go)
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let device_key = bench.log.key.verifier_key().to_string();
    for (name, key, leaves) in [
        (DEVICE, device_key, 301),
        ("collector", bench.enrolled.log.clone(), 4),
    ] {
        let folder = bench.dir.path().join(name).join("tiles");
        let write = |path: &str, bytes: &[u8]| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap())?;
            std::fs::write(path, bytes)
        };
        let done = export_tiles(Arc::new(RealDisk), bench.dir.path(), name, write).unwrap();
        assert_eq!((done.size, done.entries_missing), (leaves, 0));
        let judge = || {
            Command::new(&program)
                .arg(&folder)
                .arg(&key)
                .output()
                .unwrap()
        };
        let judged = judge();
        let said = String::from_utf8_lossy(&judged.stdout).into_owned();
        assert!(
            said.contains(&format!("{leaves} leaves, each included")),
            "{said}{}",
            String::from_utf8_lossy(&judged.stderr)
        );
        // The judge judges: one changed bit of a leaf's hash, and it says no.
        let tile = Tile::in_tree(0, 0, leaves).unwrap();
        let path = folder.join(TilePath::Hashes(tile).to_string());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!judge().status.success());
    }
    bench.running.stop().await.unwrap();
}
