//! The life of the device's key: rotation while the endpoint runs and while it does not, the next epoch,
//! receipts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jurat_agent::{
    AgentError, EnrolError, EnrolOptions, Enrolment, Finish, Query, RotateError, Rotated,
    enroll_again, query, read_status, rotate_key,
};
use jurat_collector::{Archive, Order, Standing};
use jurat_disk::Host;
use jurat_key::{LogKey, Secret};
use jurat_ledger::Reader;
use jurat_proof::{
    Checkpoint, EntryView, Frontier, Note, Receipt, Rotation, VerifierKey, inclusion_proof,
    leaf_hash,
};
use jurat_seal::kind;
use jurat_testkit::Answer;
use serde_json::{Value, json};

use crate::site::{Site, patient, quick};

fn file_key(home: &Path, name: &str, origin: &str) -> Option<String> {
    let key = LogKey::load(&Host::real(), &home.join("keys").join(name)).ok()?;
    Some(key.signer(origin).unwrap().verifier_key().to_string())
}

impl Site {
    fn rotate(&self, wait: Duration) -> Result<Rotated, RotateError> {
        rotate_key(&Host::real(), &self.config, &self.state(), wait)
    }

    fn sealed(home: &Path, wanted: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let asked = Query {
            kind: Some(wanted.into()),
            ..Query::default()
        };
        let disk = Host::real().disk;
        query(disk, home, &asked, &mut |_, entry, _| {
            found.push(entry.clone());
            true
        })
        .unwrap();
        found
    }

    /// The keys of this ledger in order of their first head, read as a stranger who knows the first.
    fn history(home: &Path, origin: &str) -> Vec<String> {
        let mut reader = Reader::open(Host::real().disk, &home.join("ledger"), 0).unwrap();
        let mut keys: Vec<VerifierKey> = Vec::new();
        let mut pending = None;
        while let Some(item) = reader.next_record().unwrap() {
            if item.kind == kind::ENTRY {
                let view = EntryView::parse(item.body).unwrap();
                let detail: serde_json::Map<_, _> = view.detail_map().into_iter().collect();
                if view.seq == 0 {
                    keys.push(VerifierKey::parse(detail["key"].as_str().unwrap()).unwrap());
                } else if view.kind == "key.rotated" {
                    let last = keys.last().unwrap();
                    pending = Some(Rotation::parse(origin, last, &detail).unwrap().key);
                }
            } else if item.kind == kind::CHECKPOINT {
                let note = Note::parse(item.body).unwrap();
                assert_eq!(note.is_signed_by(keys.last().unwrap()), Ok(true));
                keys.extend(pending.take());
            }
        }
        keys.iter().map(ToString::to_string).collect()
    }

    fn key_at_collector(&self) -> String {
        let devices = self.running.with_archive(Archive::devices);
        devices[0].epochs[0].key.clone()
    }

    fn again(&self) -> Result<jurat_agent::Again, EnrolError> {
        let collector = self.dir.path().join("collector");
        let token = fs::read_to_string(collector.join("enroll.token")).unwrap();
        let options = EnrolOptions {
            pins: Vec::new(),
            key: jurat_agent::KeyPlace::Software,
            url: self.enrolment.url.clone(),
            token: token.trim().to_owned(),
            ca: None,
        };
        let host = Host::real();
        let state = self.state();
        self.block_on(enroll_again(&host, &state, &options))
    }

    /// Orders something, as the operator of the collector that runs.
    fn order(&self, order: &Order) {
        let dir = self.dir.path().join("collector");
        let token = fs::read_to_string(dir.join("admin.token")).unwrap();
        let ca = fs::read(dir.join("ca.pem")).unwrap();
        let set_up = jurat_sink::SetUp {
            url: format!("https://localhost:{}", self.running.address.port()),
            tls: jurat_key::tls::client(Some(&ca)).unwrap(),
            timeout: Duration::from_secs(10),
        };
        let collector = jurat_sink::Collector::new(set_up).unwrap();
        let asked = collector.operate::<Value>(token.trim(), "/v1/admin/orders", Some(order));
        self.block_on(asked).unwrap();
    }
}

