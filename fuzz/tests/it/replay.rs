use std::fs;
use std::path::Path;

use jurat_fuzz::TARGETS;
use jurat_testkit::Repeatable;

use crate::work::measured;

/// A longer variant would only repeat what shorter ones say.
const VARIANT_BYTES_MAX: usize = 16 * 1024;
const VARIANTS: u64 = 2_000;
/// What an input may cost, in bytes of memory asked for: an upload may unpack to 8 MiB, and everything
/// else is a small multiple of the input.
const WORK_BASE: u64 = 32 * 1024 * 1024;
const WORK_PER_BYTE: u64 = 4 * 1024;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// Changes an input in one of the ways that files and messages are changed by accident or malice.
fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &Repeatable) {
    let at = |len: usize| rng.below(len as u64 + 1) as usize;
    let place = at(bytes.len());
    match rng.below(7) {
        0 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = INTERESTING[rng.below(INTERESTING.len() as u64) as usize];
            }
        }
        2 => bytes.truncate(place),
        3 => drop(bytes.drain(place..(place + at(16)).min(bytes.len()))),
        4 => {
            let copied = bytes[place..(place + at(64)).min(bytes.len())].to_vec();
            let target = at(bytes.len());
            bytes.splice(target..target, copied);
        }
        5 => {
            let from = at(other.len());
            let piece = other[from..(from + at(128)).min(other.len())].to_vec();
            bytes.splice(place..place, piece);
        }
        _ => {
            let numbers: [u32; 5] = [0, 1, u32::MAX, 0x7fff_ffff, 1 << 20];
            let number = numbers[rng.below(5) as usize].to_le_bytes();
            let end = (place + 4).min(bytes.len());
            bytes.splice(place..end, number);
        }
    }
}

const INTERESTING: &[u8] = b"\0\n\r \"\\{}[],:#+=0129-\x7f\x80\xc3\xff";

/// Every target has inputs of its own, and comes back from each and from 2,000 variants of them,
/// having done no more work than their length allows.
#[test]
fn no_committed_input_and_no_variant_of_one_panics_or_runs_away() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        let rng = Repeatable::new(11);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        // Rules and tables that are made once are not the work of an input.
        inputs.iter().for_each(|(_, bytes)| target(bytes));
        let run = |what: &str, bytes: &[u8]| {
            let work = measured(|| target(bytes));
            let limit = WORK_BASE + WORK_PER_BYTE * bytes.len() as u64;
            assert!(
                work <= limit,
                "{name}/{what}: {work} bytes, the limit is {limit}"
            );
        };
        for (file, bytes) in &inputs {
            run(file, bytes);
        }
        for number in 0..VARIANTS {
            let (file, bytes) = &inputs[rng.below(inputs.len() as u64) as usize];
            let (_, other) = &inputs[rng.below(inputs.len() as u64) as usize];
            let mut bytes = bytes.clone();
            for _ in 0..=rng.below(4) {
                change(&mut bytes, other, &rng);
            }
            bytes.truncate(VARIANT_BYTES_MAX);
            run(&format!("variant {number} of {file}"), &bytes);
        }
    }
}

#[test]
fn every_corpus_belongs_to_a_target_and_the_whole_is_small() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut total = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name}");
        total += corpus(&name)
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>();
    }
    assert!(total < 1024 * 1024, "{total} bytes");
}
