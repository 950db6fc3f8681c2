//! Removing payloads, and revealing what a leaf commits to.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jurat_agent::{Enrolment, EraseRequest, home_of};
use jurat_collector::EraseOrder;
use jurat_disk::{Host, Mode};

use crate::cli::{EraseArgs, Global, RevealArgs};
use crate::commands::set_up;
use crate::{devices, exit, words};

/// How long a running endpoint may take for a request.
const REQUEST_S: u64 = 60;

pub(crate) fn erase(global: &Global, args: &EraseArgs) -> Result<u8> {
    let uid = jurat_disk::user_id();
    let me = || jurat_disk::user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
    let request = EraseRequest {
        ranges: args.seq.clone().into(),
        sessions: args.session.clone(),
        who: args.who.clone().unwrap_or_else(me),
        reason: args.reason.clone(),
    };
    let erased = match (&args.collector, &args.device) {
        (Some(dir), Some(device)) => {
            let device = device.clone();
            devices::erase(dir, &EraseOrder { device, request })?
        }
        _ => {
            let (host, config, state_dir) = set_up(global)?;
            let patience = Duration::from_secs(REQUEST_S);
            let erased = jurat_agent::erase(&host, &config, &state_dir, &request, patience);
            // Whether it was found there or not: who asks must not think that it is gone everywhere.
            say_earlier_epochs(&host, &state_dir);
            erased?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&erased)?);
    } else {
        print!("{}", words::erased(&erased));
    }
    Ok(exit::YES)
}

/// Says which logs of this device an erasure does not reach, as long as they are here.
fn say_earlier_epochs(host: &Host, state_dir: &Path) {
    let Ok(enrolment) = Enrolment::load(host, state_dir) else {
        return;
    };
    for epoch in 0..enrolment.epoch() {
        let ledger = home_of(state_dir, epoch).join("ledger");
        if let (true, Some(origin)) = (ledger.exists(), enrolment.origin_of(epoch)) {
            eprintln!(
                "jurat: not reached: epoch {epoch}, whose log is closed. At the collector: `jurat erase --collector DIR \
                 --device {origin} ...`; here: when that log is archived, remove the folder {}",
                ledger.display()
            );
        }
    }
}

pub(crate) fn reveal(global: &Global, args: &RevealArgs) -> Result<u8> {
    let (host, _, state_dir) = set_up(global)?;
    let revealed = jurat_agent::reveal(&host, &state_dir, args.epoch, args.seq, args.raw)?;
    match &args.output {
        Some(path) => {
            let writing = || format!("writing {}", path.display());
            // For its owner only: what is in it was withheld, or redacted.
            let file = host.disk.open(path, Mode::CreateNew);
            let file = file.with_context(writing)?;
            file.write_at(format!("{revealed}\n").as_bytes(), 0)
                .and_then(|()| file.sync())
                .with_context(writing)?;
        }
        None => println!("{revealed}"),
    }
    Ok(exit::YES)
}
