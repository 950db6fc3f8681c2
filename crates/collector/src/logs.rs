//! Logs over HTTP as C2SP tiles, and receipts (`docs/formats/tiles.md`).

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jurat_key::tls::Presented;
use jurat_proof::{Digest, TilePath};

use crate::Refused;
use crate::api::{Ctx, admitted, authenticate, bearer, bug, refuse, text};
use crate::tiles::TilesError;

impl From<TilesError> for Refused {
    fn from(error: TilesError) -> Self {
        let behind = matches!(error, TilesError::Behind | TilesError::Torn(_));
        if behind {
            return Self::busy("the tiles are being laid out");
        }
        tracing::error!(%error, "the tiles cannot be read");
        Self::new(503, "tiles_failed", "the tiles cannot be read")
    }
}

fn nothing() -> Refused {
    Refused::new(404, "not_found", "there is nothing here")
}

/// Tiles never change; who may see them only with a token must not leave them in a shared cache.
fn immutable(open: bool) -> &'static str {
    if open {
        "public, max-age=31536000, immutable"
    } else {
        "private, max-age=31536000, immutable"
    }
}

/// `GET /logs/<digest of the origin>/<path>`
pub(crate) async fn read(State(api): Ctx, request: Request) -> Result<Response, Refused> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = uri.path().strip_prefix("/logs/").unwrap_or_default();
    let asked = asked.split_once('/').unwrap_or_default();
    let (log, path) = (Digest::from_hex(asked.0), TilePath::parse(asked.1));
    let bare = log.is_some_and(|log| api.tiles.is_own(&log))
        && !matches!(path, Some(TilePath::Entries(_)));
    let open = api.public_logs || bare;
    let token = api.read_token.to_base64();
    let given = bearer(headers).as_bytes();
    if !open && aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), given).is_err()
    {
        let message = "reading this log takes the token in read.token";
        return Err(refuse(&api, Refused::new(401, "wrong_token", message)));
    }
    let (log, path) = (log.ok_or_else(nothing)?, path.ok_or_else(nothing)?);
    let is_bundle = matches!(path, TilePath::Entries(_));
    let zstd = is_bundle && accepts_zstd(headers);
    let reading = api.room.reading.clone().acquire_owned().await;
    let found = tokio::task::spawn_blocking(move || {
        let _reading = reading;
        let bytes = api.tiles.get(&log, path)?.ok_or_else(nothing)?;
        if zstd {
            return zstd::bulk::compress(&bytes, 1).map_err(|error| TilesError::from(error).into());
        }
        Ok(bytes)
    });
    let bytes = found.await.unwrap_or_else(|error| Err(bug(&error)))?;
    if path == TilePath::Checkpoint {
        let head = [
            (header::CONTENT_TYPE, TEXT),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        return Ok((head, bytes).into_response());
    }
    let kind = (header::CONTENT_TYPE, "application/octet-stream");
    let mut response = ([kind, (header::CACHE_CONTROL, immutable(open))], bytes).into_response();
    if is_bundle {
        let headers = response.headers_mut();
        headers.insert(
            header::VARY,
            header::HeaderValue::from_static("accept-encoding"),
        );
        if zstd {
            let encoding = header::HeaderValue::from_static("zstd");
            headers.insert(header::CONTENT_ENCODING, encoding);
        }
    }
    Ok(response)
}

const TEXT: &str = "text/plain; charset=utf-8";

fn accepts_zstd(headers: &HeaderMap) -> bool {
    let mut names = text(headers, "accept-encoding").split(',').map(str::trim);
    names.any(|name| name == "zstd")
}

/// `GET /v1/receipt?size=N` or `?enrolment`
pub(crate) async fn receipt(
    State(api): Ctx,
    Extension(presented): Extension<Presented>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let device = admitted(&api, &headers, &presented)
        .and_then(|device| {
            authenticate(&api, &device, &headers, "GET", path, b"")?;
            Ok(device)
        })
        .map_err(|refused| refuse(&api, refused))?;
    let query = uri.query().unwrap_or_default();
    let size: Option<u64> = query
        .strip_prefix("size=")
        .and_then(|size| size.parse().ok());
    if size.is_none() && query != "enrolment" {
        return Err(Refused::new(
            400,
            "malformed",
            "ask for ?size=N or ?enrolment",
        ));
    }
    // Not behind those who read tiles: an agent waits for this.
    let found = tokio::task::spawn_blocking(move || match size {
        Some(size) => api.tiles.receipt(&device.row.origin, size),
        None => api.tiles.receipt_of_leaf(device.row.leaf),
    });
    let receipt = match found.await {
        Ok(found) => found?,
        Err(error) => return Err(bug(&error)),
    };
    let absent =
        "no head of this size was accepted, or no checkpoint of the collector's log covers it yet";
    let receipt = receipt.ok_or_else(|| Refused::new(404, "no_receipt", absent))?;
    let head = [(header::CONTENT_TYPE, TEXT)];
    Ok((StatusCode::OK, head, receipt.encode()).into_response())
}
