//! Keys in a token, against SoftHSM.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use jurat_disk::Host;
use jurat_key::pkcs11::{Pkcs11Config, Pkcs11Key};
use jurat_key::{HeldKey, KeyError};
use jurat_testkit::softhsm::SoftHsm;

use crate::{signs, signs_a_note};

const PIN: &str = "correct horse";

fn config(hsm: &SoftHsm, label: &str) -> Pkcs11Config {
    Pkcs11Config {
        module: hsm.module(),
        token: "jurat".into(),
        label: label.into(),
        pin_file: pin_file(hsm, "pin", PIN, 0o600),
    }
}

fn pin_file(hsm: &SoftHsm, name: &str, pin: &str, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = hsm.dir().join(name);
    fs::write(&path, format!("{pin}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn open(config: &Pkcs11Config) -> Result<Pkcs11Key, KeyError> {
    Pkcs11Key::open(&Host::real(), config)
}

fn create(config: &Pkcs11Config) -> Pkcs11Key {
    Pkcs11Key::open_or_create(&Host::real(), config).unwrap()
}

fn refused(config: &Pkcs11Config) -> String {
    open(config).err().unwrap().to_string()
}

/// The module of this process, by a way past the code under test.
fn module(hsm: &SoftHsm) -> (Pkcs11, Slot) {
    let module = Pkcs11::new(hsm.module()).unwrap();
    let slots = module.get_slots_with_initialized_token().unwrap();
    (module, slots[0])
}

fn find(session: &Session, class: ObjectClass, label: &str) -> Vec<ObjectHandle> {
    let template = [Attribute::Class(class), Attribute::Label(label.into())];
    session.find_objects(&template).unwrap()
}

fn make(session: &Session, label: &str, curve: &[u8], sensitive: bool, extractable: bool) {
    let label = Attribute::Label(label.into());
    let public = [
        label.clone(),
        Attribute::Token(true),
        Attribute::EcParams(curve.into()),
    ];
    let private = [
        label,
        Attribute::Token(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(extractable),
        Attribute::Sign(true),
    ];
    let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
    made.unwrap();
}

#[test]
fn a_key_made_in_a_token_signs_notes_is_found_again_and_cannot_be_taken_out() {
    SoftHsm::run(
        "pkcs11::a_key_made_in_a_token_signs_notes_is_found_again_and_cannot_be_taken_out",
        |hsm| {
            hsm.make_token("other", "4321");
            hsm.make_token("jurat", PIN);
            let config = config(hsm, "log");
            let made = create(&config);
            let found = Arc::new(open(&config).unwrap());
            assert_eq!(found.point(), made.point());
            assert_eq!(create(&config).point(), made.point());
            assert_eq!(made.place(), "the key log in the token jurat");
            signs_a_note(found.clone());
            thread::scope(|scope| {
                (0..4).for_each(|_| drop(scope.spawn(|| (0..20).for_each(|_| signs(&*found)))));
            });

            let (module, _) = module(hsm);
            let slot = module.get_slots_with_initialized_token().unwrap();
            let is_ours = |slot: &&Slot| module.get_token_info(**slot).unwrap().label() == "jurat";
            let slot = slot.iter().find(is_ours).unwrap();
            let session = module.open_ro_session(*slot).unwrap();
            let key = find(&session, ObjectClass::PRIVATE_KEY, "log")[0];
            let asked = [
                AttributeType::Sensitive,
                AttributeType::Extractable,
                AttributeType::AlwaysSensitive,
                AttributeType::NeverExtractable,
                AttributeType::Local,
                AttributeType::Value,
            ];
            let told = session.get_attributes(key, &asked).unwrap();
            let expected = [
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::AlwaysSensitive(true),
                Attribute::NeverExtractable(true),
                Attribute::Local(true),
            ];
            assert_eq!(told, expected, "and no value");
        },
    );
}

#[test]
fn what_is_not_there_is_named_and_a_key_that_could_leave_is_refused() {
    SoftHsm::run(
        "pkcs11::what_is_not_there_is_named_and_a_key_that_could_leave_is_refused",
        |hsm| {
            hsm.make_token("jurat", PIN);
            let good = config(hsm, "log");
            assert!(refused(&good).contains("no such key"));
            let other = Pkcs11Config {
                token: "jura".into(),
                ..good.clone()
            };
            assert!(refused(&other).contains("no such token"));
            for module in ["/no/such/module.so", "/etc/passwd"] {
                let other = Pkcs11Config {
                    module: module.into(),
                    ..good.clone()
                };
                assert!(refused(&other).starts_with(module), "{}", refused(&other));
            }

            let (module, slot) = module(hsm);
            let session = module.open_rw_session(slot).unwrap();
            let pin = AuthPin::new(PIN.into());
            session.login(UserType::User, Some(&pin)).unwrap();
            let p256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
            let p384 = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
            make(&session, "loose", &p256, true, true);
            make(&session, "open", &p256, false, false);
            make(&session, "large", &p384, true, false);
            make(&session, "twice", &p256, true, false);
            make(&session, "twice", &p256, true, false);
            make(&session, "half", &p256, true, false);
            let public = find(&session, ObjectClass::PUBLIC_KEY, "half");
            session.destroy_object(public[0]).unwrap();
            session.logout().unwrap();
            for (label, said) in [
                ("loose", "can be taken out"),
                ("open", "can be taken out"),
                ("large", "not a key of P-256"),
                ("twice", "more than one key"),
                ("half", "no public key"),
            ] {
                let refused = refused(&config(hsm, label));
                assert!(refused.contains(said), "{label}: {refused}");
            }
        },
    );
}

#[test]
fn two_tokens_of_one_name_are_not_guessed_between() {
    SoftHsm::run(
        "pkcs11::two_tokens_of_one_name_are_not_guessed_between",
        |hsm| {
            hsm.make_token("jurat", PIN);
            hsm.make_token("jurat", PIN);
            let refused = refused(&config(hsm, "log"));
            assert!(refused.contains("more than one token"), "{refused}");
        },
    );
}

#[test]
fn a_wrong_pin_is_refused_once_and_never_again_also_while_this_process_is_logged_in() {
    SoftHsm::run(
        "pkcs11::a_wrong_pin_is_refused_once_and_never_again_also_while_this_process_is_logged_in",
        |hsm| {
            hsm.make_token("jurat", PIN);
            let good = config(hsm, "log");
            let wrong = Pkcs11Config {
                pin_file: pin_file(hsm, "wrong", "guessed", 0o600),
                ..good.clone()
            };
            let said = refused(&wrong);
            assert!(said.contains("PIN") && !said.contains("guessed"), "{said}");
            assert!(!said.contains("again"), "{said}");
            // A token locks itself after a few.
            assert!(refused(&wrong).contains("not tried again"));

            let key = create(&good);
            assert!(refused(&wrong).contains("not with this PIN"));
            signs(&key);
            drop(key);
            assert!(open(&good).is_ok());
        },
    );
}

#[test]
fn a_pin_that_others_can_read_is_not_used() {
    SoftHsm::run("pkcs11::a_pin_that_others_can_read_is_not_used", |hsm| {
        hsm.make_token("jurat", PIN);
        let good = config(hsm, "log");
        let with = |name: &str, pin: &str, mode: u32| {
            let pin_file = pin_file(hsm, name, pin, mode);
            open(&Pkcs11Config {
                pin_file,
                ..good.clone()
            })
            .err()
            .unwrap()
        };
        let exposed = with("exposed", PIN, 0o640);
        assert!(
            matches!(exposed, KeyError::Exposed { mode: 0o640, .. }),
            "{exposed}"
        );
        let empty = with("empty", "", 0o600);
        assert!(matches!(empty, KeyError::Malformed { .. }), "{empty}");
        let long = with("long", &"1".repeat(2000), 0o600);
        assert!(matches!(long, KeyError::Io { .. }), "{long}");
        let absent = Pkcs11Config {
            pin_file: hsm.dir().join("absent"),
            ..good.clone()
        };
        let absent = open(&absent).err().unwrap();
        assert!(matches!(absent, KeyError::Io { .. }), "{absent}");
    });
}

#[test]
fn a_lost_session_is_opened_anew_and_another_key_by_the_same_name_signs_nothing() {
    SoftHsm::run(
        "pkcs11::a_lost_session_is_opened_anew_and_another_key_by_the_same_name_signs_nothing",
        |hsm| {
            hsm.make_token("jurat", PIN);
            let config = config(hsm, "log");
            let key = create(&config);
            let (module, slot) = module(hsm);
            for _ in 0..3 {
                // As after a token's reset: no session is left.
                module.clone().finalize().unwrap();
                module
                    .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
                    .unwrap();
                signs(&key);
            }
            let session = module.open_rw_session(slot).unwrap();
            session.logout().unwrap();
            signs(&key);

            for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
                for object in find(&session, class, "log") {
                    session.destroy_object(object).unwrap();
                }
            }
            let refused = key.sign_digest(&[1; 32]).unwrap_err();
            assert!(refused.reason.contains("no such key"), "{refused}");
            let other = create(&config);
            let refused = key.sign_digest(&[1; 32]).unwrap_err();
            assert!(refused.reason.contains("another key"), "{refused}");
            signs(&other);
        },
    );
}
