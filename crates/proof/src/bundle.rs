//! The bundle: a tar that holds everything needed to verify a log offline (`docs/formats/bundle.md`).
//!
//! Order: `jurat.json`, `README.md`, `checkpoint`, then `hashes/NNNNNN` and `records/NNNNNN` in
//! turns. The leaf hashes repeat what the records imply; they let a verifier name the exact leaf
//! that was changed.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{Digest, Record, leaf_hash, write_record};

/// The most bytes of one `records/` part; a part ends with the record that reaches it.
const PART_BYTES: usize = 2 * 1024 * 1024;
const PART_BYTES_MAX: u64 = PART_BYTES as u64 + crate::record::RECORD_BYTES_MAX as u64 + 64 * 1024;
const SMALL_BYTES_MAX: u64 = 128 * 1024;

const README: &str = include_str!("bundle_readme.md");

/// What a bundle says about itself. Never trusted, only used to find one's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `jurat-bundle`.
    pub format: String,
    /// The version of the format.
    pub v: u32,
    /// The log.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
}

impl Manifest {
    /// The manifest of a bundle of this log and size.
    pub fn new(origin: &str, size: u64) -> Self {
        Self {
            format: "jurat-bundle".into(),
            v: 1,
            origin: origin.into(),
            size,
        }
    }
}

/// Why bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bytes could not be read, or end too early.
    #[error("the bundle cannot be read to its end")]
    Read(#[source] io::Error),
    /// Not the parts in the order that a bundle has.
    #[error("not a bundle: {0}")]
    Layout(String),
}

/// Writes a bundle.
pub struct BundleWriter<W: Write> {
    tar: tar::Builder<W>,
    hashes: Vec<u8>,
    records: Vec<u8>,
    part: u32,
}

impl<W: Write> BundleWriter<W> {
    /// Begins a bundle that ends in this checkpoint.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(out: W, manifest: &Manifest, checkpoint: &[u8]) -> io::Result<Self> {
        let mut bundle = Self {
            tar: tar::Builder::new(out),
            hashes: Vec::new(),
            records: Vec::new(),
            part: 0,
        };
        let json = serde_json::to_vec(manifest)?;
        bundle.file("jurat.json", &json)?;
        bundle.file("README.md", README.as_bytes())?;
        bundle.file("checkpoint", checkpoint)?;
        Ok(bundle)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.tar.append_data(&mut header, name, bytes)
    }

    /// Adds the next record. A part ends only before leaves, so that a payload stands with its entry.
    ///
    /// # Errors
    /// What the writer says.
    pub fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        if matches!(record, Record::Entry(_) | Record::Leaves { .. })
            && self.records.len() >= PART_BYTES
        {
            self.flush()?;
        }
        match record {
            Record::Entry(entry) => self.hashes.extend_from_slice(&leaf_hash(entry).0),
            Record::Leaves { hashes, .. } => {
                self.hashes.extend_from_slice(hashes.as_flattened());
            }
            Record::Payload { .. } | Record::Checkpoint(_) => {}
        }
        write_record(&mut self.records, record);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let (hashes, records) = (
            std::mem::take(&mut self.hashes),
            std::mem::take(&mut self.records),
        );
        self.file(&format!("hashes/{:06}", self.part), &hashes)?;
        self.file(&format!("records/{:06}", self.part), &records)?;
        self.part += 1;
        Ok(())
    }

    /// Ends the bundle.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.tar.into_inner()
    }
}

/// The next records of a bundle, with the leaf hashes of the entries among them.
#[derive(Debug)]
pub struct Part {
    /// One digest for each entry.
    pub hashes: Vec<Digest>,
    /// Records, one after the other.
    pub records: Vec<u8>,
}

/// Reads a bundle as a stream; never holds more than one part.
pub struct BundleReader<R: Read> {
    // A bundle has regular files with ustar headers and nothing else. The headers are read one by
    // one: the tar crate's iterator would read long names and links of any length into memory.
    input: R,
    part: u32,
}

impl<R: Read> BundleReader<R> {
    /// Reads the three parts at the front: manifest and final checkpoint.
    ///
    /// # Errors
    /// [`BundleError`] when it is not a bundle.
    pub fn open(input: R) -> Result<(Self, Manifest, Vec<u8>), BundleError> {
        let mut reader = Self { input, part: 0 };
        let json = reader.expect("jurat.json", SMALL_BYTES_MAX)?;
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|error| BundleError::Layout(format!("jurat.json: {error}")))?;
        if manifest.format != "jurat-bundle" || manifest.v != 1 {
            return Err(BundleError::Layout(format!(
                "format {} version {}",
                manifest.format, manifest.v
            )));
        }
        reader.expect("README.md", SMALL_BYTES_MAX)?;
        let checkpoint = reader.expect("checkpoint", SMALL_BYTES_MAX)?;
        Ok((reader, manifest, checkpoint))
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`BundleError`] when the bundle is cut or holds anything unexpected.
    pub fn next_part(&mut self) -> Result<Option<Part>, BundleError> {
        let name = format!("hashes/{:06}", self.part);
        let Some(hashes) = self.file(&name, PART_BYTES_MAX)? else {
            return Ok(None);
        };
        let (chunks, rest) = hashes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(BundleError::Layout(format!(
                "{name} is not a sequence of digests"
            )));
        }
        let hashes = chunks.iter().map(|chunk| Digest(*chunk)).collect();
        let records = self.expect(&format!("records/{:06}", self.part), PART_BYTES_MAX)?;
        self.part += 1;
        Ok(Some(Part { hashes, records }))
    }

    fn expect(&mut self, name: &str, max: u64) -> Result<Vec<u8>, BundleError> {
        self.file(name, max)?
            .ok_or_else(|| BundleError::Layout(format!("{name} is missing")))
    }

    /// Reads the next file, which must bear this name; `None` at the end of the tar.
    fn file(&mut self, name: &str, max: u64) -> Result<Option<Vec<u8>>, BundleError> {
        let mut header = tar::Header::new_ustar();
        self.input
            .read_exact(header.as_mut_bytes())
            .map_err(BundleError::Read)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let layout = |what: String| BundleError::Layout(what);
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        if header.cksum().ok() != Some(sum) || !header.entry_type().is_file() {
            return Err(layout(format!("expected the file {name}")));
        }
        if header.path_bytes().as_ref() != name.as_bytes() {
            let found = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            return Err(layout(format!("expected {name}, found {found:?}")));
        }
        let size = header.entry_size().map_err(BundleError::Read)?;
        if size > max {
            return Err(layout(format!(
                "{name} has {size} bytes, the limit is {max}"
            )));
        }
        let mut bytes = vec![0; size as usize];
        self.input
            .read_exact(&mut bytes)
            .map_err(BundleError::Read)?;
        let padding = (512 - size % 512) % 512;
        let mut pad = [0; 512];
        self.input
            .read_exact(&mut pad[..padding as usize])
            .map_err(BundleError::Read)?;
        Ok(Some(bytes))
    }
}
