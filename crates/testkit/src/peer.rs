//! A strict peer in front of a real collector: it keeps what it was sent, and answers from a script or
//! passes the request on. HTTP/1.1 over TLS, one request a connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The request line and the fields.
    pub head: String,
    /// The body; only its beginning when the answer was [`Answer::Reset`].
    pub body: Vec<u8>,
}

impl Sent {
    /// Whether it is an upload.
    pub fn is_upload(&self) -> bool {
        self.head.starts_with("POST /v1/batches ")
    }
}

/// What a request is answered with.
pub enum Answer {
    /// What the collector says.
    Pass,
    /// What this makes of the body that the collector answers a success with.
    Change(Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>),
    /// Nothing: the collector took the request, and its answer is lost.
    Lose,
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Silence,
    /// Nothing: the connection is reset before the body was read.
    Reset,
}

impl Answer {
    /// An answer with this status, these fields (each with its line end) and this body.
    pub fn status(status: u16, fields: &str, body: &[u8]) -> Self {
        let len = body.len();
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\nconnection: close\r\ncontent-length: {len}\r\n{fields}\r\n"
        );
        Self::Raw([head.as_bytes(), body].concat())
    }
}

/// Says what the upload with this number, from 0, is answered with.
pub type Script = Box<dyn FnMut(usize) -> Answer + Send>;

/// Says what a request for the receipt of this size is answered with.
pub type Receipts = Box<dyn FnMut(u64) -> Answer + Send>;

struct Shared {
    receipts: Mutex<Option<Receipts>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    collector: SocketAddr,
    stopped: AtomicBool,
    sent: Mutex<Vec<Sent>>,
    script: Mutex<Script>,
}

/// A running peer; stops when dropped. Whatever is not an upload is passed on.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// A peer with the collector's own certificate, in front of it.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub fn start(
        server: Arc<ServerConfig>,
        mut client: ClientConfig,
        collector: SocketAddr,
        script: Script,
    ) -> io::Result<Self> {
        let mut server = ServerConfig::clone(&server);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            receipts: Mutex::new(None),
            server: Arc::new(server),
            client: Arc::new(client),
            collector,
            stopped: AtomicBool::new(false),
            sent: Mutex::default(),
            script: Mutex::new(script),
        });
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if of_thread.stopped.load(Ordering::Acquire) {
                    break;
                }
                let shared = of_thread.clone();
                // A client that goes away, or a collector that does, is what this is for.
                std::thread::spawn(move || drop(shared.serve(socket)));
            }
        });
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The uploads so far, as they came.
    pub fn uploads(&self) -> Vec<Sent> {
        let sent = lock(&self.shared.sent);
        sent.iter()
            .filter(|sent| sent.is_upload())
            .cloned()
            .collect()
    }

    /// Answers requests for receipts from here on, instead of passing them on.
    pub fn receipts(&self, receipts: Receipts) {
        *lock(&self.shared.receipts) = Some(receipts);
    }

    /// Another script; it is asked with numbers from 0 again. What was sent is forgotten.
    pub fn script(&self, script: Script) {
        lock(&self.shared.sent).clear();
        *lock(&self.shared.script) = script;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

impl Shared {
    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        let server = ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(server, socket);
        let (head, mut body) = read_head(&mut stream)?;
        let mut sent = Sent {
            head,
            body: Vec::new(),
        };
        let answer = if sent.is_upload() {
            // Counted and answered in one step: two requests never get the same answer.
            let mut kept = lock(&self.sent);
            let number = kept.iter().filter(|sent| sent.is_upload()).count();
            kept.push(sent.clone());
            let answer = (lock(&self.script))(number);
            drop(kept);
            if matches!(answer, Answer::Reset) {
                // Closed with bytes unread, which the kernel says with a reset.
                return Ok(());
            }
            read_rest(&mut stream, &sent.head, &mut body)?;
            lock(&self.sent)
                .get_mut(number)
                .into_iter()
                .for_each(|kept| kept.body.clone_from(&body));
            answer
        } else {
            read_rest(&mut stream, &sent.head, &mut body)?;
            match (receipt_size(&sent.head), &mut *lock(&self.receipts)) {
                (Some(size), Some(receipts)) => receipts(size),
                _ => Answer::Pass,
            }
        };
        sent.body = body;
        let bytes = match answer {
            Answer::Pass => self.pass(&sent)?,
            Answer::Change(change) => changed(self.pass(&sent)?, &*change),
            Answer::Lose => {
                self.pass(&sent)?;
                Vec::new()
            }
            Answer::Raw(bytes) => bytes,
            Answer::Silence => {
                // Until the client closes its side.
                let _ = stream.read(&mut [0; 1]);
                return Ok(());
            }
            Answer::Reset => return Ok(()),
        };
        stream.write_all(&bytes)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    /// Asks the collector the same; its whole answer, head and body.
    fn pass(&self, sent: &Sent) -> io::Result<Vec<u8>> {
        let name = "localhost".try_into().map_err(io::Error::other)?;
        let client = ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(self.collector)?;
        let mut stream = StreamOwned::new(client, socket);
        let head = sent.head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        stream.write_all(head.as_bytes())?;
        stream.write_all(&sent.body)?;
        let mut answer = Vec::new();
        // A server may end without saying goodbye; the length field tells whether all is here.
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    }
}

/// The size whose receipt is asked for.
fn receipt_size(head: &str) -> Option<u64> {
    let rest = head.strip_prefix("GET /v1/receipt?size=")?;
    rest.split(' ').next()?.parse().ok()
}

const END: &[u8] = b"\r\n\r\n";

/// Reads up to the end of the head, and what came of the body with it.
fn read_head(stream: &mut Tls) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 512];
    loop {
        if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
            let body = bytes.split_off(at + END.len());
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 || bytes.len() > 64 * 1024 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}

fn read_rest(stream: &mut Tls, head: &str, body: &mut Vec<u8>) -> io::Result<()> {
    let len = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let have = body.len().min(len);
    body.resize(len, 0);
    stream.read_exact(&mut body[have..])
}

/// A success with another body; anything else as it is.
fn changed(answer: Vec<u8>, change: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let Some(at) = answer.windows(END.len()).position(|window| window == END) else {
        return answer;
    };
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return answer;
    }
    let body = change(answer[at + END.len()..].to_vec());
    match Answer::status(200, "content-type: application/json\r\n", &body) {
        Answer::Raw(bytes) => bytes,
        _ => answer,
    }
}
