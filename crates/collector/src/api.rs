//! The HTTP interface (`docs/formats/upload.md`, `/openapi.json`).

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header as http_header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use jurat_disk::Host;
use jurat_event::{Erased, header};
use jurat_key::Secret;
use jurat_key::tls::{Presented, REQUEST_BYTES_MAX};
use jurat_proof::{Digest, Request};
use jurat_sink::{Accepted, Certified, UPLOAD_BYTES_MAX};
use jurat_witness::{Answer, Logs, Seen, Witness};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::Refused;
use crate::admin::{self, AdminError, EraseOrder, Order};
use crate::archive::{Archive, ArchiveError, Ask, Done, Judgement, Witnessing, refused_for_good};
use crate::clients::{Certificates, requested};
use crate::devices::Device;
use crate::enrol::{self, EkRoots, Pending};
use crate::erase::{EraseError, carry_out, origin_of};
use crate::export::archived_boot_log;
use crate::ingest::BOOT_BYTES_MAX;
use crate::logs;
use crate::machine::{ArchivedBootLog, BootLogOrder};
use crate::queue::Queue;
use crate::tiles::TileStore;

/// What every request sees.
pub(crate) struct Api {
    pub(crate) host: Host,
    pub(crate) archive: Arc<Archive>,
    pub(crate) queue: Queue,
    pub(crate) enrol_token: Secret,
    pub(crate) ek_roots: EkRoots,
    pub(crate) pending: Pending,
    /// `None`: devices show no certificates.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// Whether others cosign the own log.
    pub(crate) has_witnesses: bool,
    pub(crate) admin_token: Secret,
    pub(crate) fingerprint_key: Secret,
    pub(crate) domain: String,
    pub(crate) room: Room,
    pub(crate) tiles: Arc<TileStore>,
    pub(crate) read_token: Secret,
    pub(crate) public_logs: bool,
    /// Logs of others that the witness serves.
    pub(crate) foreign: Logs,
    /// Told when the archive failed: the server stops and is opened anew.
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// How much may be under way.
pub(crate) struct Room {
    /// KiB of uploads, from before they are read until they are answered.
    uploads: Arc<Semaphore>,
    /// Uploads that are judged: each holds its records uncompressed, and one core.
    judging: Arc<Semaphore>,
    /// Checkpoints that are shown to the witness, until they are answered: anyone may, so they take no room
    /// of those who upload.
    witnessing: Arc<Semaphore>,
    /// Of those, the one that is judged: strangers get one core.
    weighing: Arc<Semaphore>,
    /// Erasures by the operator: one at a time, so that none is planned from what another one takes.
    erasing: Arc<Semaphore>,
    /// Requests for tiles: each holds up to an upload's records.
    pub(crate) reading: Arc<Semaphore>,
}

/// All uploads under way together, in KiB.
const UPLOADS_KIB_MAX: u32 = 256 * 1024;
/// What an upload takes of it at least: no more than 256 are under way.
const UPLOAD_KIB_MIN: u32 = 1024;

/// The most checkpoints that are judged or wait for the disk.
const WITNESSING_MAX: usize = 16;

impl Room {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            uploads: Arc::new(Semaphore::new(UPLOADS_KIB_MAX as usize)),
            judging: Arc::new(Semaphore::new(cores)),
            witnessing: Arc::new(Semaphore::new(WITNESSING_MAX)),
            weighing: Arc::new(Semaphore::new(1)),
            erasing: Arc::new(Semaphore::new(1)),
            reading: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Room for an upload of the length that it names, or of the greatest when it names none.
    fn take(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refused> {
        let len: usize = text(headers, "content-length")
            .parse()
            .unwrap_or(UPLOAD_BYTES_MAX);
        let kib = (len.min(UPLOAD_BYTES_MAX) / 1024) as u32;
        let room = self.uploads.clone();
        room.try_acquire_many_owned(kib.max(UPLOAD_KIB_MIN))
            .map_err(|_| Refused::busy("too many uploads are under way"))
    }
}

pub(crate) type Ctx = State<Arc<Api>>;

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/openapi.json",
            get(async || ([(http_header::CONTENT_TYPE, "application/json")], OPENAPI)),
        )
        .route("/v1/stats", get(stats))
        .route("/v1/enroll", post(enrol::enroll))
        .route("/v1/enroll/activate", post(enrol::activate))
        .route("/v1/certificate", post(certificate))
        .route("/v1/frontier", get(frontier))
        .route("/v1/batches", post(batches))
        .route("/v1/admin/devices", get(admin_devices))
        .route("/v1/admin/machines/{device}", get(admin_machine))
        .route("/v1/admin/boot-logs", post(admin_boot_log))
        .route("/v1/admin/orders", post(admin_order))
        .route("/v1/admin/erasures", post(admin_erase))
        .route("/v1/receipt", get(logs::receipt))
        .route("/logs/{log}/{*path}", get(logs::read))
        .with_state(api.clone())
        .merge(jurat_witness::router(api))
}

