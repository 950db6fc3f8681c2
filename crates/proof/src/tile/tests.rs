use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::tree::{verify_consistency_by, verify_inclusion_by};
use crate::{
    consistency_proof, inclusion_proof, root_of, sha256, verify_consistency, verify_inclusion,
};

/// A log's files in memory.
struct Files(BTreeMap<String, Vec<u8>>);

impl Tiles for Files {
    type Error = String;

    fn read(&self, tile: Tile) -> Result<Vec<Digest>, String> {
        let path = TilePath::Hashes(tile).to_string();
        let bytes = self.0.get(&path).ok_or(path)?;
        Ok(bytes
            .as_chunks::<32>()
            .0
            .iter()
            .map(|hash| Digest(*hash))
            .collect())
    }
}

/// All tiles of the tree over these leaves, each hash as the specification defines it.
struct Leaves(Vec<Vec<Digest>>);

impl Leaves {
    fn new(count: usize) -> Self {
        let mut levels = vec![(0..count).map(|n| leaf_hash(&n.to_le_bytes())).collect()];
        loop {
            let below: &Vec<Digest> = levels.last().unwrap();
            let (whole, _) = below.as_chunks::<256>();
            let above: Vec<Digest> = whole.iter().map(|tile| root_of(tile)).collect();
            if above.is_empty() {
                return Self(levels);
            }
            levels.push(above);
        }
    }
}

impl Tiles for Leaves {
    type Error = Infallible;

    fn read(&self, tile: Tile) -> Result<Vec<Digest>, Infallible> {
        let first = tile.first() as usize;
        Ok(self.0[usize::from(tile.level)][first..first + usize::from(tile.width)].to_vec())
    }
}

/// A tree in which all leaves are equal but one: any size, no memory.
struct Sparse {
    at: u64,
    same: Vec<Digest>,
    other: Vec<Digest>,
}

impl Sparse {
    fn new(at: u64) -> Self {
        let (mut same, mut other) = (vec![leaf_hash(b"same")], vec![leaf_hash(b"other")]);
        for level in 0..48 {
            let (left, right) = if at >> level & 1 == 0 {
                (other[level], same[level])
            } else {
                (same[level], other[level])
            };
            other.push(node_hash(&left, &right));
            same.push(node_hash(&same[level], &same[level]));
        }
        Self { at, same, other }
    }

    fn node(&self, level: u32, place: u64) -> Digest {
        let is_other = self.at >> level == place;
        (if is_other { &self.other } else { &self.same })[level as usize]
    }

    fn root(&self, size: u64) -> Digest {
        let mut frontier = Frontier::default();
        for level in (0..48).rev().filter(|bit| size >> bit & 1 == 1) {
            frontier.push_subtree(level, self.node(level, frontier.size() >> level));
        }
        frontier.root()
    }
}

impl Tiles for Sparse {
    type Error = Infallible;

    fn read(&self, tile: Tile) -> Result<Vec<Digest>, Infallible> {
        let level = u32::from(tile.level) * HEIGHT;
        let places = tile.first()..tile.first() + u64::from(tile.width);
        Ok(places.map(|place| self.node(level, place)).collect())
    }
}

fn every_proof_of(tiles: &Leaves, roots: &[Digest], sizes: impl Iterator<Item = usize>) {
    let leaves = &tiles.0[0];
    // The same few thousand nodes again and again.
    let mut known: HashMap<[u8; 16], Digest> = HashMap::new();
    let mut hash = |left: &Digest, right: &Digest| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&left.0[..8]);
        key[8..].copy_from_slice(&right.0[..8]);
        *known.entry(key).or_insert_with(|| node_hash(left, right))
    };
    for size in sizes {
        let root = roots[size];
        let mut prover = Prover::new(tiles, size as u64);
        assert_eq!(prover.root().unwrap(), root, "{size}");
        for old in 1..=size {
            let (index, leaf) = (old - 1, &leaves[old - 1]);
            let proof = prover.inclusion(index as u64).unwrap();
            let (i, o, n) = (index as u64, old as u64, size as u64);
            let holds = verify_inclusion_by(&mut hash, i, n, leaf, &proof, &root);
            assert_eq!(holds, Ok(()), "{index} of {size}");
            let proof = prover.consistency(o).unwrap();
            let holds = verify_consistency_by(&mut hash, o, n, &roots[old], &root, &proof);
            assert_eq!(holds, Ok(()), "{old} to {size}");
        }
    }
}

#[test]
fn every_proof_of_every_tree_up_to_2000_leaves_verifies() {
    const MOST: usize = 2_000;
    let tiles = Leaves::new(MOST);
    let mut frontier = Frontier::default();
    let mut roots = vec![frontier.root()];
    for leaf in &tiles.0[0] {
        frontier.push(*leaf);
        roots.push(frontier.root());
    }
    let (tiles, roots) = (&tiles, &roots);
    std::thread::scope(|scope| {
        for first in 1..=4 {
            scope.spawn(move || every_proof_of(tiles, roots, (first..=MOST).step_by(4)));
        }
    });
}

