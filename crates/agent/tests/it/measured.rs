//! Measured boot: what the firmware wrote, what the software TPM of Debian holds, and what the operator accepts.

use std::fs;
use std::path::{Path, PathBuf};

use jurat_agent::{Finish, KeyPlace};
use jurat_attest::eventlog::EventLog;
use jurat_attest::machine::{Accepted, MachinePolicy};
use jurat_attest::tpm::Hash;
use jurat_attest::{Finding, Status};
use jurat_collector::{MachineReport, Settings};
use jurat_key::tpm::{Address, Tpm};
use jurat_testkit::need;
use jurat_testkit::swtpm::Swtpm;
use serde_json::Value;

use crate::tpm::until;
use crate::{Device, prompt};

/// A machine that was started as this log says, and a device on it.
struct Measured {
    device: Device,
    swtpm: Swtpm,
    log: PathBuf,
    /// What firmware and boot loaders really extended.
    bytes: Vec<u8>,
    prompts: u32,
    _dir: tempfile::TempDir,
}

impl Measured {
    /// `None`: a program or the log is not here, and the test is skipped.
    fn start(test: &str, name: &str, set_up: impl FnOnce(&mut Settings)) -> Option<Self> {
        let shared = need::shared(test)?;
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(test, dir.path())?;
        let bytes = fs::read(shared.join("vectors/eventlog").join(name)).unwrap();
        let place: KeyPlace = format!("tpm:{}", swtpm.address()).parse().unwrap();
        let mut device = Device::enrolled_with(place, set_up);
        let log = dir.path().join("binary_bios_measurements");
        fs::write(&log, &bytes).unwrap();
        device.config.attest.boot_log = Some(log.clone());
        let measured = Self {
            device,
            swtpm,
            log,
            bytes,
            prompts: 0,
            _dir: dir,
        };
        measured.measure();
        Some(measured)
    }

    fn extend(&self, events: &[(u8, [u8; 32])]) {
        let address: Address = self.swtpm.address().parse().unwrap();
        let mut tpm = Tpm::new(address.open().unwrap());
        for (pcr, digest) in events {
            tpm.extend_pcr(*pcr, digest).unwrap();
        }
    }

    /// What happens between the power and the operating system.
    fn measure(&self) {
        let log = EventLog::parse(&self.bytes).unwrap();
        let extending = log
            .events
            .iter()
            .filter(|event| event.kind_name() != Some("EV_NO_ACTION"));
        let events: Vec<_> = extending
            .map(|event| {
                (
                    event.pcr,
                    event.digest(Hash::Sha256).unwrap().try_into().unwrap(),
                )
            })
            .collect();
        self.extend(&events);
    }

    fn restart(&mut self) {
        self.swtpm.power_off();
        self.swtpm.power_on();
        self.measure();
    }

    /// Something happens, and the machine as the collector knows it then.
    fn report(&mut self) -> MachineReport {
        self.prompts += 1;
        self.device
            .append("a.jsonl", &prompt(&format!("p{}", self.prompts)));
        self.device.run_until(Finish::WhenDelivered);
        let id = self.id();
        let report = self
            .device
            .collector
            .with_archive(|archive| archive.machine(&id));
        report.unwrap()
    }

    fn id(&self) -> String {
        self.device
            .collector
            .with_archive(|archive| archive.devices()[0].device.clone())
    }
}

fn codes(report: &MachineReport) -> Vec<&'static str> {
    let findings = report.attestation.findings.iter();
    findings.map(|finding| finding.code()).collect()
}

