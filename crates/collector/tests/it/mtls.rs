//! Connections that only a device itself can open, and what others find who try.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use jurat_collector::Order;
use jurat_disk::FixedClock;
use jurat_key::tls::{Authority, Pin};
use jurat_proof::SignerError;
use jurat_sink::CollectorError::Unreachable;
use jurat_testkit::need;

use super::*;
use crate::keylife::code;

const OTHER: &str = "22222222-2222-4333-8444-555555555555";

impl Bench {
    async fn enrolled_other(&self) -> Enrolled {
        let token = fs::read_to_string(self.dir.path().join("enroll.token")).unwrap();
        self.enroll(&token, OTHER).await.unwrap()
    }

    /// Asks for what is known of [`DEVICE`]'s log, with its token and its HMAC key, over this client's connection.
    async fn asked_over(&self, client: &Collector) -> Result<u64, CollectorError> {
        let key = self.key();
        let answer = client.frontier(&self.host, &self.who(&key), "b").await?;
        Ok(answer.size)
    }

    fn who<'a>(&'a self, key: &'a [u8; 32]) -> Identity<'a> {
        Identity {
            device: DEVICE,
            token: &self.enrolled.token,
            key,
        }
    }

    /// A client that shows this certificate with this key.
    fn showing(&self, pem: &str, key: Arc<dyn HeldKey>) -> Collector {
        let certificate = DeviceCertificate::parse(pem.as_bytes()).unwrap();
        self.client_with(tls::device(Some(&self.ca()), &[], Some((certificate, key))).unwrap())
    }

    fn bare(&self) -> Collector {
        self.client_with(tls::client(Some(&self.ca())).unwrap())
    }

