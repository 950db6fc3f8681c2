//! Fork proofs: two signed heads of one log that contradict each other (`docs/formats/witness.md`).
//!
//! A fork proof is transferable: who has the log's verifier key needs nobody's word. A consistency proof
//! that just fails is no evidence, because anyone can make one that fails.

use crate::text::{hash_line, read_proof, write_proof};
use crate::{
    Checkpoint, Digest, Note, NoteError, ProofError, VerifierKey, consistency_old_root,
    verify_consistency,
};

/// The first line of a fork proof.
const HEADER: &str = "jurat/fork-proof/v1";
/// The most bytes of a fork proof that are read: two notes with signatures of any type.
pub const FORK_BYTES_MAX: usize = 256 * 1024;
/// The most hashes of a consistency proof.
const PROOF_HASHES_MAX: usize = 63;

/// Two signed heads of one log that no log can honestly have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkProof {
    /// The head that was seen first, with its signature; not above the other.
    pub first: Note,
    /// The head that contradicts it.
    pub second: Note,
    /// For heads of different sizes: the root over the first head's leaves in the second head's tree, and
    /// the consistency proof that says so.
    pub link: Option<(Digest, Vec<Digest>)>,
}

/// Why bytes are no fork proof, or show no fork.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForkError {
    /// Not a fork proof at all.
    #[error("not a fork proof: {0}")]
    Malformed(&'static str),
    /// One of the notes is not one.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The heads are of different logs.
    #[error("the heads are of different logs: {first} and {second}")]
    Origins {
        /// The first head's origin.
        first: String,
        /// The second head's origin.
        second: String,
    },
    /// A head is not signed by a known key: it may be anyone's.
    #[error("the head at size {0} is not signed by a known key of this log")]
    Unsigned(u64),
    /// The consistency proof does not hold: it says nothing.
    #[error("the consistency proof says nothing: {0}")]
    Proof(#[from] ProofError),
    /// Both heads can be honest.
    #[error("the heads do not contradict each other")]
    Agree,
}

impl ForkProof {
    /// The contradiction between two heads of one log, where these two notes, or they and this proof
    /// between them, show it to anyone. `None` otherwise, whatever else may be wrong with the log.
    pub fn find(first: &Note, second: &Note, proof: &[Digest]) -> Option<Self> {
        let one = Checkpoint::parse_foreign(&first.text).ok()?;
        let two = Checkpoint::parse_foreign(&second.text).ok()?;
        let found = |link| {
            (one.origin == two.origin).then(|| Self {
                first: first.clone(),
                second: second.clone(),
                link,
            })
        };
        if one.size == two.size {
            return found(None).filter(|_| one.root != two.root);
        }
        let other = consistency_old_root(one.size, two.size, &two.root, proof)?;
        found(Some((other, proof.to_vec()))).filter(|_| other != one.root)
    }

    /// Checks it with the log's keys, from nowhere else, and gives the two heads.
    ///
    /// # Errors
    /// [`ForkError`]: it shows no fork.
    pub fn check(&self, keys: &[VerifierKey]) -> Result<[Checkpoint; 2], ForkError> {
        let [first, second] = [&self.first, &self.second].map(|note| {
            let head = Checkpoint::parse_foreign(&note.text)?;
            let mut signed = false;
            for key in keys.iter().filter(|key| key.name == head.origin) {
                signed |= note.is_signed_by(key)?;
            }
            if signed {
                Ok(head)
            } else {
                Err(ForkError::Unsigned(head.size))
            }
        });
        let (first, second) = (first?, second?);
        if first.origin != second.origin {
            return Err(ForkError::Origins {
                first: first.origin,
                second: second.origin,
            });
        }
        let contradicts = match &self.link {
            None => first.size == second.size && first.root != second.root,
            Some((other, proof)) => {
                if first.size >= second.size {
                    return Err(ForkError::Malformed("a proof between heads in this order"));
                }
                verify_consistency(first.size, second.size, other, &second.root, proof)?;
                *other != first.root
            }
        };
        if contradicts {
            Ok([first, second])
        } else {
            Err(ForkError::Agree)
        }
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if let Some((other, proof)) = &self.link {
            text.push_str("other ");
            text.push_str(&write_proof(&[*other]));
            text.push_str(&write_proof(proof));
        }
        format!("{text}\n{}\n{}", self.first.encode(), self.second.encode())
    }

    /// Reads a file's text. What is read is not checked yet.
    ///
    /// # Errors
    /// [`ForkError::Malformed`] or [`ForkError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ForkError> {
        if bytes.len() > FORK_BYTES_MAX {
            return Err(ForkError::Malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ForkError::Malformed("not UTF-8"))?;
        // A head has no empty line: these are the header, two texts, and two lists of signatures.
        let parts: Vec<&str> = text.split("\n\n").collect();
        let [head, first, first_signatures, second, second_signatures] = parts.as_slice() else {
            return Err(ForkError::Malformed("not a header and two notes"));
        };
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(ForkError::Malformed("another first line"));
        }
        let link = match lines.next() {
            None => None,
            Some(line) => {
                let other = line.strip_prefix("other ");
                let other = other.ok_or("the second line").and_then(hash_line);
                let proof = read_proof(lines, PROOF_HASHES_MAX);
                Some((
                    other.map_err(ForkError::Malformed)?,
                    proof.map_err(ForkError::Malformed)?,
                ))
            }
        };
        let second = format!("{second}\n\n{second_signatures}");
        Ok(Self {
            first: Note::parse(format!("{first}\n\n{first_signatures}\n").as_bytes())?,
            second: Note::parse(second.as_bytes())?,
            link,
        })
    }
}
