//! Which library does the cryptography, and whether it is what a build with feature `fips` promises.
//!
//! What the module is, what stays outside of it and what the version means: `docs/guides/fips.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tls;

/// Whether this build promises it.
pub const IS_BUILT: bool = cfg!(feature = "fips");

/// The library, as it names itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// The version that the linked library gives.
    pub version: String,
    /// The version of its FIPS module, from the headers that it was built with; absent in builds without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fips_module: Option<u32>,
}

impl Library {
    /// The one that this program is linked with.
    pub fn linked() -> Self {
        Self {
            name: "AWS-LC".into(),
            version: aws_lc_rs::awslc_version().into(),
            fips_module: aws_lc_rs::fips_version().filter(|_| IS_BUILT),
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        match self.fips_module {
            Some(module) => write!(f, ", FIPS module {module}"),
            None => Ok(()),
        }
    }
}

/// What must hold for a build that promises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The library says that it is in FIPS mode.
    pub module: bool,
    /// A client's TLS configuration says that all in it is.
    pub client: bool,
    /// A server's.
    pub server: bool,
}

impl Facts {
    /// As they are in this process.
    pub fn now() -> Self {
        let (client, server) = tls::are_fips();
        Self {
            module: aws_lc_rs::try_fips_mode().is_ok(),
            client,
            server,
        }
    }

    /// Whether all of them hold.
    ///
    /// # Errors
    /// [`NotFips`] names the first that does not.
    pub fn check(self) -> Result<(), NotFips> {
        for (holds, what) in [
            (self.module, "the library is not in FIPS mode"),
            (self.client, "the TLS configuration of clients is not FIPS"),
            (self.server, "the TLS configuration of servers is not FIPS"),
        ] {
            if !holds {
                return Err(NotFips(what));
            }
        }
        Ok(())
    }
}

/// This build promises the FIPS module, and does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this build runs on a FIPS module only, and {0}; nothing was done")]
pub struct NotFips(&'static str);

/// What every program begins with: nothing where nothing is promised.
///
/// # Errors
/// [`NotFips`].
pub fn check() -> Result<(), NotFips> {
    if IS_BUILT {
        Facts::now().check()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_promises_the_module_runs_only_while_every_fact_holds() {
        let all = Facts {
            module: true,
            client: true,
            server: true,
        };
        assert_eq!(all.check(), Ok(()));
        let lacking = [
            Facts {
                module: false,
                ..all
            },
            Facts {
                client: false,
                ..all
            },
            Facts {
                server: false,
                ..all
            },
        ];
        let said = lacking.map(|facts| facts.check().unwrap_err().to_string());
        for (said, word) in said.iter().zip(["FIPS mode", "clients", "servers"]) {
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn the_facts_are_asked_of_the_library_and_not_of_the_build() {
        // The library of a build without the module fails each of them, and the check with them.
        let facts = Facts::now();
        let is = IS_BUILT;
        assert_eq!((facts.module, facts.client, facts.server), (is, is, is));
        assert_eq!(facts.check().is_ok(), is);
        assert_eq!(check(), Ok(()));
        assert_eq!(Library::linked().fips_module.is_some(), is);
    }
}
