//! The bundle: a tar that holds everything needed to verify a log offline (`docs/formats/bundle.md`).
//!
//! Order: `jurat.json`, `README.md`, `checkpoint`, `prefix` for a range, perhaps `later` and `receipt`,
//! then `hashes/NNNNNN` and `records/NNNNNN` in turns. The leaf hashes repeat what the records imply;
//! they let a verifier name the exact leaf that was changed.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::{Chain, Digest, Frontier, Record, leaf_hash, write_record};

/// The most bytes of one `records/` part; a part ends with the record that reaches it.
const PART_BYTES: usize = 2 * 1024 * 1024;
const PART_BYTES_MAX: u64 = PART_BYTES as u64 + crate::record::RECORD_BYTES_MAX as u64 + 64 * 1024;
const SMALL_BYTES_MAX: u64 = 128 * 1024;
const PREFIX_BYTES_MAX: u64 = 4 * 1024;
const RECEIPT_BYTES_MAX: u64 = 256 * 1024;
const VERSION: u32 = 2;

const README: &str = include_str!("bundle_readme.md");

/// What a bundle says about itself. Never trusted, only used to find one's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `jurat-bundle`.
    pub format: String,
    /// The version of the format.
    pub v: u32,
    /// The log.
    pub origin: String,
    /// The first leaf.
    pub from: u64,
    /// The number of leaves of the head, and so the end of the range.
    pub size: u64,
    /// The session that was asked for; leaves of others are only hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl Manifest {
    /// The manifest of a bundle of this log and range.
    pub fn new(origin: &str, from: u64, size: u64) -> Self {
        Self {
            format: "jurat-bundle".into(),
            v: VERSION,
            origin: origin.into(),
            from,
            size,
            session: None,
        }
    }
}

/// Everything that stands before the leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// What the bundle says about itself.
    pub manifest: Manifest,
    /// The signed head with its cosignatures.
    pub checkpoint: Vec<u8>,
    /// The chain and the roots before the first leaf; empty for a bundle from leaf 0.
    pub prefix: Vec<u8>,
    /// A later head of the same log with the consistency proof to it.
    pub later: Option<Vec<u8>>,
    /// The proof that the collector's log holds this head.
    pub receipt: Option<Vec<u8>>,
    /// The proof that the collector's log holds the enrolment of this log.
    pub enrolment: Option<Vec<u8>>,
    /// What a TPM said of the keys of this log.
    pub attestation: Option<Vec<u8>>,
}

impl Front {
    /// The front of a bundle of a whole log.
    pub fn whole(origin: &str, size: u64, checkpoint: &[u8]) -> Self {
        Self {
            manifest: Manifest::new(origin, 0, size),
            checkpoint: checkpoint.to_vec(),
            prefix: Vec::new(),
            later: None,
            receipt: None,
            enrolment: None,
            attestation: None,
        }
    }
}

/// The `prefix` of a range that begins after this frontier.
pub(crate) fn write_prefix(frontier: &Frontier, chain: &Chain) -> Vec<u8> {
    let mut out = chain.0.0.to_vec();
    for root in frontier.roots() {
        out.extend_from_slice(&root.0);
    }
    out
}

/// The frontier and the chain before leaf `from`; `None` when the bytes are not those of one.
pub(crate) fn read_prefix(from: u64, prefix: &[u8]) -> Option<(Frontier, Chain)> {
    let (digests, rest) = prefix.as_chunks::<32>();
    let (chain, roots) = digests.split_first()?;
    let roots = roots.iter().map(|root| Digest(*root)).collect();
    let frontier = Frontier::from_parts(from, roots).filter(|_| rest.is_empty())?;
    Some((frontier, Chain(Digest(*chain))))
}

