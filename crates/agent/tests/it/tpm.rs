//! A device whose keys are in a TPM, with a real collector and the software TPM of Debian.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jurat_agent::{Finish, KeyPlace};
use jurat_attest::Offline;
use jurat_collector::{AttestationReport, DeviceReport, EkTrust, Settings};
use jurat_key::tpm::{Address, Tpm};
use jurat_proof::{
    KeyAxis, NotProven, Quotes, Report, Selection, Trust, Verdict, Withhold, verify_with,
};
use jurat_testkit::swtpm::{Slow, Swtpm};

use crate::{Device, prompt};

/// Whom the operator believes: the maker of this TPM.
fn roots(swtpm: &Swtpm, dir: &Path) -> std::path::PathBuf {
    let path = dir.join("ek-roots.pem");
    let pem = [swtpm.root(), swtpm.issuer()].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&path, pem.concat()).unwrap();
    path
}

impl Device {
    fn report(&self) -> DeviceReport {
        let mut devices = self
            .collector
            .with_archive(jurat_collector::Archive::devices);
        devices.remove(0)
    }

    fn attestation(&self) -> AttestationReport {
        self.report().epochs[0].attestation.clone().unwrap()
    }

    fn codes(&self) -> Vec<&'static str> {
        let findings = self.attestation().findings;
        findings.iter().map(|finding| finding.code()).collect()
    }
}

/// What a stranger makes of this device's log, years later: from the archive, and from the device itself.
fn verdicts(device: &Device) -> [Report; 2] {
    let state = device.dir.path().join("device");
    let trust = fs::read_to_string(state.join("trust.txt")).unwrap();
    let trust = Trust::parse(&trust).unwrap();
    let everything = (&Selection::All, &Withhold::default());
    let mut archived = Vec::new();
    let origin = device.report().epochs[0].origin.clone();
    device.collector.with_archive(|archive| {
        let (wanted, withhold) = everything;
        jurat_collector::export(archive, &origin, wanted, withhold, &mut archived).unwrap();
    });
    let mut own = Vec::new();
    let (wanted, withhold) = everything;
    let enrolled = jurat_agent::enrolled(&device.host, &state);
    let disk = device.host.disk.clone();
    jurat_seal::export(
        disk,
        &state.join("ledger"),
        wanted,
        withhold,
        enrolled,
        &mut own,
    )
    .unwrap();
    [archived, own].map(|bundle| {
        let mut judge = Offline::default();
        let verdict = verify_with(
            bundle.as_slice(),
            Some(&trust),
            None,
            &mut judge,
            &mut |_| {},
        );
        match verdict {
            Verdict::Verified(report) => *report,
            other => panic!("{other:?}"),
        }
    })
}

fn judged_quotes(report: &Report) -> &Quotes {
    report
        .attestation
        .as_ref()
        .unwrap()
        .quotes
        .as_ref()
        .unwrap()
}

#[test]
fn from_enrolment_to_a_state_set_back_the_collector_knows_how_the_machine_stands() {
    let dir = tempfile::tempdir().unwrap();
    let test = "tpm::from_enrolment_to_a_state_set_back";
    let Some(mut swtpm) = Swtpm::start(test, dir.path()) else {
        return;
    };
    let believed = roots(&swtpm, dir.path());
    let place: KeyPlace = format!("tpm:{}", swtpm.address()).parse().unwrap();
    let device = Device::enrolled_with(place, |settings: &mut Settings| {
        settings.ek_roots = Some(believed);
        settings.ek_needed = EkTrust::Verified;
    });
    assert_eq!(device.report().key_kind, "tpm-verified");
    device.append("a.jsonl", &prompt("one"));
    device.run_until(Finish::WhenDelivered);
    let first = device.attestation();
    assert_eq!((first.findings.len(), first.bad), (0, 0), "{first:?}");
    assert!(first.good >= 1, "{first:?}");
    assert!(first.age_s.is_some_and(|age_s| age_s < 300), "{first:?}");
    let quotes = device.sealed("attestation.quote");
    assert_eq!(quotes.len() as u64, first.good);
    assert!(quotes[0]["detail"]["counter"].is_object());
    // Every batch after it names the newest one.
    let named = device.sealed("batch.sealed");
    let named = named
        .iter()
        .filter_map(|batch| batch["detail"]["quote"].as_u64());
    assert_eq!(named.max(), Some(first.seq));

    for report in verdicts(&device) {
        assert_eq!(report.axes.key, KeyAxis::TpmVerified);
        let quotes = judged_quotes(&report);
        assert_eq!(
            (quotes.status, quotes.good, quotes.bad),
            ("affirming", first.good, 0)
        );
        let said = report.attestation.as_ref().unwrap();
        assert_eq!(said.tpm.as_ref().unwrap()["virtual"], true);
        assert!(!report.not_proven.contains(&NotProven::Quotes));
        assert!(!report.not_proven.contains(&NotProven::SoftwareKey));
    }

    // Twenty batches, in the middle of which the TPM is away for a while.
    let batches = device.sealed("batch.sealed").len();
    for round in 0..20 {
        device.append("a.jsonl", &prompt(&format!("round {round}")));
        if round != 10 {
            device.run_until(Finish::WhenDelivered);
            continue;
        }
        swtpm.power_off();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| device.run_until(Finish::WhenDelivered));
            until("it is sealed", || device.sealed("prompt.").len() == 12);
            swtpm.power_on();
            running.join().unwrap();
        });
    }
    let made = device.sealed("batch.sealed").len() - batches;
    assert!(made >= 20, "{made}");
    assert_eq!(device.codes(), Vec::<&str>::new());
    for report in verdicts(&device) {
        assert_eq!(report.axes.key, KeyAxis::TpmVerified);
        assert_eq!(judged_quotes(&report).status, "affirming");
        assert!(!report.axes.witness.names.is_empty());
    }

    // Another start of the machine is nothing to worry about.
    swtpm.power_off();
    swtpm.power_on();
    device.append("a.jsonl", &prompt("two"));
    device.run_until(Finish::WhenDelivered);
    assert_eq!(device.codes(), Vec::<&str>::new());

    // Somebody measures another boot loader into the running machine.
    let address: Address = swtpm.address().parse().unwrap();
    let mut tpm = Tpm::new(address.open().unwrap());
    tpm.extend_pcr(4, &[7; 32]).unwrap();
    drop(tpm);
    device.append("a.jsonl", &prompt("three"));
    device.run_until(Finish::WhenDelivered);
    let judged = device.attestation();
    assert_eq!(judged.bad, 0, "{judged:?}");

    // The TPM's state is set back to before a start.
    swtpm.power_off();
    let state = swtpm.state().join("tpm2-00.permall");
    let old = fs::read(&state).unwrap();
    swtpm.power_on();
    device.append("a.jsonl", &prompt("four"));
    device.run_until(Finish::WhenDelivered);
    assert_eq!(device.attestation().bad, 0);
    swtpm.power_off();
    fs::write(&state, old).unwrap();
    swtpm.power_on();
    device.append("a.jsonl", &prompt("five"));
    device.run_until(Finish::WhenDelivered);
    let judged = device.attestation();
    assert!(judged.bad > 0, "{judged:?}");
    for report in verdicts(&device) {
        let quotes = judged_quotes(&report);
        assert_eq!(quotes.status, "contraindicated");
        assert_eq!((quotes.good, quotes.bad), (judged.good, judged.bad));
        assert!(quotes.reboots >= 1);
        assert!(report.not_proven.contains(&NotProven::Quotes));
    }
}

