use std::fmt::Write as _;

use jurat_attest::eventlog::{EventLog, LogError};
use jurat_attest::tpm::Hash;
use jurat_testkit::need;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
        assert_eq!(facts.secure_boot, secure_boot, "{name}");
        for len in (0..bytes.len()).step_by(97) {
            // Cut anywhere but between two events it is refused; there it leads to other values.
            if let Ok(cut) = EventLog::parse(&bytes[..len]) {
                assert_ne!(cut.replay(Hash::Sha256), log.replay(Hash::Sha256));
            }
        }
    }
}

/// What the TPMs of these machines held, as go-tpm-tools' tests have it from them.
#[test]
fn a_log_leads_to_the_values_that_the_tpm_of_its_machine_held() {
    let arch = [
        "758b773d94feabf52ef5a4c00a7ad2c80d8d6e6d9d58756150be9bc973da9087",
        "bfda688a5d320123fddb3fc70b746bc17647e2e7f2f96e130d429542bf4622d5",
        "65dee4a48cde677aa89fa83c5c35e883fda658f743853e3ebad504ca6702f7c5",
        "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        "925d453d3dfef4ac0c72c957402163d45fa95d05e6d53f047263a3a60b598325",
        "202522f005ef625588bb7c9e21335ba96a63c5086306138885b3bb2c381730ca",
        "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        "3b4a4db44b7a872524055364e62e897ae678e0d47ab0809f65c3a4ed77f66ab9",
        "47591b43af431963eaeb5238a5c42eda1eb0014c27f7de7ae483066a2d2a2e61",
    ];
    let rhel = [
        "24af52a4f429b71a3184a6d64cddad17e54ea030e2aa6576bf3a5a3d8bd3328f",
        "454220afaa80c83c3839f6cccd8b3c88bf4f562316a9dda1121c578c9e005a53",
        "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    ];
    let test = "eventlog::a_log_leads_to_the_values";
    for (name, held) in [
        ("arch-linux-workstation.bin", &arch[..]),
        ("rhel8-uefi.bin", &rhel[..]),
    ] {
        let Some(bytes) = log(test, name) else { return };
        let values = EventLog::parse(&bytes).unwrap().replay(Hash::Sha256);
        for (pcr, held) in (0..).zip(held) {
            assert_eq!(hex(&values[&pcr]), *held, "{name}: PCR {pcr}");
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