/// Why bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bytes could not be read.
    #[error("the bundle cannot be read")]
    Read(#[source] io::Error),
    /// The bytes end too early.
    #[error("the bundle ends inside {0}")]
    Cut(String),
    /// Not the parts in the order that a bundle has.
    #[error("not a bundle: {0}")]
    Layout(String),
    /// A part that is longer than it may be.
    #[error("{name} has {size} bytes, the limit is {max}")]
    Limit {
        /// Its name.
        name: String,
        /// Its length.
        size: u64,
        /// The most that it may have.
        max: u64,
    },
    /// `jurat.json` is not that of a bundle of this version.
    #[error("not a bundle of this version: jurat.json: {0}")]
    Manifest(String),
    /// A list of leaf hashes that is none.
    #[error("{0} is not a sequence of digests")]
    Hashes(String),
}

impl BundleError {
    /// The check that does not hold.
    pub fn check(&self) -> Check {
        match self {
            Self::Read(_) | Self::Cut(_) => Check::BundleCut,
            Self::Layout(_) => Check::BundleLayout,
            Self::Limit { .. } => Check::BundleLimit,
            Self::Manifest(_) => Check::BundleManifest,
            Self::Hashes(_) => Check::BundleHashes,
        }
    }
}

/// Writes a bundle.
pub struct BundleWriter<W: Write> {
    tar: tar::Builder<W>,
    hashes: Vec<u8>,
    records: Vec<u8>,
    part: u32,
}

impl<W: Write> BundleWriter<W> {
    /// Begins a bundle.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(out: W, front: &Front) -> io::Result<Self> {
        let mut bundle = Self {
            tar: tar::Builder::new(out),
            hashes: Vec::new(),
            records: Vec::new(),
            part: 0,
        };
        let json = serde_json::to_vec(&front.manifest)?;
        bundle.file("jurat.json", &json)?;
        bundle.file("README.md", README.as_bytes())?;
        bundle.file("checkpoint", &front.checkpoint)?;
        if front.manifest.from > 0 {
            bundle.file("prefix", &front.prefix)?;
        }
        for (name, bytes) in [
            ("later", &front.later),
            ("receipt", &front.receipt),
            ("enrolment", &front.enrolment),
            ("attestation", &front.attestation),
        ] {
            if let Some(bytes) = bytes {
                bundle.file(name, bytes)?;
            }
        }
        Ok(bundle)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
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
    /// The header that was read last and not taken yet; `None` at the end.
    next: Option<Header>,
}

/// A member's name and length, checked.
struct Header {
    name: Vec<u8>,
    size: u64,
}