#[test]
fn a_tpm_that_nobody_certified_is_taken_and_labelled_or_refused_as_the_operator_says() {
    let dir = tempfile::tempdir().unwrap();
    let test = "tpm::a_tpm_that_nobody_certified";
    let Some(swtpm) = Swtpm::start(test, dir.path()) else {
        return;
    };
    let place: KeyPlace = format!("tpm:{}", swtpm.address()).parse().unwrap();
    let device = Device::enrolled_with(place, |_| {});
    assert_eq!(device.report().key_kind, "tpm-untrusted");
}

/// Waits for something that another thread brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_tpm_that_goes_away_and_comes_back_stops_nothing_and_the_log_says_when() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut swtpm) = Swtpm::start("tpm::a_tpm_that_goes_away", dir.path()) else {
        return;
    };
    let place: KeyPlace = format!("tpm:{}", swtpm.address()).parse().unwrap();
    let device = Device::enrolled_with(place, |_| {});
    device.append("a.jsonl", &prompt("one"));
    device.run_until(Finish::WhenDelivered);
    swtpm.power_off();
    device.append("a.jsonl", &prompt("two"));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| device.run_until(Finish::WhenDelivered));
        until("it says so", || {
            !device.sealed("key.unavailable").is_empty()
        });
        // What is written meanwhile is sealed, and waits for its signature.
        device.append("a.jsonl", &prompt("three"));
        until("it is sealed", || device.sealed("prompt.").len() == 3);
        swtpm.power_on();
        running.join().unwrap();
    });
    assert!(!device.sealed("key.available").is_empty());
    let epoch = &device.report().epochs[0];
    assert_eq!(
        device.sealed("").len() as u64,
        epoch.size,
        "all of it is with the collector"
    );
    let [report, _] = verdicts(&device);
    assert_eq!(report.axes.key, KeyAxis::TpmUntrusted);
}

/// Lets a TPM answer at once, at the latest when this goes.
struct Answers<'a>(&'a Slow);

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.0.set(Duration::ZERO);
    }
}

#[test]
fn a_tpm_that_is_stuck_holds_up_neither_reading_nor_sealing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("tpm::a_tpm_that_is_stuck", dir.path()) else {
        return;
    };
    let slow = Slow::before(&swtpm, dir.path(), Duration::ZERO);
    let place: KeyPlace = format!("tpm:{}", slow.address()).parse().unwrap();
    let device = Device::enrolled_with(place, |_| {});
    device.append("a.jsonl", &prompt("one"));
    device.run_until(Finish::WhenDelivered);
    slow.set(Duration::from_secs(3_600));
    device.append("a.jsonl", &prompt("two"));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| device.run_until(Finish::WhenDelivered));
        // Whatever fails here, the TPM answers in the end.
        let _answers = Answers(&slow);
        until("it is sealed", || device.sealed("prompt.").len() == 2);
        device.append("a.jsonl", &prompt("three"));
        until("so is this", || device.sealed("prompt.").len() == 3);
        slow.set(Duration::ZERO);
        running.join().unwrap();
    });
    let epoch = &device.report().epochs[0];
    assert_eq!(device.sealed("").len() as u64, epoch.size);
}
