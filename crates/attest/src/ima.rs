//! The measurement list of a running Linux (Integrity Measurement Architecture): which files it opened, as its
//! kernel says, and how far a quote of the TPM bears that out.
//!
//! Read is `binary_runtime_measurements` as a little-endian machine writes it. Like a boot log it is a claim: what
//! counts is that it leads to a quoted value. The kernel extends the PCR and grows the list at other moments than the
//! quote is made, so the quote may be of any beginning of the list, but never of less than was accepted before.

use crate::tpm::Hash;

/// The longest list that is read. A machine that was up for long sends what is new ([`Accepted::advance`]).
pub const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most entries of one list.
pub const ENTRIES_MAX: usize = 200_000;
/// The PCR that kernels extend, unless they were built or told otherwise.
pub const PCR: u8 = 10;
/// The longest name of a template, or format in its place (`MAX_TEMPLATE_NAME_LEN` of the kernel).
const TEMPLATE_BYTES_MAX: usize = 255;
/// The longest content of an entry: a path, a signature, a buffer that was measured.
const DATA_BYTES_MAX: usize = 256 * 1024;
/// The template of before 2013. Its fields have no lengths, and its name is hashed in a buffer of 256 bytes.
const OLD: &str = "ima";
const OLD_DIGEST: usize = 20;
const OLD_NAME: usize = 256;
/// Templates that begin with the digest and the name of a file, how many fields they have, and whether the third is a
/// signature.
const TEMPLATES: [(&str, usize, bool); 8] = [
    ("ima-ng", 2, false),
    ("ima-ngv2", 2, false),
    ("ima-sig", 3, true),
    ("ima-sigv2", 3, true),
    ("ima-modsig", 5, true),
    ("ima-buf", 3, false),
    ("d-ng|n-ng", 2, false),
    ("d-ng|n-ng|sig", 3, true),
];

/// Why a list says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImaError {
    /// Longer than is read.
    #[error("the list is longer than {LIST_BYTES_MAX} bytes or {ENTRIES_MAX} entries")]
    TooLong,
    /// It ends inside an entry.
    #[error("the list ends inside entry {0}")]
    Cut(u64),
    /// An entry that no kernel writes.
    #[error("entry {0}: {1}")]
    Entry(u64, &'static str),
    /// An entry was changed: its template hash is of something else.
    #[error("entry {0}: its template hash is not over what it says")]
    TemplateHash(u64),
    /// An entry is of another PCR, which the quoted value does not cover.
    #[error("entry {entry} was extended into PCR {found}, not PCR {expected}")]
    Pcr {
        /// Which.
        entry: u64,
        /// The PCR that is quoted.
        expected: u8,
        /// The PCR that it names.
        found: u8,
    },
    /// SHA-1, which does not count.
    #[error("the bank sha1 is not accepted")]
    Bank,
    /// Neither the whole list nor what came after the part that was accepted.
    #[error("the list begins with entry {first}, accepted were {accepted}")]
    Gap {
        /// Its first entry.
        first: u64,
        /// How many were accepted before.
        accepted: u64,
    },
    /// It has fewer entries than were accepted before.
    #[error("the list has {entries} entries, accepted were {accepted}")]
    Shrunk {
        /// How many it has.
        entries: u64,
        /// How many were accepted before.
        accepted: u64,
    },
    /// Its beginning is not the one that was accepted before.
    #[error("the first {0} entries are not those that were accepted before")]
    Rewritten(u64),
    /// No beginning of it, from what was accepted before on, leads to the quoted value.
    #[error("no beginning of the list leads to the quoted value")]
    Quoted,
}

/// A measurement list, or what came after its first entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<'a> {
    /// How many entries came before these.
    pub first: u64,
    /// The entries.
    pub entries: Vec<Entry<'a>>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The PCR that it was extended into.
    pub pcr: u8,
    /// The template, or the fields in its place. A claim: no digest covers it.
    pub template: &'a str,
    /// The file changed while it was read: the kernel measured nothing, and spoilt the PCR on purpose.
    pub violation: bool,
    data: &'a [u8],
}

/// What an entry says of a file. Trusted no more than the kernel that measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured<'a> {
    /// The hash of the digest, such as `sha256`; with `ima:` or `verity:` in front where the template has it.
    pub algorithm: &'a str,
    /// The digest of the file.
    pub digest: &'a [u8],
    /// The path as the kernel saw it, or the name of what was measured. Any bytes.
    pub name: &'a [u8],
    /// The signature of the file, where it has one.
    pub signature: &'a [u8],
}

/// How far a list was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// So many entries.
    pub entries: u64,
    /// The PCR.
    pub pcr: u8,
    /// Its bank.
    pub bank: Hash,
    /// The value to which they lead.
    pub value: Vec<u8>,
}

struct Little<'a> {
    bytes: &'a [u8],
    entry: u64,
}

impl<'a> Little<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ImaError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(ImaError::Cut(self.entry))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, ImaError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn sized(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], ImaError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if len > max {
            return Err(ImaError::Entry(self.entry, what));
        }
        self.take(len)
    }
}

impl<'a> List<'a> {
    /// Reads a list whose first entry is the `first` of its machine's since it was started.
    ///
    /// # Errors
    /// [`ImaError`]; nothing of a list that is not read to its end counts.
    pub fn parse(bytes: &'a [u8], first: u64) -> Result<Self, ImaError> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(ImaError::TooLong);
        }
        let mut reader = Little {
            bytes,
            entry: first,
        };
        let mut entries = Vec::new();
        while !reader.bytes.is_empty() {
            if entries.len() == ENTRIES_MAX {
                return Err(ImaError::TooLong);
            }
            entries.push(entry(&mut reader)?);
            reader.entry = reader.entry.saturating_add(1);
        }
        Ok(Self { first, entries })
    }

    /// How many entries the machine had with these.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.entries.len() as u64)
    }
}

