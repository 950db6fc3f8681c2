//! Bundles of a device whose keys are in a TPM: what the collector's log says of it, and what its quotes say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::{Receipt, Signer as _, sha256};
use serde_json::{Value, json};

use super::cases::{Case, case, trust};
use super::maker::{
    Bundle, By, KEYS, LOG_OF_LOGS, Log, ORIGIN, T0, archive, entry_of, note, receipt_of, spoilt,
    witness,
};
use super::tpm::{CHIP, Quote, RESTRICTED, Shown, TIME, cosigned, counter, ek_name};

fn hardware() -> By {
    (&KEYS.hardware, 0)
}

fn collector() -> By {
    (&KEYS.collector, 0)
}

/// The last quote of [`quoted`].
const LAST: u64 = 8;

/// A log with four quotes: with the counter and undated, dated, with the counter after a start of the machine, and
/// one that these change before and after it is signed.
fn quoted(change: impl FnOnce(&mut Quote), spoil: impl FnOnce(&mut Value)) -> Log {
    let log = Log::default().opened().said("s", 0).batch();
    let first = (log.size(), log.root());
    let log = log.head(&[hardware(), witness(1, 30)]);
    let mut quote = Quote::of(first);
    quote.counter = Some(counter(7));
    let log = log.entry("attestation.quote", json!({ "detail": quote.detail() }));
    quote.counter = None;
    quote.clock.ms += 1_000;
    quote.clock.restarts += 1;
    quote.after = Some(cosigned(first, 1, 30));
    let log = log.entry("attestation.quote", json!({ "detail": quote.detail() }));
    let log = log.batch_with(json!({ "quote": 4 }));
    let second = (log.size(), log.root());
    let log = log
        .head(&[hardware(), witness(1, 60)])
        .entry("agent.started", json!({}));
    let mut quote = Quote::of(second);
    quote.clock.ms += 2_000;
    quote.clock.resets += 1;
    quote.clock.restarts += 1;
    quote.counter = Some(counter(8));
    quote.after = Some(cosigned(second, 1, 60));
    let log = log.entry("attestation.quote", json!({ "detail": quote.detail() }));
    quote.clock.ms += 1_000;
    quote.clock.restarts += 1;
    quote.counter = None;
    change(&mut quote);
    let mut detail = quote.detail();
    spoil(&mut detail);
    assert_eq!(log.size(), LAST);
    log.entry("attestation.quote", json!({ "detail": detail }))
        .batch_with(json!({ "quote": LAST }))
}

fn good() -> Log {
    quoted(|_| {}, |_| {})
}

/// The fields of the leaf of an enrolment in the collector's log.
fn said(kind: &str, evidence: Option<&Value>) -> Value {
    let mut detail = json!({
        "origin": ORIGIN, "key": KEYS.hardware.verifier_key().to_string(), "key_kind": kind, "hostname": "host",
    });
    if let Some(evidence) = evidence {
        detail["evidence"] = json!(sha256(&[evidence.to_string().as_bytes()]));
        detail["ek"] = ek_name().into();
        detail["tpm"] = json!({
            "manufacturer": "id:4A555241", "model": "Vector", "version": "id:00070000", "virtual": true,
        });
    }
    let mut fields = Log::default().fields("device.enrolled", json!({ "detail": detail }));
    fields["seq"] = 2.into();
    fields
}

fn enrolment(fields: &Value) -> Receipt {
    receipt_of(
        entry_of(fields),
        LOG_OF_LOGS,
        &[collector(), witness(2, 70)],
    )
}

fn bundle_of(log: &Log, from: u64) -> Bundle {
    let head = log.signed_by(&[hardware(), witness(1, 100), archive(101)]);
    log.bundle_under(from, &head)
}

trait Shows {
    fn enrolled(self, receipt: &Receipt) -> Self;
    fn shows(self, evidence: &Value) -> Self;
}

impl Shows for Bundle {
    fn enrolled(self, receipt: &Receipt) -> Self {
        self.before("hashes/000000", "enrolment", receipt.encode())
    }

    fn shows(self, evidence: &Value) -> Self {
        self.before("hashes/000000", "attestation", evidence.to_string())
    }
}

