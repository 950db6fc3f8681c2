//! A receipt: the proof that a log's head stands in the log of the collector that accepted it.
//!
//! The text is a C2SP `tlog-proof`; the entry that it proves travels in its `extra` line. With the
//! proof from an event to that head, two proofs lead from any event to the log of logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_event::{ENTRY_BYTES_MAX, Kind};

use crate::note::NOTE_BYTES_MAX;
use crate::text::{decimal, read_proof, write_proof};
use crate::{
    Checkpoint, Digest, EntryError, EntryView, Note, NoteError, ProofError, VerifierKey, leaf_hash,
    verify_inclusion,
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A path in a tree of at most 2^64 leaves is no longer.
const HASHES_MAX: usize = 64;

/// The longest text of a receipt: entry and hashes in base64, and the note.
pub const RECEIPT_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX + 64 * HASHES_MAX + NOTE_BYTES_MAX;

/// Why bytes are not a receipt, or not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not the text of a receipt.
    #[error("not a receipt: {0}")]
    Malformed(&'static str),
    /// The checkpoint is not a note, or its signature is bad.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The checkpoint is not signed by the collector's log key, or is of another log.
    #[error("the checkpoint is not one of {0}")]
    NotTheLogs(String),
    /// The entry does not stand in that log.
    #[error("the entry does not stand in the collector's log: {0}")]
    Inclusion(#[from] ProofError),
    /// The entry cannot be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry says something else than that this head was accepted.
    #[error("the entry does not say that this head was accepted: {0}")]
    OtherHead(&'static str),
}

/// What an own-log entry and its path look like as one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry of the collector's log: a `frontier.accepted`.
    pub entry: Vec<u8>,
    /// Its place there.
    pub index: u64,
    /// The path from its leaf to the root.
    pub proof: Vec<Digest>,
    /// The head of the collector's log, with its signatures.
    pub note: Note,
}

/// What a collector's log says of an enrolment.
pub(crate) struct Enrolment {
    pub(crate) key: VerifierKey,
    pub(crate) kind: String,
    /// SHA-256 of the evidence, hex.
    pub(crate) evidence: Option<String>,
    pub(crate) ek: Option<String>,
    pub(crate) tpm: Option<serde_json::Value>,
}

/// Where a receipt that verified leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The leaf in the collector's log.
    pub index: u64,
    /// The size of that log's head.
    pub log_size: u64,
    /// Its root.
    pub log_root: Digest,
}

impl Receipt {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`] or [`ReceiptError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let malformed = ReceiptError::Malformed;
        if bytes.len() > RECEIPT_BYTES_MAX {
            return Err(malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        let (head, note) = text
            .split_once("\n\n")
            .ok_or(malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(malformed("of another kind or version"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let entry = extra.and_then(|extra| BASE64.decode(extra).ok());
        let entry = entry.ok_or(malformed("no entry in base64"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(decimal).ok_or(malformed("no index"))?;
        let proof = read_proof(lines, HASHES_MAX).map_err(malformed)?;
        Ok(Self {
            entry,
            index,
            proof,
            note: Note::parse(note.as_bytes())?,
        })
    }

    /// The text form.
    pub fn encode(&self) -> String {
        format!(
            "{HEADER}\nextra {}\nindex {}\n{}\n{}",
            BASE64.encode(&self.entry),
            self.index,
            write_proof(&self.proof),
            self.note.encode()
        )
    }

    /// The head of the collector's log in it, unverified.
    ///
    /// # Errors
    /// [`ReceiptError::Note`] when it is not a head.
    pub fn head(&self) -> Result<Checkpoint, ReceiptError> {
        Ok(Checkpoint::parse(&self.note.text)?)
    }

    /// Whether the entry says that this very head was accepted.
    ///
    /// # Errors
    /// [`ReceiptError::OtherHead`] or [`ReceiptError::Entry`].
    pub fn is_of(&self, origin: &str, size: u64, root: &Digest) -> Result<(), ReceiptError> {
        let entry = EntryView::parse(&self.entry)?;
        let says = |holds: bool, what| holds.then_some(()).ok_or(ReceiptError::OtherHead(what));
        says(entry.is(Kind::FrontierAccepted), "another kind")?;
        says(entry.seq == self.index, "another place")?;
        let detail = entry.detail_map();
        let text = |name: &str| detail.get(name).and_then(serde_json::Value::as_str);
        says(text("origin") == Some(origin), "another log")?;
        let found = detail.get("size").and_then(serde_json::Value::as_u64);
        says(found == Some(size), "another size")?;
        let found = text("root").and_then(Digest::from_hex);
        says(found.as_ref() == Some(root), "another root")
    }

    /// What the entry says of the enrolment of this log.
    ///
    /// # Errors
    /// [`ReceiptError::OtherHead`] when it is not one, [`ReceiptError::Entry`] when it cannot be read.
    pub(crate) fn enrolment(&self, origin: &str) -> Result<Enrolment, ReceiptError> {
        let entry = EntryView::parse(&self.entry)?;
        let says = |holds: bool, what| holds.then_some(()).ok_or(ReceiptError::OtherHead(what));
        says(entry.is(Kind::DeviceEnrolled), "another kind")?;
        says(entry.seq == self.index, "another place")?;
        let mut detail = entry.detail_map();
        let mut text = |name: &str| match detail.remove(name) {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        says(text("origin").as_deref() == Some(origin), "another log")?;
        let text_form = text("key").ok_or(ReceiptError::OtherHead("no key"))?;
        let key = VerifierKey::parse(&text_form)?;
        says(key.to_string() == text_form, "a key in another form")?;
        Ok(Enrolment {
            key,
            kind: text("key_kind").unwrap_or_default(),
            evidence: text("evidence"),
            ek: text("ek"),
            tpm: detail.remove("tpm"),
        })
    }

    /// Whether the entry stands under this head.
    ///
    /// # Errors
    /// [`ReceiptError::Inclusion`].
    pub fn is_under(&self, head: &Checkpoint) -> Result<(), ReceiptError> {
        let leaf = leaf_hash(&self.entry);
        let verified = verify_inclusion(self.index, head.size, &leaf, &self.proof, &head.root);
        Ok(verified?)
    }

    /// Its head, when the collector's log, whose key this is, says what it says.
    fn is_of_log(&self, collector: &VerifierKey) -> Result<Checkpoint, ReceiptError> {
        let head = self.head()?;
        if head.origin != collector.name || !self.note.is_signed_by(collector)? {
            return Err(ReceiptError::NotTheLogs(collector.name.clone()));
        }
        self.is_under(&head)?;
        Ok(head)
    }

    /// Verifies that the collector's log, whose key this is, says that it enrolled a device with this log.
    ///
    /// # Errors
    /// [`ReceiptError`]: the receipt shows nothing of the kind.
    pub fn verify_enrolment(
        &self,
        collector: &VerifierKey,
        origin: &str,
    ) -> Result<(), ReceiptError> {
        self.is_of_log(collector)?;
        self.enrolment(origin).map(drop)
    }

    /// Verifies that the collector's log, whose key this is, says that it accepted this very head.
    ///
    /// # Errors
    /// [`ReceiptError`]: the receipt shows nothing of the kind.
    pub fn verify(
        &self,
        collector: &VerifierKey,
        origin: &str,
        size: u64,
        root: &Digest,
    ) -> Result<Received, ReceiptError> {
        let head = self.is_of_log(collector)?;
        self.is_of(origin, size, root)?;
        Ok(Received {
            index: self.index,
            log_size: head.size,
            log_root: head.root,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::tests::Key;
    use crate::{inclusion_proof, root_of};
    use serde_json::json;

    const LOG: &str = "example.org/jurat/collector/0";
    const ORIGIN: &str = "example.org/jurat/d/0";
    const ROOT: Digest = Digest([7; 32]);

    fn entry(seq: u64, kind: &str, detail: serde_json::Value) -> Vec<u8> {
        let fields = json!({
            "salt": "c2FsdHNhbHRzYWx0c2FsdA", "seq": seq, "boot": "b", "time": "t", "kind": kind, "detail": detail,
        });
        format!("{{\"v\":1,{}", &fields.to_string()[1..]).into_bytes()
    }

    fn accepted(seq: u64) -> Vec<u8> {
        let root = ROOT.to_string();
        let detail = json!({ "origin": ORIGIN, "size": 5, "root": root });
        entry(seq, "frontier.accepted", detail)
    }

    /// A receipt for the entry at place 3 of seven.
    fn receipt(key: &Key, entry: Vec<u8>) -> Receipt {
        let mut leaves: Vec<Digest> = (0..7_u8).map(|leaf| leaf_hash(&[leaf])).collect();
        leaves[3] = leaf_hash(&entry);
        let head = Checkpoint {
            origin: key.1.name.clone(),
            size: 7,
            root: root_of(&leaves),
        };
        Receipt {
            entry,
            index: 3,
            proof: inclusion_proof(&leaves, 3).unwrap(),
            note: head.sign(key).unwrap(),
        }
    }

    #[test]
    fn a_receipt_leads_from_a_head_into_the_collectors_log_and_a_spoilt_one_nowhere() {
        let key = Key::new(1, LOG);
        let good = receipt(&key, accepted(3));
        let text = good.encode();
        assert_eq!(Receipt::parse(text.as_bytes()).unwrap(), good);
        let check = |receipt: &Receipt| receipt.verify(&key.1, ORIGIN, 5, &ROOT);
        let found = check(&good).unwrap();
        assert_eq!((found.index, found.log_size), (3, 7));

        for (name, size, root) in [
            ("example.org/jurat/e/0", 5, ROOT),
            (ORIGIN, 6, ROOT),
            (ORIGIN, 5, Digest([8; 32])),
        ] {
            let refused = good.verify(&key.1, name, size, &root);
            assert!(
                matches!(refused, Err(ReceiptError::OtherHead(_))),
                "{refused:?}"
            );
        }
        let thief = Key::new(2, LOG);
        assert!(matches!(
            check(&receipt(&thief, accepted(3))),
            Err(ReceiptError::NotTheLogs(_))
        ));
        let elsewhere = Key::new(1, "example.org/jurat/collector/1");
        assert!(matches!(
            check(&receipt(&elsewhere, accepted(3))),
            Err(ReceiptError::NotTheLogs(_))
        ));
        let mut spoilt = good.clone();
        spoilt.note.text = spoilt.note.text.replace("\n7\n", "\n8\n");
        assert!(matches!(
            check(&spoilt),
            Err(ReceiptError::Note(NoteError::BadSignature(_)))
        ));
        for spoil in [
            (|receipt: &mut Receipt| receipt.index = 2) as fn(&mut Receipt),
            |receipt| receipt.index = 7,
            |receipt| receipt.proof[0].0[0] ^= 1,
            |receipt| receipt.proof.truncate(2),
            |receipt| *receipt.entry.last_mut().unwrap() = b' ',
        ] {
            let mut spoilt = good.clone();
            spoil(&mut spoilt);
            assert!(matches!(check(&spoilt), Err(ReceiptError::Inclusion(_))));
        }
        // Genuine leaves of that log that say something else.
        for (kind, seq) in [("device.enrolled", 3), ("frontier.accepted", 4)] {
            let detail = json!({ "origin": ORIGIN, "size": 5, "root": ROOT.to_string() });
            let other = receipt(&key, entry(seq, kind, detail));
            assert!(matches!(check(&other), Err(ReceiptError::OtherHead(_))));
        }
        let other = receipt(&key, b"{}".to_vec());
        assert!(matches!(check(&other), Err(ReceiptError::Entry(_))));
    }

    #[test]
    fn a_text_that_is_not_quite_a_receipt_is_refused() {
        let text = receipt(&Key::new(1, LOG), accepted(3)).encode();
        for (from, to) in [
            ("@v1", "@v2"),
            ("extra ", "extra  "),
            ("extra ", "other "),
            ("index 3", "index 03"),
            ("index 3", "index +3"),
            ("index 3", "index 99999999999999999999"),
            ("index 3\n", "index 3\nAAAA\n"),
            ("\n\n", "\n"),
        ] {
            let spoilt = text.replacen(from, to, 1);
            assert_ne!(spoilt, text);
            assert!(Receipt::parse(spoilt.as_bytes()).is_err(), "{from} as {to}");
        }
        for cut in 0..text.len() {
            assert!(
                Receipt::parse(&text.as_bytes()[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        assert!(Receipt::parse(&vec![b'a'; RECEIPT_BYTES_MAX + 1]).is_err());
    }
}
