//! What each word does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jurat_agent::{
    Config, DeadLetters, EnrolOptions, Finish, Input, Inputs, KeyPlace, Query, RotateError, Uplink,
    home, home_of, read_status,
};
use jurat_collector::{Builder, Settings};
use jurat_disk::Host;
use jurat_proof::{EntryView, Exported, Reveal, Selection, Trust, Verdict, Withhold, session_name};
use jurat_sink::line::{Audit, AuditReport};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{
    EnrollArgs, ExportArgs, Global, LogArgs, RotateArgs, RunArgs, ServeArgs, StatusArgs, VerifyArgs,
};
use crate::{exit, statements, words};

pub(crate) fn set_up(global: &Global) -> Result<(Host, Config, PathBuf)> {
    let config = Config::load(global.config.as_deref())?;
    let state_dir = config.state_dir(global.state_dir.as_deref())?;
    Ok((Host::real(), config, state_dir))
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Result<u8> {
    let (host, config, state_dir) = set_up(global)?;
    if args.test {
        return dry_run(&host, &config, args.json);
    }
    let inputs = Inputs::default();
    let (sender, give_up) = (inputs.sender(), inputs.sender());
    let stopped = Arc::new(AtomicBool::new(false));
    let stops = stopped.clone();
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("listening for signals")?;
    std::thread::spawn(move || {
        // The first asks for an orderly stop, a later Ctrl-C ends at once. Not a second signal right
        // after the first: `timeout` and some service managers send it to the process and its group.
        let mut asked: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGINT
                && asked.is_some_and(|since| since.elapsed() > Duration::from_millis(500))
            {
                std::process::exit(i32::from(exit::NO));
            }
            asked.get_or_insert_with(Instant::now);
            stops.store(true, Ordering::Relaxed);
            let _ = sender.send(Input::Stop);
        }
    });
    let finish = if args.once {
        Finish::WhenDelivered
    } else {
        Finish::Never
    };
    let sources = config.sources();
    let sources: Vec<_> = sources
        .iter()
        .map(|source| source.dir.display().to_string())
        .collect();
    let patience = Duration::from_secs(args.wait);
    let mut told = false;
    // What moved last, and when.
    let mut moved = ((0, 0, 0, 0), Instant::now());
    let mut gave_up = false;
    let status = jurat_agent::run(&host, &config, &state_dir, &inputs, finish, &mut |status| {
        if !told {
            eprintln!(
                "following {}; sealing to {}, delivering to {}; Ctrl-C stops",
                sources.join(", "),
                status.origin,
                status.collector
            );
            told = true;
        }
        let sunk: u64 = status.sinks.iter().map(|sink| sink.size).sum();
        let now = (status.lines_in, status.size, status.delivered, sunk);
        if now != moved.0 {
            moved = (now, Instant::now());
        }
        let hopeless = status.device_refused || moved.1.elapsed() >= patience;
        if args.once && !gave_up && hopeless {
            gave_up = true;
            let _ = give_up.send(Input::Stop);
        }
    })?;
    eprint!("{}", words::status(&status, true));
    let stopped = gave_up || stopped.load(Ordering::Relaxed);
    if args.once && stopped && (status.queue.len > 0 || status.unread_bytes > 0) {
        eprintln!(
            "jurat: not done: {} leaves wait in the ledger for the collector, {} were not read{}",
            words::number(status.queue.len),
            words::bytes(status.unread_bytes),
            status
                .problem
                .map(|why| format!("; {}", words::plain(&why)))
                .unwrap_or_default()
        );
        return Ok(exit::NO);
    }
    // The leaf that says that we stop comes after what sinks were waited for.
    let stuck = status.sinks.iter().filter(|sink| sink.problem.is_some());
    let stuck: Vec<_> = stuck.filter(|_| args.once && stopped).collect();
    for sink in &stuck {
        let behind = words::number(status.size.saturating_sub(sink.size));
        let problem = sink
            .problem
            .as_deref()
            .map(words::plain)
            .unwrap_or_default();
        eprintln!(
            "jurat: not done: {behind} leaves wait for the sink {}; {problem}",
            sink.name
        );
    }
    if !stuck.is_empty() {
        return Ok(exit::NO);
    }
    if args.once && status.unreadable > 0 {
        for example in &status.unreadable_examples {
            eprintln!("jurat: not read: {example}");
        }
        return Ok(exit::COULD_NOT_TELL);
    }
    Ok(exit::YES)
}

