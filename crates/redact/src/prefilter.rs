//! Where a keyword may stand: the one look that every byte of every text gets.
//!
//! Each keyword is known by the rarest four of its bytes. A bit map over hashes of four bytes, small
//! enough for the first cache, is asked at every position, independently of its neighbours: several
//! times as fast as an automaton over a thousand keywords, whose every step waits for the last.

use std::ops::Range;

/// Bytes that a keyword is known by.
const GRAM: usize = 4;
/// No keyword is longer.
pub(crate) const KEYWORD_BYTES_MAX: usize = 32;
const HASH_BITS: u32 = 17;
/// Upper and lower case alike; some other bytes, too, which the second look tells apart.
const FOLD: u32 = 0x2020_2020;

struct Entry {
    gram: u32,
    /// Where in the keyword its four bytes stand.
    offset: usize,
    keyword: usize,
}

/// A set of keywords, upper and lower case alike.
pub(crate) struct Prefilter {
    bits: Box<[u64; 1 << (HASH_BITS - 6)]>,
    /// Sorted by hash.
    entries: Vec<Entry>,
    /// Where the entries of each hash begin.
    buckets: Vec<u32>,
    keywords: Vec<Vec<u8>>,
    /// Which bytes begin a keyword that is too short for the bit map; such exist only in rules for
    /// personal data.
    short: Option<Box<[bool; 256]>>,
    shorts: Vec<usize>,
}

fn hash(gram: u32) -> u32 {
    gram.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)
}

/// How common a byte is in text and source code, roughly.
fn commonness(byte: u8) -> u32 {
    match byte {
        b' ' | b'e' | b't' => 9,
        b'a' | b'i' | b'n' | b'o' | b'r' | b's' => 8,
        b'c' | b'd' | b'l' | b'm' | b'p' | b'u' | b'"' => 6,
        b'b' | b'f' | b'g' | b'h' | b'y' | b'_' | b':' | b'=' | b'.' | b'/' | b'-' => 5,
        b'0'..=b'9' | b'\n' => 4,
        b'k' | b'v' | b'w' | b'x' => 3,
        _ => 1,
    }
}

impl Prefilter {
    pub(crate) fn new(keywords: Vec<Vec<u8>>) -> Self {
        let mut bits = Box::new([0_u64; 1 << (HASH_BITS - 6)]);
        let mut entries = Vec::new();
        let mut shorts = Vec::new();
        let mut add = |gram: u32, offset, keyword| {
            let gram = gram | FOLD;
            let hash = hash(gram);
            bits[(hash >> 6) as usize] |= 1 << (hash & 63);
            entries.push(Entry {
                gram,
                offset,
                keyword,
            });
        };
        for (index, keyword) in keywords.iter().enumerate() {
            let rarest = keyword
                .windows(GRAM)
                .enumerate()
                .min_by_key(|(_, gram)| gram.iter().map(|byte| commonness(*byte)).sum::<u32>());
            match (rarest, keyword.as_slice()) {
                (Some((offset, &[a, b, c, d])), _) => {
                    add(u32::from_le_bytes([a, b, c, d]), offset, index);
                }
                // With whatever comes after; after a prefix, that is a token.
                (_, &[a, b, c]) => {
                    let prefix = c.is_ascii_alphanumeric() || b"_~".contains(&c);
                    let token = |d: u8| d.is_ascii_alphanumeric() || b"_.~+/-".contains(&d);
                    let mut folded: Vec<u8> = (0..=u8::MAX)
                        .filter(|d| !prefix || token(*d))
                        .map(|d| d | FOLD as u8)
                        .collect();
                    folded.sort_unstable();
                    folded.dedup();
                    for d in folded {
                        add(u32::from_le_bytes([a, b, c, d]), 0, index);
                    }
                }
                _ => shorts.push(index),
            }
        }
        entries.sort_by_key(|entry| hash(entry.gram));
        let mut buckets = vec![0; 1 << HASH_BITS];
        for (index, entry) in entries.iter().enumerate().rev() {
            buckets[hash(entry.gram) as usize] = index as u32;
        }
        let short = (!shorts.is_empty()).then(|| {
            let mut firsts = Box::new([false; 256]);
            for byte in shorts.iter().filter_map(|index| keywords[*index].first()) {
                firsts[usize::from(byte.to_ascii_lowercase())] = true;
                firsts[usize::from(byte.to_ascii_uppercase())] = true;
            }
            firsts
        });
        Self {
            bits,
            entries,
            buckets,
            keywords,
            short,
            shorts,
        }
    }

