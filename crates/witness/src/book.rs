//! The decision. Pure but for the signature: who keeps the book makes it durable before the answer leaves.

use jurat_proof::{
    Cosignature, Digest, ForkProof, Frontier, Note, Signature, Signer, SignerError, VerifierKey,
    verify_consistency,
};
use serde::{Deserialize, Serialize};

use crate::{Answer, Request};

/// What is remembered of one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The size that was cosigned last.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The checkpoint with the log's signature and the cosignature.
    pub note: String,
    /// Its fork proof. No cosignature any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<String>,
}

/// What follows from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The answer; nothing is to be stored.
    Answer(Answer),
    /// This takes the place of what was judged against, and only of that; then the answer may leave.
    Store {
        /// What is remembered from then on.
        seen: Box<Seen>,
        /// The answer.
        answer: Answer,
    },
}

/// Judges a request against what is remembered of its log. `keys` are those that the log may sign with: none
/// when the origin is not known.
///
/// The order of the checks is that of C2SP `tlog-witness`, but for one: a signed head of the size that
/// was cosigned with another root is kept as a fork, whatever old size it came with.
///
/// # Errors
/// [`SignerError`] when the witness's key cannot sign now.
pub fn judge(
    before: Option<&Seen>,
    keys: &[VerifierKey],
    request: &Request,
    signer: &dyn Signer,
    now_s: u64,
) -> Result<Decision, SignerError> {
    let answer = |answer| Ok(Decision::Answer(answer));
    let Request { head, proof, .. } = request;
    //= C2SP tlog-witness: unknown origin 404; none of the signatures verify against a trusted key 403
    if keys.is_empty() {
        return answer(Answer::Unknown);
    }
    // Each line of a known key costs a verification: one is enough. Others' lines are nothing to us.
    let lines = |key: &VerifierKey| {
        let lines = request.note.signatures.iter();
        lines.filter(|line| key.made(line)).count()
    };
    if keys.iter().any(|key| lines(key) > 1) {
        return answer(Answer::Malformed("two signature lines of one key".into()));
    }
    let mut signed = false;
    for key in keys {
        match request.note.is_signed_by(key) {
            Ok(found) => signed |= found,
            Err(error) => return answer(Answer::Unsigned(error.to_string())),
        }
    }
    if !signed {
        let what = "no key that this witness knows for this origin signed the checkpoint";
        return answer(Answer::Unsigned(what.into()));
    }
    if request.old > head.size {
        let what = "the old size is above the checkpoint's";
        return answer(Answer::Malformed(what.into()));
    }
    if head.size == 0 && head.root != Frontier::default().root() {
        let what = "a checkpoint of size 0 has the root of the empty tree";
        return answer(Answer::Unproven(what.into()));
    }
    // Foreign lines would be stored for nothing.
    let mut note = request.note.clone();
    note.signatures
        .retain(|signature| keys.iter().any(|key| key.made(signature)));
    let known = before.map_or(0, |seen| seen.size);
    let conflict = if request.old == known {
        Answer::Forked
    } else {
        Answer::Size(known)
    };
    if let Some(seen) = before {
        if seen.fork.is_some() {
            return answer(conflict);
        }
        let from = if request.old == known { proof } else { &[][..] };
        let first = Note::parse(seen.note.as_bytes()).ok();
        if let Some(fork) = first.and_then(|first| ForkProof::find(&first, &note, from)) {
            let mut seen = seen.clone();
            seen.fork = Some(fork.encode());
            // A head of the very size is refused as the specification says, one that only leads to another
            // past as one whose proof does not hold.
            let answer = if head.size == seen.size {
                conflict
            } else {
                Answer::Unproven(FORKED_PROOF.into())
            };
            return Ok(Decision::Store {
                seen: Box::new(seen),
                answer,
            });
        }
    }
    if request.old != known {
        return answer(Answer::Size(known));
    }
    let proven = if known == 0 {
        //= C2SP tlog-witness: the proof MUST be empty if the old size is zero
        proof.is_empty()
    } else {
        let old_root = before.map(|seen| seen.root).unwrap_or_default();
        verify_consistency(known, head.size, &old_root, &head.root, proof).is_ok()
    };
    if !proven {
        return answer(Answer::Unproven(
            "the consistency proof does not hold".into(),
        ));
    }
    // Times never run backwards, even when the clock does, and 0 is none.
    let time = now_s.max(before.map_or(1, |seen| seen.time)).max(1);
    if let Some(seen) = before
        && (seen.size, seen.time) == (head.size, time)
        && let Ok(stored) = Note::parse(seen.note.as_bytes())
        && stored.text == note.text
    {
        // Said already in this very second: nothing new to store.
        let key = signer.verifier_key();
        let lines = stored.signatures.iter().filter(|line| key.made(line));
        return answer(Answer::Cosigned(lines.map(Signature::line).collect()));
    }
    let cosignature = Cosignature::sign(signer, time, &note.text)?;
    let line = cosignature.line();
    note.signatures.push(cosignature);
    Ok(Decision::Store {
        seen: Box::new(Seen {
            size: head.size,
            root: head.root,
            time,
            note: note.encode(),
            fork: None,
        }),
        answer: Answer::Cosigned(line),
    })
}

const FORKED_PROOF: &str =
    "the proof leads to another root at the size that was cosigned; it is kept as a fork proof";
