//! Secrets made from the templates in the rule files: nothing that looks like one is kept in them.

/// Repeatable numbers.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const DIGIT: &str = "0123456789";

/// Fills a template's placeholders.
pub(crate) fn expand(template: &str, draw: &mut Draw) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, tail) = rest.split_at(open);
        out.push_str(before);
        let filled = tail
            .find('}')
            .and_then(|close| Some((fill(&tail[1..close], draw)?, close)));
        match filled {
            Some((text, close)) => {
                out.push_str(&text);
                rest = &tail[close + 1..];
            }
            None => {
                out.push('{');
                rest = &tail[1..];
            }
        }
    }
    out + rest
}

fn fill(placeholder: &str, draw: &mut Draw) -> Option<String> {
    let mut take = |alphabet: &str, len: usize| -> String {
        (0..len)
            .map(|_| char::from(alphabet.as_bytes()[draw.below(alphabet.len())]))
            .collect()
    };
    if placeholder == "u" {
        let hex = |len, take: &mut dyn FnMut(&str, usize) -> String| take("0123456789abcdef", len);
        return Some([8, 4, 4, 4, 12].map(|len| hex(len, &mut take)).join("-"));
    }
    let (class, len) = placeholder.split_once(':')?;
    let alphabet = match class {
        "A" => format!("{UPPER}{LOWER}{DIGIT}"),
        "a" => format!("{LOWER}{DIGIT}"),
        "U" => format!("{UPPER}{DIGIT}"),
        "h" => "0123456789abcdef".into(),
        "H" => "0123456789ABCDEF".into(),
        "d" => DIGIT.into(),
        "l" => LOWER.into(),
        "L" => UPPER.into(),
        "b" => format!("{UPPER}{LOWER}{DIGIT}_-"),
        "B" => format!("{UPPER}{LOWER}{DIGIT}+/"),
        "z" => format!("{UPPER}234567"),
        "5" => "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".into(),
        _ => return None,
    };
    Some(take(&alphabet, len.parse().ok()?))
}
