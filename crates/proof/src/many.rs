//! SHA-256 of many messages at once: each lane of a vector register works on another message.
//!
//! Where the processor has SHA-256 instructions, or no wide registers, this is the library's SHA-256,
//! one message after the other. What it gives is held to that library by tests. Not used where the
//! question is whether a signature verifies, and never in a build with feature `fips`.
#![expect(
    clippy::inline_always,
    reason = "the compiler makes vector code of these only inside a function for that processor"
)]

use std::sync::LazyLock;

use crate::digest::sha256;
use crate::{Digest, Record, RecordError, RecordReader};

/// The most bytes of a message's head.
const HEAD_BYTES_MAX: usize = 64;

/// A message: a short head (the domain and a salt), then the body.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn new(head: &[&[u8]], body: &'a [u8]) -> Self {
        let mut message = Self {
            head: [0; HEAD_BYTES_MAX],
            head_len: 0,
            body,
        };
        for part in head {
            let end = message.head_len + part.len();
            message.head[message.head_len..end].copy_from_slice(part);
            message.head_len = end;
        }
        message
    }

    /// A leaf of a tree: `0x00 || entry`.
    pub fn leaf(entry: &'a [u8]) -> Self {
        Self::new(&[&[0]], entry)
    }

    /// An interior node of a tree: `0x01 || left || right`.
    pub fn node(pair: &'a [[u8; 32]; 2]) -> Self {
        Self::new(&[&[1]], pair.as_flattened())
    }

    /// The commitment to a payload; see [`context_hasher`](crate::context_hasher).
    pub fn context(salt: &[u8; 32], payload: &'a [u8]) -> Self {
        Self::new(&[crate::digest::CONTEXT_DOMAIN, salt], payload)
    }

    /// The commitment to the original bytes; see [`raw_commitment`](crate::raw_commitment).
    pub fn raw(salt: &[u8; 32], original: &'a [u8]) -> Self {
        Self::new(&[crate::digest::RAW_DOMAIN, salt], original)
    }

    fn len(&self) -> usize {
        self.head_len + self.body.len()
    }

    fn blocks(&self) -> usize {
        // One bit, then zeros, then the length in 8 bytes (FIPS 180-4 section 5.1.1).
        (self.len() + 9).div_ceil(64)
    }

    /// Block `index` of the padded message.
    #[inline]
    fn block(&self, index: usize, out: &mut [u8; 64]) {
        let at = index * 64;
        if at >= self.head_len
            && let Some(block) = self
                .body
                .get(at - self.head_len..)
                .and_then(<[u8]>::first_chunk)
        {
            *out = *block;
            return;
        }
        *out = [0; 64];
        let mut put = |from: usize, bytes: &[u8]| {
            // What of these bytes, which stand at `from` in the message, lies in this block.
            let skip = at.saturating_sub(from);
            if let Some(rest) = bytes.get(skip..)
                && from + skip < at + 64
            {
                let start = from + skip - at;
                let count = rest.len().min(64 - start);
                out[start..start + count].copy_from_slice(&rest[..count]);
            }
        };
        put(0, &self.head[..self.head_len]);
        put(self.head_len, self.body);
        put(self.len(), &[0x80]);
        if index + 1 == self.blocks() {
            out[56..].copy_from_slice(&(self.len() as u64 * 8).to_be_bytes());
        }
    }
}

/// The SHA-256 of each of these messages.
pub fn sha256_many(messages: &[Message<'_>]) -> Vec<Digest> {
    let one_by_one = || {
        let digest =
            |message: &Message<'_>| sha256(&[&message.head[..message.head_len], message.body]);
        messages.iter().map(digest).collect()
    };
    // A few messages leave most lanes empty.
    if cfg!(feature = "fips") || messages.len() < LANES / 2 {
        return one_by_one();
    }
    match *WAY {
        Way::One => one_by_one(),
        #[cfg(target_arch = "x86_64")]
        way => x86::many(way, messages),
    }
}

/// A record with what a replay needs to have hashed.
#[derive(Clone, Copy, Debug)]
pub struct Hashed<'a> {
    /// The record.
    pub record: Record<'a>,
    /// The leaf hash of an entry, the commitment of a payload; zero for others.
    pub digest: Digest,
}

