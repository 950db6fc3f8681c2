//! Signing where the key may take its time, or not answer at all: on a thread of its own, one head at a time.
//! Nothing waits for it, except who stops.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use jurat_proof::{Checkpoint, Note, Signer, SignerError};

type Ask = (Checkpoint, Arc<dyn Signer>);

/// The thread, and what was asked of it.
pub struct Signing {
    ask: SyncSender<Ask>,
    answers: Receiver<Result<Note, SignerError>>,
    since: Option<Instant>,
}

impl Signing {
    /// Starts the thread; `wake` is called after each answer. A key that never answers keeps its thread.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(wake: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<Ask>(1);
        let (answer, answers) = channel();
        std::thread::Builder::new()
            .name("signing".into())
            .spawn(move || {
                for (checkpoint, signer) in asked {
                    if answer.send(checkpoint.sign(signer.as_ref())).is_err() {
                        return;
                    }
                    wake();
                }
            })?;
        Ok(Self {
            ask,
            answers,
            since: None,
        })
    }

    /// For how long the head that was given has been waiting.
    pub fn waiting(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// Gives a head to be signed. One at a time.
    pub fn give(&mut self, head: (Checkpoint, Arc<dyn Signer>)) {
        // There is room: the last one was answered.
        if self.ask.try_send(head).is_ok() {
            self.since = Some(Instant::now());
        }
    }

    /// The answer, when it comes within this time.
    pub fn take(&mut self, within: Duration) -> Option<Result<Note, SignerError>> {
        self.since?;
        let answer = self.answers.recv_timeout(within).ok()?;
        self.since = None;
        Some(answer)
    }
}
