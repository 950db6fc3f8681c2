//! How bytes get to a TPM and back.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::os;

/// The longest response that is read (`TPM_PT_MAX_RESPONSE_SIZE` is 4,096 everywhere).
pub(crate) const RESPONSE_BYTES_MAX: usize = 4096;
/// A command that takes longer than this is given up: making an RSA key takes some chips a minute.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(120);

/// Something that takes one command and gives its response.
pub trait Transport: Send {
    /// Sends a whole command and gives the whole response.
    ///
    /// # Errors
    /// As the device says; what came of the command is then not known.
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// Where a TPM is: `/dev/tpmrm0`, `swtpm:HOST:PORT`, `swtpm:/SOCKET`, `tbs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A character device of Linux.
    Device(PathBuf),
    /// A software TPM behind TCP.
    Tcp(String),
    /// A software TPM behind a Unix socket.
    Unix(PathBuf),
    /// The TPM Base Services of Windows.
    Tbs,
}

/// Why a text names no TPM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no TPM: expected /dev/tpmrm0, swtpm:HOST:PORT, swtpm:/SOCKET or tbs")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        match text.strip_prefix("swtpm:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(host) => match host.rsplit_once(':') {
                Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Self::Tcp(host.to_owned()))
                }
                _ => Err(wrong()),
            },
            None if text == "tbs" => Ok(Self::Tbs),
            None if text.starts_with('/') => Ok(Self::Device(text.into())),
            None => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Tcp(host) => write!(f, "swtpm:{host}"),
            Self::Unix(path) => write!(f, "swtpm:{}", path.display()),
            Self::Tbs => f.write_str("tbs"),
        }
    }
}

impl Address {
    /// Whether this is a program and no chip.
    pub fn is_software(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Opens the way to it.
    ///
    /// # Errors
    /// As the system says: no such device, no right to it, nobody listening.
    pub fn open(&self) -> io::Result<Box<dyn Transport>> {
        match self {
            Self::Device(path) => {
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                Ok(Box::new(Device(file)))
            }
            Self::Tcp(host) => {
                let stream = TcpStream::connect(host)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
                stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
                Ok(Box::new(Socket(stream)))
            }
            Self::Unix(path) => {
                let stream = os::connect(path, SOCKET_TIMEOUT)?;
                Ok(Box::new(Socket(stream)))
            }
            Self::Tbs => os::tbs(),
        }
    }
}

/// `/dev/tpmrm0`: one write is one command, one read its response.
struct Device(File);

impl Transport for Device {
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let written = self.0.write(command)?;
        if written != command.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut response = vec![0; RESPONSE_BYTES_MAX];
        let len = self.0.read(&mut response)?;
        response.truncate(len);
        Ok(response)
    }
}

/// The data socket of swtpm: commands and responses one after the other, each with its length inside.
struct Socket<S>(S);

impl<S: Read + Write + Send> Transport for Socket<S> {
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut response = vec![0; 10];
        self.0.read_exact(&mut response)?;
        let len = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !(10..=RESPONSE_BYTES_MAX).contains(&len) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a response of {len} bytes"),
            ));
        }
        response.resize(len, 0);
        self.0.read_exact(&mut response[10..])?;
        Ok(response)
    }
}
