//! What is followed: a folder and the files in it.

use std::fs;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A folder whose matching files are followed, wherever they appear in it.
#[derive(Clone, Debug)]
pub struct Root {
    /// The name of the source.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    globs: GlobSet,
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
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            globs.add(glob.map_err(|error| wrong(pattern, error))?);
        }
        let globs = globs
            .build()
            .map_err(|error| wrong(&patterns.join(", "), error))?;
        Ok(Self {
            name: name.to_owned(),
            dir: dir.to_path_buf(),
            globs,
        })
    }

    /// Whether a path is one of this root's files.
    pub fn matches(&self, path: &Path) -> bool {
        path.strip_prefix(&self.dir)
            .is_ok_and(|inside| self.globs.is_match(inside))
    }

    /// The files there are now, sorted. A folder that cannot be read has none.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        self.walk(&self.dir, 0, &mut found);
        found.sort();
        found
    }

    fn walk(&self, dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            // The entry's own type: a link to a folder is not followed, so there are no circles.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = entry.path();
            if kind.is_dir() && depth < DEPTH_MAX {
                self.walk(&path, depth + 1, found);
            } else if !kind.is_dir()
                && found.len() < FILES_MAX
                && self.matches(&path)
                && (kind.is_file() || path.is_file())
            {
                found.push(path);
            }
        }
    }
}