fn entry<'a>(reader: &mut Little<'a>) -> Result<Entry<'a>, ImaError> {
    let at = reader.entry;
    let pcr = u8::try_from(reader.u32()?).ok().filter(|pcr| *pcr < 24);
    let pcr = pcr.ok_or(ImaError::Entry(at, "a PCR that does not exist"))?;
    let template_hash = reader.take(Hash::Sha1.size())?;
    let template = reader.sized(TEMPLATE_BYTES_MAX, "the name of the template is too long")?;
    let template = std::str::from_utf8(template)
        .map_err(|_| ImaError::Entry(at, "the name of the template is no text"))?;
    let too_long = "the content is too long";
    let data = if template == OLD {
        let mut ahead = Little {
            bytes: reader.bytes,
            entry: at,
        };
        ahead.take(OLD_DIGEST)?;
        let name = ahead.sized(OLD_NAME - 1, too_long)?;
        reader.take(OLD_DIGEST + 4 + name.len())?
    } else {
        reader.sized(DATA_BYTES_MAX, too_long)?
    };
    let entry = Entry {
        pcr,
        template,
        // Of a violation nothing is hashed: zeros in the list, ones in the PCR.
        violation: template_hash.iter().all(|byte| *byte == 0),
        data,
    };
    // The list has SHA-1 only, and a bank that counts another hash: held against what it says, not relied upon.
    if !entry.violation && entry.digest(Hash::Sha1) != template_hash {
        return Err(ImaError::TemplateHash(at));
    }
    Ok(entry)
}

impl<'a> Entry<'a> {
    /// What the kernel extended into the PCR of this bank. Kernels before 5.8 extended a padded SHA-1 digest into every
    /// bank: their lists lead nowhere.
    pub fn digest(&self, bank: Hash) -> Vec<u8> {
        if self.violation {
            return vec![0xff; bank.size()];
        }
        if self.template != OLD {
            return bank.digest(&[self.data]);
        }
        let (digest, name) = self.data.split_at(OLD_DIGEST);
        let mut buffer = [0; OLD_NAME];
        for (place, byte) in buffer.iter_mut().zip(&name[4..]) {
            *place = *byte;
        }
        bank.digest(&[digest, &buffer])
    }

    /// What it says of a file; `None` for a template that is not known here.
    pub fn measured(&self) -> Option<Measured<'a>> {
        if self.template == OLD {
            let (digest, name) = self.data.split_at_checked(OLD_DIGEST)?;
            return Some(Measured {
                algorithm: "sha1",
                digest,
                name: name.get(4..)?,
                signature: &[],
            });
        }
        let (_, fields, signed) = TEMPLATES
            .iter()
            .find(|(template, _, _)| *template == self.template)?;
        let mut reader = Little {
            bytes: self.data,
            entry: 0,
        };
        let mut read = Vec::with_capacity(*fields);
        for _ in 0..*fields {
            read.push(reader.sized(DATA_BYTES_MAX, "").ok()?);
        }
        // No digest covers the name of the template: with other fields it is another one.
        if !reader.bytes.is_empty() {
            return None;
        }
        let (digest, name) = (read[0], read[1]);
        let signature = if *signed { read[2] } else { &[] };
        // The algorithm, a colon, a zero, the digest.
        let colon = digest.windows(2).position(|pair| pair == b":\0")?;
        Some(Measured {
            algorithm: std::str::from_utf8(&digest[..colon]).ok()?,
            digest: &digest[colon + 2..],
            name: name.strip_suffix(b"\0").unwrap_or(name),
            signature,
        })
    }
}

impl Accepted {
    /// Nothing yet: the machine has just been started.
    pub fn nothing(bank: Hash, pcr: u8) -> Self {
        Self {
            entries: 0,
            pcr,
            bank,
            value: vec![0; bank.size()],
        }
    }

    /// How far this list is borne out by a quoted value. The list is the whole one, or begins behind what was accepted.
    ///
    /// What comes after that is not yet quoted, and says nothing.
    ///
    /// # Errors
    /// [`ImaError`]: the first thing that does not hold.
    pub fn advance(&self, list: &List<'_>, quoted: &[u8]) -> Result<Self, ImaError> {
        if self.bank == Hash::Sha1 {
            return Err(ImaError::Bank);
        }
        if list.first != 0 && list.first != self.entries {
            return Err(ImaError::Gap {
                first: list.first,
                accepted: self.entries,
            });
        }
        if list.end() < self.entries {
            return Err(ImaError::Shrunk {
                entries: list.end(),
                accepted: self.entries,
            });
        }
        let mut reached = if list.first == self.entries {
            self.clone()
        } else {
            Self::nothing(self.bank, self.pcr)
        };
        for entry in &list.entries {
            if reached.entries >= self.entries && reached.is(self, quoted)? {
                return Ok(reached);
            }
            if entry.pcr != self.pcr {
                return Err(ImaError::Pcr {
                    entry: reached.entries,
                    expected: self.pcr,
                    found: entry.pcr,
                });
            }
            reached.value = self
                .bank
                .digest(&[&reached.value, &entry.digest(self.bank)]);
            reached.entries = reached.entries.saturating_add(1);
        }
        if reached.is(self, quoted)? {
            return Ok(reached);
        }
        Err(ImaError::Quoted)
    }

    /// Whether this is where the quote was made, and what was accepted before still stands.
    fn is(&self, before: &Self, quoted: &[u8]) -> Result<bool, ImaError> {
        if self.entries == before.entries && self.value != before.value {
            return Err(ImaError::Rewritten(before.entries));
        }
        Ok(self.value == quoted)
    }
}