/// Reads all records and hashes them, many at a time. What stands before bytes that are no record comes
/// with the error.
pub fn hash_records(bytes: &[u8]) -> (Vec<Hashed<'_>>, Option<RecordError>) {
    let mut failed = None;
    let mut messages = Vec::new();
    let mut records = Vec::new();
    for record in RecordReader::new(bytes) {
        match record {
            Ok(record) => {
                match record {
                    Record::Entry(entry) => messages.push(Message::leaf(entry)),
                    Record::Payload { salt, bytes } => messages.push(Message::context(salt, bytes)),
                    Record::Checkpoint(_) | Record::Leaves { .. } => {}
                }
                records.push(Hashed {
                    record,
                    digest: Digest::default(),
                });
            }
            Err(error) => failed = Some(error),
        }
    }
    let mut digests = sha256_many(&messages).into_iter();
    for hashed in &mut records {
        if matches!(hashed.record, Record::Entry(_) | Record::Payload { .. }) {
            hashed.digest = digests.next().expect("one digest for each message");
        }
    }
    (records, failed)
}

/// How messages are hashed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One after the other.
    One,
    /// Eight at a time in 256-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Likewise, with the rotations and three-way operations of AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

static WAY: LazyLock<Way> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        if !is_x86_feature_detected!("sha") {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Way::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Way::Avx2;
            }
        }
    }
    Way::One
});

const LANES: usize = 8;

/// One 32-bit word of each lane. Written so that the compiler makes one vector operation of each.
type Words = [u32; LANES];

#[inline(always)]
fn each(a: Words, b: Words, f: impl Fn(u32, u32) -> u32) -> Words {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

#[inline(always)]
fn add(a: Words, b: Words) -> Words {
    each(a, b, u32::wrapping_add)
}

#[inline(always)]
fn xor(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a ^ b)
}

#[inline(always)]
fn and(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a & b)
}

#[inline(always)]
fn or(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a | b)
}

/// To the right; so many bits to the left is the same.
#[inline(always)]
fn rotate<const RIGHT: i32, const LEFT: i32>(a: Words) -> Words {
    each(a, a, |a, _| a.rotate_right(RIGHT.cast_unsigned()))
}

#[inline(always)]
fn shift<const RIGHT: i32>(a: Words) -> Words {
    each(a, a, |a, _| a >> RIGHT)
}

#[inline(always)]
fn all(word: u32) -> Words {
    [word; LANES]
}

