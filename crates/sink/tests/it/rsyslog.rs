//! Syslog and RELP, with rsyslog at the other end: what was promised of a message is what became of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_sink::Guarantee;
use jurat_sink::format::Format;
use jurat_sink::transport::{Destination, Framing, Relp, SyslogTcp, SyslogUdp, Transport};
use jurat_testkit::rsyslog::{Rsyslog, Tls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::messages;

/// How many each is sent.
fn count() -> u64 {
    if std::env::var_os("JURAT_KILLS").is_some() {
        100_000
    } else {
        5_000
    }
}

fn peer(port: u16) -> jurat_sink::transport::Peer {
    jurat_sink::transport::Peer {
        host: "127.0.0.1".into(),
        port,
    }
}

/// Sends everything, as an endpoint does: after an error again from the first one that does not count as sent. Gives how
/// many were sent again.
fn send_all(transport: &mut dyn Transport, all: &[Vec<u8>], mut between: impl FnMut(usize)) -> u64 {
    let (mut sent, mut again) = (0, 0);
    let mut failures = 0;
    while sent < all.len() {
        between(sent);
        let end = all.len().min(sent + 500);
        match transport.send(&all[sent..end]) {
            Ok(()) => sent = end,
            Err(error) => {
                again += (end - sent - error.sent) as u64;
                sent += error.sent;
                failures += 1;
                assert!(failures < 1_000, "{error:?}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
    again
}

/// How often each message was received; nothing else may have been.
fn tally(rsyslog: &Rsyslog, all: &[Vec<u8>]) -> BTreeMap<Vec<u8>, u64> {
    let mut found: BTreeMap<Vec<u8>, u64> = all.iter().map(|sent| (sent.clone(), 0)).collect();
    for line in rsyslog.received() {
        let known = found.get_mut(&line);
        let known = known.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&line)));
        *known += 1;
    }
    found
}

#[test]
fn over_tcp_each_message_arrives_as_it_was_written_whatever_is_in_it() {
    let test = "rsyslog::over_tcp_each_message_arrives";
    for (format, framing) in [
        (Format::Json, Framing::OctetCounting),
        (Format::Cef, Framing::OctetCounting),
        (Format::Leef, Framing::Newline),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let Some(rsyslog) = Rsyslog::start(test, dir.path(), None) else {
            return;
        };
        let all = messages(format, count());
        let mut tcp = SyslogTcp::new(peer(rsyslog.ports().tcp), None, framing);
        assert_eq!(tcp.guarantee(), Guarantee::Written);
        assert_eq!(send_all(&mut tcp, &all, |_| {}), 0);
        assert!(rsyslog.wait(|lines| lines.len() >= all.len()), "{format}");
        assert!(rsyslog.received() == all, "{format}");
    }
}

#[test]
fn over_tcp_a_receiver_that_is_restarted_loses_what_only_the_kernel_had_and_nothing_is_torn() {
    let test = "rsyslog::over_tcp_a_receiver_that_is_restarted";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut rsyslog) = Rsyslog::start(test, dir.path(), None) else {
        return;
    };
    let all = messages(Format::Json, count());
    let mut tcp = SyslogTcp::new(peer(rsyslog.ports().tcp), None, Framing::OctetCounting);
    let (mut broken, half) = (false, all.len() / 2);
    send_all(&mut tcp, &all, |sent| {
        if sent >= half && !std::mem::replace(&mut broken, true) {
            rsyslog.stop();
            rsyslog.power_on();
        }
    });
    let last = all.last().unwrap();
    assert!(rsyslog.wait(|lines| lines.last() == Some(last)));
    let found = tally(&rsyslog, &all);
    let lost = found.values().filter(|times| **times == 0).count();
    // What is lost stands together, around the break.
    let lost_at: Vec<usize> = (0..all.len()).filter(|at| found[&all[*at]] == 0).collect();
    if let (Some(first), Some(last)) = (lost_at.first(), lost_at.last()) {
        assert_eq!(last - first + 1, lost);
    }
}

#[test]
fn over_relp_nothing_is_lost_when_the_receiver_is_stopped_and_what_comes_twice_was_unanswered() {
    let test = "rsyslog::over_relp_nothing_is_lost";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut rsyslog) = Rsyslog::start(test, dir.path(), None) else {
        return;
    };
    let all = messages(Format::Cef, count());
    let mut relp = Relp::new(peer(rsyslog.ports().relp), None);
    assert_eq!(relp.guarantee(), Guarantee::Accepted);
    let (mut breaks, third) = (0, all.len() / 3);
    let again = send_all(&mut relp, &all, |sent| {
        if sent >= third * (breaks + 1) && breaks < 2 {
            breaks += 1;
            rsyslog.stop();
            rsyslog.power_on();
        }
    });
    assert_eq!(breaks, 2);
    assert!(rsyslog.wait(|lines| lines.len() >= all.len()));
    let found = tally(&rsyslog, &all);
    assert!(found.values().all(|times| *times >= 1), "lost");
    let twice: u64 = found.values().map(|times| times - 1).sum();
    assert!(twice <= again, "{twice} twice, {again} sent again");
}

