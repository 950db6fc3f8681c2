#!/usr/bin/env python3
"""Verifies a Jurat bundle. Written from docs/formats/ alone: the standard library and the openssl program do the rest.

    verify.py BUNDLE [--trust FILE] [--now SECONDS|none]

Prints the verdict of docs/formats/verdict.md. Exit 0 verified, 1 tampered, 2 unverifiable, 64 could not begin.
"""
import argparse
import base64
import bisect
import collections
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time

KIB, MIB = 1 << 10, 1 << 20
U64 = 1 << 64
SMALL, PART = 128 * KIB, 3 * MIB + 68 * KIB  # members of text, members of parts
MAX_NOTE, MAX_LINES, MAX_HASHES = 128 * KIB, 64, 64
MAX_ENTRY, MAX_FIELDS, MAX_DEPTH = 16384, 256, 127
MAX_BODY, MAX_LEAVES = MIB + 4 * KIB, 32768  # of one record
MAX_SESSIONS, MAX_RUNS, MAX_BOOTS = 100_000, 100_000, 10_000
MAX_LISTED = 1000  # gaps, sessions and kinds that the report names
FUTURE_S = 300  # clocks of witnesses may run ahead that much


class Tampered(Exception):
    def __init__(self, seq, check):
        self.verdict = {"verdict": "tampered", "seq": seq, "check": check}


class Unverifiable(Exception):
    def __init__(self, reason, **more):
        self.verdict = dict(verdict="unverifiable", reason=reason, **more)


class NotABundle(Unverifiable):
    def __init__(self, check):
        super().__init__("not_a_bundle", check=check)


class Failure(Exception):
    """The first thing that is wrong in the stream: (seq, code)."""


class TrustError(Exception):
    pass


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def need(condition):
    if not condition:
        raise ValueError


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text)  # no second spelling of the same bytes
    return raw


def decimal(text):
    need(re.fullmatch("0|[1-9][0-9]*", text))
    need(len(text) <= 20 and int(text) < U64)
    return int(text)


# --- JSON by RFC 8259 to the letter, and entries ---------------------------------------------------------------------


def strict_json(data):
    def fields(pairs):
        need(len(pairs) <= MAX_FIELDS)
        found = dict(pairs)
        need(len(found) == len(pairs))  # a field twice means two things to two readers
        return found

    def fraction(text):
        value = float(text)
        need(abs(value) != float("inf"))
        return value

    def integer(text):
        # What is no 64 bit integer is a float to most readers; so is -0.
        fits = text != "-0" and len(text) <= 20 and -(1 << 63) <= int(text) < U64
        return int(text) if fits else fraction(text)

    def walk(value, depth):
        if isinstance(value, str):
            value.encode()  # a lone surrogate escape cannot be encoded
        elif isinstance(value, (dict, list)):
            need(depth <= MAX_DEPTH)
            for inner in value:
                walk(inner, depth + 1)
            for inner in value.values() if isinstance(value, dict) else ():
                walk(inner, depth + 1)

    def constant(_):
        raise ValueError

    try:
        value = json.loads(data.decode(), object_pairs_hook=fields, parse_float=fraction, parse_int=integer,
                           parse_constant=constant)
        walk(value, 1)
        return value
    except RecursionError:
        raise ValueError


def u64(value):
    return type(value) is int and 0 <= value < U64


def string(value):
    return isinstance(value, str)


def flag(value):
    return isinstance(value, bool)


def mapping(value):
    return isinstance(value, dict)


def record_of(optional="", **required):
    """A check of an object: required fields by name, optional ones as `name:type` words."""
    types = {"s": string, "u": u64}
    extra = {word[:-2]: types[word[-1]] for word in optional.split()}

    def check(value):
        return (mapping(value) and all(name in value and is_(value[name]) for name, is_ in required.items())
                and all(is_(value[name]) for name, is_ in extra.items() if name in value))
    return check


digest = record_of(sha256=string, len=u64)
REQUIRED = {"v": u64, "salt": string, "seq": u64, "boot": string, "time": string, "kind": string}
OPTIONAL = {
    "mono_us": u64, "kind_id": u64, "severity": string, "outcome": string, "witness": string, "claimed_time": string,
    "agent": record_of("version:s id:s", product=string), "session": string, "session_seq": u64, "of": u64,
    "actor": record_of("user:s uid:u pid:u exe:s"), "action": string, "object": string,
    "source": record_of(name=string, path=string, offset=u64, len=u64), "custody": flag, "withheld": flag,
    "raw": digest, "context": record_of(sha256=string, len=u64, redactions=u64),
    "detail": mapping,
    "cut": lambda value: mapping(value) and all(map(digest, value.values())),
}
# A SIEM line is an entry with these added; an entry that had one itself could pass for another.
RESERVED = {"device", "leaf_hash", "chain_hash", "prev_chain_hash", "sink_seq", "batch", "judged", "full_context"}


