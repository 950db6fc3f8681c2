//! The bytes of a segment (`docs/formats/ledger.md`). All integers are little-endian.

/// First bytes of a segment: like PNG's, they show a transfer that mangles line ends or bit 7.
pub(crate) const MAGIC: [u8; 8] = *b"\x89JLG\r\n\x1a\n";
pub(crate) const VERSION: u32 = 2;
/// magic 8 | version 4 | reserved 4 | base 8 | id 16 | span 8 | crc 4 | zero to 64.
pub(crate) const SEGMENT_HEADER: u64 = 64;
/// body length 4 | kind 1 | flags 1 | reserved 2 | body crc 4 | header crc 4.
pub(crate) const RECORD_HEADER: u64 = 16;

/// Record kinds from here on are the ledger's own.
pub(crate) const KIND_OWN: u8 = 250;
pub(crate) const KIND_STATE: u8 = 250;
pub(crate) const KIND_SNAPSHOT: u8 = 251;
pub(crate) const KIND_COMMIT: u8 = 255;

/// The body was erased: it reads as zeros and its CRC no longer counts.
pub(crate) const FLAG_ERASED: u8 = 1;

/// Random for each segment: a payload that imitates records cannot know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId {
    bytes: [u8; 16],
    /// The CRC of `bytes`: every record's two CRCs begin with it.
    crc: u32,
}

impl SegmentId {
    pub(crate) fn new(bytes: [u8; 16]) -> Self {
        let crc = crc32c::crc32c(&bytes);
        Self { bytes, crc }
    }

    /// CRC32C seeded with the segment and the place, so that a copied or moved record does not fit.
    pub(crate) fn crc(self, offset: u64) -> Seed {
        Seed(crc32c::crc32c_append(self.crc, &offset.to_le_bytes()))
    }
}

/// The CRC of the segment and the place, to which bytes are added.
#[derive(Clone, Copy)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// `span`: 0, or for a segment that was rewritten shorter, the positions it stands for.
pub(crate) fn segment_header(base: u64, id: SegmentId, span: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut bytes = [0; SEGMENT_HEADER as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&base.to_le_bytes());
    bytes[24..40].copy_from_slice(&id.bytes);
    bytes[40..48].copy_from_slice(&span.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..48]);
    bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn parse_segment_header(bytes: &[u8]) -> Option<(u64, SegmentId, u64)> {
    let header = bytes.first_chunk::<52>()?;
    if header[..8] != MAGIC || crc32c::crc32c(&header[..48]).to_le_bytes() != header[48..52] {
        return None;
    }
    if u32::from_le_bytes(header[8..12].try_into().ok()?) != VERSION {
        return None;
    }
    let base = u64::from_le_bytes(header[16..24].try_into().ok()?);
    let id = SegmentId::new(header[24..40].try_into().ok()?);
    let span = u64::from_le_bytes(header[40..48].try_into().ok()?);
    Some((base, id, span))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(self, seed: Seed) -> [u8; RECORD_HEADER as usize] {
        let mut bytes = [0; RECORD_HEADER as usize];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        bytes[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = seed.of(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8], id: SegmentId, offset: u64) -> Option<Self> {
        let mut header = *bytes.first_chunk::<16>()?;
        let good =
            |header: &[u8; 16]| id.crc(offset).of(&header[..12]).to_le_bytes() == header[12..];
        if !good(&header) {
            // A power cut may have written one half of the mark, where a sector ends inside this header.
            header[5] ^= FLAG_ERASED;
            if !good(&header) {
                return None;
            }
            header[5] |= FLAG_ERASED;
        }
        Some(Self {
            len: u32::from_le_bytes(header[..4].try_into().ok()?),
            kind: header[4],
            flags: header[5],
            body_crc: u32::from_le_bytes(header[8..12].try_into().ok()?),
        })
    }

    pub(crate) fn is_erased(self) -> bool {
        self.flags & FLAG_ERASED != 0
    }
}

/// The body of a commit record: where its group begins, and how many records it has.
pub(crate) fn commit_body(start: u64, records: u32) -> [u8; 12] {
    let mut body = [0; 12];
    body[..8].copy_from_slice(&start.to_le_bytes());
    body[8..].copy_from_slice(&records.to_le_bytes());
    body
}

pub(crate) fn commit_start(body: &[u8]) -> Option<u64> {
    body.first_chunk::<8>()
        .map(|start| u64::from_le_bytes(*start))
}

pub(crate) fn segment_name(base: u64) -> String {
    format!("{base:016x}.jl")
}

pub(crate) fn segment_base(name: &str) -> Option<u64> {
    let digits = name
        .strip_suffix(".jl")
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
