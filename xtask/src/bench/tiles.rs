//! Proofs from a log that is laid out in tiles.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use jurat_collector::Levels;
use jurat_disk::RealDisk;
use jurat_proof::{Digest, Prover, verify_inclusion};

use super::Row;

const LEAVES: u64 = 1 << 24;
const PROOFS: usize = 2_000;

/// Leaf hashes that nothing has: what they are does not matter to a tree.
fn leaf(index: u64) -> Digest {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Digest(bytes)
}

/// The time of one inclusion proof out of a log of 2^24 leaves, each made as for a new request: no
/// tile is remembered from the one before.
pub(super) fn inclusion() -> Result<Row> {
    let dir = tempfile::tempdir_in("target")?;
    let mut levels = Levels::open(Arc::new(RealDisk), &dir.path().join("log"))?;
    let start = Instant::now();
    for first in (0..LEAVES).step_by(1 << 16) {
        let leaves: Vec<Digest> = (first..first + (1 << 16)).map(leaf).collect();
        levels.extend(&leaves)?;
    }
    let laid_out = start.elapsed();
    let root = Prover::new(&levels, LEAVES).root()?;
    let mut times = Vec::with_capacity(PROOFS);
    let mut index = 1_u64;
    for _ in 0..PROOFS {
        index = index
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1)
            % LEAVES;
        let start = Instant::now();
        let proof = Prover::new(&levels, LEAVES).inclusion(index)?;
        times.push(start.elapsed());
        verify_inclusion(index, LEAVES, &leaf(index), &proof, &root)?;
        ensure!(proof.len() == 24, "a path of 24 hashes");
    }
    times.sort_unstable();
    let at = |part: usize| {
        let time = times.get(PROOFS * part / 100).context("sorted times")?;
        anyhow::Ok(time.as_secs_f64() * 1e6)
    };
    let (median, p99) = (at(50)?, at(99)?);
    Ok(Row {
        what: "tiles: inclusion proof out of 2^24 leaves".into(),
        result: format!(
            "{median:.0} us in the middle, 99 of 100 within {p99:.0} us ({:.1} M leaves a second laid out)",
            LEAVES as f64 / 1e6 / laid_out.as_secs_f64()
        ),
        floor: "1 ms",
        // The median: who else uses the machine takes it away now and then.
        met: Some(median < 1000.0),
    })
}