def parse_entry(data):
    need(len(data) <= MAX_ENTRY and min(data, default=0) >= 0x20)
    need(data.startswith(b'{"v":') and data.endswith(b"}"))
    entry = strict_json(data)
    need(not RESERVED & set(entry))
    need(all(name in entry and is_(entry[name]) for name, is_ in REQUIRED.items()) and entry["v"] == 1)
    need(all(is_(entry[name]) for name, is_ in OPTIONAL.items() if name in entry))
    return entry


# --- Keys and notes --------------------------------------------------------------------------------------------------

ED25519, ECDSA, COSIGNATURE = 1, 2, 4
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
P256_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
ORDER8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the points of order 1, 2, 4 and 8. A signature of such a key proves nothing.
SMALL_ORDER = (1, P - 1, 0, ORDER8, P - ORDER8)
Q = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

Key = collections.namedtuple("Key", "name id type raw vkey")


def check_ed25519_key(raw):
    need(len(raw) == 32)
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    need(y < P and y not in SMALL_ORDER)
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    need(pow(x2, (P - 1) // 2, P) == 1)  # x exists, so the point is on the curve


def check_p256_key(raw):
    need(len(raw) == len(P256_SPKI) + 64 and raw.startswith(P256_SPKI))
    x, y = int.from_bytes(raw[-64:-32], "big"), int.from_bytes(raw[-32:], "big")
    need(x < Q and y < Q and (y * y - x * x * x + 3 * x - B) % Q == 0)


def parse_key(text, *types):
    name, hint, rest = text.split("+", 2)
    check_name(name)
    blob = unbase64(rest)
    need(blob and blob[0] in types)
    if blob[0] == ECDSA:
        check_p256_key(blob[1:])
        key_id = sha256(blob[1:])[:4]
    else:
        check_ed25519_key(blob[1:])
        key_id = sha256(name.encode(), b"\n", blob)[:4]
    need(hint == key_id.hex())
    return Key(name, key_id, blob[0], blob[1:], text)


def check_name(name):
    need(name and "+" not in name and not any(c.isspace() for c in name))


def openssl(key, message, signature):
    with tempfile.TemporaryDirectory() as folder:
        def put(name, data):
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(data)
            return path
        spki = key.raw if key.type == ECDSA else ED25519_SPKI + key.raw
        pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(spki) + b"-----END PUBLIC KEY-----\n"
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", put("key", pem), "-rawin",
                   "-in", put("message", message), "-sigfile", put("signature", signature)]
        if key.type == ECDSA:
            command += ["-digest", "sha256"]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def check_openssl():
    """An openssl that cannot do Ed25519 would call every bundle tampered: so it must get one right (RFC 8032, test 2)."""
    raw = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                              "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
    key = Key("", b"", ED25519, raw, "")
    return openssl(key, b"\x72", signature) and not openssl(key, b"\x73", signature)


class Head:
    """A note with a checkpoint of three lines."""

    def __init__(self, data):
        need(len(data) <= MAX_NOTE)
        note = data.decode()
        need(all(c >= " " or c == "\n" for c in note))
        text, blank, signatures = note.rpartition("\n\n")
        need(blank and signatures.endswith("\n"))
        self.text = text + "\n"
        self.lines = []
        for line in signatures[:-1].split("\n"):
            dash, name, blob = line.split(" ")
            check_name(name)
            raw = unbase64(blob)
            need(dash == "\u2014" and len(raw) > 4)
            self.lines.append((name, raw[:4], raw[4:]))
        need(len(self.lines) <= MAX_LINES)
        self.origin, size, root = text.split("\n")
        self.size, self.root = decimal(size), unbase64(root)
        need(self.origin and len(self.root) == 32)

    def judge(self, key):
        """Of every line of this key: whether it is good, and the time of a cosignature."""
        message, found = self.text.encode(), []
        for name, key_id, blob in self.lines:
            if (name, key_id) != (key.name, key.id):
                continue
            if key.type != COSIGNATURE:
                good = key.type == ECDSA or len(blob) == 64
                found.append((good and openssl(key, message, blob), None))
                continue
            when = int.from_bytes(blob[:8], "big")
            good = len(blob) == 72 and when < 1 << 63
            stamped = b"cosignature/v1\ntime %d\n" % when + message
            found.append((good and openssl(key, stamped, blob[8:]), when))
        return found

    def signed(self, key):
        """True, False when a line of the key is bad, None without a line of it."""
        judged = self.judge(key)
        return all(good for good, _ in judged) if judged else None


def times_of(head, cosigners, code=None):
    """The times of each cosigner that cosigned. A bad line is Failure(code), or without a code no cosignature."""
    found = {}
    for name, key in cosigners:
        judged = head.judge(key)
        if code and not all(good for good, _ in judged):
            raise Failure(code)
        times = [when for good, when in judged if good]
        if times:
            found[name] = times
    return found


# --- The trust file --------------------------------------------------------------------------------------------------


class Trust:
    def __init__(self, data):
        self.logs, self.witnesses, self.archives, self.revoked, self.seen = [], [], [], [], []
        self.groups, self.same_host, self.collector = {}, [], None
        self.rules, self.rule_lines = {}, {}
        need_late = []  # what names a witness that may stand further below
        try:
            number = 0
            need(len(data) <= MIB)
            for number, line in enumerate(data.decode().split("\n"), 1):
                words = re.findall("[^ \t]+", line)
                comment = next((i for i, word in enumerate(words) if word.startswith("#")), None)
                if words[:comment]:
                    self.statement(*words[:comment], number=number, need_late=need_late)
            for number, check in need_late:
                need(check())
        except (ValueError, TypeError, KeyError):
            raise TrustError("trust file, line %d: refused" % number)

    def statement(self, word, *rest, number, need_late):
        if word == "log":
            text, = rest
            self.logs.append(parse_key(text, ED25519, ECDSA))
        elif word in ("witness", "archive"):
            name, text = rest
            key = parse_key(text, COSIGNATURE)
            those = self.witnesses if word == "witness" else self.archives
            need(all(name != other and key.raw != raw.raw for other, raw in those))
            need(word == "archive" or name not in self.groups)
            those.append((name, key))
        elif word == "group":
            name, count, *members = rest
            known = {n for n, _ in self.witnesses} | set(self.groups)
            need(name not in known and members and set(members) <= known and len(set(members)) == len(members))
            k = 1 if count == "any" else len(members) if count == "all" else decimal(count)
            need(1 <= k <= len(members))
            self.groups[name] = (k, members)
        elif word in ("quorum", "outside"):
            rule, = rest
            need(word not in self.rules)
            self.rules[word] = rule
            if rule.isdigit():
                k = decimal(rule)
                need(k)
                need_late.append((number, lambda: k <= len(self.witnesses)))
            else:
                need(rule == "none" or rule in self.groups or rule in dict(self.witnesses))
        elif word == "collector":
            text, = rest
            need(self.collector is None)
            self.collector = parse_key(text, ED25519, ECDSA)
        elif word == "same-host":
            name, = rest
            self.same_host.append(name)
            need_late.append((number, lambda: name in dict(self.witnesses)))
        elif word == "seen":
            origin, size, root = rest
            need(decimal(size) and re.fullmatch("[0-9a-f]{64}", root))
            self.seen.append((origin, decimal(size), bytes.fromhex(root)))
        elif word == "revoked":
            text, leaf = rest
            self.revoked.append((parse_key(text, ED25519, ECDSA), decimal(leaf)))
        else:
            raise ValueError

    def agrees(self, rule, names):
        """Whether these witnesses are enough for `quorum` or `outside`."""
        def has(member):
            if member not in self.groups:
                return member in names
            k, members = self.groups[member]
            return sum(map(has, members)) >= k
        wanted = self.rules.get(rule, "none")
        return wanted == "none" or (len(names) >= int(wanted) if wanted.isdigit() else has(wanted))


# --- The tree of RFC 6962 --------------------------------------------------------------------------------------------


def node(left, right):
    return sha256(b"\x01", left, right)


class Tree:
    """The right edge: the roots of the complete subtrees, largest first."""

    def __init__(self, size, roots):
        self.size, self.roots = size, list(roots)

    def add(self, leaf):
        bits = self.size
        while bits & 1:
            leaf, bits = node(self.roots.pop(), leaf), bits >> 1
        self.roots.append(leaf)
        self.size += 1

    def root(self):
        if not self.roots:
            return sha256()
        root = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            root = node(left, root)
        return root


def included(leaf, index, size, proof, root):
    """RFC 9162 section 2.1.3.2."""
    last = size - 1
    for other in proof:
        if last == 0:
            return False
        if index & 1 or index == last:
            leaf = node(other, leaf)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            leaf = node(leaf, other)
        index, last = index >> 1, last >> 1
    return last == 0 and leaf == root


def consistent(old, old_root, new, new_root, proof):
    """RFC 9162 section 2.1.4.2; `old` is not 0."""
    if old == new:
        return not proof and old_root == new_root
    if old & (old - 1) == 0:
        proof = [old_root] + proof
    if not proof:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = proof[0]
    for other in proof[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node(other, first), node(other, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, other)
        at, last = at >> 1, last >> 1
    return last == 0 and (first, second) == (old_root, new_root)


# --- The tar ---------------------------------------------------------------------------------------------------------


class Tar:
    def __init__(self, file):
        self.file = file
        self.name = self.size = None

    def read(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise NotABundle("bundle.cut")
        return data

    def next(self):
        """Reads a header; the name is None at the block of zeros."""
        def octal(field):
            need(re.fullmatch(rb" *[0-7]+[ \0]*", field))
            return int(field.strip(b" \0"), 8)
        block = self.read(512)
        self.name = None
        if not any(block):
            return
        try:
            need(octal(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * ord(" "))
            need(block[156:157] == b"0")
            need(not any(block[345:500]))  # a prefix would make the path another one
            self.size = octal(block[124:136])
            name = block[:100].rstrip(b"\0")
            need(name and b"\0" not in name)
            self.name = name.decode("ascii")
        except ValueError:
            raise NotABundle("bundle.layout")

    def expect(self, name):
        if self.name != name:
            raise NotABundle("bundle.layout")

    def body(self, name, limit):
        """The bytes of this member, which must be `name`."""
        self.expect(name)
        if self.size > limit:
            raise NotABundle("bundle.limit")
        return self.read(self.size + -self.size % 512)[:self.size]


def read_manifest(data):
    try:
        manifest = strict_json(data)
        need(mapping(manifest) and set(manifest) | {"session"} == {"format", "v", "origin", "from", "size", "session"})
        need(manifest["format"] == "jurat-bundle" and u64(manifest["v"]) and manifest["v"] == 2)
        need(string(manifest["origin"]) and u64(manifest["from"]) and u64(manifest["size"]))
        need(string(manifest.get("session", "")))
        return manifest
    except ValueError:
        raise NotABundle("bundle.manifest")


# --- The stream of records -------------------------------------------------------------------------------------------

GAPS = {"agent.started", "agent.stopped", "transcript.truncated", "transcript.rewritten", "transcript.deleted",
        "clock.stepped", "ledger.full", "dead.letter", "source.failed", "payload.erased", "ledger.pruned", "key.rotated"}
STATES = {"log.opened", "agent.started", "batch.sealed"}  # kinds that state isolation and custody

Rotation = collections.namedtuple("Rotation", "old key leaf size")


class Runs:
    """Ranges of leaves [begin, end), sorted, none touching another."""

    def __init__(self):
        self.begins, self.ends = [], []

    def add(self, begin, end):
        i, j = bisect.bisect_left(self.ends, begin), bisect.bisect_right(self.begins, end)
        if i < j:
            begin, end = min(begin, self.begins[i]), max(end, self.ends[j - 1])
        self.begins[i:j], self.ends[i:j] = [begin], [end]

    def common(self, other):
        """How many leaves both have."""
        total = 0
        for begin, end in zip(other.begins, other.ends):
            for i in range(bisect.bisect_right(self.ends, begin), len(self.begins)):
                if self.begins[i] >= end:
                    break
                total += min(end, self.ends[i]) - max(begin, self.begins[i])
        return total

    def total(self):
        return sum(self.ends) - sum(self.begins)


class Stream:
    def __init__(self, trust, head, first, prefix):
        self.trust, self.origin, self.head_size, self.first, self.n = trust, head.origin, head.size, first, first
        chain, *roots = [prefix[i:i + 32] for i in range(0, len(prefix), 32)] if first else [None]
        self.chain = chain or sha256(b"jurat/chain/v1\0", self.origin.encode())
        self.chain_known = first == 0
        self.tree, self.listed = Tree(first, roots), Tree(first, roots)
        self.seen = [(size, root) for origin, size, root in trust.seen if origin == self.origin]
        self.seen_differs = False
        self.compare_seen()
        self.failure = self.changed = None
        self.list, self.list_at = [], 0  # of this part
        self.keys = [key for key in trust.logs if key.name == self.origin]
        self.rotations, self.pending, self.retired = [], None, {}
        self.after_rotation = None  # "batch" or "head": what must come next
        self.times = {name: [] for name, _ in trust.witnesses}
        self.heads, self.begins = collections.Counter(), {}
        self.first_time = self.last_kind = self.boot = None
        self.boots, self.isolations, self.custody = set(), [], False
        self.unknown_batch, self.batch_at = first > 0, first
        self.open, self.sessions, self.sessions_more = {}, {}, 0  # open: last number, and after how many hash records
        self.hash_records, self.hashes = 0, Runs()
        self.waiting = None  # the context of the last leaf, when its payload did not come yet
        self.here, self.withheld, self.payloads, self.forgotten = 0, 0, 0, 0
        self.missing, self.erased, self.overflow = Runs(), Runs(), False
        self.events, self.filtered, self.redactions = collections.Counter(), collections.Counter(), 0
        self.gaps = []

    def compare_seen(self):
        for size, root in self.seen:
            if size == self.listed.size and root != self.listed.root():
                self.seen_differs = True

    def accepted(self):
        return [key for key in self.keys if key.vkey not in self.retired]

    def part(self, hashes, records):
        self.list = [hashes[i:i + 32] for i in range(0, len(hashes), 32)]
        self.list_at = self.n
        for leaf in self.list:
            self.listed.add(leaf)
            self.compare_seen()
        if self.failure:
            return
        try:
            at, first = 0, True
            while at < len(records):
                need(len(records) - at >= 5)
                kind, length = records[at], int.from_bytes(records[at + 1:at + 5], "little")
                need(1 <= kind <= 4 and length <= MAX_BODY and len(records) - at - 5 >= length)
                body = records[at + 5:at + 5 + length]
                if kind == 2 and first:
                    self.fail("payload.stray", max(self.n - 1, 0))
                (self.entry, self.payload, self.checkpoint, self.leaves)[kind - 1](body)
                at, first = at + 5 + length, False
        except ValueError:
            self.failure = (self.n, "record.framing")
        except Failure as failure:
            self.failure = failure.args

    def fail(self, code, seq=None):
        raise Failure(self.n if seq is None else seq, code)

    def require(self, condition, code, seq=None):
        if not condition:
            self.fail(code, seq)

    def compare(self, offset, leaf):
        """The list only helps to name a place, so a difference is noted and not yet a failure."""
        at = self.n - self.list_at + offset
        self.require(at < len(self.list), "leaf.unlisted")
        if self.list[at] != leaf and self.changed is None:
            self.changed = self.n + offset

    def grow(self, leaf):
        self.tree.add(leaf)
        self.chain = sha256(b"\x02", self.chain, leaf)
        self.n += 1

    def gap(self, what, seq=None):
        if len(self.gaps) < MAX_LISTED:
            self.gaps.append([self.n if seq is None else seq, what])

    def entry(self, body):
        leaf = sha256(b"\0", body)
        self.compare(0, leaf)
        self.settle()
        try:
            entry = parse_entry(body)
        except ValueError:
            self.fail("entry.malformed")
        kind, detail = entry["kind"], entry.get("detail", {})
        self.require(entry["seq"] == self.n, "entry.seq")
        opening = kind == "log.opened" and detail.get("origin") == self.origin
        self.require(self.n > 0 or opening, "entry.opening")
        self.session(entry, kind, detail)
        if kind == "batch.sealed":
            self.require(self.unknown_batch or same(detail.get("count"), self.n - self.batch_at), "batch.count")
            self.require(detail.get("chain") == self.chain.hex(), "batch.chain")
            self.unknown_batch, self.batch_at, self.chain_known = False, self.n + 1, True
        self.rotation_step(kind)
        if kind == "key.rotated":
            self.pending = self.rotation(detail)
            self.after_rotation = "batch"
        if kind == "payload.erased":
            self.erasure(detail)
        self.count(entry, kind, detail)
        self.waiting = entry.get("context")
        self.last_kind = kind
        self.here += 1
        self.grow(leaf)

    def session(self, entry, kind, detail):
        name, number = entry.get("session"), entry.get("session_seq")
        if name is not None:
            run = self.open.get(name)
            expected = run[0] + 1 if run else 0
            unseen = run[1] < self.hash_records if run else self.first > 0 or self.hash_records > 0
            self.require(number == expected or (unseen and number is not None), "session.gap")
        if kind == "session.ended":
            self.require(number is not None and same(detail.get("count"), number + 1), "session.count")
        if name is None:
            return
        if kind == "session.ended":
            self.open.pop(name, None)
        else:
            self.open[name] = (number, self.hash_records)
            self.require(len(self.open) <= MAX_SESSIONS, "session.many")
        if name not in self.sessions:
            if len(self.sessions) == MAX_LISTED:
                self.sessions_more += run is None
                return
            self.sessions[name] = {"leaves": 0, "complete": True, "ended": False}
        listed = self.sessions[name]
        listed["leaves"] += 1
        listed["complete"] &= number == expected
        listed["ended"] = kind == "session.ended"

    def rotation_step(self, kind):
        """After key.rotated its batch is closed and signed at once, so that no leaf is between two keys."""
        if self.after_rotation:
            self.require(self.after_rotation == "batch" and kind == "batch.sealed", "rotation.batch")
            self.after_rotation = "head"

    def rotation(self, detail):
        try:
            old, new = detail.get("from"), parse_key(detail.get("key"), ED25519, ECDSA)
            need(old in [key.vkey for key in self.accepted()] and new.vkey != old and new.name == self.origin)
            message = "jurat/key-rotation/v1\0%s\0%s" % (self.origin, old)
            need(openssl(new, message.encode(), unbase64(detail.get("proof"))))
        except (ValueError, TypeError, AttributeError):
            self.fail("rotation")
        return Rotation(old, new, self.n, None)

    def erasure(self, detail):
        ranges, inside = Runs(), True
        try:
            for begin, end in detail["ranges"]:
                need(u64(begin) and u64(end) and begin < end)
                ranges.add(begin, end)
                inside &= self.first <= begin and end <= self.head_size
                self.erased.add(begin, end)
            need(u64(detail["count"]))
        except (ValueError, TypeError, KeyError):
            self.require(self.overflow, "erased.present")
            return
        if inside and not self.overflow and not self.hashes.common(ranges):
            self.require(self.missing.common(ranges) >= detail["count"], "erased.present")

    def count(self, entry, kind, detail):
        name = kind if kind in self.events or len(self.events) < MAX_LISTED else "(others)"
        self.events[name] += 1
        if self.n == self.first:
            self.first_time = seconds(entry["time"])
        if kind in GAPS:
            self.gap(kind)
        if entry["boot"] != self.boot and entry["boot"] in self.boots:
            self.gap("boot returned")
        self.boot = entry["boot"]
        if len(self.boots) < MAX_BOOTS:
            self.boots.add(self.boot)
        if kind in STATES:
            self.isolations.append(detail.get("isolation") == "separate")
            self.isolations = [all(self.isolations)]
            self.custody |= detail.get("custody") is True or entry.get("custody") is True
        if "context" in entry:
            self.redactions += entry["context"]["redactions"]
        if kind == "batch.sealed" and mapping(detail.get("filtered")):
            self.filtered.update({reason: k for reason, k in detail["filtered"].items() if u64(k)})

    def settle(self):
        """The payload of the last leaf can no longer come."""
        if self.waiting:
            at = self.n - 1
            touches = self.missing.ends and self.missing.ends[-1] == at
            if touches or len(self.missing.ends) < MAX_RUNS:
                self.missing.add(at, at + 1)
            else:
                self.overflow, self.forgotten = True, self.forgotten + 1
        self.waiting = None

    def payload(self, body):
        at = max(self.n - 1, 0)
        self.require(self.waiting, "payload.stray", at)
        is_it = (len(body) >= 32 and self.waiting["len"] == len(body) - 32
                 and self.waiting["sha256"] == sha256(b"jurat/context/v1\0", body).hex())
        self.require(is_it, "payload.commitment", at)
        self.payloads += 1
        self.waiting = None

    def checkpoint(self, body):
        try:
            head = Head(body)
        except ValueError:
            self.fail("head.malformed")
        self.require(head.origin == self.origin, "head.origin")
        self.require((head.size, head.root) == (self.n, self.tree.root()), "head.root")
        signed = [head.signed(key) for key in self.accepted()]
        self.require(False not in signed, "head.signature")
        self.require(True in signed, "head.key")
        try:
            found = self.cosigned(head, "head.cosignature", "head.order")
        except Failure as failure:
            self.fail(*failure.args)
        if self.n == self.first:
            for name, times in found.items():
                self.begins.setdefault(name, times[0])
        if self.pending:
            self.retired[self.pending.old] = self.n
            self.retired.pop(self.pending.key.vkey, None)
            if self.pending.key.vkey not in [key.vkey for key in self.keys]:
                self.keys.append(self.pending.key)
            self.rotations.append(self.pending._replace(size=self.n))
            self.pending = None
        if self.after_rotation == "head":
            self.after_rotation = None

    def cosigned(self, head, bad, order):
        """Notes a head's cosignatures; their names."""
        found = times_of(head, self.trust.witnesses, bad)
        for name, times in found.items():
            all_times = self.times[name] + times
            if any(a > b for a, b in zip(all_times, all_times[1:])):
                raise Failure(order)
        for name, times in found.items():
            self.heads[name] += 1
            self.times[name] += times
        return found

    def leaves(self, body):
        place, hashes = int.from_bytes(body[:8], "little"), body[8:]
        need(hashes and len(hashes) % 32 == 0 and len(hashes) // 32 <= MAX_LEAVES)
        self.require(place == self.n, "leaves.place")
        those = [hashes[i:i + 32] for i in range(0, len(hashes), 32)]
        for offset, leaf in enumerate(those):
            self.compare(offset, leaf)
        self.rotation_step("withheld")
        self.settle()
        self.gap("%d leaves withheld" % len(those))
        self.hashes.add(self.n, self.n + len(those))
        self.hash_records += 1
        self.unknown_batch, self.last_kind = True, None
        self.withheld += len(those)
        for leaf in those:
            self.grow(leaf)


def same(value, number):
    return u64(value) and value == number


def seconds(text):
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d).*Z", text, re.ASCII)
    try:
        return int(datetime.datetime(*map(int, match.groups()), tzinfo=datetime.timezone.utc).timestamp())
    except (AttributeError, ValueError):
        return 0


# --- The verdict -----------------------------------------------------------------------------------------------------


def verify(file, trust, now):
    if trust is None:
        raise Unverifiable("no_trust")
    tar = Tar(file)
    parts = {}
    tar.next()
    manifest = read_manifest(tar.body("jurat.json", SMALL))
    first = manifest["from"]
    for name, limit in ("README.md", SMALL), ("checkpoint", SMALL), ("prefix", 4 * KIB):
        if name != "prefix" or first:
            tar.next()
            parts[name] = tar.body(name, limit)
    tar.next()
    for name, limit in ("later", SMALL), ("receipt", 256 * KIB):
        if tar.name == name:
            parts[name] = tar.body(name, limit)
            tar.next()
    if tar.name is not None:
        tar.expect("hashes/000000")
    try:
        head = Head(parts["checkpoint"])
    except ValueError:
        raise NotABundle("note.malformed")
    if head.size == 0:
        raise NotABundle("checkpoint.empty")
    logs = [key for key in trust.logs if key.name == head.origin]
    if not logs:
        raise Unverifiable("unknown_origin", origin=head.origin)
    signed = {key.vkey: head.signed(key) for key in logs}
    if False in signed.values():
        raise Tampered(None, "checkpoint.signature")
    if (manifest["origin"], manifest["size"]) != (head.origin, head.size):
        raise Tampered(None, "manifest.head")
    if first >= head.size:
        raise Tampered(None, "manifest.range")
    prefix = parts.get("prefix", b"")
    if first and len(prefix) != 32 + 32 * bin(first).count("1"):
        raise Tampered(None, "prefix.length")

    stream = Stream(trust, head, first, prefix)
    number = 0
    while tar.name is not None:
        hashes = tar.body("hashes/%06d" % number, PART)
        if len(hashes) % 32:
            raise NotABundle("bundle.hashes")
        tar.next()
        stream.part(hashes, tar.body("records/%06d" % number, PART))
        tar.next()
        number += 1
    stream.settle()

    signers, accepted = signers_of(head, stream, signed)
    check_places(head, stream)
    later = check_later(parts.get("later"), head, accepted, trust)
    reached = later["size"] if later else head.size
    for size, _ in stream.seen:
        if size > reached:
            raise Unverifiable("behind", size=size)
    names, archives = check_cosignatures(head, stream, trust)
    logged, outside = check_receipt(parts.get("receipt"), head, trust)
    for key, leaf in trust.revoked:
        if key.vkey == signers[0].vkey and not (logged and logged["leaf"] < leaf):
            raise Unverifiable("revoked", key=key.vkey)
    for of, rule, found in ("head", "quorum", names), ("receipt", "outside", outside):
        if not trust.agrees(rule, found):
            raise Unverifiable("quorum", of=of, found=sorted(found))
    times = [when for those in (*stream.times.values(), *archives.values(), *outside.values()) for when in those]
    if now is not None and times and max(times) > now + FUTURE_S:
        raise Unverifiable("future", time=max(times))
    return report(head, stream, trust, signers[0], names, archives, logged, later)


def signers_of(head, stream, signed):
    """Step 9: the accepted keys that signed, in order, and those that a later head may be signed with."""
    rotations = stream.rotations + [stream.pending] * bool(stream.pending)
    turned_away = {vkey for vkey, size in stream.retired.items() if size < head.size}
    good = [key for key in stream.keys if signed.get(key.vkey) and key.vkey not in turned_away]
    accepted = stream.accepted()
    if rotations:
        new = rotations[-1].key
        if new.vkey not in signed:
            signed[new.vkey] = head.signed(new)
            if signed[new.vkey] is False:
                raise Tampered(None, "checkpoint.signature")
            good += [new] * bool(signed[new.vkey])
        if new.vkey not in [key.vkey for key in accepted]:
            accepted.append(new)
    if good:
        return good, accepted
    for key in stream.keys:
        if key.vkey in turned_away and (signed[key.vkey] if key.vkey in signed else head.signed(key)):
            raise Tampered(None, "checkpoint.retired")
    raise Unverifiable("unknown_key", origin=head.origin)


def check_places(head, stream):
    list_is_signed = (stream.listed.size, stream.listed.root()) == (head.size, head.root)
    if list_is_signed and stream.changed is not None:
        raise Tampered(stream.changed, "leaf.changed")
    if stream.failure:
        raise Tampered(*stream.failure)
    if stream.n != head.size:
        raise Tampered(min(stream.n, head.size), "tail")
    if stream.tree.root() != head.root:
        raise Tampered(None, "root")
    if not list_is_signed:
        raise Tampered(None, "leaf.list")
    if stream.seen_differs:
        raise Tampered(None, "seen.root")


def parse_proof(lines):
    proof = [unbase64(line) for line in lines]
    need(len(proof) <= MAX_HASHES and all(len(item) == 32 for item in proof))
    return proof


def split_proof(data):
    """Lines, a blank line, a note. Without a hash the blank line comes at once."""
    lines, blank, note = ("\n" + data.decode()).partition("\n\n")
    need(blank)
    return lines[1:].split("\n") if lines else [], note.encode()


def check_later(data, head, accepted, trust):
    if data is None:
        return None

    def require(condition, code):
        if not condition:
            raise Tampered(None, "later." + code)
    try:
        lines, note = split_proof(data)
        proof, later = parse_proof(lines), Head(note)
    except ValueError:
        raise Tampered(None, "later.malformed")
    require(later.origin == head.origin, "origin")
    require(later.size >= head.size, "size")
    signed = [later.signed(key) for key in accepted]
    require(False not in signed, "signature")
    if True not in signed:
        return None
    require(consistent(head.size, head.root, later.size, later.root, proof), "consistency")
    return {"size": later.size, "names": list(times_of(later, trust.witnesses))}


def check_cosignatures(head, stream, trust):
    try:
        archives = times_of(head, trust.archives, "cosignature.signature")
        names = stream.cosigned(head, "cosignature.signature", "cosignature.order")
    except Failure as failure:
        raise Tampered(None, *failure.args)
    return names, archives


def check_receipt(data, head, trust):
    """What the collector's log says of this head, and who cosigned that log."""
    if data is None or trust.collector is None:
        return None, {}

    def require(condition, code):
        if not condition:
            raise Tampered(None, "receipt." + code)
    try:
        (title, extra, index, *lines), note = split_proof(data)
        need(title == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index.startswith("index "))
        leaf, index, proof = unbase64(extra[6:]), decimal(index[6:]), parse_proof(lines)
        entry, log = parse_entry(leaf), Head(note)
        need(index < log.size)
    except ValueError:
        raise Tampered(None, "receipt.malformed")
    signed = log.signed(trust.collector)
    if signed is None:
        return None, {}
    require(log.origin == trust.collector.name, "origin")
    require(signed, "signature")
    try:
        outside = times_of(log, trust.witnesses, "signature")
    except Failure as failure:
        require(False, *failure.args)
    detail = entry.get("detail", {})
    require(entry["kind"] == "frontier.accepted" and detail.get("origin") == head.origin
            and same(detail.get("size"), head.size) and detail.get("root") == head.root.hex(), "head")
    require(included(sha256(b"\0", leaf), index, log.size, proof, log.root), "inclusion")
    return {"leaf": index, "size": log.size, "names": list(outside)}, outside


def report(head, stream, trust, key, names, archives, logged, later):
    keys, current = [], key.vkey
    for turn in reversed(stream.rotations + [stream.pending] * bool(stream.pending)):
        if turn.key.vkey == current:
            size = head.size if turn.size is None else turn.size
            keys.insert(0, {"key": current, "from": size, "leaf": turn.leaf})
            current = turn.old
    keys.insert(0, {"key": current, "from": stream.first, "leaf": None})

    erased = stream.missing.common(stream.erased)
    unseen_payloads = stream.missing.total() + stream.forgotten - erased
    separate = stream.isolations == [True] and not stream.withheld
    same_host = [name for name in names if name in trust.same_host]
    exposure = exposure_of(stream, names)
    chain = stream.chain.hex() if stream.chain_known else None
    doubts = [
        (True, "truth"), (True, "unseen"), (stream.withheld, "withheld"), (True, "software_key"),
        (not separate, "shared"),
        (True, "no_witness" if not names else "same_host" if len(same_host) == len(names) else "collusion"),
        (logged is None, "not_logged"), (chain is None, "chain"), (names and exposure is None, "exposure"),
        (any(not stream.first <= size <= head.size for size, _ in stream.seen), "seen"),
        (stream.overflow, "erasures"),
    ]
    return {
        "verdict": "verified", "origin": head.origin, "from": stream.first, "size": head.size, "root": head.root.hex(),
        "chain": chain, "keys": keys, "integrity": "signed", "key": "software",
        "isolation": "separate" if separate else "shared",
        "witness": {"names": list(names), "same_host": same_host}, "archive": {"names": list(archives)},
        "complete": bool(not stream.withheld and not erased and not unseen_payloads and archives
                         and stream.last_kind == "batch.sealed"),
        "logged": logged, "later": later,
        "cosignatures": {name: {"heads": heads, "first": stream.times[name][0], "last": stream.times[name][-1]}
                         for name, heads in stream.heads.items()},
        "exposure_s": exposure, "witnessed_at": max((times[-1] for times in names.values()), default=None),
        "leaves": {"here": stream.here, "withheld": stream.withheld},
        "payloads": {"here": stream.payloads, "withheld": unseen_payloads, "erased": erased},
        "events": dict(stream.events), "sessions": stream.sessions, "sessions_more": stream.sessions_more,
        "redactions": stream.redactions, "filtered": dict(stream.filtered), "custody": stream.custody,
        "gaps": stream.gaps, "not_proven": [code for holds, code in doubts if holds],
    }


def exposure_of(stream, names):
    """The longest time in which a leaf of this bundle waited for the best of its witnesses."""
    found = []
    for name in names:
        begin = stream.begins.get(name, stream.first_time)
        if begin is not None:
            times = [begin, *stream.times[name]]
            found.append(max(0, *(b - a for a, b in zip(times, times[1:]))))
    return min(found, default=None)


def main():
    def refuse(message):
        print("verify.py: %s" % message, file=sys.stderr)
        sys.exit(64)
    parser = argparse.ArgumentParser(description="Verifies a Jurat bundle.")
    parser.error = refuse
    parser.add_argument("bundle")
    parser.add_argument("--trust")
    parser.add_argument("--now", default="clock", help="seconds since 1970, or none: times are not checked")
    options = parser.parse_args()
    try:
        now = {"clock": int(time.time()), "none": None}.get(options.now, options.now)
        now = now if now is None else int(now)
        trust = None
        if options.trust:
            with open(options.trust, "rb") as file:
                trust = Trust(file.read(MIB + 1))
        if not check_openssl():
            refuse("the openssl program does not verify Ed25519 as RFC 8032 says; version 3 does")
        with open(options.bundle, "rb") as file:
            verdict = verify(file, trust, now)
    except (Tampered, Unverifiable) as failure:
        verdict = failure.verdict
    except (OSError, ValueError, TrustError) as failure:
        refuse(failure)
    print(json.dumps(verdict, sort_keys=True, indent=2))
    sys.exit({"verified": 0, "tampered": 1, "unverifiable": 2}[verdict["verdict"]])


if __name__ == "__main__":
    main()