fn dry_run(host: &Host, config: &Config, json: bool) -> Result<u8> {
    let found = jurat_agent::dry_run(host, config, &mut |_| {})?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &found)?;
        writeln!(out)?;
        return Ok(exit::YES);
    }
    writeln!(out, "would read      {}", found.roots.join(", "))?;
    writeln!(out, "files           {}", words::number(found.files))?;
    writeln!(out, "sessions        {}", words::number(found.sessions))?;
    writeln!(
        out,
        "lines           {} ({})",
        words::number(found.lines_in),
        words::bytes(found.bytes_in)
    )?;
    writeln!(
        out,
        "would seal      {} records",
        words::number(found.records_sealed)
    )?;
    writeln!(
        out,
        "would filter    {}",
        words::counts(&found.records_filtered)
    )?;
    writeln!(out, "would redact    {}", words::counts(&found.redactions))?;
    writeln!(out, "events          {}", words::counts(&found.events))?;
    writeln!(out, "to the collector, by day:")?;
    for (day, (events, bytes)) in &found.days {
        writeln!(
            out,
            "  {day}  {:>9} events  {:>9}",
            words::number(*events),
            words::bytes(*bytes)
        )?;
    }
    for problem in &found.unreadable {
        writeln!(out, "cannot read     {problem}")?;
    }
    writeln!(out, "Nothing was changed.")?;
    Ok(exit::YES)
}

/// Told when a signal asks the program to stop.
pub(crate) fn asked_to_stop() -> Result<tokio::sync::mpsc::Receiver<()>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (stop, stopped) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = stop.blocking_send(());
        }
    });
    Ok(stopped)
}

pub(crate) fn serve(global: &Global, args: &ServeArgs) -> Result<u8> {
    let settings = match (&args.dev, &global.config) {
        (Some(dir), _) => Settings::dev(&Host::real(), dir, args.listen)?,
        (None, Some(config)) => Settings::load(config)?,
        (None, None) => {
            let what = "name a folder with --dev DIR, or a configuration with --config FILE";
            bail!(exit::Usage(what.into()))
        }
    };
    let (dir, token) = (settings.dir.clone(), settings.token_file.clone());
    runtime()?.block_on(async move {
        let running = Builder::new(settings).start().await?;
        eprintln!(
            "collector on https://{}, kept in {}",
            running.address,
            dir.display()
        );
        let [_, _, log] = running.with_archive(jurat_collector::Archive::verifier_keys);
        eprintln!("its own log, for outside witnesses: {log}");
        if let Some(pin) = running.pin {
            eprintln!("its key, for enrolments that pin it: {pin}");
        }
        if args.dev.is_some() {
            eprintln!(
                "enrol with: jurat enroll https://localhost:{} --token-file {} --ca {}",
                running.address.port(),
                token.display(),
                dir.join("ca.pem").display()
            );
        }
        let mut stopped = asked_to_stop()?;
        // Whichever comes first: a signal, or the archive's own failure.
        loop {
            tokio::select! {
                _ = stopped.recv() => {
                    running.stop().await?;
                    return Ok(exit::YES);
                }
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    if running.is_finished() {
                        running.wait().await?;
                        return Ok(exit::NO);
                    }
                }
            }
        }
    })
}

