//! Quotes in a log: each a leaf that binds the head before it to the state of its machine (`docs/formats/attestation.md`).

use std::collections::{BTreeMap, VecDeque};

use jurat_proof::{
    Checkpoint, Cosignature, Digest, Note, Quotes, Signature as NoteSignature, VerifierKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bytes::{Base64, hex};
use crate::evidence::hash;
use crate::tpm::{
    Attest, Attested, Clock, Expected, Hash, PcrSelection, PcrValues, Public, QuoteError,
    Signature, Since, check_quote,
};

/// The PCRs of every quote: what firmware and boot loader measure, and the owner's keys of the boot loader
/// (TCG PC Client Platform Firmware Profile 1.06, 3.3.4; PCR 14 as shim uses it).
pub const SELECTION: [PcrSelection; 1] = [PcrSelection {
    bank: Hash::Sha256,
    pcrs: 0x43ff,
}];

/// The most heads that a quote may lie behind.
const HEADS_MAX: usize = 256;
/// The most findings that are listed; all are counted.
const FINDINGS_MAX: usize = 1_000;

/// The `detail` of a leaf `attestation.quote`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteLeaf {
    /// The head that it binds.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// What the quote was made after; without it nothing says when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// `TPMS_ATTEST` of the type quote over [`SELECTION`].
    pub attest: Base64,
    /// `TPMT_SIGNATURE` of the attestation key over it.
    pub signature: Base64,
    /// The values: bank, then PCR, in hex.
    pub pcrs: BTreeMap<String, BTreeMap<u8, String>>,
    /// `TPMS_ATTEST` of the type NV and its signature: the counter of starts, with the first quote after one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<Signed>,
}

/// A statement and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// `TPMS_ATTEST`.
    pub attest: Base64,
    /// `TPMT_SIGNATURE`.
    pub signature: Base64,
}

/// A cosignature that the device had when it asked for the quote: nobody could know it before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The cosigned head.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// The cosigner's name.
    pub by: String,
    /// Its timestamped signature (C2SP tlog-cosignature).
    pub cosignature: Base64,
}

impl After {
    /// The cosignature that this key made in a note.
    pub fn of(note: &Note, by: &VerifierKey) -> Option<Self> {
        let head = Checkpoint::parse(&note.text).ok()?;
        let made = note
            .signatures
            .iter()
            .find(|signature| by.made(signature))?;
        Some(Self {
            size: head.size,
            root: head.root,
            by: by.name.clone(),
            cosignature: Base64(made.bytes.clone()),
        })
    }

    /// The nonce that follows from it.
    pub fn nonce(&self) -> [u8; 32] {
        hash(&[b"jurat/nonce/v1\0", &self.cosignature])
    }

    /// Its time, in seconds since 1970, when one of these keys made it.
    pub fn time(&self, origin: &str, cosigners: &[VerifierKey]) -> Option<u64> {
        let key = cosigners.iter().find(|key| key.name == self.by)?;
        let head = Checkpoint {
            origin: origin.to_owned(),
            size: self.size,
            root: self.root,
        };
        let note = Note {
            text: head.body(),
            signatures: vec![NoteSignature {
                name: key.name.clone(),
                key_id: key.id(),
                bytes: self.cosignature.0.clone(),
            }],
        };
        let found = Cosignature::find(&note, key).ok()??;
        Some(found.time_s)
    }
}

/// What a quote of a head signs: nothing but this head, and after that nonce; zeros without one.
pub fn quote_binding(head: &Checkpoint, nonce: &[u8; 32]) -> [u8; 32] {
    hash(&[b"jurat/quote/v1\0", head.body().as_bytes(), nonce])
}

/// The same in the report of an enclave or of a confidential VM, which has room for 64 bytes: zeros behind it.
pub fn report_data(binding: &[u8; 32]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(binding);
    data
}

