//! What an operator sees of the machines of devices, and adopts: `jurat attest`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jurat_attest::eventlog::{Event, EventLog};
use jurat_attest::machine::{Accepted, Adopted, Difference, MachinePolicy};
use jurat_attest::tpm::Hash;
use jurat_attest::{Finding, SELECTION};
use jurat_collector::{BootLogOrder, DeviceReport, MachineReport};
use jurat_disk::{Host, replace};
use serde::Serialize;

use crate::cli::AttestCommand;
use crate::devices::{Operator, attested, print};
use crate::{exit, words};

pub(crate) fn run(command: &AttestCommand) -> Result<u8> {
    match command {
        AttestCommand::Show {
            operator,
            id: None,
            json,
        } => {
            let devices = Operator::new(operator)?.devices()?;
            let machines: Vec<&DeviceReport> =
                devices.iter().filter(|device| speaks(device)).collect();
            print(&machines, *json, |out| {
                machines.iter().try_for_each(|device| line(out, device))
            })?;
            Ok(exit::YES)
        }
        AttestCommand::Show {
            operator,
            id: Some(id),
            json,
        } => {
            let machine = Operator::new(operator)?.machine(id)?;
            print(&machine, *json, |out| details(out, &machine))?;
            Ok(exit::YES)
        }
        AttestCommand::Baseline {
            operator,
            id,
            name,
            file,
            pcrs,
            json,
        } => {
            let machine = Operator::new(operator)?.machine(id)?;
            let file = policy_file(file.as_deref(), &machine)?;
            let done = baseline(&machine, name.as_deref(), file, &pcrs.0)?;
            print(&done, *json, |out| said(out, &done))?;
            Ok(exit::YES)
        }
        AttestCommand::Diff {
            operator,
            id,
            file,
            json,
        } => {
            let operator = Operator::new(operator)?;
            let machine = operator.machine(id)?;
            let file = policy_file(file.as_deref(), &machine)?;
            let found = diff(&operator, &machine, file)?;
            print(&found, *json, |out| differing(out, &found))?;
            Ok(match &found.nearest {
                None => exit::COULD_NOT_TELL,
                Some(nearest) if nearest.differences.is_empty() => exit::YES,
                Some(_) => exit::NO,
            })
        }
    }
}

/// PCRs as a user names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcrs(Vec<u8>);

/// What firmware measured of itself, its settings and what it started, and the owner's keys of the boot loader. Not 8
/// and 9: they change with every kernel and command.
pub(crate) const PINNED: &str = "0-7,14";

/// `0-7,14`, or `none`.
pub(crate) fn pcrs(text: &str) -> Result<Pcrs, String> {
    if text == "none" {
        return Ok(Pcrs(Vec::new()));
    }
    let number = |text: &str| text.trim().parse::<u8>().map_err(|error| error.to_string());
    let mut pcrs = BTreeSet::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        pcrs.extend(number(from)?..=number(to)?);
    }
    let quoted: BTreeSet<u8> = SELECTION[0].indices().collect();
    if pcrs.is_empty() || !pcrs.is_subset(&quoted) {
        return Err("PCRs 0 to 9 and 14 are quoted; `none` pins none".into());
    }
    Ok(Pcrs(pcrs.into_iter().collect()))
}

fn speaks(device: &DeviceReport) -> bool {
    let epoch = device.epochs.first();
    epoch.is_some_and(|epoch| epoch.attestation.is_some())
}

fn line(out: &mut dyn Write, device: &DeviceReport) -> io::Result<()> {
    let epoch = device.epochs.first();
    let Some(machine) = epoch.and_then(|epoch| epoch.attestation.as_ref()) else {
        return Ok(());
    };
    let findings: Vec<&str> = machine.findings.iter().map(|found| found.code()).collect();
    writeln!(
        out,
        "{}  {:<20}  {:<15}  {}  {} {}",
        device.device,
        words::plain(device.hostname.as_deref().unwrap_or("-")),
        machine.status.name(),
        words::ago(machine.at),
        machine.accepted.as_deref().map_or("-".into(), words::plain),
        findings.join(" "),
    )
}

