//! Notes before readers that nobody here wrote, and theirs before ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::{Checkpoint, Cosignature, Note, Signer, VerifierKey};
use signed_note::{StandardSigner, StandardVerifier, VerifierList};

use crate::notes::{ORIGIN, checkpoint, ed25519, p256, witness};

/// A checkpoint with a signature of each type that we make.
fn note() -> Note {
    let mut note = checkpoint().sign(&ed25519()).unwrap();
    note.signatures.push(p256().sign_note(&note.text).unwrap());
    let cosignature = Cosignature::sign(&witness(), 1_700_000_000, &note.text).unwrap();
    note.signatures.push(cosignature);
    note
}

#[test]
fn the_signed_note_crate_accepts_our_note_and_we_accept_its() {
    let key = ed25519();
    let known = VerifierList::new(vec![Box::new(
        StandardVerifier::new(&key.verifier_text()).unwrap(),
    )]);
    let ours = note().encode();
    let theirs = signed_note::Note::from_bytes(ours.as_bytes()).unwrap();
    let (verified, unknown) = theirs.verify(&known).unwrap();
    assert_eq!((verified.len(), unknown.len()), (1, 2));
    assert_eq!(theirs.to_bytes(), ours.as_bytes());
    let changed = ours.replace("\n7\n", "\n8\n");
    let changed = signed_note::Note::from_bytes(changed.as_bytes()).unwrap();
    assert!(changed.verify(&known).is_err());

    let id = u32::from_be_bytes(key.verifier_key().id());
    let seed = BASE64.encode([&[1_u8], [1_u8; 32].as_slice()].concat());
    let signer = StandardSigner::new(&format!("PRIVATE+KEY+{ORIGIN}+{id:08x}+{seed}")).unwrap();
    let mut theirs = signed_note::Note::new(checkpoint().body().as_bytes(), &[]).unwrap();
    theirs.add_sigs(&[&signer]).unwrap();
    let read = Note::parse(&theirs.to_bytes()).unwrap();
    assert_eq!(read.is_signed_by(key.verifier_key()), Ok(true));
    assert_eq!(Checkpoint::parse(&read.text), Ok(checkpoint()));
}

/// `interop/go/notes`, built once into the workspace's own target folder.
fn go_notes(test: &str) -> Option<PathBuf> {
    let go = jurat_testkit::need::go(test)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/go/notes");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-notes");
    let built = Command::new(go)
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "go build: {said}");
    Some(program)
}

fn call(program: &Path, args: &[&std::ffi::OsStr]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

#[test]
fn go_accepts_our_note_with_all_three_types_and_we_accept_its() {
    let Some(program) = go_notes("notes read and made by Go") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (vkeys, file) = (dir.path().join("vkeys"), dir.path().join("note"));
    let verify = || {
        call(
            &program,
            &["verify".as_ref(), vkeys.as_ref(), file.as_ref()],
        )
    };
    let (ed25519, p256, witness) = (ed25519(), p256(), witness());
    let keys =
        [&ed25519 as &dyn Signer, &p256, &witness].map(|key| format!("{}\n", key.verifier_key()));
    std::fs::write(&vkeys, keys.concat()).unwrap();
    std::fs::write(&file, note().encode()).unwrap();
    let said = verify();
    let root = BASE64.encode(checkpoint().root.0);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        format!("1 {ORIGIN}\n2 {ORIGIN}\n4 example.org/witness\n{ORIGIN} 7 {root}\n"),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    // Each key alone takes this note and refuses the changed one: no type is waved through.
    for key in &keys {
        std::fs::write(&vkeys, key).unwrap();
        std::fs::write(&file, note().encode()).unwrap();
        assert!(!verify().stdout.is_empty());
        std::fs::write(&file, note().encode().replace("\n7\n", "\n8\n")).unwrap();
        let said = verify();
        assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
    }

    let made = call(&program, &["make".as_ref(), dir.path().as_ref()]);
    assert!(made.status.success(), "{made:?}");
    let theirs = Note::parse(&std::fs::read(&file).unwrap()).unwrap();
    let vkeys = std::fs::read_to_string(&vkeys).unwrap();
    let [log, ecdsa, cosigner, mldsa] = vkeys.lines().collect::<Vec<_>>().try_into().unwrap();
    for key in [log, ecdsa] {
        let key = VerifierKey::parse(key).unwrap();
        assert_eq!(theirs.is_signed_by(&key), Ok(true), "{key}");
    }
    let cosigner = VerifierKey::parse(cosigner).unwrap();
    assert!(Cosignature::find(&theirs, &cosigner).unwrap().is_some());
    // Its ML-DSA-44 line is a real one: read past, and its key is none of ours.
    assert!(VerifierKey::parse(mldsa).is_err());
    assert_eq!(theirs.signatures.len(), 4);
    assert_eq!(theirs.signatures[2].bytes.len(), 2_420 + 8);
    assert_eq!(Checkpoint::parse(&theirs.text).unwrap().size, 7);
}

/// The recipe in the documentation is what a stranger types: it is run as it stands there.
#[test]
fn the_page_on_checkpoints_checks_every_type_by_hand_and_refuses_a_changed_note() {
    let test = "checking notes with python3 and openssl";
    for program in ["bash", "python3", "openssl"] {
        if jurat_testkit::need::program(test, program, program).is_none() {
            return;
        }
    }
    let page = include_str!("../../../../docs/formats/checkpoint.md");
    let recipe = page.split("```sh\n").nth(1).unwrap().split("```").next();
    let dir = tempfile::tempdir().unwrap();
    let check = |key: &VerifierKey, note: &str| {
        std::fs::write(dir.path().join("vkey"), format!("{key}\n")).unwrap();
        std::fs::write(dir.path().join("note"), note).unwrap();
        let said = Command::new("bash")
            .args(["-ec", recipe.unwrap()])
            .current_dir(dir.path())
            .output()
            .unwrap();
        (
            said.status.success(),
            String::from_utf8_lossy(&said.stderr).into_owned(),
        )
    };
    let (ed25519, p256, witness) = (ed25519(), p256(), witness());
    for key in [&ed25519 as &dyn Signer, &p256, &witness].map(Signer::verifier_key) {
        let (good, said) = check(key, &note().encode());
        assert!(good, "{key}: {said}");
        let (good, _) = check(key, &note().encode().replace("\n7\n", "\n8\n"));
        assert!(!good, "{key}: a changed note");
    }
}
