//! How many quotes one core judges.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jurat_attest::tpm::{Expected, Hash, PcrSelection, PcrValues, Public, check_quote};

use super::{Row, cpu};

const QUOTES: u32 = 2_000;
const ROUNDS: usize = 5;

/// Quotes of the golden vectors, each judged whole: key, signature, statement, selection, values.
pub(super) fn judged() -> Result<Row> {
    let read = |name: &str| {
        let path = Path::new("vectors/tpm").join(name);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let ak = Public::parse_sized(&read("ak-ecc.tpm2b_public")?)?;
    let (attest, signature) = (read("quote-ecc.attest")?, read("quote-ecc.tpmt_signature")?);
    let qualifying = read("qualifying.bin")?;
    let qualifying = qualifying.as_slice().try_into()?;
    let selection = [PcrSelection {
        bank: Hash::Sha256,
        pcrs: 1 | 1 << 7 | 1 << 23,
    }];
    let mut values = PcrValues::default();
    for (pcr, value) in [0, 7, 23]
        .into_iter()
        .zip(read("pcrs-sha256-0-7-23.bin")?.chunks(32))
    {
        values.0.insert((Hash::Sha256, pcr), value.to_vec());
    }
    let expected = Expected {
        qualifying,
        selection: &selection,
        values: &values,
    };
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let before = cpu();
        for _ in 0..QUOTES {
            check_quote(&attest, &signature, &ak, &expected)?;
        }
        best = best.min(cpu().saturating_sub(before));
    }
    let rate = f64::from(QUOTES) / best.as_secs_f64();
    Ok(Row {
        what: "quotes of P-256 judged, per CPU-second".into(),
        result: format!("{rate:.0}"),
        floor: "10,000",
        met: Some(rate >= 10_000.0),
    })
}
