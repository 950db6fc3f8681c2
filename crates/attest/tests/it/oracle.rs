//! Held against a parser that others wrote: the vectors, and each of them with every byte changed and cut everywhere.

use jurat_attest::tpm::{
    Attest, Attested, Attributes, Certified, Clock, Hash, Malformed, Name, NvCertified, Parameters,
    PcrSelection, Public, Quoted, Signature,
};
use tpm2_protocol::TpmUnmarshal;
use tpm2_protocol::data::{
    TpmAlgId, TpmsAttest, TpmtPublic, TpmtSignature, TpmtSymDef, TpmuAsymScheme, TpmuAttest,
    TpmuPublicId, TpmuPublicParms, TpmuSignature, TpmuSymKeyBits, TpmuSymMode,
};

use crate::vectors::read;

/// What they make of the bytes.
enum Theirs<T> {
    /// Something, whole.
    Read(T),
    /// Something, with bytes behind it, which is their caller's business.
    Rest,
    /// Something that is not used here: another kind of statement, scheme, hash or key.
    Unused,
    /// Nothing.
    Refused,
}

/// How often the two did what.
#[derive(Debug, Default, PartialEq)]
struct Count {
    same: u32,
    both_refuse: u32,
    rest: u32,
    unused: u32,
    stricter: u32,
}

fn theirs<T: TpmUnmarshal, U>(bytes: &[u8], convert: impl Fn(T) -> Option<U>) -> Theirs<U> {
    match T::unmarshal(bytes) {
        Err(_) => Theirs::Refused,
        Ok((_, rest)) if !rest.is_empty() => Theirs::Rest,
        Ok((read, _)) => convert(read).map_or(Theirs::Unused, Theirs::Read),
    }
}

/// Each vector and its variants through both; `is_stricter` says of what only they read why we do not.
fn compare<T: PartialEq + std::fmt::Debug>(
    vectors: &[Vec<u8>],
    ours: impl Fn(&[u8]) -> Result<T, Malformed>,
    theirs: impl Fn(&[u8]) -> Theirs<T>,
    is_stricter: impl Fn(&T) -> bool,
) -> Count {
    let mut count = Count::default();
    let mut judge = |bytes: &[u8]| match (ours(bytes), theirs(bytes)) {
        (Ok(ours), Theirs::Read(theirs)) => {
            assert_eq!(ours, theirs, "{bytes:02x?}");
            count.same += 1;
        }
        (Ok(ours), _) => panic!("only we read {bytes:02x?}: {ours:?}"),
        (Err(_), Theirs::Refused) => count.both_refuse += 1,
        (Err(_), Theirs::Rest) => count.rest += 1,
        (Err(_), Theirs::Unused) => count.unused += 1,
        (Err(why), Theirs::Read(theirs)) => {
            assert!(is_stricter(&theirs), "only they read {theirs:?}: {why}");
            count.stricter += 1;
        }
    };
    for vector in vectors {
        judge(vector);
        for at in 0..vector.len() {
            judge(&vector[..at]);
            for bit in [1, 0x80] {
                let mut changed = vector.clone();
                changed[at] ^= bit;
                judge(&changed);
            }
        }
        judge(&[vector.as_slice(), &[0]].concat());
    }
    assert!(count.same as usize >= vectors.len(), "{count:?}");
    assert!(count.rest as usize >= vectors.len(), "{count:?}");
    count
}

fn hash(alg: TpmAlgId) -> Option<Hash> {
    Hash::from_alg(alg.value())
}

fn statement(theirs: TpmsAttest) -> Option<Attest> {
    let attested = match theirs.attested {
        TpmuAttest::Quote(quote) => {
            let mut selection = Vec::new();
            for bank in quote.pcr_select.iter() {
                let mut bits = [0; 4];
                bits.get_mut(..bank.pcr_select.len())?
                    .copy_from_slice(&bank.pcr_select);
                selection.push(PcrSelection {
                    bank: hash(bank.hash)?,
                    pcrs: u32::from_le_bytes(bits),
                });
            }
            Attested::Quote(Quoted {
                selection,
                digest: quote.pcr_digest.to_vec(),
            })
        }
        TpmuAttest::Certify(certify) => Attested::Certify(Certified {
            name: Name(certify.name.to_vec()),
            qualified: certify.qualified_name.to_vec(),
        }),
        TpmuAttest::Nv(nv) => Attested::Nv(NvCertified {
            index: Name(nv.index_name.to_vec()),
            offset: nv.offset.value(),
            contents: nv.nv_contents.to_vec(),
        }),
        TpmuAttest::Time(time) => Attested::Time(time.time.time.value()),
        _ => return None,
    };
    Some(Attest {
        signer: theirs.qualified_signer.to_vec(),
        extra: theirs.extra_data.to_vec(),
        clock: Clock {
            clock_ms: theirs.clock_info.clock.value(),
            resets: theirs.clock_info.reset_count.value(),
            restarts: theirs.clock_info.restart_count.value(),
            safe: theirs.clock_info.safe.into(),
            firmware: theirs.firmware_version.value(),
        },
        attested,
    })
}

#[test]
fn another_parser_reads_the_same_in_every_statement_and_its_variants() {
    let vectors = [
        "quote-ecc",
        "quote-rsa",
        "quote-ecc-plain",
        "quote-rsa-plain",
        "certify-dev-by-ak-ecc",
        "nvcertify",
        "nvextend-certify",
        "gettime",
    ]
    .map(|name| read(&format!("{name}.attest")));
    let count = compare(
        &vectors,
        Attest::parse,
        |bytes| theirs(bytes, statement),
        |_| false,
    );
    assert_eq!(count.stricter, 0, "{count:?}");
}