const OPENAPI: &str = include_str!("openapi.json");

/// When to try again, for who is told that we are busy. Clients add jitter.
const RETRY_AFTER_S: &str = "5";

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        if status == StatusCode::TOO_MANY_REQUESTS {
            let retry = [(http_header::RETRY_AFTER, RETRY_AFTER_S)];
            return (status, retry, Json(self.refusal)).into_response();
        }
        (status, Json(self.refusal)).into_response()
    }
}

fn ill(api: &Api, error: &ArchiveError) -> Refused {
    tracing::error!(%error, "the archive failed");
    fail(&api.failed, error.to_string());
    Refused::archive_failed()
}

/// Stops the server: nothing more can be acknowledged by this process. The first reason counts.
pub(crate) fn fail(failed: &watch::Sender<Option<String>>, why: String) {
    failed.send_if_modified(|first| {
        let new = first.is_none();
        first.get_or_insert(why);
        new
    });
}

pub(crate) fn bearer(headers: &HeaderMap) -> &str {
    text(headers, "authorization")
        .strip_prefix("Bearer ")
        .unwrap_or_default()
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn stats(State(api): Ctx) -> Json<crate::Stats> {
    Json(api.archive.stats())
}

/// Whether a request bears this token; in constant time.
pub(crate) fn bears(headers: &HeaderMap, token: &Secret, what: &str) -> Result<(), Refused> {
    let (token, given) = (token.to_base64(), bearer(headers).as_bytes());
    aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), given).map_err(|_| {
        let message = format!("the {what} token is not accepted");
        Refused::new(401, "wrong_token", message)
    })
}

async fn admin_devices(State(api): Ctx, headers: HeaderMap) -> Result<Response, Refused> {
    bears(&headers, &api.admin_token, "admin").map_err(|refused| refuse(&api, refused))?;
    Ok(Json(api.archive.devices()).into_response())
}

async fn admin_machine(
    State(api): Ctx,
    Path(device): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    bears(&headers, &api.admin_token, "admin").map_err(|refused| refuse(&api, refused))?;
    let report = api.archive.machine(&device).ok_or_else(|| {
        let message = AdminError::Mute(device).to_string();
        refuse(&api, Refused::new(404, "unknown_machine", message))
    })?;
    Ok(Json(report).into_response())
}

async fn admin_boot_log(
    State(api): Ctx,
    request: HttpRequest,
) -> Result<Json<ArchivedBootLog>, Refused> {
    let found = find_boot_log(&api, request).await;
    found.map(Json).map_err(|refused| refuse(&api, refused))
}

async fn find_boot_log(api: &Arc<Api>, request: HttpRequest) -> Result<ArchivedBootLog, Refused> {
    let (parts, body) = request.into_parts();
    bears(&parts.headers, &api.admin_token, "admin")?;
    let body = read_body(body, ORDER_BYTES_MAX).await?;
    let order: BootLogOrder = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(400, "malformed", format!("not an order: {error}")))?;
    let reading = api.room.reading.clone().try_acquire_owned();
    let reading = reading.map_err(|_| Refused::busy("too much is being read"))?;
    let archive = api.archive.clone();
    // It reads the archive through.
    let found = tokio::task::spawn_blocking(move || {
        let _reading = reading;
        archived_boot_log(&archive, &order)
    });
    match found.await {
        Ok(found) => found.map_err(|error| ill(api, &error)),
        Err(error) => Err(bug(&error)),
    }
}

async fn admin_order(State(api): Ctx, request: HttpRequest) -> Result<Json<admin::Done>, Refused> {
    let done = take_order(&api, request).await;
    done.map(Json).map_err(|refused| refuse(&api, refused))
}

/// The longest order of an operator that is read.
const ORDER_BYTES_MAX: usize = 16 * 1024;

