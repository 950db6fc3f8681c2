use super::*;
use crate::eventlog::Image;

fn facts() -> Facts {
    Facts {
        secure_boot: Some(true),
        separated: true,
        boot_loaders: vec![Image {
            digest: "ab".repeat(32),
            path: Some("\\EFI\\shimx64.efi".into()),
        }],
        command_lines: Vec::new(),
    }
}

fn pcrs() -> BTreeMap<u8, String> {
    let values = SELECTION[0]
        .indices()
        .map(|pcr| (pcr, format!("{pcr:02x}").repeat(32)));
    values.collect()
}

#[test]
fn an_adopted_state_is_accepted_again_and_every_change_is_named() {
    let (mut pcrs, mut facts) = (pcrs(), facts());
    let state = {
        let machine = Machine {
            device: "d",
            pcrs: &pcrs,
            facts: Some(&facts),
        };
        Accepted::adopt("first", &machine, &[0, 4, 14])
    };
    let policy = MachinePolicy::parse(state.to_toml().as_bytes()).unwrap();
    assert_eq!(policy.accepted, [state]);
    let differs = |pcrs: &BTreeMap<u8, String>, facts: Option<&Facts>| {
        let machine = Machine {
            device: "d",
            pcrs,
            facts,
        };
        let (state, differences) = policy.nearest(&machine).unwrap();
        assert_eq!(
            policy.accepts(&machine),
            differences.is_empty().then_some(state)
        );
        let what = differences.into_iter().map(|difference| difference.what);
        what.collect::<Vec<_>>()
    };
    assert!(differs(&pcrs, Some(&facts)).is_empty());
    assert_eq!(differs(&pcrs, None), ["secure_boot", "boot_loaders"]);
    // What is not pinned may change.
    pcrs.insert(8, "00".repeat(32));
    assert!(differs(&pcrs, Some(&facts)).is_empty());
    pcrs.insert(4, "00".repeat(32));
    pcrs.remove(&14);
    assert_eq!(
        differs(&pcrs, Some(&facts)),
        ["pcrs.sha256.14", "pcrs.sha256.4"]
    );
    facts.secure_boot = None;
    facts.boot_loaders[0].digest = "cd".repeat(32);
    assert_eq!(
        differs(&pcrs, Some(&facts)),
        [
            "pcrs.sha256.14",
            "pcrs.sha256.4",
            "secure_boot",
            "boot_loaders"
        ]
    );
    let machine = Machine {
        device: "another",
        pcrs: &pcrs,
        facts: Some(&facts),
    };
    assert_eq!(policy.nearest(&machine), None);
    assert_eq!(policy.accepts(&machine), None);
}

#[test]
fn a_list_of_boot_loaders_accepts_no_machine_of_which_none_is_known() {
    let policy = format!(
        "[[accepted]]\nname = \"n\"\nboot_loaders = [\"{}\"]\n",
        "ab".repeat(32)
    );
    let policy = MachinePolicy::parse(policy.as_bytes()).unwrap();
    let (pcrs, mut facts) = (pcrs(), facts());
    let accepts = |facts: &Facts| {
        let machine = Machine {
            device: "d",
            pcrs: &pcrs,
            facts: Some(facts),
        };
        policy.accepts(&machine).is_some()
    };
    assert!(accepts(&facts));
    facts.boot_loaders.clear();
    assert!(!accepts(&facts));
}

#[test]
fn a_state_that_would_accept_any_machine_or_cannot_be_meant_is_refused_by_name() {
    let state = |rest: &str| format!("[[accepted]]\nname = \"n\"\n{rest}");
    let digest = "ab".repeat(32);
    for (text, says) in [
        (state(""), "any machine"),
        (state("[accepted.pcrs.sha256]\n"), "any machine"),
        (state("devices = []\nsecure_boot = true"), "leave it out"),
        (state("boot_loaders = []"), "at least one"),
        (state("boot_loaders = [\"AB\"]"), "SHA-256 in hex"),
        (
            state(&format!("[accepted.pcrs.sha1]\n0 = \"{digest}\"")),
            "the bank is",
        ),
        (
            state(&format!("[accepted.pcrs.sha256]\n10 = \"{digest}\"")),
            "not quoted",
        ),
        (
            state(&format!("[accepted.pcrs.sha256]\n01 = \"{digest}\"")),
            "not quoted",
        ),
        (
            state("[accepted.pcrs.sha256]\n0 = \"ab\""),
            "value of a PCR",
        ),
        (
            state("secure_boot = true\n[[accepted]]\nname = \"n\"\nsecure_boot = true"),
            "twice",
        ),
        (
            "[[accepted]]\nname = \"\"\nsecure_boot = true".into(),
            "a name",
        ),
        (state("secure_bot = true"), "not a machine policy"),
        ("accept = []".into(), "not a machine policy"),
        ("#".repeat(POLICY_BYTES_MAX + 1), "longer than"),
    ] {
        let error = MachinePolicy::parse(text.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(MachinePolicy::parse(b"\xff").is_err());
    // Nothing is accepted, and that is a policy.
    assert_eq!(MachinePolicy::parse(b"").unwrap(), MachinePolicy::default());
}