pub(crate) fn enroll(global: &Global, args: &EnrollArgs) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let before = jurat_agent::Enrolment::load(&host, &state_dir).ok();
    let key = match (&args.key, before.filter(|_| args.again)) {
        (Some(key), _) => key.clone(),
        (None, Some(before)) => before.key,
        (None, None) => {
            let (key, why_not) = KeyPlace::best();
            if let Some(why) = why_not {
                eprintln!(
                    "jurat: {why} (on Linux: membership in the group tss); the key is a file"
                );
            }
            key
        }
    };
    if let KeyPlace::External(command) = &key {
        let relative = command.iter().find(|word| {
            let path = Path::new(word);
            path.is_relative() && (word.contains('/') || path.exists())
        });
        if let Some(word) = relative {
            let what = format!("{word}: write the whole path; the endpoint runs in another folder");
            bail!(exit::Usage(what));
        }
    }
    let options = EnrolOptions {
        key,
        url: args.url.clone(),
        token: read(&args.token_file)?.trim().to_owned(),
        ca: args.ca.as_deref().map(read).transpose()?,
        pins: args.pins.clone(),
    };
    let enrolment = if args.again {
        let again = jurat_agent::enroll_again(&host, &state_dir, &options);
        let again = runtime()?.block_on(again)?;
        println!("goes on from {}", again.predecessor);
        if again.undelivered > 0 {
            eprintln!(
                "jurat: the collector does not have its last {} leaves ({}); they are read again where they came from",
                words::number(again.undelivered),
                again.why.as_deref().unwrap_or("they were never signed")
            );
        }
        again.enrolment
    } else {
        runtime()?.block_on(jurat_agent::enroll(&host, &state_dir, &options))?
    };
    println!("enrolled as {}", enrolment.origin);
    let keys = enrolment.home(&state_dir).join("keys");
    match &enrolment.key {
        KeyPlace::Software => println!("key         software: a file in {}", keys.display()),
        held => println!("key         {}: {held}", enrolment.key_kind),
    }
    println!("trust file  {}", state_dir.join("trust.txt").display());
    println!("next        jurat run");
    Ok(exit::YES)
}

pub(crate) fn rotate_key(global: &Global, args: &RotateArgs) -> Result<u8> {
    let (host, config, state_dir) = set_up(global)?;
    let wait = Duration::from_secs(args.wait);
    match jurat_agent::rotate_key(&host, &config, &state_dir, wait) {
        Ok(rotated) if args.json => {
            println!("{}", serde_json::to_string_pretty(&rotated)?);
            Ok(exit::YES)
        }
        Ok(rotated) => {
            println!("key         {}", rotated.key);
            println!("from size   {} on", words::number(rotated.size));
            Ok(exit::YES)
        }
        Err(error @ RotateError::Asked) => {
            eprintln!("jurat: {error}");
            Ok(exit::COULD_NOT_TELL)
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn read_trust(path: &Path) -> Result<Trust> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Trust::parse(&text).with_context(|| path.display().to_string())
}

fn read_reveal(path: &Path) -> Result<Reveal> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Reveal::parse(&bytes).with_context(|| path.display().to_string())
}

/// What is to be judged, and by what.
pub(crate) struct Question<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) trust: Option<&'a Trust>,
    /// A SIEM's lines.
    pub(crate) siem: Option<&'a Path>,
    /// Bytes that a leaf may commit to.
    pub(crate) reveal: Option<&'a Reveal>,
    /// The time, when it is not the clock's.
    pub(crate) now_s: Option<u64>,
}

impl Default for Question<'_> {
    fn default() -> Self {
        Self {
            bundle: Path::new(""),
            trust: None,
            siem: None,
            reveal: None,
            now_s: None,
        }
    }
}

/// What was found.
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    pub(crate) audit: Option<AuditReport>,
    pub(crate) shown: Option<Shown>,
}

/// Whether revealed bytes are those that a leaf commits to.
#[derive(serde::Serialize)]
pub(crate) struct Shown {
    pub(crate) seq: u64,
    pub(crate) problem: Option<String>,
}

