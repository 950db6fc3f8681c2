//! Quotes of the enclave or the confidential VM that this process runs in: files that the platform shows.
//!
//! Known gap: no real enclave ran these lines. The tests run against folders that behave as the documents of Gramine
//! and of Linux (`Documentation/ABI/testing/configfs-tsm-report`) say.

use std::fs::{File, OpenOptions, create_dir, remove_dir};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use jurat_attest::report_data;

/// The longest quote that is read: what Linux gives is at most half of it.
const QUOTE_BYTES_MAX: u64 = 64 * 1024;
/// The longest of the files that hold a word.
const WORD_BYTES_MAX: u64 = 256;

/// Where quotes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enclave {
    /// SGX below Gramine: the folder `/dev/attestation`.
    Gramine(PathBuf),
    /// A confidential VM: the folder `/sys/kernel/config/tsm/report`, and the name of an entry in it that nobody
    /// else uses.
    Tsm(PathBuf, String),
}

/// What made a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnclaveKind {
    /// SGX.
    Sgx,
    /// TDX.
    Tdx,
    /// SEV-SNP.
    Snp,
}

/// A quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnclaveQuote {
    /// What made it.
    pub kind: EnclaveKind,
    /// The quote, or the report of SEV-SNP.
    pub quote: Vec<u8>,
    /// The table of certificates that came with it; often empty.
    pub certificates: Vec<u8>,
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnclaveError {
    /// A file of the platform.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Longer than anything that is meant.
    #[error("{0}: too long")]
    TooLong(PathBuf),
    /// The platform says that it gives no quotes, or of a kind that is not known here.
    #[error("the platform's attestation is {0:?}")]
    Kind(String),
    /// Somebody else wrote at the same time.
    #[error("the entry was written {0} times meanwhile: another process uses its name")]
    Raced(i128),
    /// The quote is of something else than was asked for: somebody else asked in between.
    #[error("the quote is of other report data")]
    ReportData,
}

impl Enclave {
    /// A quote of what is bound ([`jurat_attest::quote_binding`]): its report data are these 32 bytes and zeros.
    ///
    /// # Errors
    /// [`EnclaveError`]; after `Raced` and `ReportData` it may be tried again.
    pub fn quote(&self, binding: &[u8; 32]) -> Result<EnclaveQuote, EnclaveError> {
        let report_data = &report_data(binding);
        let quote = match self {
            Self::Gramine(root) => gramine(root, report_data)?,
            Self::Tsm(root, name) => {
                let entry = root.join(name);
                // Left behind by a process that crashed, it serves as well.
                let made = create_dir(&entry);
                if let Err(source) = made
                    && source.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(failed(&entry, "creating an entry")(source));
                }
                let quote = tsm(&entry, report_data);
                let _ = remove_dir(&entry);
                quote?
            }
        };
        let mut places = quote.quote.windows(report_data.len());
        if !places.any(|place| place == report_data) {
            return Err(EnclaveError::ReportData);
        }
        Ok(quote)
    }
}

fn gramine(root: &Path, report_data: &[u8; 64]) -> Result<EnclaveQuote, EnclaveError> {
    let kind = word(&root.join("attestation_type"))?;
    if kind != "dcap" {
        return Err(EnclaveError::Kind(kind));
    }
    write(&root.join("user_report_data"), report_data)?;
    Ok(EnclaveQuote {
        kind: EnclaveKind::Sgx,
        quote: read(&root.join("quote"), QUOTE_BYTES_MAX)?,
        certificates: Vec::new(),
    })
}

fn tsm(entry: &Path, report_data: &[u8; 64]) -> Result<EnclaveQuote, EnclaveError> {
    let provider = word(&entry.join("provider"))?;
    let kind = match provider.as_str() {
        "tdx_guest" => EnclaveKind::Tdx,
        "sev_guest" => EnclaveKind::Snp,
        _ => return Err(EnclaveError::Kind(provider)),
    };
    let before = generation(entry)?;
    write(&entry.join("inblob"), report_data)?;
    let quote = read(&entry.join("outblob"), QUOTE_BYTES_MAX)?;
    let auxiliary = entry.join("auxblob");
    let certificates = match kind {
        EnclaveKind::Snp if auxiliary.exists() => read(&auxiliary, QUOTE_BYTES_MAX)?,
        _ => Vec::new(),
    };
    // Each write counts one.
    match generation(entry)? - before {
        1 => Ok(EnclaveQuote {
            kind,
            quote,
            certificates,
        }),
        writes => Err(EnclaveError::Raced(writes)),
    }
}

fn generation(entry: &Path) -> Result<i128, EnclaveError> {
    let path = entry.join("generation");
    let number = word(&path)?.parse::<u64>();
    number.map(i128::from).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        failed(&path, "reading a number")(source)
    })
}

fn word(path: &Path) -> Result<String, EnclaveError> {
    let bytes = read(path, WORD_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, EnclaveError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed(path, "opening"))?;
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(failed(path, "reading"))?;
    if bytes.len() as u64 > max {
        return Err(EnclaveError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

/// One write: these files take each as a whole value.
fn write(path: &Path, bytes: &[u8]) -> Result<(), EnclaveError> {
    let file = OpenOptions::new().write(true).open(path);
    let mut file = file.map_err(failed(path, "opening"))?;
    let written = file.write(bytes).map_err(failed(path, "writing"))?;
    if written != bytes.len() {
        return Err(failed(path, "writing")(io::ErrorKind::WriteZero.into()));
    }
    Ok(())
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> EnclaveError {
    let path = path.to_owned();
    move |source| EnclaveError::Io {
        path,
        doing,
        source,
    }
}
