//! What people and agents write.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use jurat_agent::Config;
use jurat_collector::Settings;
use jurat_dialect::{Hint, claude_code};
use jurat_proof::Trust;
use jurat_redact::{Mode, Redactor, Rules};

use crate::two;

/// A trust file. What is written out again is the same trust.
pub fn trust(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(trust) = Trust::parse(&text) {
        assert_eq!(Trust::parse(&trust.to_string()).as_ref(), Ok(&trust));
    }
}

/// A configuration, of an endpoint or of a collector: `<TOML> NUL <value of a variable>`.
pub fn settings(data: &[u8]) {
    let (text, value) = two(data, b"\0");
    let value = String::from_utf8_lossy(&value).into_owned();
    let vars = ["JURAT_FILTER_IGNORE_TYPES", "JURAT_SEAL_BATCH_S"]
        .map(|name| (name.to_owned(), value.clone()));
    let _ = Config::parse("jurat.toml".into(), &text, vars);
    if let Ok(config) = Config::parse("jurat.toml".into(), &text, []) {
        let written = toml::to_string(&config).expect("a configuration can be written");
        let again = Config::parse("jurat.toml".into(), &written, []);
        assert_eq!(again.ok(), Some(config));
    }
    let _ = toml::from_str::<Settings>(&text);
}

/// A line of a transcript. Whatever it holds, one record owns all of it.
pub fn transcript(data: &[u8]) {
    let stem = "afb043a1-c677-435f-b680-e63ed4655bbe";
    let decoded = claude_code::decode(data, Hint { file_stem: stem });
    assert_eq!(decoded.record.context.as_deref(), Some(data));
    assert!(decoded.blocks.len() <= 256);
    assert!(decoded.blocks.iter().all(|block| block.context.is_none()));
}

fn redactor() -> Redactor {
    static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let personal = ["email", "payment-card", "iban"].map(str::to_owned);
        Arc::new(Rules::builtin(&personal).expect("the shipped rules are good"))
    });
    Redactor::with_rules(Mode::Redact, &[1; 32], RULES.clone())
}

thread_local! {
    /// One for many inputs, as in an endpoint: it keeps tables that are not made anew for each.
    static REDACTOR: RefCell<Redactor> = RefCell::new(redactor());
}

/// Text and JSON with secrets. UTF-8 and JSON stay what they are, and redacting twice changes nothing;
/// only in what is neither text nor JSON a replacement may move the quotes, and more be taken out.
pub fn redact(data: &[u8]) {
    REDACTOR.with_borrow_mut(|redactor| redacted(redactor, data));
}

fn redacted(redactor: &mut Redactor, data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(clean) = redactor.text(text)
    {
        assert_eq!(redactor.text(&clean), None, "once is enough: {clean:?}");
    }
    let Some((clean, count)) = redactor.json(data) else {
        return;
    };
    assert!(count > 0);
    let shown = String::from_utf8_lossy(&clean);
    if std::str::from_utf8(data).is_ok() {
        assert!(std::str::from_utf8(&clean).is_ok(), "{shown:?}");
    }
    // Strings that are passed over are not checked for UTF-8, and JSON is UTF-8.
    let is_json = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
    };
    if data.first() == Some(&b'{') && data.last() == Some(&b'}') && is_json(data) {
        assert!(is_json(&clean), "JSON stays JSON: {shown:?}");
        assert_eq!(redactor.json(&clean), None, "once is enough: {shown:?}");
    }
}
