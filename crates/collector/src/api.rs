//! The HTTP interface (`docs/formats/upload.md`, `/openapi.json`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header as http_header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jurat_disk::Host;
use jurat_event::header;
use jurat_key::Secret;
use jurat_proof::Request;
use jurat_sink::{Enrolled, Enrolment, UPLOAD_BYTES_MAX};

use crate::archive::{ArchiveError, Shared};
use crate::devices::{DeviceError, Devices};
use crate::{Device, Refused};

/// What every request sees.
pub(crate) struct Api {
    pub(crate) host: Host,
    pub(crate) archive: Shared,
    pub(crate) devices: Mutex<Devices>,
    pub(crate) enrol_token: Secret,
    pub(crate) fingerprint_key: Secret,
    pub(crate) domain: String,
    /// Told when the archive failed: the server stops and is opened anew.
    pub(crate) failed: tokio::sync::watch::Sender<Option<String>>,
}

type Ctx = State<Arc<Api>>;

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/openapi.json",
            get(async || ([(http_header::CONTENT_TYPE, "application/json")], OPENAPI)),
        )
        .route("/v1/stats", get(stats))
        .route("/v1/enroll", post(enroll))
        .route("/v1/frontier", get(frontier))
        .route("/v1/batches", post(batches))
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
        .with_state(api)
}

const OPENAPI: &str = include_str!("openapi.json");

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(self.refusal)).into_response()
    }
}

fn ill(error: &ArchiveError) -> Refused {
    tracing::error!(%error, "the archive failed");
    Refused::new(
        503,
        "archive_failed",
        "the archive failed; nothing was stored or signed",
    )
}

fn bearer(headers: &HeaderMap) -> &str {
    text(headers, "authorization")
        .strip_prefix("Bearer ")
        .unwrap_or_default()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn stats(State(api): Ctx) -> Json<crate::Stats> {
    Json(
        api.archive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stats(),
    )
}

async fn enroll(
    State(api): Ctx,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Enrolled>, Refused> {
    let token = api.enrol_token.to_base64();
    let given = bearer(&headers).as_bytes();
    if aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), given).is_err() {
        return Err(refuse(
            &api,
            Refused::new(401, "wrong_token", "the enrolment token is not accepted"),
        ));
    }
    let enrolment: Enrolment = serde_json::from_slice(&body).map_err(|error| {
        refuse(
            &api,
            Refused::new(400, "malformed", format!("not an enrolment: {error}")),
        )
    })?;
    let made = api
        .devices
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .enroll(&api.host, &api.domain, &enrolment);
    let (device, token) = made.map_err(|error| match error {
        DeviceError::Taken(_) => Refused::new(409, "device_taken", error.to_string()),
        DeviceError::Invalid(_) => Refused::new(400, "malformed", error.to_string()),
        DeviceError::Io { .. } => Refused::new(
            503,
            "archive_failed",
            "the device table could not be written",
        ),
    })?;
    let mut archive = api.archive.lock().unwrap_or_else(PoisonError::into_inner);
    archive.note_enrolment(&device).map_err(|error| {
        let _ = api.failed.send(Some(error.to_string()));
        ill(&error)
    })?;
    let [witness, archive_key, log] = archive.verifier_keys().map(|key| key.to_string());
    let hmac_key = device
        .hmac_key()
        .map(|key| key.to_base64())
        .unwrap_or_default();
    tracing::info!(device = device.id, origin = device.origin, "enrolled");
    Ok(Json(Enrolled {
        origin: device.origin,
        token,
        hmac_key,
        fingerprint_key: api.fingerprint_key.to_base64(),
        witness,
        archive: archive_key,
        log,
    }))
}

/// Counts a refusal and logs it.
fn refuse(api: &Api, refused: Refused) -> Refused {
    tracing::warn!(
        code = refused.refusal.code,
        message = refused.refusal.message,
        "refused"
    );
    api.archive
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .count_refusal(&refused.refusal.code);
    refused
}

/// The device that a request names, when its bearer token is the right one.
fn known_device(api: &Api, headers: &HeaderMap) -> Result<Device, Refused> {
    let devices = api.devices.lock().unwrap_or_else(PoisonError::into_inner);
    let device = devices
        .find(text(headers, header::DEVICE))
        .filter(|device| device.accepts_token(bearer(headers)));
    device.cloned().ok_or_else(|| {
        Refused::new(
            401,
            "wrong_token",
            "unknown device or wrong token; enrol it first",
        )
    })
}

