//! A connection over TCP, with TLS or without.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::Peer;

/// How long one step may take: to connect, and to wait for the other side.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
/// How long after a handshake the other side may take to refuse our certificate.
const VERDICT: Duration = Duration::from_millis(500);

/// Whether there was nothing to read, for now.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects; with TLS the handshake is done on return.
    pub(super) fn connect(peer: &Peer, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (peer.host.as_str(), peer.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(socket) => return Self::over(socket, peer, tls),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn over(socket: TcpStream, peer: &Peer, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let Some(config) = tls else {
            return Ok(Self::Plain(socket));
        };
        let name = ServerName::try_from(peer.host.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        // In TLS 1.3 we are done before the other side has looked at our certificate, and what is written meanwhile is lost
        // when it does not like it. It says so at once, or sends tickets.
        stream.sock.set_read_timeout(Some(VERDICT))?;
        match stream.conn.read_tls(&mut stream.sock) {
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(_) => {
                let taken = stream.conn.process_new_packets();
                taken.map_err(io::Error::other)?;
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error),
        }
        stream.sock.set_read_timeout(Some(SILENCE))?;
        Ok(Self::Tls(Box::new(stream)))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Whether the other side has ended the connection, as far as is known here. What is written to a connection that was
    /// ended is lost without a word.
    pub(super) fn is_ended(&mut self) -> bool {
        if self.socket().set_nonblocking(true).is_err() {
            return true;
        }
        let mut byte = [0];
        let read = match self {
            Self::Plain(socket) => socket.peek(&mut byte),
            Self::Tls(stream) => match stream.conn.read_tls(&mut stream.sock) {
                Ok(0) => Ok(0),
                Ok(_) => match stream.conn.process_new_packets() {
                    Ok(state) if state.peer_has_closed() => Ok(0),
                    Ok(_) => Ok(1),
                    Err(error) => Err(io::Error::other(error)),
                },
                Err(error) => Err(error),
            },
        };
        let ended = match read {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !is_nothing(&error),
        };
        ended || self.socket().set_nonblocking(false).is_err()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
