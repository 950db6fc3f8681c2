//! The configuration of an endpoint: TOML, with `JURAT_*` overrides (`docs/guides/configuration.md`).

use std::fs;
use std::path::{Path, PathBuf};

use jurat_event::Severity;
use jurat_sink::format::{Facility, Format};
use jurat_sink::transport::Destination;
use serde::{Deserialize, Serialize};

/// How this endpoint is run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where ledger, keys and cursors are kept. `JURAT_STATE_DIR` overrides it.
    pub state_dir: Option<PathBuf>,
    /// What is read. The user's Claude Code sessions when empty.
    pub source: Vec<SourceConfig>,
    /// What is left out, and counted.
    pub filter: Filter,
    /// What is done to content.
    pub redact: RedactConfig,
    /// When batches are sealed.
    pub seal: SealConfig,
    /// How the ledger is kept.
    pub ledger: LedgerConfig,
    /// How patient delivery is.
    pub delivery: DeliveryConfig,
    /// How often the machine's TPM is asked for its state, where it holds the keys.
    pub attest: AttestConfig,
    /// Where events go besides the collector.
    pub sink: Vec<SinkConfig>,
}

/// A receiver that is nobody's of ours, and how it is written to (`docs/siem/`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// A name of your choice: small letters, digits and `-`. Its place in the log is kept under it.
    pub name: String,
    /// `syslog+udp://HOST`, `syslog+tcp://HOST`, `syslog+tls://HOST`, `relp://HOST` or `relp+tls://HOST`, with `:PORT`.
    pub to: String,
    /// `cef`, `leef` or `json`.
    #[serde(default = "cef")]
    pub format: String,
    /// The longest message, header included: a longer one sheds its payload, then long words. Default 8000.
    #[serde(default = "message_bytes")]
    pub bytes_max: usize,
    /// `octet-counting` or `newline`, of syslog over TCP.
    #[serde(default)]
    pub framing: Framing,
    /// A facility of syslog, by name. Default `local0`.
    #[serde(default = "local0")]
    pub facility: String,
    /// What stands for this host. Default: its name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// What stands for the program. Default `jurat`.
    #[serde(default = "app_name")]
    pub app_name: String,
    /// Structured data of RFC 5424 under `jurat@` this number. None when absent.
    #[serde(default)]
    pub enterprise: Option<u32>,
    /// Believe only these certificates (PEM). Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The certificate that is shown, PEM; needs `key`.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Only these kinds; `tool.` is all that begin so.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Only what is at least this grave.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// Only what has one of these labels.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// How a message's end is found in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Its length stands before it.
    #[default]
    OctetCounting,
    /// A line feed stands behind it.
    Newline,
}

fn cef() -> String {
    "cef".into()
}

fn local0() -> String {
    "local0".into()
}

fn app_name() -> String {
    "jurat".into()
}

fn message_bytes() -> usize {
    8_000
}

/// The shortest limit of a message: what proves a line fits into it.
const MESSAGE_BYTES_MIN: usize = 1_800;

impl SinkConfig {
    fn check(&self) -> Result<(), String> {
        let wrong = |what: String| Err(format!("sink {:?}: {what}", self.name));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(plain) {
            return wrong("a name is 1 to 32 small letters, digits and hyphens".into());
        }
        if self.bytes_max < MESSAGE_BYTES_MIN {
            return wrong(format!("bytes_max: at least {MESSAGE_BYTES_MIN}"));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return wrong("certificate and key belong together".into());
        }
        let destination = self.to.parse::<Destination>().map(drop);
        let format = self.format.parse::<Format>().map(drop);
        let facility = self.facility.parse::<Facility>().map(drop);
        match destination.and(format).and(facility) {
            Err(what) => wrong(what),
            Ok(()) => Ok(()),
        }
    }
}

/// A folder whose files are read.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A name of your choice; it stands in every event.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// Globs below it.
    #[serde(default = "claude_code_patterns")]
    pub patterns: Vec<String>,
}