/// Verifies a bundle and, when asked, a SIEM's lines and revealed bytes against it.
pub(crate) fn judge(question: &Question<'_>) -> Result<Judged> {
    let Question {
        bundle,
        trust,
        siem,
        reveal,
        now_s,
    } = *question;
    let file = File::open(bundle).with_context(|| format!("opening {}", bundle.display()))?;
    let bundle = BufReader::with_capacity(1 << 20, file);
    let now = Some(now_s.unwrap_or_else(|| Host::real().clock.now().unix_s()));
    let mut audit = siem.map(|_| Audit::default());
    let mut shown = None;
    let mut attestations = jurat_attest::Offline::default();
    let verdict = jurat_proof::verify_with(bundle, trust, now, &mut attestations, &mut |leaf| {
        if let Some(audit) = &mut audit {
            audit.leaf(leaf);
        }
        if let (Some(reveal), Some(content)) = (reveal, &leaf.content)
            && reveal.seq == leaf.seq
        {
            shown = EntryView::parse(content.entry)
                .ok()
                .map(|entry| reveal.holds(&entry).map_err(|error| error.to_string()));
        }
    });
    let verified = matches!(verdict, Verdict::Verified(_));
    let shown = reveal.filter(|_| verified).map(|reveal| Shown {
        seq: reveal.seq,
        problem: match shown {
            Some(Ok(())) => None,
            Some(Err(problem)) => Some(problem),
            None => Some("the bundle does not hold this leaf's entry".into()),
        },
    });
    let (Some(siem), Some(mut audit)) = (siem.filter(|_| verified), audit) else {
        return Ok(Judged {
            verdict,
            audit: None,
            shown,
        });
    };
    let file = File::open(siem).with_context(|| format!("opening {}", siem.display()))?;
    for line in BufReader::new(file).split(b'\n') {
        audit.line(&line.with_context(|| format!("reading {}", siem.display()))?);
    }
    Ok(Judged {
        verdict,
        audit: Some(audit.finish()),
        shown,
    })
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<u8> {
    try_verify(args).or_else(|error| {
        // Whoever reads the exit code alone must not take a wrong file name for tampering.
        eprintln!("jurat: {error:#}");
        Ok(exit::COULD_NOT_TELL)
    })
}

fn try_verify(args: &VerifyArgs) -> Result<u8> {
    let trust = args.trust.as_deref().map(read_trust).transpose()?;
    let reveal = args.reveal.as_deref().map(read_reveal).transpose()?;
    let judged = judge(&Question {
        bundle: &args.bundle,
        trust: trust.as_ref(),
        siem: args.siem.as_deref(),
        reveal: reveal.as_ref(),
        now_s: args.now,
    })?;
    let Judged {
        verdict,
        audit,
        shown,
    } = judged;
    let mut out = io::stdout().lock();
    if args.json {
        let mut value = serde_json::to_value(&verdict)?;
        if let (Value::Object(map), Some(audit)) = (&mut value, &audit) {
            map.insert("siem".into(), json!(audit));
        }
        if let (Value::Object(map), Some(shown)) = (&mut value, &shown) {
            map.insert("reveal".into(), json!(shown));
        }
        serde_json::to_writer_pretty(&mut out, &value)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", words::verdict(&verdict))?;
        if let Some(audit) = &audit {
            write!(out, "{}", words::audit(audit))?;
        }
        if let Some(shown) = &shown {
            let seq = shown.seq;
            match &shown.problem {
                None => writeln!(
                    out,
                    "REVEAL    these are the bytes that leaf {seq} commits to"
                )?,
                Some(problem) => {
                    writeln!(out, "REVEAL    NOT what leaf {seq} commits to: {problem}")?
                }
            }
        }
    }
    let lines_are_good = audit.is_none_or(|audit| audit.is_clean());
    let is_shown = shown.is_none_or(|shown| shown.problem.is_none());
    Ok(if lines_are_good && is_shown {
        verdict.exit_code()
    } else {
        exit::NO
    })
}

pub(crate) fn export(global: &Global, args: &ExportArgs) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    if let Some(folder) = &args.tiles {
        return export_tiles(host, &state_dir, args, folder);
    }
    let output = args
        .output
        .as_deref()
        .context("name a file with --output")?;
    if args.statement.is_asked() {
        return statements::export(&host, &state_dir, &args.statement, output);
    }
    let ledger = match args.collector {
        Some(_) => PathBuf::new(),
        None => ledger_of(&host, &state_dir, args.epoch)?,
    };
    let session = match &args.session {
        Some(begins) if args.collector.is_none() => Some(session_of(&host, &ledger, begins)?),
        session => session.clone(),
    };
    let file =
        File::create_new(output).with_context(|| format!("creating {}", output.display()))?;
    let out = BufWriter::new(&file);
    let wanted = match (&session, &args.range, &args.since) {
        (Some(session), ..) => Selection::Session(session_name(session).into_owned()),
        (_, Some(range), _) => Selection::Range(range.clone()),
        (.., Some(since)) => Selection::Since(since.clone()),
        _ => Selection::All,
    };
    let withhold = Withhold {
        all_payloads: args.without_payloads,
        payloads: args.withhold.iter().copied().collect(),
    };
    let done: Result<(String, Exported)> = match &args.collector {
        Some(dir) => {
            let device = args.device.as_deref().unwrap_or_default();
            jurat_collector::export_folder(host.disk, dir, device, &wanted, &withhold, out)
                .map(|(origin, exported)| (format!(" of {origin}"), exported))
                .map_err(Into::into)
        }
        None => {
            let home = ledger.parent().unwrap_or(&state_dir);
            let enrolled = jurat_agent::enrolled(&host, home);
            jurat_seal::export(host.disk, &ledger, &wanted, &withhold, enrolled, out)
                .map(|exported| (String::new(), exported))
                .map_err(begins_later)
        }
    };
    match done {
        Ok((of, exported)) => {
            file.sync_all()?;
            let Exported { from, to, .. } = exported;
            println!(
                "{} leaves ({from} up to {to}){of} in {}",
                words::number(to - from),
                output.display()
            );
            if exported.withheld > 0 {
                println!(
                    "{} of them as hashes only",
                    words::number(exported.withheld)
                );
            }
            // Whom to believe is never the collector's to say.
            let trust = match &args.collector {
                Some(_) => "TRUST_FILE, the `trust.txt` of that device or one of your own".into(),
                None => state_dir.join("trust.txt").display().to_string(),
            };
            println!("verify: jurat verify {} --trust {trust}", output.display());
            Ok(exit::YES)
        }
        Err(error) => {
            let _ = fs::remove_file(output);
            Err(error)
        }
    }
}