impl<R: Read> BundleReader<R> {
    /// Reads what stands before the leaves.
    ///
    /// # Errors
    /// [`BundleError`] when it is not a bundle.
    pub fn open(input: R) -> Result<(Self, Front), BundleError> {
        let mut reader = Self {
            input,
            part: 0,
            next: None,
        };
        reader.next = reader.header()?;
        let json = reader.expect("jurat.json", SMALL_BYTES_MAX)?;
        // An array of the same values would be read as one, too.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(BundleError::Manifest("not an object".into()));
        }
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|error| BundleError::Manifest(error.to_string()))?;
        let known = manifest.format == "jurat-bundle" && manifest.v == VERSION;
        if Check::BundleManifest.fails(!known) {
            let what = format!("format {} version {}", manifest.format, manifest.v);
            return Err(BundleError::Manifest(what));
        }
        reader.expect("README.md", SMALL_BYTES_MAX)?;
        let checkpoint = reader.expect("checkpoint", SMALL_BYTES_MAX)?;
        let prefix = match manifest.from {
            0 => Vec::new(),
            _ => reader.expect("prefix", PREFIX_BYTES_MAX)?,
        };
        let later = reader.file("later", SMALL_BYTES_MAX)?;
        let receipt = reader.file("receipt", RECEIPT_BYTES_MAX)?;
        let enrolment = reader.file("enrolment", RECEIPT_BYTES_MAX)?;
        let attestation = reader.file("attestation", SMALL_BYTES_MAX)?;
        if let Some(header) = &reader.next
            && Check::BundleLayout.fails(header.name != b"hashes/000000")
        {
            return Err(reader.unexpected("hashes/000000"));
        }
        let front = Front {
            manifest,
            checkpoint,
            prefix,
            later,
            receipt,
            enrolment,
            attestation,
        };
        Ok((reader, front))
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`BundleError`] when the bundle is cut or holds anything unexpected.
    pub fn next_part(&mut self) -> Result<Option<Part>, BundleError> {
        if self.next.is_none() {
            return Ok(None);
        }
        let name = format!("hashes/{:06}", self.part);
        let hashes = self.expect(&name, PART_BYTES_MAX)?;
        let (chunks, rest) = hashes.as_chunks::<32>();
        if Check::BundleHashes.fails(!rest.is_empty()) {
            return Err(BundleError::Hashes(name));
        }
        let hashes = chunks.iter().map(|chunk| Digest(*chunk)).collect();
        let records = self.expect(&format!("records/{:06}", self.part), PART_BYTES_MAX)?;
        self.part += 1;
        Ok(Some(Part { hashes, records }))
    }

    fn expect(&mut self, name: &str, max: u64) -> Result<Vec<u8>, BundleError> {
        if let Some(bytes) = self.file(name, max)? {
            return Ok(bytes);
        }
        Err(self.unexpected(name))
    }

    fn unexpected(&self, name: &str) -> BundleError {
        let found = match &self.next {
            Some(header) => format!("found {:?}", String::from_utf8_lossy(&header.name)),
            None => "found the end".into(),
        };
        BundleError::Layout(format!("expected {name}, {found}"))
    }

    /// Reads the next file when it bears this name.
    fn file(&mut self, name: &str, max: u64) -> Result<Option<Vec<u8>>, BundleError> {
        let Some(header) = self.next.take_if(|header| header.name == name.as_bytes()) else {
            return Ok(None);
        };
        let size = header.size;
        if Check::BundleLimit.fails(size > max) {
            let name = name.to_owned();
            return Err(BundleError::Limit { name, size, max });
        }
        let mut bytes = Vec::new();
        // Grows with what is there, not with what a header says.
        let read = (&mut self.input).take(size).read_to_end(&mut bytes);
        read.map_err(BundleError::Read)?;
        let padding = (512 - size % 512) % 512;
        let mut pad = [0; 512];
        let whole = bytes.len() as u64 == size;
        if !whole || !self.read(&mut pad[..padding as usize])? {
            return Err(BundleError::Cut(name.to_owned()));
        }
        self.next = self.header()?;
        Ok(Some(bytes))
    }

    /// The next header; `None` at the end of the tar.
    fn header(&mut self) -> Result<Option<Header>, BundleError> {
        let mut header = [0; 512];
        if !self.read(&mut header)? {
            // Without its end the tar may have lost anything.
            return if Check::BundleCut.holds(false) {
                Ok(None)
            } else {
                Err(BundleError::Cut("a header".into()))
            };
        }
        if header == [0; 512] {
            return Ok(None);
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => 32,
                _ => u64::from(*byte),
            })
            .sum();
        // `//= POSIX.1 pax, ustar interchange format: name, size, chksum, typeflag, prefix`
        let regular = header[156] == b'0' && header[345] == 0;
        let good = regular && octal(&header[148..156]) == Some(sum);
        let name = header[..100].split(|byte| *byte == 0).next();
        match (name, octal(&header[124..136])) {
            (Some(name), Some(size)) if Check::BundleLayout.holds(good) => Ok(Some(Header {
                name: name.to_vec(),
                size,
            })),
            _ => {
                let what = "a header that is not one of a regular file";
                Err(BundleError::Layout(what.into()))
            }
        }
    }

    /// Fills the buffer; `false` when the bytes end before.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, BundleError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(BundleError::Read(error)),
        }
    }
}

/// Octal digits, ended by a space or a zero byte.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, b' ' | 0))?;
    let digits = std::str::from_utf8(&field[..end]).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| u64::from_str_radix(digits, 8).ok()).flatten()
}
