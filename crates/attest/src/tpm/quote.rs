//! What a quote must be before it says anything of a machine.

use std::collections::BTreeMap;

use super::attest::{Attest, Attested, PcrSelection};
use super::clock::Clock;
use super::public::{KeyError, Public, is_ak};
use super::signature::{Signature, SignatureError};
use super::wire::{Hash, Malformed};

/// Values of PCRs, by bank and number. A claim, until a quote over them verifies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrValues(pub BTreeMap<(Hash, u8), Vec<u8>>);

/// What a quote must be of.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// What the key must have signed with it: binds the quote to one head of one log and to a nonce.
    pub qualifying: &'a [u8; 32],
    /// The PCRs that were asked for.
    pub selection: &'a [PcrSelection],
    /// Their values, as the machine says.
    pub values: &'a PcrValues,
}

/// Why a quote says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The bytes are no statement of a TPM.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The key is no attestation key.
    #[error("not an attestation key: {0}")]
    Key(#[from] KeyError),
    /// The signature does not count.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Another statement of a TPM.
    #[error("a statement of a TPM that is no quote")]
    Type,
    /// It is of something else: another head, another log, another nonce.
    #[error("the quote is not of this head and nonce")]
    Qualifying,
    /// Other PCRs than those that were asked for, or in another order.
    #[error("the quote is over other PCRs than were asked for")]
    Selection,
    /// A bank that is not accepted.
    #[error("the quote is over PCRs of the bank {}", .0.name())]
    Bank(Hash),
    /// A value is missing or has another length than its bank's.
    #[error("there is no value of PCR {pcr} of {}", bank.name())]
    Value {
        /// Its bank.
        bank: Hash,
        /// Its number.
        pcr: u8,
    },
    /// The values are not those that were quoted.
    #[error("the PCR values are not those that were quoted")]
    Digest,
}

/// Checks a quote, and gives the TPM's clock in it.
///
/// # Errors
/// [`QuoteError`]: the first thing that does not hold.
pub fn check_quote(
    attest: &[u8],
    signature: &[u8],
    ak: &Public,
    expected: &Expected<'_>,
) -> Result<Clock, QuoteError> {
    is_ak(ak)?;
    let signature = Signature::parse(signature)?;
    signature.verify(ak, attest)?;
    let attest = Attest::parse(attest)?;
    let Attested::Quote(quoted) = &attest.attested else {
        return Err(QuoteError::Type);
    };
    if attest.extra != expected.qualifying {
        return Err(QuoteError::Qualifying);
    }
    if quoted.selection != expected.selection || quoted.selection.is_empty() {
        return Err(QuoteError::Selection);
    }
    let mut values: Vec<&[u8]> = Vec::new();
    for bank in &quoted.selection {
        if bank.bank == Hash::Sha1 {
            return Err(QuoteError::Bank(bank.bank));
        }
        for pcr in bank.indices() {
            let value = expected.values.0.get(&(bank.bank, pcr));
            let value = value.filter(|value| value.len() == bank.bank.size());
            let bank = bank.bank;
            values.push(value.ok_or(QuoteError::Value { bank, pcr })?);
        }
    }
    // The hash is the signature's, not the bank's (Part 3, 18.4).
    if signature.hash().digest(&values) != quoted.digest {
        return Err(QuoteError::Digest);
    }
    Ok(attest.clock)
}
