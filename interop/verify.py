#!/usr/bin/env python3
"""Verifies a Jurat bundle. Written from docs/formats/ alone: the standard library and the openssl program do the rest.

    verify.py BUNDLE [--trust FILE] [--now SECONDS|none]

Prints the verdict of docs/formats/verdict.md. Exit 0 verified, 1 tampered, 2 unverifiable or not to be read, 64 wrong usage.
"""
import argparse
import base64
import bisect
import collections
import datetime
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time

KIB, MIB, U64 = 1 << 10, 1 << 20, 1 << 64
SMALL, PART = 128 * KIB, 3 * MIB + 68 * KIB  # members of text, members of parts
MAX_NOTE, MAX_LINES, MAX_HASHES = 128 * KIB, 64, 64
MAX_ENTRY, MAX_FIELDS, MAX_DEPTH = 16384, 256, 127
MAX_BODY, MAX_LEAVES = MIB + 4 * KIB, 32768  # of one record
MAX_SESSIONS, MAX_RUNS, MAX_BOOTS, MAX_ROTATIONS = 100_000, 100_000, 10_000, 256
MAX_LISTED = 1000  # gaps, sessions and names that the report has one by one
FUTURE_S = 300  # clocks of witnesses may run ahead that much


class Tampered(Exception):
    def __init__(self, check, seq=None):
        self.check, self.seq = check, seq
        self.verdict = {"verdict": "tampered", "seq": seq, "check": check}


class Unverifiable(Exception):
    def __init__(self, reason, **more):
        self.verdict = dict(verdict="unverifiable", reason=reason, **more)


class TrustError(Exception):
    pass


def not_a_bundle(check):
    return Unverifiable("not_a_bundle", check=check)


def require(holds, check, seq=None):
    if not holds:
        raise Tampered(check, seq)


def need(holds):
    """While bytes are read: what does not hold makes them malformed."""
    if not holds:
        raise ValueError


def parsed(read, data, check):
    try:
        return read(data)
    except ValueError:
        raise Tampered(check)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def split(data):
    return [data[i:i + 32] for i in range(0, len(data), 32)]


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text)  # no second spelling of the same bytes
    return raw


def decimal(text):
    need(re.fullmatch("0|[1-9][0-9]{0,19}", text) and int(text) < U64)
    return int(text)


# --- JSON by RFC 8259 to the letter, and entries ---------------------------------------------------------------------


def strict_json(data):
    def fields(pairs):
        found = dict(pairs)
        need(len(found) == len(pairs) <= MAX_FIELDS)  # a field twice means two things to two readers
        return found

    def fraction(text):
        need(abs(float(text)) != float("inf"))
        return float(text)

    def integer(text):  # what is no 64 bit integer is a float to most readers; so is -0
        fits = text != "-0" and len(text) <= 20 and -(1 << 63) <= int(text) < U64
        return int(text) if fits else fraction(text)

    def walk(value, depth):
        if isinstance(value, str):
            value.encode()  # a lone surrogate escape cannot be encoded
        elif isinstance(value, (dict, list)):
            need(depth <= MAX_DEPTH)
            for inner in [*value, *value.values()] if isinstance(value, dict) else value:
                walk(inner, depth + 1)

    try:
        value = json.loads(data.decode(), object_pairs_hook=fields, parse_float=fraction, parse_int=integer,
                           parse_constant=lambda _: need(False))
        walk(value, 1)
        return value
    except RecursionError:
        raise ValueError


def u64(value):
    return type(value) is int and 0 <= value < U64


def string(value):
    return isinstance(value, str)


def commitment(*more):
    """A check of `raw` or `context`: sha256, len, perhaps numbers more, and nothing else."""
    def check(value):
        return (isinstance(value, dict) and {"sha256", "len"} <= set(value) <= {"sha256", "len", *more}
                and string(value["sha256"]) and bool(re.fullmatch("[0-9a-f]{64}", value["sha256"]))
                and all(u64(value[name]) for name in value if name != "sha256"))
    return check


def salt(value):
    return string(value) and bool(re.fullmatch("[A-Za-z0-9_-]{22}", value))


def name(value):
    return string(value) and len(value.encode()) <= 128


REQUIRED = {"v": u64, "salt": salt, "seq": u64, "boot": name, "time": name, "kind": name}
OPTIONAL = {"session": name, "session_seq": u64, "session_run": u64, "of": u64, "raw": commitment(), "context": commitment("redactions")}
# A SIEM line is an entry with these added; an entry that had one itself could pass for another.
RESERVED = {"device", "leaf_hash", "chain_hash", "prev_chain_hash", "sink_seq", "batch", "judged", "full_context"}


def parse_entry(data):
    need(len(data) <= MAX_ENTRY and min(data, default=0) >= 0x20 and data.startswith(b'{"v":') and data.endswith(b"}"))
    entry = strict_json(data)
    need(not RESERVED & set(entry) and set(REQUIRED) <= set(entry) and entry["v"] == 1)
    need(all(is_(entry[name]) for name, is_ in {**REQUIRED, **OPTIONAL}.items() if name in entry))
    if not isinstance(entry.get("detail"), dict):
        entry["detail"] = {}
    return entry


# --- Keys and notes --------------------------------------------------------------------------------------------------

ED25519, ECDSA, COSIGNATURE = 1, 2, 4
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
P256_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
P = 2**255 - 19
ORDER8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = (1, P - 1, 0, ORDER8, P - ORDER8)  # y of the points of order 1, 2, 4 and 8: their signatures prove nothing
Q = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

Key = collections.namedtuple("Key", "name id type raw vkey")


def check_name(name):
    need(name and len(name) and "+" not in name and not any(c.isspace() and c not in "\x1c\x1d\x1e\x1f" for c in name))


