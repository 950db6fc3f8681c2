//! A scripted stand-in for the Messages API, so that a real agent can be driven without a network
//! or an account.
//!
//! The answers follow the event sequence documented at
//! <https://platform.claude.com/docs/build-with-claude/streaming>: `message_start`, for each block
//! `content_block_start`, `content_block_delta` and `content_block_stop`, then `message_delta` and
//! `message_stop`. How Claude Code uses the interface is observed, not documented: besides the
//! conversation it sends
//!
//! | request | told apart by |
//! |---|---|
//! | `HEAD /`, a probe at the start | the method |
//! | `POST /v1/messages/count_tokens`, for `/context` | the path |
//! | a title for the session (interactive, or `--output-format stream-json`) | no tools, `output_config.format` is a JSON schema with a `title` |
//! | other small requests (quota, summaries of web pages) | no tools |
//! | the summary for `/compact` | tools as usual, but the last text forbids them |
//! | the turns of a subagent | the header `x-claude-code-agent-id` |
//!
//! None of them takes a turn from the script of the conversation.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

/// The longest request head (request line and header fields) in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest request body in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most connections open at the same time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may stay silent before it is closed.
const IDLE_MAX: Duration = Duration::from_mins(2);
/// What is said when the script is exhausted.
const CLOSING_TEXT: &str = "That is all.";
/// What is said where no turn is due.
const SIDE_TEXT: &str = "Nothing to add.";
/// The title of every session.
const TITLE: &str = "Look at the project";
/// How the last text of a request starts that asks for a summary of the conversation.
const COMPACTION_MARK: &str = "CRITICAL: Respond with TEXT ONLY";
/// The header field with which Claude Code marks the requests of a subagent.
const AGENT_FIELD: &str = "x-claude-code-agent-id";

/// One scripted answer of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// Says something and ends the turn.
    Text(String),
    /// Calls a tool.
    ToolUse {
        /// The tool, for example `Bash`.
        name: String,
        /// Its arguments, a JSON object.
        input: Value,
    },
    /// Says something, then calls a tool.
    Both {
        /// What is said.
        text: String,
        /// The tool, for example `Bash`.
        name: String,
        /// Its arguments, a JSON object.
        input: Value,
    },
}

/// A Messages API on loopback that answers from a script.
///
/// It stops when it is dropped.
#[derive(Debug)]
pub struct MessagesApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stopping: AtomicBool,
    requests: AtomicUsize,
    side_requests: AtomicUsize,
    main: Mutex<VecDeque<Turn>>,
    agents: Mutex<VecDeque<Turn>>,
    connections: Mutex<HashMap<u64, TcpStream>>,
    ids: Ids,
}

impl MessagesApi {
    /// Starts an interface that answers the conversation from `script`, and subagents with a
    /// short closing text.
    pub fn start(script: Vec<Turn>) -> io::Result<Self> {
        Self::start_with_agents(script, Vec::new())
    }

    /// Starts an interface that answers the conversation from `script` and subagents from
    /// `agents`.
    ///
    /// All subagents share one script, so its order is certain only while one of them runs at a
    /// time.
    pub fn start_with_agents(script: Vec<Turn>, agents: Vec<Turn>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            side_requests: AtomicUsize::new(0),
            main: Mutex::new(script.into()),
            agents: Mutex::new(agents.into()),
            connections: Mutex::new(HashMap::new()),
            ids: Ids::new(),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("messages-api".to_owned())
                .spawn(move || accept(&listener, &shared))?
        };
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Returns the value for `ANTHROPIC_BASE_URL`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Counts the `POST /v1/messages` seen so far, side requests and subagents included.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Counts the `POST /v1/messages` seen so far that belong neither to the conversation nor to
    /// a subagent.
    pub fn side_requests(&self) -> usize {
        self.shared.side_requests.load(Ordering::SeqCst)
    }

    /// Counts the turns that were not asked for yet, those of subagents included.
    pub fn turns_left(&self) -> usize {
        lock(&self.shared.main).len() + lock(&self.shared.agents).len()
    }
}

impl Drop for MessagesApi {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which is blocked until somebody connects.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok();
        for stream in lock(&self.shared.connections).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take()
            && woken
        {
            let _ = acceptor.join();
        }
    }
}

