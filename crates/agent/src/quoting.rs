//! Quotes: the machine's TPM is asked for its state now and then, on a thread of its own, and what it says becomes
//! a leaf (`docs/formats/attestation.md`).
//!
//! At the start, with the counter of starts; again as soon as the collector has cosigned something in this run, which
//! nobody could know before; then after `attest.quote_s` of activity, after each batch where it is so configured, and
//! whenever the collector asks. Never for more than a tenth of the TPM's time, as long as a command takes less than 2 s.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_disk::Host;
use jurat_event::{Event, Kind, Severity};
use jurat_key::tpm::{Chip, Quoter};
use jurat_seal::{Aside, Digest};
use serde_json::{Map, Value};

use crate::Input;
use crate::agent::{Agent, AgentError, Inputs};
use crate::boot_log::{BootLog, Look, default_path};
use crate::config::{AttestConfig, QuoteWhen};
use crate::enrol::Enrolment;
use crate::uploader::describe;

/// How long a TPM may take for a quote.
const QUOTE_TIMEOUT: Duration = Duration::from_secs(120);
/// A TPM that refused is asked again after this time.
const QUOTE_RETRY: Duration = Duration::from_secs(30);
/// A quote and the `batch.sealed` after it: a head over nothing else needs no quote of its own.
const LEAVES_OF_A_QUOTE: u64 = 2;

struct Ask {
    /// Size and root.
    head: (u64, Digest),
    note: Option<String>,
    count: bool,
}

/// What the TPM said: the leaf's `detail`, and how often the machine was started.
type Quoted = (Map<String, Value>, Option<u32>);

/// The quotes of this run.
pub(crate) struct Quoting {
    thread: Aside<Ask, Result<Quoted, String>>,
    /// What came, and waits for the boot log, which stands before it.
    held: Option<(Quoted, Duration)>,
    pub(crate) boot_log: Option<BootLog>,
    /// When the last one was taken, and its leaf.
    last: Option<(Instant, u64)>,
    /// One was taken after something that was cosigned in this run.
    dated: bool,
    /// The collector asked for one.
    pub(crate) wanted: bool,
    /// The newest note that came back cosigned in this run.
    pub(crate) note: Option<String>,
    asked_with_note: bool,
    failing: bool,
}

impl Quoting {
    /// For a device whose keys are in a TPM.
    pub(crate) fn start(
        chip: &Arc<Chip>,
        enrolment: &Enrolment,
        config: &AttestConfig,
        home: &Path,
        host: &Host,
        inputs: &Inputs,
    ) -> Result<Self, AgentError> {
        let cosigners = [enrolment.archive.as_str(), enrolment.witness.as_str()];
        let quoter = Quoter::new(chip, &enrolment.origin, &cosigners)?;
        let wake = inputs.sender();
        let thread = Aside::start(
            "quoting",
            move || drop(wake.send(Input::Signed)),
            move |ask: Ask| {
                let quoted = quoter.quote(ask.head, ask.note.as_deref(), ask.count, QUOTE_TIMEOUT);
                quoted.map_err(|error| describe(&error))
            },
        );
        let boot_log = config.boot_log.clone();
        let boot_log = boot_log.or_else(|| default_path(chip.address()));
        let boot_log = boot_log.map(|path| BootLog::start(host, path, home, inputs));
        Ok(Self {
            thread: thread.map_err(AgentError::Thread)?,
            held: None,
            boot_log: boot_log.transpose().map_err(AgentError::Thread)?,
            last: None,
            dated: false,
            wanted: false,
            note: None,
            asked_with_note: false,
            failing: false,
        })
    }

    /// The leaf of the newest quote.
    pub(crate) fn leaf(&self) -> Option<u64> {
        self.last.map(|(_, leaf)| leaf)
    }

    /// Why the boot log cannot be read.
    pub(crate) fn boot_log_problem(&self) -> Option<String> {
        self.boot_log.as_ref()?.problem.clone()
    }

