//! What differs between operating systems: sockets that are files.

pub(crate) use std::os::unix::net::{UnixListener, UnixStream};