#[test]
fn a_boot_log_that_leads_to_the_pcrs_is_affirmed_sealed_once_a_boot_and_a_running_machine_that_changes_raises_an_alert()
 {
    let test = "measured::a_boot_log_that_leads_to_the_pcrs";
    let Some(mut machine) = Measured::start(test, "rhel8-uefi.bin", |_| {}) else {
        return;
    };
    let report = machine.report();
    assert_eq!(codes(&report), Vec::<&str>::new(), "{report:?}");
    assert_eq!(report.attestation.status, Status::Affirming);
    let boot_log = report.boot_log.clone().unwrap();
    assert!(boot_log.leads, "{boot_log:?}");
    assert_eq!(boot_log.bytes, machine.bytes.len() as u64);
    let facts = report.facts.clone().unwrap();
    assert_eq!(facts.secure_boot, Some(true));
    assert!(
        facts.boot_loaders[0]
            .path
            .as_deref()
            .unwrap()
            .ends_with("shimx64.efi")
    );
    // The device starts anew, the machine does not.
    let again = machine.report();
    assert_eq!(again.boot_log.as_ref(), Some(&boot_log));
    assert_eq!(machine.device.sealed("attestation.boot_log").len(), 1);
    // The machine does.
    machine.restart();
    let restarted = machine.report();
    assert_eq!(codes(&restarted), Vec::<&str>::new());
    assert!(restarted.boot_log.as_ref().unwrap().leaf > boot_log.leaf);
    assert_eq!(restarted.facts.as_ref(), Some(&facts));
    assert_eq!(machine.device.sealed("attestation.boot_log").len(), 2);

    // Somebody measures another boot loader into the running machine.
    machine.extend(&[(4, [7; 32])]);
    let changed = machine.report();
    assert_eq!(changed.attestation.status, Status::Warning);
    assert_eq!(changed.boot_log.as_ref().unwrap().misses, [4]);
    assert_eq!(
        changed.facts, None,
        "what does not lead to the quote says nothing"
    );
    assert!(
        codes(&changed).contains(&"boot_log.mismatch"),
        "{changed:?}"
    );
    let runtime = &machine.device.runtime;
    runtime
        .block_on(machine.device.collector.siem_caught_up())
        .unwrap();
    let siem = fs::read_to_string(machine.device.dir.path().join("collector/siem.jsonl")).unwrap();
    let alerts: Vec<Value> = siem
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["kind"] == "attestation.judged")
        .collect();
    let last = alerts.last().unwrap();
    assert_eq!(last["severity"], "medium");
    assert_eq!(last["detail"]["status"], "warning");
    let findings = last["detail"]["findings"].as_array().unwrap();
    assert!(findings.contains(&"boot_log.mismatch".into()), "{last}");
    // A start of the machine as it was is affirmed again, and that is said as well.
    machine.restart();
    assert_eq!(machine.report().attestation.status, Status::Affirming);
}

#[test]
fn a_log_that_was_cut_or_altered_is_a_mismatch_and_its_facts_count_for_nothing() {
    let test = "measured::a_log_that_was_cut_or_altered";
    let Some(mut machine) = Measured::start(test, "ubuntu-2104-no-secure-boot.bin", |_| {}) else {
        return;
    };
    let bytes = machine.bytes.clone();
    let first = 32 + u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
    let mut altered = bytes.clone();
    // A digest of the first event behind the one that names the banks.
    altered[first + 12 + 2 + 20 + 2 + 5] ^= 1;
    let garbage = b"not a log".to_vec();
    for (what, changed) in [
        ("cut inside an event", &bytes[..bytes.len() - 3]),
        ("cut behind the first event", &bytes[..first]),
        ("altered", &altered),
        ("something else", &garbage),
    ] {
        fs::write(&machine.log, changed).unwrap();
        let report = machine.report();
        assert_eq!(codes(&report), ["boot_log.mismatch"], "{what}: {report:?}");
        assert_eq!(report.attestation.status, Status::Warning, "{what}");
        assert_eq!(report.facts, None, "{what}");
    }
    fs::write(&machine.log, &bytes).unwrap();
    let report = machine.report();
    assert_eq!(codes(&report), Vec::<&str>::new());
    assert_eq!(report.facts.unwrap().secure_boot, Some(false));
}

#[test]
fn a_log_that_is_not_there_changes_nothing_and_one_that_cannot_be_read_is_named_once() {
    let test = "measured::a_log_that_is_not_there";
    let Some(mut machine) = Measured::start(test, "rhel8-uefi.bin", |_| {}) else {
        return;
    };
    fs::remove_file(&machine.log).unwrap();
    let report = machine.report();
    assert_eq!(report.attestation.status, Status::Affirming);
    assert_eq!((report.boot_log, report.facts), (None, None));
    assert!(machine.device.sealed("attestation.boot_log").is_empty());
    // A folder in its place; a device starts twice.
    fs::create_dir(&machine.log).unwrap();
    let failed = machine.report();
    assert_eq!(failed.attestation.status, Status::Affirming);
    let said = machine.device.sealed("attestation.boot_log");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["source"]["name"], "boot-log");
    assert!(said[0]["detail"]["error"].is_string() && said[0]["context"].is_null());
    let status = machine.device.run_until(Finish::WhenDelivered);
    assert!(status.boot_log.unwrap().contains("directory"));
    let quotes = machine.device.sealed("attestation.quote").len();
    assert!(quotes > machine.device.sealed("attestation.boot_log").len());
}

/// What the operator writes into the file that the collector reads.
fn accept(path: &Path, states: &[Accepted]) {
    let text: String = states.iter().map(Accepted::to_toml).collect();
    fs::write(path, text).unwrap();
}

