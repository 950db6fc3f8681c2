use jurat_attest::eventlog::{EventLog, LogError};
use jurat_attest::tpm::Hash;
use jurat_testkit::need;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None`: the folder is not there, and the test is skipped.
fn log(test: &str, name: &str) -> Option<Vec<u8>> {
    let shared = need::shared(test)?;
    Some(std::fs::read(shared.join("vectors/eventlog").join(name)).unwrap())
}

#[test]
fn logs_of_real_machines_are_read_to_the_end_and_every_type_has_a_name() {
    let test = "eventlog::logs_of_real_machines";
    for (name, secure_boot) in [
        ("arch-linux-workstation.bin", Some(false)),
        ("rhel8-uefi.bin", Some(true)),
        ("ubuntu-2104-no-secure-boot.bin", Some(false)),
    ] {
        let Some(bytes) = log(test, name) else { return };
        let log = EventLog::parse(&bytes).unwrap();
        for event in &log.events {
            assert!(event.kind_name().is_some(), "{name}: {:#x}", event.kind);
        }
        let facts = log.facts(Hash::Sha256);
        eprintln!(
            "{name}: {} events {facts:?} {:?}",
            log.events.len(),
            log.banks
        );
        for (pcr, value) in log.replay(Hash::Sha256) {
            eprintln!("  {pcr} {}", hex(&value));
        }
        assert_eq!(facts.secure_boot, secure_boot, "{name}");
        for len in (0..bytes.len()).step_by(97) {
            // Cut anywhere but between two events it is refused; there it leads to other values.
            if let Ok(cut) = EventLog::parse(&bytes[..len]) {
                assert_ne!(cut.replay(Hash::Sha256), log.replay(Hash::Sha256));
            }
        }
    }
}

#[test]
fn the_old_format_is_refused_by_name() {
    let Some(bytes) = log("eventlog::the_old_format", "debian-10.bin") else {
        return;
    };
    assert_eq!(EventLog::parse(&bytes), Err(LogError::OldFormat));
}
