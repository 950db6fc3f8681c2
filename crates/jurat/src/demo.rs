//! `jurat demo`: the whole story in front of the user, and three attempts to cheat.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jurat_agent::{
    Config, EnrolOptions, Enrolment, Finish, Inputs, KeyPlace, SourceConfig, Status, Uplink,
};
use jurat_collector::{Builder, Running, Settings};
use jurat_disk::{Host, replace};
use jurat_proof::{
    BundleReader, BundleWriter, Checkpoint, Digest, Front, Frontier, Part, Reason, Record,
    RecordReader, Report, Selection, Trust, Verdict, Withhold, leaf_hash, write_record,
};
use jurat_sink::{CollectorError, line};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::{Judged, Question};
use crate::demo_tpm::DemoTpm;
use crate::{commands, exit, words};

/// The recorded sessions, carried in the binary so that the demo needs no other file.
const SAMPLES: &[(&str, &str)] = &[
    (
        "history.jsonl",
        include_str!("../../../samples/claude-code/history.jsonl"),
    ),
    (
        "projects/-home-dev-demo-a/afb043a1-c677-435f-b680-e63ed4655bbe.jsonl",
        include_str!(
            "../../../samples/claude-code/projects/-home-dev-demo-a/afb043a1-c677-435f-b680-e63ed4655bbe.jsonl"
        ),
    ),
    (
        "projects/-home-dev-demo-b/402d7924-cb6a-47ae-8ca7-6fe2d6cd58ce.jsonl",
        include_str!(
            "../../../samples/claude-code/projects/-home-dev-demo-b/402d7924-cb6a-47ae-8ca7-6fe2d6cd58ce.jsonl"
        ),
    ),
    (
        "projects/-home-dev-demo-c/0b8ba174-d353-4854-bfee-36870288a514.jsonl",
        include_str!(
            "../../../samples/claude-code/projects/-home-dev-demo-c/0b8ba174-d353-4854-bfee-36870288a514.jsonl"
        ),
    ),
    (
        "projects/-home-dev-demo-c/0b8ba174-d353-4854-bfee-36870288a514/subagents/agent-a58ba1b5039df58c2.jsonl",
        include_str!(
            "../../../samples/claude-code/projects/-home-dev-demo-c/0b8ba174-d353-4854-bfee-36870288a514/subagents/agent-a58ba1b5039df58c2.jsonl"
        ),
    ),
];

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Use this user's own Claude Code sessions (the newest 100 MB) instead of the recorded ones
    #[arg(long)]
    mine: bool,
    /// With the device's keys in this machine's TPM where it may be used, else in a software TPM (swtpm) that the
    /// demo starts
    #[arg(long)]
    tpm: bool,
    /// Keep everything in this folder, which must not exist, to look at it afterwards
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// One attempt to cheat.
#[derive(Debug, Serialize)]
struct Act {
    name: &'static str,
    detected: bool,
    place: String,
}

#[derive(Debug, Serialize)]
struct Shown {
    integrity: Value,
    key: Value,
    isolation: Value,
    witness: String,
    archive: String,
    complete: bool,
}

#[derive(Debug, Serialize)]
struct DemoReport {
    sessions: u64,
    lines_in: u64,
    records_sealed: u64,
    records_filtered: u64,
    events: std::collections::BTreeMap<String, u64>,
    redactions: u64,
    leaves: u64,
    root: Digest,
    verdict: Shown,
    exposure_s: Option<u64>,
    siem_line: String,
    acts: Vec<Act>,
    elapsed_s: f64,
}