    /// The quote that came, with what was read of the boot log since.
    fn ready(&mut self) -> Option<(Quoted, Duration, Look)> {
        let look = match (&self.held, &mut self.boot_log) {
            (None, _) => return None,
            (Some(_), None) => Look::Nothing,
            (Some(_), Some(boot_log)) => boot_log.look(),
        };
        if matches!(look, Look::Waits) {
            return None;
        }
        let (quoted, took) = self.held.take()?;
        Some((quoted, took, look))
    }

    /// Whether what a run must have, it has, or cannot have now.
    pub(crate) fn is_settled(&self) -> bool {
        self.failing || (self.dated && !self.wanted && self.is_idle())
    }

    fn is_idle(&self) -> bool {
        self.thread.waiting().is_none() && self.held.is_none()
    }

    /// Whether this signed head is to be quoted now.
    fn is_due(&self, size: u64, config: &AttestConfig) -> bool {
        let Some((at, leaf)) = self.last else {
            return true;
        };
        let news = size > leaf + LEAVES_OF_A_QUOTE;
        self.wanted
            || (!self.dated && self.note.is_some())
            || (news && at.elapsed() >= Duration::from_secs(config.quote_s))
            || (news && config.quote == QuoteWhen::EachBatch)
    }
}

impl Agent {
    /// Takes a quote that came, and asks for the next one when it is time.
    pub(crate) fn take_quote(&mut self, config: &AttestConfig) -> Result<(), AgentError> {
        let Some(quoting) = &mut self.quoting else {
            return Ok(());
        };
        match quoting.thread.take(Duration::ZERO) {
            Some((Ok(quoted), took)) => {
                quoting.held = Some((quoted, took));
                // After the quote: what the log has by now, it had then.
                if let Some(boot_log) = &mut quoting.boot_log {
                    boot_log.begin();
                }
            }
            Some((Err(why), _)) => {
                self.key_at = Instant::now() + QUOTE_RETRY;
                if !std::mem::replace(&mut quoting.failing, true) {
                    tracing::error!(why, "the TPM gives no quote");
                    let event = Event::own(Kind::KeyUnavailable)
                        .severity(Severity::High)
                        .detail("what", "quote")
                        .detail("why", why.as_str());
                    // The words may be those of a device: foreign.
                    let redacted = self.pipeline.redactor.redact(event);
                    self.sealer.push(redacted, None)?;
                }
            }
            None => {}
        }
        if let Some(((detail, starts), took, look)) = self.quoting.as_mut().and_then(Quoting::ready)
        {
            if let Look::Read(read) = look {
                self.take_boot_log(read, starts)?;
            }
            self.seal_quote(detail, took)?;
        }
        let Some(quoting) = &mut self.quoting else {
            return Ok(());
        };
        if let Some(head) = self.sealer.signed_head()
            && quoting.is_idle()
            && Instant::now() >= self.key_at
            && quoting.is_due(head.0, config)
        {
            quoting.asked_with_note = quoting.note.is_some();
            quoting.thread.give(Ask {
                head,
                note: quoting.note.clone(),
                count: quoting.last.is_none(),
            });
        }
        Ok(())
    }

    fn seal_quote(&mut self, detail: Map<String, Value>, took: Duration) -> Result<(), AgentError> {
        let mut event = Event::own(Kind::AttestationQuote);
        event.detail = detail.into_iter().collect();
        let leaf = self.sealer.push_own(event)?;
        let mut was_failing = false;
        if let Some(quoting) = &mut self.quoting {
            quoting.last = Some((Instant::now(), leaf));
            quoting.dated |= quoting.asked_with_note;
            was_failing = std::mem::take(&mut quoting.failing);
            quoting.wanted = false;
        }
        self.key_rests(took);
        if was_failing {
            let event = Event::own(Kind::KeyAvailable).detail("what", "quote");
            self.sealer.push_own(event)?;
        }
        Ok(())
    }
}
