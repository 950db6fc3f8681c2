//! COSE receipts.
//!
//! `//= RFC 9942 section 5.2.1: the payload is the Merkle root, detached; vds and alg are protected`

use coset::cbor::value::Value;
use coset::iana::Algorithm;
use coset::{CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _};
use jurat_proof::{PublicKey, Signer, SignerError};

use crate::{Inclusion, StatementError, key_id};

/// The header parameter that names the verifiable data structure.
const VDS: i64 = 395;
/// RFC9162_SHA256: the very tree of the log.
const VDS_RFC9162_SHA256: i64 = 1;
/// The header parameter that holds the proofs.
const VDP: i64 = 396;
/// Proofs of inclusion.
const VDP_INCLUSION: i64 = -1;
/// CWT claims (RFC 9597), and in them who says it and about what.
const CWT_CLAIMS: i64 = 15;
const CWT_ISSUER: i64 = 1;
const CWT_SUBJECT: i64 = 2;

/// A receipt that the leaf is in the log, signed by the log's key: a tagged COSE_Sign1.
///
/// # Errors
/// [`StatementError`] when the key cannot sign.
pub fn receipt(signer: &dyn Signer, inclusion: &Inclusion) -> Result<Vec<u8>, StatementError> {
    let key = &signer.verifier_key().key;
    let algorithm = match key {
        PublicKey::Ed25519(_) => Algorithm::EdDSA,
        PublicKey::P256(_) => Algorithm::ES256,
        _ => return Err(StatementError::Encoding("a key of another kind".into())),
    };
    let Inclusion { head, index, path } = inclusion;
    // RFC 9943 section 6 asks for issuer and subject in a receipt, and for a key id without a certificate.
    let claims = [
        (CWT_ISSUER, Value::from(head.origin.as_str())),
        (CWT_SUBJECT, Value::from(format!("{}#{index}", head.origin))),
    ];
    let protected = HeaderBuilder::new()
        .algorithm(algorithm)
        .key_id(key_id(key).to_vec())
        .value(CWT_CLAIMS, map(claims))
        .value(VDS, VDS_RFC9162_SHA256.into())
        .build();
    let path = path.iter().map(|hash| Value::Bytes(hash.0.to_vec()));
    let proof = encode(&Value::Array(vec![
        head.size.into(),
        (*index).into(),
        Value::Array(path.collect()),
    ]))?;
    let proofs = map([(VDP_INCLUSION, Value::Array(vec![Value::Bytes(proof)]))]);
    let unprotected = HeaderBuilder::new().value(VDP, proofs).build();
    let sign = |message: &[u8]| {
        let signature = signer.sign(message)?;
        match key {
            PublicKey::Ed25519(_) => Ok(signature),
            // RFC 9053 section 2.1: r and s as they are, not in DER.
            _ => fixed(&signature).ok_or_else(|| SignerError {
                key: signer.verifier_key().name.clone(),
                reason: "it made no ECDSA signature in DER".into(),
            }),
        }
    };
    CoseSign1Builder::new()
        .protected(protected)
        .unprotected(unprotected)
        .try_create_detached_signature(&head.root.0, &[], sign)?
        .build()
        .to_tagged_vec()
        .map_err(|error| StatementError::Encoding(error.to_string()))
}

fn map<const N: usize>(pairs: [(i64, Value); N]) -> Value {
    Value::Map(pairs.map(|(label, value)| (label.into(), value)).into())
}

fn encode(value: &Value) -> Result<Vec<u8>, StatementError> {
    let mut out = Vec::new();
    coset::cbor::ser::into_writer(value, &mut out)
        .map_err(|error| StatementError::Encoding(error.to_string()))?;
    Ok(out)
}

/// The two numbers of a P-256 signature in DER, 32 bytes each.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let (len, numbers) = der.strip_prefix(&[0x30])?.split_first()?;
    if numbers.len() != usize::from(*len) {
        return None;
    }
    let mut out = vec![0; 64];
    let (r, rest) = integer(numbers)?;
    let (s, rest) = integer(rest)?;
    for (half, number) in out.chunks_mut(32).zip([r, s]) {
        half.get_mut(32_usize.checked_sub(number.len())?..)?
            .copy_from_slice(number);
    }
    rest.is_empty().then_some(out)
}

/// The first INTEGER without its sign byte, and what follows it.
fn integer(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = der.strip_prefix(&[0x02])?.split_first()?;
    let (number, rest) = rest.split_at_checked(usize::from(*len))?;
    Some((number.strip_prefix(&[0]).unwrap_or(number), rest))
}