def parse_key(text, *types):
    name, hint, rest = text.split("+", 2)
    blob = unbase64(rest)
    need(len(name.encode()) <= 512 and blob and blob[0] in types)
    check_name(name)
    raw, key_id = blob[1:], sha256(name.encode(), b"\n", blob)[:4]
    if blob[0] == ECDSA:
        x, y = int.from_bytes(raw[-64:-32], "big"), int.from_bytes(raw[-32:], "big")
        need(len(raw) == len(P256_SPKI) + 64 and raw.startswith(P256_SPKI))
        need(x < Q and y < Q and (y * y - x * x * x + 3 * x - B) % Q == 0)
        key_id = sha256(raw)[:4]
    else:
        y = int.from_bytes(raw, "little") & (1 << 255) - 1
        need(len(raw) == 32 and y < P and y not in SMALL_ORDER)
    need(hint == key_id.hex())
    return Key(name, key_id, blob[0], raw, text)


@functools.lru_cache(maxsize=4096)
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
        command += ["-digest", "sha256"] if key.type == ECDSA else []
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
        self.text, self.lines = text + "\n", []
        for line in signatures[:-1].split("\n"):
            dash, name, blob = line.split(" ")
            check_name(name)
            raw = unbase64(blob)
            need(dash == "\u2014" and len(raw) > 4)
            self.lines.append((name, raw[:4], raw[4:]))
        self.origin, size, root = text.split("\n")
        self.size, self.root = decimal(size), unbase64(root)
        need(len(self.lines) <= MAX_LINES and self.origin and len(self.root) == 32 and self.size < 1 << 63)

    def time(self, key, check):
        """When this key signed, None when it did not; a bad line of it is Tampered(check)."""
        times = [signed_at(key, self.text, blob, check) for name, key_id, blob in self.lines if (name, key_id) == (key.name, key.id)]
        return max(times, default=None)


def signed_at(key, message, blob, check):
    """When this key signed a note's text: 0 for a key that gives no time."""
    when = 0
    if key.type == COSIGNATURE:
        when, blob = int.from_bytes(blob[:8], "big"), blob[8:]
        message = "cosignature/v1\ntime %d\n%s" % (when, message)
    good = when < 1 << 63 and (key.type == ECDSA or len(blob) == 64)
    require(good and openssl(key, message.encode(), blob), check)
    return when


def signers(head, keys, check):
    return [key for key, when in [(key, head.time(key, check)) for key in keys] if when is not None]


def times_of(head, cosigners, check):
    """The time of each cosigner that cosigned."""
    times = {name: head.time(key, check) for name, key in cosigners.items()}
    return {name: when for name, when in times.items() if when is not None}


# --- The trust file --------------------------------------------------------------------------------------------------