#[test]
fn a_key_rotated_while_nothing_runs_signs_from_then_on_and_the_old_one_is_gone_once_delivered() {
    let mut site = Site::start(quick());
    let origin = site.enrolment.origin.clone();
    let state = site.state();
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let first = file_key(&state, "log.key", &origin).unwrap();
    let old_seed = fs::read(state.join("keys/log.key")).unwrap();
    let rotated = site.rotate(Duration::ZERO).unwrap();
    assert_ne!(rotated.key, first);
    assert_eq!(
        Site::history(&state, &origin),
        [first.clone(), rotated.key.clone()]
    );
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(site.key_at_collector(), rotated.key);
    // The next start finds that the collector has the last head of the old key.
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(
        file_key(&state, "log.key", &origin),
        Some(rotated.key.clone())
    );
    assert!(!state.join("keys/log.next.key").exists());
    for entry in fs::read_dir(state.join("keys")).unwrap() {
        let held = fs::read(entry.unwrap().path()).unwrap();
        assert!(held != old_seed, "the old seed is still here");
    }
    let again = site.rotate(Duration::ZERO).unwrap();
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let keys = [first, rotated.key, again.key.clone()];
    assert_eq!(Site::history(&state, &origin), keys);
    assert_eq!(site.key_at_collector(), again.key);
    // Who trusts the first key alone follows them all, from the archive and from the device.
    let found = site.report().keys.into_iter().map(|span| span.key);
    assert_eq!(found.collect::<Vec<_>>(), keys);
    site.assert_whole("the key was rotated twice");
    assert_eq!(
        site.refused("unknown_key") + site.refused("bad_rotation"),
        0
    );
}

#[test]
fn an_endpoint_that_runs_takes_the_request_up_and_answers() {
    let mut site = Site::start(quick());
    let (origin, state) = (site.enrolment.origin.clone(), site.state());
    site.write(5);
    let done = AtomicBool::new(false);
    let site = &site;
    let rotated = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            site.run(Finish::Never, |status| {
                done.load(Ordering::Acquire) && status.delivered == status.size
            })
        });
        while read_status(&*Host::real().disk, &state).unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let rotated = site.rotate(Duration::from_secs(60));
        done.store(true, Ordering::Release);
        running.join().unwrap().unwrap();
        rotated.unwrap()
    });
    assert_eq!(Site::history(&state, &origin).last(), Some(&rotated.key));
    assert!(!state.join("rotate-key.request").exists());
}

#[test]
fn a_request_that_nobody_answered_waits_and_is_carried_out_once() {
    let mut site = Site::start(quick());
    let (origin, state) = (site.enrolment.origin.clone(), site.state());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    // Another process holds the ledger and does not answer.
    let lock = Host::real().disk.lock(&state.join("ledger/lock")).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            site.rotate(Duration::ZERO),
            Err(RotateError::Asked)
        ));
    }
    drop(lock);
    site.run(Finish::Never, |_| {
        !state.join("rotate-key.request").exists()
    })
    .unwrap();
    assert_eq!(Site::history(&state, &origin).len(), 2);
}

#[test]
fn a_second_rotation_while_the_first_is_not_delivered_is_refused_and_not_called_done() {
    let mut site = Site::start(quick());
    let (origin, state) = (site.enrolment.origin.clone(), site.state());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    site.peer.script(Box::new(|_| Answer::status(503, "", b"")));
    let first = site.rotate(Duration::ZERO).unwrap();
    for _ in 0..2 {
        let refused = site.rotate(Duration::ZERO);
        let size = match refused {
            Err(RotateError::UnderWay { size }) => size,
            other => panic!("{other:?}"),
        };
        assert_eq!(size, first.size);
    }
    assert_eq!(Site::history(&state, &origin).last(), Some(&first.key));
    assert!(!state.join("rotate-key.request").exists());
    site.peer.script(Box::new(|_| Answer::Pass));
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    // At once: nothing ran since the collector has it.
    let request = state.join("rotate-key.request");
    let second = site.rotate(Duration::ZERO).unwrap();
    // The power went between the answer and the end of the request: it is not carried out again.
    let answer = fs::read(state.join("rotate-key.answer")).unwrap();
    let answered: Value = serde_json::from_slice(&answer).unwrap();
    let again = json!({ "id": answered["id"] }).to_string();
    for delivered in [false, true] {
        fs::write(&request, &again).unwrap();
        site.run(Finish::WhenDelivered, |_| false).unwrap();
        assert!(!request.exists());
        let kept = fs::read(state.join("rotate-key.answer")).unwrap();
        assert_eq!(kept, answer, "delivered: {delivered}");
    }
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let keys = Site::history(&state, &origin);
    assert_eq!(keys[1..], [first.key, second.key.clone()]);
    assert_eq!(site.key_at_collector(), second.key);
}

