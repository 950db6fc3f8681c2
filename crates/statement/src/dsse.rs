//! In-toto statements in DSSE envelopes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::{Digest, Signer};
use serde_json::json;

use crate::{Session, StatementError, key_id};

/// The payload type of an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// What the predicate is: a session, as [`Session`] names its fields. A URN that belongs to nobody's
/// domain; `docs/formats/statements.md` describes it.
pub const PREDICATE_TYPE: &str = "urn:uuid:64f3a2f1-5e0b-4c86-9d6c-0b1d4a3b8e57#jurat-session/v1";

/// Signs what is said of a session; the envelope is JSON.
///
/// # Errors
/// [`StatementError`] when the key cannot sign.
pub fn envelope(signer: &dyn Signer, session: &Session) -> Result<String, StatementError> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{
            "name": format!("{}#{}", session.origin, session.session),
            "digest": {"sha256": session.leaves_sha256},
        }],
        "predicateType": PREDICATE_TYPE,
        "predicate": session,
    });
    let payload = statement.to_string();
    let signature = signer.sign(&pre_authentication(PAYLOAD_TYPE, payload.as_bytes()))?;
    let key_id = Digest(key_id(&signer.verifier_key().key));
    let envelope = json!({
        "payload": BASE64.encode(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id, "sig": BASE64.encode(signature)}],
    });
    Ok(format!("{envelope}\n"))
}

/// What is signed. `//= DSSE v1.0: PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body`
fn pre_authentication(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), body.len());
    [head.as_bytes(), body].concat()
}
