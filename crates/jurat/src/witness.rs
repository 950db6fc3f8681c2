//! `jurat witness`.

use std::fs;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use jurat_disk::Host;
use jurat_proof::{ForkProof, VerifierKey};
use jurat_witness::{Builder, Logs, Transport};

use crate::cli::WitnessArgs;
use crate::commands::{asked_to_stop, runtime};
use crate::exit;

pub(crate) fn run(args: &WitnessArgs) -> Result<u8> {
    let mut logs = Logs::default();
    for vkey in &args.log {
        let key = VerifierKey::parse(vkey).with_context(|| format!("--log {vkey}"))?;
        logs.add(key)
            .map_err(|what| anyhow!("--log {vkey}: {what}"))?;
    }
    if let Some(path) = &args.check_fork {
        return check_fork(args, logs, path);
    }
    let transport = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Transport::Tls {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        _ if args.plain_http => Transport::PlainBehindProxy,
        _ => Transport::PlainOnLoopback,
    };
    let is_tls = matches!(transport, Transport::Tls { .. });
    let builder = Builder {
        host: Host::real(),
        dir: args.dir.clone().context("name a folder with --dir DIR")?,
        name: args.name.clone(),
        listen: args.listen,
        transport,
        logs,
        logs_file: args.logs.clone(),
    };
    runtime()?.block_on(async move {
        let running = builder.start().await?;
        // The key is what others need; everything else is said to who started it.
        println!("{}", running.verifier_key());
        let scheme = if is_tls { "https" } else { "http" };
        let mut said = format!("witness on {scheme}://{}\n", running.address);
        said += &match running.logs() {
            0 => {
                "it knows no log yet: name one with --log VKEY, or a file with --logs FILE\n".into()
            }
            count => format!("logs: {count}\n"),
        };
        for origin in running.forked() {
            said += &format!("FORKED, not cosigned any more: {origin}\n");
        }
        // Who started it may have gone meanwhile: a witness goes on.
        let _ = io::stderr().write_all(said.as_bytes());
        let mut stopped = asked_to_stop()?;
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

fn check_fork(args: &WitnessArgs, mut logs: Logs, path: &std::path::Path) -> Result<u8> {
    if let Some(path) = &args.logs {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        logs = logs.with(&Logs::parse(&text).with_context(|| path.display().to_string())?);
    }
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let proof = ForkProof::parse(&bytes).with_context(|| path.display().to_string())?;
    let origin = proof.first.text.lines().next().unwrap_or_default();
    match proof.check(logs.keys(origin)) {
        Ok([first, second]) => {
            println!("FORK of {}", first.origin);
            for head in [first, second] {
                println!("  signed: size {} root {}", head.size, head.root);
            }
            Ok(exit::YES)
        }
        Err(error) => {
            println!("shows no fork: {error}");
            Ok(exit::NO)
        }
    }
}