fn believed(name: &str, bundle: Bundle, says: &str) -> Case {
    case(name, bundle, says).trust(Some(trust(&KEYS.hardware.verifier_key().to_string())))
}

/// A bundle of this log, with all that the collector gives to it.
fn attested(name: &str, log: &Log, says: &str) -> Case {
    let evidence = Shown::default().json();
    let receipt = enrolment(&said("tpm-verified", Some(&evidence)));
    believed(
        name,
        bundle_of(log, 0).enrolled(&receipt).shows(&evidence),
        says,
    )
}

pub(super) fn all() -> Vec<Case> {
    let mut cases = right();
    cases.extend(enrolments());
    cases.extend(evidence());
    cases.extend(quotes());
    cases
}

fn right() -> Vec<Case> {
    let evidence = Shown::default().json();
    let of = |kind| enrolment(&said(kind, Some(&evidence)));
    let bundle = bundle_of(&good(), 0);
    let mut without_ek = said("software", None);
    without_ek["detail"]["ek"] = 7.into();
    without_ek["detail"]["tpm"] = json!([-0.5, null]);
    let mut another = said("tpm-verified", Some(&evidence));
    another["detail"]["key"] = CHIP.other.verifier_key().to_string().into();
    let rotated = good().rotated(&KEYS.hardware, &KEYS.next).batch();
    let rotated = rotated.head(&[hardware()]).said("t", 0).batch();
    let plain = Log::default().opened().said("s", 0).batch();
    vec![
        attested("attested", &good(), "verified affirming"),
        believed(
            "attested.range",
            bundle_of(&good(), 6)
                .enrolled(&of("tpm-pinned"))
                .shows(&evidence),
            "verified affirming",
        ),
        believed(
            "attested.untrusted",
            bundle_of(
                &quoted(|quote| quote.pcrs.extend([(4, sha256(&[]))]), |_| {}),
                0,
            )
            .enrolled(&of("tpm-untrusted"))
            .shows(&evidence),
            "verified warning 8 quote.pcrs",
        ),
        believed(
            "attested.hsm",
            bundle_of(&plain, 0).enrolled(&enrolment(&said("hsm", None))),
            "verified",
        ),
        believed(
            "attested.external",
            bundle_of(&plain, 0).enrolled(&enrolment(&said("external", None))),
            "verified",
        ),
        believed(
            "attested.software",
            bundle_of(&plain, 0).enrolled(&enrolment(&without_ek)),
            "verified",
        ),
        attested("attested.without_quotes", &plain, "verified none"),
        believed(
            "attested.without_evidence",
            bundle.clone().enrolled(&of("tpm-verified")),
            "verified",
        ),
        believed(
            "attested.without_enrolment",
            bundle.clone().shows(&evidence),
            "verified",
        ),
        believed(
            "attested.another_key",
            bundle.clone().enrolled(&enrolment(&another)),
            "verified",
        ),
        believed(
            "attested.rotated",
            rotated
                .bundle_under(0, &rotated.signed_by(&[(&KEYS.next, 0), witness(1, 100)]))
                .enrolled(&of("tpm-verified"))
                .shows(&evidence),
            "verified",
        ),
        believed(
            "enrolment.stranger",
            bundle
                .enrolled(&receipt_of(
                    entry_of(&said("tpm-verified", Some(&evidence))),
                    LOG_OF_LOGS,
                    &[(&KEYS.stranger, 0)],
                ))
                .shows(&json!({})),
            "verified",
        ),
    ]
}

