//! Bytes as a TPM writes them (TCG TPM 2.0 Library Specification, Part 2), made of software keys: right and wrong ones.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::HeldSigner;
use jurat_proof::{Checkpoint, Cosignature, Digest, Signer, sha256};
use serde_json::{Value, json};

use super::kept;
use super::maker::{By, KEYS, ORIGIN, T0};

/// `TPM_ST_ATTEST_NV`, `..._CERTIFY`, `..._QUOTE`, `..._TIME`.
pub(super) const NV: u16 = 0x8014;
const CERTIFY: u16 = 0x8017;
pub(super) const QUOTE: u16 = 0x8018;
pub(super) const TIME: u16 = 0x8019;

const FIXED_TPM: u32 = 1 << 1;
pub(super) const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
/// `fixedTPM`, `fixedParent`, `sensitiveDataOrigin`, `userWithAuth`.
const KEPT: u32 = FIXED_TPM | 1 << 4 | 1 << 5 | 1 << 6;

/// The attestation key, the one for connections, and one that is not in this TPM.
pub(super) struct Chip {
    pub(super) ak: HeldSigner,
    tls: HeldSigner,
    pub(super) other: HeldSigner,
}

pub(super) static CHIP: LazyLock<Chip> = LazyLock::new(|| Chip {
    ak: kept::key(20, "ak"),
    tls: kept::key(21, "tls"),
    other: kept::key(22, ORIGIN),
});

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// `TPMT_PUBLIC` of a P-256 key; ECDSA with SHA-256 where it is restricted to one scheme.
fn ecc(key: &HeldSigner, attributes: u32) -> Vec<u8> {
    let point = key.verifier_key().key.bytes();
    let scheme: &[u16] = match attributes & RESTRICTED {
        0 => &[0x0010],
        _ => &[0x0018, 0x000b],
    };
    let mut out = vec![0x00, 0x23, 0x00, 0x0b];
    out.extend(attributes.to_be_bytes());
    // No policy; no symmetric algorithm; the scheme; the curve; no derivation.
    for word in [&[0x0000, 0x0010], scheme, &[0x0003, 0x0010]].concat() {
        out.extend(u16::to_be_bytes(word));
    }
    [out, sized(&point[1..33]), sized(&point[33..])].concat()
}

/// `TPMT_PUBLIC` of an endorsement key of RSA; nobody knows the factors of its number.
fn ek(attributes: u32) -> Vec<u8> {
    let mut modulus: Vec<u8> = (0..8_u8)
        .flat_map(|part| sha256(&[b"ek", &[part]]).0)
        .collect();
    modulus[0] |= 0x80;
    let mut out = vec![0x00, 0x01, 0x00, 0x0b];
    out.extend(attributes.to_be_bytes());
    out.extend(sized(&[0; 32]));
    // AES with 128 bits in CFB; no scheme; 2,048 bits; the usual exponent.
    for word in [0x0006, 0x0080, 0x0043, 0x0010, 0x0800, 0, 0] {
        out.extend(u16::to_be_bytes(word));
    }
    [out, sized(&modulus)].concat()
}

fn name_of(public: &[u8]) -> Vec<u8> {
    [&[0x00, 0x0b], sha256(&[public]).0.as_slice()].concat()
}

/// The name of the endorsement key, as the collector's leaf has it.
pub(super) fn ek_name() -> String {
    // SHA-256 before its digest.
    format!("000b{}", sha256(&[&ek(FIXED_TPM | RESTRICTED | DECRYPT)]))
}

/// `TPMS_CLOCK_INFO` and the firmware.
#[derive(Clone)]
pub(super) struct Clock {
    pub(super) ms: u64,
    pub(super) resets: u32,
    pub(super) restarts: u32,
    pub(super) safe: bool,
    pub(super) firmware: u64,
}

/// `TPMS_ATTEST`.
pub(super) fn attest(kind: u16, extra: &[u8], clock: &Clock, body: &[u8]) -> Vec<u8> {
    let mut out = b"\xffTCG".to_vec();
    out.extend(kind.to_be_bytes());
    out.extend(sized(&name_of(b"whoever signs")));
    out.extend(sized(extra));
    out.extend(clock.ms.to_be_bytes());
    out.extend(clock.resets.to_be_bytes());
    out.extend(clock.restarts.to_be_bytes());
    out.push(clock.safe.into());
    out.extend(clock.firmware.to_be_bytes());
    out.extend(body);
    out
}

/// `TPMT_SIGNATURE`: ECDSA with SHA-256.
fn signature(key: &HeldSigner, message: &[u8]) -> Vec<u8> {
    let der = key.sign(message).unwrap();
    let (r, rest) = der[4..].split_at(der[3].into());
    let numbers = [r, &rest[2..]].map(|number| sized(number.strip_prefix(&[0]).unwrap_or(number)));
    [vec![0x00, 0x18, 0x00, 0x0b], numbers.concat()].concat()
}

fn signed(key: &HeldSigner, attest: &[u8]) -> Value {
    json!({ "attest": BASE64.encode(attest), "signature": BASE64.encode(signature(key, attest)) })
}

/// What a device shows when it enrols, and in which way it is wrong.
pub(super) struct Shown {
    pub(super) device: &'static str,
    pub(super) ek: u32,
    pub(super) ak: u32,
    pub(super) log: u32,
    pub(super) key: &'static HeldSigner,
    /// Whom the attestation key certified, and who signed that.
    pub(super) certified: &'static HeldSigner,
    pub(super) signer: &'static HeldSigner,
    pub(super) rest: &'static [u8],
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            device: "device",
            ek: FIXED_TPM | RESTRICTED | DECRYPT,
            ak: KEPT | RESTRICTED | SIGN,
            log: KEPT | SIGN,
            key: &KEYS.hardware,
            certified: &KEYS.hardware,
            signer: &CHIP.ak,
            rest: b"",
        }
    }
}