class Trust:
    def __init__(self, data):
        self.logs, self.revoked, self.seen, self.same_host = [], [], [], []
        self.witnesses, self.archives, self.groups, self.rules, self.collector = {}, {}, {}, {}, None
        number = 1
        try:
            need(len(data) <= MIB)
            for number, line in enumerate(data.decode().replace("\r\n", "\n").split("\n"), 1):
                words = re.findall("[^ \t]+", re.sub("(^|[ \t])#.*", "", line))
                if words:
                    self.statement(*words)
        except (ValueError, TypeError):
            raise TrustError("trust file, line %d: refused" % number)

    def is_member(self, name):
        return name in self.witnesses or name in self.groups

    def statement(self, word, *rest):
        if word in ("log", "collector"):
            text, = rest
            key = parse_key(text, ED25519, ECDSA)
            if word == "log":
                self.logs.append(key)
            else:
                need(self.collector is None)
                self.collector = key
        elif word in ("witness", "archive"):
            name, text = rest
            key = parse_key(text, COSIGNATURE)
            those = self.witnesses if word == "witness" else self.archives
            need(name not in those and key.raw not in [other.raw for other in those.values()])
            need(word == "archive" or self.is_new(name))
            those[name] = key
        elif word == "group":
            name, count, *members = rest
            k = 1 if count == "any" else len(members) if count == "all" else decimal(count)
            need(self.is_new(name) and all(map(self.is_member, members)))
            need(len(set(members)) == len(members) and 1 <= k <= len(members))
            self.groups[name] = (k, members)
        elif word in ("quorum", "outside"):
            rule, = rest
            need(word not in self.rules)
            need(rule == "none" or self.is_member(rule) or 1 <= decimal(rule) <= len(self.witnesses))
            self.rules[word] = rule
        elif word == "same-host":
            name, = rest
            need(name in self.witnesses)
            self.same_host.append(name)
        elif word == "seen":
            origin, size, root = rest
            need(re.fullmatch("[0-9a-f]{64}", root) and decimal(size) > 0)
            self.seen.append((origin, decimal(size), bytes.fromhex(root)))
        elif word == "revoked":
            text, leaf = rest
            self.revoked.append((parse_key(text, ED25519, ECDSA), decimal(leaf)))
        else:
            raise ValueError

    def is_new(self, name):
        return not self.is_member(name) and name != "none" and not re.fullmatch("[0-9]+", name)

    def agrees(self, rule, names):
        """Whether these witnesses are enough for `quorum` or `outside`."""
        def has(member):
            if member in self.witnesses:
                return member in names
            k, members = self.groups[member]
            return sum(map(has, members)) >= k
        wanted = self.rules.get(rule, "none")
        return wanted == "none" or (has(wanted) if self.is_member(wanted) else len(names) >= int(wanted))


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
        return functools.reduce(lambda right, left: node(left, right), reversed(self.roots)) if self.roots else sha256()


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
    proof = proof if old & (old - 1) else [old_root] + proof
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
    """Members one after the other; `name` and `size` are those of the next one, None at the end."""

    def __init__(self, file):
        self.file = file
        self.next()

    def read(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise not_a_bundle("bundle.cut")
        return data

    def next(self):
        def octal(field):
            digits = re.match(rb"([0-7]+)[ \0]", field)
            return int(digits[1], 8) if digits else -1
        block = self.read(512)
        self.name = self.size = None
        if any(block):
            self.name, self.size = block[:100].split(b"\0")[0], octal(block[124:136])
            total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
            if octal(block[148:156]) != total or self.size < 0 or block[156:157] != b"0" or block[345]:
                raise not_a_bundle("bundle.layout")

    def body(self, name, limit):
        """The bytes of the next member, which must be `name`."""
        if self.name != name.encode():
            raise not_a_bundle("bundle.layout")
        if self.size > limit:
            raise not_a_bundle("bundle.limit")
        data = self.read(self.size + -self.size % 512)[:self.size]
        self.next()
        return data


def read_manifest(data):
    try:
        manifest = strict_json(data)
        need(isinstance(manifest, dict) and set(manifest) | {"session"} == {"format", "v", "origin", "from", "size", "session"})
        need(manifest["format"] == "jurat-bundle" and u64(manifest["v"]) and manifest["v"] == 2)
        need(string(manifest["origin"]) and u64(manifest["from"]) and u64(manifest["size"]))
        need(manifest.get("session") is None or string(manifest["session"]))
        return manifest
    except ValueError:
        raise not_a_bundle("bundle.manifest")


# --- What a TPM says -------------------------------------------------------------------------------------------------

RSA, ECC, AES, CFB, NULL, SHA1, SHA256, P256, P384 = 1, 0x23, 6, 0x43, 0x10, 4, 0xb, 3, 4
RSASSA, RSAES, RSAPSS, OAEP, ECDSA_SCHEME = 0x14, 0x15, 0x16, 0x17, 0x18
HASHES = {SHA1: hashlib.sha1, SHA256: hashlib.sha256, 0xc: hashlib.sha384, 0xd: hashlib.sha512}
NV, CERTIFY, QUOTE, TIME = 0x8014, 0x8017, 0x8018, 0x8019
FIXED_TPM, RESTRICTED, DECRYPT, SIGN = 1 << 1, 1 << 16, 1 << 17, 1 << 18
SIGNS = FIXED_TPM | 1 << 4 | 1 << 5 | SIGN  # fixedParent and sensitiveDataOrigin, too
PCRS = [*range(10), 14]
MAX_HEADS = 256  # that a quote may lie behind, and quotes that wait for a cosigned head
STATUS = ["none", "affirming", "warning", "contraindicated"]
WARNINGS = {"quote.firmware", "quote.pcrs", "quote.missed"}

Public = collections.namedtuple("Public", "name attributes scheme point")
Attest = collections.namedtuple("Attest", "kind extra clock says")
Clock = collections.namedtuple("Clock", "ms resets restarts safe firmware")


class Wire:
    """Big-endian integers and sized buffers, to the last byte."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        need(count <= len(self.data))
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def number(self, count):
        return int.from_bytes(self.take(count), "big")

    def sized(self):
        count = self.number(2)
        need(count <= 4096)
        return self.take(count)

    def hash(self):
        alg = self.number(2)
        need(alg in HASHES)
        return alg

    def end(self, value):
        need(not self.data)
        return value


def read_public(data):
    """TPMT_PUBLIC of an RSA or ECC key."""
    wire, point = Wire(data), None
    kind, alg, attributes, _ = wire.number(2), wire.hash(), wire.number(4), wire.sized()
    need(kind in (RSA, ECC))
    symmetric = wire.number(2)  # of a parent
    need(symmetric == NULL or symmetric == AES and wire.take(2) and wire.number(2) == CFB)
    scheme = [wire.number(2)]
    if scheme[0] not in (NULL, RSAES):
        need(scheme[0] in (RSASSA, RSAPSS, OAEP, ECDSA_SCHEME))
        scheme.append(wire.hash())
    if kind == RSA:
        bits, _, modulus = wire.number(2), wire.number(4), wire.sized()
        need(len(modulus) * 8 == bits and 2048 <= bits <= 4096)
    else:
        curve, derivation, x, y = wire.number(2), wire.number(2), wire.sized(), wire.sized()
        need(derivation == NULL and max(len(x), len(y)) <= {P256: 32, P384: 48}.get(curve, -1))
        point = x.rjust(32, b"\0") + y.rjust(32, b"\0") if curve == P256 else None
    name = alg.to_bytes(2, "big") + HASHES[alg](data).digest()
    return wire.end(Public(name, attributes, scheme, point))


def read_signature(data):
    """TPMT_SIGNATURE: r and s, or None when it is another than ECDSA with SHA-256."""
    wire = Wire(data)
    scheme, alg = wire.number(2), wire.hash()
    need(scheme in (RSASSA, ECDSA_SCHEME))
    numbers = [wire.sized() for _ in range(1 if scheme == RSASSA else 2)]
    fits = (scheme, alg) == (ECDSA_SCHEME, SHA256) and max(map(len, numbers)) <= 32
    return wire.end(numbers if fits else None)


def attests(ak, message, numbers):
    def der(tag, body):
        return bytes([tag, len(body)]) + body
    numbers = [int.from_bytes(number, "big") for number in numbers or []]
    both = b"".join(der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers)
    return both != b"" and openssl(Key("", b"", ECDSA, P256_SPKI + ak.point, ""), message, der(0x30, both))


def read_attest(data):
    """TPMS_ATTEST."""
    def clock():
        found = Clock(wire.number(8), wire.number(4), wire.number(4), wire.number(1), wire.number(8))
        need(found.safe < 2)
        return found

    def bank():
        alg, size = wire.hash(), wire.number(1)
        need(size <= 4)
        return alg, int.from_bytes(wire.take(size), "little")

    def banks():
        count = wire.number(4)
        need(count <= 16)
        return [bank() for _ in range(count)]
    wire = Wire(data)
    need(wire.take(4) == b"\xffTCG")
    kind, _, extra, now = wire.number(2), wire.sized(), wire.sized(), clock()
    if kind == NV:
        says = wire.sized(), wire.number(2), wire.sized()
    elif kind == CERTIFY:
        says = wire.sized(), wire.sized()
    elif kind == QUOTE:
        says = banks(), wire.sized()
    else:
        need(kind == TIME)
        says = wire.number(8), clock()
    return wire.end(Attest(kind, extra, now, says))


def blob(value):
    need(string(value))
    return unbase64(value)


def has_fields(value, *names):
    need(isinstance(value, dict) and set(value) == set(names))


def read_evidence(data, origin):
    """The attestation key, and the point of the log's key, of which it says that it is in the same TPM."""
    def is_key(public, *schemes, bits=SIGNS):
        mask = SIGNS | RESTRICTED | DECRYPT
        need(public.attributes & mask == bits and public.name[1] != SHA1 and public.point and public.scheme in schemes)

    def certified(key):
        has_fields(key, "public", "attest", "signature")
        public, attest = read_public(blob(key["public"])), blob(key["attest"])
        is_key(public, [NULL], [ECDSA_SCHEME, SHA256])
        need(attests(ak, attest, read_signature(blob(key["signature"]))))
        said = read_attest(attest)
        need(said.kind == CERTIFY and said.says[0] == public.name)
        need(said.extra == sha256(b"jurat/certify/v1\0", device.encode()))
        return public.point
    shown = strict_json(data)
    has_fields(shown, "ek", "ak", "log", "tls", *["ek_certificates"] * ("ek_certificates" in shown))
    certificates = shown.get("ek_certificates", [])
    need(isinstance(certificates, list) and len(certificates) <= 8 and all(len(blob(der)) <= 8 * KIB for der in certificates))
    device, _ = origin.split("/")[-2:]
    ek, ak = read_public(blob(shown["ek"])), read_public(blob(shown["ak"]))
    usage = FIXED_TPM | RESTRICTED | DECRYPT
    need(ek.attributes & usage == usage)
    is_key(ak, [ECDSA_SCHEME, SHA256], bits=SIGNS | RESTRICTED)
    point, _ = certified(shown["log"]), certified(shown["tls"])
    return ak, point


def read_quote(detail):
    """The form alone: everything else is judged."""
    def head(of):
        need(u64(of.get("size")) and string(of.get("root")) and re.fullmatch("[0-9a-f]{64}", of["root"]))
        return of["size"], bytes.fromhex(of["root"])
    after, counter, pcrs = detail.get("after"), detail.get("counter"), detail.get("pcrs")
    need(all(value is None or isinstance(value, dict) for value in (after, counter)))
    if after is not None:
        need(string(after.get("by")))
        after = *head(after), after["by"], blob(after.get("cosignature"))
    if counter is not None:
        counter = blob(counter.get("attest")), blob(counter.get("signature"))
    need(isinstance(pcrs, dict) and all(isinstance(bank, dict) and all(map(string, bank.values())) for bank in pcrs.values()))
    pcrs = {name: {decimal(pcr): value for pcr, value in bank.items()} for name, bank in pcrs.items()}
    need(all(pcr < 256 for bank in pcrs.values() for pcr in bank))
    return *head(detail), after, blob(detail.get("attest")), blob(detail.get("signature")), pcrs, counter


class Quotes:
    """What the quotes of a log say, one after the other."""

    def __init__(self, evidence, origin, trust):
        self.ak, self.point = read_evidence(evidence, origin)
        self.origin, self.cosigners = origin, [*trust.witnesses.values(), *trust.archives.values()]
        self.heads, self.waiting = collections.deque(maxlen=MAX_HEADS), []
        self.clock = self.values = self.counter = None  # of the last one that counts
        self.status, self.good, self.bad, self.undated, self.reboots = 0, 0, 0, 0, 0
        self.size, self.window, self.findings = None, None, []

    def head(self, size, root, times):
        if not self.heads or self.heads[-1][0] != size:
            self.heads.append((size, root))
        if times:
            for _, after in [quote for quote in self.waiting if quote[0] < size]:
                self.window = max(self.window or 0, min(times) - after)
            self.waiting = [quote for quote in self.waiting if quote[0] >= size]

    def take(self, seq, detail):
        findings = []
        try:
            after = self.judge(detail, findings)
            self.good += 1
            if after is None or len(self.waiting) >= MAX_HEADS:
                self.undated += 1
            else:
                self.waiting.append((seq, after))
            status = 2 if findings else 1
        except Tampered as found:
            self.bad += 1
            findings, status = [found.check], 3
        self.status = max(self.status, status)
        self.findings += [[seq, code] for code in findings][:MAX_LISTED - len(self.findings)]

    def judge(self, detail, warnings):
        """When it was made at the earliest, if it says."""
        size, root, after, attest, signature, pcrs, counter = parsed(read_quote, detail, "quote.malformed")
        values = pcrs.get("sha256", {})
        require(set(pcrs) <= {"sha256"} and set(values) <= set(PCRS)
                and all(re.fullmatch("[0-9a-f]{64}", value) for value in values.values()), "quote.values")
        numbers = parsed(read_signature, signature, "quote.malformed")
        require(attests(self.ak, attest, numbers), "quote.signature")
        said = parsed(read_attest, attest, "quote.malformed")
        require(said.kind == QUOTE, "quote.type")
        nonce = sha256(b"jurat/nonce/v1\0", after[3]) if after else bytes(32)
        extra = sha256(b"jurat/quote/v1\0", self.text(size, root).encode(), nonce)
        require(said.extra == extra, "quote.qualifying")
        selection, digest = said.says
        require(selection == [(SHA256, sum(1 << pcr for pcr in PCRS))], "quote.selection")
        require(len(values) == len(PCRS) and digest == sha256(*[bytes.fromhex(values[pcr]) for pcr in PCRS]), "quote.values")
        known = bool(self.heads) and size >= self.heads[0][0]
        require(not known or (size, root) in self.heads, "quote.head")
        when = self.time(*after) if after else None
        now, old = said.clock, self.clock or said.clock
        rebooted = now.resets > old.resets
        forward = now.ms > old.ms or not self.clock or rebooted and (now.ms == old.ms or not now.safe)
        require(now.resets >= old.resets and forward and (rebooted or now.restarts >= old.restarts), "quote.clock")
        if now.firmware != old.firmware:
            warnings.append("quote.firmware")
        if self.clock and not rebooted and values != self.values:
            warnings.append("quote.pcrs")
        if counter:
            index, value = parsed(lambda counter: self.count(*counter, extra), counter, "quote.counter")
            if self.counter:
                require(index == self.counter[0] and value > self.counter[1], "quote.counter")
                if value > self.counter[1] + 1:
                    warnings.append("quote.missed")
            self.counter = index, value
        self.clock, self.values = now, values
        self.size = max(size, self.size or 0) if known else self.size
        self.reboots += rebooted
        return when

    def text(self, size, root):
        return "%s\n%d\n%s\n" % (self.origin, size, base64.b64encode(root).decode())

    def time(self, size, root, by, cosignature):
        key = next((key for key in self.cosigners if key.name == by), None)
        require(key, "quote.after")
        return signed_at(key, self.text(size, root), cosignature, "quote.after")

    def count(self, attest, signature, extra):
        need(attests(self.ak, attest, read_signature(signature)))
        said = read_attest(attest)
        need(said.kind == NV and said.extra == extra)
        index, offset, value = said.says
        need(offset == 0 and len(value) == 8)
        return index, int.from_bytes(value, "big")

    def report(self):
        return {"status": STATUS[self.status], "good": self.good, "bad": self.bad, "undated": self.undated + len(self.waiting),
                "size": self.size, "reboots": self.reboots, "window_s": self.window, "findings": self.findings}


# --- The stream of records -------------------------------------------------------------------------------------------

GAPS = {"agent.started", "agent.stopped", "transcript.truncated", "transcript.rewritten", "transcript.deleted",
        "clock.stepped", "ledger.full", "dead.letter", "source.failed", "payload.erased", "ledger.pruned", "key.rotated"}
STATES = {"log.opened", "agent.started", "batch.sealed"}  # kinds that state isolation and custody

Rotation = collections.namedtuple("Rotation", "old key leaf")


class Runs:
    """Ranges of leaves [begin, end): so many are remembered."""

    def __init__(self):
        self.runs, self.full = [], False

    def add(self, begin, end):
        if len(self.runs) < MAX_RUNS:
            self.runs.append([begin, end])
        else:
            self.full = True

    def common(self, others):
        """How many leaves are in these, which are in order, and in any of the others."""
        merged, total = [], 0
        for begin, end in sorted(others.runs):
            if merged and merged[-1][1] >= begin:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        ends = [end for _, end in merged]
        for begin, end in self.runs:
            for i in range(bisect.bisect_right(ends, begin), len(merged)):
                if merged[i][0] >= end:
                    break
                total += min(end, ends[i]) - max(begin, merged[i][0])
        return total


def tally(counts, name, number):
    name = name if name in counts or len(counts) < MAX_LISTED else "(others)"
    counts[name] = min(counts.get(name, 0) + number, U64 - 1)


def same(value, number):
    return u64(value) and value == number


def seconds(text):
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d).*Z", text, re.ASCII | re.DOTALL)
    try:
        return max(0, int(datetime.datetime(*map(int, match.groups()), tzinfo=datetime.timezone.utc).timestamp()))
    except (AttributeError, ValueError):
        return 0


