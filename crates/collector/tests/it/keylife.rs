//! The life of a key and of a device, as the collector keeps it: rotation, revocation, the next epoch, two
//! machines with one log, silence.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_collector::{
    Address, AdminError, Builder, DeviceReport, Order, Settings, Standing, carry_out, devices,
};
use jurat_disk::{FixedClock, Host};
use jurat_key::{Secret, SoftwareKey};
use jurat_ledger::Reader;
use jurat_proof::{Digest, Record, Rotation, Signer as _, write_record};
use jurat_sink::{Accepted, CollectorError, Enrolled, Enrolment, Identity, Predecessor};
use serde_json::{Value, json};

use crate::withheld::only_hashes;
use crate::{Bench, DEVICE, Log, compressed, csr, send};

fn key(seed: u8, origin: &str) -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([seed; 32]), origin).unwrap()
}

impl Log {
    /// A batch that ends in a rotation to this key; its head is signed by the old one.
    fn rotation(&mut self, next: SoftwareKey) -> Vec<u8> {
        let mut raw = Vec::new();
        let detail = Rotation::detail(self.key.verifier_key(), &next).unwrap();
        self.entry(&mut raw, json!({ "kind": "key.rotated", "detail": detail }));
        raw.extend(self.batch(0, ""));
        self.key = next;
        raw
    }
}

impl Bench {
    /// The collector's own log: kind and detail of every leaf.
    fn own_leaves(&self) -> Vec<(String, Value)> {
        let mut reader =
            Reader::open(Host::real().disk, &self.dir.path().join("archive"), 0).unwrap();
        let mut leaves = Vec::new();
        while let Some(item) = reader.next_record().unwrap() {
            // An entry of the own log.
            if item.kind == 3 {
                let entry: Value = serde_json::from_slice(item.body).unwrap();
                assert_eq!(entry["seq"], leaves.len());
                let kind = entry["kind"].as_str().unwrap().to_owned();
                leaves.push((kind, entry["detail"].clone()));
            }
        }
        leaves
    }

    pub(crate) fn said(&self, kind: &str) -> Vec<Value> {
        let leaves = self.own_leaves().into_iter();
        let of_kind = leaves.filter(|(found, _)| found == kind);
        of_kind.map(|(_, detail)| detail).collect()
    }

    async fn operate<T: for<'de> serde::Deserialize<'de>>(
        &self,
        path: &str,
        order: Option<&Order>,
    ) -> Result<T, CollectorError> {
        let token = std::fs::read_to_string(self.dir.path().join("admin.token")).unwrap();
        self.collector.operate(token.trim(), path, order).await
    }

    pub(crate) async fn order(&self, order: Order) -> Result<u64, CollectorError> {
        let done: Value = self.operate("/v1/admin/orders", Some(&order)).await?;
        Ok(done["leaf"].as_u64().unwrap())
    }

    pub(crate) async fn device(&self) -> DeviceReport {
        let list: Vec<DeviceReport> = self.operate("/v1/admin/devices", None).await.unwrap();
        let [device] = list.as_slice() else {
            panic!("{list:?}")
        };
        device.clone()
    }

    async fn enrol_again(
        &self,
        new: &SoftwareKey,
        predecessor: Predecessor,
        proof: Option<String>,
    ) -> Result<Enrolled, CollectorError> {
        let token = std::fs::read_to_string(self.dir.path().join("enroll.token")).unwrap();
        let enrolment = Enrolment {
            device: DEVICE.into(),
            key: BASE64.encode(new.public_key()),
            key_kind: "software".into(),
            hostname: Some("h".into()),
            predecessor: Some(predecessor),
            proof,
            csr: csr(DEVICE),
            ..Enrolment::default()
        };
        self.collector
            .enroll(token.trim(), &enrolment, jurat_sink::no_tpm)
            .await
    }

    fn head(&self) -> Predecessor {
        Predecessor {
            origin: self.log.origin.clone(),
            size: self.log.frontier.size(),
            root: self.log.frontier.root(),
        }
    }

    async fn ask_as(&self, boot: &str) -> Result<u64, CollectorError> {
        let key = self.key();
        let who = Identity {
            device: DEVICE,
            token: &self.enrolled.token,
            key: &key,
        };
        let answer = self.collector.frontier(&self.host, &who, boot).await?;
        Ok(answer.size)
    }
}

