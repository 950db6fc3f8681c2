//! Rules as data.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

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
    /// The keywords do not make a prefilter.
    #[error("rules: {0}")]
    Keywords(#[from] aho_corasick::BuildError),
}

/// A compiled set of rules with its one prefilter.
pub struct Rules {
    rules: Vec<Rule>,
    /// Compiled when first needed: most machines never see most providers' tokens.
    patterns: Vec<OnceLock<Option<Regex>>>,
    prefilter: AhoCorasick,
    /// For each keyword of the prefilter, the rules that it may begin.
    owners: Vec<Vec<u16>>,
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
    /// [`RuleError`] when the keywords cannot be made into one prefilter.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut keywords: Vec<String> = Vec::new();
        let mut owners: Vec<Vec<u16>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for keyword in &rule.keywords {
                let keyword = keyword.to_ascii_lowercase();
                let at = *known.entry(keyword.clone()).or_insert_with(|| {
                    keywords.push(keyword);
                    owners.push(Vec::new());
                    keywords.len() - 1
                });
                owners[at].push(index as u16);
            }
        }
        let prefilter = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&keywords)?;
        let patterns = rules.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            rules,
            patterns,
            prefilter,
            owners,
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

    pub(crate) fn prefilter(&self) -> &AhoCorasick {
        &self.prefilter
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

fn compile(rule: &Rule) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&rule.pattern)
        .unicode(false)
        .size_limit(16 * 1024 * 1024)
        .build()
}

fn parse(text: &str) -> Result<Vec<Rule>, RuleError> {
    Ok(toml::from_str::<File>(text).map_err(Box::new)?.rule)
}