class Stream:
    def __init__(self, trust, origin, first, prefix, quotes):
        self.trust, self.origin, self.first, self.n = trust, origin, first, first
        self.quotes = quotes
        chain, *roots = split(prefix) if first else [sha256(b"jurat/chain/v1\0", origin.encode())]
        self.chain, self.chain_known = chain, first == 0
        self.tree, self.listed = Tree(first, roots), Tree(first, roots)
        self.seen = {}  # roots that the log had, as the leaf hashes give them
        self.failure = self.changed = None
        self.keys = [key for key in trust.logs if key.name == origin]
        self.rotations, self.retired, self.pending = [], {}, None
        self.times, self.begins = {name: [] for name in trust.witnesses}, {}
        self.first_time = self.last_kind = self.boot = None
        self.boots, self.isolations, self.custody = set(), set(), False
        self.batch_from = first if first == 0 else None  # None: the count is not known
        self.open, self.sessions, self.sessions_more = {}, {}, 0  # open: next number, and after how many hash records
        self.hash_records, self.runs_unseen = 0, False
        self.runs = {}  # of the listed sessions: how many, and after how many hash records the last leaf came
        self.waiting = None  # the context of the last leaf, when its payload did not come yet
        self.here, self.withheld, self.payloads, self.lacking = 0, 0, 0, 0
        self.missing, self.erased = Runs(), Runs()
        self.events, self.filtered, self.redactions, self.gaps = {}, {}, 0, []
        self.look()

    def accepted(self):
        return [key for key in self.keys if key.vkey not in self.retired]

    def look(self):
        if any(size == self.listed.size and origin == self.origin for origin, size, _ in self.trust.seen):
            self.seen[self.listed.size] = self.listed.root()

    def part(self, hashes, records):
        self.list, self.part_from = iter(list(enumerate(split(hashes), self.listed.size))), self.n
        for leaf in split(hashes):
            self.listed.add(leaf)
            self.look()
        at, kinds = 0, (self.entry, self.payload, self.checkpoint, self.leaves)
        try:
            while at < len(records) and not self.failure:
                kind, length = records[at], int.from_bytes(records[at + 1:at + 5], "little")
                body = records[at + 5:at + 5 + length]
                need(len(records) - at >= 5 and 1 <= kind <= 4 and length <= MAX_BODY and len(body) == length)
                kinds[kind - 1](body)
                at += 5 + length
        except ValueError:
            self.failure = Tampered("record.framing", self.n)
        except Tampered as failure:
            self.failure = Tampered(failure.check, self.n if failure.seq is None else failure.seq)

    def compare(self, leaf):
        """The list only helps to name a place, so a difference is noted and not yet a failure."""
        at, listed = next(self.list, (None, None))
        require(at is not None, "leaf.unlisted")
        if listed != leaf and self.changed is None:
            self.changed = at

    def grow(self, leaf):
        self.tree.add(leaf)
        self.chain = sha256(b"\x02", self.chain, leaf)
        self.n += 1

    def gap(self, what):
        if len(self.gaps) < MAX_LISTED:
            self.gaps.append([self.n, what])

    def entry(self, body):
        leaf = sha256(b"\0", body)
        self.compare(leaf)
        self.settle()
        entry = parsed(parse_entry, body, "entry.malformed")
        kind, detail = entry["kind"], entry["detail"]
        require(entry["seq"] == self.n, "entry.seq")
        require(self.n > 0 or kind == "log.opened" and detail.get("origin") == self.origin, "entry.opening")
        if "session" in entry and "session_seq" in entry:
            self.session(entry["session"], entry["session_seq"], entry.get("session_run"), kind, detail)
        if kind == "batch.sealed":
            require(self.batch_from is None or same(detail.get("count"), self.n - self.batch_from), "batch.count")
            require(detail.get("chain") == self.chain.hex(), "batch.chain")
            self.batch_from, self.chain_known = self.n + 1, True
        if kind == "key.rotated":
            require(not self.pending, "rotation.pending")
            self.pending = self.rotation(detail)
            require(len(self.rotations) < MAX_ROTATIONS, "rotation.many")
        self.count(entry, kind, detail)
        self.waiting, self.last_kind = entry.get("context"), kind
        self.here += 1
        self.grow(leaf)

    def session(self, name, number, run, kind, detail):
        begins = name not in self.open
        expected, after = self.open.get(name, (0, 0))
        unseen = after < self.hash_records or begins and self.first > 0
        require(number == expected or unseen, "session.gap")
        self.runs_unseen |= unseen and run is None
        if kind == "session.ended":
            require(same(detail.get("count"), number + 1), "session.count")
            self.open.pop(name, None)
        else:
            self.open[name] = (number + 1, self.hash_records)
            require(len(self.open) <= MAX_SESSIONS, "session.many")
        if name not in self.sessions and len(self.sessions) == MAX_LISTED:
            self.sessions_more += begins
            return
        listed = self.sessions.setdefault(name, {"leaves": 0, "complete": True, "ended": False})
        runs = self.runs.get(name, (0, 0))[0] + begins
        listed["leaves"] += 1
        listed["complete"] &= number == expected and (run == runs - 1 or run is None and not unseen)
        self.runs[name] = runs, self.hash_records
        listed["ended"] = kind == "session.ended"

    def may_have_more_runs(self):
        return (self.runs_unseen or self.hash_records and self.sessions_more > 0
                or any(after < self.hash_records for _, after in self.runs.values()))

    def rotation(self, detail):
        try:
            old, new = detail.get("from"), parse_key(detail.get("key"), ED25519, ECDSA)
            need(old in [key.vkey for key in self.accepted()])
            need(new.vkey != old and new.name == self.origin and new.vkey not in self.retired)
            proof = unbase64(detail.get("proof"))
            need(openssl(new, b"jurat/key-rotation/v1\0%s\0%s" % (self.origin.encode(), old.encode()), proof))
            return Rotation(old, new, self.n)
        except (ValueError, TypeError, AttributeError):
            raise Tampered("rotation")

    def count(self, entry, kind, detail):
        tally(self.events, kind, 1)
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
            self.isolations |= {detail["isolation"] == "separate"} if string(detail.get("isolation")) else set()
            self.custody |= detail.get("custody") is True
        self.redactions = min(self.redactions + entry.get("context", {}).get("redactions", 0), U64 - 1)
        if kind == "batch.sealed" and isinstance(detail.get("filtered"), dict):
            for reason, number in sorted(detail["filtered"].items(), key=lambda item: item[0]):
                if u64(number):
                    tally(self.filtered, reason, number)
        if kind == "attestation.quote" and self.quotes:
            self.quotes.take(self.n, detail)
        if kind == "payload.erased" and isinstance(detail.get("ranges"), list):
            for pair in detail["ranges"]:
                if isinstance(pair, list) and len(pair) == 2 and all(map(u64, pair)) and pair[0] < pair[1]:
                    self.erased.add(*pair)

    def settle(self):
        """The payload of the last leaf can no longer come."""
        if self.waiting:
            self.lacking += 1
            if self.missing.runs and self.missing.runs[-1][1] == self.n - 1:
                self.missing.runs[-1][1] = self.n
            else:
                self.missing.add(self.n - 1, self.n)
        self.waiting = None

    def payload(self, body):
        need(len(body) >= 32)
        at = max(self.n - 1, 0)
        require(self.waiting and self.n > self.part_from, "payload.stray", at)
        digest = sha256(b"jurat/context/v1\0", body).hex()
        require((self.waiting["len"], self.waiting["sha256"]) == (len(body) - 32, digest), "payload.commitment", at)
        self.payloads += 1
        self.waiting = None

    def checkpoint(self, body):
        head = parsed(Head, body, "head.malformed")
        require(head.origin == self.origin, "head.origin")
        require((head.size, head.root) == (self.n, self.tree.root()), "head.root")
        # The head that makes a rotation count is the old key's last one, also where it stands twice.
        keys = [key for key in self.keys if self.retired.get(key.vkey, self.n) == self.n]
        require(signers(head, keys, "head.signature"), "head.key")
        if self.pending:
            self.retired[self.pending.old] = self.n
            if self.pending.key.vkey not in [key.vkey for key in self.keys]:
                self.keys.append(self.pending.key)
            self.rotations.append((self.pending, self.n))
            self.pending = None
        found = self.watch(head, "head.cosignature", "head.order")
        if self.n == self.first:
            self.begins = {**found, **self.begins}

    def watch(self, head, bad, order):
        """Notes who cosigned a head, and when."""
        found = times_of(head, self.trust.witnesses, bad)
        for name, when in found.items():
            require(when >= max(self.times[name], default=0), order)
            self.times[name].append(when)
        if self.quotes:
            self.quotes.head(head.size, head.root, found.values())
        return found

    def leaves(self, body):
        place, those = int.from_bytes(body[:8], "little"), split(body[8:])
        need(len(body) % 32 == 8 and 1 <= len(those) <= MAX_LEAVES)
        for leaf in those:
            self.compare(leaf)
        require(place == self.n, "leaves.place")
        self.settle()
        self.gap("%d leaves withheld" % len(those))
        self.hash_records += 1
        self.batch_from = self.last_kind = None
        self.withheld += len(those)
        for leaf in those:
            self.grow(leaf)