/// Locks even after a panic elsewhere: a script has no invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (key, stream) in (0_u64..).zip(listener.incoming()) {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, for example: waiting is better than spinning.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        {
            let mut connections = lock(&shared.connections);
            if connections.len() >= CONNECTIONS_MAX {
                continue;
            }
            connections.insert(key, handle);
        }
        let owner = Arc::clone(shared);
        let spawned = thread::Builder::new()
            .name("messages-api".to_owned())
            .spawn(move || {
                // A broken connection is the client's business, and it notices by itself.
                let _ = serve(&stream, &owner);
                let _ = stream.shutdown(Shutdown::Both);
                lock(&owner.connections).remove(&key);
            });
        if spawned.is_err() {
            lock(&shared.connections).remove(&key);
        }
        // `drop` may have passed the list before this connection was in it.
        if shared.stopping.load(Ordering::SeqCst)
            && let Some(stream) = lock(&shared.connections).get(&key)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let request = match Request::read(&mut reader, stream)? {
            Incoming::Request(request) => request,
            Incoming::Refused(status, reason) => {
                let body = error_body("invalid_request_error", reason);
                return Response::json(status, &body).write(stream, "", false, false);
            }
            Incoming::Closed => return Ok(()),
        };
        let response = answer(&request, shared);
        let id = shared.ids.next("req_");
        response.write(stream, &id, request.keep_alive, request.method == "HEAD")?;
        if !request.keep_alive {
            return Ok(());
        }
    }
}

fn answer(request: &Request, shared: &Shared) -> Response {
    let path = request.target.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path) {
        ("POST", "/v1/messages") => messages(request, shared),
        ("POST", "/v1/messages/count_tokens") => {
            Response::json(200, &json!({ "input_tokens": tokens(request.body.len()) }))
        }
        ("GET", "/v1/models") => Response::json(
            200,
            &json!({ "data": [], "has_more": false, "first_id": null, "last_id": null }),
        ),
        // Probes and reports need no more than an answer.
        ("GET" | "HEAD" | "POST", "/") => Response::json(200, &json!({})),
        _ => Response::json(404, &error_body("not_found_error", "no such endpoint")),
    }
}

fn messages(request: &Request, shared: &Shared) -> Response {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let body = match serde_json::from_slice::<Value>(&request.body) {
        Ok(body) if body.is_object() => body,
        _ => {
            let body = error_body("invalid_request_error", "the body is not a JSON object");
            return Response::json(400, &body);
        }
    };
    let side = |text: String| {
        shared.side_requests.fetch_add(1, Ordering::SeqCst);
        Turn::Text(text)
    };
    let next = |script: &Mutex<VecDeque<Turn>>| {
        lock(script)
            .pop_front()
            .unwrap_or_else(|| Turn::Text(CLOSING_TEXT.to_owned()))
    };
    let turn = match Purpose::of(request, &body) {
        Purpose::Conversation => next(&shared.main),
        Purpose::Agent => next(&shared.agents),
        Purpose::Title => side(json!({ "title": TITLE }).to_string()),
        Purpose::Other => side(SIDE_TEXT.to_owned()),
    };
    let message = Message::new(turn, &body, request.body.len(), &shared.ids);
    if body.get("stream").and_then(Value::as_bool).unwrap_or(false) {
        Response {
            status: 200,
            media_type: "text/event-stream",
            body: message.events(),
        }
    } else {
        Response::json(200, &message.whole())
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Conversation,
    Agent,
    Title,
    Other,
}

impl Purpose {
    fn of(request: &Request, body: &Value) -> Self {
        if body
            .get("tools")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            let titled = body
                .pointer("/output_config/format/schema/properties/title")
                .is_some();
            return if titled { Self::Title } else { Self::Other };
        }
        if last_text(body).is_some_and(|text| text.starts_with(COMPACTION_MARK)) {
            return Self::Other;
        }
        if request.field(AGENT_FIELD).is_some() {
            Self::Agent
        } else {
            Self::Conversation
        }
    }
}

/// Returns the last text of the last message.
fn last_text(body: &Value) -> Option<&str> {
    let content = body.get("messages")?.as_array()?.last()?.get("content")?;
    match content {
        Value::String(text) => Some(text),
        Value::Array(blocks) => blocks
            .iter()
            .rev()
            .find_map(|block| block.get("text").and_then(Value::as_str)),
        _ => None,
    }
}

/// Estimates tokens, about four bytes each.
fn tokens(bytes: usize) -> usize {
    bytes / 4 + 1
}

fn error_body(kind: &str, message: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}

/// One answer of the model, before it is put into the form that was asked for.
struct Message {
    id: String,
    model: Value,
    blocks: Vec<Value>,
    stop_reason: &'static str,
    input_tokens: usize,
    output_tokens: usize,
}

