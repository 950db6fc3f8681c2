//! Words and flags. Help, man page and completions all come from here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use jurat_agent::KeyPlace;
use jurat_key::fips;
use jurat_key::tls::Pin;

use crate::since::since;
use crate::statements::StatementArgs;
use crate::{attest, commands, demo, devices, erase, exit, witness};

#[derive(Parser)]
#[command(
    name = "jurat",
    version,
    long_version = long_version(),
    about = "Record what AI agents do, seal it, deliver it, prove it",
    long_about = "Jurat is the black box for AI agents. It reads the session transcripts that coding agents write, takes secrets \
                  out, seals every record into an append-only log signed by this device, and delivers it to a collector \
                  that verifies and cosigns it. Anyone can check an exported bundle offline.\n\n\
                  Try it: `jurat demo`",
    after_help = exit::TABLE,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Say more about what is being done, on standard error (again for even more)
    #[arg(long, global = true, action = clap::ArgAction::Count)]
    pub(crate) debug: u8,
    /// Read this configuration instead of the usual places
    #[arg(long, global = true, value_name = "FILE", env = "JURAT_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Keep ledger, keys and cursors here [default: /var/lib/jurat for root, else the XDG state folder]
    #[arg(long, global = true, value_name = "DIR", env = "JURAT_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole story in one minute, on this machine alone
    ///
    /// Starts a collector on loopback, enrols this device with it, reads three recorded sessions, redacts,
    /// seals, delivers and verifies them, and then tries to cheat in three ways. Needs no account, no root and
    /// no configuration, and leaves nothing behind.
    Demo(demo::DemoArgs),
    /// Read, seal and deliver until stopped
    ///
    /// Follows the sessions of this user's agents (or the sources in the configuration). Stop it with
    /// SIGTERM or Ctrl-C: it seals what it has and ends. Delivery that is not possible now waits in the ledger.
    ///
    /// With --once it ends by itself, and exits with 0 only when the collector has everything: it gives up at
    /// once when the collector refuses this device, and after --wait when nothing moves any more.
    Run(RunArgs),
    /// Run a collector: verify, archive, cosign
    ///
    /// With --dev everything is kept in one folder, with a generated certificate for loopback names and an
    /// enrolment token: for trying things out. Otherwise --config names a TOML file.
    Serve(ServeArgs),
    /// Run a witness: cosign the checkpoints of logs that only grow
    ///
    /// A witness remembers the newest checkpoint of each log and cosigns the next one only when a proof shows
    /// that it extends it (C2SP tlog-witness). What contradicts itself is never cosigned again and is kept as a
    /// fork proof. It makes its key on the first start and prints its verifier key: what a policy names.
    ///
    /// The folder holds the key and the book of what was cosigned. Never restore it from a backup, and never
    /// run a copy of it: a witness that forgets could cosign a fork. If it is lost, begin anew with another name.
    ///
    /// Clients send POST /add-checkpoint; everyone may read /HASH/checkpoint and
    /// /HASH/fork-proof, with HASH the SHA-256 of the origin in hex.
    #[command(after_help = "\