#[test]
fn a_rotation_that_a_crash_cut_off_after_its_key_was_made_goes_on_with_that_key() {
    let mut site = Site::start(quick());
    let (origin, state) = (site.enrolment.origin.clone(), site.state());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let next = state.join("keys/log.next.key");
    LogKey::load_or_create(&Host::real(), &next).unwrap();
    let made = file_key(&state, "log.next.key", &origin).unwrap();
    // A key that was made and never named signs nothing.
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(Site::history(&state, &origin).len(), 1);
    let rotated = site.rotate(Duration::ZERO).unwrap();
    assert_eq!(rotated.key, made);
    // The power goes while the old key is wiped: the file is there, and no key any more.
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    if next.exists() {
        Secret::wipe(&Host::real(), &state.join("keys/log.key")).unwrap();
    }
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(site.key_at_collector(), made);
}

#[test]
fn a_rotation_that_is_refused_is_not_set_aside() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    // Nothing goes out while it is rotated.
    site.peer.script(Box::new(|_| Answer::status(503, "", b"")));
    site.config.delivery = patient();
    site.rotate(Duration::ZERO).unwrap();
    site.config.delivery = quick();
    // All together is refused; the batch before the rotation is taken; the rotation never is.
    site.peer.script(Box::new(|number| {
        let body = br#"{"code":"too_large","message":"no"}"#;
        match number {
            1 => Answer::Pass,
            _ => Answer::status(413, "content-type: application/json\r\n", body),
        }
    }));
    let mut refusals = 0;
    site.run(Finish::WhenDelivered, |status| {
        refusals +=
            u32::from((status.problem.as_deref()).is_some_and(|what| what.contains("rotation")));
        refusals > 0
    })
    .unwrap();
    assert!(refusals > 0);
    site.peer.script(Box::new(|_| Answer::Pass));
    site.write(3);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let origin = site.enrolment.origin.clone();
    let keys = Site::history(&site.state(), &origin);
    assert_eq!(keys.last(), Some(&site.key_at_collector()));
}

#[test]
fn the_next_epoch_names_the_last_head_and_reads_nothing_twice() {
    let mut site = Site::start(quick());
    site.write(20);
    // Not everything was delivered when the old epoch ends.
    site.run(Finish::WhenSealed, |_| false).unwrap();
    let state = site.state();
    let old = site.enrolment.clone();
    let trust = fs::read_to_string(state.join("trust.txt")).unwrap();
    let again = site.again().unwrap();
    assert_eq!((again.undelivered, &again.why), (0, &None));
    assert_eq!(
        again.enrolment.origin,
        format!("{}1", old.origin.strip_suffix('0').unwrap())
    );
    assert_eq!(again.predecessor, old.origin);
    site.enrolment = again.enrolment;
    let home = state.join("epochs/1");
    assert_eq!(site.enrolment.home(&state), home);

    site.write(5);
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(
        (status.delivered, &status.origin),
        (status.size, &site.enrolment.origin)
    );
    // Every line once: in the old log or in the new one.
    let prompts = |home: &Path| Site::sealed(home, "transcript.record").len();
    assert_eq!((prompts(&state), prompts(&home)), (20, 5));
    let opened = Site::sealed(&home, "log.opened").remove(0);
    let held = jurat_seal::last_signed(&Host::real(), &state.join("ledger")).unwrap();
    assert_eq!(opened["detail"]["epoch"], 1);
    let before = &opened["detail"]["predecessor"];
    assert_eq!(before["origin"], old.origin);
    assert_eq!(
        (&before["size"], &before["root"]),
        (&held.0.into(), &held.1.to_string().into())
    );
    assert!(opened["detail"].get("undelivered").is_none());
    let devices = site.running.with_archive(Archive::devices);
    assert_eq!(devices[0].epochs[1].size, held.0);
    assert_eq!(devices[0].epochs[1].standing, [Standing::Closed { by: 1 }]);
    // Both logs stay believed.
    let now = fs::read_to_string(state.join("trust.txt")).unwrap();
    let log = trust.lines().find(|line| line.starts_with("log ")).unwrap();
    assert!(now.contains(log));
    assert_eq!(
        now.lines().filter(|line| line.starts_with("log ")).count(),
        2
    );
    // And a rotation in the new epoch.
    let rotated = site.rotate(Duration::ZERO).unwrap();
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(site.key_at_collector(), rotated.key);
}