impl Shown {
    pub(super) fn json(&self) -> Value {
        let binding = sha256(&[b"jurat/certify/v1\0", self.device.as_bytes()]).0;
        let clock = Clock {
            ms: 1_000,
            resets: 1,
            restarts: 0,
            safe: true,
            firmware: 7,
        };
        let certify = |public: Vec<u8>, certified: &[u8]| {
            let body = [
                sized(&name_of(certified)),
                sized(&name_of(b"its parents")),
                self.rest.to_vec(),
            ];
            let attest = attest(CERTIFY, &binding, &clock, &body.concat());
            let mut out = signed(self.signer, &attest);
            out["public"] = BASE64.encode(public).into();
            out
        };
        json!({
            "ek": BASE64.encode(ek(self.ek)), "ak": BASE64.encode(ecc(&CHIP.ak, self.ak)),
            "log": certify(ecc(self.key, self.log), &ecc(self.certified, self.log)),
            "tls": certify(ecc(&CHIP.tls, KEPT | SIGN), &ecc(&CHIP.tls, KEPT | SIGN)),
        })
    }
}

/// What a quote must be of.
const QUOTED: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// A quote before it is signed.
#[derive(Clone)]
pub(super) struct Quote {
    pub(super) head: (u64, Digest),
    /// A cosigned head, who cosigned it, and that line with its first byte behind the time changed by so much.
    pub(super) after: Option<(u64, Digest, By, u8)>,
    pub(super) clock: Clock,
    pub(super) pcrs: BTreeMap<u8, Digest>,
    /// The value of the counter, and its index.
    pub(super) counter: Option<(Vec<u8>, u32)>,
    pub(super) kind: u16,
    /// Instead of what it must be.
    pub(super) extra: Option<Digest>,
    pub(super) selection: Vec<u8>,
    pub(super) rest: &'static [u8],
    pub(super) signer: &'static HeldSigner,
}

impl Quote {
    pub(super) fn of(head: (u64, Digest)) -> Self {
        Self {
            head,
            after: None,
            clock: Clock {
                ms: 5_000,
                resets: 1,
                restarts: 0,
                safe: true,
                firmware: 7,
            },
            pcrs: QUOTED.map(|pcr| (pcr, sha256(&[b"pcr", &[pcr]]))).into(),
            counter: None,
            kind: QUOTE,
            extra: None,
            selection: vec![0, 0, 0, 1, 0x00, 0x0b, 3, 0xff, 0x43, 0x00],
            rest: b"",
            signer: &CHIP.ak,
        }
    }

    /// The `detail` of its leaf.
    pub(super) fn detail(&self) -> Value {
        let body = |(size, root): (u64, Digest)| {
            let origin = ORIGIN.to_owned();
            Checkpoint { origin, size, root }.body()
        };
        let (mut after, mut nonce) = (Value::Null, [0; 32]);
        if let Some((size, root, (key, time), spoil)) = &self.after {
            let line = Cosignature::sign(*key, *time, &body((*size, *root))).unwrap();
            let mut bytes = line.bytes;
            bytes[8] ^= spoil;
            nonce = sha256(&[b"jurat/nonce/v1\0", &bytes]).0;
            after = json!({
                "size": size, "root": root, "by": line.name, "cosignature": BASE64.encode(bytes),
            });
        }
        let extra = sha256(&[b"jurat/quote/v1\0", body(self.head).as_bytes(), &nonce]);
        let extra = self.extra.unwrap_or(extra).0;
        let quoted: Vec<u8> = QUOTED.iter().flat_map(|pcr| self.pcrs[pcr].0).collect();
        let statement = match self.kind {
            TIME => vec![0; 8 + 8 + 4 + 4 + 1 + 8],
            _ => [self.selection.clone(), sized(&sha256(&[&quoted]).0)].concat(),
        };
        let statement = [statement.as_slice(), self.rest].concat();
        let attest = |kind, body: &[u8]| attest(kind, &extra, &self.clock, body);
        let mut detail = signed(self.signer, &attest(self.kind, &statement));
        detail["size"] = self.head.0.into();
        detail["root"] = json!(self.head.1);
        let pcrs: BTreeMap<String, Digest> = self
            .pcrs
            .iter()
            .map(|(pcr, value)| (pcr.to_string(), *value))
            .collect();
        detail["pcrs"] = json!({ "sha256": pcrs });
        if self.after.is_some() {
            detail["after"] = after;
        }
        if let Some((value, index)) = &self.counter {
            let body = [
                sized(&name_of(&index.to_be_bytes())),
                vec![0, 0],
                sized(value),
            ];
            detail["counter"] = signed(&CHIP.ak, &attest(NV, &body.concat()));
        }
        detail
    }
}

/// A value of the counter.
pub(super) fn counter(value: u64) -> (Vec<u8>, u32) {
    (value.to_be_bytes().to_vec(), 0x0180_0001)
}

/// A witness's cosignature of this head, so many seconds after leaf 0.
pub(super) fn cosigned(head: (u64, Digest), number: usize, after: u64) -> (u64, Digest, By, u8) {
    let by: By = (&KEYS.witnesses[number - 1], T0 + after);
    (head.0, head.1, by, 0)
}
