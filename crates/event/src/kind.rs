//! The taxonomy: every kind of event with its name and its stable number.

use std::fmt;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $variant:ident = $id:literal $name:literal,)*) => {
        /// What an event is. Names and numbers are public and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Kind { $($(#[doc = $doc])* $variant,)* }

        impl Kind {
            /// Every kind, in order of its number.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// The stable number (`kind_id`).
            pub const fn id(self) -> u32 {
                match self { $(Kind::$variant => $id,)* }
            }

            /// The name (`kind`).
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// The kind with this name.
            pub fn from_name(name: &str) -> Option<Kind> {
                match name { $($name => Some(Kind::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// An agent asked for a tool.
    ToolCall = 1001 "tool.call",
    /// A tool answered.
    ToolResult = 1002 "tool.result",
    /// An agent asked for a tool of an MCP server.
    McpCall = 1003 "mcp.call",
    /// A command was started.
    CommandStarted = 1101 "command.started",
    /// A command ended.
    CommandEnded = 1102 "command.ended",
    /// A file was read.
    FileRead = 1201 "file.read",
    /// A file was written.
    FileWritten = 1202 "file.written",
    /// An agent noted which files it is about to edit.
    FileSnapshot = 1204 "file.snapshot",
    /// A process was started.
    ProcessStarted = 1301 "process.started",
    /// A library was loaded.
    LibraryLoaded = 1303 "library.loaded",
    /// A message came in through a channel.
    ChannelIn = 2001 "channel.in",
    /// A message went out through a channel.
    ChannelOut = 2002 "channel.out",
    /// A model answered.
    ModelCompleted = 3001 "model.completed",
    /// The model was changed.
    ModelChanged = 3002 "model.changed",
    /// A person or a program prompted an agent.
    PromptSubmitted = 3003 "prompt.submitted",
    /// A claw runtime invoked a model.
    ModelInvocation = 3101 "model.invocation",
    /// What a model call cost.
    ModelUsage = 3102 "model.usage",
    /// A call of a model failed.
    ModelFailed = 3103 "model.failed",
    /// A transcript record of a type without a kind of its own.
    TranscriptRecord = 3201 "transcript.record",
    /// A transcript line that is not a JSON object in UTF-8; sealed as it is.
    TranscriptUnreadable = 3202 "transcript.unreadable",
    /// Progress of a tool, a hook or a sub-agent.
    TranscriptProgress = 3203 "transcript.progress",
    /// Content was attached to the context without a tool call.
    ContextAttached = 3204 "context.attached",
    /// A prompt was queued or taken from the queue.
    PromptQueued = 3205 "prompt.queued",
    /// A line of the agent's prompt history.
    PromptHistory = 3206 "prompt.history",
    /// The next part of a record whose payload is too long for one leaf.
    TranscriptPart = 3207 "transcript.part",
    /// A session was seen for the first time.
    SessionStarted = 4001 "session.started",
    /// A session ended; holds its final count.
    SessionEnded = 4002 "session.ended",
    /// A session's context was compacted.
    SessionCompacted = 4003 "session.compacted",
    /// A budget was exceeded.
    BudgetExceeded = 5001 "budget.exceeded",
    /// A threat was reported.
    SecurityThreat = 6001 "security.threat",
    /// An authorisation decision was made.
    AuthorizationDecision = 6201 "authorization.decision",
    /// A capability was checked.
    CapabilityCheck = 6202 "capability.check",
    /// The organisation's policy was violated.
    ComplianceViolation = 6203 "compliance.violation",
    /// The permission mode of an agent was set.
    PermissionMode = 6205 "permission.mode",
    /// A transcript became shorter than what was already read.
    TranscriptTruncated = 6210 "transcript.truncated",
    /// A transcript no longer holds what was already read.
    TranscriptRewritten = 6211 "transcript.rewritten",
    /// A transcript is gone.
    TranscriptDeleted = 6212 "transcript.deleted",
    /// A platform attested its state.
    AttestationQuote = 6301 "attestation.quote",
    /// A collector makes something else of a device's quotes than before.
    AttestationJudged = 6302 "attestation.judged",
    /// What the firmware of a machine says it measured at its start.
    AttestationBootLog = 6303 "attestation.boot_log",
    /// A person's approval is required.
    ApprovalRequired = 7001 "approval.required",
    /// A scheduled job ran.
    CronRun = 8001 "cron.run",
    /// A connector reported its health.
    ConnectorHealth = 8002 "connector.health",
    /// A daemon reported an error.
    DaemonError = 9002 "daemon.error",
    /// A gateway reported a metric.
    GatewayMetric = 9003 "gateway.metric",
    /// Leaf 0 of a log: names the origin, the epoch and the predecessor's head.
    LogOpened = 9101 "log.opened",
    /// The last leaf of a batch: count, chain head, policy digest, everything filtered or dropped.
    BatchSealed = 9102 "batch.sealed",
    /// A sign of life.
    Heartbeat = 9103 "log.heartbeat",
    /// The agent started; holds what it was blind to.
    AgentStarted = 9104 "agent.started",
    /// The agent stopped in an orderly way.
    AgentStopped = 9105 "agent.stopped",
    /// The wall clock stepped.
    ClockStepped = 9106 "clock.stepped",
    /// The configuration changed.
    ConfigChanged = 9107 "config.changed",
    /// The ledger is full; reading is paused.
    LedgerFull = 9108 "ledger.full",
    /// Something the collector refused for good was set aside.
    DeadLetter = 9109 "dead.letter",
    /// A payload was erased; says who and why.
    PayloadErased = 9110 "payload.erased",
    /// A file or folder of a source cannot be read; said once for each reason until it works again.
    SourceFailed = 9111 "source.failed",
    /// A file or folder that failed can be read again.
    SourceRecovered = 9112 "source.recovered",
    /// The ledger was too full: payloads or whole entries were removed before they were archived.
    LedgerPruned = 9113 "ledger.pruned",
    /// A collector enrolled a device.
    DeviceEnrolled = 9120 "device.enrolled",
    /// A collector accepted a device's head.
    FrontierAccepted = 9121 "frontier.accepted",
    /// A collector saw two histories of one log.
    ForkProof = 9122 "fork.proof",
    /// A log's key was changed: signed by the old key, names the new one.
    KeyRotated = 9123 "key.rotated",
    /// A key counts no more from this place of the collector's log on.
    KeyRevoked = 9124 "key.revoked",
    /// Two machines go on with one log: a boot came back after another one.
    CloneDetected = 9125 "clone.detected",
    /// A device has not been heard of for longer than it promised.
    DeviceSilent = 9126 "device.silent",
    /// A device that was silent is heard of again.
    DeviceReturned = 9127 "device.returned",
    /// A policy or a setting of the collector is in force from here on.
    PolicyChanged = 9128 "policy.changed",
    /// The operator lets a device enrol anew.
    ReenrolmentAllowed = 9129 "reenrolment.allowed",
    /// What the collector cosigned for this log was found in the collector's own log.
    ReceiptVerified = 9130 "receipt.verified",
    /// What the collector cosigned for this log is not in the collector's own log.
    ReceiptMissing = 9131 "receipt.missing",
    /// The key does not sign: what is sealed stays committed, under no signature, until it does.
    KeyUnavailable = 9132 "key.unavailable",
    /// The key signs again.
    KeyAvailable = 9133 "key.available",
    /// Where events go besides the collector, and what its success means.
    SinkAttached = 9140 "sink.attached",
    /// A sink was not sent these leaves: they were archived and removed before.
    SinkMissed = 9141 "sink.missed",
    /// Anything else.
    Other = 9999 "other",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Kind::from_name(&name)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&name), &"a kind of event"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascending_and_names_lead_back() {
        for pair in Kind::ALL.windows(2) {
            assert!(pair[0].id() < pair[1].id(), "{} and {}", pair[0], pair[1]);
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
        }
    }

    #[test]
    fn published_numbers_never_move() {
        let published = [
            (1001, "tool.call"),
            (1002, "tool.result"),
            (1003, "mcp.call"),
            (2001, "channel.in"),
            (2002, "channel.out"),
            (3001, "model.completed"),
            (3002, "model.changed"),
            (3003, "prompt.submitted"),
            (4001, "session.started"),
            (4002, "session.ended"),
            (4003, "session.compacted"),
            (5001, "budget.exceeded"),
            (6001, "security.threat"),
            (7001, "approval.required"),
            (8001, "cron.run"),
            (8002, "connector.health"),
            (9002, "daemon.error"),
            (9003, "gateway.metric"),
            (9999, "other"),
        ];
        for (id, name) in published {
            assert_eq!(Kind::from_name(name).map(Kind::id), Some(id), "{name}");
        }
    }
}
