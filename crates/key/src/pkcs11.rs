//! A P-256 key in a token that speaks PKCS#11: an HSM, a smart card, a cloud's HSM behind its module.
//!
//! The module is a library of the vendor's in our process: it is trusted with all that the process has. It is
//! loaded once for the life of the process, and its sessions do not survive a fork: open keys after that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use jurat_disk::{Host, read};
use jurat_proof::SignerError;
use zeroize::{Zeroize as _, Zeroizing};

use crate::held::{is_point, is_signed};
use crate::secret::refuse_exposed;
use crate::{HeldKey, KeyError, der_signature};

/// The curve P-256 as an object identifier in DER (RFC 5480, 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The most bytes of a file with a PIN.
const PIN_BYTES_MAX: u64 = 1024;

/// Which key in which token, and how to get to it.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The vendor's module: a shared library.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the key pair.
    pub label: String,
    /// The file with the user's PIN, readable by its owner only.
    pub pin_file: PathBuf,
}

impl Pkcs11Config {
    /// Reads a PKCS #11 URI (RFC 7512) with the attributes `token`, `object`, `module-path` and `pin-source`, all of them
    /// needed: `pkcs11:token=T;object=O?module-path=/M&pin-source=file:/P`.
    ///
    /// # Errors
    /// What is missing or unknown, in words.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let rest = uri.strip_prefix("pkcs11:");
        let rest = rest.ok_or_else(|| format!("{uri} does not begin with pkcs11:"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut found = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')) {
            if part.is_empty() {
                continue;
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !ATTRIBUTES.contains(&name) {
                let known = ATTRIBUTES.join(", ");
                return Err(format!("{name} is none of {known}"));
            }
            let value = percent(value).ok_or_else(|| format!("the value of {name}"))?;
            if found.insert(name, value).is_some() {
                return Err(format!("{name} stands there twice"));
            }
        }
        let mut take = |name: &str| {
            let value = found.remove(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{name} is missing"))
        };
        let [token, label, module, pin] = ATTRIBUTES.map(&mut take);
        let pin = pin?;
        Ok(Self {
            token: token?,
            label: label?,
            module: module?.into(),
            pin_file: pin.strip_prefix("file:").unwrap_or(&pin).into(),
        })
    }

    /// As this one, for the key whose label has this at its end.
    #[must_use]
    pub fn beside(&self, suffix: &str) -> Self {
        Self {
            label: format!("{}{suffix}", self.label),
            ..self.clone()
        }
    }
}

/// Those of a URI that are read.
const ATTRIBUTES: [&str; 4] = ["token", "object", "module-path", "pin-source"];

/// What percent-encoded text says (RFC 3986, 2.1).
fn percent(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// A key that a token uses for us. Labelled `hsm`, unattested: that it never left is the vendor's word.
pub struct Pkcs11Key {
    host: Host,
    config: Pkcs11Config,
    point: [u8; 65],
    open: Mutex<Option<Open>>,
}

/// A session that is logged in, and the private key in it. One thread at a time.
struct Open {
    session: Session,
    key: ObjectHandle,
}

impl Pkcs11Key {
    /// Opens the key with this label.
    ///
    /// # Errors
    /// [`KeyError::Held`] when there is no such module, token or key, or more than one, when the PIN is refused, or when
    /// the key could be taken out; [`KeyError::Exposed`] and [`KeyError::Io`] for the PIN's file.
    pub fn open(host: &Host, config: &Pkcs11Config) -> Result<Self, KeyError> {
        Self::new(host, config, Missing::Refuse)
    }

    /// Opens the key with this label, or has the token make it: not to be read, not to be taken out.
    ///
    /// # Errors
    /// As [`Pkcs11Key::open`].
    pub fn open_or_create(host: &Host, config: &Pkcs11Config) -> Result<Self, KeyError> {
        Self::new(host, config, Missing::Create)
    }

    /// The key of this point, which the token will have to have; it is opened when it is needed.
    pub fn known(host: &Host, config: &Pkcs11Config, point: [u8; 65]) -> Self {
        Self {
            host: host.clone(),
            config: config.clone(),
            point,
            open: Mutex::new(None),
        }
    }

    fn new(host: &Host, config: &Pkcs11Config, missing: Missing) -> Result<Self, KeyError> {
        let (open, point) = Open::new(host, config, missing)?;
        Ok(Self {
            host: host.clone(),
            config: config.clone(),
            point,
            open: Mutex::new(Some(open)),
        })
    }

    fn sign(&self, open: &mut Option<Open>, digest: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        let open = if let Some(open) = open {
            open
        } else {
            let (found, point) = Open::new(&self.host, &self.config, Missing::Refuse)?;
            if point != self.point {
                return Err(refusal(&self.config, "it is another key than before"));
            }
            open.insert(found)
        };
        // The digest is made here: not every token offers CKM_ECDSA_SHA256.
        let signed = open.session.sign(&Mechanism::Ecdsa, open.key, digest);
        let signed = signed.map_err(|error| refusal(&self.config, error))?;
        let (r, s) = signed.split_at(signed.len() / 2);
        if signed.len() != 64 || !is_signed(&self.point, digest, &der_signature(r, s)) {
            return Err(refusal(&self.config, "its signature does not verify"));
        }
        Ok(der_signature(r, s))
    }
}

impl HeldKey for Pkcs11Key {
    fn point(&self) -> &[u8; 65] {
        &self.point
    }

    fn place(&self) -> String {
        place(&self.config)
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut was_open = open.is_some();
        loop {
            let error = match self.sign(&mut open, digest) {
                Ok(signature) => return Ok(signature),
                Err(error) => error,
            };
            // Tokens are taken out, reset and cut off, and name that in many ways: whatever it is, a new
            // session is worth one more try, and a signature more does no harm.
            *open = None;
            if !was_open {
                return Err(SignerError {
                    key: self.place(),
                    reason: error.to_string(),
                });
            }
            was_open = false;
        }
    }
}

fn place(config: &Pkcs11Config) -> String {
    format!("the key {} in the token {}", config.label, config.token)
}

fn refusal(config: &Pkcs11Config, what: impl ToString) -> KeyError {
    KeyError::Held {
        place: place(config),
        what: what.to_string(),
    }
}

/// What to do when there is no key with the label.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Refuse,
    Create,
}

impl Open {
    fn new(
        host: &Host,
        config: &Pkcs11Config,
        missing: Missing,
    ) -> Result<(Self, [u8; 65]), KeyError> {
        let pin = read_pin(host, &config.pin_file)?;
        let refused = |error: Error| refusal(config, error);
        let mut modules = modules();
        let module = loaded(&mut modules, config)?;
        let slot = module.slot(config)?;
        let session = match missing {
            Missing::Refuse => module.pkcs11.open_ro_session(slot),
            Missing::Create => module.pkcs11.open_rw_session(slot),
        };
        let session = session.map_err(refused)?;
        module.log_in(slot, &session, config, pin)?;
        drop(modules);

        let key = match (find(&session, config, ObjectClass::PRIVATE_KEY)?, missing) {
            (Some(key), _) => key,
            (None, Missing::Refuse) => return Err(refusal(config, "there is no such key")),
            (None, Missing::Create) => generate(host, config, &session).map_err(refused)?,
        };
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let told = session.get_attributes(key, &asked).map_err(refused)?;
        if told.contains(&Attribute::Sensitive(false))
            || told.contains(&Attribute::Extractable(true))
        {
            return Err(refusal(config, "the key can be taken out of its token"));
        }
        let public = find(&session, config, ObjectClass::PUBLIC_KEY)?;
        let public =
            public.ok_or_else(|| refusal(config, "there is no public key with this label"))?;
        let told = session.get_attributes(public, &[AttributeType::EcPoint]);
        let point = told.map_err(refused)?.iter().find_map(|told| match told {
            Attribute::EcPoint(bytes) => point_of(bytes),
            _ => None,
        });
        let point = point.ok_or_else(|| refusal(config, "it is not a key of P-256"))?;
        Ok((Self { session, key }, point))
    }
}

/// The only key of this kind with the label.
fn find(
    session: &Session,
    config: &Pkcs11Config,
    class: ObjectClass,
) -> Result<Option<ObjectHandle>, KeyError> {
    let template = [
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(true),
        Attribute::Label(config.label.clone().into()),
    ];
    let found = session.find_objects(&template);
    match found.map_err(|error| refusal(config, error))?.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(*key)),
        _ => Err(refusal(
            config,
            "there is more than one key with this label",
        )),
    }
}

