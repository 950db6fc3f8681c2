//! No enclave runs here: folders stand for what the platforms show, pipes for what answers to a write.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use jurat_key::enclave::{Enclave, EnclaveError, EnclaveKind, EnclaveQuote};

const BINDING: [u8; 32] = [7; 32];
/// The binding, and zeros.
const DATA: [u8; 64] = {
    let mut data = [0; 64];
    let mut at = 0;
    while at < 32 {
        data[at] = BINDING[at];
        at += 1;
    }
    data
};

fn quote_of(data: &[u8]) -> Vec<u8> {
    [&[1; 368][..], data, &[2; 4000]].concat()
}

fn gramine(dir: &Path, kind: &str, quote: &[u8]) -> Enclave {
    for (name, content) in [
        ("attestation_type", kind.as_bytes()),
        ("user_report_data", &[]),
        ("quote", quote),
    ] {
        fs::write(dir.join(name), content).unwrap();
    }
    Enclave::Gramine(dir.to_owned())
}

#[test]
fn gramine_is_given_the_report_data_and_its_quote_is_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let enclave = gramine(dir.path(), "dcap", &quote_of(&DATA));
    let quote = enclave.quote(&BINDING).unwrap();
    let expected = EnclaveQuote {
        kind: EnclaveKind::Sgx,
        quote: quote_of(&DATA),
        certificates: Vec::new(),
    };
    assert_eq!(quote, expected);
    let given = fs::read(dir.path().join("user_report_data")).unwrap();
    assert_eq!(given, DATA);
}

#[test]
fn what_is_no_quote_of_these_data_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |kind: &str, quote: &[u8]| gramine(dir.path(), kind, quote).quote(&BINDING);
    let none = judge("none", &[]);
    assert!(matches!(none, Err(EnclaveError::Kind(kind)) if kind == "none"));
    let other = judge("dcap", &quote_of(&[8; 64]));
    assert!(matches!(other, Err(EnclaveError::ReportData)), "{other:?}");
    let long = judge("dcap", &vec![7; 64 * 1024 + 1]);
    assert!(matches!(long, Err(EnclaveError::TooLong(_))), "{long:?}");
    fs::remove_file(dir.path().join("user_report_data")).unwrap();
    let no_file = Enclave::Gramine(dir.path().to_owned()).quote(&BINDING);
    let Err(EnclaveError::Io { path, source, .. }) = no_file else {
        panic!("{no_file:?}");
    };
    assert_eq!(source.kind(), ErrorKind::NotFound);
    assert!(path.ends_with("user_report_data"), "nothing is created");
}

/// A guest's entry, whose `generation` grows with each write; others write `others` times meanwhile.
fn guest(entry: PathBuf, provider: &str, others: u64) -> JoinHandle<Vec<u8>> {
    fs::create_dir_all(&entry).unwrap();
    fs::write(entry.join("provider"), format!("{provider}\n")).unwrap();
    fs::write(entry.join("generation"), "41\n").unwrap();
    fs::write(entry.join("auxblob"), b"a certificate").unwrap();
    for pipe in ["inblob", "outblob"] {
        let made = Command::new("mkfifo").arg(entry.join(pipe)).status();
        assert!(made.unwrap().success());
    }
    thread::spawn(move || {
        let given = fs::read(entry.join("inblob")).unwrap();
        fs::write(entry.join("generation"), format!("{}\n", 42 + others)).unwrap();
        fs::write(entry.join("outblob"), quote_of(&given)).unwrap();
        given
    })
}

#[test]
fn a_guest_quotes_what_it_is_given() {
    for (provider, kind, certificates) in [
        ("tdx_guest", EnclaveKind::Tdx, &b""[..]),
        ("sev_guest", EnclaveKind::Snp, b"a certificate"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let guest = guest(dir.path().join("jurat"), provider, 0);
        let enclave = Enclave::Tsm(dir.path().to_owned(), "jurat".into());
        let expected = EnclaveQuote {
            kind,
            quote: quote_of(&DATA),
            certificates: certificates.to_vec(),
        };
        assert_eq!(enclave.quote(&BINDING).unwrap(), expected);
        assert_eq!(guest.join().unwrap(), DATA);
    }
}

#[test]
fn a_quote_that_another_process_may_have_changed_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let guest = guest(dir.path().join("jurat"), "tdx_guest", 2);
    let enclave = Enclave::Tsm(dir.path().to_owned(), "jurat".into());
    let raced = enclave.quote(&BINDING);
    assert!(matches!(raced, Err(EnclaveError::Raced(3))), "{raced:?}");
    guest.join().unwrap();
}

#[test]
fn a_machine_without_an_enclave_and_an_unknown_provider_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("report");
    let enclave = Enclave::Tsm(root.clone(), "jurat".into());
    let none = enclave.quote(&BINDING);
    assert!(matches!(none, Err(EnclaveError::Io { .. })), "{none:?}");
    fs::create_dir_all(root.join("jurat")).unwrap();
    fs::write(root.join("jurat/provider"), "cca_guest\n").unwrap();
    let unknown = enclave.quote(&BINDING);
    assert!(matches!(unknown, Err(EnclaveError::Kind(kind)) if kind == "cca_guest"));
}