/// What is left out. Every record left out is counted by reason in `batch.sealed`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Record types, for example `progress`.
    pub ignore_types: Vec<String>,
    /// Records of sub-agents inside a main transcript.
    pub drop_sidechain: bool,
    /// Records that the agent marks as meta.
    pub drop_meta: bool,
    /// The content of tool calls and results; the record stays, without its payload.
    pub strip_tool_calls: bool,
    /// The summary that replaces a compacted context.
    pub skip_compact_summaries: bool,
}

/// Whether secrets are taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RedactMode {
    /// They are.
    #[default]
    Redact,
    /// Content is kept untouched, and every event says so.
    Custody,
}

/// What is done to content.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedactConfig {
    /// Whether secrets are taken out.
    pub mode: RedactMode,
    /// Categories of personal data: `email`, `payment-card`, `iban`.
    pub personal: Vec<String>,
}

/// When batches are sealed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SealConfig {
    /// After this many leaves.
    pub batch_events: u64,
    /// Or after this many seconds of activity.
    pub batch_s: u64,
    /// A sign of life after this many seconds without one.
    pub heartbeat_s: u64,
    /// A session that was quiet for this many seconds has ended.
    pub session_idle_s: u64,
    /// All files are looked at after this many seconds, whatever the system's notifications say.
    pub scan_s: u64,
}

impl Default for SealConfig {
    fn default() -> Self {
        Self {
            batch_events: 1_000,
            batch_s: 5,
            heartbeat_s: 60,
            session_idle_s: 3_600,
            scan_s: 10,
        }
    }
}

/// How the ledger is kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// Archived segments are removed when the ledger is larger than this, oldest first.
    pub bytes_max: u64,
    /// What happens when what is *not* archived is larger, or the disk is full.
    pub when_full: WhenFull,
}

/// What to do when there is no room for what is not archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// Reading pauses: the files keep what is not read. Nothing is lost while they stay.
    #[default]
    Pause,
    /// Reading goes on: the oldest payloads are removed, then the oldest entries, of which the leaf hash
    /// stays. Each removal is a leaf.
    Prune,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            bytes_max: 2 * 1024 * 1024 * 1024,
            when_full: WhenFull::Pause,
        }
    }
}

/// How patient delivery is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryConfig {
    /// How long one request may take, in seconds.
    pub timeout_s: u64,
    /// The pause after a first failure, in milliseconds; it doubles with every further one.
    pub retry_ms: u64,
    /// The longest pause, in milliseconds, and the pause after a refusal.
    pub retry_max_ms: u64,
    /// How often, at most, it is checked that the newest accepted head stands in the collector's log, in
    /// seconds; 0: never.
    pub receipt_s: u64,
    /// After how many seconds without it that is severe.
    pub receipt_missing_s: u64,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            timeout_s: 60,
            retry_ms: 500,
            retry_max_ms: 60_000,
            receipt_s: 30,
            receipt_missing_s: 60,
        }
    }
}

/// When a TPM is asked for a quote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuoteWhen {
    /// At the start, on demand, and after so much activity.
    #[default]
    Interval,
    /// And after each batch, as far as the TPM is fast enough.
    EachBatch,
}

/// How often the machine's TPM is asked for its state.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestConfig {
    /// When.
    pub quote: QuoteWhen,
    /// After so many seconds of activity, at the latest.
    pub quote_s: u64,
    /// What the machine's firmware measured. Default: where Linux shows it for the TPM that is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_log: Option<PathBuf>,
}

impl Default for AttestConfig {
    fn default() -> Self {
        Self {
            quote: QuoteWhen::Interval,
            quote_s: 60,
            boot_log: None,
        }
    }
}

fn claude_code_patterns() -> Vec<String> {
    vec!["projects/**/*.jsonl".into(), "history.jsonl".into()]
}

/// The longest interval, a year: a deadline must be a time that a clock can show.
const SECONDS_MAX: u64 = 366 * 24 * 3_600;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: reading the configuration")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// It is not a configuration.
    #[error("{path}: not a configuration")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A variable that is no setting, or holds no value for it.
    #[error("{name}: {what}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A value that cannot be meant.
    #[error("{path}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is no home folder to derive a place from.
    #[error("no home folder; name the state folder with --state-dir or JURAT_STATE_DIR")]
    Homeless,
}