#[test]
fn over_udp_nothing_is_promised_and_short_messages_arrive() {
    let test = "rsyslog::over_udp_nothing_is_promised";
    let dir = tempfile::tempdir().unwrap();
    let Some(rsyslog) = Rsyslog::start(test, dir.path(), None) else {
        return;
    };
    let all = messages(Format::Cef, 50);
    let mut udp = SyslogUdp::new(peer(rsyslog.ports().tcp));
    assert_eq!(udp.guarantee(), Guarantee::None);
    for message in &all {
        udp.send(std::slice::from_ref(message)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(rsyslog.wait(|lines| !lines.is_empty()));
    tally(&rsyslog, &all);
    // Nobody listens: no error, for nothing was promised.
    drop(rsyslog);
    udp.send(&all).unwrap();
    udp.send(&all).unwrap();
}

/// An authority, and what it certified: files in PEM.
struct Certified {
    dir: PathBuf,
}

impl Certified {
    fn new(dir: &Path) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        for name in ["receiver", "sender"] {
            let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            // A name that is also the issuer's is that of an authority, to some.
            let common_name = rcgen::DnType::CommonName;
            params.distinguished_name.push(common_name, name);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self {
            dir: dir.to_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn client(&self, shows_itself: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.path("ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if shows_itself {
            let chain = CertificateDer::from_pem_file(self.path("sender.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(self.path("sender.key")).unwrap();
            config.with_client_auth_cert(vec![chain], key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        Arc::new(config)
    }
}

#[test]
fn over_tls_the_receiver_s_name_and_the_sender_s_certificate_count() {
    let test = "rsyslog::over_tls_the_receiver_s_name";
    let dir = tempfile::tempdir().unwrap();
    let certified = Certified::new(dir.path());
    let tls = Tls {
        ca: certified.path("ca.pem"),
        certificate: certified.path("receiver.pem"),
        key: certified.path("receiver.key"),
    };
    let Some(rsyslog) = Rsyslog::start(test, dir.path(), Some(tls)) else {
        return;
    };
    let all = messages(Format::Json, 500);
    let port = rsyslog.ports().tcp;
    let mut good = SyslogTcp::new(peer(port), Some(certified.client(true)), Framing::default());
    assert_eq!(send_all(&mut good, &all, |_| {}), 0);
    assert!(rsyslog.wait(|lines| lines.len() >= all.len()));
    assert!(rsyslog.received() == all);
    // Another name than the certificate bears.
    let mut other = peer(port);
    other.host = "localhost".into();
    let mut wrong = SyslogTcp::new(other, Some(certified.client(true)), Framing::default());
    assert!(wrong.send(&all[..1]).is_err());
    // A sender that nobody certified: not one message counts as sent.
    let mut bare = SyslogTcp::new(
        peer(port),
        Some(certified.client(false)),
        Framing::default(),
    );
    for _ in 0..3 {
        let refused = bare.send(&all[..1]).unwrap_err();
        assert_eq!(refused.sent, 0);
    }
    assert_eq!(rsyslog.received().len(), all.len());
}

#[test]
fn a_destination_is_read_as_it_is_written_and_what_it_lacks_is_named() {
    for text in [
        "syslog+udp://siem.example:514",
        "syslog+tcp://[::1]:601",
        "relp+tls://siem.example:2514",
    ] {
        let read: Destination = text.parse().unwrap();
        assert_eq!(read.to_string(), text);
    }
    let read: Destination = "syslog+tls://siem.example".parse().unwrap();
    assert_eq!(read.to_string(), "syslog+tls://siem.example:6514");
    for (text, why) in [
        ("siem.example:514", "expected"),
        ("http://siem.example", "expected"),
        ("syslog+tcp://", "HOST:PORT"),
        ("syslog+tcp://a:b", "HOST:PORT"),
        ("syslog+tcp://user@a", "HOST:PORT"),
    ] {
        let refused = text.parse::<Destination>().unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}
