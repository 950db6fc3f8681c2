//! Sinks beside the collector, with rsyslog at the other end.

use std::collections::BTreeMap;

use jurat_agent::{Finish, Input, Inputs, SinkConfig, read_status};
use jurat_testkit::rsyslog::Rsyslog;

use crate::tpm::until;
use crate::{Device, prompt};

fn sink(name: &str, to: &str) -> SinkConfig {
    let text = format!("name = \"{name}\"\nto = \"{to}\"\n");
    toml::from_str(&text).unwrap()
}

/// The numbers of the messages that were received, in order.
fn numbers(rsyslog: &Rsyslog) -> Vec<u64> {
    let number = |line: &Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        let (_, rest) = text.split_once("JuratSinkSeq=").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    rsyslog.received().iter().map(number).collect()
}

#[test]
fn all_that_is_sealed_is_sent_in_order_with_contiguous_numbers_through_restarts() {
    let test = "sinks::all_that_is_sealed_is_sent_in_order";
    let dir = tempfile::tempdir().unwrap();
    let Some(rsyslog) = Rsyslog::start(test, dir.path(), None) else {
        return;
    };
    let mut device = Device::enrolled();
    let to = format!("relp://127.0.0.1:{}", rsyslog.ports().relp);
    device.config.sink = vec![sink("siem", &to)];
    for round in 0..3 {
        device.append("a.jsonl", &prompt(&format!("hello {round}")));
        let status = device.run_until(Finish::WhenDelivered);
        let [said] = status.sinks.as_slice() else {
            panic!("{status:?}")
        };
        assert_eq!(said.guarantee.name(), "accepted");
        assert_eq!((said.size, said.sent), (status.size, status.size));
        assert!(rsyslog.wait(|lines| lines.len() as u64 >= said.sent));
        let expected: Vec<u64> = (0..said.sent).collect();
        assert_eq!(numbers(&rsyslog), expected, "round {round}");
    }
    let attached = device.sealed("sink.attached");
    assert_eq!(attached.len(), 3);
    assert_eq!(attached[0]["detail"]["guarantee"], "accepted");
    // Each line leads to its leaf.
    let leaves: BTreeMap<u64, String> = device
        .sealed("")
        .iter()
        .map(|entry| (entry["seq"].as_u64().unwrap(), entry["kind"].to_string()))
        .collect();
    for line in rsyslog.received() {
        let text = String::from_utf8_lossy(&line);
        let (_, rest) = text.split_once("cn1=").unwrap();
        let seq: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        let kind = leaves[&seq].trim_matches('"').to_owned();
        assert!(text.contains(&format!("cat={kind} ")), "{text}");
    }
}

#[test]
fn a_dead_sink_holds_up_neither_the_collector_nor_another_sink_and_its_trouble_is_named() {
    let test = "sinks::a_dead_sink_holds_up_neither";
    let dir = tempfile::tempdir().unwrap();
    let Some(rsyslog) = Rsyslog::start(test, dir.path(), None) else {
        return;
    };
    let mut device = Device::enrolled();
    // Nobody listens on the port of `discard`.
    device.config.sink = vec![
        sink("dead", "syslog+tcp://127.0.0.1:9"),
        sink(
            "siem",
            &format!("relp://127.0.0.1:{}", rsyslog.ports().relp),
        ),
    ];
    let state = device.dir.path().join("device");
    let inputs = Inputs::default();
    let stop = inputs.sender();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            jurat_agent::run(
                &device.host,
                &device.config,
                &state,
                &inputs,
                Finish::Never,
                &mut |_| {},
            )
        });
        device.append("a.jsonl", &prompt("hello"));
        until("the other sink has it", || {
            let lines = rsyslog.received();
            lines
                .iter()
                .any(|line| String::from_utf8_lossy(line).contains("prompt.submitted"))
        });
        until("the collector has it", || {
            let archived = device
                .collector
                .with_archive(|archive| archive.devices()[0].epochs[0].size);
            archived > 3
        });
        until("its trouble is named", || {
            let status = read_status(&*device.host.disk, &state).unwrap();
            status.is_some_and(|status| {
                status
                    .sinks
                    .iter()
                    .any(|sink| sink.name == "dead" && sink.size == 0 && sink.problem.is_some())
            })
        });
        stop.send(Input::Stop).unwrap();
        running.join().unwrap().unwrap();
    });
}

#[test]
fn a_sink_that_cannot_be_meant_is_refused_before_anything_runs() {
    let parse = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jurat.toml");
        std::fs::write(&path, text).unwrap();
        jurat_agent::Config::load(Some(&path)).map(drop)
    };
    let good = "[[sink]]\nname = \"siem\"\nto = \"relp://siem.example\"\n";
    parse(good).unwrap();
    for (text, why) in [
        (good.replace("siem\"\nto", "SIEM\"\nto"), "small letters"),
        (good.replace("relp://", "http://"), "expected"),
        (format!("{good}format = \"xml\"\n"), "cef"),
        (format!("{good}facility = \"mars\"\n"), "local0"),
        (format!("{good}bytes_max = 100\n"), "1800"),
        (
            format!("{good}certificate = \"/c.pem\"\n"),
            "belong together",
        ),
        (format!("{good}{good}"), "twice"),
        (format!("{good}tls = true\n"), "tls"),
    ] {
        let refused = parse(&text).unwrap_err();
        let words = format!("{refused:?}");
        assert!(words.contains(why), "{why}: {words}");
    }
}