/// PCR values as they stand in a leaf.
pub fn write_pcrs(values: &PcrValues) -> BTreeMap<String, BTreeMap<u8, String>> {
    let mut banks: BTreeMap<String, BTreeMap<u8, String>> = BTreeMap::new();
    for ((bank, pcr), value) in &values.0 {
        banks
            .entry(bank.name().into())
            .or_default()
            .insert(*pcr, hex(value));
    }
    banks
}

fn read_pcrs(banks: &BTreeMap<String, BTreeMap<u8, String>>) -> Option<PcrValues> {
    let mut values = PcrValues::default();
    for (name, bank) in banks {
        // One bank is asked for.
        let hash = Hash::Sha256;
        if name != hash.name() {
            return None;
        }
        for (pcr, hex) in bank {
            // Nobody quotes another.
            if !SELECTION[0].indices().any(|quoted| quoted == *pcr) {
                return None;
            }
            values
                .0
                .insert((hash, *pcr), Digest::from_hex(hex)?.0.to_vec());
        }
    }
    Some(values)
}

macro_rules! findings {
    ($($variant:ident = $code:literal $severe:literal $text:literal,)*) => {
        /// What is wrong with, or worth knowing of, one quote.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Finding { $(#[doc = $text] $variant,)* }

        impl Finding {
            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// For people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Whether something does not hold: the quote does not count, or its machine is not accepted.
            pub const fn is_severe(self) -> bool {
                match self { $(Self::$variant => $severe,)* }
            }

            fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

findings! {
    Malformed = "quote.malformed" true "not a quote",
    Type = "quote.type" true "another statement of a TPM",
    Signature = "quote.signature" true "not signed by this device's attestation key",
    Qualifying = "quote.qualifying" true "of another head, another log or another nonce",
    Selection = "quote.selection" true "over other PCRs than must be quoted",
    Values = "quote.values" true "the PCR values are not those that were quoted",
    Head = "quote.head" true "of a head that this log does not have",
    After = "quote.after" true "the cosignature that it was made after is none",
    Clock = "quote.clock" true "the TPM's clock or its count of starts ran backwards",
    Counter = "quote.counter" true "the TPM's counter of starts did not go forward: an earlier state of it",
    Many = "quote.many" true "one of too many at once; it was not looked at",
    Unaccepted = "machine.unaccepted" true "the machine is in no state that the operator accepts",
    BootLog = "boot_log.mismatch" false "the boot log does not lead to the PCR values, or cannot be read",
    Stale = "quote.stale" false "made long after what it names: it says nothing of now",
    Missed = "quote.missed" false "the TPM's counter has starts that this log does not have",
    Firmware = "quote.firmware" false "the TPM's firmware changed",
    Pcrs = "quote.pcrs" false "PCRs changed without a start of the machine",
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Finding {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_code(&code).ok_or_else(|| serde::de::Error::custom("an unknown finding"))
    }
}

/// What a quote that counts says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    /// The head that it binds; `None` when that head lies before what is here.
    pub size: Option<u64>,
    /// When it was made at the earliest, in seconds since 1970.
    pub after_s: Option<u64>,
    /// The values.
    pub values: PcrValues,
    /// The machine was started since the quote before.
    pub rebooted: bool,
    /// It has the next value of the counter of starts: the first one of a run.
    pub counted: bool,
}

/// What is known of a device's quotes so far; small, and can be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The TPM's clock in the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<Clock>,
    /// The PCRs in the last one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pcrs: BTreeMap<String, BTreeMap<u8, String>>,
    /// The counter of starts: the name of its index, and its last value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counter: Option<(Base64, u64)>,
}

impl History {
    /// The values of the last quote that counts, by PCR; empty before there is one.
    pub fn pcrs(&self) -> BTreeMap<u8, String> {
        let bank = self.pcrs.get(Hash::Sha256.name());
        bank.cloned().unwrap_or_default()
    }
}

/// The heads that a quote may be of.
#[derive(Clone, Debug, Default)]
pub struct Heads(VecDeque<(u64, Digest)>);

impl Heads {
    /// Takes the next one.
    pub fn push(&mut self, size: u64, root: Digest) {
        if self.0.back().is_some_and(|(last, _)| *last == size) {
            return;
        }
        if self.0.len() >= HEADS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((size, root));
    }

    /// The newest of them, the newest last.
    pub fn newest(&self, count: usize) -> Vec<(u64, Digest)> {
        let from = self.0.len().saturating_sub(count);
        self.0.iter().skip(from).copied().collect()
    }

    /// Whether this is one of them; `None` when it lies before all that are known.
    fn has(&self, size: u64, root: &Digest) -> Option<bool> {
        match self.0.front() {
            Some((first, _)) if size >= *first => {
                Some(self.0.iter().any(|head| *head == (size, *root)))
            }
            _ => None,
        }
    }
}

/// Who judges the quotes of one log.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The log.
    pub origin: &'a str,
    /// The device's attestation key.
    pub ak: &'a Public,
    /// Whose cosignatures say when.
    pub cosigners: &'a [VerifierKey],
}

