//! What an operator sees of a collector's devices, and orders about them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jurat_agent::Erased;
use jurat_attest::Status;
use jurat_collector::{
    Address, AdminError, ArchivedBootLog, AttestationReport, BootLogOrder, DeviceReport, Done,
    EpochReport, EraseError, EraseOrder, MachineReport, Order, Standing, boot_log, carry_out,
    devices, erase_folder, machine,
};
use jurat_disk::Host;
use jurat_key::tls;
use jurat_sink::{Collector, SetUp};

use crate::cli::{DevicesArgs, DevicesCommand, ListArgs, OperatorArgs};
use crate::commands::runtime;
use crate::{exit, words};

pub(crate) fn run(args: &DevicesArgs) -> Result<u8> {
    match &args.command {
        None => list(&args.list)?,
        Some(DevicesCommand::List(args)) => list(args)?,
        Some(DevicesCommand::Show { operator, id, json }) => {
            let device = Operator::new(operator)?.device(id)?;
            print(&device, *json, |out| details(out, &device))?;
        }
        Some(DevicesCommand::Revoke {
            operator,
            id,
            reason,
            epoch,
            key,
            json,
        }) => {
            let operator = Operator::new(operator)?;
            let done = operator.order(Order::Revoke {
                device: operator.device(id)?.device,
                reason: reason.clone(),
                epoch: *epoch,
                key: key.clone(),
            })?;
            print(&done, *json, |out| said(out, "revoked", done))?;
        }
        Some(DevicesCommand::AllowReenrolment { operator, id, json }) => {
            let operator = Operator::new(operator)?;
            let device = operator.device(id)?.device;
            let done = operator.order(Order::AllowReenrolment { device })?;
            print(&done, *json, |out| said(out, "allowed", done))?;
        }
    }
    Ok(exit::YES)
}

fn list(args: &ListArgs) -> Result<()> {
    let list = Operator::new(&args.operator)?.devices()?;
    print(&list, args.json, |out| {
        list.iter().try_for_each(|device| line(out, device))
    })
}

fn said(out: &mut dyn Write, what: &str, done: Done) -> io::Result<()> {
    writeln!(out, "{what} at leaf {} of the collector's log", done.leaf)
}

/// Erases payloads at the collector of this folder, whether it runs or not.
pub(crate) fn erase(dir: &Path, order: &EraseOrder) -> Result<Erased> {
    let args = OperatorArgs {
        collector: Some(dir.to_path_buf()),
        url: None,
        token_file: None,
        ca: None,
    };
    Operator::new(&args)?.erase(order)
}

/// How long a collector that runs may take for an order.
const ORDER_S: u64 = 30;
/// Likewise for an erasure, and for a look into the archive: it reads its archive through. Asked again it goes on.
const ERASE_S: u64 = 3_600;

/// How a collector is asked: over HTTPS when it runs, else in its folder.
pub(crate) struct Operator<'a> {
    args: &'a OperatorArgs,
    dir: PathBuf,
    host: Host,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(args: &'a OperatorArgs) -> Result<Self> {
        let dir = match (&args.collector, &args.url) {
            (Some(dir), _) => dir.clone(),
            (None, Some(_)) => PathBuf::new(),
            (None, None) => bail!("name the collector's folder with --collector DIR, or --url URL"),
        };
        Ok(Self {
            args,
            dir,
            host: Host::real(),
        })
    }

    pub(crate) fn devices(&self) -> Result<Vec<DeviceReport>> {
        if self.args.url.is_none() {
            match devices(&self.host, &self.dir) {
                Err(AdminError::Runs { .. }) => {}
                done => return Ok(done?),
            }
        }
        let (collector, token) = self.connect(ORDER_S)?;
        let asked = collector.operate(&token, "/v1/admin/devices", None::<&()>);
        Ok(runtime()?.block_on(asked)?)
    }

    /// The one device whose id begins so.
    fn device(&self, id: &str) -> Result<DeviceReport> {
        let list = self.devices()?;
        let mut fitting = list
            .into_iter()
            .filter(|device| device.device.starts_with(id));
        match (fitting.next(), fitting.next()) {
            (Some(device), None) => Ok(device),
            (None, _) => bail!("no device {id} is enrolled here"),
            (Some(_), Some(_)) => bail!("more than one device begins with {id}"),
        }
    }

    /// What is known of the machine of the one device whose id begins so.
    pub(crate) fn machine(&self, id: &str) -> Result<MachineReport> {
        let id = self.device(id)?.device;
        if self.args.url.is_none() {
            match machine(&self.host, &self.dir, &id) {
                Err(AdminError::Runs { .. }) => {}
                done => return Ok(done?),
            }
        }
        let (collector, token) = self.connect(ORDER_S)?;
        let path = format!("/v1/admin/machines/{id}");
        let asked = collector.operate(&token, &path, None::<&()>);
        Ok(runtime()?.block_on(asked)?)
    }

    /// An archived boot log; `None` when it is not there any more.
    pub(crate) fn boot_log(&self, order: &BootLogOrder) -> Result<Option<Vec<u8>>> {
        let found = if self.args.url.is_none() {
            match boot_log(&self.host, &self.dir, order) {
                Err(AdminError::Runs { .. }) => None,
                done => Some(done?),
            }
        } else {
            None
        };
        let found: ArchivedBootLog = match found {
            Some(found) => found,
            None => {
                let (collector, token) = self.connect(ERASE_S)?;
                let asked = collector.operate(&token, "/v1/admin/boot-logs", Some(order));
                runtime()?.block_on(asked)?
            }
        };
        Ok(found.boot_log.map(|log| log.0))
    }

    fn order(&self, order: Order) -> Result<Done> {
        if self.args.url.is_none() {
            match carry_out(&self.host, &self.dir, order.clone()) {
                Err(AdminError::Runs { .. }) => {}
                done => return Ok(done?),
            }
        }
        let (collector, token) = self.connect(ORDER_S)?;
        let asked = collector.operate(&token, "/v1/admin/orders", Some(&order));
        Ok(runtime()?.block_on(asked)?)
    }

    fn erase(&self, order: &EraseOrder) -> Result<Erased> {
        match erase_folder(&self.host, &self.dir, &order.device, &order.request) {
            Err(EraseError::Admin(AdminError::Runs { .. })) => {}
            done => return Ok(done?),
        }
        let (collector, token) = self.connect(ERASE_S)?;
        let asked = collector.operate(&token, "/v1/admin/erasures", Some(order));
        Ok(runtime()?.block_on(asked)?)
    }

    fn connect(&self, patience_s: u64) -> Result<(Collector, String)> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
        };
        let url = match &self.args.url {
            Some(url) => url.clone(),
            None => Address::load(&self.host, &self.dir)?.url,
        };
        let token = match &self.args.token_file {
            Some(path) => read(path)?,
            None => read(&self.dir.join("admin.token"))?,
        };
        // A collector for trying out has its authority's certificate in its folder.
        let own = self.dir.join("ca.pem");
        let ca = match &self.args.ca {
            Some(path) => Some(read(path)?),
            None if own.exists() => Some(read(&own)?),
            None => None,
        };
        let collector = Collector::new(SetUp {
            url,
            tls: tls::client(ca.as_deref().map(str::as_bytes))?,
            timeout: Duration::from_secs(patience_s),
        })?;
        Ok((collector, token.trim().to_owned()))
    }
}