# --- The verdict -----------------------------------------------------------------------------------------------------


def verify(file, trust, now):
    if trust is None:
        raise Unverifiable("no_trust")
    tar = Tar(file)
    manifest = read_manifest(tar.body("jurat.json", SMALL))
    first = manifest["from"]
    tar.body("README.md", SMALL)
    checkpoint = tar.body("checkpoint", SMALL)
    prefix = tar.body("prefix", 4 * KIB) if first else b""
    later = tar.body("later", SMALL) if tar.name == b"later" else None
    receipt = tar.body("receipt", 256 * KIB) if tar.name == b"receipt" else None
    enrolment = tar.body("enrolment", 256 * KIB) if tar.name == b"enrolment" else None
    evidence = tar.body("attestation", SMALL) if tar.name == b"attestation" else None
    if tar.name not in (None, b"hashes/000000"):
        raise not_a_bundle("bundle.layout")
    try:
        head = Head(checkpoint)
    except ValueError:
        raise not_a_bundle("note.malformed")
    if head.size == 0:
        raise not_a_bundle("checkpoint.empty")
    try:
        quotes = Quotes(evidence or b"", head.origin, trust)
    except ValueError:
        quotes = None
    stream = Stream(trust, head.origin, first, prefix or bytes(32), quotes)
    if not stream.keys:
        raise Unverifiable("unknown_origin", origin=head.origin)
    signers(head, stream.keys, "checkpoint.signature")
    require((manifest["origin"], manifest["size"]) == (head.origin, head.size), "manifest.head")
    require(first < head.size, "manifest.range")
    require(not first or len(prefix) == 32 + 32 * bin(first).count("1"), "prefix.length")

    number = 0
    while tar.name is not None:
        hashes = tar.body("hashes/%06d" % number, PART)
        if len(hashes) % 32:
            raise not_a_bundle("bundle.hashes")
        stream.part(hashes, tar.body("records/%06d" % number, PART))
        number += 1
    stream.settle()

    signer = signer_of(head, stream)
    check_places(head, stream)
    later = check_later(later, head, stream.accepted(), trust)
    later, later_root = later if later else (None, None)
    asked = trust.rules.get("quorum", "none") != "none"
    for origin, size, root in trust.seen:
        if origin == head.origin:
            same_size = later is not None and later["size"] == size
            require(not same_size or later_root == root, "seen.root")
            # What its key alone signed, a log that was rewritten can have as well.
            reached = later is not None and later["size"] > size and asked and trust.agrees("quorum", later["names"])
            if size > head.size and not same_size and not reached or size < first and not asked:
                raise Unverifiable("behind", size=size)
    archives = times_of(head, trust.archives, "cosignature.signature")
    names = stream.watch(head, "cosignature.signature", "cosignature.order")
    logged, outside = check_receipt(receipt, head, trust)
    enrolled, beside = check_enrolment(enrolment, evidence, head.origin, trust, quotes)
    for name in chain_of(signer.vkey, stream, trust):
        for key, leaf in trust.revoked:
            if key.vkey == name and not (logged and logged["leaf"] < leaf):
                raise Unverifiable("revoked", key=name)
    for of, rule, found in ("head", "quorum", names), ("receipt", "outside", outside):
        if not trust.agrees(rule, found):
            raise Unverifiable("quorum", of=of, found=sorted(found))
    latest = max([when for those in stream.times.values() for when in those] + [*archives.values(), *outside.values(), *beside.values(), 0])
    if now is not None and latest > now + FUTURE_S:
        raise Unverifiable("future", time=latest)
    return report(head, stream, trust, signer, names, archives, logged, enrolled, later)