/// The initial state and the round constants (FIPS 180-4 sections 5.3.3 and 4.2.2).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
#[rustfmt::skip]
const ROUND: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// One block of each lane (FIPS 180-4 section 6.2.2), in the operations that are in scope where it is used.
macro_rules! compress {
    ($state:ident, $w:ident) => {{
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = $state;
        macro_rules! round {
            ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $t:expr, $word:expr) => {
                let sum1 = xor(xor(rotate::<6, 26>($e), rotate::<11, 21>($e)), rotate::<25, 7>($e));
                let choice = xor($g, and($e, xor($f, $g)));
                let key = add(all(ROUND[$t]), $word);
                let t1 = add(add($h, sum1), add(choice, key));
                let sum0 = xor(xor(rotate::<2, 30>($a), rotate::<13, 19>($a)), rotate::<22, 10>($a));
                let majority = or(and($a, $b), and(or($a, $b), $c));
                $d = add($d, t1);
                $h = add(t1, add(sum0, majority));
            };
        }
        macro_rules! rounds {
            ($base:expr, $next:ident) => {
                round!(a b c d e f g h, $base, $next!(0));
                round!(h a b c d e f g, $base + 1, $next!(1));
                round!(g h a b c d e f, $base + 2, $next!(2));
                round!(f g h a b c d e, $base + 3, $next!(3));
                round!(e f g h a b c d, $base + 4, $next!(4));
                round!(d e f g h a b c, $base + 5, $next!(5));
                round!(c d e f g h a b, $base + 6, $next!(6));
                round!(b c d e f g h a, $base + 7, $next!(7));
                round!(a b c d e f g h, $base + 8, $next!(8));
                round!(h a b c d e f g, $base + 9, $next!(9));
                round!(g h a b c d e f, $base + 10, $next!(10));
                round!(f g h a b c d e, $base + 11, $next!(11));
                round!(e f g h a b c d, $base + 12, $next!(12));
                round!(d e f g h a b c, $base + 13, $next!(13));
                round!(c d e f g h a b, $base + 14, $next!(14));
                round!(b c d e f g h a, $base + 15, $next!(15));
            };
        }
        macro_rules! given {
            ($t:expr) => {
                $w[$t]
            };
        }
        macro_rules! extended {
            ($t:expr) => {{
                let (w1, w14) = ($w[($t + 1) % 16], $w[($t + 14) % 16]);
                let sigma0 = xor(xor(rotate::<7, 25>(w1), rotate::<18, 14>(w1)), shift::<3>(w1));
                let sigma1 = xor(xor(rotate::<17, 15>(w14), rotate::<19, 13>(w14)), shift::<10>(w14));
                $w[$t] = add(add($w[$t], sigma0), add($w[($t + 9) % 16], sigma1));
                $w[$t]
            }};
        }
        rounds!(0, given);
        for base in [16, 32, 48] {
            rounds!(base, extended);
        }
        for (word, new) in $state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = add(*word, new);
        }
    }};
}

/// One block of each lane, in whatever vectors the compiler makes of it.
#[inline(always)]
fn compress(state: &mut [Words; 8], w: &mut [Words; 16]) {
    let (mut now, mut words) = (*state, *w);
    compress!(now, words);
    *state = now;
}