async fn take_order(api: &Api, request: HttpRequest) -> Result<admin::Done, Refused> {
    let (parts, body) = request.into_parts();
    bears(&parts.headers, &api.admin_token, "admin")?;
    let body = read_body(body, ORDER_BYTES_MAX).await?;
    let order: Order = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(400, "malformed", format!("not an order: {error}")))?;
    tracing::info!(?order, "ordered");
    let unknown = format!("no device {} is enrolled here", order.device());
    let done = api.queue.ask(order.ask()).await?;
    admin::Done::of(done)?.ok_or_else(|| Refused::new(404, "unknown_device", unknown))
}

async fn admin_erase(State(api): Ctx, request: HttpRequest) -> Result<Json<Erased>, Refused> {
    // A task of its own: what was begun is finished although the client goes away.
    let done = tokio::spawn({
        let api = api.clone();
        async move { take_erasure(&api, request).await }
    });
    let done = done.await.unwrap_or_else(|error| Err(bug(&error)));
    done.map(Json).map_err(|refused| refuse(&api, refused))
}

async fn take_erasure(api: &Arc<Api>, request: HttpRequest) -> Result<Erased, Refused> {
    let (parts, body) = request.into_parts();
    bears(&parts.headers, &api.admin_token, "admin")?;
    let body = read_body(body, ORDER_BYTES_MAX).await?;
    let EraseOrder { device, request } = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(400, "malformed", format!("not an order: {error}")))?;
    let erasing = api.room.erasing.clone().try_acquire_owned();
    let erasing = erasing.map_err(|_| Refused::busy("another erasure is under way"))?;
    tracing::info!(device, who = request.who, "erasing is ordered");
    let (api, writer) = (api.clone(), tokio::runtime::Handle::current());
    // It reads the archive through.
    let done = tokio::task::spawn_blocking(move || {
        let _erasing = erasing;
        let origin = origin_of(&api.archive, &device)?;
        carry_out(&api.archive, &origin, &request, &mut |ask| {
            let done = writer.block_on(api.queue.ask(ask));
            done.map_err(|refused| match refused.status {
                503 => ArchiveError::Failed.into(),
                _ => EraseError::Refused(refused.refusal.message),
            })
        })
    });
    match done.await {
        Ok(Ok(erased)) => Ok(erased),
        Ok(Err(EraseError::Refused(why))) => Err(Refused::new(422, "not_erased", why)),
        Ok(Err(error)) => {
            tracing::error!(%error, "an erasure was not finished");
            let message = format!("not all of it was erased; ask again: {error}");
            Err(Refused::new(503, "not_erased", message))
        }
        Err(error) => Err(bug(&error)),
    }
}

/// Counts a refusal and logs it.
pub(crate) fn refuse(api: &Api, refused: Refused) -> Refused {
    tracing::warn!(
        code = refused.refusal.code,
        message = refused.refusal.message,
        "refused"
    );
    api.archive.count_refusal(&refused.refusal.code);
    refused
}

/// The device that a request names, when its bearer token is the right one and the connection is its own.
pub(crate) fn admitted(
    api: &Api,
    headers: &HeaderMap,
    presented: &Presented,
) -> Result<Arc<Device>, Refused> {
    let device = known_device(api, headers)?;
    if let Some(certificates) = &api.certificates {
        let now_s = api.host.clock.now().unix_s();
        certificates.check(presented, &device, now_s)?;
    }
    Ok(device)
}

/// The device that a request names, when its bearer token is the right one.
fn known_device(api: &Api, headers: &HeaderMap) -> Result<Arc<Device>, Refused> {
    let device = api.archive.device(text(headers, header::DEVICE));
    let epochs = std::iter::successors(device.as_ref(), |device| device.previous.as_ref());
    // Each epoch has a token of its own: one of before is told that it is over.
    for (back, device) in epochs.enumerate() {
        if device.accepts_token(bearer(headers)) {
            return match back {
                0 => Ok(device.clone()),
                _ => Err(Refused::epoch_closed()),
            };
        }
    }
    let message = "unknown device or wrong token; enrol it first";
    Err(Refused::new(401, "wrong_token", message))
}

