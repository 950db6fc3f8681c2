//! Syslog over UDP (RFC 5426), TCP (RFC 6587) and TLS (RFC 5425). No receiver ever says that it has something: what the
//! kernel took is all that is known, and over UDP not even that it left.

use std::io::Write as _;
use std::net::{ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;

use rustls::ClientConfig;

use super::stream::Stream;
use super::{Peer, Transport, TransportError};
use crate::Guarantee;

/// How a message's end is found in a stream (RFC 6587, 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Its length stands before it.
    #[default]
    OctetCounting,
    /// A line feed stands behind it: for receivers that know nothing else.
    Newline,
}

/// What is written at once.
const WRITE_BYTES: usize = 64 * 1024;

/// Messages over TCP, with TLS or without. Guarantee: written.
pub struct SyslogTcp {
    peer: Peer,
    tls: Option<Arc<ClientConfig>>,
    framing: Framing,
    stream: Option<Stream>,
    buffer: Vec<u8>,
}

impl SyslogTcp {
    /// A receiver; nothing is sent yet.
    pub fn new(peer: Peer, tls: Option<Arc<ClientConfig>>, framing: Framing) -> Self {
        Self {
            peer,
            tls,
            framing,
            stream: None,
            buffer: Vec::new(),
        }
    }

    fn failed(&self, sent: usize, doing: &'static str, source: std::io::Error) -> TransportError {
        TransportError {
            sent,
            to: self.peer.to_string(),
            doing,
            source,
        }
    }

    fn frame(&mut self, message: &[u8]) {
        match self.framing {
            Framing::OctetCounting => {
                self.buffer
                    .extend_from_slice(format!("{} ", message.len()).as_bytes());
                self.buffer.extend_from_slice(message);
            }
            Framing::Newline => {
                self.buffer.extend_from_slice(message);
                self.buffer.push(b'\n');
            }
        }
    }

    fn write(&mut self) -> Result<(), (&'static str, std::io::Error)> {
        if self.stream.as_mut().is_some_and(Stream::is_ended) {
            self.stream = None;
        }
        if self.stream.is_none() {
            let stream = Stream::connect(&self.peer, self.tls.as_ref());
            self.stream = Some(stream.map_err(|error| ("connecting", error))?);
        }
        let stream = self.stream.as_mut().expect("connected just now");
        let written = stream.write_all(&self.buffer).and_then(|()| stream.flush());
        self.buffer.clear();
        if let Err(error) = written {
            // How much of it arrived is not known.
            self.stream = None;
            return Err(("writing", error));
        }
        Ok(())
    }
}

impl Transport for SyslogTcp {
    fn guarantee(&self) -> Guarantee {
        Guarantee::Written
    }

    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), TransportError> {
        let mut sent = 0;
        self.buffer.clear();
        for (number, message) in messages.iter().enumerate() {
            self.frame(message);
            if self.buffer.len() >= WRITE_BYTES || number + 1 == messages.len() {
                self.write()
                    .map_err(|(doing, error)| self.failed(sent, doing, error))?;
                sent = number + 1;
            }
        }
        Ok(())
    }
}

/// Messages over UDP, each a datagram. Guarantee: none.
pub struct SyslogUdp {
    peer: Peer,
    socket: Option<UdpSocket>,
}

impl SyslogUdp {
    /// A receiver; nothing is sent yet.
    pub fn new(peer: Peer) -> Self {
        Self { peer, socket: None }
    }

    fn connect(&self) -> std::io::Result<UdpSocket> {
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        for address in (self.peer.host.as_str(), self.peer.port).to_socket_addrs()? {
            let local = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let connected = UdpSocket::bind(local).and_then(|socket| {
                socket.connect(address)?;
                Ok(socket)
            });
            match connected {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Transport for SyslogUdp {
    fn guarantee(&self) -> Guarantee {
        Guarantee::None
    }

    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), TransportError> {
        let failed = |to: &Peer, sent, doing, source| TransportError {
            sent,
            to: to.to_string(),
            doing,
            source,
        };
        if self.socket.is_none() {
            let socket = self.connect();
            let socket =
                socket.map_err(|error| failed(&self.peer, 0, "opening a socket", error))?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_ref().expect("opened just now");
        for message in messages {
            match socket.send(message) {
                Ok(_) => {}
                // What an earlier datagram met: nobody listens. That is what this transport promises nothing about.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    let error = failed(&self.peer, 0, "sending a datagram", error);
                    self.socket = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