/// The ledger of this epoch, or of the newest one, that something was recorded in.
fn ledger_of(host: &Host, state_dir: &Path, epoch: Option<u64>) -> Result<PathBuf> {
    let home = match epoch {
        Some(epoch) => home_of(state_dir, epoch),
        None => home(host, state_dir),
    };
    let ledger = home.join("ledger");
    if ledger.exists() {
        return Ok(ledger);
    }
    let path = ledger.display();
    match epoch {
        Some(epoch) => bail!("{path}: nothing of epoch {epoch} of this device is here"),
        None => bail!(
            "{path}: nothing was recorded here yet; {}",
            first_steps(host, state_dir)
        ),
    }
}

/// What to do where nothing was recorded yet.
fn first_steps(host: &Host, state_dir: &Path) -> &'static str {
    match jurat_agent::Enrolment::load(host, state_dir) {
        Ok(_) => "start with `jurat run`",
        Err(_) => "enrol this device with `jurat enroll URL --token-file FILE`, then `jurat run`",
    }
}

/// The one session in this ledger that is called so, or begins so; the name itself when there is none.
fn session_of(host: &Host, ledger: &Path, begins: &str) -> Result<String> {
    let asked = Query {
        session: Some(begins.to_owned()),
        ..Query::default()
    };
    let mut found = BTreeSet::new();
    let give = &mut |_: &[u8], entry: &Value, _: Option<&[u8]>| {
        let name = entry.get("session").and_then(Value::as_str);
        if name == Some(begins) || found.len() <= SESSIONS_SHOWN {
            found.extend(name.map(str::to_owned));
        }
        name != Some(begins)
    };
    jurat_agent::query(host.disk.clone(), &jurat_disk::parent(ledger), &asked, give)?;
    if found.contains(begins) || found.len() <= 1 {
        return Ok(found.pop_first().unwrap_or_else(|| begins.to_owned()));
    }
    let names: Vec<_> = found.into_iter().take(SESSIONS_SHOWN).collect();
    let names = names.join(", ");
    bail!(exit::Usage(format!(
        "several sessions begin with {begins}: {names}, ..."
    )))
}

