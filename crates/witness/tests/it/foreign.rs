//! The witness of transparency-dev, in Go: it cosigns our log through our client, and its client gets a
//! cosignature from our witness. What nobody here wrote judges both.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::{Note, Policy, Signer as _};
use jurat_testkit::foreign_witness::{ForeignWitness, ask, program as judge};
use jurat_witness::{SubmitError, Submitter};

use crate::http::builder;
use crate::{Log, honest, rewritten};

#[tokio::test]
async fn the_witness_of_transparency_dev_cosigns_our_log_through_our_client() {
    let Some(judge) = judge("the_witness_of_transparency_dev_cosigns_our_log_through_our_client")
    else {
        return;
    };
    let log = honest();
    let vkey = log.key().verifier_key().to_string();
    let foreign = ForeignWitness::start(judge, &vkey);
    let (url, key) = (foreign.url.as_str(), foreign.key.as_str());
    let policy = format!("log {vkey}\nwitness foreign {key} {url}\nquorum foreign\n");
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let made = jurat_key::tls::generate(&["localhost".into()]).unwrap();
    let submitter = || {
        let limit = Duration::from_secs(30);
        Submitter::new(&policy.witnesses[0], limit, Some(made.ca.as_bytes())).unwrap()
    };
    let mut one = submitter();
    for size in [5, 12, 13, 40] {
        let line = one.submit(&log.note(size), &log).await.unwrap();
        let mut note = log.note(size);
        note.signatures.push(line);
        let holding = policy.holds(&note).unwrap();
        assert!(holding.quorum && holding.signed, "{size}");
        let opened = ask(judge, &["open", &vkey, key], &note.encode());
        assert_eq!(opened, format!("verified {size}\n"));
    }
    // Who remembers nothing learns the size from it.
    submitter().submit(&log.note(50), &log).await.unwrap();
    let behind = one.submit(&log.note(45), &log).await;
    assert!(matches!(behind, Err(SubmitError::Ahead(50))), "{behind:?}");
    let forked = one.submit(&rewritten().note(60), &rewritten()).await;
    let refused = matches!(forked, Err(SubmitError::Refused { status: 422, .. }));
    assert!(refused, "{forked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_transparency_dev_gets_cosignatures_and_refusals_from_our_witness() {
    let Some(judge) =
        judge("the_client_of_transparency_dev_gets_cosignatures_and_refusals_from_our_witness")
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let url = format!("http://{}/", running.address);
    let submit = |log: &Log, old: usize, size: usize| {
        let mut input = String::new();
        for hash in log.proof(old, size) {
            input += &format!("{}\n", BASE64.encode(hash.0));
        }
        input += &format!("\n{}", log.note(size).encode());
        ask(judge, &["submit", &url, &old.to_string()], &input)
    };
    let vkeys = [
        log.key().verifier_key().to_string(),
        running.verifier_key().to_string(),
    ];
    for (old, size) in [(0, 5), (5, 12), (12, 13), (13, 13), (13, 40)] {
        let said = submit(&log, old, size);
        let lines = said.strip_prefix("cosigned\n").expect(&said);
        let note = format!("{}{lines}", log.note(size).encode());
        assert!(Note::parse(note.as_bytes()).is_ok());
        let opened = ask(judge, &["open", &vkeys[0], &vkeys[1]], &note);
        assert_eq!(opened, format!("verified {size}\n"));
    }
    assert_eq!(submit(&log, 12, 50), "stale 40\n");
    let stranger = Log::new("example.org/unknown", 8, 100);
    for (log, old, size, why) in [
        (&stranger, 0, 8, "unknown log"),
        (&rewritten(), 40, 50, "consistency proof invalid"),
    ] {
        let said = submit(log, old, size);
        assert!(said.starts_with(&format!("refused {why}")), "{said}");
    }
    // That was a fork: honest heads come too late, and their client understands why.
    let said = submit(&log, 40, 41);
    assert!(said.starts_with("refused"), "{said}");
    running.stop().await.unwrap();
}
