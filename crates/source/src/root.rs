//! What is followed: a folder and the files in it.

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

/// A folder whose matching files are followed, wherever they appear in it.
#[derive(Clone, Debug)]
pub struct Root {
    /// The name of the source.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    globs: GlobSet,
    /// For each pattern what its folders must be called; after the last one any folder will do.
    folders: Vec<Folders>,
}

#[derive(Clone, Debug)]
struct Folders {
    names: Vec<GlobMatcher>,
    /// Whether there may be more folders below these.
    deeper: bool,
}

/// What a look into a root's folder found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, sorted.
    pub files: Vec<PathBuf>,
    /// What could not be looked at, so that there may be more files than these.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// A pattern that is not one.
#[derive(Debug, thiserror::Error)]
#[error("source {name}: the pattern {pattern:?} is not a glob")]
pub struct RootError {
    /// The source.
    pub name: String,
    /// The pattern.
    pub pattern: String,
    /// What is wrong.
    #[source]
    pub source: globset::Error,
}

/// How deep folders are followed, and how many files a root may have.
const DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 200_000;

impl Root {
    /// A root with patterns relative to its folder; `**` matches any folders.
    ///
    /// # Errors
    /// [`RootError`] names the pattern.
    pub fn new(name: &str, dir: &Path, patterns: &[String]) -> Result<Self, RootError> {
        let wrong = |pattern: &str, source| RootError {
            name: name.into(),
            pattern: pattern.into(),
            source,
        };
        let mut globs = GlobSetBuilder::new();
        let mut folders = Vec::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            globs.add(glob.map_err(|error| wrong(pattern, error))?);
            folders.push(Folders::of(pattern));
        }
        let globs = globs
            .build()
            .map_err(|error| wrong(&patterns.join(", "), error))?;
        Ok(Self {
            name: name.to_owned(),
            dir: dir.to_path_buf(),
            globs,
            folders,
        })
    }

    /// Whether a path is one of this root's files.
    pub fn matches(&self, path: &Path) -> bool {
        path.strip_prefix(&self.dir)
            .is_ok_and(|inside| self.globs.is_match(inside))
    }

    /// The files there are now, and the folders that could not be looked into. A root that does not
    /// exist has none of either. Folders in which no pattern can match are left alone.
    pub fn files(&self) -> Listing {
        let mut found = Listing::default();
        self.walk(&self.dir, 0, &mut found);
        found.files.sort();
        found
    }

    fn walk(&self, dir: &Path, depth: usize, found: &mut Listing) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return found.failed(dir, error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // The rest of this folder is unknown.
                Err(error) => return found.failed(dir, error),
            };
            let path = entry.path();
            // The entry's own type: a link to a folder is not followed, so there are no circles.
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) => {
                    found.failed(&path, error);
                    continue;
                }
            };
            if kind.is_dir() {
                if !self.may_hold_files(&path) {
                    continue;
                }
                if depth == DEPTH_MAX {
                    let why = format!("it lies more than {DEPTH_MAX} folders deep");
                    found.failed(&path, io::Error::other(why));
                    continue;
                }
                self.walk(&path, depth + 1, found);
            } else if self.matches(&path) && (kind.is_file() || leads_to_file(&path)) {
                if found.files.len() == FILES_MAX {
                    let why = format!("there are more than {FILES_MAX} files");
                    return found.failed(&self.dir, io::Error::other(why));
                }
                found.files.push(path);
            }
        }
    }

    /// Whether a file in this folder, or below it, could match.
    fn may_hold_files(&self, dir: &Path) -> bool {
        let Ok(inside) = dir.strip_prefix(&self.dir) else {
            return false;
        };
        self.folders.iter().any(|folders| {
            let mut names = folders.names.iter();
            inside.components().all(|component| match names.next() {
                Some(name) => {
                    matches!(component, Component::Normal(part) if name.is_match(part))
                }
                None => folders.deeper,
            })
        })
    }
}

impl Folders {
    fn of(pattern: &str) -> Self {
        let (folders, _file) = pattern.rsplit_once('/').unwrap_or_default();
        let mut names = Vec::new();
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            // Alternatives may span several folders: from here on any folder will do.
            let plain = !part.contains("**") && !pattern.contains('{');
            match Glob::new(part).ok().filter(|_| plain) {
                Some(glob) => names.push(glob.compile_matcher()),
                None => {
                    return Self {
                        names,
                        deeper: true,
                    };
                }
            }
        }
        Self {
            names,
            deeper: pattern.contains('{'),
        }
    }
}

impl Listing {
    fn failed(&mut self, path: &Path, error: io::Error) {
        // What is not there (any more) hides nothing.
        if error.kind() != io::ErrorKind::NotFound {
            self.failed.push((path.to_path_buf(), error));
        }
    }
}

/// Whether a link leads to a file, or to something that cannot be told: then reading will tell.
fn leads_to_file(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => metadata.is_file(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
