// Command notes reads and makes signed notes with code that nobody at Jurat wrote.
//
//	notes verify VKEYS NOTE   every key in VKEYS (one a line) must have signed NOTE; prints
//	                          "<type> <name>" for each, and the checkpoint that the first one signed
//	notes make DIR            writes DIR/note, a checkpoint signed by an Ed25519 log key, an ECDSA
//	                          log key, a cosigner and an ML-DSA-44 cosigner, and DIR/vkeys
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/formats/log"
	tdnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "notes:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "verify":
		return verify(args[1], args[2])
	case len(args) == 2 && args[0] == "make":
		return makeNote(args[1])
	}
	return fmt.Errorf("usage: notes verify VKEYS NOTE | notes make DIR")
}

func verify(vkeys, file string) error {
	keys, err := os.ReadFile(vkeys)
	if err != nil {
		return err
	}
	msg, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var first note.Verifier
	var others []note.Verifier
	for _, vkey := range strings.Fields(string(keys)) {
		// The plain Ed25519 type is read by the Go project's own package.
		read := tdnote.NewVerifier
		if kind(vkey) == 1 {
			read = note.NewVerifier
		}
		v, err := read(vkey)
		if err != nil {
			return fmt.Errorf("%s: %w", vkey, err)
		}
		n, err := note.Open(msg, note.VerifierList(v))
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name(), err)
		}
		fmt.Println(kind(vkey), n.Sigs[0].Name)
		if first == nil {
			first = v
		} else {
			others = append(others, v)
		}
	}
	checkpoint, _, _, err := log.ParseCheckpoint(msg, first.Name(), first, others...)
	if err != nil {
		return err
	}
	fmt.Println(checkpoint.Origin, checkpoint.Size, base64.StdEncoding.EncodeToString(checkpoint.Hash))
	return nil
}

func kind(vkey string) byte {
	parts := strings.SplitN(vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(key) == 0 {
		return 0
	}
	return key[0]
}

func makeNote(dir string) error {
	const origin = "go.example/log"
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return err
	}
	ed25519, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	p256, p256Key, err := newP256(origin)
	if err != nil {
		return err
	}
	skey, wkey, err := note.GenerateKey(rand.Reader, "go.example/witness")
	if err != nil {
		return err
	}
	cosigner, err := tdnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		return err
	}
	wkey, err = tdnote.VKeyToCosignatureV1(wkey)
	if err != nil {
		return err
	}
	skey, mkey, err := tdnote.GenerateMLDSAKey("go.example/mldsa")
	if err != nil {
		return err
	}
	mldsa, err := tdnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		return err
	}
	root := sha256.Sum256([]byte("root"))
	checkpoint := log.Checkpoint{Origin: origin, Size: 7, Hash: root[:]}
	msg, err := note.Sign(&note.Note{Text: string(checkpoint.Marshal())}, ed25519, p256, mldsa, cosigner)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "note"), msg, 0o644); err != nil {
		return err
	}
	keys := strings.Join([]string{vkey, p256Key, wkey, mkey}, "\n") + "\n"
	return os.WriteFile(filepath.Join(dir, "vkeys"), []byte(keys), 0o644)
}

// p256 signs as type 0x02; the library verifies that type and has no signer for it.
type p256 struct {
	name string
	hash uint32
	key  *ecdsa.PrivateKey
}

func (s p256) Name() string    { return s.name }
func (s p256) KeyHash() uint32 { return s.hash }
func (s p256) Sign(msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	return ecdsa.SignASN1(rand.Reader, s.key, digest[:])
}

func newP256(name string) (note.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, "", err
	}
	digest := sha256.Sum256(spki)
	hash := binary.BigEndian.Uint32(digest[:])
	vkey := fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(append([]byte{2}, spki...)))
	return p256{name, hash, key}, vkey, nil
}
