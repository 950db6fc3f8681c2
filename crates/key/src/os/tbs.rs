//! The TPM Base Services of Windows: who may send which command is the service's decision.
//!
//! Known gap: type-checked only, never run on Windows.

use std::ffi::c_void;
use std::{io, ptr};

use windows_sys::Win32::System::TpmBaseServices::{
    TBS_COMMAND_LOCALITY_ZERO, TBS_COMMAND_PRIORITY_NORMAL, TBS_CONTEXT_PARAMS2,
    TBS_CONTEXT_PARAMS2_0, TBS_CONTEXT_VERSION_TWO, TBS_SUCCESS, Tbsi_Context_Create,
    Tbsip_Context_Close, Tbsip_Submit_Command,
};

use crate::tpm::{RESPONSE_BYTES_MAX, Transport};

/// `includeTpm20` of `TBS_CONTEXT_PARAMS2`: the third bit.
const INCLUDE_TPM_20: u32 = 1 << 2;

/// A context of the service, which keeps apart what its users have loaded.
pub(crate) struct Tbs(*mut c_void);

#[expect(unsafe_code, reason = "a handle is a pointer to Rust")]
// SAFETY: the handle stands for a context of the service, not for memory, and belongs to no thread; it is used by one at
// a time, because every use takes `&mut self`.
unsafe impl Send for Tbs {}

impl Tbs {
    /// A context of its own.
    #[expect(unsafe_code, reason = "the service is a foreign function")]
    pub(crate) fn open() -> io::Result<Self> {
        let parameters = TBS_CONTEXT_PARAMS2 {
            version: TBS_CONTEXT_VERSION_TWO,
            Anonymous: TBS_CONTEXT_PARAMS2_0 {
                asUINT32: INCLUDE_TPM_20,
            },
        };
        let mut context = ptr::null_mut();
        // SAFETY: both pointers are to values that live through the call; the version says that the first is of the
        // longer kind, as the function asks.
        let code = unsafe { Tbsi_Context_Create((&raw const parameters).cast(), &raw mut context) };
        is_done("Tbsi_Context_Create", code)?;
        Ok(Self(context))
    }
}

impl Transport for Tbs {
    #[expect(unsafe_code, reason = "the service is a foreign function")]
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let command_len = u32::try_from(command.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut response = vec![0; RESPONSE_BYTES_MAX];
        let mut len = RESPONSE_BYTES_MAX as u32;
        // SAFETY: the context is open until `drop`; each length is that of the buffer before it, and both buffers
        // live through the call.
        let code = unsafe {
            Tbsip_Submit_Command(
                self.0,
                TBS_COMMAND_LOCALITY_ZERO,
                TBS_COMMAND_PRIORITY_NORMAL,
                command.as_ptr(),
                command_len,
                response.as_mut_ptr(),
                &raw mut len,
            )
        };
        is_done("Tbsip_Submit_Command", code)?;
        response.truncate(len as usize);
        Ok(response)
    }
}

impl Drop for Tbs {
    #[expect(unsafe_code, reason = "the service is a foreign function")]
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here.
        unsafe { Tbsip_Context_Close(self.0) };
    }
}

fn is_done(function: &str, code: u32) -> io::Result<()> {
    let kind = match code {
        TBS_SUCCESS => return Ok(()),
        // TBS_E_TPM_NOT_FOUND
        0x8028_400f => io::ErrorKind::NotFound,
        // E_ACCESSDENIED, TBS_E_ACCESS_DENIED, TPM_E_COMMAND_BLOCKED
        0x8007_0005 | 0x8028_4012 | 0x8028_0400 => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, format!("{function}: {code:#010x}")))
}