def chain_of(last, stream, trust):
    """The signing key and, unless the trust file names it, those on whose word it counts."""
    named, chain = [key.vkey for key in trust.logs], [last]
    for turn, _ in reversed(stream.rotations):
        if last in named:
            break
        if turn.key.vkey == last:
            last = turn.old
            chain.append(last)
    return chain


def signer_of(head, stream):
    gone = [key for key in stream.keys if stream.retired.get(key.vkey, head.size) < head.size]
    signed = signers(head, [key for key in stream.keys if key not in gone], "checkpoint.signature")
    if not signed:
        require(not signers(head, gone, "checkpoint.signature"), "checkpoint.retired")
        raise Unverifiable("unknown_key", origin=head.origin)
    return signed[0]


def check_places(head, stream):
    list_is_signed = (stream.listed.size, stream.listed.root()) == (head.size, head.root)
    require(not list_is_signed or stream.changed is None, "leaf.changed", stream.changed)
    if stream.failure:
        raise stream.failure
    require(stream.n == head.size, "tail", min(stream.n, head.size))
    require(stream.tree.root() == head.root, "root")
    require(list_is_signed, "leaf.list")
    for origin, size, root in stream.trust.seen:
        require(origin != head.origin or stream.seen.get(size, root) == root, "seen.root")