#[test]
fn what_the_next_epoch_cannot_deliver_is_said_to_be_missing_and_read_again() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let delivered = site.running.with_archive(|archive| archive.stats().leaves);
    let device = || site.enrolment.device.clone();
    let reason = "stolen".to_owned();
    let revoke = Order::Revoke {
        device: device(),
        reason,
        epoch: None,
        key: None,
    };
    let allow = Order::AllowReenrolment { device: device() };
    site.order(&revoke);
    site.write(7);
    let mut seen = None;
    site.run(Finish::WhenDelivered, |status| {
        seen = seen.take().or_else(|| status.problem.clone());
        seen.is_some()
    })
    .unwrap();
    assert!(seen.unwrap().contains("revoked"));
    let refused = site.again().unwrap_err();
    assert!(
        refused.to_string().contains("allow-reenrolment"),
        "{refused}"
    );
    // Until it is allowed the old epoch goes on as it was.
    assert_eq!(
        Enrolment::load(&Host::real(), &site.state()).unwrap(),
        site.enrolment
    );
    site.order(&allow);
    let again = site.again().unwrap();
    assert!(
        again
            .why
            .as_deref()
            .is_some_and(|why| why.contains("revoked")),
        "{again:?}"
    );
    let state = site.state();
    let held = jurat_seal::last_signed(&Host::real(), &state.join("ledger"))
        .unwrap()
        .0;
    assert_eq!(again.undelivered, held - delivered);
    site.enrolment = again.enrolment;
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let home = state.join("epochs/1");
    let opened = Site::sealed(&home, "log.opened").remove(0);
    assert_eq!(opened["detail"]["undelivered"], again.undelivered);
    assert_eq!(
        Site::sealed(&home, "transcript.record").len(),
        12,
        "all of it again"
    );
}

#[test]
fn an_answer_lost_while_enrolling_again_is_asked_for_again() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let state = site.state();
    let before = fs::read(state.join("enrolment.json")).unwrap();
    site.again().unwrap();
    // The crash: the collector has closed the old epoch, and nothing here says so.
    fs::write(state.join("enrolment.json"), before).unwrap();
    fs::remove_file(state.join("epochs/1/keys/token.key")).unwrap();
    let again = site.again().unwrap();
    site.enrolment = again.enrolment;
    site.write(5);
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(status.delivered, status.size);
    // While it runs, its ledger is not taken away.
    let home = state.join("epochs/1");
    let lock = Host::real().disk.lock(&home.join("ledger/lock")).unwrap();
    assert!(matches!(site.again(), Err(EnrolError::Running)));
    drop(lock);
}

#[test]
fn a_device_whose_ledger_was_set_back_goes_on_in_a_new_epoch() {
    let mut site = Site::start(quick());
    site.write(5);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let state = site.state();
    fs::remove_dir_all(state.join("ledger")).unwrap();
    fs::remove_dir_all(state.join("cursors")).unwrap();
    let refused = site.run(Finish::WhenDelivered, |_| false);
    assert!(
        matches!(refused, Err(AgentError::RolledBack { .. })),
        "{refused:?}"
    );
    let again = site.again().unwrap();
    site.enrolment = again.enrolment;
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(status.delivered, status.size);
    assert_eq!(
        Site::sealed(&state.join("epochs/1"), "transcript.record").len(),
        5
    );
}

/// Makes receipts as a collector does, from its folder and with its key.
fn receipt(collector: &Path, size: u64) -> Option<Vec<u8>> {
    let host = Host::real();
    let mut reader = Reader::open(host.disk.clone(), &collector.join("archive"), 0).unwrap();
    let (mut entries, mut found) = (Vec::new(), None);
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == 3 {
            let view = EntryView::parse(item.body).unwrap();
            let of_size = view.detail_map().get("size") == Some(&size.into());
            if view.kind == "frontier.accepted" && of_size {
                found = Some(entries.len());
            }
            entries.push(item.body.to_vec());
        }
    }
    let index = found?;
    let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
    let mut frontier = Frontier::default();
    frontier.extend(&leaves);
    let name = "dev.invalid/jurat/collector/0";
    let key = LogKey::load(&host, &collector.join("keys/log.key")).unwrap();
    let head = Checkpoint {
        origin: name.into(),
        size: frontier.size(),
        root: frontier.root(),
    };
    let receipt = Receipt {
        entry: entries.swap_remove(index),
        index: index as u64,
        proof: inclusion_proof(&leaves, index).unwrap(),
        note: head.sign(&*key.signer(name).unwrap()).unwrap(),
    };
    Some(receipt.encode().into_bytes())
}