impl Judge<'_> {
    /// Judges the next quote of the log. What is found does not always keep it from counting.
    pub fn quote(
        &self,
        history: &mut History,
        heads: &Heads,
        detail: &Map<String, Value>,
    ) -> (Option<Good>, Vec<Finding>) {
        let mut findings = Vec::new();
        match self.try_quote(history, heads, detail, &mut findings) {
            Ok(good) => (Some(good), findings),
            Err(severe) => (None, vec![severe]),
        }
    }

    fn try_quote(
        &self,
        history: &mut History,
        heads: &Heads,
        detail: &Map<String, Value>,
        findings: &mut Vec<Finding>,
    ) -> Result<Good, Finding> {
        // Arrays of the same values would be read as well.
        let is_array = |name: &str| detail.get(name).is_some_and(Value::is_array);
        if is_array("after") || is_array("counter") {
            return Err(Finding::Malformed);
        }
        let leaf: QuoteLeaf = serde_json::from_value(Value::Object(detail.clone()))
            .map_err(|_| Finding::Malformed)?;
        let head = Checkpoint {
            origin: self.origin.to_owned(),
            size: leaf.size,
            root: leaf.root,
        };
        let nonce = leaf.after.as_ref().map_or([0; 32], After::nonce);
        let binding = quote_binding(&head, &nonce);
        let values = read_pcrs(&leaf.pcrs).ok_or(Finding::Values)?;
        let expected = Expected {
            qualifying: &binding,
            selection: &SELECTION,
            values: &values,
        };
        let clock = check_quote(&leaf.attest, &leaf.signature, self.ak, &expected)?;
        let is_head = heads.has(leaf.size, &leaf.root);
        if is_head == Some(false) {
            return Err(Finding::Head);
        }
        let after_s = match &leaf.after {
            None => None,
            Some(after) => {
                let time = after.time(self.origin, self.cosigners);
                Some(time.ok_or(Finding::After)?)
            }
        };
        let mut rebooted = false;
        if let Some(before) = &history.clock {
            let since = clock.since(before).map_err(|_| Finding::Clock)?;
            rebooted = matches!(since, Since::Rebooted(_));
            // The same statement once more: its clock stands still.
            if !rebooted && clock.clock_ms == before.clock_ms {
                return Err(Finding::Clock);
            }
            if clock.firmware != before.firmware {
                findings.push(Finding::Firmware);
            }
            if !rebooted && history.pcrs != leaf.pcrs {
                findings.push(Finding::Pcrs);
            }
        }
        let mut counter = history.counter.clone();
        if let Some(signed) = &leaf.counter {
            let (index, value) = self.counter(signed, &binding)?;
            if let Some((known, last)) = &counter {
                if *known != index || value <= *last {
                    return Err(Finding::Counter);
                }
                if value > last + 1 {
                    findings.push(Finding::Missed);
                }
            }
            counter = Some((index, value));
        }
        *history = History {
            clock: Some(clock),
            pcrs: leaf.pcrs,
            counter,
        };
        Ok(Good {
            size: is_head.map(|_| leaf.size),
            after_s,
            values,
            rebooted,
            counted: leaf.counter.is_some(),
        })
    }

    fn counter(&self, signed: &Signed, binding: &[u8; 32]) -> Result<(Base64, u64), Finding> {
        let signature = Signature::parse(&signed.signature).map_err(|_| Finding::Counter)?;
        let verified = signature.verify(self.ak, &signed.attest);
        verified.map_err(|_| Finding::Counter)?;
        let attest = Attest::parse(&signed.attest).map_err(|_| Finding::Counter)?;
        let Attested::Nv(content) = attest.attested else {
            return Err(Finding::Counter);
        };
        let value = content.contents.as_slice().try_into();
        let value = value
            .map(u64::from_be_bytes)
            .map_err(|_| Finding::Counter)?;
        if attest.extra != *binding || content.offset != 0 {
            return Err(Finding::Counter);
        }
        Ok((Base64(content.index.0), value))
    }
}