pub(crate) fn demo(args: &DemoArgs) -> Result<u8> {
    let started = Instant::now();
    let host = Host::real();
    let temporary;
    let work = match &args.keep {
        Some(dir) => {
            if dir.exists() {
                bail!(
                    "{} exists already; name a folder that does not",
                    dir.display()
                );
            }
            host.disk
                .create_dir_all(dir)
                .with_context(|| format!("creating {}", dir.display()))?;
            fs::canonicalize(dir).with_context(|| format!("finding {}", dir.display()))?
        }
        None => {
            temporary = tempfile::Builder::new()
                .prefix("jurat-demo-")
                .tempdir()
                .context("creating a folder")?;
            temporary.path().to_path_buf()
        }
    };
    let stage = Stage::new(args.json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;

    let tpm = args.tpm.then(|| DemoTpm::find(&stage, &work)).transpose()?;
    stage.say("starting a collector on loopback (TLS, generated certificate)");
    let mut settings = Settings::dev(
        &host,
        &work.join("collector"),
        SocketAddr::from(([127, 0, 0, 1], 0)),
    )?;
    let (siem, token_file) = (
        settings.siem_file.clone().unwrap_or_default(),
        settings.token_file.clone(),
    );
    let ca = fs::read_to_string(work.join("collector/ca.pem")).context("reading ca.pem")?;
    if let Some(tpm) = &tpm {
        stage.say("its operator approves this TPM by the name of its endorsement key");
        settings.ek_pins = Some(tpm.pins(&work)?);
    }
    let running = runtime.block_on(Builder::new(settings).start())?;

    stage.say("enrolling this device");
    let state = work.join("device");
    let options = EnrolOptions {
        key: tpm.as_ref().map_or(KeyPlace::Software, DemoTpm::place),
        url: format!("https://localhost:{}", running.address.port()),
        token: fs::read_to_string(token_file)
            .context("reading the enrolment token")?
            .trim()
            .to_owned(),
        ca: Some(ca),
        pins: Vec::new(),
    };
    let enrolment = runtime.block_on(jurat_agent::enroll(&host, &state, &options))?;
    let trust = commands::read_trust(&state.join("trust.txt"))?;

    // First an empty log: its checkpoint is witnessed, and the exposure of all that follows is the
    // time between two statements of the witness.
    let agent_dir = work.join("agent");
    host.disk
        .create_dir_all(&agent_dir)
        .context("creating a folder")?;
    let sources = vec![SourceConfig {
        name: "claude-code".into(),
        dir: agent_dir.clone(),
        patterns: vec!["projects/**/*.jsonl".into(), "history.jsonl".into()],
    }];
    let config = Config {
        source: sources,
        ..Config::default()
    };
    stage.say("opening the log; the collector witnesses its first checkpoint");
    run_agent(&host, &config, &state, &mut |_| {})?;

    let copied = if args.mine {
        copy_mine(&stage, &agent_dir)?
    } else {
        copy_samples(&host, &agent_dir)?
    };
    stage.say(&format!(
        "reading {} of sessions: redact, seal, deliver",
        words::bytes(copied)
    ));
    let status = {
        let bar = stage.bar(copied);
        let status = run_agent(&host, &config, &state, &mut |status| {
            bar.set_position(copied.saturating_sub(status.unread_bytes));
            bar.set_message(format!(
                "{} leaves sealed, {} archived",
                status.size, status.delivered
            ));
        })?;
        bar.finish_and_clear();
        status
    };
    runtime.block_on(running.siem_caught_up())?;

    stage.say("exporting a bundle from the archive and verifying it");
    let bundle = work.join("case.jurat");
    running.with_archive(|archive| -> Result<()> {
        let file = File::create(&bundle).context("creating the bundle")?;
        let (all, nothing) = (Selection::All, Withhold::default());
        jurat_collector::export(
            archive,
            &enrolment.origin,
            &all,
            &nothing,
            BufWriter::new(file),
        )?;
        Ok(())
    })?;
    let Judged { verdict, audit, .. } = commands::judge(&Question {
        bundle: &bundle,
        trust: Some(&trust),
        siem: Some(&siem),
        ..Question::default()
    })?;
    let Verdict::Verified(report) = &verdict else {
        bail!("the demo's own bundle: {}", words::verdict(&verdict))
    };
    let audit = audit.context("the SIEM file was not compared")?;
    if !audit.is_clean() {
        bail!("the demo's own SIEM file: {}", words::audit(&audit));
    }
    let siem_line = one_line(&siem)?;
    let trust_path = state.join("trust.txt");

    stage.say("now trying to cheat, each time on a copy");
    let mut acts = vec![flip_a_byte(&work, &bundle, &trust)?];
    let deleted = delete_a_line(&work, &bundle, &siem, &trust)?;
    let mut newest = bundle.clone();
    if let Some(tpm) = tpm.as_ref().filter(|tpm| tpm.is_ours()) {
        tpm.measure_another_loader()?;
        run_agent(&host, &config, &state, &mut |_| {})?;
        newest = work.join("loader.jurat");
        acts.push(another_loader(&running, &newest, &trust, &enrolment)?);
    }
    // Last: the collector cosigns nothing of this log any more.
    acts.push(rewrite_history(
        &host, &runtime, &work, &state, &newest, &trust, &enrolment,
    )?);
    acts.push(deleted);
    runtime.block_on(stop(running))?;

    let caught = acts.iter().all(|act| act.detected);
    let shown = DemoReport {
        sessions: report.events.get("session.started").copied().unwrap_or(0),
        lines_in: status.lines_in,
        records_sealed: status.records_sealed,
        records_filtered: status.records_filtered.values().sum(),
        events: report.events.clone(),
        redactions: report.redactions,
        leaves: report.size,
        root: report.root,
        verdict: Shown {
            integrity: json!(report.axes.integrity),
            key: json!(report.axes.key),
            isolation: json!(report.axes.isolation),
            witness: report.axes.witness.to_string(),
            archive: report.axes.archive.to_string(),
            complete: report.axes.complete,
        },
        exposure_s: report.exposure_s,
        siem_line,
        acts,
        elapsed_s: started.elapsed().as_secs_f64(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        print_report(
            &shown,
            report,
            &bundle,
            &trust_path,
            &siem,
            args.keep.is_some(),
        );
    }
    Ok(if caught { exit::YES } else { exit::NO })
}

async fn stop(running: Running) -> Result<()> {
    Ok(running.stop().await?)
}

fn run_agent(
    host: &Host,
    config: &Config,
    state: &Path,
    progress: &mut dyn FnMut(&Status),
) -> Result<Status> {
    Ok(jurat_agent::run(
        host,
        config,
        state,
        &Inputs::default(),
        Finish::WhenDelivered,
        progress,
    )?)
}

fn print_report(
    shown: &DemoReport,
    report: &Report,
    bundle: &Path,
    trust: &Path,
    siem: &Path,
    kept: bool,
) {
    println!();
    println!("sessions   {}", shown.sessions);
    println!(
        "lines      {} read = {} records sealed + {} filtered",
        words::number(shown.lines_in),
        words::number(shown.records_sealed),
        words::number(shown.records_filtered)
    );
    println!(
        "redacted   {} secrets, before anything was hashed, stored or sent",
        words::number(shown.redactions)
    );
    println!();
    print!("{}", words::report(report));
    println!();
    println!("A line as a SIEM sees it:");
    let cut: String = shown.siem_line.chars().take(400).collect();
    println!("  {cut}...");
    println!("proven by");
    println!(
        "  jurat verify {} --trust {} --siem {}",
        bundle.display(),
        trust.display(),
        siem.display()
    );
    if !kept {
        println!("  (this folder is removed now; `jurat demo --keep DIR` keeps it)");
    }
    println!();
    println!("{} attempts to cheat:", shown.acts.len());
    for (index, act) in shown.acts.iter().enumerate() {
        let result = if act.detected {
            "DETECTED"
        } else {
            "NOT DETECTED"
        };
        println!("  {}. {}", index + 1, act.name);
        println!("     {result}: {}", act.place);
    }
    println!();
    println!(
        "{:.1} s. Everything ran on this machine: the witness is not independent of it.",
        shown.elapsed_s
    );
}

/// What the user sees while it works.
pub(crate) struct Stage {
    quiet: bool,
    terminal: bool,
}

impl Stage {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.quiet || self.terminal {
            eprintln!("- {text}");
        }
    }

    fn bar(&self, len: u64) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("  {bar:30} {bytes}/{total_bytes} {msg}");
        ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

fn copy_samples(host: &Host, dir: &Path) -> Result<u64> {
    let mut total = 0;
    for (name, text) in SAMPLES {
        let path = dir.join(name);
        host.disk
            .create_dir_all(&jurat_disk::parent(&path))
            .with_context(|| format!("creating {name}"))?;
        replace(&*host.disk, &path, text.as_bytes()).with_context(|| format!("writing {name}"))?;
        total += text.len() as u64;
    }
    Ok(total)
}

/// The newest sessions that `--mine` reads at most.
const MINE_BYTES_MAX: u64 = 100_000_000;

/// Copies this user's newest sessions, so that the demo cannot touch them.
fn copy_mine(stage: &Stage, dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    for source in Config::default().sources() {
        eprintln!(
            "- reading {} (nothing is changed there)",
            source.dir.display()
        );
        let root = jurat_agent::root_files(&source)?;
        for path in root {
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let inside = path
                .strip_prefix(&source.dir)
                .unwrap_or(&path)
                .to_path_buf();
            files.push((metadata.modified().ok(), metadata.len(), path, inside));
        }
    }
    files.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
    let mut total = 0;
    for (_, len, path, inside) in files {
        if total + len > MINE_BYTES_MAX {
            break;
        }
        let to = dir.join(inside);
        fs::create_dir_all(jurat_disk::parent(&to))?;
        if fs::copy(&path, &to).is_ok() {
            total += len;
        }
    }
    if total == 0 {
        bail!(
            "no Claude Code sessions found; CLAUDE_CONFIG_DIR names another folder than ~/.claude"
        );
    }
    stage.say(&format!("copied {} of sessions", words::bytes(total)));
    Ok(total)
}

/// The first tool call among the SIEM's lines.
fn one_line(siem: &Path) -> Result<String> {
    let text = fs::read_to_string(siem).context("reading the SIEM file")?;
    let line = text
        .lines()
        .find(|line| line.contains("\"kind\":\"tool.call\""))
        .or_else(|| text.lines().last());
    Ok(line.unwrap_or_default().to_owned())
}

fn verdict_of(bundle: &Path, trust: &Trust) -> Result<Verdict> {
    let judged = commands::judge(&Question {
        bundle,
        trust: Some(trust),
        ..Question::default()
    })?;
    Ok(judged.verdict)
}

/// The archive's bundle says that the machine is not as it was.
fn another_loader(
    running: &Running,
    bundle: &Path,
    trust: &Trust,
    enrolment: &Enrolment,
) -> Result<Act> {
    running.with_archive(|archive| -> Result<()> {
        let file = File::create(bundle).context("creating the bundle")?;
        let (all, nothing) = (Selection::All, Withhold::default());
        let out = BufWriter::new(file);
        jurat_collector::export(archive, &enrolment.origin, &all, &nothing, out)?;
        Ok(())
    })?;
    let verdict = verdict_of(bundle, trust)?;
    let Verdict::Verified(report) = &verdict else {
        bail!("the demo's own bundle: {}", words::verdict(&verdict))
    };
    let quotes = report.attestation.as_ref();
    let quotes = quotes.and_then(|said| said.quotes.as_ref());
    let found = quotes.and_then(|quotes| {
        let mut findings = quotes.findings.iter();
        findings.find(|(_, code)| *code == "quote.pcrs")
    });
    Ok(Act {
        name: "another boot loader measured into the running machine",
        detected: found.is_some(),
        place: found.map_or_else(String::new, |(seq, code)| {
            format!("leaf {seq}: the TPM's quote shows other PCRs without a start ({code})")
        }),
    })
}

fn flip_a_byte(work: &Path, bundle: &Path, trust: &Trust) -> Result<Act> {
    let mut bytes = fs::read(bundle).context("reading the bundle")?;
    let wanted = b"\"action\":\"";
    let at = bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
        .unwrap_or(bytes.len() / 2)
        + wanted.len();
    bytes[at] ^= 1;
    let copy = work.join("flipped.jurat");
    fs::write(&copy, bytes).context("writing a copy")?;
    let verdict = verdict_of(&copy, trust)?;
    let detected = matches!(&verdict, Verdict::Tampered { place } if place.seq.is_some());
    Ok(Act {
        name: "one byte of one event flipped in the bundle",
        detected,
        place: words::verdict(&verdict).trim_end().into(),
    })
}

/// Rewrites an event, builds the whole tree anew and signs it with the device's own key.
fn rewrite_history(
    host: &Host,
    runtime: &tokio::runtime::Runtime,
    work: &Path,
    state: &Path,
    bundle: &Path,
    trust: &Trust,
    enrolment: &Enrolment,
) -> Result<Act> {
    let name = "history rewritten and signed anew with the device's own key";
    let mut keys = jurat_agent::log_keys(host, state, enrolment)?;
    // Root can read the file, and can ask a TPM on this machine to sign.
    let key = keys.pop().context("the device has no key")?;
    let (mut reader, front) = BundleReader::open(BufReader::new(File::open(bundle)?))?;
    let mut forged: Vec<(Vec<u8>, Option<([u8; 32], Vec<u8>)>)> = Vec::new();
    while let Some(Part { records, .. }) = reader.next_part()? {
        for record in RecordReader::new(&records) {
            match record? {
                Record::Entry(entry) => forged.push((entry.to_vec(), None)),
                Record::Payload { salt, bytes } => {
                    if let Some(last) = forged.last_mut() {
                        last.1 = Some((*salt, bytes.to_vec()));
                    }
                }
                Record::Checkpoint(_) | Record::Leaves { .. } => {}
            }
        }
    }
    let victim = forged
        .iter()
        .position(|(entry, _)| find(entry, b"\"kind\":\"tool.call\"").is_some())
        .unwrap_or(2);
    let text =
        String::from_utf8_lossy(&forged[victim].0).replace("\"action\":\"", "\"action\":\"not-");
    forged[victim].0 = text.into_bytes();
    // Everything that can be computed is computed anew: chain heads in batches, tree, signature.
    let mut chain = jurat_proof::Chain::new(&enrolment.origin);
    let mut frontier = Frontier::default();
    for (entry, _) in &mut forged {
        if find(entry, b"\"kind\":\"batch.sealed\"").is_some() {
            let mut value: Value = serde_json::from_slice(entry)?;
            value["detail"]["chain"] = chain.0.to_string().into();
            *entry = entry_of(value)?;
        }
        let leaf = leaf_hash(entry);
        chain.push(&leaf);
        frontier.push(leaf);
    }
    let checkpoint = Checkpoint {
        origin: enrolment.origin.clone(),
        size: frontier.size(),
        root: frontier.root(),
    };
    let note = checkpoint.sign(key.as_ref())?.encode();
    let path = work.join("forged.jurat");
    let mut writer = BundleWriter::new(
        File::create(&path)?,
        &Front::whole(&front.manifest.origin, front.manifest.size, note.as_bytes()),
    )?;
    for (entry, payload) in &forged {
        writer.record(&Record::Entry(entry))?;
        if let Some((salt, bytes)) = payload {
            writer.record(&Record::Payload { salt, bytes })?;
        }
    }
    writer.finish()?;

    // To somebody who trusts the device key alone it is perfect.
    let alone = Trust {
        logs: trust.logs.clone(),
        ..Trust::default()
    };
    let locally_valid = matches!(verdict_of(&path, &alone)?, Verdict::Verified(_));
    let pinned = verdict_of(&path, trust)?;
    let no_witness = matches!(
        pinned,
        Verdict::Unverifiable {
            reason: Reason::Quorum { .. }
        }
    );

    // And the witness, asked to cosign it, refuses.
    let mut raw = Vec::new();
    for (entry, payload) in &forged {
        write_record(&mut raw, &Record::Entry(entry));
        if let Some((salt, bytes)) = payload {
            write_record(&mut raw, &Record::Payload { salt, bytes });
        }
    }
    write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
    // Only the end of the log fits into one upload; the checkpoint alone tells the two histories apart.
    if raw.len() > 4 * 1024 * 1024 {
        raw.clear();
        write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
    }
    let body = zstd::bulk::compress(&raw, 1)?;
    // Over the device's own connection: its token and its certificate are at hand, too.
    // A TPM in a program speaks with one at a time.
    drop((key, keys));
    let uplink = Uplink::open(host, state, Duration::from_secs(30))?;
    let answer = runtime.block_on(uplink.send(host, body));
    let (refused, words) = match answer {
        Err(CollectorError::Refused { refusal, .. }) => (true, refusal.message),
        Err(error) => (false, error.to_string()),
        Ok(_) => (false, "the witness cosigned it".to_owned()),
    };
    let place = format!(
        "{}, yet the witness refused it ({words}) and `verify` with the pinned trust says: {}",
        if locally_valid {
            "locally valid"
        } else {
            "not even locally valid"
        },
        words::verdict(&pinned).trim_end()
    );
    Ok(Act {
        name,
        detected: locally_valid && no_witness && refused,
        place,
    })
}

/// An entry begins with its version, whatever order a map has.
fn entry_of(mut value: Value) -> Result<Vec<u8>> {
    if let Value::Object(map) = &mut value {
        map.remove("v");
    }
    let fields = serde_json::to_string(&value)?;
    Ok(format!("{{\"v\":1,{}", fields.get(1..).unwrap_or_default()).into_bytes())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn delete_a_line(work: &Path, bundle: &Path, siem: &Path, trust: &Trust) -> Result<Act> {
    let text = fs::read_to_string(siem).context("reading the SIEM file")?;
    let lines: Vec<&str> = text.lines().collect();
    let victim = lines.len() / 2;
    let kept: Vec<&str> = lines
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != victim)
        .map(|(_, line)| *line)
        .collect();
    let copy = work.join("siem-cut.jsonl");
    fs::write(&copy, kept.join("\n") + "\n").context("writing a copy")?;
    let number = line::sink_seq(lines.get(victim).unwrap_or(&"").as_bytes());
    let audit = commands::judge(&Question {
        bundle,
        trust: Some(trust),
        siem: Some(&copy),
        ..Question::default()
    })?
    .audit;
    let missing = audit
        .as_ref()
        .map(|audit| audit.missing.clone())
        .unwrap_or_default();
    let detected = number.is_some_and(|number| missing == [number]);
    let place = audit
        .map(|audit| words::audit(&audit).trim_end().replace('\n', ";"))
        .unwrap_or_default();
    Ok(Act {
        name: "one line deleted from the SIEM's file",
        detected,
        place,
    })
}