/// Authenticates a request of this device: signature, time, nonce, in this order.
pub(crate) fn authenticate(
    api: &Api,
    device: &Device,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(String, u64), Refused> {
    let id = &device.row.id;
    let (nonce, timestamp) = check_signature(device, headers, method, path, body)?;
    api.archive.take_nonce(id, nonce, timestamp)?;
    api.archive.heard(&device.row.origin);
    Ok((format!("{id}/{nonce}"), timestamp))
}

/// The nonce and the time of a request that this device signed.
fn check_signature<'a>(
    device: &Device,
    headers: &'a HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(&'a str, u64), Refused> {
    let id = &device.row.id;
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
    if !request.verify(device.hmac.expose(), text(headers, header::SIGNATURE)) {
        return Err(Refused::new(
            401,
            "bad_hmac",
            "X-Siem-Signature does not belong to this request",
        ));
    }
    Ok((nonce, timestamp))
}

async fn certificate(State(api): Ctx, request: HttpRequest) -> Result<Json<Certified>, Refused> {
    let certified = next_certificate(&api, request).await;
    certified.map(Json).map_err(|refused| refuse(&api, refused))
}

/// The next certificate of a device, for the key that it enrolled with. It needs none for this: who let one expire asks as
/// whoever has one.
async fn next_certificate(api: &Api, request: HttpRequest) -> Result<Certified, Refused> {
    let (parts, body) = request.into_parts();
    let device = known_device(api, &parts.headers)?;
    let row = &device.row;
    let life = api.archive.life(&row.origin);
    if let Some(refused) = life.as_deref().and_then(refused_for_good) {
        return Err(refused);
    }
    let body = read_body(body, REQUEST_BYTES_MAX).await?;
    let path = parts.uri.path();
    let (nonce, timestamp) = check_signature(&device, &parts.headers, "POST", path, &body)?;
    // Who has the token and the HMAC key alone uses up no nonce of the device, and is no sign of its life.
    if requested(&body, &row.id)? != device.tls {
        let message = "this device enrolled with another key; a new one takes a new enrolment";
        return Err(Refused::new(403, "wrong_key", message));
    }
    api.archive.take_nonce(&row.id, nonce, timestamp)?;
    let Some(certificates) = &api.certificates else {
        let message = "this collector asks for no certificates";
        return Err(Refused::new(404, "no_certificates", message));
    };
    let whom = (&*row.id, &*row.key_kind);
    let issued = certificates.issue(&api.host, whom, &device.tls, &body);
    let certificate = issued.await?;
    tracing::info!(device = row.id, "certified again");
    Ok(Certified { certificate })
}

async fn frontier(
    State(api): Ctx,
    Extension(presented): Extension<Presented>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    // What follows the path is signed with it.
    let path = uri
        .path_and_query()
        .map_or("/v1/frontier", |path| path.as_str());
    let device = admitted(&api, &headers, &presented)
        .and_then(|device| {
            authenticate(&api, &device, &headers, "GET", path, b"")?;
            Ok(device)
        })
        .map_err(|refused| refuse(&api, refused))?;
    if let Some(boot) = uri.query().and_then(|query| query.strip_prefix("boot=")) {
        note_boot(&api, &device.row.origin, boot)
            .await
            .map_err(|refused| refuse(&api, refused))?;
    }
    let answer = api
        .archive
        .frontier(&device.row.origin)
        .map_err(|error| ill(&api, &error))?;
    Ok(Json(answer).into_response())
}

/// Notes which boot asks; durable when it is another one than the last time.
async fn note_boot(api: &Api, origin: &str, boot: &str) -> Result<(), Refused> {
    let plain = boot.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if boot.is_empty() || boot.len() > BOOT_BYTES_MAX || !plain {
        let message = "a boot is named by up to 64 letters and digits";
        return Err(Refused::new(400, "malformed", message));
    }
    let life = api.archive.life(origin);
    if !life.is_some_and(|life| life.asked_by.is_last(boot)) {
        let (origin, boot) = (origin.to_owned(), boot.to_owned());
        api.queue.ask(Ask::Boot { origin, boot }).await?;
    }
    Ok(())
}

/// How long a client may take to send a body.
const BODY_S: u64 = 60;

pub(crate) async fn read_body(body: Body, max: usize) -> Result<Bytes, Refused> {
    match tokio::time::timeout(Duration::from_secs(BODY_S), to_bytes(body, max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let message = format!("the body was cut, or is larger than {max} bytes: {error}");
            Err(Refused::new(413, "too_large", message))
        }
        Err(_) => {
            let message = "the body did not come in time";
            Err(Refused::new(408, "too_slow", message))
        }
    }
}

