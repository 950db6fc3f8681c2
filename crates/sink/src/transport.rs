//! How messages get to a receiver, and what its success means.

mod relp;
mod stream;
mod syslog;

#[doc(hidden)] // for the fuzz target
pub use relp::Answer as RelpAnswer;
pub use relp::Relp;
pub use syslog::{Framing, SyslogTcp, SyslogUdp};

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::Guarantee;

/// Where messages go, by one transport. Its thread is its own: it may wait for the network.
pub trait Transport: Send {
    /// What it means that messages were sent.
    fn guarantee(&self) -> Guarantee;

    /// Sends these messages, in order.
    ///
    /// # Errors
    /// [`TransportError`] names how many of them, from the first one on, count as sent. The others may have arrived, too:
    /// they are sent again.
    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), TransportError>;
}

/// Messages that were not all sent.
#[derive(Debug, thiserror::Error)]
#[error("{to}: {doing}")]
pub struct TransportError {
    /// How many count as sent.
    pub sent: usize,
    /// The receiver.
    pub to: String,
    /// What was being done.
    pub doing: &'static str,
    /// What happened.
    #[source]
    pub source: io::Error,
}

/// The name of a receiver that a person writes: `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The name, or the address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Peer {
    /// Reads `HOST[:PORT]`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT");
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if rest.is_empty() => port,
            None => return Err(wrong()),
        };
        if host.is_empty() || host.contains(['/', '@', '?', '#']) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A receiver and how it is spoken to, as a configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `syslog+udp://HOST[:514]`
    SyslogUdp(Peer),
    /// `syslog+tcp://HOST[:514]`
    SyslogTcp(Peer),
    /// `syslog+tls://HOST[:6514]` (RFC 5425)
    SyslogTls(Peer),
    /// `relp://HOST[:2514]`
    Relp(Peer),
    /// `relp+tls://HOST[:2514]`
    RelpTls(Peer),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let peer = |port| Peer::parse(rest.strip_suffix('/').unwrap_or(rest), port);
        match scheme {
            "syslog+udp" => Ok(Self::SyslogUdp(peer(514)?)),
            "syslog+tcp" => Ok(Self::SyslogTcp(peer(514)?)),
            "syslog+tls" => Ok(Self::SyslogTls(peer(6514)?)),
            "relp" => Ok(Self::Relp(peer(2514)?)),
            "relp+tls" => Ok(Self::RelpTls(peer(2514)?)),
            _ => Err(format!(
                "{text:?}: expected syslog+udp, syslog+tcp, syslog+tls, relp or relp+tls, then ://HOST:PORT"
            )),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, peer) = match self {
            Self::SyslogUdp(peer) => ("syslog+udp", peer),
            Self::SyslogTcp(peer) => ("syslog+tcp", peer),
            Self::SyslogTls(peer) => ("syslog+tls", peer),
            Self::Relp(peer) => ("relp", peer),
            Self::RelpTls(peer) => ("relp+tls", peer),
        };
        write!(f, "{scheme}://{peer}")
    }
}
