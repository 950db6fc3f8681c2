//! What a machine's hardware is said to have said.

use jurat_attest::ek::check_certificate;
use jurat_attest::eventlog::EventLog;
use jurat_attest::ima::{Accepted, List, PCR};
use jurat_attest::machine::{BootLog, Machine, MachinePolicy, boot_log_in};
use jurat_attest::tpm::{
    Attest, Expected, Hash, PcrSelection, PcrValues, Public, Signature, check_quote, is_ak,
    is_log_key, make_credential,
};

/// A public area, a statement, a signature or a certificate of a TPM: the first byte says which.
pub fn tpm(data: &[u8]) {
    let Some((what, data)) = data.split_first() else {
        return;
    };
    match what % 4 {
        0 => {
            let Ok(key) = Public::parse(data) else { return };
            assert_eq!(key.area(), data, "the name is over these very bytes");
            let (ak, log_key) = (is_ak(&key), is_log_key(&key));
            assert!(ak.is_err() || log_key.is_err(), "one key for both");
            let _ = make_credential(&key, &key.name(), &[1; 32]);
            let signature = [&[0, 0x18, 0, 0x0b, 0, 32][..], &[1; 32], &[0, 32], &[1; 32]].concat();
            let signature = Signature::parse(&signature).expect("a signature of this form is read");
            assert!(signature.verify(&key, b"never signed").is_err());
            let _ = check_certificate(data, &[], &[], 1_800_000_000, &key);
        }
        1 => {
            if let Ok(statement) = Attest::parse(data) {
                assert_eq!(statement.clock.since(&statement.clock).err(), None);
            }
        }
        2 => {
            let _ = Signature::parse(data);
        }
        _ => {
            let ak = [
                &[
                    0, 0x23, 0, 0x0b, 0, 5, 4, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10,
                ][..],
                &[0, 32],
                &[7; 32],
                &[0, 32],
                &[9; 32],
            ]
            .concat();
            let ak = Public::parse(&ak).expect("a key of this form is read");
            let half = data.len() / 2;
            let expected = Expected {
                qualifying: &[0; 32],
                selection: &[PcrSelection {
                    bank: Hash::Sha256,
                    pcrs: 1,
                }],
                values: &PcrValues::default(),
            };
            assert!(check_quote(&data[..half], &data[half..], &ak, &expected).is_err());
        }
    }
}

/// A measured boot log, or a payload that holds one.
pub fn boot_log(data: &[u8]) {
    let carried = boot_log_in(data);
    let data = carried.as_deref().unwrap_or(data);
    let Ok(log) = EventLog::parse(data) else {
        return;
    };
    for bank in &log.banks {
        let values = log.replay(*bank);
        assert!(values.values().all(|value| value.len() == bank.size()));
        let _ = log.facts(*bank);
    }
    assert!(log.events.iter().all(|event| event.pcr < 24));
    assert_eq!(log.first_difference(&log, Hash::Sha256), None);
    if let Ok(machine) = BootLog::read(data) {
        assert!(machine.misses(&machine.pcrs).is_empty());
        assert!(machine.facts.boot_loaders.len() <= 32);
    }
}

/// The states of machines that an operator accepts.
pub fn machine_policy(data: &[u8]) {
    let Ok(policy) = MachinePolicy::parse(data) else {
        return;
    };
    let nothing = Machine {
        device: "d",
        pcrs: &std::collections::BTreeMap::new(),
        facts: None,
    };
    assert_eq!(
        policy.accepts(&nothing),
        None,
        "no state is that of every machine"
    );
    let _ = policy.nearest(&nothing);
    for state in &policy.accepted {
        let again = MachinePolicy::parse(state.to_toml().as_bytes());
        let again = again.expect("what is written is read");
        assert_eq!(again.accepted, std::slice::from_ref(state));
    }
}

/// A measurement list of a kernel.
pub fn ima(data: &[u8]) {
    let Ok(list) = List::parse(data, 0) else {
        return;
    };
    for entry in &list.entries {
        let _ = entry.measured();
    }
    let bank = Hash::Sha256;
    let mut accepted = Accepted::nothing(bank, PCR);
    assert!(accepted.advance(&list, b"no digest").is_err());
    let ours = list.entries.iter().take_while(|entry| entry.pcr == PCR);
    for entry in ours.take(4) {
        let value = bank.digest(&[&accepted.value, &entry.digest(bank)]);
        let next = accepted.advance(&list, &value);
        let next = next.expect("every beginning of the list counts");
        assert_eq!(next.entries, accepted.entries + 1, "the nearest one");
        assert!(next.advance(&list, &accepted.value).is_err(), "never less");
        accepted = next;
    }
}
