//! Fields whose name says that their value is a secret, whatever it looks like.

/// Whether the values at a place of a JSON tree are secret because of a name above them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named {
    secret: bool,
    /// The nearest name only describes the secret.
    describes: bool,
}

impl Named {
    /// The same for the values under this name.
    pub(crate) fn below(self, name: &str) -> Self {
        Self {
            secret: self.secret || is_secret_name(name.as_bytes()),
            describes: self.secret && describes(name.as_bytes()),
        }
    }

    /// Whether this string or number is taken whole.
    pub(crate) fn takes(self, value: &[u8]) -> bool {
        self.secret && !self.describes && is_worth_hiding(value)
    }
}

/// Whether a field of this name holds a secret whatever it looks like.
pub(crate) fn is_secret_name(name: &[u8]) -> bool {
    if name.len() > NAME_BYTES_MAX || name.len() < 5 {
        return false;
    }
    // Most names are ruled out by their last two letters.
    let mut letters = name
        .iter()
        .rev()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(u8::to_ascii_lowercase);
    let mut last = letters.next();
    if last == Some(b's') {
        last = letters.next();
    }
    let last = (letters.next(), last);
    if !matches!(
        last,
        (Some(b'r' | b'w'), Some(b'd'))
            | (Some(b's' | b'i'), Some(b'e'))
            | (Some(b'e'), Some(b't' | b'y' | b'n'))
            | (Some(b'a'), Some(b'l'))
            | (Some(b'o'), Some(b'n'))
    ) {
        return false;
    }
    let mut plain = [0; NAME_BYTES_MAX];
    let mut len = 0;
    for byte in name.iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        plain[len] = byte.to_ascii_lowercase();
        len += 1;
    }
    let plain = &plain[..len];
    let one = plain.strip_suffix(b"s").unwrap_or(plain);
    NAME_ENDS.iter().any(|end| one.ends_with(end)) || plain == b"token"
}

/// A longer name is prose.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// How the names of secret fields end, letters and digits only, one or many. `token` alone would take
/// in harmless counters such as `max_token`.
const NAME_ENDS: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"credential",
    b"apikey",
    b"secretkey",
    b"privatekey",
    b"accesskey",
    b"apitoken",
    b"authtoken",
    b"accesstoken",
    b"refreshtoken",
    b"sessiontoken",
    b"idtoken",
    b"bearertoken",
    b"authorization",
    b"cookie",
    b"secretaccesskey",
    b"clientsecret",
    b"signingkey",
    b"encryptionkey",
];

/// What JSON Schema says about a field instead of holding its value: the schema of a `password` is
/// no secret.
pub(crate) fn describes(name: &[u8]) -> bool {
    let words: [&[u8]; 10] = [
        b"type",
        b"title",
        b"description",
        b"format",
        b"$ref",
        b"required",
        b"minLength",
        b"maxLength",
        b"minItems",
        b"maxItems",
    ];
    words.contains(&name)
}

/// Whether the value of a secret field is one: not empty, not a word that stands for one.
pub(crate) fn is_worth_hiding(value: &[u8]) -> bool {
    value.len() >= 4
        && !value.starts_with(b"[redacted:")
        && !value.starts_with(b"${")
        && !(value.first() == Some(&b'<') && value.last() == Some(&b'>'))
        && !value
            .iter()
            .all(|byte| matches!(byte, b'*' | b'x' | b'X' | b'.'))
        && !matches!(
            value,
            b"true" | b"false" | b"null" | b"none" | b"None" | b"string" | b"undefined"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_in_every_spelling_and_counters_are_not_taken_for_them() {
        for end in NAME_ENDS {
            let end = String::from_utf8_lossy(end);
            for name in [
                format!("{end}"),
                format!("my_{end}s"),
                format!("X-{}", end.to_uppercase()),
            ] {
                assert!(is_secret_name(name.as_bytes()), "{name}");
            }
        }
        for name in [
            "token",
            "db-Password",
            "AWS_SECRET_ACCESS_KEY",
            "credentials",
        ] {
            assert!(is_secret_name(name.as_bytes()), "{name}");
        }
        for name in [
            "max_tokens",
            "input_tokens",
            "cache_read_input_tokens",
            "tokens",
            "max_token",
            "usage",
            "key",
            "keys",
            "address",
            "author",
            "secretary",
            "description",
        ] {
            assert!(!is_secret_name(name.as_bytes()), "{name}");
        }
    }
}