impl Message {
    fn new(turn: Turn, request: &Value, request_bytes: usize, ids: &Ids) -> Self {
        let said = |text: String| json!({ "type": "text", "text": text });
        let called = |name: String, input: Value| {
            let id = ids.next("toolu_");
            json!({ "type": "tool_use", "id": id, "name": name, "input": input })
        };
        let (blocks, stop_reason) = match turn {
            Turn::Text(text) => (vec![said(text)], "end_turn"),
            Turn::ToolUse { name, input } => (vec![called(name, input)], "tool_use"),
            Turn::Both { text, name, input } => (vec![said(text), called(name, input)], "tool_use"),
        };
        let output_tokens = blocks
            .iter()
            .map(|block| tokens(block.to_string().len()))
            .sum();
        Self {
            id: ids.next("msg_"),
            model: request
                .get("model")
                .cloned()
                .unwrap_or_else(|| json!("scripted")),
            blocks,
            stop_reason,
            input_tokens: tokens(request_bytes),
            output_tokens,
        }
    }

    fn envelope(
        &self,
        content: &[Value],
        stop_reason: Option<&str>,
        output_tokens: usize,
    ) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": {
                "input_tokens": self.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": output_tokens,
            },
        })
    }

    /// Returns the answer as one JSON object.
    fn whole(&self) -> Value {
        self.envelope(&self.blocks, Some(self.stop_reason), self.output_tokens)
    }

    /// Returns the answer as server-sent events.
    fn events(&self) -> Vec<u8> {
        let mut out = String::new();
        let mut event = |name: &str, mut data: Value| {
            data["type"] = json!(name);
            // Writing to a `String` cannot fail.
            let _ = write!(out, "event: {name}\ndata: {data}\n\n");
        };
        event(
            "message_start",
            json!({ "message": self.envelope(&[], None, 1) }),
        );
        for (index, block) in self.blocks.iter().enumerate() {
            let mut start = block.clone();
            let delta = if let Some(text) = block.get("text") {
                start["text"] = json!("");
                json!({ "type": "text_delta", "text": text })
            } else {
                let input = start["input"].take();
                start["input"] = json!({});
                json!({ "type": "input_json_delta", "partial_json": input.to_string() })
            };
            event(
                "content_block_start",
                json!({ "index": index, "content_block": start }),
            );
            event(
                "content_block_delta",
                json!({ "index": index, "delta": delta }),
            );
            event("content_block_stop", json!({ "index": index }));
        }
        event(
            "message_delta",
            json!({
                "delta": { "stop_reason": self.stop_reason, "stop_sequence": null },
                "usage": { "output_tokens": self.output_tokens },
            }),
        );
        event("message_stop", json!({}));
        out.into_bytes()
    }
}

/// Makes identifiers in the shape of the interface, different in every process.
///
/// A session that is resumed meets the identifiers of an earlier run again, so a plain counter
/// will not do.
#[derive(Debug)]
struct Ids {
    random: RandomState,
    count: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self {
            random: RandomState::new(),
            count: AtomicU64::new(0),
        }
    }

    fn next(&self, prefix: &str) -> String {
        const DIGITS: &[u8] = b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = format!("{prefix}01");
        for half in 0_u8..2 {
            let mut rest = self.random.hash_one((count, half));
            for _ in 0..11 {
                let base = DIGITS.len() as u64;
                id.push(char::from(
                    DIGITS[usize::try_from(rest % base).unwrap_or_default()],
                ));
                rest /= base;
            }
        }
        id
    }
}

/// A request with its body.
#[derive(Debug, Default)]
struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    keep_alive: bool,
}