Example, for one log, behind a proxy that speaks TLS:
  jurat witness --dir /var/lib/jurat-witness --name witness.example.org/w1 \\
      --log 'example.com/jurat/collector/0+0d1c2b3a+AXyz...='")]
    Witness(WitnessArgs),
    /// Enrol this device with a collector
    ///
    /// Makes this device's key, agrees on the origin of its log, and writes `trust.txt` for `jurat verify`.
    Enroll(EnrollArgs),
    /// Verify a bundle offline, and say what is proven and what is not
    ///
    /// Keys are never taken from inside the bundle: without --trust the answer is always "could not tell".
    Verify(VerifyArgs),
    /// Write this device's log into a bundle that anyone can verify
    Export(ExportArgs),
    /// Look into this device's log
    Log(LogArgs),
    /// Say how this endpoint is doing
    Status(StatusArgs),
    /// Give this device's log a new key
    ///
    /// The old key's last signature covers a leaf that names the new one. The endpoint that runs does it;
    /// when none runs, it is done at once. The old key is wiped when the collector has that head; until then
    /// another rotation is refused.
    RotateKey(RotateArgs),
    /// See a collector's devices, and revoke or allow one
    ///
    /// A collector that runs is asked over HTTPS with the token in its folder (`admin.token`); the folder of
    /// one that does not is opened.
    Devices(DevicesArgs),
    /// See in which state the machines of a collector's devices are, and adopt one
    ///
    /// Only machines whose TPM holds the keys speak of themselves. The collector judges each quote; with
    /// `machine_policy = "FILE"` in its configuration it also holds the machine against the accepted states in that
    /// file. The collector is asked as `jurat devices` asks it.
    #[command(
        subcommand,
        after_help = "\
Example: adopt what a machine is now, later see what changed, and adopt that:
  jurat attest show 1b4e --collector DIR
  jurat attest baseline 1b4e --collector DIR --file /etc/jurat/machines.toml
  jurat attest diff 1b4e --collector DIR --file /etc/jurat/machines.toml"
    )]
    Attest(AttestCommand),
    /// Remove payloads for good; entries, tree and proofs stay
    ///
    /// A leaf that says which, why and by whom is sealed before anything goes. Without --collector it is done on
    /// this device: by the endpoint that runs, or, when none does, here. With --collector it is done at the
    /// collector of that folder: by the one that runs, or, when none does, in the folder. Neither reaches a
    /// SIEM's copies, exported bundles or backups.
    ///
    /// On this device it reaches the log that is written now. The log of an earlier epoch is closed, so nothing in
    /// it can say what was erased: its payloads go at the collector, with --device ORIGIN, and here with its folder,
    /// which is named when there is one.
    Erase(EraseArgs),
    /// Reveal what one leaf of this device's log commits to, for `jurat verify --reveal`
    ///
    /// Without --raw: the payload, also where a bundle withholds it. With --raw: the record as it stood in its
    /// file, with whatever secret was taken out of it; refused when the file was changed since. The salts that
    /// are given with them open the commitments of this leaf alone.
    Reveal(RevealArgs),
    /// Look after what the collector refused for good
    ///
    /// What a collector refuses for a reason that will not pass is set aside on this machine; its leaf hashes
    /// are delivered in its place, so that the log goes on and shows the gap.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Look after the local ledger
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// Only say what would be sealed and shipped, a day and in all; changes nothing
    #[arg(long)]
    pub(crate) test: bool,
    /// End when everything there is now was read, sealed and archived
    #[arg(long, conflicts_with = "test")]
    pub(crate) once: bool,
    /// With --once: give up, and exit with 1, when nothing was read, sealed or delivered for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "once")]
    pub(crate) wait: u64,
    /// With --test: print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Keep everything in this folder, for trying things out
    #[arg(long, value_name = "DIR")]
    pub(crate) dev: Option<PathBuf>,
    /// With --dev: listen here
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8443",
        requires = "dev"
    )]
    pub(crate) listen: SocketAddr,
}

#[derive(Args)]
pub(crate) struct WitnessArgs {
    /// Keep key and book in this folder
    #[arg(long, value_name = "DIR", required_unless_present = "check_fork")]
    pub(crate) dir: Option<PathBuf>,
    /// The witness's name, a URL without its scheme; needed on the first start, and never changes
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Listen here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8445")]
    pub(crate) listen: SocketAddr,
    /// Cosign this log, named by its verifier key; can be repeated
    #[arg(long, value_name = "VKEY")]
    pub(crate) log: Vec<String>,
    /// Cosign the logs in this file: lines `log VKEY`; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) logs: Option<PathBuf>,
    /// Speak HTTPS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Speak plain HTTP also where strangers can reach it: a proxy in front speaks TLS
    #[arg(long, conflicts_with = "certificate")]
    pub(crate) plain_http: bool,
    /// Only check this fork proof with the keys of --log and --logs; exit 0 when it shows a fork
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "name", "certificate", "key", "plain_http"])]
    pub(crate) check_fork: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct EnrollArgs {
    /// The collector, https://host:port
    #[arg(value_parser = address)]
    pub(crate) url: String,
    /// The file that holds the enrolment token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Believe only these certificates (PEM) [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Believe only a server with this key, beside what its certificate says: sha256/BASE64, as `jurat serve` prints it;
    /// may be given more than once
    #[arg(long = "pin", value_name = "PIN")]
    pub(crate) pins: Vec<Pin>,
    /// Where the device's keys are to be: software (a file), tpm (this machine's), tpm:/dev/tpm0,
    /// tpm:swtpm:/SOCKET, tpm:swtpm:HOST:PORT, tpm:tbs, a PKCS #11 URI (pkcs11:token=T;object=O?module-path=/M&pin-source=/P),
    /// external:COMMAND (a signer) [default: this machine's TPM where it may be used, else a file; with --again where
    /// they were]
    #[arg(long, value_name = "PLACE")]
    pub(crate) key: Option<KeyPlace>,
    /// Begin this device's next epoch: a new key and a new log that names the last head of the old one
    #[arg(long)]
    pub(crate) again: bool,
}

