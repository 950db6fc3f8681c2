//! The HTTP interface.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jurat_proof::{Digest, sha256};

use crate::{Answer, REQUEST_BYTES_MAX, Seen};

/// How long a client may take to send a body.
const BODY_S: u64 = 30;

/// When to try again, for who is told that too much is under way.
const RETRY_AFTER_S: u16 = 1;

/// Who answers for a witness: one that stands alone, or a collector.
pub trait Witness: Send + Sync + 'static {
    /// Judges a request; on return what follows from it is durable.
    fn add_checkpoint(self: Arc<Self>, body: Bytes) -> impl Future<Output = Answer> + Send;

    /// What is remembered of the log with this SHA-256 of its origin.
    fn seen(&self, origin_hash: &Digest) -> Option<Arc<Seen>>;
}

/// The routes of a witness, submission and monitoring prefix being the same.
pub fn router<W: Witness>(witness: Arc<W>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint::<W>))
        .route("/{origin_hash}/checkpoint", get(checkpoint::<W>))
        .route("/{origin_hash}/fork-proof", get(fork_proof::<W>))
        .with_state(witness)
}

/// The name of a log in a path: the SHA-256 of its origin.
pub fn origin_hash(origin: &str) -> Digest {
    sha256(&[origin.as_bytes()])
}

async fn add_checkpoint<W: Witness>(State(witness): State<Arc<W>>, body: Body) -> Response {
    let body = to_bytes(body, REQUEST_BYTES_MAX);
    let body = match tokio::time::timeout(Duration::from_secs(BODY_S), body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let what = "the body was cut, or is larger than 65536 bytes\n";
            return (StatusCode::PAYLOAD_TOO_LARGE, what).into_response();
        }
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    // A task of its own: what is judged is stored even when the client goes away.
    let answer = tokio::spawn(witness.add_checkpoint(body)).await;
    let answer = answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a bug: judging a checkpoint panicked");
        Answer::Unavailable
    });
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let content_type = [(header::CONTENT_TYPE, answer.content_type())];
    let mut response = (status, content_type, answer.body()).into_response();
    if answer == Answer::Unavailable {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
    }
    response
}

/// A checkpoint moves: nobody keeps it for long.
const TEXT: [(header::HeaderName, &str); 2] = [
    (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    (header::CACHE_CONTROL, "no-store"),
];

async fn checkpoint<W: Witness>(
    State(witness): State<Arc<W>>,
    Path(hash): Path<String>,
) -> Response {
    let seen = find(&*witness, &hash).map(|seen| seen.note.clone());
    // A log that was never cosigned is remembered at most for its fork.
    let note = seen.filter(|note| !note.is_empty());
    note.map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        |note| (TEXT, note).into_response(),
    )
}

async fn fork_proof<W: Witness>(
    State(witness): State<Arc<W>>,
    Path(hash): Path<String>,
) -> Response {
    let fork = find(&*witness, &hash).and_then(|seen| seen.fork.clone());
    fork.map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        |fork| (TEXT, fork).into_response(),
    )
}

fn find(witness: &impl Witness, hash: &str) -> Option<Arc<Seen>> {
    let hash = Digest::from_hex(hash)?;
    witness.seen(&hash)
}
