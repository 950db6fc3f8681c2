// The foreign side of the witness protocol: github.com/transparency-dev/witness as server and as client.
//
//	witness serve LOG_VKEY...      a witness with a new key; prints its address and verifier key
//	witness submit URL OLD         submits the checkpoint on standard input, with the proof lines before it
//	                               and a blank line between; prints what came of it
//	witness open LOG_VKEY WITNESS_VKEY   verifies the cosigned checkpoint on standard input
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	checkpoint "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	client "github.com/transparency-dev/witness/client/http"
	"github.com/transparency-dev/witness/persistence/inmemory"
	"github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("serve, submit or open")
	}
	var err error
	switch args := os.Args[2:]; {
	case os.Args[1] == "serve":
		err = serve(args)
	case os.Args[1] == "submit" && len(args) == 2:
		err = submit(args[0], args[1])
	case os.Args[1] == "open" && len(args) == 2:
		err = open(args[0], args[1])
	default:
		err = errors.New("serve, submit or open")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(logs []string) error {
	known := map[string]note.Verifier{}
	for _, vkey := range logs {
		v, err := fnote.NewVerifier(vkey)
		if err != nil {
			return err
		}
		known[v.Name()] = v
	}
	skey, plain, err := note.GenerateKey(rand.Reader, "foreign.example/witness")
	if err != nil {
		return err
	}
	signer, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		return err
	}
	w, err := witness.New(context.Background(), witness.Opts{
		Persistence: inmemory.New(),
		Signers:     []note.Signer{signer},
		VerifierForLog: func(_ context.Context, origin string) (note.Verifier, bool, error) {
			v, ok := known[origin]
			return v, ok, nil
		},
	})
	if err != nil {
		return err
	}
	vkey, err := fnote.VKeyToCosignatureV1(plain)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/ %s\n", listener.Addr(), vkey)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", witness.NewHTTPHandler(w).AddCheckpoint)
	go func() {
		// Who started this holds the other end: it ends with them.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(listener, mux)
}

func submit(prefix, old string) error {
	size, err := strconv.ParseUint(old, 10, 64)
	if err != nil {
		return err
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	lines, cp, found := bytes.Cut(in, []byte("\n\n"))
	if bytes.HasPrefix(in, []byte("\n")) {
		lines, cp, found = nil, in[1:], true
	}
	if !found {
		return errors.New("no blank line before the checkpoint")
	}
	var proof [][]byte
	for _, line := range strings.Fields(string(lines)) {
		hash, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	where, err := url.Parse(prefix)
	if err != nil {
		return err
	}
	sigs, trusted, err := client.NewWitness(where, http.DefaultClient).Update(context.Background(), size, cp, proof)
	switch {
	case err == nil:
		fmt.Printf("cosigned\n%s", sigs)
	case errors.Is(err, witness.ErrCheckpointStale):
		fmt.Printf("stale %d\n", trusted)
	default:
		fmt.Printf("refused %v\n", err)
	}
	return nil
}

func open(logKey, witnessKey string) error {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	l, err := fnote.NewVerifier(logKey)
	if err != nil {
		return err
	}
	w, err := fnote.NewVerifierForCosignatureV1(witnessKey)
	if err != nil {
		return err
	}
	cp, _, n, err := checkpoint.ParseCheckpoint(in, l.Name(), l, w)
	if err != nil {
		return err
	}
	if len(n.Sigs) != 2 {
		return fmt.Errorf("%d signatures verify", len(n.Sigs))
	}
	fmt.Printf("verified %d\n", cp.Size)
	return nil
}