/// What came in on a connection.
enum Incoming {
    Request(Request),
    Refused(u16, &'static str),
    Closed,
}

impl Request {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads the next request; `writer` is the same connection, for `100 Continue`.
    fn read(reader: &mut impl BufRead, mut writer: impl Write) -> io::Result<Incoming> {
        let mut budget = HEAD_BYTES_MAX;
        let mut line = match head_line(reader, &mut budget)? {
            Line::Text(line) => line,
            Line::TooLong => return Ok(Incoming::Refused(431, "the request head is too long")),
            Line::End => return Ok(Incoming::Closed),
        };
        // RFC 9112, section 2.2: ignore an empty line before the request line.
        if line.is_empty() {
            line = match head_line(reader, &mut budget)? {
                Line::Text(line) => line,
                Line::TooLong => return Ok(Incoming::Refused(431, "the request head is too long")),
                Line::End => return Ok(Incoming::Closed),
            };
        }
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Ok(Incoming::Refused(400, "not an HTTP request line"));
        };
        if !version.starts_with("HTTP/1.") {
            return Ok(Incoming::Refused(505, "only HTTP/1 is spoken here"));
        }
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            keep_alive: version != "HTTP/1.0",
            ..Self::default()
        };
        loop {
            match head_line(reader, &mut budget)? {
                Line::Text(line) if line.is_empty() => break,
                Line::Text(line) => {
                    let Some((name, value)) = line.split_once(':') else {
                        return Ok(Incoming::Refused(400, "a header field without a colon"));
                    };
                    let value = value.trim().to_owned();
                    request.fields.push((name.to_ascii_lowercase(), value));
                }
                Line::TooLong => {
                    return Ok(Incoming::Refused(431, "the request head is too long"));
                }
                Line::End => return Ok(Incoming::Closed),
            }
        }
        if let Some(connection) = request.field("connection") {
            let close = connection
                .split(',')
                .any(|t| t.trim().eq_ignore_ascii_case("close"));
            request.keep_alive &= !close;
        }
        if request.field("transfer-encoding").is_some() {
            return Ok(Incoming::Refused(411, "a body needs a content-length"));
        }
        let length = match request.field("content-length").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(length)) if length <= BODY_BYTES_MAX => length,
            Some(Ok(_)) => return Ok(Incoming::Refused(413, "the body is too long")),
            Some(Err(_)) => return Ok(Incoming::Refused(400, "not a content-length")),
        };
        let expects = request.field("expect");
        if length > 0 && expects.is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            writer.flush()?;
        }
        // Grows with what arrives, not with what is promised.
        reader.take(length as u64).read_to_end(&mut request.body)?;
        if request.body.len() < length {
            return Ok(Incoming::Closed);
        }
        Ok(Incoming::Request(request))
    }
}

/// A line of a request head.
enum Line {
    Text(String),
    TooLong,
    End,
}

/// Reads a line without its end and takes its length from `budget`.
fn head_line(reader: &mut impl BufRead, budget: &mut usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = match reader.take(*budget as u64).read_until(b'\n', &mut line) {
        Ok(read) => read,
        // A silent or vanished client.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Ok(Line::End);
        }
        Err(error) => return Err(error),
    };
    *budget -= read;
    if line.pop() != Some(b'\n') {
        return Ok(if *budget == 0 {
            Line::TooLong
        } else {
            Line::End
        });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Line::Text(String::from_utf8_lossy(&line).into_owned()))
}

struct Response {
    status: u16,
    media_type: &'static str,
    body: Vec<u8>,
}

