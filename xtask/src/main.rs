//! The project's own tools: `cargo xtask test [--slow]`, `cargo xtask bench`, `cargo xtask vectors`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program speaks to its user"
)]

mod bench;
mod vectors;

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
cargo xtask test [--slow]   format, lints, every test, documentation
                            --slow: more kills (200) and more cases, quotes of enclaves, the FIPS build
cargo xtask fips            the FIPS build and its tests alone
cargo xtask fuzz TARGET [SECONDS]   runs a target of fuzz/ under libFuzzer (60 s); a C++ compiler is needed
cargo xtask vectors         writes vectors/ anew: the bundles that every verifier must judge alike
cargo xtask bench [FILTER]  measures, as ratios to a limit taken in the same run
cargo xtask bench build     the CPU time of a clean build: minutes, so only when asked for";

/// Parts that are not built unless asked for.
const OPTIONAL: &str = "jurat-key/pkcs11,jurat-agent/pkcs11";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test"] => test(false),
        ["test", "--slow"] => test(true),
        ["fips"] => test_fips(),
        ["fuzz", target] => fuzz(target, "60"),
        ["fuzz", target, seconds] => fuzz(target, seconds),
        ["vectors"] => vectors::vectors().map(|()| true),
        ["bench"] => bench::bench(""),
        ["bench", filter] => bench::bench(filter),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that must hold before a change is taken.
