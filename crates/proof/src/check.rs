//! Every check of the verifier, by its code (`docs/formats/verdict.md`).

use serde::{Serialize, Serializer};

macro_rules! checks {
    ($($variant:ident = $code:literal $text:literal,)*) => {
        /// What a verifier checks. The codes are public and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check { $(#[doc = $text] $variant,)* }

        impl Check {
            /// All of them.
            pub const ALL: &'static [Check] = &[$(Check::$variant,)*];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Check::$variant => $code,)* }
            }

            /// What is wrong when it does not hold, for people.
            pub const fn text(self) -> &'static str {
                match self { $(Check::$variant => $text,)* }
            }
        }
    };
}

checks! {
    Trust = "no_trust" "there is no trust file",
    BundleCut = "bundle.cut" "the bundle ends too early",
    BundleLayout = "bundle.layout" "the bundle holds something else than a bundle holds, or in another order",
    BundleLimit = "bundle.limit" "a part of the bundle is longer than it may be",
    BundleManifest = "bundle.manifest" "jurat.json is not that of a bundle of this version",
    BundleHashes = "bundle.hashes" "a list of leaf hashes is not a sequence of 32 bytes each",
    NoteMalformed = "note.malformed" "the checkpoint is not a signed note of a tree head",
    CheckpointEmpty = "checkpoint.empty" "a head of size 0 proves nothing",
    Origin = "unknown_origin" "the log is not named in the trust file",
    CheckpointSignature = "checkpoint.signature" "a signature of an accepted key on the checkpoint does not verify",
    ManifestHead = "manifest.head" "jurat.json names another log or size than the signed checkpoint",
    ManifestRange = "manifest.range" "jurat.json names a range that is none",
    PrefixLength = "prefix.length" "the roots before the range are not as many as there must be",
    RecordFraming = "record.framing" "the bytes are not records",
    LeafUnlisted = "leaf.unlisted" "the leaf has no leaf hash",
    EntryMalformed = "entry.malformed" "the entry cannot be read",
    EntrySeq = "entry.seq" "the entry says that it stands at another place",
    EntryOpening = "entry.opening" "leaf 0 does not open this log",
    PayloadStray = "payload.stray" "a payload that no entry commits to",
    PayloadCommitment = "payload.commitment" "the payload is not the one that was committed",
    LeavesPlace = "leaves.place" "the leaf hashes belong to another place",
    SessionGap = "session.gap" "a leaf of the session is missing or stands twice",
    SessionCount = "session.count" "the session ends with another count than it has leaves",
    SessionMany = "session.many" "more sessions without an end than a log may have",
    BatchCount = "batch.count" "the batch does not have the count that it says",
    BatchChain = "batch.chain" "the batch does not have the chain head that it says",
    Rotation = "rotation" "a change of key that the old and the new key did not make",
    RotationMany = "rotation.many" "more rotations than a log may have",
    RotationPending = "rotation.pending" "a second change of key before a checkpoint made the first count",
    HeadMalformed = "head.malformed" "an earlier checkpoint is not one",
    HeadOrigin = "head.origin" "an earlier checkpoint is of another log",
    HeadRoot = "head.root" "an earlier checkpoint is not the head of the leaves before it",
    HeadSignature = "head.signature" "a signature of an accepted key on an earlier checkpoint does not verify",
    HeadKey = "head.key" "an earlier checkpoint is not signed by an accepted key",
    HeadCosignature = "head.cosignature" "a witness's signature on an earlier checkpoint does not verify",
    HeadOrder = "head.order" "a witness's cosignature times run backwards",
    Key = "unknown_key" "no accepted key signed the checkpoint",
    CheckpointRetired = "checkpoint.retired" "the checkpoint is signed by a key that was rotated away before",
    LeafChanged = "leaf.changed" "the leaf was changed",
    Tail = "tail" "the checkpoint is over another number of leaves",
    SeenRoot = "seen.root" "the log had another root when it was seen with so many leaves",
    Root = "root" "the leaves do not have the signed root, and neither do the leaf hashes",
    LeafList = "leaf.list" "the list of leaf hashes was changed; the leaves are as signed",
    LaterMalformed = "later.malformed" "the later head is not one",
    LaterOrigin = "later.origin" "the later head is of another log",
    LaterSize = "later.size" "the later head is smaller",
    LaterSignature = "later.signature" "a signature of an accepted key on the later head does not verify",
    LaterConsistency = "later.consistency" "the later head does not go on from this one",
    Behind = "behind" "the log was longer when it was seen",
    CosignatureSignature = "cosignature.signature" "a cosigner's signature on the checkpoint does not verify",
    CosignatureOrder = "cosignature.order" "a witness's last cosignature is earlier than the one before",
    ReceiptMalformed = "receipt.malformed" "the receipt is not one",
    ReceiptOrigin = "receipt.origin" "the receipt is of another log than the collector's",
    ReceiptSignature = "receipt.signature" "a signature on the receipt does not verify",
    ReceiptHead = "receipt.head" "the receipt is of another head",
    ReceiptInclusion = "receipt.inclusion" "the receipt's leaf is not in the collector's log",
    EnrolmentMalformed = "enrolment.malformed" "the receipt of the enrolment is not one",
    EnrolmentOrigin = "enrolment.origin" "the receipt of the enrolment is of another log than the collector's",
    EnrolmentSignature = "enrolment.signature" "a signature on the receipt of the enrolment does not verify",
    EnrolmentLeaf = "enrolment.leaf" "the receipt is not of the enrolment of this log",
    EnrolmentInclusion = "enrolment.inclusion" "the leaf of the enrolment is not in the collector's log",
    AttestationEvidence = "attestation.evidence" "what the TPM said of the keys is not what the collector saw",
    AttestationKey = "attestation.key" "what the TPM said does not show that it holds the key of this log",
    Revoked = "revoked" "the key was revoked, and no receipt shows that the head was accepted before",
    Quorum = "quorum" "fewer witnesses cosigned than the trust file asks for",
    Future = "future" "a cosignature is from the future",
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl Check {
    /// Whether it holds. Every decision of the verifier goes through here, so that a test can take away
    /// one check at a time and see that a vector notices; in a build that ships there is no such way.
    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the one in tests needs it")]
    pub(crate) fn holds(self, condition: bool) -> bool {
        condition
    }

    #[cfg(test)]
    pub(crate) fn holds(self, condition: bool) -> bool {
        condition || DISABLED.get() == Some(self)
    }

    #[inline]
    pub(crate) fn fails(self, condition: bool) -> bool {
        !self.holds(!condition)
    }
}

#[cfg(test)]
thread_local! {
    /// The check that the mutation test has taken away on this thread.
    pub(crate) static DISABLED: std::cell::Cell<Option<Check>> = const { std::cell::Cell::new(None) };
}