pub(crate) fn print(
    value: &impl serde::Serialize,
    json: bool,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        return Ok(());
    }
    Ok(text(&mut out)?)
}

fn line(out: &mut dyn Write, device: &DeviceReport) -> io::Result<()> {
    let Some(epoch) = device.epochs.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "{}  {:<20}  epoch {}  {:>10} leaves  heard {}  {}",
        device.device,
        words::plain(device.hostname.as_deref().unwrap_or("-")),
        epoch.epoch,
        words::number(epoch.size),
        words::ago(epoch.heard_at),
        standing(epoch) + &unlike_good(epoch),
    )
}

/// Of a machine that speaks of itself: the one word, when it is not the good one.
fn unlike_good(epoch: &EpochReport) -> String {
    let status = epoch.attestation.as_ref().map(|machine| machine.status);
    match status {
        None | Some(Status::Affirming) => String::new(),
        Some(status) => format!(", machine {}", status.name().to_uppercase()),
    }
}

fn details(out: &mut dyn Write, device: &DeviceReport) -> io::Result<()> {
    writeln!(out, "device     {}", device.device)?;
    let hostname = device.hostname.as_deref().unwrap_or("-");
    writeln!(out, "host       {}", words::plain(hostname))?;
    writeln!(out, "key        {}", device.key_kind)?;
    for epoch in &device.epochs {
        writeln!(out, "epoch {:<4} {}", epoch.epoch, epoch.origin)?;
        writeln!(out, "  key      {}", epoch.key)?;
        for key in epoch.keys_before.iter().rev() {
            writeln!(out, "  before   {key}")?;
        }
        writeln!(out, "  enrolled {}", words::ago(epoch.enrolled_at))?;
        writeln!(out, "  heard    {}", words::ago(epoch.heard_at))?;
        writeln!(out, "  archived {} leaves", words::number(epoch.size))?;
        if let Some(machine) = &epoch.attestation {
            writeln!(out, "  machine  {}", attested(machine))?;
        }
        writeln!(out, "  state    {}", standing(epoch))?;
    }
    Ok(())
}

/// What the newest quote of a TPM makes of its machine.
pub(crate) fn attested(machine: &AttestationReport) -> String {
    let age = match machine.age_s {
        Some(age_s) => format!("made at most {age_s} s before"),
        None => "nothing says when it was made".into(),
    };
    let accepted = machine.accepted.as_deref();
    let accepted = accepted.map(|name| format!(" ({})", words::plain(name)));
    let findings = machine.findings.iter();
    let findings = findings.fold(String::new(), |said, finding| {
        format!("{said}; {}: {}", finding.code(), finding.text())
    });
    format!(
        "{}{} by the quote in leaf {}, which came {} and was {age}; {} quotes count, {} do not{findings}",
        machine.status.name(),
        accepted.unwrap_or_default(),
        machine.seq,
        words::ago(machine.at),
        machine.good,
        machine.bad
    )
}

fn standing(epoch: &EpochReport) -> String {
    let words = epoch.standing.iter().map(|standing| match standing {
        Standing::Active => "active".into(),
        Standing::Silent { since } => format!("SILENT since {}", words::ago(*since)),
        Standing::Revoked { leaf, reason } => {
            format!("REVOKED at leaf {leaf}: {}", words::plain(reason))
        }
        Standing::RevokedBefore { key, leaf, reason } => {
            let id = key.split('+').nth(1).unwrap_or_default();
            format!(
                "earlier key {id} REVOKED at leaf {leaf}: {}",
                words::plain(reason)
            )
        }
        Standing::Forked => "FORKED".into(),
        Standing::Disputed { leaf } => {
            format!("DISPUTED at leaf {leaf}: a signed head came with entries that do not give it")
        }
        Standing::Cloned { boots } => {
            format!("CLONED: {} pairs of boots take turns", boots.len())
        }
        Standing::Closed { by } => format!("closed by epoch {by}"),
    });
    words.collect::<Vec<String>>().join(", ")
}
