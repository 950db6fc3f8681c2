//! Devices whose keys are elsewhere than in a file or a TPM, and the certificates that devices open connections with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jurat_agent::{Finish, KeyPlace};
use jurat_collector::Archive;
use jurat_disk::{FixedClock, Host};
use jurat_key::tls::{Authority, DeviceCertificate};
use jurat_proof::{KeyAxis, Report, Selection, Trust, Verdict, Withhold, verify};
use jurat_testkit::need;

use crate::{Device, prompt};

impl Device {
    fn keys(&self) -> PathBuf {
        self.dir.path().join("device/keys")
    }

    fn certificate(&self) -> DeviceCertificate {
        DeviceCertificate::parse(&fs::read(self.keys().join("tls.pem")).unwrap()).unwrap()
    }

    /// Puts a certificate in place that the collector issued at this time.
    fn certified_at(&self, now_s: u64, lifetime_s: u64) {
        let host = Host {
            clock: std::sync::Arc::new(FixedClock::new(now_s.cast_signed())),
            ..Host::real()
        };
        let keys = self.dir.path().join("collector/keys");
        let authority = Authority::load_or_create(&host, &keys, "dev.invalid").unwrap();
        let (device, point) = ("any", self.certificate().point);
        let pem = authority.issue(&host, device, &point, lifetime_s).unwrap();
        fs::write(self.keys().join("tls.pem"), pem).unwrap();
    }

    /// What a stranger makes of the archived log.
    pub(crate) fn judged(&self) -> Report {
        let trust = fs::read_to_string(self.dir.path().join("device/trust.txt")).unwrap();
        let mut bundle = Vec::new();
        self.collector.with_archive(|archive| {
            let origin = archive.devices()[0].epochs[0].origin.clone();
            let everything = (&Selection::All, &Withhold::default());
            let (wanted, withhold) = everything;
            jurat_collector::export(archive, &origin, wanted, withhold, &mut bundle).unwrap();
        });
        let trust = Trust::parse(&trust).unwrap();
        match verify(bundle.as_slice(), Some(&trust), None, &mut |_| {}) {
            Verdict::Verified(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    fn archived(&self) -> u64 {
        self.collector.with_archive(|archive| {
            let devices: Vec<jurat_collector::DeviceReport> = Archive::devices(archive);
            devices[0].epochs[0].size
        })
    }

    fn delivers(&self, text: &str) {
        self.append("a.jsonl", &prompt(text));
        self.run_until(Finish::WhenDelivered);
        assert_eq!(self.sealed("").len() as u64, self.archived());
    }
}

#[test]
fn a_certificate_is_renewed_in_time_and_one_that_expired_or_is_gone_holds_nothing_up() {
    let device = Device::enrolled();
    device.delivers("one");
    let first = device.certificate();
    let now_s = device.host.clock.now().unix_s();
    assert!(first.to_s > now_s + 6 * 86_400);
    // In the first two thirds of its time it stays.
    device.certified_at(now_s - 4 * 86_400, 7 * 86_400);
    let before = device.certificate();
    device.delivers("two");
    assert_eq!(device.certificate(), before);
    let week = |device: &Device| device.certificate().to_s > now_s + 6 * 86_400;
    // In the last quarter, at the latest, the next one is asked for.
    device.certified_at(now_s - 6 * 86_400, 7 * 86_400);
    device.delivers("three");
    assert!(week(&device));
    // Nobody was here for a month.
    device.certified_at(now_s - 30 * 86_400, 7 * 86_400);
    device.delivers("four");
    assert!(week(&device));
    // Or it is gone, or not one.
    fs::remove_file(device.keys().join("tls.pem")).unwrap();
    device.delivers("five");
    assert!(week(&device));
    fs::write(device.keys().join("tls.pem"), "no certificate").unwrap();
    device.delivers("six");
    assert!(week(&device));
    // Without its key nothing is sent, and everything is sealed.
    let key = device.keys().join("tls.key");
    let away = device.keys().join("away");
    fs::rename(&key, &away).unwrap();
    device.append("a.jsonl", &prompt("seven"));
    device.run();
    assert_eq!(device.sealed("prompt.").len(), 7);
    fs::rename(&away, &key).unwrap();
    device.delivers("eight");
}

/// A key in a file, as the sample signer wants it.
fn openssl_key(dir: &Path) -> PathBuf {
    let path = dir.join("log.key");
    let made = Command::new("openssl")
        .args([
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
        ])
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success());
    path
}

#[test]
fn a_log_whose_key_is_behind_a_program_is_delivered_and_labelled_so_and_waits_while_the_program_fails()
 {
    let test = "keyplaces::a_log_whose_key_is_behind_a_program";
    if need::program(test, "openssl", "openssl").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = openssl_key(dir.path());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/signers/openssl.sh");
    let script = dir.path().join("signer.sh");
    fs::copy(sample, &script).unwrap();
    let command = format!("external:sh {} {}", script.display(), key.display());
    let place: KeyPlace = command.parse().unwrap();
    let device = Device::enrolled_with(place, |_| {});
    device.delivers("one");
    assert_eq!(device.judged().axes.key, KeyAxis::External);
    // The program is not there for a while: what is written is sealed all the same.
    let away = dir.path().join("away.sh");
    fs::rename(&script, &away).unwrap();
    device.append("a.jsonl", &prompt("two"));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| device.run_until(Finish::WhenDelivered));
        crate::tpm::until("it is sealed, and said", || {
            device.sealed("prompt.").len() == 2 && !device.sealed("key.unavailable").is_empty()
        });
        fs::rename(&away, &script).unwrap();
        running.join().unwrap();
    });
    assert!(!device.sealed("key.available").is_empty());
    assert_eq!(device.sealed("").len() as u64, device.archived());
}

#[cfg(feature = "pkcs11")]
mod pkcs11 {
    use std::os::unix::fs::PermissionsExt as _;

    use jurat_testkit::softhsm::SoftHsm;

    use super::*;

    #[test]
    fn a_device_with_its_keys_in_a_token_signs_and_connects_with_them() {
        let test =
            "keyplaces::pkcs11::a_device_with_its_keys_in_a_token_signs_and_connects_with_them";
        SoftHsm::run(test, |hsm| {
            hsm.make_token("jurat", "correct horse");
            let pin = hsm.dir().join("pin");
            fs::write(&pin, "correct horse\n").unwrap();
            fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
            let uri = format!(
                "pkcs11:token=jurat;object=laptop?module-path={}&pin-source=file:{}",
                hsm.module().display(),
                pin.display()
            );
            let device = Device::enrolled_with(uri.parse().unwrap(), |_| {});
            device.delivers("one");
            device.delivers("two");
            assert_eq!(device.judged().axes.key, KeyAxis::Hsm);
            let files = fs::read_dir(device.keys()).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let names: Vec<String> = names.collect();
            assert!(
                !names
                    .iter()
                    .any(|name| name == "log.key" || name == "tls.key")
            );
        });
    }
}
