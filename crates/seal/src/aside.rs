//! What may take its time, on a thread of its own: one piece of work at a time, and nothing waits for it but who
//! says so.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use jurat_proof::{Checkpoint, Note, Signer, SignerError};

/// A thread that works, and what was asked of it.
pub struct Aside<Q, A> {
    ask: SyncSender<Q>,
    answers: Receiver<A>,
    since: Option<Instant>,
}

/// Signs heads where the key may take its time, or not answer at all.
pub type Signing = Aside<(Checkpoint, Arc<dyn Signer>), Result<Note, SignerError>>;

impl Signing {
    /// Starts a thread that signs.
    ///
    /// # Errors
    /// As [`Aside::start`].
    pub fn signing(wake: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        Self::start("signing", wake, |(head, signer)| head.sign(signer.as_ref()))
    }
}

impl<Q: Send + 'static, A: Send + 'static> Aside<Q, A> {
    /// Starts the thread; `wake` is called after each answer. Work that never ends keeps its thread.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(
        name: &str,
        wake: impl Fn() + Send + 'static,
        mut work: impl FnMut(Q) -> A + Send + 'static,
    ) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<Q>(1);
        let (answer, answers) = channel();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                for asked in asked {
                    if answer.send(work(asked)).is_err() {
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

    /// For how long the answer has been waited for.
    pub fn waiting(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// Gives it work. One piece at a time.
    pub fn give(&mut self, asked: Q) {
        // There is room: the last one was answered.
        if self.ask.try_send(asked).is_ok() {
            self.since = Some(Instant::now());
        }
    }

    /// The answer, and how long it took, when it comes within this time.
    pub fn take(&mut self, within: Duration) -> Option<(A, Duration)> {
        let since = self.since?;
        let answer = self.answers.recv_timeout(within).ok()?;
        self.since = None;
        Some((answer, since.elapsed()))
    }
}
