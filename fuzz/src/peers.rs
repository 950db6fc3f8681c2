//! What the two ends of a connection say to each other.

use std::path::Path;
use std::sync::Arc;

use jurat_collector::fuzzing::enroll;
use jurat_disk::{FixedClock, Host, replace};
use jurat_key::external::Answer;
use jurat_key::tls::{self, DeviceCertificate, Pin};
use jurat_proof::{Digest, Receipt, Request, Signer as _, VerifierKey};
use jurat_sink::transport::{Destination, RelpAnswer};
use jurat_sink::{
    Accepted, CollectorError, Enrolled, Enrolment, FrontierAnswer, check_accepted, understand,
};
use jurat_testkit::{Repeatable, SimDisk};
use reqwest::StatusCode;

use crate::{ORIGIN, log_key, two};

fn host() -> Host {
    Host {
        disk: Arc::new(SimDisk::new()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(1)),
    }
}

/// The header that signs a request: `<timestamp> SP <nonce> SP <encoding> SP <header> LF <body>`.
pub fn request(data: &[u8]) {
    let (head, body) = two(data, b"\n");
    let mut words = head.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let request = Request {
        method: "POST",
        path: "/v1/batches",
        device: "d",
        timestamp: word().parse().unwrap_or(0),
        nonce: word(),
        encoding: word(),
        body: &body,
    };
    let header = word();
    let key = [9; 32];
    let ours = request.sign(&key);
    assert!(request.verify(&key, &ours));
    // Lower-case hex, with or without its prefix, and nothing else.
    let same = header == ours || format!("sha256={header}") == ours;
    assert_eq!(request.verify(&key, header), same);
}

/// A collector's answer: `<status> SP <Retry-After> LF <body>`.
pub fn answer(data: &[u8]) {
    let (head, body) = two(data, b"\n");
    let (status, retry) = head.split_once(' ').unwrap_or((&head, ""));
    let status = status
        .parse()
        .ok()
        .and_then(|number| StatusCode::from_u16(number).ok())
        .unwrap_or(StatusCode::OK);
    let retry = retry.parse().ok();
    let is_success = status.is_success();
    let said = |error: &CollectorError| {
        assert!(!is_success || matches!(error, CollectorError::Protocol(_)));
        assert!(error.to_string().len() < 2_000 + body.len());
    };
    let key = log_key().verifier_key().to_string();
    match understand::<Accepted>(status, retry, &body) {
        Ok(accepted) => {
            // No cosigner's key is known here, so no note can count.
            assert!(check_accepted(&accepted, ORIGIN, &key, &key).is_err());
        }
        Err(error) => said(&error),
    }
    let frontier = understand::<FrontierAnswer>(status, retry, &body);
    frontier.as_ref().err().into_iter().for_each(said);
    let enrolled = understand::<Enrolled>(status, retry, &body);
    enrolled.as_ref().err().into_iter().for_each(said);
}

/// The entry of a receipt in the seeds: the only leaf of the collector's log.
pub const ACCEPTED: &[u8] = br#"{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":0,"boot":"b","time":"t","kind":"frontier.accepted","detail":{"origin":"d","root":"0000000000000000000000000000000000000000000000000000000000000000","size":7}}"#;

/// A receipt that a collector gives; its log has the key of the seeds.
pub fn receipt(data: &[u8]) {
    let Ok(receipt) = Receipt::parse(data) else {
        return;
    };
    assert_eq!(
        Receipt::parse(receipt.encode().as_bytes()),
        Ok(receipt.clone())
    );
    let key = log_key();
    let root = Digest::default();
    if let Ok(found) = receipt.verify(key.verifier_key(), "d", 7, &root) {
        // Only the one head that the key of the seeds ever signed leads to it.
        assert_eq!((found.index, receipt.entry.as_slice()), (0, ACCEPTED));
    }
    assert!(receipt.verify(key.verifier_key(), "e", 7, &root).is_err());
}

/// An enrolment, as the collector is sent it, and as the device keeps it.
pub fn enrolment(data: &[u8]) {
    let host = host();
    let path = Path::new("/enrolment.json");
    replace(&*host.disk, path, data).expect("a new disk can be written");
    let _ = jurat_agent::Enrolment::load(&host, Path::new("/"));
    let Ok(enrolment) = serde_json::from_slice::<Enrolment>(data) else {
        return;
    };
    if let Ok((id, origin)) = enroll(&host, &enrolment) {
        assert_eq!(id, enrolment.device);
        assert_eq!(origin, format!("example.org/jurat/{id}/0"));
        assert!(!origin.contains(char::is_whitespace));
    }
}

/// A request for a certificate, as a device sends it, and a chain, as a device is sent it; and both names of a key that a
/// command line may have.
pub fn certificate(data: &[u8]) {
    if let Ok(point) = tls::check_request(data, "11111111-2222-4333-8444-555555555555") {
        VerifierKey::p256(ORIGIN, point).expect("a point that is taken can verify");
    }
    if let Ok(certificate) = DeviceCertificate::parse(data) {
        VerifierKey::p256(ORIGIN, certificate.point).expect("a point that is taken can verify");
        assert!(certificate.is_due(certificate.to_s));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(pin) = text.parse::<Pin>() {
            assert_eq!(pin.to_string().parse(), Ok(pin));
        }
        let _ = text.parse::<jurat_agent::KeyPlace>();
    }
}

/// What a receiver that speaks RELP answers, frame after frame; and the name of one, as a configuration has it.
pub fn relp(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((answer, len))) = RelpAnswer::parse(rest) {
        assert!(len > answer.data.len() && len <= rest.len());
        rest = &rest[len..];
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(destination) = text.parse::<Destination>()
    {
        assert_eq!(destination.to_string().parse(), Ok(destination));
    }
}

/// A line that an external signer answers.
pub fn signer(data: &[u8]) {
    match Answer::parse(data) {
        Some(Answer::Hello(point)) => {
            VerifierKey::p256(ORIGIN, point).expect("a point that is taken can verify");
        }
        Some(Answer::Refused(words)) => {
            assert!(words.chars().count() <= 200 && !words.contains(char::is_control));
        }
        Some(Answer::Signature(_)) | None => {}
    }
}
