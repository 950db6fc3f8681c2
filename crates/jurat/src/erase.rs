//! Removing payloads, and revealing what a leaf commits to.

use std::time::Duration;

use anyhow::Result;
use jurat_agent::EraseRequest;

use crate::cli::{EraseArgs, Global};
use crate::commands::set_up;
use crate::{exit, words};

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
    if args.collector.is_some() {
        anyhow::bail!("--collector is not built yet");
    }
    let (host, config, state_dir) = set_up(global)?;
    let patience = Duration::from_secs(REQUEST_S);
    let erased = jurat_agent::erase(&host, &config, &state_dir, &request, patience)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&erased)?);
    } else {
        print!("{}", words::erased(&erased));
    }
    Ok(exit::YES)
}