fn generate(host: &Host, config: &Pkcs11Config, session: &Session) -> Result<ObjectHandle, Error> {
    // What tells other tools which halves belong together.
    let mut id = [0; 16];
    host.rng.fill(&mut id);
    let both = [
        Attribute::Token(true),
        Attribute::Label(config.label.clone().into()),
        Attribute::Id(id.into()),
    ];
    let public = [
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.into()),
    ];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    let public = [&both[..], &public].concat();
    let private = [&both[..], &private].concat();
    let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    Ok(made.1)
}

/// The point as an OCTET STRING in DER, as the standard has it, or bare, as some tokens give it.
fn point_of(bytes: &[u8]) -> Option<[u8; 65]> {
    let bare = match bytes {
        [0x04, 0x41, point @ ..] if point.len() == 65 => point,
        point => point,
    };
    bare.try_into().ok().filter(is_point)
}

/// A module in this process, and who is logged in to its tokens.
struct Module {
    pkcs11: Pkcs11,
    /// By the token's label.
    logins: BTreeMap<String, Login>,
}

type Pin = Zeroizing<String>;

/// What the last login came to.
enum Login {
    Accepted(Pin),
    Refused(Pin),
}

/// A module can be initialized once in a process; a login counts for the whole process.
static MODULES: Mutex<BTreeMap<PathBuf, Module>> = Mutex::new(BTreeMap::new());

