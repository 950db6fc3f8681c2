//! The measured boot log of a machine (TCG PC Client Platform Firmware Profile 1.06, 10): what its firmware
//! says it extended into the PCRs.
//!
//! The log is a claim of the machine. It counts only as far as it leads to PCR values that a quote shows, and
//! then only what is under a digest counts: the *type* of an event is not, so nothing is concluded from a type
//! alone, and what an event says is believed only when its digest is over exactly those bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::hex;
use crate::tpm::Hash;

/// The longest log that is read.
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
/// The most events.
const EVENTS_MAX: usize = 10_000;
/// The most banks of one log.
const BANKS_MAX: usize = 8;
/// PCRs that firmware and boot loaders extend.
const PCRS: u32 = 24;
/// `EV_NO_ACTION`: extends nothing.
const NO_ACTION: u32 = 0x0000_0003;
/// What firmware and boot loaders measure into PCR 4 beside what they start (the profile, 10.4.1 and 10.4.5).
const ACTIONS: [&[u8]; 4] = [
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option\0",
    b"BOOT ATTEMPTS OMITTED",
];
/// What a separator says.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// The names under which GRUB logs a kernel's command line; its digest is over what follows.
const COMMAND_LINES: [&[u8]; 2] = [b"kernel_cmdline: ", b"grub_kernel_cmdline "];
/// The PCRs of the secure boot policy, of what was started, and of GRUB's commands.
const SECURE_BOOT: u8 = 7;
const STARTED: u8 = 4;
const COMMANDS: u8 = 8;
/// The most images and command lines that are told, and the most characters of a line and of a path: a collector keeps them
/// for each device.
const IMAGES_MAX: usize = 32;
const COMMAND_LINES_MAX: usize = 4;
const TEXT_CHARS_MAX: usize = 1_024;
const PATH_CHARS_MAX: usize = 200;
/// The first event of a log that knows more than SHA-1.
const SPEC_ID: &[u8] = b"Spec ID Event03\0";
const OLD_SPEC_IDS: [&[u8]; 2] = [b"Spec ID Event00\0", b"Spec ID Event02\0"];
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// `EFI_GLOBAL_VARIABLE`, as it stands in memory.
const GLOBAL_VARIABLE: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// Why a log is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The format of before 2016, in which every digest is SHA-1.
    #[error("a log in the old format, of SHA-1 digests only")]
    OldFormat,
    /// It does not begin as any log does.
    #[error("not a measured boot log")]
    NotALog,
    /// It ends inside an event.
    #[error("the log ends inside event {0}")]
    Cut(usize),
    /// An event that no firmware writes.
    #[error("event {0}: {1}")]
    Event(usize, &'static str),
    /// Longer than any machine's.
    #[error("the log is longer than {LOG_BYTES_MAX} bytes or {EVENTS_MAX} events")]
    TooLong,
}

/// A measured boot log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// The banks that it has digests for.
    pub banks: Vec<Hash>,
    /// Its events, without the one that names the banks.
    pub events: Vec<Event<'a>>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The PCR that it was extended into.
    pub pcr: u8,
    /// Its type. A claim: no digest covers it.
    pub kind: u32,
    /// What was extended, for each bank.
    pub digests: Vec<(Hash, &'a [u8])>,
    /// What it says. A claim, unless the digest is over it.
    pub data: &'a [u8],
}

/// What a log shows of a machine's start: by digests alone, whatever types and texts it gives them. Who runs the
/// machine can extend more, and rewrite all of the log but its digests; none of that makes a fact true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The variable `SecureBoot` as the firmware measured it; `None` when it was not, more than once, or not before
    /// the one separator of its PCR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Every PCR from 0 to 7 was closed by one separator: what came after it was not the firmware.
    #[serde(default)]
    pub separated: bool,
    /// Everything in PCR 4 that is none of the firmware's own words: boot loaders, kernels. Empty also when there are
    /// more than 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_loaders: Vec<Image>,
    /// Kernel command lines, as GRUB logged them. That the text was measured is sure; that it was a command line is
    /// the log's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_lines: Vec<String>,
}

