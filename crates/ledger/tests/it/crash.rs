//! Power cuts, full disks and failing syncs at every single step.

use jurat_ledger::LedgerError;
use jurat_testkit::{Fault, Repeatable, SimDisk};

use crate::support::Counter;

const GROUPS: [u64; 6] = [1, 3, 2, 5, 1, 4];

/// Runs the workload until it fails; returns how many records were acknowledged.
fn work(disk: &SimDisk) -> Result<u64, (u64, LedgerError)> {
    let mut acknowledged = 0;
    let mut counter = Counter::open(disk).map_err(|error| (0, error))?;
    for count in GROUPS {
        counter
            .append(count)
            .map_err(|error| (acknowledged, error))?;
        acknowledged = counter.state;
    }
    Ok(acknowledged)
}

fn steps_of_a_whole_run() -> u64 {
    let disk = SimDisk::new();
    work(&disk).unwrap();
    disk.steps()
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged_and_leaves_no_half_group() {
    for step in 0..steps_of_a_whole_run() {
        for seed in 0..8 {
            let disk = SimDisk::new();
            disk.fail_at(step, Fault::Crash);
            let (acknowledged, _) = work(&disk).unwrap_err();
            disk.crash(&Repeatable::new(seed));
            let counter = Counter::open(&disk)
                .unwrap_or_else(|error| panic!("step {step} seed {seed}: {error}"));
            assert!(
                counter.state >= acknowledged,
                "step {step}: {} < {acknowledged}",
                counter.state
            );
            let all: Vec<u64> = (0..counter.state).collect();
            assert_eq!(counter.numbers().unwrap(), all, "step {step} seed {seed}");
            let sums: Vec<u64> = (0..=GROUPS.len())
                .map(|n| GROUPS[..n].iter().sum())
                .collect();
            assert!(
                sums.contains(&counter.state),
                "step {step}: half a group came back: {}",
                counter.state
            );
        }
    }
}

#[test]
fn a_second_power_cut_during_recovery_changes_nothing() {
    let whole = steps_of_a_whole_run();
    for step in 0..whole {
        let disk = SimDisk::new();
        disk.fail_at(step, Fault::Crash);
        let (acknowledged, _) = work(&disk).unwrap_err();
        disk.crash(&Repeatable::new(step));
        for again in 0..4 {
            disk.fail_at(disk.steps() + again, Fault::Crash);
            let _ = Counter::open(&disk);
            disk.crash(&Repeatable::new(again));
        }
        let counter = Counter::open(&disk).unwrap();
        assert!(counter.state >= acknowledged, "step {step}");
    }
}

#[test]
fn a_full_disk_is_said_and_the_same_group_goes_in_when_there_is_room() {
    for step in 3..steps_of_a_whole_run() {
        let disk = SimDisk::new();
        disk.fail_at(step, Fault::FullForGood);
        let Ok(mut counter) = Counter::open(&disk) else {
            continue;
        };
        let mut full = 0;
        for count in GROUPS {
            while let Err(error) = counter.append(count) {
                full += 1;
                disk.heal();
                if !matches!(error, LedgerError::Full { .. }) {
                    // Between a new segment's name and its durability there is no way but anew.
                    drop(counter);
                    counter =
                        Counter::open(&disk).unwrap_or_else(|error| panic!("step {step}: {error}"));
                    break;
                }
            }
        }
        assert!(full <= 1, "step {step}");
        let state = counter.state;
        drop(counter);
        disk.crash(&Repeatable::new(1));
        assert_eq!(
            Counter::open(&disk).unwrap().numbers().unwrap(),
            (0..state).collect::<Vec<_>>()
        );
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_ledger_is_opened_anew() {
    for step in 0..steps_of_a_whole_run() {
        let disk = SimDisk::new();
        disk.fail_at(step, Fault::SyncError);
        let mut acknowledged = 0;
        if let Ok(mut counter) = Counter::open(&disk) {
            for count in GROUPS {
                match counter.append(count) {
                    Ok(()) => acknowledged = counter.state,
                    Err(_) => {
                        disk.heal();
                        let again = counter.append(count);
                        assert!(
                            matches!(again, Err(LedgerError::Poisoned)),
                            "step {step}: {again:?}"
                        );
                        break;
                    }
                }
            }
        }
        disk.heal();
        // Opened without a power cut in between: the page cache still shows what may be lost.
        let mut counter =
            Counter::open(&disk).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert!(counter.state >= acknowledged, "step {step}");
        counter.append(2).unwrap();
        let state = counter.state;
        drop(counter);
        disk.crash(&Repeatable::new(step));
        let counter = Counter::open(&disk).unwrap();
        assert_eq!(
            counter.numbers().unwrap(),
            (0..state).collect::<Vec<_>>(),
            "step {step}"
        );
    }
}

#[test]
fn a_read_only_remount_is_said_and_nothing_acknowledged_is_lost() {
    for step in 4..steps_of_a_whole_run() {
        let disk = SimDisk::new();
        disk.fail_at(step, Fault::ReadOnly);
        let Err((acknowledged, _)) = work(&disk) else {
            panic!("step {step}: a write to a read-only disk")
        };
        disk.heal();
        assert!(
            Counter::open(&disk).unwrap().state >= acknowledged,
            "step {step}"
        );
    }
}