impl From<QuoteError> for Finding {
    fn from(error: QuoteError) -> Self {
        match error {
            QuoteError::Malformed(_) => Self::Malformed,
            QuoteError::Type => Self::Type,
            QuoteError::Key(_) | QuoteError::Signature(_) => Self::Signature,
            QuoteError::Qualifying => Self::Qualifying,
            QuoteError::Selection | QuoteError::Bank(_) => Self::Selection,
            QuoteError::Value { .. } | QuoteError::Digest => Self::Values,
        }
    }
}

/// Verdicts in the words of EAR (draft-ietf-rats-ear, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No quote says anything.
    #[default]
    None,
    /// All that was quoted is as it should be.
    Affirming,
    /// Something is worth a look.
    Warning,
    /// Something does not hold.
    Contraindicated,
}

/// What all quotes of a range say, so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    status: Status,
    quotes: Quotes,
    waiting: Vec<(u64, u64)>,
}

impl Tally {
    /// Takes what was found of the quote in this leaf.
    pub fn take(&mut self, seq: u64, good: Option<&Good>, findings: &[Finding]) {
        let quotes = &mut self.quotes;
        match good {
            Some(good) => {
                quotes.good += 1;
                quotes.size = quotes.size.max(good.size);
                quotes.reboots += u64::from(good.rebooted);
                match good.after_s {
                    // Bounded by heads: each empties it.
                    Some(after_s) if self.waiting.len() < HEADS_MAX => {
                        self.waiting.push((seq, after_s));
                    }
                    _ => quotes.undated += 1,
                }
            }
            None => quotes.bad += 1,
        }
        for finding in findings {
            if quotes.findings.len() < FINDINGS_MAX {
                quotes.findings.push((seq, finding.code()));
            }
        }
        self.status = self.status.worse(Status::of(findings));
    }

    /// Takes the next head that a witness cosigned.
    pub fn cosigned(&mut self, size: u64, time_s: u64) {
        for (_, after_s) in self.waiting.extract_if(.., |(seq, _)| *seq < size) {
            let window = time_s.saturating_sub(after_s);
            self.quotes.window_s = self.quotes.window_s.max(Some(window));
        }
    }

    /// All that they say. What no witness cosigned has no later bound: it is undated.
    pub fn finish(mut self) -> Quotes {
        self.quotes.undated += self.waiting.len() as u64;
        self.quotes.status = self.status.name();
        self.quotes
    }
}

impl Status {
    /// What these findings of one quote make of it.
    pub fn of(findings: &[Finding]) -> Self {
        if findings.iter().any(|finding| finding.is_severe()) {
            Self::Contraindicated
        } else if findings.is_empty() {
            Self::Affirming
        } else {
            Self::Warning
        }
    }

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }

    fn worse(self, other: Self) -> Self {
        if (other as u8) > self as u8 {
            other
        } else {
            self
        }
    }
}