/// A program that was measured before it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its digest in the bank that was asked for, in hex; of a PE file as Authenticode has it.
    pub digest: String,
    /// Where it was loaded from: the log's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

struct Little<'a> {
    bytes: &'a [u8],
    event: usize,
}

impl<'a> Little<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], LogError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(LogError::Cut(self.event))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, LogError> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, LogError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn sized(&mut self) -> Result<&'a [u8], LogError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.take(len)
    }
}

impl<'a> EventLog<'a> {
    /// Reads a log.
    ///
    /// # Errors
    /// [`LogError`]; nothing of a log that is not read to its end counts.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LogError> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(LogError::TooLong);
        }
        let mut reader = Little { bytes, event: 0 };
        let banks = first(&mut reader)?;
        let mut events = Vec::new();
        // Some machines give the whole area that the firmware set aside; behind the last event it is filled.
        while !is_filling(reader.bytes) {
            reader.event += 1;
            if events.len() == EVENTS_MAX {
                return Err(LogError::TooLong);
            }
            events.push(event(&mut reader, &banks)?);
        }
        Ok(Self {
            banks: banks.iter().filter_map(|bank| bank.hash).collect(),
            events,
        })
    }

    /// The values that the PCRs of a bank have after this log; those that it never names are not among them.
    pub fn replay(&self, bank: Hash) -> BTreeMap<u8, Vec<u8>> {
        let mut values: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for event in &self.events {
            if event.kind == NO_ACTION {
                if event.pcr == 0
                    && let Some([locality]) = event.data.strip_prefix(STARTUP_LOCALITY)
                {
                    // The CRTM started the TPM from there: PCR 0 does not begin at zero.
                    let mut value = vec![0; bank.size()];
                    if let Some(last) = value.last_mut() {
                        *last = *locality;
                    }
                    values.entry(0).or_insert(value);
                }
                continue;
            }
            let Some(digest) = event.digest(bank) else {
                continue;
            };
            let value = values
                .entry(event.pcr)
                .or_insert_with(|| vec![0; bank.size()]);
            *value = bank.digest(&[value, digest]);
        }
        values
    }

    /// What it shows, by the digests of this bank.
    pub fn facts(&self, bank: Hash) -> Facts {
        let separators = SEPARATORS.map(|says| bank.digest(&[&says]));
        let actions = ACTIONS.map(|says| bank.digest(&[says]));
        let secure_boot: [(&[u8], bool); 3] = [(&[1], true), (&[0], false), (&[], false)];
        let secure_boot =
            secure_boot.map(|(value, on)| (bank.digest(&[&secure_boot_of(value)]), on));
        let mut facts = Facts::default();
        let mut closed = [0_u32; PCRS as usize];
        let mut secure: Vec<Option<bool>> = Vec::new();
        let mut images = 0;
        for event in self.events.iter().filter(|event| event.kind != NO_ACTION) {
            let Some(digest) = event.digest(bank) else {
                continue;
            };
            let closed = &mut closed[usize::from(event.pcr)];
            if separators.iter().any(|separator| separator == digest) {
                *closed += 1;
                continue;
            }
            match event.pcr {
                SECURE_BOOT => {
                    let says = secure_boot.iter().find(|(says, _)| says == digest);
                    // After the separator it is not the firmware that says so.
                    secure.extend(says.map(|(_, on)| Some(*on).filter(|_| *closed == 0)));
                }
                STARTED if actions.iter().all(|action| action != digest) => {
                    images += 1;
                    facts.boot_loaders.push(Image {
                        digest: hex(digest),
                        path: image_path(event.data),
                    });
                    facts.boot_loaders.truncate(IMAGES_MAX);
                }
                COMMANDS if facts.command_lines.len() < COMMAND_LINES_MAX => {
                    facts.command_lines.extend(command_line(event, bank));
                }
                _ => {}
            }
        }
        if images > IMAGES_MAX {
            facts.boot_loaders.clear();
        }
        if closed[usize::from(SECURE_BOOT)] == 1
            && let [says] = secure.as_slice()
        {
            facts.secure_boot = *says;
        }
        facts.separated = closed[..8].iter().all(|count| *count == 1);
        facts
    }

    /// The first event that is another one than in the log before, by the digests of this bank; what extends nothing is
    /// passed over. Its place counts what extends only.
    pub fn first_difference<'b>(
        &'b self,
        before: &'b EventLog<'a>,
        bank: Hash,
    ) -> Option<(usize, Option<&'b Event<'a>>, Option<&'b Event<'a>>)> {
        let extending = |log: &'b Self| log.events.iter().filter(|event| event.kind != NO_ACTION);
        let (mut was, mut is) = (extending(before), extending(self));
        for place in 0.. {
            let (was, is) = match (was.next(), is.next()) {
                (None, None) => return None,
                both => both,
            };
            let known =
                |event: Option<&'b Event<'a>>| event.map(|event| (event.pcr, event.digest(bank)));
            if known(was) != known(is) {
                return Some((place, was, is));
            }
        }
        None
    }
}

