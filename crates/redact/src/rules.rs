//! Rules as data.

use std::collections::HashMap;
use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::prefilter::{KEYWORD_BYTES_MAX, Prefilter};

/// Published token formats, provider by provider.
const TOKENS: &str = include_str!("../rules/tokens.toml");
/// Shapes that carry a secret whoever issued it: headers, URLs, assignments, PEM.
const SHAPES: &str = include_str!("../rules/shapes.toml");
/// Personal data; each category is a switch, off by default.
const PERSONAL: &str = include_str!("../rules/personal.toml");

/// One rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it finds; printed in the replacement.
    pub kind: String,
    /// Who issues such secrets.
    pub provider: String,
    /// Literals of which one always stands in or just before a match.
    pub keywords: Vec<String>,
    /// The pattern; group 1 is the secret where there is one.
    pub pattern: String,
    /// The longest match in bytes.
    pub max: usize,
    /// The least entropy of the secret, in bits a byte.
    #[serde(default)]
    pub entropy: Option<f64>,
    /// A named check of the secret.
    #[serde(default)]
    pub check: Option<String>,
    /// Templates of secrets that must be found.
    #[serde(default)]
    pub example: Vec<String>,
    /// Templates of texts that must be left alone.
    #[serde(default)]
    pub not: Vec<String>,
    /// Where the format is published.
    pub source: String,
}

#[derive(Deserialize)]
struct File {
    rule: Vec<Rule>,
}

/// Why a rule cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Not a rule file.
    #[error("rules: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A pattern that does not compile.
    #[error("rule {kind}: {source}")]
    Pattern {
        /// The rule.
        kind: String,
        /// What is wrong.
        #[source]
        source: Box<regex::Error>,
    },
    /// A keyword that is empty or longer than the prefilter takes.
    #[error("rule {kind}: its keywords must have 1 to {KEYWORD_BYTES_MAX} bytes")]
    Keyword {
        /// The rule.
        kind: String,
    },
}

/// A compiled set of rules with its one prefilter.
pub struct Rules {
    rules: Vec<Rule>,
    /// Compiled when first needed: most machines never see most providers' tokens.
    patterns: Vec<OnceLock<Option<Regex>>>,
    prefilter: Prefilter,
    /// For each keyword of the prefilter, the rules that it may begin; none for what only stands for
    /// one in a JSON text.
    owners: Vec<Vec<u16>>,
    match_bytes_max: usize,
}

impl Rules {
    /// The rules that come with the program; `personal` adds these categories of personal data.
    ///
    /// # Errors
    /// [`RuleError`]: a bug for the shipped rules, which a test compiles.
    pub fn builtin(personal: &[String]) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for text in [TOKENS, SHAPES] {
            rules.extend(parse(text)?);
        }
        rules.extend(
            parse(PERSONAL)?
                .into_iter()
                .filter(|rule| personal.contains(&rule.kind)),
        );
        Self::new(rules)
    }

    /// A set of these rules.
    ///
    /// # Errors
    /// [`RuleError::Keyword`] names the rule.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut keywords: Vec<Vec<u8>> = Vec::new();
        let mut owners: Vec<Vec<u16>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for keyword in &rule.keywords {
                if keyword.is_empty() || keyword.len() > KEYWORD_BYTES_MAX {
                    let kind = rule.kind.clone();
                    return Err(RuleError::Keyword { kind });
                }
                let keyword = keyword.to_ascii_lowercase();
                let at = *known.entry(keyword.clone()).or_insert_with(|| {
                    keywords.push(keyword.into_bytes());
                    owners.push(Vec::new());
                    keywords.len() - 1
                });
                owners[at].push(index as u16);
            }
        }
        // How they stand in a JSON text, where they say only that a string has to be decoded.
        let raw: Vec<_> = keywords.iter().flat_map(|keyword| raw(keyword)).collect();
        owners.resize(keywords.len() + raw.len(), Vec::new());
        keywords.extend(raw);
        let prefilter = Prefilter::new(keywords);
        let match_bytes_max = rules.iter().map(|rule| rule.max).max().unwrap_or(0);
        let patterns = rules.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            rules,
            patterns,
            prefilter,
            owners,
            match_bytes_max,
        })
    }

    /// Compiles every pattern now, to find one that does not.
    ///
    /// # Errors
    /// [`RuleError::Pattern`] names the rule.
    pub fn check(&self) -> Result<(), RuleError> {
        for rule in &self.rules {
            compile(rule).map_err(|source| RuleError::Pattern {
                kind: rule.kind.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn prefilter(&self) -> &Prefilter {
        &self.prefilter
    }

    /// The longest match of any rule.
    pub(crate) fn match_bytes_max(&self) -> usize {
        self.match_bytes_max
    }

    pub(crate) fn owners(&self, keyword: usize) -> &[u16] {
        &self.owners[keyword]
    }

    pub(crate) fn rule(&self, index: u16) -> &Rule {
        &self.rules[usize::from(index)]
    }

    /// The pattern of a rule; `None` when it does not compile, which [`Rules::check`] would have said.
    pub(crate) fn pattern(&self, index: u16) -> Option<&Regex> {
        let index = usize::from(index);
        self.patterns[index]
            .get_or_init(|| compile(&self.rules[index]).ok())
            .as_ref()
    }
}

/// The forms in which a keyword stands in a string of a JSON text without unusual escapes, where they
/// are not its own. The beginning of a string counts as a line feed.
fn raw(keyword: &[u8]) -> Vec<Vec<u8>> {
    let mut escaped = Vec::new();
    for byte in keyword {
        match byte {
            b'\n' => escaped.extend(b"\\n"),
            b'\t' => escaped.extend(b"\\t"),
            b'\r' => escaped.extend(b"\\r"),
            b'"' | b'\\' => escaped.extend([b'\\', *byte]),
            _ => escaped.push(*byte),
        }
    }
    let mut forms = Vec::new();
    if let Some(rest) = escaped.strip_prefix(b"\\n") {
        forms.push([b"\"", rest].concat());
    }
    if escaped != keyword {
        forms.push(escaped);
    }
    forms
}

fn compile(rule: &Rule) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&rule.pattern)
        .unicode(false)
        .size_limit(16 * 1024 * 1024)
        .build()
}

fn parse(text: &str) -> Result<Vec<Rule>, RuleError> {
    Ok(toml::from_str::<File>(text).map_err(Box::new)?.rule)
}