pub(crate) fn code<T: std::fmt::Debug>(done: Result<T, CollectorError>) -> String {
    match done {
        Err(CollectorError::Identity(refusal) | CollectorError::Refused { refusal, .. }) => {
            refusal.code
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_only_the_new_key_counts_and_a_restart_does_not_forget_it() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let first = bench.log.batch(3, "a");
    bench.upload(&first).await.unwrap();
    let size_before = bench.log.frontier.size();

    // In the middle of an upload: heads of the old key, then of the new one.
    let mut raw = bench.log.batch(1, "old");
    raw.extend(bench.log.rotation(key(6, &origin)));
    let rotated_at = bench.log.frontier.size();
    raw.extend(bench.log.batch(1, "new"));
    bench.upload(&raw).await.unwrap();
    let new_key = key(6, &origin).verifier_text();
    let said = bench.said("key.rotated");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["origin"], origin);
    assert_eq!(said[0]["from"], key(5, &origin).verifier_text());
    assert_eq!(
        (&said[0]["key"], &said[0]["size"]),
        (&json!(new_key), &json!(rotated_at))
    );
    assert!(rotated_at > size_before);

    // Once more, at the end of an upload; then a restart.
    let raw = bench.log.rotation(key(7, &origin));
    bench.upload(&raw).await.unwrap();
    let mut bench = bench.restart().await;
    assert_eq!(
        bench.device().await.epochs[0].key,
        key(7, &origin).verifier_text()
    );
    for old in [5, 6] {
        let mut forged = Log::new(&origin);
        forged.key = key(old, &origin);
        forged.frontier = bench.log.frontier.clone();
        forged.chain = bench.log.chain;
        let refused = bench.upload(&forged.batch(1, "by an old key")).await;
        assert_eq!(code(refused), "unknown_key", "key {old}");
    }
    let last = bench.log.batch(1, "by the new key");
    bench.upload(&last).await.unwrap();
    assert_eq!(bench.said("key.rotated").len(), 2);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_does_not_hold_stores_nothing_and_the_old_key_stays() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let (frontier, chain) = (bench.log.frontier.clone(), bench.log.chain);
    let log = |key: SoftwareKey| Log {
        origin: origin.clone(),
        key,
        frontier: frontier.clone(),
        chain,
        in_batch: 0,
    };
    let (old, new) = (|| key(5, &origin), || key(6, &origin));
    let leaf = |from: &SoftwareKey, change: &dyn Fn(&mut Value)| {
        let mut detail = json!(Rotation::detail(from.verifier_key(), &new()).unwrap());
        change(&mut detail);
        json!({ "kind": "key.rotated", "detail": detail })
    };
    let upload = |leaves: Vec<Value>, signer: SoftwareKey| {
        let mut log = log(signer);
        let mut raw = Vec::new();
        for leaf in leaves {
            log.entry(&mut raw, leaf);
        }
        raw.extend(log.batch(0, ""));
        raw
    };
    let good = leaf(&old(), &|_| {});
    let other = key(7, &origin).verifier_text();
    for (case, raw, wanted) in [
        (
            "the new key did not agree",
            upload(
                vec![leaf(&old(), &|detail| detail["key"] = other.clone().into())],
                old(),
            ),
            "bad_rotation",
        ),
        (
            "from a key that does not sign",
            upload(vec![leaf(&key(8, &origin), &|_| {})], old()),
            "bad_rotation",
        ),
        (
            "two without a head between them",
            upload(vec![good.clone(), good.clone()], old()),
            "bad_rotation",
        ),
        (
            "the head over it by the new key",
            upload(vec![good.clone()], new()),
            "unknown_key",
        ),
        (
            "without a rotation",
            upload(vec![json!({})], new()),
            "unknown_key",
        ),
    ] {
        assert_eq!(code(bench.upload(&raw).await), wanted, "{case}");
    }
    // A later head by the old key, in the same upload.
    let mut rotated = log(old());
    let mut raw = rotated.rotation(new());
    rotated.key = old();
    raw.extend(rotated.batch(1, "still the old one"));
    assert_eq!(code(bench.upload(&raw).await), "unknown_key");

    assert!(bench.said("key.rotated").is_empty());
    assert_eq!(bench.leaves(), 3);
    bench.running.stop().await.unwrap();
}

/// The verifier calls a log tampered that does this: nothing must be accepted that can never be verified.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_rotated_away_never_comes_back_in_one_upload_or_after_a_restart() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let log = |bench: &Bench, seed| Log {
        origin: origin.clone(),
        key: key(seed, &origin),
        frontier: bench.log.frontier.clone(),
        chain: bench.log.chain,
        in_batch: 0,
    };
    let mut back = log(&bench, 5);
    let mut raw = back.rotation(key(6, &origin));
    raw.extend(back.rotation(key(5, &origin)));
    assert_eq!(code(bench.upload(&raw).await), "bad_rotation");
    for next in [6, 7] {
        let raw = bench.log.rotation(key(next, &origin));
        bench.upload(&raw).await.unwrap();
        bench = bench.restart().await;
    }
    for before in [5, 6] {
        let raw = log(&bench, 7).rotation(key(before, &origin));
        assert_eq!(code(bench.upload(&raw).await), "bad_rotation", "{before}");
    }
    let raw = bench.log.rotation(key(8, &origin));
    bench.upload(&raw).await.unwrap();
    assert_eq!(bench.said("key.rotated").len(), 3);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_withheld_cannot_come_late() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let from = bench.log.frontier.size();
    let hidden = bench.log.rotation(key(6, &origin));
    let (mut hashes, mut only_hashes) = (Vec::new(), Vec::new());
    for record in jurat_proof::RecordReader::new(&hidden) {
        match record.unwrap() {
            Record::Entry(entry) => hashes.push(jurat_proof::leaf_hash(entry).0),
            Record::Checkpoint(note) => {
                let hashes = &hashes;
                write_record(&mut only_hashes, &Record::Leaves { from, hashes });
                write_record(&mut only_hashes, &Record::Checkpoint(note));
            }
            _ => {}
        }
    }
    bench.upload(&only_hashes).await.unwrap();
    // Nobody said that another key signs: the old one goes on.
    bench.log.key = key(5, &origin);
    let next = bench.log.batch(1, "b");
    bench.upload(&next).await.unwrap();
    assert_eq!(code(bench.upload(&hidden).await), "bad_rotation");
    assert!(bench.said("key.rotated").is_empty());
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_uploads_nothing_more_whether_the_collector_runs_or_not() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let revoke = |device: &str| Order::Revoke {
        device: device.into(),
        reason: "stolen laptop".into(),
        epoch: None,
        key: None,
    };
    let order = revoke(DEVICE);
    let wrong = bench
        .collector
        .operate::<Value>("wrong", "/v1/admin/orders", Some(&order));
    assert_eq!(code(wrong.await), "wrong_token");
    let wrong = bench
        .collector
        .operate::<Value>("wrong", "/v1/admin/devices", None::<&()>);
    assert_eq!(code(wrong.await), "wrong_token");
    let token = &bench.enrolled.token;
    let device_token = bench
        .collector
        .operate::<Value>(token, "/v1/admin/devices", None::<&()>);
    assert_eq!(code(device_token.await), "wrong_token");
    let nobody = "91111111-2222-4333-8444-555555555555";
    assert_eq!(code(bench.order(revoke(nobody)).await), "unknown_device");
    // Its folder is the running collector's.
    let runs = carry_out(&bench.host, bench.dir.path(), revoke(DEVICE));
    assert!(matches!(runs, Err(AdminError::Runs { .. })), "{runs:?}");

    let leaf = bench.order(revoke(DEVICE)).await.unwrap();
    let (kind, detail) = bench.own_leaves().remove(leaf as usize);
    assert_eq!(kind, "key.revoked");
    let wanted = json!({
        "origin": bench.log.origin, "key": bench.log.key.verifier_text(), "reason": "stolen laptop",
    });
    assert_eq!(detail, wanted);
    // Ordered again, it stands where it stood.
    assert_eq!(bench.order(revoke(DEVICE)).await.unwrap(), leaf);
    let next = bench.log.batch(2, "b");
    assert_eq!(code(bench.upload(&next).await), "revoked");
    let bench = bench.restart().await;
    assert_eq!(code(bench.upload(&next).await), "revoked");
    let standing = bench.device().await.epochs[0].standing.clone();
    let reason = "stolen laptop".into();
    assert_eq!(standing, [Standing::Revoked { leaf, reason }]);
    assert_eq!(bench.said("key.revoked").len(), 1);
    assert_eq!(bench.leaves(), 3);

    // Not running: the folder is opened, and says the same.
    let (dir, host) = (bench.dir, bench.host);
    bench.running.stop().await.unwrap();
    assert_eq!(
        carry_out(&host, dir.path(), revoke(DEVICE)).unwrap().leaf,
        leaf
    );
    assert!(matches!(
        carry_out(&host, dir.path(), revoke(nobody)),
        Err(AdminError::Unknown(_))
    ));
    assert_eq!(
        devices(&host, dir.path()).unwrap()[0].epochs[0]
            .standing
            .len(),
        1
    );
    let address = Address::load(&host, dir.path()).unwrap();
    assert_eq!(address.domain, "dev.invalid");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        devices(&host, empty.path()),
        Err(AdminError::Missing { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_gone_before_anything_came_of_them_give_way_to_others_when_the_operator_says_so()
 {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let head = bench.head();
    let [gone, other] = [30, 31].map(|seed| key(seed, "unnamed"));
    let consent = |to: &SoftwareKey| bench.log.key.consent_to(&to.public_key()).ok();
    let (of_gone, of_other) = (consent(&gone), consent(&other));
    bench
        .enrol_again(&gone, head.clone(), of_gone)
        .await
        .unwrap();
    let refused = bench
        .enrol_again(&other, head.clone(), of_other.clone())
        .await;
    assert_eq!(code(refused), "epoch_closed");
    let allow = || Order::AllowReenrolment {
        device: DEVICE.into(),
    };
    bench.order(allow()).await.unwrap();
    let enrolled = bench
        .enrol_again(&other, head.clone(), of_other.clone())
        .await
        .unwrap();
    let next_origin = format!("dev.invalid/jurat/{DEVICE}/1");
    assert_eq!(enrolled.origin, next_origin);
    let said = bench.said("device.enrolled").remove(2);
    assert_eq!(
        (&said["epoch"], &said["allowed_by"]),
        (&json!(1), &json!("operator"))
    );
    assert!(
        said["instead_of"]
            .as_str()
            .unwrap()
            .starts_with(&next_origin)
    );
    // Once: and with leaves in it, never again.
    let third = key(32, "unnamed");
    let refused = bench.enrol_again(&third, head.clone(), None).await;
    assert_eq!(code(refused), "epoch_closed");
    let bench = bench.restart().await;
    let mut next = Log::new(&next_origin);
    next.key = key(31, &next_origin);
    let body = compressed(&next.batch(2, "b"));
    let client = bench.client_of(DEVICE, &enrolled);
    let accepted = send(&client, &bench.host, DEVICE, &enrolled, body).await;
    assert_eq!(accepted.unwrap().size, 3);
    bench.order(allow()).await.unwrap();
    let refused = bench.enrol_again(&third, head, None).await;
    assert_eq!(code(refused), "epoch_closed");
    let epochs = bench.device().await.epochs;
    let standing = epochs.iter().map(|epoch| epoch.standing[0].clone());
    let standing: Vec<_> = standing.collect();
    assert_eq!(standing, [Standing::Active, Standing::Closed { by: 1 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_epoch_needs_the_old_keys_consent_or_the_operators_and_closes_the_old_one() {
    let mut bench = Bench::start().await;
    let origin = bench.log.origin.clone();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let head = bench.head();
    let new = key(20, "unnamed");
    let consent = bench.log.key.consent_to(&new.public_key()).unwrap();
    let foreign = key(21, &origin).consent_to(&new.public_key()).unwrap();
    let other_key = bench
        .log
        .key
        .consent_to(&key(22, "x").public_key())
        .unwrap();
    for proof in [None, Some(foreign), Some(other_key), Some("?".into())] {
        let refused = bench.enrol_again(&new, head.clone(), proof.clone()).await;
        assert_eq!(code(refused), "not_allowed", "{proof:?}");
    }
    assert_eq!(bench.said("device.enrolled").len(), 1);

    let mut shorter = head.clone();
    (shorter.size, shorter.root) = (1, Digest([1; 32]));
    let enrolled = bench
        .enrol_again(&new, shorter, Some(consent.clone()))
        .await
        .unwrap();
    let next_origin = format!("dev.invalid/jurat/{DEVICE}/1");
    assert_eq!(enrolled.origin, next_origin);
    let said = bench.said("device.enrolled").remove(1);
    assert_eq!(said["epoch"], 1);
    assert_eq!(said["predecessor"]["origin"], origin);
    // Never refused silently: what was archived is more, and the leaf says so.
    assert_eq!(said["head"], "shorter than archived");
    assert_eq!(
        said["archived"],
        json!({ "size": head.size, "root": head.root })
    );
    assert_eq!(said["allowed_by"], "key");

    // Its answer was lost: the same request is answered again, with secrets that count from now on.
    let again = bench
        .enrol_again(&new, head.clone(), Some(consent.clone()))
        .await
        .unwrap();
    assert_eq!(again.origin, next_origin);
    assert_ne!(again.token, enrolled.token);
    assert_eq!(bench.said("device.enrolled").len(), 2);
    // Who knows no more than the public key gets none.
    for proof in [None, Some(new.consent_to(&new.public_key()).unwrap())] {
        let refused = bench.enrol_again(&new, head.clone(), proof).await;
        assert_eq!(code(refused), "not_allowed");
    }
    // Another key is another request.
    let thief = key(23, "unnamed");
    let consent = bench.log.key.consent_to(&thief.public_key()).unwrap();
    let refused = bench
        .enrol_again(&thief, head.clone(), Some(consent.clone()))
        .await;
    assert_eq!(code(refused), "epoch_closed");

    let late = bench.log.batch(1, "late");
    assert_eq!(code(bench.upload(&late).await), "epoch_closed");
    let bench = bench.restart().await;
    assert_eq!(code(bench.upload(&late).await), "epoch_closed");
    let mut next = Log::new(&next_origin);
    next.key = key(20, &next_origin);
    let body = compressed(&next.batch(2, "b"));
    let accepted = send(&bench.collector, &bench.host, DEVICE, &again, body).await;
    assert_eq!(accepted.unwrap().size, 3);
    let device = bench.device().await;
    let standing: Vec<_> = device
        .epochs
        .iter()
        .map(|epoch| &epoch.standing[0])
        .collect();
    assert_eq!(standing, [&Standing::Active, &Standing::Closed { by: 1 }]);
    assert_eq!(
        bench
            .running
            .with_archive(|archive| archive.stats().devices),
        1
    );
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consent_of_a_revoked_key_counts_no_more_and_the_operators_counts_once() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let device = || DEVICE.to_owned();
    let revoke = || Order::Revoke {
        device: device(),
        reason: "stolen".to_owned(),
        epoch: None,
        key: None,
    };
    // What was allowed before is not any more.
    bench
        .order(Order::AllowReenrolment { device: device() })
        .await
        .unwrap();
    bench.order(revoke()).await.unwrap();
    let new = key(20, "unnamed");
    let consent = bench.log.key.consent_to(&new.public_key()).unwrap();
    let refused = bench
        .enrol_again(&new, bench.head(), Some(consent.clone()))
        .await;
    assert_eq!(code(refused), "not_allowed");
    bench
        .order(Order::AllowReenrolment { device: device() })
        .await
        .unwrap();
    // Nor when it is said of a key that is revoked already.
    bench.order(revoke()).await.unwrap();
    let refused = bench.enrol_again(&new, bench.head(), None).await;
    assert_eq!(code(refused), "not_allowed");
    bench
        .order(Order::AllowReenrolment { device: device() })
        .await
        .unwrap();
    assert_eq!(bench.said("reenrolment.allowed").len(), 3);
    let bench = bench.restart().await;
    bench
        .enrol_again(&new, bench.head(), Some(consent))
        .await
        .unwrap();
    let said = bench.said("device.enrolled").remove(1);
    assert_eq!(
        (&said["allowed_by"], &said["head"]),
        (&json!("operator"), &json!("archived"))
    );
    // The answer once more: the allowance was for one, and the revoked key does not count here either.
    let consent = bench.log.key.consent_to(&new.public_key()).unwrap();
    for proof in [None, Some(consent)] {
        let refused = bench.enrol_again(&new, bench.head(), proof).await;
        assert_eq!(code(refused), "not_allowed");
    }
    bench
        .order(Order::AllowReenrolment { device: device() })
        .await
        .unwrap();
    let again = bench.enrol_again(&new, bench.head(), None).await.unwrap();
    assert_eq!(bench.said("device.enrolled").len(), 2);
    let refused = bench.enrol_again(&new, bench.head(), None).await;
    assert_eq!(code(refused), "not_allowed");
    let mut next = Log::new(&again.origin);
    next.key = key(20, &again.origin);
    let body = compressed(&next.batch(2, "b"));
    let accepted = send(&bench.collector, &bench.host, DEVICE, &again, body).await;
    assert_eq!(accepted.unwrap().size, 3);

    let mut head = bench.head();
    head.origin = format!("dev.invalid/jurat/{DEVICE}/1");
    let refused = bench.enrol_again(&key(24, "unnamed"), head, None).await;
    assert_eq!(code(refused), "not_allowed");
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_comes_back_after_another_is_said_to_be_a_clone_once() {
    let bench = Bench::start().await;
    let (a, b) = ("a".repeat(32), "b".repeat(32));
    for boot in [&a, &a, &b] {
        bench.ask_as(boot).await.unwrap();
    }
    assert!(bench.said("clone.detected").is_empty(), "a restart");
    for boot in ["", "a b", "a&b", &"c".repeat(65)] {
        let refused = bench.ask_as(boot).await;
        assert!(refused.is_err(), "{boot}");
    }
    let mut bench = {
        bench.ask_as(&a).await.unwrap();
        bench.restart().await
    };
    for boot in [&b, &a, &b] {
        bench.ask_as(boot).await.unwrap();
    }
    let said = bench.said("clone.detected");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["boots"], json!([a, b]));
    assert_eq!(said[0]["origin"], bench.log.origin);
    let boots = vec![[a, b]];
    assert_eq!(
        bench.device().await.epochs[0].standing,
        [Standing::Cloned { boots }]
    );

    // What entries say is compared in the order of the log.
    let mut raw = Vec::new();
    for boot in ["1", "1", "2"] {
        bench.log.entry(&mut raw, json!({ "boot": boot }));
    }
    raw.extend(bench.log.batch(0, ""));
    bench.upload(&raw).await.unwrap();
    assert_eq!(bench.said("clone.detected").len(), 1);
    let mut raw = Vec::new();
    bench.log.entry(&mut raw, json!({ "boot": "1" }));
    raw.extend(bench.log.batch(0, ""));
    bench.upload(&raw).await.unwrap();
    let said = bench.said("clone.detected");
    assert_eq!(said[1]["seen_in"], "entries");
    bench.running.stop().await.unwrap();
}

/// Waits until the collector's own log says it.
async fn until(bench: &Bench, kind: &str, times: usize) -> Vec<Value> {
    for _ in 0..200 {
        let said = bench.said(kind);
        if said.len() >= times {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never said: {kind}, {times} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_falls_silent_is_said_to_be_once_and_again_when_it_is_back() {
    let clock = Arc::new(FixedClock::new(1_790_000_000));
    let host = Host {
        clock: clock.clone(),
        ..Host::real()
    };
    let mut bench = Bench::start_at(host).await;
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    clock.advance_s(800);
    // Asking is a sign of life.
    bench.ask_as("a").await.unwrap();
    clock.advance_s(800);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(bench.said("device.silent").is_empty());
    clock.advance_s(200);
    let said = until(&bench, "device.silent", 1).await;
    assert_eq!(said[0]["origin"], bench.log.origin);
    assert_eq!(said[0]["heard_at"], 1_790_000_800);
    let since = 1_790_000_800;
    assert_eq!(
        bench.device().await.epochs[0].standing,
        [Standing::Silent { since }]
    );
    // Not repeated, however long it stays so and whatever is restarted.
    clock.advance_s(5_000);
    let mut bench = bench.restart().await;
    clock.advance_s(5_000);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(bench.said("device.silent").len(), 1);
    let next = bench.log.batch(1, "b");
    bench.upload(&next).await.unwrap();
    until(&bench, "device.returned", 1).await;
    assert_eq!(bench.device().await.epochs[0].standing, [Standing::Active]);
    clock.advance_s(1_000);
    until(&bench, "device.silent", 2).await;
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_settings_stands_in_the_collectors_log_once() {
    let bench = Bench::start().await;
    let bench = bench.restart().await.restart().await;
    let first = bench.said("policy.changed");
    assert_eq!(first.len(), 1);
    let mut settings =
        Settings::dev(&bench.host, bench.dir.path(), ([127, 0, 0, 1], 0).into()).unwrap();
    settings.silent_after_s = 0;
    let Bench {
        running, dir, host, ..
    } = bench;
    running.stop().await.unwrap();
    let running = Builder::new(settings).start().await.unwrap();
    running.stop().await.unwrap();
    let mut reader = Reader::open(host.disk, &dir.path().join("archive"), 0).unwrap();
    let mut policies = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == 3 {
            let entry: Value = serde_json::from_slice(item.body).unwrap();
            if entry["kind"] == "policy.changed" {
                policies.push(entry["detail"]["policy"].clone());
            }
        }
    }
    assert_eq!(policies.len(), 2);
    assert_ne!(policies[0], policies[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_key_or_epoch_is_revoked_by_its_name_and_a_wrong_name_is_told_the_right_ones() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let text = |seed| key(seed, &origin).verifier_text();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    for next in [6, 7] {
        let raw = bench.log.rotation(key(next, &origin));
        bench.upload(&raw).await.unwrap();
    }
    let revoke = |epoch, key: Option<&str>| Order::Revoke {
        device: DEVICE.into(),
        reason: "found on a disk that was sold".into(),
        epoch,
        key: key.map(str::to_owned),
    };
    let id = text(5).split('+').nth(1).unwrap().to_owned();
    let leaf = bench.order(revoke(None, Some(&id))).await.unwrap();
    assert_eq!(bench.said("key.revoked")[0]["key"], text(5));
    assert_eq!(
        bench.order(revoke(Some(0), Some(&text(5)))).await.unwrap(),
        leaf
    );
    let [Standing::RevokedBefore { key: found, .. }] = &bench.device().await.epochs[0].standing[..]
    else {
        panic!("only the earlier key")
    };
    assert_eq!(*found, text(5));
    // The key that signs now goes on.
    let next = bench.log.batch(1, "b");
    bench.upload(&next).await.unwrap();
    for wrong in [revoke(None, Some("00000000")), revoke(Some(3), None)] {
        match bench.order(wrong).await {
            Err(CollectorError::Refused { refusal, .. }) => {
                assert_eq!(refusal.code, "no_such_key");
                let mut keys = [5, 6, 7].map(text).into_iter();
                assert!(
                    keys.all(|key| refusal.message.contains(&key)),
                    "{refusal:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // The key of an epoch that is over; the newest one goes on.
    let device = DEVICE.into();
    bench
        .order(Order::AllowReenrolment { device })
        .await
        .unwrap();
    let new = key(20, "unnamed");
    bench.enrolled = bench.enrol_again(&new, bench.head(), None).await.unwrap();
    bench.order(revoke(Some(0), None)).await.unwrap();
    assert_eq!(bench.said("key.revoked")[1]["key"], text(7));
    let second = bench.enrolled.origin.clone();
    bench.log = Log {
        key: key(20, &second),
        ..Log::new(&second)
    };
    let next = bench.log.batch(1, "c");
    bench.upload(&next).await.unwrap();
    let elsewhere = revoke(Some(1), Some(&text(6)));
    assert_eq!(code(bench.order(elsewhere).await), "no_such_key");
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thief_of_an_earlier_key_that_was_revoked_ends_no_cosigning_by_an_upload() {
    let mut bench = Bench::start().await;
    let origin = bench.enrolled.origin.clone();
    let first = bench.log.batch(2, "a");
    bench.upload(&first).await.unwrap();
    let withheld = bench.log.batch(1, "b");
    bench.upload(&only_hashes(&withheld, 3)).await.unwrap();
    let raw = bench.log.rotation(key(6, &origin));
    let size = bench.upload(&raw).await.unwrap().size;
    let revoke = Order::Revoke {
        device: DEVICE.into(),
        reason: "stolen".into(),
        epoch: None,
        key: Some(key(5, &origin).verifier_text()),
    };
    bench.order(revoke).await.unwrap();
    // The head at which the key was rotated, and the one over what was withheld: it signed both.
    let rotated_at = Log::new(&origin).batch(size as usize - 1, "forged");
    let mut forged = Log::new(&origin);
    forged.batch(2, "a");
    for forged in [rotated_at, forged.batch(1, "forged")] {
        assert!(matches!(
            bench.upload(&forged).await,
            Err(CollectorError::Conflict { size: found }) if found == size
        ));
    }
    assert!(bench.said("fork.proof").is_empty());
    // What it signed before still comes late, and the log is cosigned.
    let accepted = bench.upload(&withheld).await.unwrap();
    assert_eq!(accepted.leaves_withheld, 0);
    assert_eq!(cosignatures(&accepted), 2);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_uploads_a_longer_history_of_its_own_leaves_a_trace_and_the_log_goes_on() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(3, "a");
    bench.upload(&first).await.unwrap();
    let mut clone = Log::new(&bench.enrolled.origin);
    clone.batch(2, "of the clone");
    clone.batch(0, "");
    let mut heads = Vec::new();
    for _ in 0..2 {
        // Each begins where the archive ends.
        let raw = clone.batch(1, "of the clone");
        heads.push(clone.note(&clone.origin, &clone.key));
        clone = Log::new(&bench.enrolled.origin);
        clone.batch(2, "of another clone");
        clone.batch(0, "");
        assert_eq!(code(bench.upload(&raw).await), "inconsistent");
    }
    let said = bench.said("fork.proof");
    assert_eq!(said.len(), 1, "the first one");
    assert_eq!(said[0]["contradicts"], heads[0]);
    assert_eq!(
        (&said[0]["transferable"], &said[0]["goes_on"]),
        (&json!(false), &json!(true))
    );
    for _ in 0..2 {
        let next = bench.log.batch(1, "b");
        let accepted = bench.upload(&next).await.unwrap();
        assert_eq!(cosignatures(&accepted), 2);
        let [Standing::Disputed { .. }] = &bench.device().await.epochs[0].standing[..] else {
            panic!("not forked, and not forgotten after a restart")
        };
        bench = bench.restart().await;
    }
    let stats = bench.running.with_archive(jurat_collector::Archive::stats);
    assert_eq!(stats.forks, 0);
    bench.running.stop().await.unwrap();
}

/// Signatures of others than the device under what was accepted.
fn cosignatures(accepted: &Accepted) -> usize {
    let lines = accepted.note.lines();
    lines.filter(|line| line.starts_with('\u{2014}')).count() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_proof_says_whether_it_convinces_others() {
    let mut bench = Bench::start().await;
    let mut forked = Log::new(&bench.enrolled.origin);
    let first = bench.log.batch(3, "a");
    bench.upload(&first).await.unwrap();
    let other = forked.batch(3, "b");
    assert_eq!(code(bench.upload(&other).await), "fork");
    assert_eq!(bench.said("fork.proof")[0]["transferable"], true);
    assert_eq!(bench.device().await.epochs[0].standing, [Standing::Forked]);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_entries_under_a_genuine_head_are_refused_and_do_not_close_the_log() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(3, "a");
    bench.upload(&first).await.unwrap();
    let right = bench.log.batch(1, "a");
    let head = bench.log.note(&bench.log.origin, &bench.log.key);
    // Other entries of the same length, whose own head is exchanged for the genuine one.
    let mut other = Log::new(&bench.enrolled.origin);
    other.batch(3, "a");
    let mut wrong = other.batch(1, "b");
    wrong.truncate(wrong.len() - head.len() - 5);
    write_record(&mut wrong, &Record::Checkpoint(head.as_bytes()));
    assert_eq!(code(bench.upload(&wrong).await), "root_mismatch");
    let stats = bench.running.with_archive(jurat_collector::Archive::stats);
    assert_eq!((stats.forks, stats.refused["root_mismatch"]), (0, 1));
    // Nobody can tell it from another history until the right ones come.
    let leaf = bench.own_leaves().len() as u64 - 1;
    let standing = bench.device().await.epochs[0].standing.clone();
    assert_eq!(standing, [Standing::Disputed { leaf }]);
    let accepted = bench.upload(&right).await.unwrap();
    assert_eq!(cosignatures(&accepted), 2, "the witness's, the archive's");
    assert_eq!(bench.device().await.epochs[0].standing, [Standing::Active]);
    // Two heads that contradict each other still do.
    let mut forked = Log::new(&bench.enrolled.origin);
    forked.batch(3, "a");
    let another = forked.batch(1, "c");
    assert_eq!(code(bench.upload(&another).await), "fork");
    assert_eq!(bench.device().await.epochs[0].standing, [Standing::Forked]);
    bench.running.stop().await.unwrap();
}

/// What the collector's folder holds must not be readable by others.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_token_is_a_secret_file_that_a_restart_keeps() {
    let bench = Bench::start().await;
    let path = bench.dir.path().join("admin.token");
    let before = Secret::load(&bench.host, &path).unwrap().to_base64();
    let bench = bench.restart().await;
    assert_eq!(
        Secret::load(&bench.host, &path).unwrap().to_base64(),
        before
    );
    bench.running.stop().await.unwrap();
}