fn details(out: &mut dyn Write, machine: &MachineReport) -> io::Result<()> {
    let hostname = machine.hostname.as_deref().unwrap_or("-");
    writeln!(out, "device     {}", machine.device)?;
    writeln!(out, "host       {}", words::plain(hostname))?;
    writeln!(out, "log        {}", machine.origin)?;
    writeln!(out, "machine    {}", attested(&machine.attestation))?;
    let accepted = match (&machine.policy, &machine.attestation.accepted) {
        (_, Some(name)) => words::plain(name),
        (Some(_), None) => "in no accepted state".into(),
        (None, None) => "no policy: any state is".into(),
    };
    writeln!(out, "accepted   {accepted}")?;
    if let Some(policy) = &machine.policy {
        writeln!(
            out,
            "policy     {} {}",
            policy.sha256,
            policy.file.display()
        )?;
        if let Some(problem) = &policy.problem {
            let problem = words::plain(problem);
            writeln!(out, "           the file is NOT in force: {problem}")?;
        }
    }
    match machine.quote {
        Some(leaf) => writeln!(
            out,
            "quote      leaf {leaf}, which came {}; what follows is of it",
            words::ago(machine.quoted_at)
        )?,
        None => writeln!(out, "quote      none that counts")?,
    }
    match &machine.boot_log {
        None => writeln!(out, "boot log   none")?,
        Some(log) => {
            let says = match (&log.problem, log.leads) {
                (Some(problem), _) => format!("cannot be read: {problem}"),
                (None, true) => "leads to the PCR values".into(),
                (None, false) if log.misses.is_empty() => "no quote came after it yet".into(),
                (None, false) => {
                    let misses: Vec<String> = log.misses.iter().map(u8::to_string).collect();
                    format!("does NOT lead to PCR {}", misses.join(", "))
                }
            };
            let bytes = words::number(log.bytes);
            writeln!(
                out,
                "boot log   leaf {}, {bytes} B, {}: {says}",
                log.leaf, log.sha256
            )?;
        }
    }
    if let Some(facts) = &machine.facts {
        let secure_boot = match facts.secure_boot {
            Some(true) => "on",
            Some(false) => "OFF",
            None => "not measured",
        };
        writeln!(out, "secure boot {secure_boot}")?;
        for image in &facts.boot_loaders {
            let path = image.path.as_deref().unwrap_or("-");
            writeln!(out, "started    {} {}", image.digest, words::plain(path))?;
        }
        for text in &facts.command_lines {
            writeln!(out, "kernel     {}", words::plain(text))?;
        }
    }
    for (pcr, value) in &machine.pcrs {
        writeln!(out, "PCR {pcr:<6} {value}")?;
    }
    Ok(())
}

/// The file that is named, or the one of a collector that runs here.
fn policy_file(named: Option<&Path>, machine: &MachineReport) -> Result<PathBuf> {
    let of_the_collector = machine.policy.as_ref().map(|policy| policy.file.clone());
    let file = named.map(Path::to_path_buf).or(of_the_collector);
    file.ok_or_else(|| {
        let what =
            "name the policy with --file: no collector that runs with `machine_policy` was asked";
        exit::Usage(what.into()).into()
    })
}

/// The policy as it stands in a file, and its text; of a file that is not there an empty one.
fn read_policy(file: &Path) -> Result<(String, MachinePolicy)> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("reading {}", file.display()))?,
    };
    let policy = MachinePolicy::parse(text.as_bytes());
    let policy = policy.with_context(|| file.display().to_string())?;
    Ok((text, policy))
}

/// What `baseline` did.
#[derive(Serialize)]
struct Baselined {
    file: PathBuf,
    /// The state that the machine is in.
    name: String,
    /// What was added; absent when the machine was in an accepted state before.
    added: Option<Accepted>,
}

