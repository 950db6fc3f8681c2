//! The SIEM file, a projection of the archive: its own position, its own thread. It never holds
//! what an upload waits for.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jurat_disk::Disk;
use jurat_event::{Kind, Severity};
use jurat_proof::{Chain, Digest, Record, RecordReader, leaf_hash};
use jurat_sink::{FileSink, line};
use tokio::sync::watch;

use crate::archive::{Archive, ArchiveError, kind, split_upload};
use crate::ingest::decompress;

/// How far the file is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The position in the archive up to which its lines are durable.
    pub(crate) position: u64,
    /// Why it cannot be written now.
    pub(crate) problem: Option<String>,
}

/// Writes what is archived to the SIEM file, exactly once.
pub(crate) struct Projection {
    archive: Arc<Archive>,
    sink: FileSink,
    /// Up to where the archive was read: no line stands between the sink's position and here.
    seen: u64,
    raw: Vec<u8>,
    line: Vec<u8>,
}

/// Lines are made durable when there are this many bytes of them, or nothing more is archived.
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often it looks although nothing called it, and how long it waits after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The place of an entry of the own log that somebody should see: what is worth a look, and what became of it.
fn alert(entry: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Entry {
        seq: u64,
        kind: Kind,
        severity: Severity,
    }
    let entry: Entry = serde_json::from_slice(entry).ok()?;
    let follows = matches!(entry.kind, Kind::AttestationJudged | Kind::DeviceReturned);
    (follows || entry.severity >= Severity::Medium).then_some(entry.seq)
}

impl Projection {
    /// Opens the file and finds where to go on.
    pub(crate) fn open(
        archive: Arc<Archive>,
        disk: Arc<dyn Disk>,
        path: &Path,
        cursor: &Path,
    ) -> Result<Self, ArchiveError> {
        let sink = FileSink::open(disk, path, cursor)?;
        Ok(Self {
            archive,
            seen: sink.position(),
            sink,
            raw: Vec::new(),
            line: Vec::new(),
        })
    }

    /// Writes what is archived now, with one commit however many uploads that is (one for each
    /// 8 MiB of lines). Evidence is safe in the archive when the file cannot be written: the lines
    /// are written when it can be.
    ///
    /// # Errors
    /// [`ArchiveError`]: the archive cannot be read.
    pub(crate) fn round(&mut self) -> Result<Progress, ArchiveError> {
        let mut lines = 0;
        let problem = match self.try_round(&mut lines) {
            Err(ArchiveError::Sink(error)) => {
                tracing::error!(%error, "the SIEM file cannot be written");
                self.sink.rewind();
                self.seen = self.sink.position();
                Some(error.to_string())
            }
            Err(error) => return Err(error),
            Ok(()) => None,
        };
        self.archive.note_siem(lines, problem.clone());
        Ok(Progress {
            position: self.seen,
            problem,
        })
    }

    fn try_round(&mut self, written: &mut u64) -> Result<(), ArchiveError> {
        let end = self.archive.end();
        if self.seen >= end {
            return Ok(());
        }
        let mut reader = self.archive.reader(self.seen, end)?;
        let (mut bytes, mut lines) = (0, 0);
        let [_, _, own] = self.archive.verifier_keys();
        let own = own.name;
        while let Some(item) = reader.next_record()? {
            if item.kind == kind::OWN_ENTRY {
                if let Some(leaf) = alert(item.body) {
                    let proof = line::Proof {
                        device: own.clone(),
                        leaf_hash: leaf_hash(item.body),
                        chain_hash: None,
                        prev_chain_hash: None,
                        sink_seq: self.sink.sink_seq(),
                        batch: leaf + 1,
                        judged: "sealed".into(),
                    };
                    line::write(&proof, item.body, None, &mut self.line);
                    self.sink.push(&self.line);
                    bytes += self.line.len();
                    lines += 1;
                }
                continue;
            }
            if item.kind != kind::UPLOAD {
                continue;
            }
            let (header, body) = split_upload(item.body)?;
            if header.instead_of.is_some() {
                // Its lines belong to the record that it stands for.
                continue;
            }
            let instead;
            let body = if item.erased {
                instead = self.archive.instead_of(item.position)?;
                &instead
            } else {
                body
            };
            let damaged = |what: String| ArchiveError::Damaged(what);
            decompress(body, &mut self.raw).map_err(|refused| damaged(refused.refusal.message))?;
            let mut chain = Chain(header.chain);
            let mut records = RecordReader::new(&self.raw).peekable();
            while let Some(record) = records.next() {
                let record = record.map_err(|error| damaged(error.to_string()))?;
                let entry = match record {
                    Record::Entry(entry) => entry,
                    Record::Leaves { hashes, .. } => {
                        for hash in hashes {
                            chain.push(&Digest(*hash));
                        }
                        continue;
                    }
                    Record::Payload { .. } | Record::Checkpoint(_) => continue,
                };
                let payload = match records.peek() {
                    Some(Ok(Record::Payload { bytes, .. })) => Some(*bytes),
                    _ => None,
                };
                let leaf = leaf_hash(entry);
                let prev = chain.0;
                let proof = line::Proof {
                    device: header.origin.clone(),
                    leaf_hash: leaf,
                    chain_hash: Some(chain.push(&leaf)),
                    prev_chain_hash: Some(prev),
                    sink_seq: self.sink.sink_seq(),
                    batch: header.to,
                    judged: "verified".into(),
                };
                line::write(&proof, entry, payload, &mut self.line);
                self.sink.push(&self.line);
                bytes += self.line.len();
                lines += 1;
            }
            if bytes >= ROUND_BYTES_MAX {
                self.sink.commit(item.next)?;
                self.seen = item.next;
                *written += std::mem::take(&mut lines);
                bytes = 0;
            }
        }
        if lines > 0 {
            self.sink.commit(end)?;
            *written += lines;
        }
        self.seen = end;
        Ok(())
    }

    /// Goes on until nobody rings any more, then once more.
    pub(crate) fn run(
        mut self,
        bell: &Receiver<()>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), ArchiveError> {
        loop {
            let now = self.round()?;
            let ill = now.problem.is_some();
            progress.send_replace(now);
            if ill {
                std::thread::sleep(PAUSE);
            }
            if matches!(
                bell.recv_timeout(PAUSE),
                Err(RecvTimeoutError::Disconnected)
            ) {
                progress.send_replace(self.round()?);
                return Ok(());
            }
        }
    }
}
