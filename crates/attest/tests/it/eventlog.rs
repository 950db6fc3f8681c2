use std::fmt::Write as _;

use jurat_attest::eventlog::{Event, EventLog, Facts, LogError};
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

/// A log with the same first event and these ones: PCR, type, digests, data.
fn rewritten(
    bytes: &[u8],
    change: impl Fn(usize, &Event<'_>) -> (u32, Vec<u8>),
    more: &[(u8, &[u8])],
) -> Vec<u8> {
    let log = EventLog::parse(bytes).unwrap();
    let first = 32 + u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
    let mut written = bytes[..first].to_vec();
    let mut write = |pcr: u8, kind: u32, digests: &[(Hash, Vec<u8>)], data: &[u8]| {
        for number in [u32::from(pcr), kind, digests.len() as u32] {
            written.extend(number.to_le_bytes());
        }
        for (bank, digest) in digests {
            written.extend(bank.alg().to_le_bytes());
            written.extend(digest);
        }
        written.extend((data.len() as u32).to_le_bytes());
        written.extend(data);
    };
    for (place, event) in log.events.iter().enumerate() {
        let (kind, data) = change(place, event);
        let digests: Vec<_> = event
            .digests
            .iter()
            .map(|(bank, digest)| (*bank, digest.to_vec()))
            .collect();
        write(event.pcr, kind, &digests, &data);
    }
    for (pcr, says) in more {
        let digests: Vec<_> = log
            .banks
            .iter()
            .map(|bank| (*bank, bank.digest(&[says])))
            .collect();
        write(*pcr, 4, &digests, says);
    }
    written
}

/// What root of a machine that was started without Secure Boot can do: extend PCR 7 with what a machine with Secure Boot
/// extends, and hand out a log that leads to it, in which the true events bear other names and texts.
#[test]
fn who_extends_more_and_rewrites_types_and_texts_cannot_make_a_fact_true() {
    let test = "eventlog::who_extends_more";
    let (Some(off), Some(on)) = (
        log(test, "ubuntu-2104-no-secure-boot.bin"),
        log(test, "rhel8-uefi.bin"),
    ) else {
        return;
    };
    let on = EventLog::parse(&on).unwrap();
    let says_on = on.events.iter().find(|event| event.pcr == 7).unwrap().data;
    let bank = Hash::Sha256;
    let honest = EventLog::parse(&off).unwrap();
    let before = honest.facts(bank);
    assert_eq!(before.secure_boot, Some(false));
    assert!(before.separated);
    let hidden = |place: usize, event: &Event<'_>| match event.pcr {
        7 => (0x0d, place.to_le_bytes().to_vec()),
        _ => (event.kind, event.data.to_vec()),
    };
    let kept = |_: usize, event: &Event<'_>| (event.kind, event.data.to_vec());
    for more in [
        &[(7, says_on)][..],
        &[(7, says_on), (7, &[0; 4])],
        &[(7, &[0; 4])],
    ] {
        for forged in [rewritten(&off, hidden, more), rewritten(&off, kept, more)] {
            let forged = EventLog::parse(&forged).unwrap();
            let facts = forged.facts(bank);
            assert_ne!(facts.secure_boot, Some(true), "{more:?}");
            let closed_twice = more.iter().any(|(_, says)| *says == [0; 4]);
            assert_eq!(facts.separated, !closed_twice);
        }
    }
    // Nor hide what was started: another type and text is no other digest.
    let wiped = rewritten(
        &off,
        |_, event| (0x8000_0007, event.data[..event.data.len().min(4)].to_vec()),
        &[],
    );
    let wiped = EventLog::parse(&wiped).unwrap();
    assert_eq!(wiped.replay(bank), honest.replay(bank));
    let digests = |facts: Facts| {
        facts
            .boot_loaders
            .into_iter()
            .map(|image| image.digest)
            .collect::<Vec<_>>()
    };
    assert_eq!(digests(wiped.facts(bank)), digests(before));
    assert_eq!(wiped.first_difference(&honest, bank), None);
}

#[test]
fn boot_loaders_and_command_lines_are_told_with_their_names() {
    let test = "eventlog::boot_loaders_and_command_lines";
    for (name, paths, command_line) in [
        (
            "rhel8-uefi.bin",
            &["\\EFI\\redhat\\shimx64.efi", "\\EFI\\redhat\\grubx64.efi"][..],
            "(hd0,gpt2)/boot/vmlinuz-4.18",
        ),
        (
            "ubuntu-2104-no-secure-boot.bin",
            &["\\EFI\\ubuntu\\shimx64.efi", "\\EFI\\ubuntu\\grubx64.efi"],
            "/boot/vmlinuz-5.11",
        ),
    ] {
        let Some(bytes) = log(test, name) else { return };
        let facts = EventLog::parse(&bytes).unwrap().facts(Hash::Sha256);
        let found: Vec<_> = facts
            .boot_loaders
            .iter()
            .filter_map(|image| image.path.as_deref())
            .collect();
        assert!(found.starts_with(paths), "{found:?}");
        assert_eq!(facts.command_lines.len(), 1);
        assert!(
            facts.command_lines[0].starts_with(command_line),
            "{facts:?}"
        );
    }
}

#[test]
fn the_first_event_that_differs_is_found() {
    let Some(bytes) = log("eventlog::the_first_event", "rhel8-uefi.bin") else {
        return;
    };
    let (bank, was) = (Hash::Sha256, EventLog::parse(&bytes).unwrap());
    let kept = |_: usize, event: &Event<'_>| (event.kind, event.data.to_vec());
    let longer = rewritten(&bytes, kept, &[(9, b"more")]);
    let longer = EventLog::parse(&longer).unwrap();
    let (place, none, more) = longer.first_difference(&was, bank).unwrap();
    assert_eq!((none, more.unwrap().pcr), (None, 9));
    let extending = was
        .events
        .iter()
        .filter(|event| event.kind_name() != Some("EV_NO_ACTION"));
    assert_eq!(place, extending.count());
}