def read_proof(data):
    """Lines, a blank line, a note. Without a line the blank one comes at once."""
    lines, blank, note = ("\n" + data.decode()).partition("\n\n")
    need(blank)
    return lines[1:].split("\n") if lines else [], Head(note.encode())


def read_hashes(lines):
    proof = [unbase64(line) for line in lines]
    need(len(proof) <= MAX_HASHES and all(len(item) == 32 for item in proof))
    return proof


def check_later(data, head, accepted, trust):
    def read(data):
        lines, later = read_proof(data)
        return read_hashes(lines), later
    if data is None:
        return None
    proof, later = parsed(read, data, "later.malformed")
    require(later.origin == head.origin, "later.origin")
    require(later.size >= head.size, "later.size")
    signed = signers(later, accepted, "later.signature")
    names = times_of(later, trust.witnesses, "later.signature")
    if not signed:
        return None
    require(consistent(head.size, head.root, later.size, later.root, proof), "later.consistency")
    return {"size": later.size, "names": list(names)}, later.root


def check_logged(data, trust, what, code, kind, says):
    """The `detail` of a leaf of the collector's log that says so, its place, and who cosigned that log."""
    def read(data):
        (title, extra, index, *lines), log = read_proof(data)
        need(title == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index.startswith("index "))
        leaf, index = unbase64(extra[6:]), decimal(index[6:])
        need(index < log.size)
        return leaf, parse_entry(leaf), index, read_hashes(lines), log
    if data is None or trust.collector is None:
        return None, None, {}
    leaf, entry, index, proof, log = parsed(read, data, what + ".malformed")
    if not any((name, key_id) == (trust.collector.name, trust.collector.id) for name, key_id, _ in log.lines):
        return None, None, {}
    require(log.origin == trust.collector.name, what + ".origin")
    signers(log, [trust.collector], what + ".signature")
    outside = times_of(log, trust.witnesses, what + ".signature")
    require((entry["kind"], entry["seq"]) == (kind, index) and says(entry["detail"]), code)
    require(included(sha256(b"\0", leaf), index, log.size, proof, log.root), what + ".inclusion")
    return entry["detail"], {"leaf": index, "size": log.size, "names": list(outside)}, outside


