//! Statements of a TPM (Part 2, 10.12 `TPMS_ATTEST`).

use super::clock::Clock;
use super::public::Name;
use super::wire::{Hash, Malformed, Reader};

/// "\xffTCG": what a restricted key never signs for anybody outside.
pub(super) const MAGIC: u32 = 0xff54_4347;
/// The most banks of a selection.
const BANKS_MAX: u32 = 16;

/// A statement of a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// The qualified name of the key that signs it.
    pub signer: Vec<u8>,
    /// What the caller gave.
    pub extra: Vec<u8>,
    /// When.
    pub clock: Clock,
    /// What it says.
    pub attested: Attested,
}

/// What a TPM states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// Its PCRs.
    Quote(Quoted),
    /// That it holds a key.
    Certify(Certified),
    /// What an index holds.
    Nv(NvCertified),
    /// Its time: milliseconds since it was started.
    Time(u64),
}

/// The PCRs of a quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Which.
    pub selection: Vec<PcrSelection>,
    /// The digest over their values, by the hash of the signature's scheme.
    pub digest: Vec<u8>,
}

/// PCRs of one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// The bank.
    pub bank: Hash,
    /// Bit n is PCR n.
    pub pcrs: u32,
}

/// A key that the TPM holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Its name.
    pub name: Name,
    /// Its name with those of its parents.
    pub qualified: Vec<u8>,
}

/// The content of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvCertified {
    /// The name of the index: the digest of its public area.
    pub index: Name,
    /// Where the content begins.
    pub offset: u16,
    /// The content.
    pub contents: Vec<u8>,
}

impl PcrSelection {
    /// The PCRs in order.
    pub fn indices(&self) -> impl Iterator<Item = u8> + '_ {
        (0..32).filter(|pcr| self.pcrs >> pcr & 1 == 1)
    }

    /// Appends a `TPML_PCR_SELECTION`.
    pub fn write(selection: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(&(selection.len() as u32).to_be_bytes());
        for bank in selection {
            out.extend_from_slice(&bank.bank.alg().to_be_bytes());
            // Three bytes are what every TPM has: 24 PCRs.
            out.push(3);
            out.extend_from_slice(&bank.pcrs.to_le_bytes()[..3]);
        }
    }

    /// Reads a `TPML_PCR_SELECTION`.
    ///
    /// # Errors
    /// [`Malformed`]: too many banks, an unknown one, or more PCRs than there are.
    pub fn read(reader: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        let count = reader.u32()?;
        if count > BANKS_MAX {
            return Err(reader.malformed());
        }
        let mut selection = Vec::new();
        for _ in 0..count {
            let bank = Hash::from_alg(reader.u16()?).ok_or(reader.malformed())?;
            let size = usize::from(reader.u8()?);
            let mut bits = [0; 4];
            let bytes = reader.take(size)?;
            bits.get_mut(..size)
                .ok_or(reader.malformed())?
                .copy_from_slice(bytes);
            selection.push(Self {
                bank,
                pcrs: u32::from_le_bytes(bits),
            });
        }
        Ok(selection)
    }
}

impl Attest {
    /// Reads a `TPMS_ATTEST`.
    ///
    /// # Errors
    /// [`Malformed`]: cut, something left over, another magic, or a kind of statement that is not used here.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "attestation");
        if reader.u32()? != MAGIC {
            return Err(Malformed("attestation: its magic is not that of a TPM"));
        }
        let kind = reader.u16()?;
        let signer = reader.sized()?.to_vec();
        let extra = reader.sized()?.to_vec();
        let clock = Clock::parse(&mut reader)?;
        let attested = match kind {
            0x8014 => Attested::Nv(NvCertified {
                index: Name(reader.sized()?.to_vec()),
                offset: reader.u16()?,
                contents: reader.sized()?.to_vec(),
            }),
            0x8017 => Attested::Certify(Certified {
                name: Name(reader.sized()?.to_vec()),
                qualified: reader.sized()?.to_vec(),
            }),
            0x8018 => Attested::Quote(Quoted {
                selection: PcrSelection::read(&mut reader)?,
                digest: reader.sized()?.to_vec(),
            }),
            0x8019 => {
                let time = reader.u64()?;
                Clock::parse(&mut reader)?;
                Attested::Time(time)
            }
            _ => return Err(Malformed("attestation: a kind that is not used here")),
        };
        reader.end()?;
        Ok(Self {
            signer,
            extra,
            clock,
            attested,
        })
    }
}
