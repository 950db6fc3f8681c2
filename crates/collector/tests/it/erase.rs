//! The operator erases while devices deliver.

use jurat_collector::{AdminError, EraseError, EraseOrder, erase_folder};
use jurat_event::{EraseRequest, Erased};
use jurat_proof::{Context, Record, context_hasher, write_record};
use jurat_sink::CollectorError;
use jurat_testkit::{contains, unpacked};
use serde_json::json;

use crate::{Bench, DEVICE, Log};

fn payload(number: u64) -> String {
    format!("{{\"said\":\"what nobody is to know, number {number:03}\"}}")
}

impl Log {
    /// A leaf with a payload that bears its number, and the end of the batch.
    fn telling(&mut self) -> Vec<u8> {
        let mut raw = Vec::new();
        let bytes = payload(self.frontier.size());
        let mut hasher = context_hasher(&[4; 32]);
        hasher.update(bytes.as_bytes());
        let context = Context {
            sha256: hasher.finish(),
            len: bytes.len() as u64,
            redactions: 0,
        };
        self.entry(&mut raw, json!({ "context": context }));
        let (salt, bytes) = (&[4; 32], bytes.as_bytes());
        write_record(&mut raw, &Record::Payload { salt, bytes });
        raw.extend(self.batch(0, ""));
        raw
    }
}

fn order(device: &str, ranges: Vec<(u64, u64)>) -> EraseOrder {
    EraseOrder {
        device: device.into(),
        request: EraseRequest {
            ranges: ranges.into(),
            sessions: Vec::new(),
            who: "operator".into(),
            reason: "case 17".into(),
        },
    }
}

impl Bench {
    async fn erase(&self, token: &str, order: &EraseOrder) -> Result<Erased, CollectorError> {
        let path = "/v1/admin/erasures";
        self.collector.operate(token, path, Some(order)).await
    }

    fn holds(&self, number: u64) -> bool {
        let dir = self.dir.path().join("archive");
        let files = std::fs::read_dir(dir).unwrap();
        let read =
            |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file.unwrap().path()).unwrap();
        let bytes: Vec<u8> = files.flat_map(read).collect();
        contains(&unpacked(&bytes), payload(number).as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_collector_erases_says_who_and_why_and_takes_uploads_meanwhile() {
    let mut bench = Bench::start().await;
    let token = std::fs::read_to_string(bench.dir.path().join("admin.token")).unwrap();
    for _ in 0..10 {
        let raw = bench.log.telling();
        bench.upload(&raw).await.unwrap();
    }
    assert!(bench.holds(2) && bench.holds(8) && bench.holds(12));
    // Nobody else may, and nothing is erased of what does not exist.
    let wanted = order(DEVICE, vec![(2, 9)]);
    let stranger = bench.erase("wrong", &wanted).await;
    assert!(
        matches!(stranger, Err(CollectorError::Identity(_))),
        "{stranger:?}"
    );
    for refused in [order("nobody", vec![(2, 9)]), order(DEVICE, vec![(2, 900)])] {
        match bench.erase(token.trim(), &refused).await {
            Err(CollectorError::Refused { refusal, .. }) => assert_eq!(refusal.code, "not_erased"),
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.said("payload.erased").is_empty());
    // The folder is the running collector's.
    let runs = erase_folder(&bench.host, bench.dir.path(), DEVICE, &wanted.request);
    assert!(
        matches!(runs, Err(EraseError::Admin(AdminError::Runs { .. }))),
        "{runs:?}"
    );

    let more: Vec<_> = (0..10).map(|_| bench.log.telling()).collect();
    let (erased, ()) = tokio::join!(bench.erase(token.trim(), &wanted), async {
        for raw in &more {
            bench.upload(raw).await.unwrap();
        }
    });
    let erased = erased.unwrap();
    assert_eq!((erased.count, erased.gone_before), (4, 0));
    let said = bench.said("payload.erased");
    assert_eq!(said.len(), 1);
    assert_eq!(
        (&said[0]["who"], &said[0]["reason"]),
        (&"operator".into(), &"case 17".into())
    );
    assert_eq!(said[0]["ranges"], json!([[2, 3], [4, 5], [6, 7], [8, 9]]));
    for number in (0..40).step_by(2) {
        assert_eq!(bench.holds(number), !(2..9).contains(&number), "{number}");
    }
    // The SIEM's file, tiles and bundles go on, with all leaves.
    bench.running.siem_caught_up().await.unwrap();
    assert_eq!(bench.siem_lines(), 40);
    let report = bench.report();
    assert_eq!(
        (
            report.size,
            report.payloads.withheld + report.payloads.erased
        ),
        (40, 4)
    );
    assert_eq!(report.axes.archive.names.len(), 1);

    // Asked again, and after a stop in the folder: what is gone stays gone.
    let again = bench.erase(token.trim(), &wanted).await.unwrap();
    assert_eq!((again.count, again.gone_before), (0, 4));
    let (host, origin) = (bench.host.clone(), bench.enrolled.origin.clone());
    let bench = bench.restart().await;
    let dir = bench.dir.path().to_path_buf();
    let Bench {
        running, dir: kept, ..
    } = bench;
    running.stop().await.unwrap();
    let directly = order(&origin, vec![(2, 11)]).request;
    let erased = erase_folder(&host, &dir, &origin, &directly).unwrap();
    assert_eq!((erased.count, erased.gone_before), (1, 4));
    drop(kept);
}