impl Event<'_> {
    /// What was extended in this bank.
    pub fn digest(&self, bank: Hash) -> Option<&[u8]> {
        let of = self.digests.iter().find(|(hash, _)| *hash == bank);
        of.map(|(_, digest)| *digest)
    }

    /// The name of its type, where the profile has one.
    pub fn kind_name(&self) -> Option<&'static str> {
        KINDS
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map(|(_, name)| *name)
    }
}

/// A bank as the log names it; of one that is not known here the digests are passed over.
struct Bank {
    alg: u16,
    size: usize,
    hash: Option<Hash>,
}

/// The event that names the banks, in the format of before.
fn first(reader: &mut Little<'_>) -> Result<Vec<Bank>, LogError> {
    let (pcr, kind) = (reader.u32()?, reader.u32()?);
    reader.take(20)?;
    let data = reader.sized().map_err(|_| LogError::NotALog)?;
    if pcr >= PCRS {
        return Err(LogError::NotALog);
    }
    if kind != NO_ACTION || OLD_SPEC_IDS.iter().any(|old| data.starts_with(old)) {
        return Err(LogError::OldFormat);
    }
    let Some(rest) = data.strip_prefix(SPEC_ID) else {
        return Err(LogError::NotALog);
    };
    let mut head = Little {
        bytes: rest,
        event: 0,
    };
    // Platform class, version, errata, size of integers.
    head.take(8)?;
    let count = usize::try_from(head.u32()?).unwrap_or(usize::MAX);
    if count == 0 || count > BANKS_MAX {
        return Err(LogError::Event(0, "no or too many banks"));
    }
    let mut banks: Vec<Bank> = Vec::new();
    for _ in 0..count {
        let (alg, size) = (head.u16()?, usize::from(head.u16()?));
        let hash = Hash::from_alg(alg);
        let again = banks.iter().any(|bank| bank.alg == alg);
        if again || hash.is_some_and(|hash| hash.size() != size) || size > 64 {
            return Err(LogError::Event(0, "a bank twice, or of another size"));
        }
        banks.push(Bank { alg, size, hash });
    }
    Ok(banks)
}

fn event<'a>(reader: &mut Little<'a>, banks: &[Bank]) -> Result<Event<'a>, LogError> {
    let at = reader.event;
    let (pcr, kind) = (reader.u32()?, reader.u32()?);
    let pcr = u8::try_from(pcr)
        .ok()
        .filter(|pcr| u32::from(*pcr) < PCRS)
        .ok_or(LogError::Event(at, "a PCR that does not exist"))?;
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if count > banks.len() {
        return Err(LogError::Event(at, "more digests than banks"));
    }
    let mut digests: Vec<(Hash, &'a [u8])> = Vec::new();
    for _ in 0..count {
        let alg = reader.u16()?;
        let bank = banks.iter().find(|bank| bank.alg == alg);
        let bank = bank.ok_or(LogError::Event(at, "a digest of an unnamed bank"))?;
        let digest = reader.take(bank.size)?;
        let Some(hash) = bank.hash else { continue };
        if digests.iter().any(|(other, _)| *other == hash) {
            return Err(LogError::Event(at, "two digests of one bank"));
        }
        digests.push((hash, digest));
    }
    // A bank without a digest would be extended with something that the log does not tell.
    if count != banks.len() && kind != NO_ACTION {
        return Err(LogError::Event(at, "no digest of one of the banks"));
    }
    let data = reader.sized()?;
    Ok(Event {
        pcr,
        kind,
        digests,
        data,
    })
}