/// How many of several sessions are named.
const SESSIONS_SHOWN: usize = 5;

/// What was removed from this machine after it was archived stands at the collector.
fn begins_later(error: jurat_seal::ExportError) -> anyhow::Error {
    match error {
        jurat_seal::ExportError::Begins { first } => anyhow::anyhow!(
            "the ledger begins at leaf {first}; `jurat export --collector DIR` exports from the collector, \
             which holds all of them"
        ),
        error => error.into(),
    }
}

fn export_tiles(host: Host, state_dir: &Path, args: &ExportArgs, folder: &Path) -> Result<u8> {
    fs::create_dir(folder).with_context(|| format!("creating {}", folder.display()))?;
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.join(path);
        fs::create_dir_all(jurat_disk::parent(&path))?;
        fs::write(path, bytes)
    };
    let done = match &args.collector {
        Some(dir) => {
            let device = args.device.as_deref().unwrap_or_default();
            jurat_collector::export_tiles(host.disk, dir, device, write).map_err(Into::into)
        }
        None => {
            let ledger = ledger_of(&host, state_dir, args.epoch)?;
            jurat_seal::export_tiles(host.disk, &ledger, write).map_err(begins_later)
        }
    };
    let done = done.inspect_err(|_| {
        let _ = fs::remove_dir_all(folder);
    })?;
    println!(
        "{} leaves in {}",
        words::number(done.size),
        folder.display()
    );
    if done.entries_missing > 0 {
        println!(
            "{} entries are not here: the bundles they belong to were left out",
            words::number(done.entries_missing)
        );
    }
    Ok(exit::YES)
}

pub(crate) fn log(global: &Global, args: &LogArgs) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let asked = Query {
        session: args.session.clone(),
        kind: args.kind.clone(),
        since: args.since.clone(),
    };
    let ledger = match ledger_of(&host, &state_dir, args.epoch) {
        Ok(ledger) => ledger,
        Err(error) => {
            // Not the same as no match.
            eprintln!("jurat: {error:#}");
            return Ok(exit::COULD_NOT_TELL);
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed: Option<io::Error> = None;
    let mut found = 0_u64;
    let give = &mut |entry: &[u8], value: &Value, payload: Option<&[u8]>| {
        found += 1;
        let written = if args.json {
            write_json(&mut out, entry, payload.filter(|_| args.context))
        } else {
            let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-");
            let short = |text: &str| {
                text.chars()
                    .take(100)
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect::<String>()
            };
            writeln!(
                out,
                "{:>8}  {}  {:<20}  {:<8}  {} {}",
                value.get("seq").and_then(Value::as_u64).unwrap_or(0),
                field("time").get(..23).unwrap_or("-"),
                field("kind"),
                field("session").get(..8).unwrap_or("-"),
                short(field("action")),
                short(field("object")),
            )
        };
        failed = written.err();
        failed.is_none()
    };
    let asked = jurat_agent::query(host.disk, &jurat_disk::parent(&ledger), &asked, give);
    if let Some(error) = failed {
        return Err(error.into());
    }
    out.flush()?;
    match asked {
        Err(error) if error.is_damage() => {
            eprintln!("jurat: there is more that cannot be read: {error}");
            return Ok(exit::COULD_NOT_TELL);
        }
        asked => asked?,
    }
    Ok(if found > 0 { exit::YES } else { exit::NO })
}

fn write_json(out: &mut impl Write, entry: &[u8], payload: Option<&[u8]>) -> io::Result<()> {
    match payload {
        Some(payload) if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() => {
            out.write_all(entry.get(..entry.len().saturating_sub(1)).unwrap_or(entry))?;
            out.write_all(b",\"full_context\":")?;
            out.write_all(payload)?;
            out.write_all(b"}\n")
        }
        _ => {
            out.write_all(entry)?;
            out.write_all(b"\n")
        }
    }
}

pub(crate) fn status(global: &Global, args: &StatusArgs) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let path = state_dir.join("status.json");
    let Some(status) = read_status(&*host.disk, &state_dir)
        .with_context(|| format!("reading {}", path.display()))?
    else {
        eprintln!(
            "jurat: {}: this endpoint never ran; {}",
            path.display(),
            first_steps(&host, &state_dir)
        );
        return Ok(exit::COULD_NOT_TELL);
    };
    // Who holds the ledger's lock runs.
    let alive = host
        .disk
        .lock(&home(&host, &state_dir).join("ledger/lock"))
        .is_err();
    if args.json {
        let mut value = serde_json::to_value(&status)?;
        if let Value::Object(map) = &mut value {
            map.insert("alive".into(), alive.into());
        }
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print!("{}", words::status(&status, alive));
    }
    Ok(if alive && status.problem.is_none() {
        exit::YES
    } else {
        exit::NO
    })
}