fn baseline(
    machine: &MachineReport,
    name: Option<&str>,
    file: PathBuf,
    pins: &[u8],
) -> Result<Baselined> {
    // What the newest quote shows is adopted, and nothing else: not an older one's word.
    let attestation = &machine.attestation;
    if machine.quote != Some(attestation.seq) {
        bail!("the newest quote does not count; `jurat attest show` says why");
    }
    let stale = attestation.findings.contains(&Finding::Stale);
    if stale {
        bail!("the newest quote is too old to say anything of now; wait for the next one");
    }
    let (text, policy) = read_policy(&file)?;
    if let Some(state) = policy.accepts(&machine.machine()) {
        return Ok(Baselined {
            file,
            name: state.name.clone(),
            added: None,
        });
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S");
    let host = machine.hostname.as_deref().unwrap_or(&machine.device);
    let name = name.map_or_else(|| format!("{} {now}", words::plain(host)), str::to_owned);
    let mut state = Accepted::adopt(&name, &machine.machine(), pins);
    if machine.facts.is_some() {
        state.boot_log = machine.boot_log.as_ref().map(|log| Adopted {
            origin: machine.origin.clone(),
            leaf: log.leaf,
        });
    } else {
        eprintln!("jurat: no boot log leads to the quote; PCRs are adopted, and no facts");
    }
    let gap = if text.is_empty() || text.ends_with("\n\n") {
        ""
    } else if text.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    let text = format!("{text}{gap}{}", state.to_toml());
    // As the collector will read it.
    let new = MachinePolicy::parse(text.as_bytes());
    let new = new.with_context(|| format!("{}: with this state", file.display()))?;
    if new.accepts(&machine.machine()) != Some(&state) {
        bail!("{}: the machine would not be in this state", file.display());
    }
    replace(&*Host::real().disk, &file, text.as_bytes())
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(Baselined {
        file,
        name,
        added: Some(state),
    })
}

fn said(out: &mut dyn Write, done: &Baselined) -> io::Result<()> {
    let (file, name) = (done.file.display(), words::plain(&done.name));
    match &done.added {
        None => writeln!(out, "{file}: the machine is in the state {name:?} already"),
        Some(state) => writeln!(out, "added to {file}:\n\n{}", state.to_toml()),
    }
}

/// What `diff` found.
#[derive(Serialize)]
struct Diff {
    device: String,
    file: PathBuf,
    /// Absent when no state is for this device.
    nearest: Option<Nearest>,
}

#[derive(Serialize)]
struct Nearest {
    name: String,
    differences: Vec<Difference>,
    /// The first event that differs; absent where not both boot logs are here, or none does.
    first_event: Option<EventDifference>,
}

/// Two boot logs part here.
#[derive(Serialize)]
struct EventDifference {
    /// Counted from 0, without events that extend nothing.
    place: usize,
    accepted: Option<EventReport>,
    found: Option<EventReport>,
}

#[derive(Serialize)]
struct EventReport {
    pcr: u8,
    /// The log's word.
    kind: String,
    sha256: String,
}

impl EventReport {
    fn of(event: &Event<'_>) -> Self {
        let digest = event.digest(Hash::Sha256).unwrap_or_default();
        let digest = digest.iter().map(|byte| format!("{byte:02x}"));
        let kind = event.kind_name().map(str::to_owned);
        Self {
            pcr: event.pcr,
            kind: kind.unwrap_or_else(|| format!("{:#x}", event.kind)),
            sha256: digest.collect(),
        }
    }

    fn words(of: Option<&Self>) -> String {
        of.map_or_else(
            || "nothing more".into(),
            |event| format!("PCR {} {} {}", event.pcr, event.kind, event.sha256),
        )
    }
}

fn diff(operator: &Operator<'_>, machine: &MachineReport, file: PathBuf) -> Result<Diff> {
    let (_, policy) = read_policy(&file)?;
    let nearest = policy.nearest(&machine.machine());
    let nearest = nearest.map(|(state, differences)| {
        let first_event = if differences.is_empty() {
            None
        } else {
            first_event(operator, machine, state)?
        };
        let name = state.name.clone();
        anyhow::Ok(Nearest {
            name,
            differences,
            first_event,
        })
    });
    Ok(Diff {
        device: machine.device.clone(),
        nearest: nearest.transpose()?,
        file,
    })
}

/// Where the boot log of the machine parts from the adopted one, when both are here.
fn first_event(
    operator: &Operator<'_>,
    machine: &MachineReport,
    state: &Accepted,
) -> Result<Option<EventDifference>> {
    let (Some(adopted), Some(log)) = (&state.boot_log, &machine.boot_log) else {
        return Ok(None);
    };
    let fetch = |origin: &str, leaf: u64| {
        let origin = origin.to_owned();
        operator.boot_log(&BootLogOrder { origin, leaf })
    };
    let before = fetch(&adopted.origin, adopted.leaf)?;
    let now = fetch(&machine.origin, log.leaf)?;
    let (Some(before), Some(now)) = (before, now) else {
        return Ok(None);
    };
    let (Ok(before), Ok(now)) = (EventLog::parse(&before), EventLog::parse(&now)) else {
        return Ok(None);
    };
    let first = now.first_difference(&before, Hash::Sha256);
    Ok(first.map(|(place, accepted, found)| EventDifference {
        place,
        accepted: accepted.map(EventReport::of),
        found: found.map(EventReport::of),
    }))
}

fn differing(out: &mut dyn Write, diff: &Diff) -> io::Result<()> {
    let file = diff.file.display();
    let Some(nearest) = &diff.nearest else {
        return writeln!(out, "{file}: no accepted state is for this device");
    };
    let name = words::plain(&nearest.name);
    if nearest.differences.is_empty() {
        return writeln!(out, "the machine is in the accepted state {name:?}");
    }
    writeln!(
        out,
        "the accepted state that comes nearest is {name:?}; it differs in"
    )?;
    for differs in &nearest.differences {
        writeln!(out, "{}", differs.what)?;
        writeln!(out, "  accepted {}", differs.accepted)?;
        writeln!(out, "  found    {}", words::plain(&differs.found))?;
    }
    if let Some(event) = &nearest.first_event {
        writeln!(
            out,
            "first event of the boot log that differs: {}",
            event.place
        )?;
        writeln!(
            out,
            "  accepted {}",
            EventReport::words(event.accepted.as_ref())
        )?;
        writeln!(
            out,
            "  found    {}",
            EventReport::words(event.found.as_ref())
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcrs_are_read_as_ranges_or_refused() {
        assert_eq!(pcrs(PINNED), Ok(Pcrs(vec![0, 1, 2, 3, 4, 5, 6, 7, 14])));
        assert_eq!(pcrs("7, 4"), Ok(Pcrs(vec![4, 7])));
        assert_eq!(pcrs("none"), Ok(Pcrs(Vec::new())));
        for wrong in ["", "10", "0-14", "7-0", "-1", "a", "0-", "256"] {
            assert!(pcrs(wrong).is_err(), "{wrong}");
        }
    }
}