async fn batches(State(api): Ctx, request: HttpRequest) -> Result<Json<Accepted>, Refused> {
    // A task of its own: a client that goes away does not take the bound on what is under way along.
    let done = tokio::spawn({
        let api = api.clone();
        async move { take_batch(&api, request).await }
    });
    let done = done.await.unwrap_or_else(|error| Err(bug(&error)));
    done.map(Json).map_err(|refused| refuse(&api, refused))
}

pub(crate) fn bug(error: &tokio::task::JoinError) -> Refused {
    tracing::error!(%error, "a bug: taking an upload panicked");
    let message = "the collector failed; nothing was acknowledged";
    Refused::new(500, "bug", message)
}

/// How often an upload is judged again because another one of the same log came first.
const ROUNDS: usize = 4;

async fn take_batch(api: &Arc<Api>, request: HttpRequest) -> Result<Accepted, Refused> {
    let (parts, body) = request.into_parts();
    let presented = parts.extensions.get().cloned().unwrap_or_default();
    let headers = parts.headers;
    // Who we do not know does not get to fill our memory; who we know, no more than there is room.
    let device = admitted(api, &headers, &presented)?;
    let life = api.archive.life(&device.row.origin);
    if let Some(refused) = life.as_deref().and_then(refused_for_good) {
        return Err(refused);
    }
    if waits_for_witnesses(api, &device) {
        let message = "outside witnesses have not cosigned this device's enrolment yet";
        return Err(Refused::new(429, "enrolment_unwitnessed", message));
    }
    let _room = api.room.take(&headers)?;
    let body = read_body(body, UPLOAD_BYTES_MAX).await?;
    let mut nonce = None;
    for _ in 0..ROUNDS {
        let judging = api.room.judging.clone().acquire_owned().await;
        let (api_, device_, headers_, body_) =
            (api.clone(), device.clone(), headers.clone(), body.clone());
        // Hashing: not on a thread that serves sockets.
        let judged = tokio::task::spawn_blocking(move || {
            let _judging = judging;
            let nonce = match nonce {
                Some(nonce) => nonce,
                None => authenticate(&api_, &device_, &headers_, "POST", "/v1/batches", &body_)?,
            };
            if text(&headers_, "content-encoding") != "zstd" {
                let message = "an upload is sent with Content-Encoding: zstd";
                return Err(Refused::new(415, "bad_encoding", message));
            }
            let judged = api_
                .archive
                .judge(&device_.row.origin, &device_.key, &nonce, &body_)
                .map_err(|error| ill(&api_, &error))?;
            Ok((judged, nonce))
        });
        let (judged, taken) = judged.await.unwrap_or_else(|error| Err(bug(&error)))?;
        match judged {
            Judgement::Answer(answer) => return answer,
            Judgement::Store(ask) => match api.queue.ask(ask).await? {
                Done::Accepted(accepted) => return Ok(accepted),
                Done::Refused(refused) => return Err(refused),
                _ => nonce = Some(taken),
            },
        }
    }
    Err(Refused::busy("other uploads of this log came first"))
}

/// How long a device's first upload waits for outside witnesses of its enrolment.
const UNWITNESSED_S: u64 = 600;

/// Whether a device is so new that its first head would come before others cosigned its enrolment. What a TPM answered
/// convinced this collector alone: that it said so before it saw the log, others are to have seen.
fn waits_for_witnesses(api: &Api, device: &Device) -> bool {
    let row = &device.row;
    let age_s = api
        .host
        .clock
        .now()
        .unix_s()
        .saturating_sub(row.enrolled_at);
    api.has_witnesses
        && age_s < UNWITNESSED_S
        && api.archive.stats().own_witnessed <= row.leaf
        && api
            .archive
            .frontier(&row.origin)
            .is_ok_and(|known| known.size == 0)
}