pub(crate) fn fsck(global: &Global, json: bool) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let dir = home(&host, &state_dir).join("ledger");
    let found = jurat_ledger::fsck(&*host.disk, &dir)
        .with_context(|| format!("reading {}", dir.display()))?;
    if json {
        let segments: Vec<Value> = found
            .segments
            .iter()
            .map(|segment| {
                json!({
                    "path": segment.path, "bytes": segment.len, "records": segment.records,
                    "erased": segment.erased, "damaged_at": segment.damaged_at, "torn_bytes": segment.torn,
                })
            })
            .collect();
        let report =
            json!({ "clean": found.is_clean(), "segments": segments, "holes": found.holes });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for segment in &found.segments {
            let state = match (segment.damaged_at, segment.torn) {
                (Some(at), _) => format!("DAMAGED at byte {at}"),
                (None, 0) => "good".into(),
                (None, torn) => format!("good, {torn} bytes of an unfinished group at its end"),
            };
            let name = segment
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            println!(
                "{name}  {:>10} records  {:>8}  {state}",
                words::number(segment.records),
                words::bytes(segment.len)
            );
        }
        for (before, after) in &found.holes {
            println!("MISSING between the segments {before:016x} and {after:016x}");
        }
        println!(
            "{}",
            if found.is_clean() {
                "clean"
            } else {
                "DAMAGED: the collector's archive holds what was delivered"
            }
        );
    }
    Ok(if found.is_clean() {
        exit::YES
    } else {
        exit::NO
    })
}

pub(crate) fn list_dead_letters(global: &Global, json: bool) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let letters = DeadLetters::new(&home(&host, &state_dir)).list(&host)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &letters)?;
        writeln!(out)?;
        return Ok(exit::YES);
    }
    for letter in &letters {
        writeln!(
            out,
            "{:>8}  leaves {}..{}  {}  {}  {}{}: {}",
            letter.from,
            letter.from,
            letter.to,
            letter.time.get(..19).unwrap_or("-"),
            words::bytes(letter.bytes),
            if letter.delivered {
                "delivered since; was "
            } else {
                ""
            },
            letter.code,
            letter.message
        )?;
    }
    if letters.is_empty() {
        writeln!(out, "none: the collector refused nothing for good")?;
    }
    Ok(exit::YES)
}

pub(crate) fn retry_dead_letters(global: &Global, from: Option<u64>) -> Result<u8> {
    let (host, config, state_dir) = set_up(global)?;
    let letters = DeadLetters::new(&home(&host, &state_dir));
    let timeout = Duration::from_secs(config.delivery.timeout_s);
    let uplink = Uplink::open(&host, &state_dir, timeout)?;
    let wanted: Vec<u64> = match from {
        Some(from) => vec![from],
        None => {
            let waiting = letters.list(&host)?.into_iter();
            waiting
                .filter(|letter| !letter.delivered)
                .map(|letter| letter.from)
                .collect()
        }
    };
    if wanted.is_empty() {
        println!("none to send");
    }
    let mut code = exit::YES;
    runtime()?.block_on(async {
        for from in wanted {
            match letters.retry(&host, &uplink, from).await {
                Ok(()) => println!("{from}: delivered"),
                Err(error) => {
                    code = exit::NO;
                    eprintln!("jurat: {from}: {:#}", anyhow::Error::from(error));
                }
            }
        }
    });
    Ok(code)
}