#[test]
fn a_machine_in_no_accepted_state_is_contraindicated_until_the_operator_adopts_it() {
    let test = "measured::a_machine_in_no_accepted_state";
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("machines.toml");
    fs::write(&policy, "").unwrap();
    let set_up = |settings: &mut Settings| settings.machine_policy = Some(policy.clone());
    let Some(mut machine) = Measured::start(test, "rhel8-uefi.bin", set_up) else {
        return;
    };
    let in_force = |machine: &Measured| {
        let id = machine.id();
        let report = machine
            .device
            .collector
            .with_archive(|archive| archive.machine(&id));
        report.unwrap().policy.unwrap()
    };
    let unknown = machine.report();
    assert_eq!(codes(&unknown), [Finding::Unaccepted.code()]);
    assert_eq!(unknown.attestation.status, Status::Contraindicated);
    assert_eq!(unknown.attestation.accepted, None);

    // Adopted, and read again without a restart of the collector.
    let first = Accepted::adopt("first", &unknown.machine(), &[0, 4, 7]);
    let before = in_force(&machine).sha256;
    accept(&policy, std::slice::from_ref(&first));
    until("it is in force", || in_force(&machine).sha256 != before);
    let adopted = machine.report();
    assert_eq!(codes(&adopted), Vec::<&str>::new());
    assert_eq!(adopted.attestation.accepted.as_deref(), Some("first"));

    // A file that is none leaves it in force, and the collector says so.
    let good = in_force(&machine).sha256;
    fs::write(&policy, "accepted = 1").unwrap();
    until("it says so", || in_force(&machine).problem.is_some());
    assert_eq!(in_force(&machine).sha256, good);
    assert_eq!(machine.report().attestation.status, Status::Affirming);
    accept(&policy, std::slice::from_ref(&first));
    until("it is right again", || in_force(&machine).problem.is_none());

    // Another boot loader.
    machine.extend(&[(4, [9; 32])]);
    let changed = machine.report();
    assert_eq!(changed.attestation.status, Status::Contraindicated);
    let parsed = MachinePolicy::parse(&fs::read(&policy).unwrap()).unwrap();
    let (state, differences) = parsed.nearest(&changed.machine()).unwrap();
    assert_eq!(state.name, "first");
    let what: Vec<_> = differences
        .iter()
        .map(|differs| differs.what.as_str())
        .collect();
    assert_eq!(what, ["pcrs.sha256.4", "secure_boot", "boot_loaders"]);
    assert_eq!(differences[0].found, changed.pcrs[&4]);

    // Without its log it has the PCRs, and not the facts that are asked for.
    machine.restart();
    fs::remove_file(&machine.log).unwrap();
    let mute = machine.report();
    assert_eq!(codes(&mute), [Finding::Unaccepted.code()]);
    // Who asks for PCRs only is content.
    let pcrs = Accepted {
        secure_boot: None,
        boot_loaders: None,
        ..first
    };
    accept(&policy, &[pcrs]);
    let before = in_force(&machine).sha256;
    until("it is in force", || in_force(&machine).sha256 != before);
    assert_eq!(machine.report().attestation.status, Status::Affirming);
    // What the collector says of it.
    let runtime = &machine.device.runtime;
    runtime
        .block_on(machine.device.collector.siem_caught_up())
        .unwrap();
    let siem = fs::read_to_string(machine.device.dir.path().join("collector/siem.jsonl")).unwrap();
    let alerts = siem.lines().map(|line| serde_json::from_str(line).unwrap());
    let alerts: Vec<Value> = alerts
        .filter(|line: &Value| line["severity"] == "high" && line["kind"] == "attestation.judged")
        .collect();
    let policies: Vec<_> = alerts
        .iter()
        .map(|alert| &alert["detail"]["machine_policy"])
        .collect();
    assert_eq!(alerts.len(), 3, "{alerts:?}");
    assert!(
        policies
            .iter()
            .all(|policy| policy.as_str().is_some_and(|hex| hex.len() == 64))
    );
}

#[cfg(unix)]
#[test]
fn a_boot_log_whose_reading_does_not_end_keeps_no_quote_from_coming() {
    let test = "measured::a_boot_log_whose_reading_does_not_end";
    let Some(mut machine) = Measured::start(test, "rhel8-uefi.bin", |_| {}) else {
        return;
    };
    fs::remove_file(&machine.log).unwrap();
    // Nobody ever writes into it.
    let made = std::process::Command::new("mkfifo")
        .arg(&machine.log)
        .status();
    assert!(made.unwrap().success());
    let report = machine.report();
    assert_eq!(report.attestation.status, Status::Affirming);
    assert!(report.quote.is_some());
    let said = machine.device.sealed("attestation.boot_log");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0]["detail"]["error"]
            .as_str()
            .unwrap()
            .contains("does not end")
    );
}