impl Response {
    fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            media_type: "application/json",
            body: body.to_string().into_bytes(),
        }
    }

    /// Writes the response; without its body when it answers `HEAD`.
    fn write(
        &self,
        mut stream: impl Write,
        request_id: &str,
        keep_alive: bool,
        head_only: bool,
    ) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            404 => "Not Found",
            _ => "Refused",
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\n",
            self.status,
            self.media_type,
            self.body.len()
        );
        if !request_id.is_empty() {
            // Writing to a `String` cannot fail.
            let _ = write!(head, "request-id: {request_id}\r\n");
        }
        head.push_str(if keep_alive {
            "\r\n"
        } else {
            "connection: close\r\n\r\n"
        });
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        stream.write_all(&bytes)?;
        stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = r#""tools":[{"name":"Bash"}]"#;

    /// Sends `bytes` and returns all that comes back until the server closes.
    fn raw(api: &MessagesApi, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(api.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // The server may refuse, and close, before all is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn post(api: &MessagesApi, path: &str, fields: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {length}\r\n{fields}\r\n");
        raw(api, (head + body).as_bytes())
    }

    fn script() -> Vec<Turn> {
        vec![
            Turn::Both {
                text: "Looking.".to_owned(),
                name: "Bash".to_owned(),
                input: json!({ "command": "ls" }),
            },
            Turn::Text("Done.".to_owned()),
        ]
    }

    #[test]
    fn streams_the_documented_event_sequence() {
        let api = MessagesApi::start(script()).unwrap();
        let body = format!(r#"{{"model":"m","stream":true,{TOOLS}}}"#);
        let answer = post(&api, "/v1/messages?beta=true", "", &body);
        let names: Vec<&str> = answer
            .lines()
            .filter_map(|line| line.strip_prefix("event: "))
            .collect();
        assert_eq!(
            names,
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]
        );
        assert!(answer.contains(r#""partial_json":"{\"command\":\"ls\"}""#));
        assert!(answer.contains(r#""stop_reason":"tool_use""#));
        assert_eq!((api.requests(), api.turns_left()), (1, 1));
    }

    #[test]
    fn answers_without_stream_and_after_the_end_of_the_script() {
        let api = MessagesApi::start(vec![Turn::Text("One.".to_owned())]).unwrap();
        let body = format!(r#"{{"model":"m",{TOOLS}}}"#);
        for expected in ["One.", CLOSING_TEXT, CLOSING_TEXT] {
            let answer = post(&api, "/v1/messages", "", &body);
            let (_, json) = answer.split_once("\r\n\r\n").unwrap();
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(value["content"][0]["text"], expected);
            assert_eq!(value["stop_reason"], "end_turn");
        }
    }

    #[test]
    fn side_requests_take_no_turn() {
        let agents = vec![Turn::Text("From the agent.".to_owned())];
        let api = MessagesApi::start_with_agents(script(), agents).unwrap();
        let format = r#"{"type":"json_schema","schema":{"properties":{"title":{}}}}"#;
        let title = format!(r#"{{"tools":[],"output_config":{{"format":{format}}}}}"#);
        assert!(post(&api, "/v1/messages", "", &title).contains(TITLE));
        assert!(post(&api, "/v1/messages", "", r#"{"max_tokens":1}"#).contains(SIDE_TEXT));
        let said = format!(r#"[{{"type":"text","text":"{COMPACTION_MARK}."}}]"#);
        let compact = format!(r#"{{{TOOLS},"messages":[{{"role":"user","content":{said}}}]}}"#);
        assert!(post(&api, "/v1/messages", "", &compact).contains(SIDE_TEXT));
        assert_eq!((api.side_requests(), api.turns_left()), (3, 3));

        assert!(post(&api, "/v1/messages/count_tokens", "", "{}").contains("input_tokens"));
        assert!(raw(&api, b"HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(raw(&api, b"GET /none HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert_eq!(api.requests(), 3);

        let agent = format!("{AGENT_FIELD}: a1\r\n");
        let body = format!("{{{TOOLS}}}");
        assert!(post(&api, "/v1/messages", &agent, &body).contains("From the agent."));
        assert!(post(&api, "/v1/messages", &agent, &body).contains(CLOSING_TEXT));
        assert_eq!(api.turns_left(), 2);
    }

    #[test]
    fn keeps_the_connection() {
        let api = MessagesApi::start(script()).unwrap();
        let one = "HEAD / HTTP/1.1\r\n\r\n".repeat(3);
        let answer = raw(&api, one.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
        let close = "HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n".repeat(3);
        let answer = raw(&api, close.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
    }

    #[test]
    fn refuses_bad_input() {
        let api = MessagesApi::start(script()).unwrap();
        let long = format!(
            "GET / HTTP/1.1\r\na: {}\r\n\r\n",
            "x".repeat(HEAD_BYTES_MAX)
        );
        let cases: [(&[u8], &str); 8] = [
            (b"\xff\xfe\x00\r\n\r\n", "HTTP/1.1 400"),
            (b"GET / SPDY/3\r\n\r\n", "HTTP/1.1 505"),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400"),
            (
                b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
                "HTTP/1.1 400",
            ),
            (
                b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
                "HTTP/1.1 413",
            ),
            (
                b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                "HTTP/1.1 411",
            ),
            (
                b"POST /v1/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n[]",
                "HTTP/1.1 400",
            ),
            (long.as_bytes(), ""),
        ];
        for (bytes, expected) in cases {
            let answer = raw(&api, bytes);
            assert!(answer.starts_with(expected), "{answer}");
        }
        assert_eq!(
            raw(&api, b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab"),
            ""
        );
        assert!(raw(&api, b"\r\nHEAD / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn identifiers_differ() {
        let (one, two) = (Ids::new(), Ids::new());
        let ids = [
            one.next("msg_"),
            one.next("msg_"),
            two.next("msg_"),
            two.next("toolu_"),
        ];
        assert_eq!(ids[0].len(), "msg_".len() + 24);
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
        }
    }

    #[test]
    fn stops_when_dropped() {
        let api = MessagesApi::start(Vec::new()).unwrap();
        let address = api.address;
        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"HEAD / HTTP/1.1\r\n").unwrap();
        drop(api);
        assert!(TcpStream::connect(address).is_err());
        idle.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert!(!matches!(idle.read(&mut [0; 1]), Ok(1)));
    }
}
