//! `jurat export --cose` and `--dsse`: what this device's log says in the formats of others, signed
//! with the key that signs its heads from now on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use jurat_agent::Enrolment;
use jurat_disk::Host;
use jurat_ledger::Reader;
use jurat_proof::{
    Checkpoint, Digest, EntryView, Note, Record, Rotation, Signer, VerifierKey, leaf_hash,
    parse_leaves, session_name,
};
use jurat_seal::kind;
use jurat_statement::{InclusionBuilder, SessionBuilder};

use crate::exit;

/// The flags of `jurat export` for statements.
#[derive(Args)]
pub(crate) struct StatementArgs {
    /// Instead of a bundle: a COSE receipt (RFC 9942) that this leaf is in the log
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["collector", "dsse"])]
    cose: Option<u64>,
    /// Instead of a bundle: an in-toto statement about this session, in a DSSE envelope
    #[arg(long, value_name = "SESSION", conflicts_with = "collector")]
    dsse: Option<String>,
    /// With --cose or --dsse: write the key that verifies it into this file, PEM; must not exist
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

impl StatementArgs {
    pub(crate) fn is_asked(&self) -> bool {
        self.cose.is_some() || self.dsse.is_some() || self.public_key.is_some()
    }
}

pub(crate) fn export(
    host: &Host,
    state_dir: &Path,
    args: &StatementArgs,
    output: &Path,
) -> Result<u8> {
    let enrolment = Enrolment::load(host, state_dir)?;
    let keys = jurat_agent::log_keys(host, state_dir, &enrolment)?;
    let ledger = enrolment.home(state_dir).join("ledger");
    let read = || Reader::open(host.disk.clone(), &ledger, 0);
    let least = args.cose.map_or(1, |index| index.saturating_add(1));
    let (key, head) = head(read()?, keys, least)?;
    let statement = match (args.cose, &args.dsse) {
        (Some(index), _) => {
            let mut inclusion = InclusionBuilder::new(head, index)?;
            leaves(read()?, |leaf| {
                match leaf {
                    Leaf::Entry(entry) => inclusion.push(leaf_hash(entry)),
                    Leaf::Withheld(hashes) => {
                        hashes.iter().for_each(|hash| inclusion.push(Digest(*hash)));
                    }
                }
                Ok(())
            })?;
            jurat_statement::receipt(key.as_ref(), &inclusion.finish()?)?
        }
        (None, Some(session)) => {
            let mut builder = SessionBuilder::new(head, &session_name(session));
            leaves(read()?, |leaf| {
                match leaf {
                    Leaf::Entry(entry) => builder.entry(entry)?,
                    Leaf::Withheld(hashes) => builder.withheld(hashes),
                }
                Ok(())
            })?;
            jurat_statement::envelope(key.as_ref(), &builder.finish()?)?.into_bytes()
        }
        (None, None) => bail!("--public-key goes with --cose or --dsse"),
    };
    write(output, &statement)?;
    if let Some(path) = &args.public_key {
        let pem = jurat_statement::public_key_pem(&key.verifier_key().key);
        write(path, pem.as_bytes())?;
    }
    println!("{} bytes in {}", statement.len(), output.display());
    Ok(exit::YES)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file =
        File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.with_context(|| {
        let _ = fs::remove_file(path);
        format!("writing {}", path.display())
    })
}

/// The key that signs from now on, and the newest head of at least this size that it, or the key before it,
/// signed and that came back cosigned; else the newest one that was signed.
fn head(
    mut reader: Reader,
    mut keys: Vec<Arc<dyn Signer>>,
    least: u64,
) -> Result<(Arc<dyn Signer>, Checkpoint)> {
    let (mut rotation, mut signed, mut cosigned) = (None, None, None);
    while let Some(item) = reader.next_record()? {
        let slot = match item.kind {
            kind::ENTRY => {
                rotation = rotated(item.body)?.or(rotation);
                continue;
            }
            kind::CHECKPOINT => &mut signed,
            kind::COSIGNED => &mut cosigned,
            _ => continue,
        };
        *slot = Note::parse(item.body).ok().or(slot.take());
    }
    // Without a rotation that stands in the log, a next key was made and does not sign yet.
    let (place, before) = match rotation {
        None => (Some(0), None),
        Some(Rotation { from, key }) => {
            let place = keys.iter().position(|held| *held.verifier_key() == key);
            (place, Some(from))
        }
    };
    let place = place.context("the key that signs this log now is not here")?;
    let key = keys.swap_remove(place);
    let believed = |note: &Option<Note>| {
        let note = note.as_ref()?;
        let mut signers = before.iter().chain([key.verifier_key()]);
        signers
            .any(|signer| note.is_signed_by(signer) == Ok(true))
            .then(|| Checkpoint::parse(&note.text).ok())?
    };
    let head = believed(&cosigned)
        .filter(|head| head.size >= least)
        .or_else(|| believed(&signed))
        .context("the ledger holds no checkpoint signed by this device's key yet")?;
    Ok((key, head))
}

/// The rotation that this entry is. Its new key signed that it takes over.
fn rotated(entry: &[u8]) -> Result<Option<Rotation>> {
    let view = EntryView::parse(entry)?;
    if view.kind != "key.rotated" {
        return Ok(None);
    }
    let detail = view
        .detail_map()
        .into_iter()
        .collect::<serde_json::Map<_, _>>();
    let from = detail.get("from").and_then(|from| from.as_str());
    let from = VerifierKey::parse(from.unwrap_or_default())?;
    Ok(Some(Rotation::parse(&from.name, &from, &detail)?))
}

enum Leaf<'a> {
    Entry(&'a [u8]),
    Withheld(&'a [[u8; 32]]),
}

/// Gives every leaf in order. The ledger must begin with leaf 0: pruned leaves are there as hashes.
fn leaves(mut reader: Reader, mut each: impl FnMut(Leaf<'_>) -> Result<()>) -> Result<()> {
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::ENTRY => each(Leaf::Entry(item.body))?,
            kind::LEAVES => {
                if let Some(Record::Leaves { hashes, .. }) = parse_leaves(item.body) {
                    each(Leaf::Withheld(hashes))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