impl Witness for Api {
    async fn add_checkpoint(self: Arc<Self>, body: Bytes) -> Answer {
        let Ok(_room) = self.room.witnessing.try_acquire() else {
            return Answer::Unavailable;
        };
        for _ in 0..ROUNDS {
            let weighing = self.room.weighing.clone().acquire_owned().await;
            let (api, body) = (self.clone(), body.clone());
            let judged = tokio::task::spawn_blocking(move || {
                let _weighing = weighing;
                api.archive.judge_checkpoint(&api.foreign, &body)
            });
            let ask = match judged.await {
                Ok(Ok(Witnessing::Answer(answer))) => return answer,
                Ok(Ok(Witnessing::Store(ask))) => ask,
                Ok(Err(error)) => {
                    ill(&self, &error);
                    break;
                }
                Err(error) => {
                    bug(&error);
                    break;
                }
            };
            match self.queue.ask(Ask::Witness(ask)).await {
                Ok(Done::Witnessed(answer)) => return answer,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Answer::Unavailable
    }

    fn seen(&self, origin_hash: &Digest) -> Option<Arc<Seen>> {
        self.archive.seen(origin_hash)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jurat_key::SoftwareKey;
    use jurat_proof::{Checkpoint, Frontier, Signer as _};
    use jurat_testkit::SimDisk;

    use super::*;
    use crate::archive::tests::host;
    use crate::queue::queue;

    fn headers(len: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(http_header::CONTENT_LENGTH, len.into());
        headers
    }

    #[test]
    fn uploads_under_way_hold_a_bounded_memory_and_the_next_is_told_when_to_come_back() {
        for (headers, most) in [
            (headers(100_000), 256),
            (headers(UPLOAD_BYTES_MAX), 32),
            (headers(usize::MAX), 32),
            // Chunked: as if it were the greatest.
            (HeaderMap::new(), 32),
        ] {
            let room = Room::new();
            let held: Vec<_> = (0..most).map(|_| room.take(&headers).unwrap()).collect();
            let refused = room.take(&headers).unwrap_err().into_response();
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(refused.headers()["retry-after"], RETRY_AFTER_S);
            drop(held);
            assert!(room.take(&headers).is_ok());
        }
    }

    #[tokio::test]
    async fn strangers_who_show_checkpoints_wait_for_one_core_in_a_room_of_their_own_and_take_none_of_the_uploads()
     {
        let disk = SimDisk::new();
        let host = host(&disk);
        let dir = Path::new("/c");
        let (archive, _writer) = Archive::open(host.clone(), dir, "example.org", 10, 0).unwrap();
        // A disk that never answers: nobody reads this inbox.
        let (queue, inbox) = queue();
        let log = SoftwareKey::log(&Secret::from_bytes([9; 32]), "elsewhere.example/log").unwrap();
        let mut foreign = Logs::default();
        foreign.add(log.verifier_key().clone()).unwrap();
        let secret = || Secret::from_bytes([1; 32]);
        let api = Arc::new(Api {
            tiles: Arc::new(TileStore::new(archive.clone(), host.disk.clone(), dir)),
            host,
            archive,
            queue,
            enrol_token: secret(),
            ek_roots: EkRoots::default(),
            pending: Pending::default(),
            certificates: None,
            has_witnesses: false,
            admin_token: secret(),
            fingerprint_key: secret(),
            domain: "example.org".into(),
            room: Room::new(),
            read_token: secret(),
            public_logs: false,
            foreign,
            failed: watch::channel(None).0,
        });
        let empty = Checkpoint {
            origin: log.verifier_key().name.clone(),
            size: 0,
            root: Frontier::default().root(),
        };
        let body = jurat_witness::Request::encode(0, &[], &empty.sign(&log).unwrap());
        let show = || tokio::spawn(api.clone().add_checkpoint(body.clone().into()));
        let weighed = api.room.weighing.clone().acquire_owned().await;
        let waiting: Vec<_> = (0..WITNESSING_MAX).map(|_| show()).collect();
        while api.room.witnessing.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // While one is judged no thread is given to another: each has only its own hold of the collector.
        assert_eq!(Arc::strong_count(&api), 1 + WITNESSING_MAX);
        assert_eq!(show().await.unwrap(), Answer::Unavailable);
        let fresh = Room::new().judging.available_permits();
        assert_eq!(api.room.judging.available_permits(), fresh);
        assert!(api.room.take(&headers(100_000)).is_ok());
        // Who waits for the disk holds nobody up.
        drop(weighed);
        while api.room.weighing.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        // Nobody will ever read it: who waited is told, and there is room again.
        drop(inbox);
        for shown in waiting {
            assert_eq!(shown.await.unwrap(), Answer::Unavailable);
        }
        assert_eq!(api.room.witnessing.available_permits(), WITNESSING_MAX);
        assert_eq!(api.room.weighing.available_permits(), 1);
    }
}
