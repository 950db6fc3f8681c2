//! Looking for bytes everywhere, in compressed frames, too.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How a zstd frame begins.
const FRAME: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Whether bytes hold a text, as they are or in a zstd frame that begins anywhere in them.
pub fn holds(bytes: &[u8], text: &[u8]) -> bool {
    contains(&unpacked(bytes), text)
}

/// Whether bytes hold a text as they are.
pub fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// These bytes, and behind them what each zstd frame holds that begins anywhere in them.
pub fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    let places = 0..bytes.len();
    for frame in places.filter_map(|at| bytes.get(at..)) {
        if frame.starts_with(&FRAME) {
            all.extend(decompressed(frame));
        }
    }
    all
}

/// What a frame holds, as far as it is one.
fn decompressed(frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(decoder) = zstd::stream::read::Decoder::new(frame) {
        // What follows the frame is no part of it: the error at its end means nothing.
        let _ = decoder.single_frame().read_to_end(&mut out);
    }
    out
}

/// The files below a folder that hold a text.
///
/// # Panics
/// When one cannot be read.
pub fn files_with(dir: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a test reads its own folders") {
        let path = entry.expect("a test reads its own folders").path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if holds(&fs::read(&path).expect("a test reads its own files"), text) {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_as_it_is_and_in_any_frame_and_not_elsewhere() {
        let frame = zstd::bulk::compress(&b"needle in hay ".repeat(9), 1).expect("small");
        let other = zstd::bulk::compress(b"hay", 1).expect("small");
        assert!(holds(b"a needle", b"needle"));
        assert!(holds(
            &[b"x", &other[..], &frame, b"tail"].concat(),
            b"needle in hay"
        ));
        assert!(!holds(&[b"x", &other[..], b"tail"].concat(), b"needle"));
    }
}