fn test(slow: bool) -> Result<bool> {
    step(
        "format",
        Command::new("cargo").args(["fmt", "--all", "--check"]),
    )?;
    step(
        "lints",
        Command::new("cargo").args([
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--features",
            OPTIONAL,
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    let doc = [
        "doc",
        "--release",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--features",
        OPTIONAL,
    ];
    step(
        "documentation",
        Command::new("cargo")
            .args(doc)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;

    let skips = skips_file();
    let more = slow.then_some([("JURAT_KILLS", "200"), ("PROPTEST_CASES", "5000")]);
    let (mut passed, mut failed, mut good) = (0, 0, true);
    // What is shipped is tested without the optional parts; those then by themselves, with their crates alone.
    let shipped = ["--workspace", "--no-fail-fast"];
    let optional = [
        "-p",
        "jurat-key",
        "-p",
        "jurat-agent",
        "--features",
        OPTIONAL,
        "pkcs11::",
    ];
    let mut runs = vec![("tests", &shipped[..]), ("optional tests", &optional)];
    // Many crates that nothing else needs: minutes to build.
    let enclaves = ["-p", "jurat-attest", "--features", "tee", "tee::"];
    if slow {
        runs.push(("quotes of enclaves", &enclaves));
    }
    for (name, args) in runs {
        println!("\n== {name}");
        let mut command = Command::new("cargo");
        command
            .args(["test", "--release"])
            .args(args)
            .env("JURAT_SKIPS", &skips)
            .envs(more.into_iter().flatten());
        let ran = count(&mut command)?;
        (passed, failed) = (passed + ran.passed, failed + ran.failed);
        good &= ran.good && ran.failed == 0 && ran.passed > 0;
    }
    if slow {
        let ran = fips(&skips)?;
        (passed, failed) = (passed + ran.passed, failed + ran.failed);
        good &= ran.good;
    }
    tell(passed, failed, &skips);
    Ok(good)
}

/// What a run came to.
fn tell(passed: u64, failed: u64, skips: &Path) {
    let skipped = fs::read_to_string(skips).unwrap_or_default();
    let _ = fs::remove_file(skips);
    let skipped: Vec<&str> = skipped.lines().collect();
    println!();
    for skip in &skipped {
        println!("SKIPPED {skip}");
    }
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.len()
    );
}

fn skips_file() -> PathBuf {
    env::temp_dir().join(format!("jurat-skips-{}", std::process::id()))
}

/// The FIPS build alone.
fn test_fips() -> Result<bool> {
    let skips = skips_file();
    let ran = fips(&skips)?;
    tell(ran.passed, ran.failed, &skips);
    Ok(ran.good)
}

/// What the FIPS module is built with, how each is asked whether it is there, and the Debian package.
const FIPS_TOOLS: [(&str, &str, &str); 4] = [
    ("go", "version", "golang"),
    ("cmake", "--version", "cmake"),
    ("perl", "--version", "perl"),
    ("cc", "--version", "gcc"),
];

/// The FIPS build, and its tests with it. In a folder of its own: it shares next to nothing with the others.
fn fips(skips: &Path) -> Result<Ran> {
    println!("\n== FIPS build");
    let is_there = |(program, ask, _): &(&str, &str, &str)| {
        let mut command = Command::new(program);
        let asked = command.arg(ask).stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = FIPS_TOOLS
        .iter()
        .filter(|tool| !is_there(tool))
        .map(|(program, _, package)| format!("{program} (the Debian package {package})"))
        .collect();
    if !missing.is_empty() {
        let why = format!("the FIPS build: needs {}", missing.join(", "));
        let mut file = fs::File::options().create(true).append(true).open(skips)?;
        writeln!(file, "{why}")?;
        let good = env::var("CI").as_deref() != Ok("true");
        return Ok(Ran {
            passed: 0,
            failed: 0,
            good,
        });
    }
    // The module of the source that Cargo.lock names, never one that is installed here.
    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(args).env("AWS_LC_FIPS_SYS_USE_SYSTEM", "0");
        command.args(["--release", "--features", "jurat/fips"]);
        command.args(["--target-dir", "target/fips"]);
        command
    };
    step("build", &mut cargo(&["build", "-p", "jurat"]))?;
    let mut tests = cargo(&["test", "-p", "jurat", "-p", "jurat-key"]);
    // What is about the module, and the whole story once.
    tests.args(["--", "fips::", "log_key::", "the_demo_catches"]);
    let ran = count(tests.env("JURAT_SKIPS", skips))?;
    let good = ran.good && ran.failed == 0 && ran.passed > 0;
    Ok(Ran { good, ..ran })
}

/// What a run of `cargo test` came to.
struct Ran {
    passed: u64,
    failed: u64,
    good: bool,
}

/// Runs `cargo test`, shows what it says and adds up.
fn count(command: &mut Command) -> Result<Ran> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(child.stdout.take().context("reading cargo test")?).lines() {
        let line = line.context("reading cargo test")?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result:") {
            let count = |word: &str| {
                let before = counts.split(word).next().unwrap_or_default().trim_end();
                before
                    .rsplit([' ', '.', ';'])
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            passed += count(" passed");
            failed += count(" failed");
        }
    }
    let good = child.wait().context("waiting for cargo test")?.success();
    Ok(Ran {
        passed,
        failed,
        good,
    })
}

/// Builds with the coverage that libFuzzer steers by and runs one target on its corpus, on stable: the
/// passes are LLVM's own, and the sanitizers that need nightly find nothing in safe code. New inputs go
/// to `target/fuzz/corpus`; what is worth keeping is copied to `fuzz/corpus` by hand.
fn fuzz(target: &str, seconds: &str) -> Result<bool> {
    let flags = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
    ];
    let triple = "x86_64-unknown-linux-gnu";
    step(
        "build",
        Command::new("cargo")
            .args(["build", "--profile", "fuzz", "-p", "jurat-fuzz"])
            .args(["--features", "libfuzzer", "--bin", target])
            // With a target named, build scripts and macros are not instrumented.
            .args(["--target", triple, "--target-dir", "target/fuzz"])
            .env("RUSTFLAGS", flags.join(" ")),
    )?;
    let found = format!("target/fuzz/corpus/{target}");
    fs::create_dir_all(&found).context("creating the folder for new inputs")?;
    step(
        target,
        Command::new(format!("target/fuzz/{triple}/fuzz/{target}"))
            .args([&found, &format!("fuzz/corpus/{target}")])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix=target/fuzz/{target}-"))
            .args(["-max_len=16384", "-timeout=10", "-rss_limit_mb=2048"]),
    )?;
    Ok(true)
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    println!("\n== {name}");
    let status = command
        .status()
        .with_context(|| format!("starting {name}"))?;
    if !status.success() {
        bail!("{name} failed");
    }
    Ok(())
}