/// What the collector answers when it is asked for receipts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Offers {
    Good,
    Nothing,
    /// Of another head.
    Another,
}

impl Site {
    fn offer(&self, offers: Offers) {
        let collector: PathBuf = self.dir.path().join("collector");
        self.peer.receipts(Box::new(move |size| {
            let receipt = match offers {
                Offers::Good => receipt(&collector, size),
                Offers::Nothing => None,
                Offers::Another => receipt(&collector, size).map(|mut text| {
                    // Genuine, and with a hash changed.
                    let at = text
                        .windows(6)
                        .position(|window| window == b"index ")
                        .unwrap();
                    let flipped = text[at - 10] ^ 1;
                    text[at - 10] = flipped;
                    text
                }),
            };
            match receipt {
                Some(text) => Answer::status(200, "content-type: text/plain\r\n", &text),
                None => Answer::status(404, "", b""),
            }
        }));
    }

    fn with_receipts(mut self) -> Self {
        self.config.delivery.receipt_s = 1;
        self.config.delivery.receipt_missing_s = 1;
        self
    }
}

#[test]
fn an_accepted_head_is_found_in_the_collectors_log_and_a_leaf_says_so_without_end() {
    let mut site = Site::start(quick()).with_receipts();
    site.offer(Offers::Good);
    site.write(5);
    let status = site
        .run(Finish::Never, |status| status.receipt.is_some())
        .unwrap();
    let found = status.receipt.unwrap();
    let said = Site::sealed(&site.state(), "receipt.verified");
    assert_eq!(said.len(), 1, "at the stop");
    let detail = &said[0]["detail"];
    assert_eq!(
        (&detail["size"], &detail["leaf"], &detail["log_size"]),
        (
            &found.size.into(),
            &found.leaf.into(),
            &found.log_size.into()
        )
    );
    assert_eq!(status.receipt_missing, None);
    // A receipt for the head over a receipt: no leaf of its own.
    let mut told = 0;
    site.config.seal.heartbeat_s = 3_600;
    let before = Site::sealed(&site.state(), "").len();
    let status = site
        .run(Finish::Never, |status| {
            told += u32::from(status.receipt.is_some() && status.delivered == status.size);
            told > 2
        })
        .unwrap();
    let after = Site::sealed(&site.state(), "");
    let kinds: Vec<_> = after[before..]
        .iter()
        .map(|entry| entry["kind"].as_str().unwrap())
        .collect();
    // Once since the start, and once at the stop: never in a batch of its own.
    let alone = |pair: &[&str]| pair == ["batch.sealed", "receipt.verified"];
    assert!(!kinds.windows(2).any(alone), "{kinds:?}");
    let batches = kinds.iter().filter(|kind| **kind == "batch.sealed");
    assert_eq!(batches.count(), 2, "{kinds:?}");
    assert!(status.receipt.unwrap().size >= found.size);
}

#[test]
fn a_head_that_does_not_appear_in_the_collectors_log_is_severe_and_said_once() {
    for bad in [Offers::Nothing, Offers::Another] {
        let mut site = Site::start(quick()).with_receipts();
        site.offer(Offers::Good);
        site.write(5);
        site.run(Finish::Never, |status| status.receipt.is_some())
            .unwrap();
        // It gave receipts, and gives none any more: noticed after a restart, too.
        site.offer(bad);
        site.write(5);
        let mut told = 0;
        let status = site
            .run(Finish::Never, |status| {
                told += u32::from(status.receipt_missing.is_some());
                told > 2
            })
            .unwrap();
        assert!(status.receipt_missing.is_some(), "{bad:?}");
        let said = Site::sealed(&site.state(), "receipt.missing");
        assert_eq!(said.len(), 1, "{bad:?}");
        assert_eq!(said[0]["severity"], "high", "{bad:?}");
        site.offer(Offers::Good);
        let status = site
            .run(Finish::Never, |status| status.receipt.is_some())
            .unwrap();
        assert_eq!(status.receipt_missing, None, "{bad:?}");
    }
}

#[test]
fn a_collector_that_gives_no_receipt_from_the_start_is_an_alarm() {
    let mut site = Site::start(quick()).with_receipts();
    site.offer(Offers::Nothing);
    site.write(5);
    let status = site
        .run(Finish::Never, |status| status.receipt_missing.is_some())
        .unwrap();
    assert_eq!(status.receipt, None);
    let said = Site::sealed(&site.state(), "receipt.");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["kind"], "receipt.missing");
}
