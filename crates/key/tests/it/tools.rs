//! Quotes of ours judged by tpm2-tools, and theirs by us.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use jurat_attest::tpm::{Expected, Hash, PcrSelection, PcrValues, Public, check_quote};
use jurat_key::tpm::{Address, Tpm, Use};
use jurat_proof::Digest;
use jurat_testkit::need;
use jurat_testkit::swtpm::Swtpm;

/// PCRs 0 and 7.
const SELECTION: [PcrSelection; 1] = [PcrSelection {
    bank: Hash::Sha256,
    pcrs: 0x81,
}];
const NONCE: [u8; 32] = [0x5a; 32];

/// Two ports beside each other that are free: below those that systems give to who asks for any.
fn ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let from = 20_000 + (std::process::id() % 5_000) as u16 * 2;
    let mut ports = (from..32_000).step_by(2);
    let found = ports.find(|port| is_free(*port) && is_free(port + 1));
    found.expect("two free ports")
}

/// A tool, in this folder.
fn tpm2(dir: &Path, way: &str, words: &str) -> Output {
    Command::new("tpm2")
        .args(words.split(' '))
        .env("TPM2TOOLS_TCTI", way)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn done(dir: &Path, way: &str, words: &str) {
    let output = tpm2(dir, way, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tpm2 {words}: {said}");
}

fn hex(bytes: &[u8]) -> String {
    Digest(bytes.try_into().unwrap()).to_string()
}

#[test]
fn tpm2_checkquote_accepts_our_quotes_and_we_accept_those_of_tpm2_quote() {
    let test = "tools::tpm2_checkquote_accepts_our_quotes";
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if need::program(test, "tpm2", "tpm2-tools").is_none() {
        return;
    }
    let Some(mut swtpm) = Swtpm::start(test, dir) else {
        return;
    };
    swtpm.power_off();
    let port = ports();
    let way = swtpm.power_on_at(port);

    // Ours.
    let address: Address = format!("swtpm:127.0.0.1:{port}").parse().unwrap();
    let mut tpm = Tpm::new(address.open().unwrap());
    tpm.extend_pcr(7, &[3; 32]).unwrap();
    let ek = tpm.endorsement().unwrap();
    let blob = tpm.make_key(&ek, Use::Attest, b"value").unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, b"value").unwrap();
    let quote = tpm.quote_with(&ak, &NONCE, &SELECTION).unwrap();
    tpm.flush_all().unwrap();
    drop(tpm);
    let area = ak.public.area();
    let public = [&(area.len() as u16).to_be_bytes(), area].concat();
    let values: Vec<u8> = quote.values.0.values().flatten().copied().collect();
    for (name, bytes) in [
        ("ours.public", &public),
        ("ours.attest", &quote.attest),
        ("ours.signature", &quote.signature),
        ("ours.pcrs", &values),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    let check = |nonce: &[u8]| {
        let words = "checkquote -u ours.public -m ours.attest -s ours.signature -f ours.pcrs -l sha256:0,7 -g sha256";
        tpm2(dir, &way, &format!("{words} -q {}", hex(nonce)))
    };
    let accepted = check(&NONCE);
    let said = String::from_utf8_lossy(&accepted.stderr);
    assert!(accepted.status.success(), "{said}");
    assert!(!check(&[0; 32]).status.success());

    // Theirs.
    for words in [
        "createak -C 0x81010001 -c ak.ctx -G ecc -g sha256 -s ecdsa -u theirs.public -r ak.priv -n ak.name",
        "flushcontext -t",
        "pcrread sha256:0,7 -o theirs.pcrs",
        &format!(
            "quote -c ak.ctx -l sha256:0,7 -g sha256 -q {} -m theirs.attest -s theirs.signature -o theirs.dump",
            hex(&NONCE)
        ),
    ] {
        done(dir, &way, words);
    }
    let file = |name: &str| fs::read(dir.join(name)).unwrap();
    let ak = Public::parse(&file("theirs.public")[2..]).unwrap();
    let pcrs = file("theirs.pcrs");
    let value = |pcr: u8, at: usize| ((Hash::Sha256, pcr), pcrs[at..at + 32].to_vec());
    let values = PcrValues([value(0, 0), value(7, 32)].into());
    let expected = Expected {
        qualifying: &NONCE,
        selection: &SELECTION,
        values: &values,
    };
    let (attest, signature) = (file("theirs.attest"), file("theirs.signature"));
    check_quote(&attest, &signature, &ak, &expected).unwrap();
    let other = Expected {
        qualifying: &[0; 32],
        ..expected
    };
    assert!(check_quote(&attest, &signature, &ak, &other).is_err());
}
