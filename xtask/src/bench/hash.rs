//! Leaf hashes many at a time, against the library's SHA-256 one after the other.

use std::hint::black_box;
use std::time::Duration;

use jurat_proof::{Message, leaf_hash, sha256_many};

use super::{Row, cpu};

const LEAVES: usize = 4_096;
const ROUNDS: usize = 40;

/// The best of several rounds for each, in turns: whoever else uses the machine slows down both.
pub(super) fn leaves() -> Row {
    let entries: Vec<Vec<u8>> = (0..LEAVES)
        .map(|number| vec![number as u8; 1_000])
        .collect();
    let took = |work: &dyn Fn()| {
        let before = cpu();
        work();
        cpu().saturating_sub(before)
    };
    let (mut many, mut single) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        many = many.min(took(&|| {
            let messages: Vec<Message<'_>> =
                entries.iter().map(|entry| Message::leaf(entry)).collect();
            black_box(sha256_many(&messages));
        }));
        single = single.min(took(&|| {
            for entry in &entries {
                black_box(leaf_hash(entry));
            }
        }));
    }
    let rate = |took: Duration| (LEAVES * 1_000) as f64 / took.as_secs_f64() / 1e6;
    let ratio = single.as_secs_f64() / many.as_secs_f64();
    Row {
        what: "leaf hashes of 1 KB, many at a time against one at a time".into(),
        result: format!(
            "{ratio:.2} ({:.0} against {:.0} MB per CPU-second)",
            rate(many),
            rate(single)
        ),
        floor: "3 with AVX-512",
        met: Some(ratio >= 3.0),
    }
}