/// Gives every lane one message after the other.
#[inline(always)]
fn drive(
    messages: &[Message<'_>],
    mut compress: impl FnMut(&mut [Words; 8], &mut [Words; 16]),
) -> Vec<Digest> {
    let mut out = vec![Digest::default(); messages.len()];
    let mut state = [[0; LANES]; 8];
    let mut w = [[0; LANES]; 16];
    // Of each lane: its message, and the block that comes next.
    let mut at = [(usize::MAX, 0); LANES];
    let mut next = 0;
    let mut busy = 0;
    let mut block = [0; 64];
    loop {
        for (lane, (index, number)) in at.iter_mut().enumerate() {
            if *index == usize::MAX {
                if next == messages.len() {
                    continue;
                }
                (*index, *number) = (next, 0);
                next += 1;
                busy += 1;
                for (word, initial) in state.iter_mut().zip(INITIAL) {
                    word[lane] = initial;
                }
            }
            messages[*index].block(*number, &mut block);
            for (word, bytes) in w.iter_mut().zip(block.as_chunks::<4>().0) {
                word[lane] = u32::from_be_bytes(*bytes);
            }
        }
        if busy == 0 {
            return out;
        }
        compress(&mut state, &mut w);
        for (lane, (index, number)) in at.iter_mut().enumerate() {
            if *index == usize::MAX {
                continue;
            }
            *number += 1;
            if *number == messages[*index].blocks() {
                for (bytes, word) in out[*index].0.as_chunks_mut::<4>().0.iter_mut().zip(&state) {
                    *bytes = word[lane].to_be_bytes();
                }
                *index = usize::MAX;
                busy -= 1;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "a function for one kind of processor is called where it is that kind"
)]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256,
        _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256,
        _mm256_xor_si256,
    };

    use super::{Digest, Message, ROUND, Way, Words, compress, drive};

    pub(super) fn many(way: Way, messages: &[Message<'_>]) -> Vec<Digest> {
        match way {
            // SAFETY: `WAY` is this only where the processor was found to have these features.
            Way::Avx512 => drive(messages, |state, w| unsafe { avx512(state, w) }),
            // SAFETY: likewise.
            Way::Avx2 => drive(messages, |state, w| unsafe { avx2(state, w) }),
            Way::One => unreachable!("one by one needs no lanes"),
        }
    }

    #[target_feature(enable = "avx2,avx512f,avx512vl")]
    fn avx512(state: &mut [Words; 8], w: &mut [Words; 16]) {
        compress(state, w);
    }

    /// In vectors by name: of the portable code the compiler makes none for this processor.
    #[target_feature(enable = "avx2")]
    fn avx2(state: &mut [Words; 8], w: &mut [Words; 16]) {
        // SAFETY: of the words of all lanes 32 bytes are there to be read, aligned or not.
        let load = |words: &Words| unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
        let (mut now, mut words) = (state.each_ref().map(load), w.each_ref().map(load));
        compress!(now, words);
        for (words, now) in state.iter_mut().zip(now) {
            // SAFETY: 32 bytes are there to be written, aligned or not.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), now) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor(a: __m256i, b: __m256i) -> __m256i {
        _mm256_xor_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn and(a: __m256i, b: __m256i) -> __m256i {
        _mm256_and_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const RIGHT: i32, const LEFT: i32>(a: __m256i) -> __m256i {
        or(_mm256_srli_epi32::<RIGHT>(a), _mm256_slli_epi32::<LEFT>(a))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn shift<const RIGHT: i32>(a: __m256i) -> __m256i {
        _mm256_srli_epi32::<RIGHT>(a)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn all(word: u32) -> __m256i {
        _mm256_set1_epi32(word.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use jurat_testkit::Repeatable;

    use super::*;

    /// Every way that this processor has gives what the library gives.
    fn same(messages: &[Message<'_>]) {
        let expected: Vec<Digest> = messages
            .iter()
            .map(|message| sha256(&[&message.head[..message.head_len], message.body]))
            .collect();
        assert_eq!(drive(messages, compress), expected, "portable");
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                assert_eq!(x86::many(Way::Avx2, messages), expected, "AVX2");
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                assert_eq!(x86::many(Way::Avx512, messages), expected, "AVX-512");
            }
        }
        assert_eq!(sha256_many(messages), expected);
    }

    #[test]
    fn no_length_and_no_company_changes_a_digest() {
        let bytes: Vec<u8> = (0..1_000_u32)
            .map(|number| (number * 7 + number / 256) as u8)
            .collect();
        // Every length around block ends, with every kind of head, in one crowd.
        let mut messages = Vec::new();
        for len in 0..300 {
            messages.push(Message::leaf(&bytes[..len]));
            messages.push(Message::context(&[len as u8; 32], &bytes[..len]));
            messages.push(Message::raw(&[7; 32], &bytes[len..len + 200]));
        }
        same(&messages);
        for count in 0..20 {
            same(&messages[..count]);
        }
    }

    #[test]
    fn random_crowds_hash_as_each_alone() {
        let random = Repeatable::new(11);
        let bytes: Vec<u8> = (0..70_000).map(|_| random.below(256) as u8).collect();
        for _ in 0..200 {
            let messages: Vec<Message<'_>> = (0..random.below(40))
                .map(|_| {
                    let long = random.below(8) == 0;
                    let len = random.below(if long { 60_000 } else { 400 }) as usize;
                    let from = random.below((bytes.len() - len) as u64) as usize;
                    Message::context(&[random.below(256) as u8; 32], &bytes[from..from + len])
                })
                .collect();
            same(&messages);
        }
    }

    #[test]
    fn the_commitments_are_those_of_the_single_functions() {
        let messages = [
            Message::leaf(b"x"),
            Message::context(&[1; 32], b"x"),
            Message::raw(&[1; 32], b"x"),
        ];
        let mut context = crate::context_hasher(&[1; 32]);
        context.update(b"x");
        let expected = [
            crate::leaf_hash(b"x"),
            context.finish(),
            crate::raw_commitment(&[1; 32], b"x"),
        ];
        assert_eq!(sha256_many(&messages), expected);
    }
}