fn modules() -> MutexGuard<'static, BTreeMap<PathBuf, Module>> {
    MODULES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn loaded<'a>(
    modules: &'a mut BTreeMap<PathBuf, Module>,
    config: &Pkcs11Config,
) -> Result<&'a mut Module, KeyError> {
    match modules.entry(config.module.clone()) {
        Entry::Occupied(module) => Ok(module.into_mut()),
        Entry::Vacant(place) => {
            let load = || {
                let pkcs11 = Pkcs11::new(&config.module)?;
                pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
                Ok(pkcs11)
            };
            let pkcs11 = load().map_err(|error: Error| KeyError::Held {
                place: config.module.display().to_string(),
                what: error.to_string(),
            })?;
            Ok(place.insert(Module {
                pkcs11,
                logins: BTreeMap::new(),
            }))
        }
    }
}

impl Module {
    /// Where the token is now: it may have been put in anew.
    fn slot(&self, config: &Pkcs11Config) -> Result<Slot, KeyError> {
        let refused = |error: Error| refusal(config, error);
        let mut found = Vec::new();
        for slot in self.pkcs11.get_slots_with_token().map_err(refused)? {
            // A slot that cannot say what is in it is another one's trouble.
            let info = self.pkcs11.get_token_info(slot);
            if info.is_ok_and(|info| info.label() == config.token) {
                found.push(slot);
            }
        }
        match found.as_slice() {
            [] => Err(refusal(config, "there is no such token")),
            [slot] => Ok(*slot),
            _ => Err(refusal(
                config,
                "there is more than one token with this label",
            )),
        }
    }