#[test]
fn proofs_from_tiles_are_those_from_all_leaves() {
    let tiles = Leaves::new(700);
    let leaves = &tiles.0[0];
    for size in (1..=700).step_by(23).chain([255, 256, 257, 511, 512, 513]) {
        let mut prover = Prover::new(&tiles, size as u64);
        assert_eq!(prover.leaf(0).unwrap(), leaves[0]);
        for index in (0..size).step_by(7).chain([size - 1]) {
            let leaves = &leaves[..size];
            assert_eq!(
                prover.inclusion(index as u64).ok(),
                inclusion_proof(leaves, index)
            );
            assert_eq!(
                prover.consistency(index as u64 + 1).ok(),
                consistency_proof(leaves, index + 1)
            );
        }
        assert!(matches!(
            prover.inclusion(size as u64),
            Err(TileError::OutOfRange)
        ));
        for old in [0, size as u64 + 1] {
            assert!(matches!(
                prover.consistency(old),
                Err(TileError::OutOfRange)
            ));
        }
    }
    assert_eq!(Prover::new(&tiles, 0).root().unwrap(), sha256(&[]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn proofs_of_random_trees_up_to_2_to_the_40_verify(
        size in (1_u64..=1 << 40).prop_flat_map(|most| 1..=most),
        index in any::<u64>(),
        old in any::<u64>(),
    ) {
        let (index, old) = (index % size, old % size + 1);
        let tiles = Sparse::new(index);
        let (root, old_root) = (tiles.root(size), tiles.root(old));
        let mut prover = Prover::new(&tiles, size);
        prop_assert_eq!(prover.root().unwrap(), root);
        let proof = prover.inclusion(index).unwrap();
        let leaf = leaf_hash(b"other");
        prop_assert_eq!(verify_inclusion(index, size, &leaf, &proof, &root), Ok(()));
        // Two tiles a level at most.
        prop_assert!(prover.kept.len() <= 2 * 6, "{} tiles", prover.kept.len());
        let proof = prover.consistency(old).unwrap();
        prop_assert_eq!(verify_consistency(old, size, &old_root, &root, &proof), Ok(()));
    }

    #[test]
    fn a_path_has_one_form_and_means_one_tile(
        level in 0_u8..=63,
        index in prop_oneof![0_u64..2_000_000, any::<u64>()],
        width in 1_u16..=256,
    ) {
        let tile = Tile::new(level, index, width).unwrap();
        let entries = Tile::new(0, index, width).unwrap();
        for path in [TilePath::Hashes(tile), TilePath::Entries(entries)] {
            prop_assert_eq!(TilePath::parse(&path.to_string()), Some(path));
        }
    }

    #[test]
    fn what_is_read_as_a_path_is_written_as_it_was(
        text in "tile/(entries|[0-9]{1,3})(/x?[0-9]{2,4}){1,4}(\\.p/[0-9]{1,4})?",
    ) {
        if let Some(path) = TilePath::parse(&text) {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn a_bundle_is_the_entries_that_were_put_into_it_and_no_cut_or_longer_one(
        entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bundle = Vec::new();
        for entry in &entries {
            push_entry(&mut bundle, entry).unwrap();
        }
        let width = entries.len() as u16;
        prop_assert_eq!(parse_entries(&bundle, width).unwrap(), entries);
        let cut = &bundle[..cut.index(bundle.len())];
        prop_assert_eq!(parse_entries(cut, width), Err(EntryBundleError::Cut));
        bundle.push(0);
        prop_assert_eq!(parse_entries(&bundle, width), Err(EntryBundleError::Cut));
    }
}

#[test]
fn paths_are_read_strictly() {
    let hashes = |level, index, width| Tile::new(level, index, width).map(TilePath::Hashes);
    for (text, meant) in [
        ("tile/0/x001/x234/067", hashes(0, 1_234_067, 256)),
        ("tile/63/000.p/1", hashes(63, 0, 1)),
        ("tile/2/999.p/255", hashes(2, 999, 255)),
        ("checkpoint", Some(TilePath::Checkpoint)),
        (
            "tile/entries/x001/000.p/9",
            Tile::new(0, 1000, 9).map(TilePath::Entries),
        ),
    ] {
        assert_eq!(TilePath::parse(text), meant, "{text}");
        assert_eq!(meant.unwrap().to_string(), text);
    }
    for text in [
        "",
        "/checkpoint",
        "checkpoint/",
        "tile/0",
        "tile/0/",
        "tile/00/000",
        "tile/64/000",
        "tile/+1/000",
        "tile/-1/000",
        "tile//000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/000/000",
        "tile/0/x000/001",
        "tile/0/x001/x000",
        "tile/0/X001/000",
        "tile/0/x001//000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/x099/x999/x999/x999/x999/x999/999",
        "tile/entries/x1/000",
        "tile/data/000",
        "tile/0/٠٠٠",
    ] {
        assert_eq!(TilePath::parse(text), None, "{text}");
    }
}

#[test]
fn the_tree_of_70000_leaves_has_the_tiles_that_the_specification_names() {
    let widths = |level| {
        let tiles = Tile::all(70_000).filter(move |tile| tile.level == level);
        tiles.map(|tile| tile.width).collect::<Vec<_>>()
    };
    assert_eq!(widths(0).len(), 274);
    assert_eq!(widths(0).last(), Some(&112));
    assert_eq!(widths(1), [256, 17]);
    assert_eq!(widths(2), [1]);
    assert!(widths(3).is_empty());
    let of_256: Vec<_> = Tile::all(256)
        .map(|tile| (tile.level, tile.width))
        .collect();
    assert_eq!(of_256, [(0, 256), (1, 1)]);
    let part = |width| Tile::new(0, 273, width).unwrap();
    assert!(part(112).is_in(70_000) && part(1).is_in(70_000));
    assert!(!part(113).is_in(70_000) && !part(112).is_in(69_999));
    assert!(!Tile::new(7, u64::MAX, 1).unwrap().is_in(u64::MAX));
}

#[test]
fn a_written_log_has_exactly_its_tiles_and_bundles_and_proves_itself() {
    let entry = |n: usize| format!("entry {n}").into_bytes();
    let tiles = Leaves(vec![
        (0..70_000)
            .map(|n| leaf_hash(&entry(n)))
            .collect::<Vec<_>>(),
    ]);
    // The entries of these leaves are not given.
    let withheld = |n: usize| (300..302).contains(&n);
    for size in [0_usize, 1, 255, 256, 257, 600, 66_000] {
        let leaves = &tiles.0[0][..size];
        let mut files = BTreeMap::new();
        let mut writer = TileWriter::new(|path: &str, bytes: &[u8]| {
            assert!(
                files.insert(path.to_owned(), bytes.to_vec()).is_none(),
                "{path} twice"
            );
            Ok(())
        });
        for (n, leaf) in leaves.iter().enumerate() {
            if withheld(n) {
                writer.withheld(*leaf).unwrap();
            } else {
                writer.entry(&entry(n)).unwrap();
            }
        }
        let mut frontier = Frontier::default();
        frontier.extend(leaves);
        let head = Checkpoint {
            origin: "example.org/log".into(),
            size: size as u64,
            root: frontier.root(),
        };
        let note = format!("{}\n\u{2014} example.org/log AAAAAAA=\n", head.body());
        let done = writer.finish(note.as_bytes()).unwrap();
        let missing = (0..size).filter(|n| withheld(*n)).count() as u64;
        assert_eq!((done.size, done.entries_missing), (size as u64, missing));
        let mut expected = vec!["checkpoint".to_owned()];
        for tile in Tile::all(size as u64) {
            expected.push(TilePath::Hashes(tile).to_string());
            let range = tile.first() as usize..tile.first() as usize + usize::from(tile.width);
            if tile.level == 0 && !range.clone().any(withheld) {
                let path = TilePath::Entries(tile).to_string();
                let entries: Vec<_> = range.map(entry).collect();
                assert_eq!(parse_entries(&files[&path], tile.width).unwrap(), entries);
                expected.push(path);
            }
        }
        expected.sort();
        assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
        let files = Files(files);
        let mut prover = Prover::new(&files, size as u64);
        assert_eq!(prover.frontier().unwrap(), frontier);
        for index in [0, size / 2, size.saturating_sub(1)] {
            if let Ok(proof) = prover.inclusion(index as u64) {
                let leaf = &leaves[index];
                let holds = verify_inclusion(index as u64, size as u64, leaf, &proof, &head.root);
                assert_eq!(holds, Ok(()));
            }
        }
    }
}

#[test]
fn a_log_is_not_written_under_a_head_that_is_not_its_own() {
    let head = |size, root| {
        let head = Checkpoint {
            origin: "example.org/log".into(),
            size,
            root,
        };
        format!("{}\n\u{2014} example.org/log AAAAAAA=\n", head.body())
    };
    let write = |note: &str| {
        let mut writer = TileWriter::new(|_: &str, _: &[u8]| Ok(()));
        writer.entry(b"one").unwrap();
        writer.entry(b"two").unwrap();
        writer.finish(note.as_bytes())
    };
    let leaves = [leaf_hash(b"one"), leaf_hash(b"two")];
    assert!(write(&head(2, root_of(&leaves))).is_ok());
    for note in [
        head(2, root_of(&leaves[..1])),
        head(1, root_of(&leaves)),
        "no note".into(),
    ] {
        assert!(matches!(write(&note), Err(TileWriteError::Checkpoint)));
    }
}