impl Config {
    /// Where the configuration is looked for: `JURAT_CONFIG`, the user's own, `/etc/jurat`.
    pub fn places() -> Vec<PathBuf> {
        let named = env("JURAT_CONFIG").map(PathBuf::from);
        let own = env("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(home()?.join(".config")));
        let own = own.map(|dir| dir.join("jurat/jurat.toml"));
        match named {
            Some(path) => vec![path],
            None => own
                .into_iter()
                .chain([PathBuf::from("/etc/jurat/jurat.toml")])
                .collect(),
        }
    }

    /// Reads the first configuration there is, or takes the defaults; then what the environment says:
    /// `JURAT_<SECTION>_<SETTING>`, for example `JURAT_SEAL_BATCH_S=1` or
    /// `JURAT_FILTER_IGNORE_TYPES='["progress"]'`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the line, or the variable.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let vars = std::env::vars().filter(|(_, value)| !value.is_empty());
        let (path, text) = Self::read(path)?;
        Self::parse(path, &text, vars)
    }

    /// A configuration from its text and variables of the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        path: PathBuf,
        text: &str,
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax {
            path: path.clone(),
            source: Box::new(source),
        };
        let mut config: Self = toml::from_str(text).map_err(syntax)?;
        let mut table: toml::Table = toml::from_str(text).map_err(syntax)?;
        for (name, value) in vars {
            let Some((section, setting)) = setting(&name) else {
                continue;
            };
            // A number, a list or `true` as TOML has it; anything else is a text.
            let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
                .ok()
                .and_then(|mut table| table.remove("v"))
                .unwrap_or(toml::Value::String(value));
            let wrong = |what: String| ConfigError::Variable {
                name: name.clone(),
                what,
            };
            let empty = toml::Value::Table(toml::Table::new());
            if let Some(section) = table.entry(section).or_insert(empty).as_table_mut() {
                section.insert(setting, value);
            }
            config = table
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
            config.check().map_err(wrong)?;
        }
        config
            .check()
            .map_err(|what| ConfigError::Value { path, what })?;
        Ok(config)
    }

    /// The text of the first configuration there is; empty when there is none.
    fn read(path: Option<&Path>) -> Result<(PathBuf, String), ConfigError> {
        let must_exist = path.is_some() || env("JURAT_CONFIG").is_some();
        let places = path.map_or_else(Self::places, |path| vec![path.to_path_buf()]);
        for path in places {
            match fs::read_to_string(&path) {
                Ok(text) => return Ok((path, text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {}
                Err(source) => return Err(ConfigError::Read { path, source }),
            }
        }
        Ok((PathBuf::new(), String::new()))
    }

    fn check(&self) -> Result<(), String> {
        let seal = &self.seal;
        if seal.batch_events == 0 || seal.batch_s == 0 || seal.heartbeat_s == 0 || seal.scan_s == 0
        {
            return Err(
                "seal: batch_events, batch_s, heartbeat_s and scan_s must be at least 1".into(),
            );
        }
        let seconds = [
            seal.batch_s,
            seal.heartbeat_s,
            seal.session_idle_s,
            seal.scan_s,
            self.delivery.timeout_s,
            self.delivery.retry_max_ms / 1_000,
            self.delivery.receipt_s,
            self.delivery.receipt_missing_s,
            self.attest.quote_s,
        ];
        if seconds.iter().any(|seconds| *seconds > SECONDS_MAX) {
            return Err(format!(
                "seal, delivery and attest: at most {SECONDS_MAX} seconds"
            ));
        }
        let delivery = &self.delivery;
        if delivery.timeout_s == 0
            || delivery.retry_ms == 0
            || delivery.retry_ms > delivery.retry_max_ms
        {
            return Err(
                "delivery: timeout_s and retry_ms must be at least 1, retry_max_ms at least retry_ms"
                    .into(),
            );
        }
        if seal.batch_events > 2_000 {
            return Err("seal.batch_events: at most 2000, an upload must fit into 8 MiB".into());
        }
        for (number, sink) in self.sink.iter().enumerate() {
            sink.check()?;
            if self.sink[..number]
                .iter()
                .any(|other| other.name == sink.name)
            {
                return Err(format!("sink {:?} stands there twice", sink.name));
            }
        }
        let known = ["email", "payment-card", "iban"];
        match self
            .redact
            .personal
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            Some(name) => Err(format!(
                "redact.personal: {name:?} is not one of {}",
                known.join(", ")
            )),
            None => Ok(()),
        }
    }

    /// Where ledger, keys and cursors are kept.
    ///
    /// # Errors
    /// [`ConfigError::Homeless`].
    pub fn state_dir(&self, named: Option<&Path>) -> Result<PathBuf, ConfigError> {
        if let Some(dir) = named {
            return Ok(dir.to_path_buf());
        }
        if let Some(dir) = env("JURAT_STATE_DIR") {
            return Ok(dir.into());
        }
        if let Some(dir) = &self.state_dir {
            return Ok(dir.clone());
        }
        if jurat_disk::user_id() == 0 {
            return Ok("/var/lib/jurat".into());
        }
        let own = env("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(home()?.join(".local/state")));
        own.map(|dir| dir.join("jurat"))
            .ok_or(ConfigError::Homeless)
    }

    /// The folders that are read: the configured ones, or this user's Claude Code.
    pub fn sources(&self) -> Vec<SourceConfig> {
        if !self.source.is_empty() {
            return self.source.clone();
        }
        let dir = env("CLAUDE_CONFIG_DIR")
            .map(PathBuf::from)
            .or_else(|| Some(home()?.join(".claude")));
        dir.map(|dir| SourceConfig {
            name: "claude-code".into(),
            dir,
            patterns: claude_code_patterns(),
        })
        .into_iter()
        .collect()
    }
}

/// `JURAT_SEAL_BATCH_S` is `batch_s` in `[seal]`.
fn setting(name: &str) -> Option<(&'static str, String)> {
    let rest = name.strip_prefix("JURAT_")?.to_ascii_lowercase();
    ["filter", "redact", "seal", "ledger", "delivery", "attest"]
        .into_iter()
        .find_map(|section| {
            let setting = rest.strip_prefix(section)?.strip_prefix('_')?;
            Some((section, setting.to_owned()))
        })
}

fn home() -> Option<PathBuf> {
    env("HOME").map(PathBuf::from)
}

fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, name: &str, value: &str) -> Result<Config, ConfigError> {
        let vars = [("PATH", "/bin"), ("JURAT_LOG", "debug"), (name, value)];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::parse("jurat.toml".into(), text, vars)
    }

    #[test]
    fn the_environment_wins_over_the_file_and_its_errors_name_the_variable() {
        let text = "[seal]\nbatch_s = 7\nscan_s = 3\n[redact]\nmode = \"redact\"\n";
        let config = parse(text, "JURAT_SEAL_BATCH_S", "2").unwrap();
        assert_eq!((config.seal.batch_s, config.seal.scan_s), (2, 3));
        let config = parse("", "JURAT_REDACT_MODE", "custody").unwrap();
        assert_eq!(config.redact.mode, RedactMode::Custody);
        let config = parse(text, "JURAT_FILTER_IGNORE_TYPES", "[\"progress\"]").unwrap();
        assert_eq!(config.filter.ignore_types, ["progress"]);
        for (name, value) in [
            ("JURAT_SEAL_BATCH_S", "soon"),
            ("JURAT_SEAL_BATCH_S", "0"),
            ("JURAT_SEAL_BATCHES", "1"),
            ("JURAT_REDACT_PERSONAL", "[\"shoe-size\"]"),
        ] {
            let error = parse(text, name, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
        let error = parse("[seal]\nbatch_s = 0\n", "X", "1").unwrap_err();
        assert!(error.to_string().starts_with("jurat.toml: "), "{error}");
    }
}
