//! The endpoint's own log as a folder of tiles.

use std::collections::BTreeMap;

use jurat_disk::Disk;
use jurat_proof::{EntryView, Tile, TilePath, leaf_hash, parse_entries};
use jurat_seal::{ExportError, export_tiles};

use super::*;

#[test]
fn the_ledger_as_tiles_is_the_log_that_was_signed() {
    let disk = SimDisk::new();
    let signed = Arc::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let unsigned = open(&disk, &signed).unwrap();
    let export = |files: &mut BTreeMap<String, Vec<u8>>| {
        export_tiles(shared.clone(), Path::new("/l"), |path, bytes| {
            files.insert(path.to_owned(), bytes.to_vec());
            Ok(())
        })
    };
    let none = export(&mut BTreeMap::new());
    assert!(matches!(none, Err(ExportError::Unsigned)));
    drop(unsigned);
    work(&disk, &signed).unwrap();
    let mut files = BTreeMap::new();
    let done = export(&mut files).unwrap();
    let note = Note::parse(&files["checkpoint"]).unwrap();
    assert_eq!(note.is_signed_by(key().verifier_key()), Ok(true));
    let head = Checkpoint::parse(&note.text).unwrap();
    assert_eq!((done.size, done.entries_missing), (head.size, 0));
    let mut frontier = jurat_proof::Frontier::default();
    for tile in Tile::all(head.size).filter(|tile| tile.level() == 0) {
        let bundle = &files[&TilePath::Entries(tile).to_string()];
        for entry in parse_entries(bundle, tile.width()).unwrap() {
            assert_eq!(EntryView::parse(entry).unwrap().seq, frontier.size());
            frontier.push(leaf_hash(entry));
        }
    }
    assert_eq!((frontier.size(), frontier.root()), (head.size, head.root));
}