    /// The next certificate of [`DEVICE`], asked for without one.
    async fn next_certificate(&self, csr: Vec<u8>) -> Result<String, CollectorError> {
        let key = self.key();
        let (bare, who) = (self.bare(), self.who(&key));
        let asked = bare.certificate(&self.host, &who, csr).await?;
        Ok(asked.certificate)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_tokens_are_of_no_use_over_a_connection_of_another_device_or_of_none() {
    let bench = Bench::start().await;
    assert_eq!(bench.asked_over(&bench.client()).await.unwrap(), 0);
    // A valid certificate, of the same collector, with its key.
    let other = bench.enrolled_other().await;
    let man = bench.client_of(OTHER, &other);
    assert_eq!(code(bench.asked_over(&man).await), "certificate_of_another");
    let body = compressed(&Log::new(&bench.enrolled.origin).batch(1, "a"));
    let sent = send(&man, &bench.host, DEVICE, &bench.enrolled, body).await;
    assert_eq!(code(sent), "certificate_of_another");
    assert_eq!(
        code(bench.asked_over(&bench.bare()).await),
        "certificate_needed"
    );
    // One that somebody else's authority issued, for the right key and the right name.
    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = Authority::load_or_create(&bench.host, elsewhere.path(), "dev.invalid").unwrap();
    let pem = theirs
        .issue(&bench.host, DEVICE, tls_key(DEVICE).point(), 3_600)
        .unwrap();
    let man = bench.showing(&pem, tls_key(DEVICE));
    assert_eq!(code(bench.asked_over(&man).await), "certificate_unknown");
    // The device's own certificate, which anybody may have seen, without its key: no connection at all.
    let own = bench.enrolled.certificate.clone().unwrap();
    let man = bench.showing(&own, tls_key(OTHER));
    let asked = bench.asked_over(&man).await;
    assert!(matches!(asked, Err(Unreachable { .. })), "{asked:?}");
    assert_eq!(bench.leaves(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_no_server_even_for_who_believes_the_authority_of_devices() {
    let bench = Bench::start().await;
    // An authority that certifies servers and devices, and one of its devices, which plays the collector under its name.
    let dir = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let sent = async |usage: rcgen::ExtendedKeyUsagePurpose| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![usage];
        let pair = rcgen::KeyPair::generate().unwrap();
        let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        fs::write(&key, pair.serialize_pem()).unwrap();
        let pem = params.signed_by(&pair, &issuer).unwrap().pem();
        fs::write(&certificate, pem).unwrap();
        let server = tls::server(&certificate, &key, tls::Ask::Nobody).unwrap();
        let client = shown(&bench.ca(), DEVICE, &bench.enrolled);
        let pass = Box::new(|_| jurat_testkit::Answer::Pass);
        let address = bench.running.address;
        let man = jurat_testkit::Peer::start(server.config, client, address, pass).unwrap();
        let set_up = SetUp {
            url: format!("https://localhost:{}", man.port()),
            tls: shown(ca.as_bytes(), DEVICE, &bench.enrolled),
            timeout: Duration::from_secs(10),
        };
        let client = Collector::new(set_up).unwrap();
        let body = compressed(&Log::new(&bench.enrolled.origin).batch(1, "a"));
        let sent = send(&client, &bench.host, DEVICE, &bench.enrolled, body).await;
        (sent, man.uploads().len())
    };
    let (refused, seen) = sent(rcgen::ExtendedKeyUsagePurpose::ClientAuth).await;
    assert!(matches!(refused, Err(Unreachable { .. })), "{refused:?}");
    assert_eq!(seen, 0);
    // The same as a server is one: it was its purpose that was refused.
    let (taken, seen) = sent(rcgen::ExtendedKeyUsagePurpose::ServerAuth).await;
    assert_eq!((taken.unwrap().size, seen), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_token_and_hmac_key_alone_uses_up_no_nonce_and_is_no_sign_of_life() {
    let clock = Arc::new(FixedClock::new(1_790_000_000));
    let host = Host {
        clock: clock.clone(),
        ..Host::real()
    };
    let bench = Bench::start_with(host, |settings| settings.device_certificate_s = 86_400).await;
    assert_eq!(bench.asked_over(&bench.client()).await.unwrap(), 0);
    let heard = bench.device().await.epochs[0].heard_at;
    clock.advance_s(1_000);
    for _ in 0..20 {
        let rubbish = bench.next_certificate(b"rubbish".to_vec()).await;
        assert_eq!(code(rubbish), "bad_csr");
        let bare = bench.asked_over(&bench.bare()).await;
        assert_eq!(code(bare), "certificate_needed");
    }
    assert_eq!(bench.device().await.epochs[0].heard_at, heard);
    assert_eq!(bench.asked_over(&bench.client()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_ends_in_the_middle_of_a_connection_and_the_next_one_is_to_be_had_without_it()
{
    let clock = Arc::new(FixedClock::new(1_790_000_000));
    let host = Host {
        clock: clock.clone(),
        ..Host::real()
    };
    let bench = Bench::start_with(host, |settings| settings.device_certificate_s = 600).await;
    let (client, later) = (bench.client(), bench.client());
    assert_eq!(bench.asked_over(&client).await.unwrap(), 0);
    clock.advance_s(601);
    assert_eq!(code(bench.asked_over(&client).await), "certificate_expired");
    assert_eq!(code(bench.asked_over(&later).await), "certificate_expired");
    let csr = tls::request(&tls_key(DEVICE), DEVICE).unwrap();
    let pem = bench.next_certificate(csr.clone()).await.unwrap();
    let next = DeviceCertificate::parse(pem.as_bytes()).unwrap();
    assert_eq!(next.to_s, 1_790_000_000 + 601 + 600);
    let renewed = bench.showing(&pem, tls_key(DEVICE));
    assert_eq!(bench.asked_over(&renewed).await.unwrap(), 0);
    // For no other key than the one that enrolled; of no use to who does not have it.
    let foreign = tls::request(&tls_key(OTHER), DEVICE).unwrap();
    assert_eq!(code(bench.next_certificate(foreign).await), "wrong_key");
    let mut bent = csr.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(code(bench.next_certificate(bent).await), "bad_csr");
    // Nor for another name: an operator's authority might believe it.
    let other_name = tls::request(&tls_key(DEVICE), "vpn-admin").unwrap();
    assert_eq!(code(bench.next_certificate(other_name).await), "bad_csr");
    // Nor for a device that was revoked.
    let order = Order::Revoke {
        device: DEVICE.into(),
        reason: "stolen".into(),
        epoch: None,
        key: None,
    };
    bench.order(order).await.unwrap();
    assert_eq!(code(bench.next_certificate(csr).await), "revoked");
}

/// A key that says how often it was asked.
struct Counted {
    key: Arc<dyn HeldKey>,
    times: AtomicUsize,
}

impl HeldKey for Counted {
    fn point(&self) -> &[u8; 65] {
        self.key.point()
    }

    fn place(&self) -> String {
        self.key.place()
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        self.times.fetch_add(1, Ordering::SeqCst);
        self.key.sign_digest(digest)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_key_signs_once_however_often_its_device_connects() {
    let bench = Bench::start().await;
    let key = Arc::new(Counted {
        key: tls_key(DEVICE),
        times: AtomicUsize::new(0),
    });
    let pem = bench.enrolled.certificate.clone().unwrap();
    let certificate = DeviceCertificate::parse(pem.as_bytes()).unwrap();
    let config = tls::device(Some(&bench.ca()), &[], Some((certificate, key.clone()))).unwrap();
    for _ in 0..5 {
        // A client of its own has connections of its own; the sessions are the configuration's.
        let client = bench.client_with(config.clone());
        assert_eq!(bench.asked_over(&client).await.unwrap(), 0);
    }
    assert_eq!(key.times.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_server_is_believed_by_its_key_and_another_one_is_not_whatever_certifies_it() {
    let bench = Bench::start().await;
    let pin = bench.running.pin.unwrap();
    let other: Pin = format!("sha256/{}", BASE64.encode([7; 32]))
        .parse()
        .unwrap();
    let certificate = bench.enrolled.certificate.clone().unwrap();
    let client = |pins: &[Pin]| {
        let certificate = DeviceCertificate::parse(certificate.as_bytes()).unwrap();
        let shown = Some((certificate, tls_key(DEVICE)));
        bench.client_with(tls::device(Some(&bench.ca()), pins, shown).unwrap())
    };
    assert_eq!(bench.asked_over(&client(&[other, pin])).await.unwrap(), 0);
    let asked = bench.asked_over(&client(&[other])).await.unwrap_err();
    let words = format!("{asked:?}");
    assert!(words.contains("none that is pinned"), "{words}");
}

/// Waits for what the server does in its own time.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_s_new_certificate_counts_from_the_next_connection_on_and_nothing_is_restarted() {
    let bench = Bench::start().await;
    let open = bench.client();
    assert_eq!(bench.asked_over(&open).await.unwrap(), 0);
    let made = tls::generate(&["localhost".into()]).unwrap();
    let path = |name: &str| bench.dir.path().join(name);
    // The one without the other: what is there goes on.
    let server = tls::server(&path("server.pem"), &path("server.key"), tls::Ask::Clients).unwrap();
    let pin = server.pin();
    assert!(!server.reload().unwrap());
    fs::write(path("server.pem"), &made.certificate).unwrap();
    assert!(server.reload().is_err());
    assert_eq!(server.pin(), pin);
    assert_eq!(bench.asked_over(&bench.client()).await.unwrap(), 0);
    fs::write(path("server.key"), &made.key).unwrap();
    assert!(server.reload().unwrap());
    assert_ne!(server.pin(), pin);
    let new = shown(made.ca.as_bytes(), DEVICE, &bench.enrolled);
    until("the new one is shown", async || {
        let client = bench.client_with(new.clone());
        bench.asked_over(&client).await.is_ok()
    })
    .await;
    // Who is connected stays so.
    assert_eq!(bench.asked_over(&open).await.unwrap(), 0);
    let asked = bench.asked_over(&bench.client()).await;
    assert!(matches!(asked, Err(Unreachable { .. })), "{asked:?}");
}

/// Runs a program of others.
fn openssl(dir: &Path, words: &str) {
    let done = Command::new("openssl")
        .args(words.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// An authority of the operator's own, by a program that nobody here wrote.
fn operators_authority(dir: &Path, name: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days 30 -subj /CN={name}"
        ),
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_s_own_authority_issues_what_counts_and_can_be_replaced_while_all_runs() {
    use std::os::unix::fs::PermissionsExt as _;

    let test = "mtls::an_operator_s_own_authority";
    if need::program(test, "openssl", "openssl").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        operators_authority(dir.path(), name);
    }
    fs::copy(dir.path().join("one.pem"), dir.path().join("believed.pem")).unwrap();
    fs::write(
        dir.path().join("extensions"),
        "extendedKeyUsage=clientAuth\n",
    )
    .unwrap();
    let script = dir.path().join("issue.sh");
    let set_command = |authority: &str| {
        let text = format!(
            "#!/bin/sh\ncd {dir:?}\nexec openssl x509 -req -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 1 -extfile extensions 2>/dev/null\n",
            dir = dir.path()
        );
        let new = dir.path().join("new.sh");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o700)).unwrap();
        fs::rename(&new, &script).unwrap();
    };
    set_command("one");
    let bench = Bench::start_with(Host::real(), |settings| {
        settings.device_ca = Some(dir.path().join("believed.pem"));
        settings.csr_command = vec![script.to_str().unwrap().into()];
    })
    .await;
    let issued = bench.enrolled.certificate.clone().unwrap();
    let certificate = DeviceCertificate::parse(issued.as_bytes()).unwrap();
    assert_eq!(certificate.to_s - certificate.from_s, 86_400);
    assert_eq!(bench.asked_over(&bench.client()).await.unwrap(), 0);
    // One whose authority nobody believes is not handed out.
    set_command("two");
    let csr = || tls::request(&tls_key(DEVICE), DEVICE).unwrap();
    let asked = bench.next_certificate(csr()).await;
    assert!(
        matches!(asked, Err(CollectorError::Busy { status: 503, .. })),
        "{asked:?}"
    );
    // Who enrols meanwhile is enrolled, and asks for a certificate when it can be had.
    let other = bench.enrolled_other().await;
    assert_eq!(other.certificate, None);
    // The other authority takes over: what the first one issued counts no more, on connections that are open, too.
    let open = bench.client();
    assert_eq!(bench.asked_over(&open).await.unwrap(), 0);
    fs::rename(dir.path().join("two.pem"), dir.path().join("believed.pem")).unwrap();
    fs::copy(dir.path().join("believed.pem"), dir.path().join("two.pem")).unwrap();
    until("the new authority is believed", async || {
        bench.asked_over(&open).await.is_err()
    })
    .await;
    assert_eq!(code(bench.asked_over(&open).await), "certificate_unknown");
    let pem = bench.next_certificate(csr()).await.unwrap();
    let renewed = bench.showing(&pem, tls_key(DEVICE));
    assert_eq!(bench.asked_over(&renewed).await.unwrap(), 0);
}
