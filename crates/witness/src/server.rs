//! HTTP/1.1 and HTTP/2 over TLS or plain TCP, for whatever router: bounded, and with an orderly stop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jurat_key::tls::{Presented, Server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// The most connections at a time; the next one waits.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take for its TLS handshake: a TPM may be signing in it.
const HANDSHAKE_S: u64 = 30;
/// How long it may take for the head of a request.
const HEAD_S: u64 = 10;

/// How often the files of the certificate are looked at.
const RELOAD_S: u64 = 2;

/// Where a server listens, and whether it speaks TLS there.
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// `None`: plain HTTP.
    pub tls: Option<Server>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn shake_hands(
    tls: Option<TlsAcceptor>,
    socket: TcpStream,
) -> Option<(Box<dyn Stream>, Presented)> {
    let _ = socket.set_nodelay(true);
    match tls {
        None => Some((Box::new(socket), Presented::default())),
        Some(tls) => {
            let shaken = tokio::time::timeout(Duration::from_secs(HANDSHAKE_S), tls.accept(socket));
            let stream = shaken.await.ok()?.ok()?;
            let presented = Presented::of(stream.get_ref().1);
            Some((Box::new(stream), presented))
        }
    }
}

/// Takes a certificate over that was changed; files that do not belong together leave things as they are.
async fn reload(server: Option<Server>) {
    let Some(server) = server else {
        return std::future::pending().await;
    };
    let mut complained = false;
    loop {
        tokio::time::sleep(Duration::from_secs(RELOAD_S)).await;
        let looked = server.clone();
        // Not here: a folder that hangs must not keep connections waiting.
        let reloaded = tokio::task::spawn_blocking(move || looked.reload());
        match reloaded.await.unwrap_or(Ok(false)) {
            Ok(is_new) => {
                if is_new {
                    tracing::info!("the server's certificate was read again");
                }
                complained = false;
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(%error, "the server's certificate stays as it was");
                }
                complained = true;
            }
        }
    }
}

/// Serves until `stop` ends, and gives what it said. No new connection then; answers under way are
/// finished, for at most 5 s.
///
/// Each request bears what its connection [`Presented`], as an extension. A certificate whose files change is used from
/// the next connection on.
pub async fn serve<T>(listening: Listening, router: Router, stop: impl Future<Output = T>) -> T {
    let Listening { socket, tls } = listening;
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_S));
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(64);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (connected, mut connections) = tokio::sync::mpsc::channel(64);
    let acceptor = tls
        .as_ref()
        .map(|tls| TlsAcceptor::from(tls.config.clone()));
    let mut reloading = pin!(reload(tls));
    let mut stop = pin!(stop);
    let said = loop {
        tokio::select! {
            said = &mut stop => break said,
            () = &mut reloading => {}
            (slot, accepted) = async { (slots.clone().acquire_owned().await, socket.accept().await) } => {
                let Ok(slot) = slot else { continue };
                let Ok((socket, _)) = accepted else {
                    // Out of file descriptors or the like: others must end first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (tls, connected) = (acceptor.clone(), connected.clone());
                tokio::spawn(async move {
                    if let Some((stream, presented)) = shake_hands(tls, socket).await {
                        let _ = connected.send((stream, presented, slot)).await;
                    }
                });
            }
            Some((stream, presented, slot)) = connections.recv() => {
                let service = TowerToHyperService::new(router.clone());
                let service = service_fn(move |mut request: hyper::Request<_>| {
                    request.extensions_mut().insert(presented.clone());
                    service.call(request)
                });
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    let _ = connection.await;
                    drop(slot);
                });
            }
        }
    };
    drop(socket);
    let _ = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
    said
}