#[test]
fn another_parser_reads_the_same_in_every_signature_and_its_variants() {
    let vectors = [
        "quote-ecc",
        "quote-rsa",
        "certify-dev-by-ak-ecc",
        "nvcertify",
        "nvextend-certify",
        "gettime",
        "sign-dev",
    ]
    .map(|name| read(&format!("{name}.tpmt_signature")));
    let convert = |theirs: TpmtSignature| match theirs.signature {
        TpmuSignature::Rsassa(rsa) => Some(Signature::Rsa {
            hash: hash(rsa.hash)?,
            signature: rsa.sig.to_vec(),
        }),
        TpmuSignature::Ecdsa(ecdsa) => Some(Signature::Ecdsa {
            hash: hash(ecdsa.hash)?,
            r: ecdsa.signature_r.to_vec(),
            s: ecdsa.signature_s.to_vec(),
        }),
        _ => None,
    };
    let count = compare(
        &vectors,
        Signature::parse,
        |bytes| theirs(bytes, convert),
        |_| false,
    );
    assert_eq!(count.stricter, 0, "{count:?}");
}

/// Of a public area what both have.
#[derive(Debug, PartialEq)]
struct Area {
    name_alg: Hash,
    attributes: Attributes,
    policy: Vec<u8>,
    parameters: Parameters,
}

/// An algorithm that is not used here.
struct Unused;

type Scheme = Option<(u16, Option<Hash>)>;

/// AES in CFB mode or none; of others nothing is used here.
fn symmetric(theirs: TpmtSymDef) -> Result<Option<u16>, Unused> {
    match (theirs.key_bits, theirs.mode) {
        (TpmuSymKeyBits::Aes(bits), TpmuSymMode::Aes(TpmAlgId::Cfb)) => Ok(Some(bits.value())),
        (TpmuSymKeyBits::Null, _) => Ok(None),
        _ => Err(Unused),
    }
}

/// Those that TPMs have keys with.
fn scheme(alg: TpmAlgId, details: TpmuAsymScheme) -> Result<Scheme, Unused> {
    match (alg, details) {
        (TpmAlgId::Null, _) => Ok(None),
        (TpmAlgId::Rsaes, _) => Ok(Some((alg.value(), None))),
        (
            TpmAlgId::Rsassa | TpmAlgId::Rsapss | TpmAlgId::Oaep | TpmAlgId::Ecdsa,
            TpmuAsymScheme::Hash(scheme),
        ) => {
            let hash = hash(scheme.hash_alg).ok_or(Unused)?;
            Ok(Some((alg.value(), Some(hash))))
        }
        _ => Err(Unused),
    }
}

fn area(theirs: TpmtPublic) -> Option<Area> {
    let parameters = match (theirs.parameters, theirs.unique) {
        (TpmuPublicParms::Rsa(rsa), TpmuPublicId::Rsa(modulus)) => Parameters::Rsa {
            symmetric: symmetric(rsa.symmetric).ok()?,
            scheme: scheme(rsa.scheme.scheme, rsa.scheme.details).ok()?,
            bits: rsa.key_bits.value(),
            exponent: match rsa.exponent.value() {
                0 => 65_537,
                exponent => exponent,
            },
            modulus: modulus.to_vec(),
        },
        // P-256 and P-384, without a key derivation of their own.
        (TpmuPublicParms::Ecc(ecc), TpmuPublicId::Ecc(point))
            if [3, 4].contains(&ecc.curve_id.value()) && ecc.kdf.scheme == TpmAlgId::Null =>
        {
            Parameters::Ecc {
                symmetric: symmetric(ecc.symmetric).ok()?,
                scheme: scheme(ecc.scheme.scheme, ecc.scheme.details).ok()?,
                curve: ecc.curve_id.value(),
                x: point.x.to_vec(),
                y: point.y.to_vec(),
            }
        }
        (TpmuPublicParms::KeyedHash(_) | TpmuPublicParms::SymCipher(_), _) => Parameters::Other,
        _ => return None,
    };
    Some(Area {
        name_alg: hash(theirs.name_alg)?,
        attributes: Attributes(theirs.object_attributes.bits()),
        policy: theirs.auth_policy.to_vec(),
        parameters,
    })
}

#[test]
fn another_parser_reads_the_same_in_every_public_area_and_its_variants() {
    let vectors = [
        "ek-rsa2048",
        "ek-ecp384",
        "ak-ecc",
        "ak-rsa",
        "dev-ecc",
        "nvextend-key",
        "sealed",
    ]
    .map(|name| read(&format!("{name}.tpm2b_public"))[2..].to_vec());
    let ours = |bytes: &[u8]| {
        let public = Public::parse(bytes)?;
        Ok(Area {
            name_alg: public.name_alg,
            attributes: public.attributes,
            policy: public.policy,
            parameters: public.parameters,
        })
    };
    let count = compare(
        &vectors,
        ours,
        |bytes| theirs(bytes, area),
        |area| match &area.parameters {
            // The modulus has another length than its area says.
            Parameters::Rsa { bits, modulus, .. } => modulus.len() * 8 != usize::from(*bits),
            _ => false,
        },
    );
    assert!(count.stricter > 0 && count.unused > 0, "{count:?}");
}