/// What the collector's log says is not what it must be.
fn enrolments() -> Vec<Case> {
    let bundle = bundle_of(&good(), 0);
    let shown = Shown::default().json();
    let good = said("tpm-verified", Some(&shown));
    let receipt = enrolment(&good);
    let text = |name: &str, text: String, check: &str| {
        believed(
            name,
            bundle
                .clone()
                .before("hashes/000000", "enrolment", text)
                .shows(&shown),
            &format!("tampered - enrolment.{check}"),
        )
    };
    let of = |name: &str, field: &str, value: Value| {
        let mut fields = good.clone();
        match field {
            "seq" | "kind" => fields[field] = value,
            field => fields["detail"][field] = value,
        }
        text(name, enrolment(&fields).encode(), "leaf")
    };
    let encoded = receipt.encode();
    let mut other_origin = receipt.clone();
    other_origin.note = note(ORIGIN, 5, sha256(&[]), &[collector()]);
    let mut bad = receipt.clone();
    bad.note = spoilt(receipt.note.clone(), 0);
    let mut bad_witness = receipt.clone();
    bad_witness.note = spoilt(receipt.note.clone(), 1);
    let mut short_path = receipt.clone();
    short_path.proof.pop();
    let key = KEYS.hardware.verifier_key().to_string();
    let late = receipt_of(
        entry_of(&good),
        LOG_OF_LOGS,
        &[collector(), witness(2, 1_000)],
    );
    vec![
        text(
            "enrolment.malformed",
            encoded.replace("@v1", "@v2"),
            "malformed",
        ),
        text(
            "enrolment.index_beyond",
            encoded.replace("index 2", "index 5"),
            "malformed",
        ),
        text(
            "enrolment.entry",
            receipt_of(b"{}".to_vec(), LOG_OF_LOGS, &[collector()]).encode(),
            "malformed",
        ),
        text("enrolment.origin", other_origin.encode(), "origin"),
        text("enrolment.signature", bad.encode(), "signature"),
        text(
            "enrolment.signature_of_a_witness",
            bad_witness.encode(),
            "signature",
        ),
        of("enrolment.leaf", "kind", json!("frontier.accepted")),
        of("enrolment.leaf_at_another_place", "seq", json!(1)),
        of(
            "enrolment.leaf_of_another_log",
            "origin",
            json!(LOG_OF_LOGS),
        ),
        of("enrolment.leaf_without_key", "key", Value::Null),
        of("enrolment.leaf_key_that_is_none", "key", json!("x")),
        of(
            "enrolment.leaf_key_with_a_space",
            "key",
            json!(format!("{key} ")),
        ),
        text("enrolment.inclusion", short_path.encode(), "inclusion"),
        believed(
            "enrolment.future",
            bundle.clone().enrolled(&late).shows(&shown),
            "future - -",
        )
        .now(T0 + 600),
        believed(
            "tar.attestation_before_enrolment",
            bundle.shows(&shown).enrolled(&receipt),
            "not_a_bundle - bundle.layout",
        ),
    ]
}

/// What the TPM said of its keys is not what it must be.
fn evidence() -> Vec<Case> {
    let bundle = bundle_of(&good(), 0);
    let good = Shown::default().json();
    let shown = |name: &str, evidence: &Value| {
        let receipt = enrolment(&said("tpm-verified", Some(evidence)));
        let bundle = bundle.clone().enrolled(&receipt).shows(evidence);
        believed(name, bundle, "tampered - attestation.key")
    };
    let set = |name: &str, change: fn(&mut Shown)| {
        let mut evidence = Shown::default();
        change(&mut evidence);
        shown(name, &evidence.json())
    };
    let edit = |name: &str, change: fn(&mut Value)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        shown(name, &evidence)
    };
    vec![
        believed(
            "attestation.evidence",
            bundle
                .clone()
                .enrolled(&enrolment(&said("tpm-verified", Some(&good))))
                .before("hashes/000000", "attestation", format!("{good}\n")),
            "tampered - attestation.evidence",
        ),
        believed(
            "attestation.evidence_of_nothing",
            bundle
                .clone()
                .enrolled(&enrolment(&said("software", None)))
                .shows(&good),
            "tampered - attestation.evidence",
        ),
        set("attestation.key", |shown| {
            (shown.key, shown.certified) = (&CHIP.other, &CHIP.other);
        }),
        set("attestation.key_not_certified", |shown| {
            shown.certified = &CHIP.other
        }),
        set("attestation.key_certified_by_another", |shown| {
            shown.signer = &CHIP.other
        }),
        set("attestation.key_of_another_device", |shown| {
            shown.device = "other"
        }),
        set("attestation.key_that_can_leave", |shown| {
            shown.log &= !(1 << 1)
        }),
        set("attestation.key_restricted", |shown| {
            shown.log |= RESTRICTED
        }),
        set("attestation.ak_not_restricted", |shown| {
            shown.ak &= !RESTRICTED
        }),
        set("attestation.ak_that_decrypts", |shown| shown.ak |= 1 << 17),
        set("attestation.ek_not_restricted", |shown| {
            shown.ek &= !RESTRICTED
        }),
        set("attestation.certify_and_more", |shown| shown.rest = b"x"),
        edit("attestation.field_more", |shown| shown["more"] = 1.into()),
        edit("attestation.array", |shown| {
            let tls = &shown["tls"];
            shown["tls"] = json!([tls["public"], tls["attest"], tls["signature"]]);
        }),
        edit("attestation.base64_without_padding", |shown| {
            let text = shown["ek"].as_str().unwrap().trim_end_matches('=');
            shown["ek"] = text.into();
        }),
        edit("attestation.ek_in_another_mode", |shown| {
            let mut ek = BASE64.decode(shown["ek"].as_str().unwrap()).unwrap();
            ek[47] ^= 1;
            shown["ek"] = BASE64.encode(ek).into();
        }),
        edit("attestation.nine_certificates", |shown| {
            shown["ek_certificates"] = json!(vec![""; 9])
        }),
        edit("attestation.without_tls", |shown| {
            drop(shown.as_object_mut().unwrap().remove("tls"))
        }),
    ]
}

