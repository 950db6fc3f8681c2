// Command tiles judges an exported log with code that Jurat did not write: golang.org/x/mod/sumdb
// and github.com/transparency-dev/formats.
//
// Usage: tiles FOLDER VERIFIER-KEY
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	f_log "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// folder reads tiles of height 8 as C2SP tlog-tiles names them.
type folder string

func (f folder) Height() int { return height }

func (f folder) path(t tlog.Tile) string {
	path := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
	return filepath.Join(string(f), strings.Replace(path, "tile/data/", "tile/entries/", 1))
}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		data, err := os.ReadFile(f.path(t))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

// entries reads the bundle that holds the entries of this tile of level 0.
func (f folder) entries(t tlog.Tile) ([][]byte, error) {
	t.L = -1
	data, err := os.ReadFile(f.path(t))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("%s: cut", f.path(t))
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries = append(entries, data[2:end])
		data = data[end:]
	}
	if len(entries) != t.W {
		return nil, fmt.Errorf("%s: %d entries", f.path(t), len(entries))
	}
	return entries, nil
}

func run(dir, key string) error {
	f := folder(dir)
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	head, _, _, err := f_log.ParseCheckpoint(text, verifier.Name(), verifier)
	if err != nil {
		return err
	}
	size := int64(head.Size)
	var root tlog.Hash
	copy(root[:], head.Hash)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, f)
	for _, t := range tlog.NewTiles(height, 0, size) {
		if t.L != 0 {
			continue
		}
		entries, err := f.entries(t)
		if err != nil {
			return err
		}
		for i, entry := range entries {
			index := t.N<<height + int64(i)
			proof, err := tlog.ProveRecord(size, index, reader)
			if err != nil {
				return fmt.Errorf("proving leaf %d: %w", index, err)
			}
			if err := tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("leaf %d: %w", index, err)
			}
		}
	}
	for old := int64(1); old <= size; old++ {
		before, err := tlog.TreeHash(old, reader)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(size, old, reader)
		if err != nil {
			return fmt.Errorf("proving size %d: %w", old, err)
		}
		if err := tlog.CheckTree(proof, size, root, old, before); err != nil {
			return fmt.Errorf("size %d: %w", old, err)
		}
	}
	fmt.Printf("%s: %d leaves, each included, each smaller tree consistent\n", head.Origin, size)
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: tiles FOLDER VERIFIER-KEY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
