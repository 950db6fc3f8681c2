//! The Reliable Event Logging Protocol, version 0 (rsyslog's, `librelp/doc/relp.html`): the receiver answers each message.
//!
//! Guarantee: accepted. That is what the answer says; whether the receiver's queue is on a disk, it does not.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use rustls::ClientConfig;

use super::stream::Stream;
use super::{Peer, Transport, TransportError};
use crate::Guarantee;

/// The most messages that wait for their answer.
const WINDOW: usize = 128;
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// The greatest number of a transaction; then they begin again with 1.
const TRANSACTION_MAX: u32 = 999_999_999;

/// A receiver that speaks RELP.
pub struct Relp {
    peer: Peer,
    tls: Option<Arc<ClientConfig>>,
    session: Option<Session>,
}

struct Session {
    stream: Stream,
    next: u32,
    /// Numbers of those that wait for their answer.
    waiting: VecDeque<u32>,
    buffer: Vec<u8>,
}

/// An answer of the receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The transaction; 0 for what the receiver says by itself.
    pub transaction: u32,
    /// `rsp`, `serverclose`, ...
    pub command: String,
    /// What it says.
    pub data: Vec<u8>,
}

impl Answer {
    /// Reads one frame from the front of these bytes, and how long it is. `None`: it is not all there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        // TXNR SP COMMAND SP DATALEN [SP DATA] LF
        let mut at = 0;
        let mut words = [""; 3];
        for (number, word) in words.iter_mut().enumerate() {
            let rest = &bytes[at..];
            let ends = |byte: &u8| *byte == b' ' || (number == 2 && *byte == b'\n');
            let Some(len) = rest.iter().take(40).position(ends) else {
                return if rest.len() >= 40 {
                    Err("a word of a frame is too long")
                } else {
                    Ok(None)
                };
            };
            *word = std::str::from_utf8(&rest[..len]).map_err(|_| "a frame is not ASCII")?;
            at += len + 1;
        }
        let [transaction, command, len] = words;
        let transaction = transaction
            .parse()
            .map_err(|_| "a frame without a number")?;
        let len: usize = len.parse().map_err(|_| "a frame without a length")?;
        if len > ANSWER_BYTES_MAX {
            return Err("an answer is too long");
        }
        // Without data the line feed stands where the space would.
        let has_space = bytes[at - 1] == b' ';
        let (data, end) = match (has_space, len) {
            (false, 0) => (&[][..], at),
            (true, _) => {
                let Some(data) = bytes.get(at..at + len) else {
                    return Ok(None);
                };
                match bytes.get(at + len) {
                    None => return Ok(None),
                    Some(b'\n') => (data, at + len + 1),
                    Some(_) => return Err("a frame without its end"),
                }
            }
            (false, _) => return Err("a frame without its data"),
        };
        let answer = Self {
            transaction,
            command: command.to_owned(),
            data: data.to_vec(),
        };
        Ok(Some((answer, end)))
    }
}

impl Session {
    fn open(peer: &Peer, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let mut session = Self {
            stream: Stream::connect(peer, tls)?,
            next: 1,
            waiting: VecDeque::new(),
            buffer: Vec::new(),
        };
        let version = env!("CARGO_PKG_VERSION");
        let offers = format!("relp_version=0\nrelp_software=jurat,{version}\ncommands=syslog");
        session.ask("open", offers.as_bytes())?;
        session.stream.flush()?;
        session.answered()?;
        Ok(session)
    }

    fn ask(&mut self, command: &str, data: &[u8]) -> io::Result<()> {
        let number = self.next;
        self.next = if number == TRANSACTION_MAX {
            1
        } else {
            number + 1
        };
        let mut frame = format!("{number} {command} {} ", data.len()).into_bytes();
        frame.extend_from_slice(data);
        frame.push(b'\n');
        self.stream.write_all(&frame)?;
        self.waiting.push_back(number);
        Ok(())
    }

    /// Waits for the answer to the oldest that has none.
    fn answered(&mut self) -> io::Result<()> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        loop {
            if let Some((answer, len)) = Answer::parse(&self.buffer).map_err(wrong)? {
                self.buffer.drain(..len);
                if answer.transaction == 0 {
                    // `serverclose`: it will answer nothing more.
                    let what = "the receiver ends the session";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, what));
                }
                let expected = self.waiting.front().copied();
                if answer.command != "rsp" || Some(answer.transaction) != expected {
                    return Err(wrong("an answer to something else"));
                }
                if !answer.data.starts_with(b"200") {
                    let words = String::from_utf8_lossy(&answer.data).into_owned();
                    return Err(io::Error::other(format!("the receiver says {words:.100}")));
                }
                self.waiting.pop_front();
                return Ok(());
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

impl Relp {
    /// A receiver; nothing is sent yet.
    pub fn new(peer: Peer, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            peer,
            tls,
            session: None,
        }
    }
}

impl Transport for Relp {
    fn guarantee(&self) -> Guarantee {
        Guarantee::Accepted
    }

    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), TransportError> {
        let to = self.peer.to_string();
        let failed = |sent, doing, source| TransportError {
            sent,
            to: to.clone(),
            doing,
            source,
        };
        let mut kept = self.session.take();
        if kept.as_mut().is_some_and(|kept| kept.stream.is_ended()) {
            kept = None;
        }
        let mut session = match kept {
            Some(session) => session,
            None => Session::open(&self.peer, self.tls.as_ref())
                .map_err(|error| failed(0, "opening a session", error))?,
        };
        let (mut asked, mut sent) = (0, 0);
        while sent < messages.len() {
            if asked < messages.len() && session.waiting.len() < WINDOW {
                let asking = session.ask("syslog", &messages[asked]);
                asking.map_err(|error| failed(sent, "sending", error))?;
                asked += 1;
                continue;
            }
            let answered = session.stream.flush().and_then(|()| session.answered());
            answered.map_err(|error| failed(sent, "waiting for an answer", error))?;
            sent += 1;
        }
        self.session = Some(session);
        Ok(())
    }
}

impl Drop for Relp {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            // A receiver that hears it forgets the session; it need not.
            let _ = session.ask("close", b"");
        }
    }
}
