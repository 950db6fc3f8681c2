//! The queue in front of the writer: what arrives while a group is being synced makes the next one.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::archive::{Ask, Done, Writer};
use crate::{ArchiveError, Refused};

/// The most that wait. Uploads are bounded before they come here.
const WAITING_MAX: usize = 1_024;
/// A group takes no further upload when it has this many bytes: recovery writes the last 8 MiB anew.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// How often the own log's head is signed.
const SEAL: Duration = Duration::from_secs(1);

enum Letter {
    Ask(Ask, oneshot::Sender<Done>),
    Stop,
}

/// Where requests leave what they want stored.
#[derive(Clone)]
pub(crate) struct Queue(SyncSender<Letter>);

/// What the writer reads.
pub(crate) struct Inbox(Receiver<Letter>);

pub(crate) fn queue() -> (Queue, Inbox) {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    (Queue(sender), Inbox(receiver))
}

impl Queue {
    /// Asks the writer, and waits until it is durable.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Done, Refused> {
        let (sender, receiver) = oneshot::channel();
        match self.0.try_send(Letter::Ask(ask, sender)) {
            Ok(()) => receiver.await.map_err(|_| Refused::archive_failed()),
            Err(TrySendError::Full(_)) => Err(Refused::busy("too much is waiting for the disk")),
            Err(TrySendError::Disconnected(_)) => Err(Refused::archive_failed()),
        }
    }

    /// Lets the writer finish what was asked before, and end.
    pub(crate) fn stop(&self) {
        // Blocks only while the queue is full, and not when the writer ended by itself.
        let _ = self.0.send(Letter::Stop);
    }
}

/// Writes until it is stopped. The bells are rung after every commit.
///
/// # Errors
/// [`ArchiveError`]: who waits gets no answer.
pub(crate) fn write(
    mut writer: Writer,
    inbox: &Inbox,
    bells: &[SyncSender<()>],
) -> Result<(), ArchiveError> {
    let mut sealed = Instant::now();
    let mut stop = false;
    while !stop {
        let mut asked = Vec::new();
        let mut waiting = Vec::new();
        let mut bytes = 0;
        let mut next = match inbox.0.recv_timeout(SEAL.saturating_sub(sealed.elapsed())) {
            Ok(letter) => Some(letter),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Letter::Stop),
        };
        while let Some(letter) = next.take() {
            match letter {
                Letter::Stop => {
                    stop = true;
                    break;
                }
                Letter::Ask(ask, answer) => {
                    bytes += ask.bytes();
                    asked.push(ask);
                    waiting.push(answer);
                }
            }
            if bytes < GROUP_BYTES {
                next = inbox.0.try_recv().ok();
            }
        }
        if !asked.is_empty() {
            for (done, answer) in writer.commit(asked)?.into_iter().zip(waiting) {
                // Who asked may have gone; it is stored nevertheless.
                let _ = answer.send(done);
            }
            ring(bells);
        }
        if stop || sealed.elapsed() >= SEAL {
            sealed = Instant::now();
            if writer.watch_silence()? {
                ring(bells);
            }
            if writer.watch_policy()? {
                ring(bells);
            }
            if writer.own_log_has_news() {
                writer.seal_own_log()?;
                ring(bells);
            }
        }
    }
    Ok(())
}

fn ring(bells: &[SyncSender<()>]) {
    for bell in bells {
        // It is rung already when this fails.
        let _ = bell.try_send(());
    }
}