/// Authenticates a request: bearer token, signature, time, nonce, in this order.
fn authenticate(
    api: &Api,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(Device, (String, u64)), Refused> {
    let id = text(headers, header::DEVICE);
    let device = known_device(api, headers)?;
    let unknown = || {
        Refused::new(
            401,
            "wrong_token",
            "unknown device or wrong token; enrol it first",
        )
    };
    let timestamp: u64 = text(headers, header::TIMESTAMP).parse().map_err(|_| {
        Refused::new(
            401,
            "stale_timestamp",
            "X-Jurat-Timestamp is missing or not a number",
        )
    })?;
    let nonce = text(headers, header::NONCE);
    let request = Request {
        method,
        path,
        device: id,
        encoding: text(headers, "content-encoding"),
        timestamp,
        nonce,
        body,
    };
    let key = device.hmac_key().ok_or_else(unknown)?;
    if !request.verify(key.expose(), text(headers, header::SIGNATURE)) {
        return Err(Refused::new(
            401,
            "bad_hmac",
            "X-Siem-Signature does not belong to this request",
        ));
    }
    let mut archive = api.archive.lock().unwrap_or_else(PoisonError::into_inner);
    archive.take_nonce(id, nonce, timestamp)?;
    Ok((device, (format!("{id}/{nonce}"), timestamp)))
}

async fn frontier(State(api): Ctx, headers: HeaderMap) -> Result<Response, Refused> {
    let (device, _) = authenticate(&api, &headers, "GET", "/v1/frontier", b"")
        .map_err(|refused| refuse(&api, refused))?;
    let answer = api
        .archive
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .frontier(&device.origin)
        .map_err(|error| ill(&error))?;
    Ok(Json(answer).into_response())
}

/// How long a client may take to send an upload.
const BODY_S: u64 = 60;

async fn batches(State(api): Ctx, request: axum::extract::Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    // Who we do not know does not get to fill our memory.
    known_device(&api, &headers).map_err(|refused| refuse(&api, refused))?;
    let read = tokio::time::timeout(
        Duration::from_secs(BODY_S),
        to_bytes(body, UPLOAD_BYTES_MAX),
    )
    .await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            let message =
                format!("the body was cut, or is larger than {UPLOAD_BYTES_MAX} bytes: {error}");
            return Err(refuse(&api, Refused::new(413, "too_large", message)));
        }
        Err(_) => {
            return Err(refuse(
                &api,
                Refused::new(408, "too_slow", "the body did not come in time"),
            ));
        }
    };
    // Hashing and disk: not on a thread that serves sockets.
    let done = tokio::task::spawn_blocking(move || take_batch(&api, &headers, &body)).await;
    match done {
        Ok(answer) => answer.map(IntoResponse::into_response),
        Err(error) => {
            tracing::error!(%error, "a bug: taking an upload panicked");
            Err(Refused::new(
                500,
                "bug",
                "the collector failed; nothing was acknowledged",
            ))
        }
    }
}

fn take_batch(
    api: &Api,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Json<jurat_sink::Accepted>, Refused> {
    let accepted = (|| {
        let (device, nonce) = authenticate(api, headers, "POST", "/v1/batches", body)?;
        if text(headers, "content-encoding") != "zstd" {
            return Err(Refused::new(
                415,
                "bad_encoding",
                "an upload is sent with Content-Encoding: zstd",
            ));
        }
        let key = device
            .verifier_key()
            .ok_or_else(|| Refused::new(403, "unknown_key", "no usable key on record"))?;
        let mut archive = api.archive.lock().unwrap_or_else(PoisonError::into_inner);
        match archive.accept(&device.origin, &key, nonce, body) {
            Ok(judged) => judged,
            Err(error) => {
                // The ledger is poisoned: nothing more can be acknowledged by this process.
                let _ = api.failed.send(Some(error.to_string()));
                Err(ill(&error))
            }
        }
    })();
    accepted.map(Json).map_err(|refused| refuse(api, refused))
}