def check_receipt(data, head, trust):
    def says(detail):
        return detail.get("origin") == head.origin and same(detail.get("size"), head.size) and detail.get("root") == head.root.hex()
    _, logged, outside = check_logged(data, trust, "receipt", "receipt.head", "frontier.accepted", says)
    return logged, outside


def check_enrolment(data, evidence, origin, trust, quotes):
    """The key that was enrolled, what holds it, and what the report says of that."""
    def key_of(detail):
        try:
            need(string(detail.get("key")))
            return parse_key(detail["key"], ED25519, ECDSA, COSIGNATURE)
        except ValueError:
            return None
    detail, place, beside = check_logged(data, trust, "enrolment", "enrolment.leaf", "device.enrolled",
                                         lambda detail: detail.get("origin") == origin and key_of(detail))
    if not place:
        return None, {}
    key, kind, ek = key_of(detail), detail.get("key_kind"), detail.get("ek")
    if evidence is not None:
        require(detail.get("evidence") == sha256(evidence).hex(), "attestation.evidence")
        require(quotes and key.raw == P256_SPKI + quotes.point, "attestation.key")
    kind = kind if kind in ("hsm", "external", "tpm-untrusted", "tpm-pinned", "tpm-verified") else "software"
    return (key, kind, {"by": trust.collector.name, **place, "ek": ek if string(ek) else None, "tpm": detail.get("tpm"),
                        "quotes": quotes and quotes.report()}), beside


def report(head, stream, trust, key, names, archives, logged, enrolled, later):
    keys, current = [], key.vkey
    for turn, size in reversed(stream.rotations):
        if turn.key.vkey == current:
            keys.insert(0, {"key": current, "from": size, "leaf": turn.leaf})
            current = turn.old
    keys.insert(0, {"key": current, "from": stream.first, "leaf": None})
    held, attestation = "software", None
    if enrolled and enrolled[0].vkey == key.vkey and len(keys) == 1:  # of a key that came by rotation nothing is known
        _, held, attestation = enrolled

    erased = stream.missing.common(stream.erased)
    separate = stream.isolations == {True} and not stream.withheld
    same_host = [name for name in names if name in trust.same_host]
    exposure = exposure_of(stream, names)
    chain = stream.chain.hex() if stream.chain_known else None
    unseen = any(origin == head.origin and not stream.first <= size <= head.size for origin, size, _ in trust.seen)
    doubts = [
        (True, "truth"), (True, "unseen"), (stream.withheld, "withheld"), (held == "software", "software_key"),
        (held in ("hsm", "external"), "held_key"), (held.startswith("tpm-"), "activation"),
        (held.startswith("tpm-") and (attestation["quotes"] or {}).get("status") != "affirming", "quotes"), (not separate, "shared"),
        (True, "no_witness" if not names else "same_host" if len(same_host) == len(names) else "collusion"),
        (logged is None, "not_logged"), (stream.may_have_more_runs(), "runs"), (chain is None, "chain"), (names and exposure is None, "exposure"),
        (unseen, "seen"), (stream.missing.full or stream.erased.full, "erasures"),
    ]
    return {
        "verdict": "verified", "origin": head.origin, "from": stream.first, "size": head.size, "root": head.root.hex(),
        "chain": chain, "keys": keys, "integrity": "signed", "key": held,
        "isolation": "separate" if separate else "shared", "attestation": attestation,
        "witness": {"names": list(names), "same_host": same_host}, "archive": {"names": list(archives)},
        "complete": bool(not stream.withheld and not stream.lacking and archives and stream.last_kind == "batch.sealed"),
        "logged": logged, "later": later,
        "cosignatures": {name: {"heads": len(times), "first": times[0], "last": times[-1]}
                         for name, times in stream.times.items() if times},
        "exposure_s": exposure, "witnessed_at": max(names.values(), default=None),
        "leaves": {"here": stream.here, "withheld": stream.withheld},
        "payloads": {"here": stream.payloads, "withheld": stream.lacking - erased, "erased": erased},
        "events": stream.events, "sessions": stream.sessions, "sessions_more": stream.sessions_more,
        "redactions": stream.redactions, "filtered": stream.filtered, "custody": stream.custody,
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
    def refuse(message, code=2):
        print("verify.py: %s" % message, file=sys.stderr)
        sys.exit(code)
    parser = argparse.ArgumentParser(description="Verifies a Jurat bundle.")
    parser.error = lambda message: refuse(message, 64)
    parser.add_argument("bundle")
    parser.add_argument("--trust")
    parser.add_argument("--now", default=str(int(time.time())), help="seconds since 1970, or none: times are not checked")
    options = parser.parse_args()
    if not re.fullmatch("none|[0-9]+", options.now):
        parser.error("--now %s is no number of seconds" % options.now)
    try:
        trust = None
        if options.trust:
            with open(options.trust, "rb") as file:
                trust = Trust(file.read(MIB + 1))
        if not check_openssl():
            refuse("the openssl program does not verify Ed25519 as RFC 8032 says; version 3 does")
        with open(options.bundle, "rb") as file:
            verdict = verify(file, trust, None if options.now == "none" else int(options.now))
    except (Tampered, Unverifiable) as failure:
        verdict = failure.verdict
    except (OSError, TrustError) as failure:
        refuse(failure)
    print(json.dumps(verdict, sort_keys=True, indent=2))
    sys.exit({"verified": 0, "tampered": 1, "unverifiable": 2}[verdict["verdict"]])


if __name__ == "__main__":
    main()
