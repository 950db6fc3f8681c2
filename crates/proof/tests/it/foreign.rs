//! Foreign vectors: found through `JURAT_SHARED`, skipped by name without it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::{
    Checkpoint, Digest, Frontier, Note, Prover, Signature, Tile, TilePath, Tiles, VerifierKey,
    leaf_hash, parse_entries, sha256, verify_consistency, verify_inclusion,
};
use serde::Deserialize;

fn vectors(folder: &str) -> Option<PathBuf> {
    jurat_testkit::need::shared(&format!("foreign vectors {folder}"))
        .map(|shared| shared.join("vectors").join(folder))
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out)
        } else {
            out.push(path)
        }
    }
}

fn hash(text: &str) -> Option<Digest> {
    Digest::from_slice(&BASE64.decode(text).ok()?)
}

fn hashes(list: Option<Vec<String>>) -> Option<Vec<Digest>> {
    list.unwrap_or_default()
        .iter()
        .map(|text| hash(text))
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inclusion {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[test]
fn inclusion_proofs_are_judged_as_transparency_dev_judges_them() {
    let Some(dir) = vectors("merkle/inclusion") else {
        return;
    };
    let mut paths = Vec::new();
    files(&dir, &mut paths);
    assert_eq!(paths.len(), 98);
    for path in paths {
        let case: Inclusion = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let good = (|| {
            let (root, leaf) = (hash(&case.root)?, hash(&case.leaf_hash)?);
            verify_inclusion(
                case.leaf_idx,
                case.tree_size,
                &leaf,
                &hashes(case.proof)?,
                &root,
            )
            .ok()
        })();
        assert_eq!(good.is_none(), case.want_err, "{}", path.display());
    }
}

#[test]
fn consistency_proofs_are_judged_as_transparency_dev_judges_them() {
    let Some(dir) = vectors("merkle/consistency") else {
        return;
    };
    let mut paths = Vec::new();
    files(&dir, &mut paths);
    assert_eq!(paths.len(), 98);
    let mut stricter = Vec::new();
    for path in paths {
        let case: Consistency = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let good = (|| {
            let (old, new) = (hash(&case.root1)?, hash(&case.root2)?);
            verify_consistency(case.size1, case.size2, &old, &new, &hashes(case.proof)?).ok()
        })();
        if good.is_none() && !case.want_err {
            stricter.push((case.size1, case.size2));
        } else {
            assert_eq!(good.is_none(), case.want_err, "{}", path.display());
        }
    }
    // Two cases where we are stricter: a proof from the empty tree proves nothing, and a root that
    // is not 32 bytes is not a root.
    assert!(
        stricter
            .iter()
            .all(|sizes| [(0, 0), (1, 1)].contains(sizes)),
        "{stricter:?}"
    );
    assert!(stricter.len() <= 2, "{stricter:?}");
}

#[test]
fn a_foreign_log_gives_its_sixteen_signed_roots() {
    let Some(dir) = vectors("tessera-log") else {
        return;
    };
    let key = VerifierKey::parse(
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
    )
    .unwrap();
    for size in 0..=15_u64 {
        let note = Note::parse(&fs::read(dir.join(format!("checkpoint.{size}"))).unwrap()).unwrap();
        assert_eq!(note.is_signed_by(&key), Ok(true), "{size}");
        let checkpoint = Checkpoint::parse(&note.text).unwrap();
        let mut frontier = Frontier::default();
        if let Some(tile) = Tile::in_tree(0, 0, size) {
            let path = TilePath::Entries(tile).to_string();
            let bundle = fs::read(dir.join(path)).unwrap();
            for entry in parse_entries(&bundle, tile.width()).unwrap() {
                frontier.push(leaf_hash(entry));
            }
        }
        let head = (checkpoint.size, checkpoint.root);
        assert_eq!(head, (frontier.size(), frontier.root()), "{size}");
        // From the tiles alone, and a proof for every leaf and every smaller tree.
        let tiles = Folder(dir.clone());
        let mut prover = Prover::new(&tiles, size);
        assert_eq!(prover.frontier().unwrap(), frontier, "{size}");
        for index in 0..size {
            let (leaf, proof) = (prover.leaf(index), prover.inclusion(index));
            let (leaf, proof) = (leaf.unwrap(), proof.unwrap());
            let holds = verify_inclusion(index, size, &leaf, &proof, &checkpoint.root);
            assert_eq!(holds, Ok(()), "{index} of {size}");
            let old = Prover::new(&tiles, index + 1).root().unwrap();
            let proof = prover.consistency(index + 1).unwrap();
            let holds = verify_consistency(index + 1, size, &old, &checkpoint.root, &proof);
            assert_eq!(holds, Ok(()), "{index} of {size}");
        }
    }
}

/// A log that others wrote, as files.
struct Folder(PathBuf);

impl Tiles for Folder {
    type Error = std::io::Error;

    fn read(&self, tile: Tile) -> std::io::Result<Vec<Digest>> {
        let bytes = fs::read(self.0.join(TilePath::Hashes(tile).to_string()))?;
        let (hashes, _) = bytes.as_chunks();
        Ok(hashes.iter().copied().map(Digest).collect())
    }
}

#[derive(Deserialize)]
struct EdgeCase {
    key: String,
    sig: String,
    msg: String,
    flags: Option<Vec<String>>,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// Our accept set on the 914 signatures on which verifiers disagree: canonical keys that are not
/// of small order, judged by aws-lc-rs. Pinned, because a change would mean that evidence accepted
/// yesterday is refused tomorrow, or the other way round.
#[test]
fn the_accept_set_of_ed25519_edge_cases_is_pinned() {
    let Some(dir) = vectors("ed25519") else {
        return;
    };
    let cases: Vec<EdgeCase> =
        serde_json::from_slice(&fs::read(dir.join("ed25519vectors.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 914);
    let mut accepted: BTreeMap<String, usize> = BTreeMap::new();
    let mut which = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let flags = case.flags.clone().unwrap_or_default();
        let Ok(key) = VerifierKey::ed25519("log", hex(&case.key).try_into().unwrap()) else {
            continue;
        };
        assert!(
            !flags
                .iter()
                .any(|flag| flag == "low_order_A" || flag == "non_canonical_A"),
            "{flags:?}"
        );
        let signature = Signature {
            name: key.name.clone(),
            key_id: key.id(),
            bytes: hex(&case.sig),
        };
        let note = Note {
            text: case.msg.clone(),
            signatures: vec![signature],
        };
        if note.is_signed_by(&key) == Ok(true) {
            *accepted.entry(flags.join(" ")).or_default() += 1;
            writeln!(which, "{number}").unwrap();
        }
    }
    // What docs/formats/checkpoint.md states, and the very cases: their numbers, one a line.
    let stated = [
        ("", 1),
        ("low_order_R", 1),
        ("low_order_R low_order_component_A", 7),
        (
            "low_order_R low_order_component_R low_order_component_A",
            35,
        ),
        ("low_order_component_A", 7),
        ("low_order_component_R low_order_component_A", 35),
    ];
    let stated = stated.map(|(flags, count)| (flags.to_owned(), count));
    assert_eq!(accepted, BTreeMap::from(stated));
    assert_eq!(
        sha256(&[&which]).to_string(),
        "289aac2e1628bb730d5bc660ce2d4b2cfa885dd6b0388bcc140c693541b2f848"
    );
}