fn is_filling(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0) || bytes.iter().all(|byte| *byte == 0xff)
}

/// What the variable `SecureBoot` with this value is measured as (`UEFI_VARIABLE_DATA`).
fn secure_boot_of(value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = "SecureBoot"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let lengths = [name.len() / 2, value.len()].map(|len| (len as u64).to_le_bytes());
    [&GLOBAL_VARIABLE[..], &lengths.concat(), &name, value].concat()
}

/// The command line in an event of GRUB, when its digest is over it.
fn command_line(event: &Event<'_>, bank: Hash) -> Option<String> {
    let mut names = COMMAND_LINES.iter();
    let text = names.find_map(|name| event.data.strip_prefix(*name))?;
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let is_over = event.digest(bank)? == bank.digest(&[text]);
    is_over.then(|| printable(&String::from_utf8_lossy(text), TEXT_CHARS_MAX))
}

/// The file path in a `UEFI_IMAGE_LOAD_EVENT`: of the nodes of its device path those that name a file.
fn image_path(data: &[u8]) -> Option<String> {
    // Address, length and link address of the image, and the length of the path.
    let mut nodes = data.get(32..)?;
    let mut path = String::new();
    while let [kind, of, low, high, rest @ ..] = nodes {
        // The end of the path. Some firmware has more bytes behind it.
        if *kind == 0x7f {
            break;
        }
        let len = usize::from(u16::from_le_bytes([*low, *high])).checked_sub(4)?;
        let (node, after) = rest.split_at_checked(len)?;
        // Media, file path (UEFI 2.10, 10.3.5.4).
        if (*kind, *of) == (4, 4) {
            let units = node
                .as_chunks::<2>()
                .0
                .iter()
                .map(|unit| u16::from_le_bytes(*unit));
            let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
            path.push_str(&String::from_utf16_lossy(&units));
        }
        nodes = after;
    }
    Some(printable(&path, PATH_CHARS_MAX)).filter(|path| !path.is_empty())
}

fn printable(text: &str, max: usize) -> String {
    let text = text.chars().filter(|letter| !letter.is_control());
    text.take(max).collect()
}

/// Types of events, with the names of the profile.
const KINDS: [(u32, &str); 36] = [
    (0x0000_0000, "EV_PREBOOT_CERT"),
    (0x0000_0001, "EV_POST_CODE"),
    (0x0000_0002, "EV_UNUSED"),
    (NO_ACTION, "EV_NO_ACTION"),
    (0x0000_0004, "EV_SEPARATOR"),
    (0x0000_0005, "EV_ACTION"),
    (0x0000_0006, "EV_EVENT_TAG"),
    (0x0000_0007, "EV_S_CRTM_CONTENTS"),
    (0x0000_0008, "EV_S_CRTM_VERSION"),
    (0x0000_0009, "EV_CPU_MICROCODE"),
    (0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, "EV_TABLE_OF_DEVICES"),
    (0x0000_000c, "EV_COMPACT_HASH"),
    (0x0000_000d, "EV_IPL"),
    (0x0000_000e, "EV_IPL_PARTITION_DATA"),
    (0x0000_000f, "EV_NONHOST_CODE"),
    (0x0000_0010, "EV_NONHOST_CONFIG"),
    (0x0000_0011, "EV_NONHOST_INFO"),
    (0x0000_0012, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x0000_0013, "EV_POST_CODE2"),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_000d, "EV_EFI_GPT_EVENT2"),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT"),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
];
