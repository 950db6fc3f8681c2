//! The state of a machine, as the collector's operator sees and adopts it on the command line.

use std::fs;
use std::path::Path;

use jurat_attest::eventlog::EventLog;
use jurat_attest::machine::MachinePolicy;
use jurat_attest::tpm::Hash;
use jurat_key::tpm::{Address, Tpm};
use jurat_testkit::need;
use jurat_testkit::swtpm::Swtpm;
use serde_json::Value;

use crate::fleet::Fleet;

/// What firmware and boot loaders extend who write this log.
fn measure(swtpm: &Swtpm, log: &[u8]) {
    let address: Address = swtpm.address().parse().unwrap();
    let mut tpm = Tpm::new(address.open().unwrap());
    for event in EventLog::parse(log).unwrap().events {
        if event.kind_name() != Some("EV_NO_ACTION") {
            let digest = event.digest(Hash::Sha256).unwrap().try_into().unwrap();
            tpm.extend_pcr(event.pcr, &digest).unwrap();
        }
    }
}

/// A command, its exit code, and what it prints.
fn asked(fleet: &Fleet, args: &[&str]) -> (i32, String, String) {
    let out = fleet.jurat(args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

fn prompt(fleet: &Fleet, text: &str) {
    let line = format!(
        "{{\"type\":\"user\",\"uuid\":\"{text}\",\"sessionId\":\"s\",\"message\":{{\"content\":\"{text}\"}}}}\n"
    );
    fleet.append("p/s.jsonl", &line);
    fleet.run_once();
}

fn names(differences: &Value) -> Vec<&str> {
    let differences = differences.as_array().unwrap().iter();
    differences
        .map(|differs| differs["what"].as_str().unwrap())
        .collect()
}

#[test]
fn an_operator_adopts_a_machine_and_is_told_what_changed_down_to_the_first_event() {
    let test = "machine::an_operator_adopts_a_machine";
    let Some(shared) = need::shared(test) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let Some(mut swtpm) = Swtpm::start(test, dir.path()) else {
        return;
    };
    let real = |name: &str| fs::read(shared.join("vectors/eventlog").join(name)).unwrap();
    let (first, second) = (
        real("rhel8-uefi.bin"),
        real("ubuntu-2104-no-secure-boot.bin"),
    );
    let log = dir.path().join("log");
    fs::write(&log, &first).unwrap();
    measure(&swtpm, &first);
    let config =
        format!("[attest]\nboot_log = {log:?}\n[delivery]\nretry_ms = 50\nretry_max_ms = 200");
    let mut fleet = Fleet::start_with(&config, &["--key", &format!("tpm:{}", swtpm.address())]);
    let collector = fleet.path("collector").to_str().unwrap().to_owned();
    let at = ["--collector", &collector];
    let file = fleet.path("collector/machines.toml");
    let policy = file.to_str().unwrap().to_owned();
    let named = [&at[..], &["--file", &policy]].concat();

    prompt(&fleet, "one");
    let (code, list, _) = asked(&fleet, &[&["attest", "show"], &at[..]].concat());
    assert_eq!(code, 0);
    assert!(list.contains("affirming"), "{list}");
    let id = list.split_whitespace().next().unwrap()[..8].to_owned();
    let show = |fleet: &Fleet| {
        let (code, text, err) = asked(
            fleet,
            &[&["attest", "show", &id, "--json"], &at[..]].concat(),
        );
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let shown = show(&fleet);
    assert_eq!(shown["pcrs"].as_object().unwrap().len(), 11);
    assert_eq!(shown["facts"]["secure_boot"], true);
    let (_, text, _) = asked(&fleet, &[&["attest", "show", &id], &at[..]].concat());
    for said in [
        "secure boot on",
        "shimx64.efi",
        "leads to the PCR values",
        "no policy",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }

    // Nothing is accepted yet, and nobody says where that would stand.
    let diff = |fleet: &Fleet, of: &[&str]| {
        let (code, text, err) = asked(fleet, &[&["attest", "diff", &id, "--json"], of].concat());
        (
            code,
            serde_json::from_str::<Value>(&text).unwrap_or_default(),
            err,
        )
    };
    let (code, _, err) = diff(&fleet, &at);
    assert_eq!(code, 64, "{err}");
    assert_eq!(diff(&fleet, &named).0, 2);
    let baseline = |fleet: &Fleet, more: &[&str]| {
        asked(
            fleet,
            &[&["attest", "baseline", &id], &named[..], more].concat(),
        )
    };
    let (code, text, err) = baseline(&fleet, &["--name", "as delivered"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        text.contains("name = \"as delivered\"") && text.contains("secure_boot = true"),
        "{text}"
    );
    assert_eq!(diff(&fleet, &named).0, 0);
    let (code, text, _) = baseline(&fleet, &[]);
    assert_eq!(code, 0);
    assert!(text.contains("already"), "{text}");
    let states = |file: &Path| {
        MachinePolicy::parse(&fs::read(file).unwrap())
            .unwrap()
            .accepted
    };
    assert_eq!(states(&file).len(), 1);

    // The collector is told, and the machine comes back with another system.
    fleet.kill_serve();
    fleet.start_serve();
    prompt(&fleet, "two");
    assert_eq!(show(&fleet)["attestation"]["accepted"], "as delivered");
    swtpm.power_off();
    swtpm.power_on();
    measure(&swtpm, &second);
    fs::write(&log, &second).unwrap();
    prompt(&fleet, "three");
    let (_, text, _) = asked(&fleet, &[&["devices", "show", &id], &at[..]].concat());
    assert!(
        text.contains("contraindicated") && text.contains("machine.unaccepted"),
        "{text}"
    );
    // Without --file it is the one of the collector that runs.
    let (code, found, err) = diff(&fleet, &at);
    assert_eq!(code, 1, "{err}");
    let nearest = &found["nearest"];
    assert_eq!(nearest["name"], "as delivered");
    let what = names(&nearest["differences"]);
    for differs in [
        "pcrs.sha256.4",
        "pcrs.sha256.7",
        "secure_boot",
        "boot_loaders",
    ] {
        assert!(what.contains(&differs), "{what:?}");
    }
    let (was, is) = (
        EventLog::parse(&first).unwrap(),
        EventLog::parse(&second).unwrap(),
    );
    let (place, _, event) = is.first_difference(&was, Hash::Sha256).unwrap();
    assert_eq!(nearest["first_event"]["place"], place);
    assert_eq!(nearest["first_event"]["found"]["pcr"], event.unwrap().pcr);
    let (_, text, _) = asked(&fleet, &[&["attest", "diff", &id], &at[..]].concat());
    assert!(text.contains("accepted true\n  found    false"), "{text}");

    // The same of the folder of a collector that does not run; a file that is none stays as it is.
    fleet.kill_serve();
    assert_eq!(diff(&fleet, &named).1, found);
    let good = fs::read(&file).unwrap();
    fs::write(&file, "accepted = 1").unwrap();
    assert_ne!(baseline(&fleet, &[]).0, 0);
    assert_eq!(fs::read(&file).unwrap(), b"accepted = 1");
    fs::write(&file, good).unwrap();
    let (code, _, err) = baseline(&fleet, &["--name", "as delivered"]);
    assert_eq!(code, 1);
    assert!(err.contains("twice"), "{err}");
    let (code, _, err) = baseline(&fleet, &["--pcrs", "none"]);
    assert_eq!(code, 0, "{err}");
    let states = states(&file);
    assert_eq!((states.len(), states[1].pcrs.len()), (2, 0));
    assert_eq!(diff(&fleet, &named).0, 0);
}

#[test]
fn a_device_without_a_tpm_has_no_machine_to_show() {
    let fleet = Fleet::start("");
    prompt(&fleet, "one");
    let collector = fleet.path("collector").to_str().unwrap().to_owned();
    let at = ["--collector", &collector];
    let (code, list, _) = asked(&fleet, &[&["attest", "show"], &at[..]].concat());
    assert_eq!((code, list.as_str()), (0, ""));
    let (_, devices, _) = asked(&fleet, &[&["devices"], &at[..]].concat());
    let id = devices.split_whitespace().next().unwrap();
    let (code, _, err) = asked(&fleet, &[&["attest", "show", id], &at[..]].concat());
    assert_eq!(code, 1);
    assert!(err.contains("says nothing of itself"), "{err}");
}