/// Every finding; the evidence itself holds.
fn quotes() -> Vec<Case> {
    let found = |name: &str, log: &Log| {
        let code = name.split('_').next().unwrap();
        let warning = ["quote.missed", "quote.firmware", "quote.pcrs"].contains(&code);
        let status = if warning {
            "warning"
        } else {
            "contraindicated"
        };
        attested(name, log, &format!("verified {status} {LAST} {code}"))
    };
    let set = |name: &str, change: fn(&mut Quote)| found(name, &quoted(change, |_| {}));
    let edit = |name: &str, change: fn(&mut Value)| found(name, &quoted(|_| {}, change));
    let fine = |name: &str, change: fn(&mut Quote)| {
        attested(name, &quoted(change, |_| {}), "verified affirming")
    };
    let changed = |detail: &mut Value, field: &str, change: fn(&mut Vec<u8>)| {
        let mut bytes = BASE64.decode(detail[field].as_str().unwrap()).unwrap();
        change(&mut bytes);
        detail[field] = BASE64.encode(bytes).into();
    };
    vec![
        edit("quote.malformed", |detail| detail["size"] = "6".into()),
        edit("quote.malformed_fraction", |detail| {
            detail["size"] = json!(6.0)
        }),
        edit("quote.malformed_root", |detail| {
            detail["root"] = detail["root"].as_str().unwrap().to_uppercase().into();
        }),
        edit("quote.malformed_pcr", |detail| {
            detail["pcrs"]["sha256"]["04"] = "".into()
        }),
        edit("quote.malformed_pcr_256", |detail| {
            detail["pcrs"]["sha256"]["256"] = "".into()
        }),
        edit("quote.malformed_after", |detail| {
            let after = &detail["after"];
            detail["after"] = json!([
                after["size"],
                after["root"],
                after["by"],
                after["cosignature"]
            ]);
        }),
        found(
            "quote.malformed_signature",
            &quoted(
                |_| {},
                |detail| changed(detail, "signature", |bytes| bytes.push(0)),
            ),
        ),
        set("quote.malformed_type", |quote| quote.kind = 0x801a),
        set("quote.malformed_rest", |quote| quote.rest = b"x"),
        edit("quote.values", |detail| {
            detail["pcrs"]["sha256"]["4"] = "A".repeat(64).into();
        }),
        edit("quote.values_bank", |detail| {
            detail["pcrs"]["sha1"] = json!({})
        }),
        edit("quote.values_more", |detail| {
            detail["pcrs"]["sha256"]["23"] = "0".repeat(64).into();
        }),
        edit("quote.values_missing", |detail| {
            detail["pcrs"]["sha256"]
                .as_object_mut()
                .unwrap()
                .remove("14");
        }),
        edit("quote.values_others", |detail| {
            detail["pcrs"]["sha256"]["4"] = "0".repeat(64).into();
        }),
        set("quote.signature", |quote| quote.signer = &KEYS.hardware),
        found(
            "quote.signature_of_sha1",
            &quoted(
                |_| {},
                |detail| changed(detail, "signature", |bytes| bytes[3] = 0x04),
            ),
        ),
        found(
            "quote.signature_of_rsa",
            &quoted(
                |_| {},
                |detail| {
                    changed(detail, "signature", |bytes| {
                        *bytes = vec![0x00, 0x14, 0x00, 0x0b, 0x00, 0x01, 0x00];
                    });
                },
            ),
        ),
        found(
            "quote.signature_too_long",
            &quoted(
                |_| {},
                |detail| {
                    changed(detail, "signature", |bytes| {
                        let len = bytes[5] + 33;
                        bytes[5] = len;
                        bytes.splice(6..6, [0; 33]);
                    });
                },
            ),
        ),
        set("quote.type", |quote| quote.kind = TIME),
        set("quote.qualifying", |quote| quote.extra = Some(sha256(&[]))),
        edit("quote.qualifying_another_nonce", |detail| {
            detail.as_object_mut().unwrap().remove("after");
        }),
        set("quote.selection", |quote| quote.selection[9] = 0x80),
        set("quote.selection_bank", |quote| quote.selection[5] = 0x0c),
        fine("attested.selection_of_four_bytes", |quote| {
            quote.selection[6] = 4;
            quote.selection.push(0);
        }),
        set("quote.head", |quote| quote.head.1 = sha256(&[])),
        set("quote.head_of_no_size", |quote| quote.head.0 = 5),
        fine("attested.head_before_all", |quote| {
            quote.head = (2, sha256(&[]))
        }),
        set("quote.after", |quote| {
            quote.after.as_mut().unwrap().3 = 1;
        }),
        set("quote.after_of_nobody", |quote| {
            quote.after = Some(cosigned(quote.head, 3, 60))
        }),
        fine("attested.after_of_the_archive", |quote| {
            quote.after.as_mut().unwrap().2 = archive(61);
        }),
        attested(
            "attested.after_null",
            &quoted(
                |quote| quote.after = None,
                |detail| (detail["after"], detail["counter"]) = (Value::Null, Value::Null),
            ),
            "verified affirming",
        ),
        set("quote.clock", |quote| quote.clock.resets = 1),
        set("quote.clock_behind", |quote| quote.clock.ms = 6_999),
        set("quote.clock_again", |quote| quote.clock.ms = 7_000),
        fine("attested.clock_after_a_start", |quote| {
            (quote.clock.resets, quote.clock.ms) = (3, 7_000);
        }),
        set("quote.clock_restarts", |quote| quote.clock.restarts = 0),
        set("quote.clock_safe", |quote| {
            (quote.clock.resets, quote.clock.ms) = (3, 1);
        }),
        fine("attested.clock_not_safe", |quote| {
            (quote.clock.resets, quote.clock.ms, quote.clock.safe) = (3, 1, false);
            quote.clock.restarts = 0;
            quote.pcrs.insert(4, sha256(&[]));
        }),
        set("quote.counter", |quote| quote.counter = Some(counter(8))),
        set("quote.counter_of_another_index", |quote| {
            quote.counter = Some((9_u64.to_be_bytes().to_vec(), 1));
        }),
        set("quote.counter_short", |quote| {
            quote.counter = Some((vec![9], 0x0180_0001))
        }),
        fine("attested.counter", |quote| quote.counter = Some(counter(9))),
        found(
            "quote.counter_elsewhere",
            &quoted(
                |quote| quote.counter = Some(counter(9)),
                |detail| detail["counter"]["signature"] = detail["signature"].clone(),
            ),
        ),
        set("quote.missed", |quote| quote.counter = Some(counter(10))),
        set("quote.firmware", |quote| quote.clock.firmware = 8),
        set("quote.pcrs", |quote| {
            quote.pcrs.insert(14, sha256(&[]));
        }),
    ]
}