    /// Logs in, unless this process is logged in with this very PIN. A token counts wrong PINs and locks itself: one
    /// that it refused is not tried again, and its last try is left to people.
    fn log_in(
        &mut self,
        slot: Slot,
        session: &Session,
        config: &Pkcs11Config,
        pin: Pin,
    ) -> Result<(), KeyError> {
        let login = self.logins.get(&config.token);
        if matches!(login, Some(Login::Refused(refused)) if *refused == pin) {
            return Err(refusal(
                config,
                "the token refused this PIN before; it is not tried again",
            ));
        }
        let info = self.pkcs11.get_token_info(slot);
        let info = info.map_err(|error| refusal(config, error))?;
        if info.user_pin_locked() || info.user_pin_final_try() {
            return Err(refusal(
                config,
                "the PIN is locked, or one wrong try before it",
            ));
        }
        let secret = AuthPin::new(pin.as_str().into());
        match session.login(UserType::User, Some(&secret)) {
            Ok(()) => {
                self.logins
                    .insert(config.token.clone(), Login::Accepted(pin));
                Ok(())
            }
            // Said whatever PIN was given: only our own login shows that this one is right.
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => match login {
                Some(Login::Accepted(ours)) if *ours == pin => Ok(()),
                _ => Err(refusal(
                    config,
                    "this process is logged in, but not with this PIN",
                )),
            },
            Err(error) => {
                let wrong = [
                    RvError::PinIncorrect,
                    RvError::PinInvalid,
                    RvError::PinLenRange,
                ];
                if matches!(&error, Error::Pkcs11(said, _) if wrong.contains(said)) {
                    self.logins
                        .insert(config.token.clone(), Login::Refused(pin));
                }
                Err(refusal(config, error))
            }
        }
    }
}

/// The PIN in its file, without the line's end.
fn read_pin(host: &Host, path: &Path) -> Result<Pin, KeyError> {
    refuse_exposed(path)?;
    let mut bytes = read(&*host.disk, path, PIN_BYTES_MAX).map_err(|source| KeyError::Io {
        path: path.to_path_buf(),
        doing: "reading a PIN",
        source,
    })?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let pin = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    bytes.zeroize();
    if pin.is_empty() {
        return Err(KeyError::Malformed {
            path: path.to_path_buf(),
            what: "PIN in UTF-8",
        });
    }
    Ok(pin)
}

#[cfg(test)]
mod tests {
    use super::{Pkcs11Config, point_of};
    use crate::{HeldKey as _, P256Key, Secret};

    #[test]
    fn a_point_is_read_as_the_standard_has_it_and_bare_and_nothing_else_is() {
        let key = P256Key::new(&Secret::from_bytes([5; 32])).expect("a number of the curve");
        let bare = key.point();
        let der = [&[0x04, 0x41], &bare[..]].concat();
        assert_eq!(point_of(bare), Some(*bare));
        assert_eq!(point_of(&der), Some(*bare));
        let mut off_curve = *bare;
        off_curve[64] ^= 1;
        for wrong in [
            &[][..],
            &der[..66],
            &bare[1..],
            &[&der[..], &[0]].concat(),
            &off_curve,
        ] {
            assert_eq!(point_of(wrong), None);
        }
    }

    #[test]
    fn a_uri_names_module_token_key_and_pin_and_nothing_that_is_not_understood() {
        let uri = "pkcs11:object=laptop%207;token=jurat?pin-source=file:/etc/pin&module-path=/m.so";
        let read = Pkcs11Config::parse(uri).expect("a whole one");
        assert_eq!((&*read.token, &*read.label), ("jurat", "laptop 7"));
        assert_eq!(read.module.to_str(), Some("/m.so"));
        assert_eq!(read.pin_file.to_str(), Some("/etc/pin"));
        for (wrong, why) in [
            ("token=a", "pkcs11:"),
            ("pkcs11:token=a;object=b?module-path=/m", "pin-source"),
            (
                "pkcs11:token=a;object=b;serial=1?module-path=/m&pin-source=/p",
                "serial",
            ),
            (
                "pkcs11:token=a;token=b;object=b?module-path=/m&pin-source=/p",
                "twice",
            ),
            ("pkcs11:token=%zz", "token"),
        ] {
            let refused = Pkcs11Config::parse(wrong).expect_err(wrong);
            assert!(refused.contains(why), "{refused}");
        }
    }
}