    fn test(&self, gram: u32) -> u64 {
        let hash = hash(gram);
        self.bits[(hash >> 6) as usize] >> (hash & 63) & 1
    }

    fn gram(text: &[u8], at: usize) -> u32 {
        let mut gram = [0; GRAM];
        for (to, from) in gram.iter_mut().zip(text.get(at..).unwrap_or_default()) {
            *to = *from;
        }
        u32::from_le_bytes(gram) | FOLD
    }

    /// The first position in `range` where a keyword's four bytes may stand.
    fn candidate(&self, text: &[u8], range: Range<usize>) -> Option<usize> {
        let mut at = range.start;
        let end = range.end.min(text.len());
        if let Some(firsts) = &self.short {
            return (at..end).find(|at| {
                firsts[usize::from(text[*at])] || self.test(Self::gram(text, *at)) != 0
            });
        }
        while at < end
            && let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>)
        {
            let eight = u64::from_le_bytes(*eight) | u64::from(FOLD) << 32 | u64::from(FOLD);
            let hits = self.test(eight as u32)
                | self.test((eight >> 8) as u32) << 1
                | self.test((eight >> 16) as u32) << 2
                | self.test((eight >> 24) as u32) << 3
                | self.test((eight >> 32) as u32) << 4;
            if hits != 0 {
                let found = at + hits.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            at += 5;
        }
        (at..end).find(|at| self.test(Self::gram(text, *at)) != 0)
    }

    /// The keywords whose four bytes stand here: which, and from where to where each reaches.
    pub(crate) fn keywords<'a>(
        &'a self,
        text: &'a [u8],
        at: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
        let shorts: &[usize] = match &self.short {
            Some(firsts) if firsts[usize::from(text[at])] => &self.shorts,
            _ => &[],
        };
        let shorts = shorts.iter().map(|keyword| (*keyword, 0));
        self.of_gram(Self::gram(text, at))
            .map(|entry| (entry.keyword, entry.offset))
            .chain(shorts)
            .filter_map(move |(keyword, offset)| {
                let start = at.checked_sub(offset)?;
                let bytes = &self.keywords[keyword];
                let range = start..start + bytes.len();
                text.get(range.clone())?
                    .eq_ignore_ascii_case(bytes)
                    .then_some((keyword, range))
            })
    }

    fn of_gram(&self, gram: u32) -> impl Iterator<Item = &Entry> {
        let hash = hash(gram);
        self.entries[self.buckets[hash as usize] as usize..]
            .iter()
            .take_while(move |entry| self::hash(entry.gram) == hash)
            .filter(move |entry| entry.gram == gram)
    }

    /// The first position in `range` where a keyword's four bytes stand.
    pub(crate) fn next(&self, text: &[u8], range: Range<usize>) -> Option<usize> {
        let mut at = range.start;
        loop {
            let found = self.candidate(text, at..range.end)?;
            if self.keywords(text, found).next().is_some() {
                return Some(found);
            }
            at = found + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(prefilter: &Prefilter, text: &[u8]) -> Vec<(usize, Range<usize>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(next) = prefilter.next(text, at..text.len()) {
            found.extend(prefilter.keywords(text, next));
            at = next + 1;
        }
        found.sort_by_key(|(keyword, range)| (range.start, *keyword));
        found
    }

    #[test]
    fn every_keyword_is_found_at_every_place_in_either_case() {
        let words = [
            "ghp_",
            "password",
            "\nsk_",
            "eyj",
            "aqe",
            "://",
            "-----begin ",
            "_key=",
        ];
        for short in [false, true] {
            let mut words = words.map(|word| word.as_bytes().to_vec()).to_vec();
            if short {
                words.extend([b"@".to_vec(), b"de".to_vec()]);
            }
            let prefilter = Prefilter::new(words.clone());
            for (index, word) in words.iter().enumerate() {
                for before in 0..20 {
                    for after in 0..10 {
                        let mut text = vec![b'.'; before];
                        text.extend(word.to_ascii_uppercase());
                        // Three bytes alone are no token.
                        text.extend(vec![b'a'; usize::from(word.len() == 3)]);
                        text.extend(vec![b'.'; after]);
                        let range = before..before + word.len();
                        assert!(all(&prefilter, &text).contains(&(index, range)), "{text:?}");
                    }
                }
            }
        }
    }
}
