//! What cannot be read: said once for each place and reason, until it works again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Item, Lost};

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doing {
    Checking,
    Listing,
    Reading,
}

impl Doing {
    fn words(self) -> &'static str {
        match self {
            Self::Checking => "checking what was read",
            Self::Listing => "listing a folder",
            Self::Reading => "reading",
        }
    }
}

/// What fails now, and what is still to be told about it.
#[derive(Default)]
pub(crate) struct Failing {
    /// As many as there are files and folders at most, which a root limits.
    places: BTreeMap<PathBuf, BTreeMap<Doing, Failure>>,
    notices: VecDeque<Notice>,
}

struct Failure {
    source: String,
    /// Every reason seen since it last worked; no more are told than [`REASONS_MAX`].
    reasons: BTreeSet<String>,
    last: String,
}

/// Something to be given out.
pub(crate) struct Notice {
    source: String,
    path: PathBuf,
    doing: Doing,
    offset: u64,
    what: What,
}

enum What {
    Fails(String),
    Works,
    Gone,
}

/// How many reasons are told of one place before it works again.
const REASONS_MAX: usize = 16;

impl Failing {
    pub(crate) fn fails(
        &mut self,
        path: &Path,
        doing: Doing,
        source: &str,
        offset: u64,
        error: &io::Error,
    ) {
        let reason = error.to_string();
        let place = self.places.entry(path.to_path_buf()).or_default();
        let failure = place.entry(doing).or_insert_with(|| Failure {
            source: source.to_owned(),
            reasons: BTreeSet::new(),
            last: String::new(),
        });
        failure.last.clone_from(&reason);
        if failure.reasons.len() < REASONS_MAX && failure.reasons.insert(reason.clone()) {
            self.notices.push_back(Notice {
                source: source.to_owned(),
                path: path.to_path_buf(),
                doing,
                offset,
                what: What::Fails(reason),
            });
        }
    }

    pub(crate) fn works(&mut self, path: &Path, doing: Doing, offset: u64) {
        if let Some(source) = self.end(path, doing) {
            self.notices.push_back(Notice {
                source,
                path: path.to_path_buf(),
                doing,
                offset,
                what: What::Works,
            });
        }
    }

    /// The place is gone, and with it what was never read. Not told when the caller tells it.
    pub(crate) fn gone(&mut self, path: &Path, tell: bool) {
        let Some((doing, failure)) = self
            .places
            .remove(path)
            .and_then(|mut place| place.pop_first())
        else {
            return;
        };
        if tell {
            self.notices.push_back(Notice {
                source: failure.source,
                path: path.to_path_buf(),
                doing,
                offset: 0,
                what: What::Gone,
            });
        }
    }

    /// The place has another name now.
    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        if let Some(place) = self.places.remove(from) {
            self.places.insert(to.to_path_buf(), place);
        }
    }

    fn end(&mut self, path: &Path, doing: Doing) -> Option<String> {
        let Entry::Occupied(mut place) = self.places.entry(path.to_path_buf()) else {
            return None;
        };
        let failure = place.get_mut().remove(&doing);
        if place.get().is_empty() {
            place.remove();
        }
        failure.map(|failure| failure.source)
    }

    /// The places where this fails.
    pub(crate) fn places(&self, doing: Doing) -> impl Iterator<Item = &PathBuf> {
        self.places
            .iter()
            .filter(move |(_, place)| place.contains_key(&doing))
            .map(|(path, _)| path)
    }

    /// How many places fail, and the first of them in words.
    pub(crate) fn summary(&self, max: usize) -> (usize, Vec<String>) {
        let words = self.places.iter().filter_map(|(path, place)| {
            let (doing, failure) = place.first_key_value()?;
            let (doing, last) = (doing.words(), &failure.last);
            Some(format!("{}: {doing}: {last}", path.display()))
        });
        (self.places.len(), words.take(max).collect())
    }

    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(crate) fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }
}

impl Notice {
    pub(crate) fn item(&self) -> Item<'_> {
        let (source, path) = (self.source.as_str(), self.path.as_path());
        let (doing, offset) = (self.doing.words(), self.offset);
        match &self.what {
            What::Fails(error) => Item::Failed {
                source,
                path,
                doing,
                error,
                offset,
            },
            What::Works => Item::Recovered {
                source,
                path,
                doing,
                offset,
            },
            What::Gone => Item::Lost {
                source,
                path,
                what: Lost::Deleted,
                read: 0,
                len: 0,
                lines: 0,
            },
        }
    }
}