#[derive(Args)]
pub(crate) struct RotateArgs {
    /// How long to wait for the endpoint that runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which collector is meant.
#[derive(Args)]
pub(crate) struct OperatorArgs {
    /// The collector's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) collector: Option<PathBuf>,
    /// Ask the collector at this address instead of the one in its folder
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// The file that holds the admin token [default: `admin.token` in the collector's folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Believe only these certificates (PEM) [default: `ca.pem` in the collector's folder, else the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// Without a command: `list`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevicesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevicesCommand>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum DevicesCommand {
    /// List the devices, and how each stands: what `jurat devices` does by itself
    List(ListArgs),
    /// Show one device and all its logs
    Show {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a key of a device count no more
    ///
    /// A leaf of the collector's log says so: heads accepted before it still count, none after it does. It is the
    /// key that signs the device's newest log now, unless another one is named; `jurat devices show` lists them.
    Revoke {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        id: String,
        /// Why; it stands in the collector's log
        #[arg(long)]
        reason: String,
        /// A key of this epoch's log instead of the newest one's
        #[arg(long, value_name = "N")]
        epoch: Option<u64>,
        /// This key, one that was rotated away, too: the whole verifier key, or its id
        #[arg(long)]
        key: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a device enrol again without its old key
    AllowReenrolment {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum AttestCommand {
    /// Show the newest state of a machine: verdict, PCRs, boot log, what was started
    ///
    /// Without a device: all machines that speak of themselves, one a line.
    Show {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        #[arg(value_name = "DEVICE")]
        id: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Accept the present state of a machine: add it to the policy file
    ///
    /// The state pins PCRs and, where a boot log leads to the quote, facts: whether Secure Boot is on, and what was
    /// started before the operating system. It counts for this device only; edit the file to widen it. States
    /// that were accepted before stay: remove those that are over. The file is replaced in one step, and a
    /// collector that runs reads it again within seconds. Exit code 0 also when the machine was accepted before.
    Baseline {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        #[arg(value_name = "DEVICE")]
        id: String,
        /// What to call the state [default: the host's name and the time]
        #[arg(long)]
        name: Option<String>,
        /// The policy file; made when it is not there [default: the one of the collector that runs]
        #[arg(long, value_name = "POLICY")]
        file: Option<PathBuf>,
        /// The PCRs to pin, such as 0,2,7, or `none` for facts alone. 8 and 9 change with every kernel
        #[arg(long, value_name = "LIST", default_value = attest::PINNED, value_parser = attest::pcrs)]
        pcrs: attest::Pcrs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say in what a machine differs from the accepted state that comes nearest
    ///
    /// PCR by PCR and fact by fact, and, where both boot logs are archived, the first event in which they differ.
    /// Exit code 0: in nothing; 1: it differs; 2: no accepted state is for this device.
    Diff {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The device's id, or how it begins
        #[arg(value_name = "DEVICE")]
        id: String,
        /// The policy file [default: the one of the collector that runs]
        #[arg(long, value_name = "POLICY")]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The bundle
    pub(crate) bundle: PathBuf,
    /// Whom to believe: a trust file, as `jurat enroll` writes one
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: Option<PathBuf>,
    /// Also compare the lines that a SIEM holds, one JSON line an event
    #[arg(long, value_name = "FILE", requires = "trust")]
    pub(crate) siem: Option<PathBuf>,
    /// Also check that the bytes in this file (`jurat reveal` writes it) are those that their leaf commits to
    #[arg(long, value_name = "FILE", requires = "trust")]
    pub(crate) reveal: Option<PathBuf>,
    /// Judge cosignature times by this time, in seconds since 1970 [default: the clock's]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) now: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let range = parsed.ok_or("a range is written FROM..TO, for example 100..250")?;
    if range.is_empty() {
        return Err("an empty range: TO is the leaf after the last one".into());
    }
    Ok(range)
}

fn address(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(host) if !host.is_empty() && !host.starts_with(['/', ':']) => Ok(text.to_owned()),
        _ => Err("a collector's address is written https://HOST:PORT".into()),
    }
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// Where to write the bundle; must not exist
    #[arg(short, long, value_name = "FILE", required_unless_present = "tiles")]
    pub(crate) output: Option<PathBuf>,
    /// Write the log as C2SP tiles into this folder instead; must not exist
    #[arg(long, value_name = "FOLDER", conflicts_with = "output")]
    pub(crate) tiles: Option<PathBuf>,
    /// Export from a collector's folder instead, which holds what this device may have removed
    #[arg(long, value_name = "DIR")]
    pub(crate) collector: Option<PathBuf>,
    /// With --collector: the device's id, which means its newest log, or the origin of any; not needed when there
    /// is only one device
    #[arg(long, value_name = "ID", requires = "collector")]
    pub(crate) device: Option<String>,
    /// The log of this epoch of this device [default: the one that is written now]
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["collector", "cose", "dsse"])]
    pub(crate) epoch: Option<u64>,
    /// Only this session, or without --collector the one that begins so: the leaves of others are hashes, and its runs are still proven without a gap
    #[arg(long, value_name = "ID", group = "wanted")]
    pub(crate) session: Option<String>,
    /// Only the leaves FROM up to (not with) TO, widened to what was cosigned
    #[arg(long, value_name = "FROM..TO", group = "wanted", value_parser = range)]
    pub(crate) range: Option<std::ops::Range<u64>>,
    /// Only what was sealed at this time or later: RFC 3339, a date (UTC), or how long ago (30m, 2h, 7d)
    #[arg(long, value_name = "TIME", group = "wanted", value_parser = since)]
    pub(crate) since: Option<String>,
    /// Leave out all payloads: what happened stays proven, what was said does not leave
    #[arg(long)]
    pub(crate) without_payloads: bool,
    /// Leave out the payload of this leaf (may be given again)
    #[arg(long, value_name = "LEAF")]
    pub(crate) withhold: Vec<u64>,
    #[command(flatten)]
    pub(crate) statement: StatementArgs,
}

#[derive(Args)]
pub(crate) struct LogArgs {
    /// Look into the log of this epoch [default: the one that is written now]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) epoch: Option<u64>,
    /// Only this session, or sessions that begin so
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Only this kind, or kinds that begin so, for example `tool.`
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Not before this time: RFC 3339, a date (UTC), or how long ago (30m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<String>,
    /// Print whole entries as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: print the payload, too, as `full_context`
    #[arg(long, requires = "json")]
    pub(crate) context: bool,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EraseArgs {
    /// The payload of this leaf, or of these leaves, the last one not included (can be repeated)
    #[arg(long, value_name = "N|A..B", value_parser = leaves, required_unless_present = "session")]
    pub(crate) seq: Vec<(u64, u64)>,
    /// The payloads of every leaf of this session (can be repeated)
    #[arg(long, value_name = "ID")]
    pub(crate) session: Vec<String>,
    /// Why; stands in the log for good
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Who wants it; stands in the log for good [default: this account]
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Erase at the collector of this folder instead, whether it runs or not
    #[arg(long, value_name = "DIR", requires = "device")]
    pub(crate) collector: Option<PathBuf>,
    /// With --collector: the device's id, or the origin of its log
    #[arg(long, value_name = "ID", requires = "collector")]
    pub(crate) device: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct RevealArgs {
    /// The leaf
    pub(crate) seq: u64,
    /// Of the log of this epoch [default: the one that is written now]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) epoch: Option<u64>,
    /// The record before redaction, instead of the payload
    #[arg(long)]
    pub(crate) raw: bool,
    /// Write it here; must not exist [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `N` or `A..B`.
fn leaves(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => {
            let leaf = number(text)?;
            (leaf, leaf.checked_add(1).ok_or("no such leaf")?)
        }
    };
    if from >= to {
        return Err("no leaf stands in this range".into());
    }
    Ok((from, to))
}

#[derive(Subcommand)]
enum DeadLettersCommand {
    /// List what the collector refused for good, with its reasons
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send one again, or all: after the collector was mended
    Retry {
        /// The first leaf of the letter, as `list` shows it; all letters when absent
        from: Option<u64>,
    },
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// Read every byte of the ledger and say whether it is as it was written; changes nothing
    Fsck {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Does what the command line asks for; returns the exit code.
pub(crate) fn main() -> u8 {
    // Before anything else: what this build promises of its cryptography holds, or nothing is done.
    if let Err(error) = fips::check() {
        eprintln!("jurat: {error}");
        return exit::COULD_NOT_TELL;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE
            } else {
                exit::YES
            };
        }
    };
    start_logging(cli.global.debug);
    let global = &cli.global;
    let done = match cli.command {
        Command::Demo(args) => demo::demo(&args),
        Command::Run(args) => commands::run(global, &args),
        Command::Serve(args) => commands::serve(global, &args),
        Command::Witness(args) => witness::run(&args),
        Command::Enroll(args) => commands::enroll(global, &args),
        Command::Verify(args) => commands::verify(&args),
        Command::Export(args) => commands::export(global, &args),
        Command::Log(args) => commands::log(global, &args),
        Command::Status(args) => commands::status(global, &args),
        Command::RotateKey(args) => commands::rotate_key(global, &args),
        Command::Devices(args) => devices::run(&args),
        Command::Attest(command) => attest::run(&command),
        Command::Reveal(args) => erase::reveal(global, &args),
        Command::Erase(args) => erase::erase(global, &args),
        Command::Ledger(LedgerCommand::Fsck { json }) => commands::fsck(global, json),
        Command::DeadLetters(DeadLettersCommand::List { json }) => {
            commands::list_dead_letters(global, json)
        }
        Command::DeadLetters(DeadLettersCommand::Retry { from }) => {
            commands::retry_dead_letters(global, from)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "jurat", &mut std::io::stdout());
            Ok(exit::YES)
        }
        // A manual is for every build.
        Command::Man => clap_mangen::Man::new(Cli::command().long_version(Resettable::Reset))
            .render(&mut std::io::stdout())
            .map(|()| exit::YES)
            .map_err(Into::into),
    };
    match done {
        Ok(code) => code,
        // A reader that had enough, as in `jurat log | head`, is no failure.
        Err(error) if is_broken_pipe(&error) => exit::YES,
        Err(error) => {
            eprintln!("jurat: {error:#}");
            exit::of(&error)
        }
    }
}

/// For `--version`: with the library that does the cryptography.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{}\n{}", env!("CARGO_PKG_VERSION"), fips::Library::linked()));
    &TEXT
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn start_logging(debug: u8) {
    let level = match debug {
        0 => "warn",
        1 => "jurat=debug,jurat_agent=debug,jurat_collector=debug,jurat_witness=debug,info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("JURAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_leaves_is_read_or_refused() {
        assert_eq!(leaves("7"), Ok((7, 8)));
        assert_eq!(leaves("7..9"), Ok((7, 9)));
        for wrong in [
            "",
            "7..7",
            "9..7",
            "..9",
            "7..",
            "-1",
            "a",
            &u64::MAX.to_string(),
        ] {
            assert!(leaves(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
