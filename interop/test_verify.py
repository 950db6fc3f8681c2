"""Small bundles made here, good and bad: every check of docs/formats/verdict.md fails at least once.

The maker shares no code with the verifier: its trees are RFC 6962's own recursive definitions.
"""
import base64
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import verify

HERE = os.path.dirname(os.path.abspath(__file__))
PAGES = os.path.join(HERE, "..", "docs", "formats")
VECTORS = os.path.join(HERE, "..", "vectors")
ORIGIN, BOOT = "example.com/jurat/dev/1", "0123456789abcdef" * 2
T0 = 1767225600  # 2026-01-01T00:00:00Z
FOLDER = tempfile.mkdtemp()
unittest.addModuleCleanup(shutil.rmtree, FOLDER)


def sha(data):
    return hashlib.sha256(data).digest()


def b64(data):
    return base64.b64encode(data).decode()


def root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else sha(b"")
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1" + root(leaves[:k]) + root(leaves[k:]))


def inclusion(at, leaves):
    if len(leaves) < 2:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if at < k:
        return inclusion(at, leaves[:k]) + [root(leaves[k:])]
    return inclusion(at - k, leaves[k:]) + [root(leaves[:k])]


def consistency(m, leaves, whole=True):
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m <= k:
        return consistency(m, leaves[:k], whole) + [root(leaves[k:])]
    return consistency(m - k, leaves[k:], False) + [root(leaves[:k])]


class Signer:
    made = 0

    def __init__(self, name, kind=1):
        Signer.made += 1
        self.name, self.kind = name, kind
        self.path = os.path.join(FOLDER, "key%d" % Signer.made)
        what = ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == 2 else ["ED25519"]
        subprocess.run(["openssl", "genpkey", "-algorithm", *what, "-out", self.path], check=True, stderr=subprocess.DEVNULL)
        spki = subprocess.run(["openssl", "pkey", "-in", self.path, "-pubout", "-outform", "DER"], check=True,
                              stdout=subprocess.PIPE).stdout
        self.public = spki if kind == 2 else spki[-32:]
        blob = bytes([kind]) + self.public
        self.id = sha(spki if kind == 2 else name.encode() + b"\n" + blob)[:4]
        self.key = "%s+%s+%s" % (name, self.id.hex(), b64(blob))

    def sign(self, message):
        path = os.path.join(FOLDER, "message")
        with open(path, "wb") as file:
            file.write(message)
        extra = ["-digest", "sha256"] if self.kind == 2 else []
        return subprocess.run(["openssl", "pkeyutl", "-sign", "-inkey", self.path, "-rawin", "-in", path, *extra],
                              check=True, stdout=subprocess.PIPE).stdout

    def line(self, text, when=None, bad=False):
        if self.kind == 4:
            signature = struct.pack(">Q", when) + self.sign(b"cosignature/v1\ntime %d\n" % when + text.encode())
        else:
            signature = self.sign(text.encode())
        if bad:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        return "\u2014 %s %s\n" % (self.name, b64(self.id + signature))


DEVICE, NEXT, OTHER, HARDWARE, OTHER_EK = Signer(ORIGIN), Signer(ORIGIN), Signer(ORIGIN), Signer(ORIGIN, 2), Signer("ek", 2)
W1, W2 = Signer("w1.example/k", 4), Signer("w2.example/k", 4)
ARCHIVE, COLLECTOR = Signer("a.example/k", 4), Signer("example.com/jurat/collector")
TRUST = """# who is believed
log %s
witness w1 %s  # ours
witness w2 %s
archive arc %s
group both all w1 w2
collector %s
""" % (DEVICE.key, W1.key, W2.key, ARCHIVE.key, COLLECTOR.key)


def note(origin, size, tree_root, *signers):
    """Signers: (signer,), (signer, time) or (signer, time, bad)."""
    text = "%s\n%d\n%s\n" % (origin, size, b64(tree_root))
    return (text + "\n" + "".join(signer.line(text, *rest) for signer, *rest in signers)).encode()


def member(name, data, **header):
    block = bytearray(512)

    def put(at, value):
        block[at:at + len(value)] = value
    put(0, name.encode())
    put(100, b"0000644\0")
    put(124, header.get("size", b"%011o\0" % len(data)))
    put(136, b"00000000000\0")
    put(156, header.get("type", b"0"))
    put(257, b"ustar\x0000")
    put(148, b" " * 8)
    put(148, header.get("sum", b"%06o\0 " % sum(block)))
    return bytes(block) + data + bytes(-len(data) % 512)


def chain_before(n, leaves):
    chain = sha(b"jurat/chain/v1\0" + ORIGIN.encode())
    for leaf in leaves[:n]:
        chain = sha(b"\2" + chain + leaf)
    return chain


class Log:
    """Records in order; a bundle of them on demand."""

    def __init__(self):
        self.records, self.leaves, self.last_batch = [], [], 0  # records: (leaves before, leaf hashes, bytes)
        self.numbers = {}

    def raw(self, kind, body, leaves=()):
        self.records.append((len(self.leaves), list(leaves), struct.pack("<BI", kind, len(body)) + body))
        self.leaves += leaves
        return self

    def bytes_entry(self, data):
        return self.raw(1, data, [sha(b"\0" + data)])

    def fields(self, kind, **fields):
        n = len(self.leaves)
        return {"v": 1, "salt": "A" * 22, "seq": n, "boot": BOOT, "time": "2026-01-01T00:00:%02d.5Z" % n, "kind": kind,
                **fields}

    def entry(self, kind, payload=None, keep=True, **fields):
        if payload is not None:
            salt = bytes(range(32))
            digest = sha(b"jurat/context/v1\0" + salt + payload).hex()
            fields["context"] = {"sha256": digest, "len": len(payload), "redactions": 2}
        self.bytes_entry(json.dumps(self.fields(kind, **fields), separators=(",", ":")).encode())
        return self.raw(2, salt + payload) if payload is not None and keep else self

    def opened(self, **detail):
        return self.entry("log.opened", detail={"origin": ORIGIN, "isolation": "separate", **detail})

    def said(self, session, number=None, **more):
        number = self.numbers.get(session, 0) if number is None else number
        self.numbers[session] = number + 1
        return self.entry("tool.call", session=session, session_seq=number, **more)

    def batch(self, **detail):
        n = len(self.leaves)
        detail = {"count": n - self.last_batch, "chain": chain_before(n, self.leaves).hex(), "isolation": "separate",
                  "filtered": {"duplicate": 3}, **detail}
        self.last_batch = n + 1
        return self.entry("batch.sealed", detail=detail)

    def hidden(self, count, place=None):
        place = len(self.leaves) if place is None else place
        those = [sha(b"hidden%d" % i) for i in range(count)]
        return self.raw(4, struct.pack("<Q", place) + b"".join(those), those)

    def head(self, *signers, origin=ORIGIN, size=None):
        size = len(self.leaves) if size is None else size
        return self.raw(3, note(origin, size, root(self.leaves), *signers))

    def rotate(self, old=DEVICE, new=NEXT, **changed):
        message = "jurat/key-rotation/v1\0%s\0%s" % (ORIGIN, old.key)
        return self.entry("key.rotated", detail={"from": old.key, "key": new.key, "proof": b64(new.sign(message.encode())),
                                                 **changed})

    def quote(self, size, edit=None, **changes):
        detail = quote(size, root(self.leaves[:size]), **changes)
        if edit:
            edit(detail)
        return self.entry("attestation.quote", detail=detail)

    def signed(self, *signers, size=None):
        size = len(self.leaves) if size is None else size
        signers = signers or ((DEVICE,), (W1, T0 + 60), (ARCHIVE, T0 + 61))
        return note(ORIGIN, size, root(self.leaves[:size]), *signers)

    def manifest(self, **fields):
        return {"format": "jurat-bundle", "v": 2, "origin": ORIGIN, "from": 0, "size": len(self.leaves), **fields}

    def bundle(self, first=0, checkpoint=None, manifest=None, change_list=None, split=None, **optional):
        """Members as (name, data); `split` begins a second part at that leaf."""
        manifest = manifest if manifest is not None else self.manifest(**{"from": first})
        members = [("jurat.json", json.dumps(manifest).encode()), ("README.md", b"by hand"),
                   ("checkpoint", checkpoint or self.signed())]
        if first:
            left, roots = first, []
            while left:
                k = 1 << left.bit_length() - 1
                roots.append(root(self.leaves[first - left:first - left + k]))
                left -= k
            members.append(("prefix", chain_before(first, self.leaves) + b"".join(roots)))
        members += [(name, data) for name, data in optional.items() if data is not None]
        records = [r for r in self.records if r[0] >= first and (r[0] > first or first == 0 or r[2][0] != 2)]
        parts = [records]
        if split is not None:
            at = next(i for i, r in enumerate(records) if r[0] == split and r[1])
            parts = [records[:at], records[at:]]
        for number, part in enumerate(parts):
            hashes = [leaf for _, leaves, _ in part for leaf in leaves]
            if change_list:
                change_list(hashes)
            members.append(("hashes/%06d" % number, b"".join(hashes)))
            members.append(("records/%06d" % number, b"".join(data for _, _, data in part)))
        return members


def tar(members):
    return b"".join(member(*m) for m in members) + bytes(1024)


def run(bundle, trust=TRUST, now=None):
    data = bundle if isinstance(bundle, bytes) else tar(bundle)
    try:
        verdict = verify.verify(io.BytesIO(data), trust and verify.Trust(trust.encode()), now)
    except (verify.Tampered, verify.Unverifiable) as failure:
        verdict = failure.verdict
    return json.loads(json.dumps(verdict))


def good():
    return (Log().opened().said("s").said("s", payload=b"hello").entry("session.ended", session="s", session_seq=2,
            detail={"count": 3}).batch())


def replaced(members, name, data):
    return [(n, data if n == name else d) for n, d in members]


def receipt(log, index=1, others=3, entry=None, signers=None, origin=COLLECTOR.name, proof=None, spoil=None):
    size = len(log.leaves)
    fields = Log().fields("frontier.accepted", seq=index, detail={"origin": ORIGIN, "size": size,
                                                                 "root": root(log.leaves).hex()})
    leaf = entry or json.dumps(fields, separators=(",", ":")).encode()
    leaves = [sha(b"\0other%d" % i) for i in range(others)]
    leaves[index:index] = [sha(b"\0" + leaf)]
    proof = inclusion(index, leaves) if proof is None else proof
    text = "c2sp.org/tlog-proof@v1\nextra %s\nindex %d\n" % (b64(leaf), index) + "".join(b64(p) + "\n" for p in proof)
    if spoil:
        text = spoil(text)
    signers = signers or ((COLLECTOR,), (W1, T0 + 70))
    return text.encode() + b"\n" + note(origin, len(leaves), root(leaves), *signers)


AK, TLS = Signer("ak", 2), Signer("tls", 2)
MADE, RESTRICTED, DECRYPT = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 18, 1 << 16, 1 << 17
PCRS = {pcr: sha(b"pcr%d" % pcr) for pcr in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14)}
SELECTION = bytes.fromhex("00000001000b03ff4300")
TPM_TRUST = TRUST.replace(DEVICE.key, HARDWARE.key)


def sized(data):
    return struct.pack(">H", len(data)) + data


def public(signer, attributes, scheme=(0x10,)):
    words = struct.pack(">%dH" % (len(scheme) + 4), 0, 0x10, *scheme, 3, 0x10)
    return struct.pack(">HHI", 0x23, 0xb, attributes) + words + sized(signer.public[-64:-32]) + sized(signer.public[-32:])


def name_of(area):
    return sized(b"\0\x0b" + sha(area))


def attest(kind, extra, body, ms=1000, resets=1, restarts=0, safe=1, firmware=7):
    clock = struct.pack(">QIIBQ", ms, resets, restarts, safe, firmware)
    return b"\xffTCG" + struct.pack(">H", kind) + sized(b"who") + sized(extra) + clock + body


def said(message, signer=AK):
    der = signer.sign(message)
    numbers = der[4:4 + der[3]], der[6 + der[3]:]
    signature = struct.pack(">HH", 0x18, 0xb) + b"".join(sized(number.lstrip(b"\0")) for number in numbers)
    return {"attest": b64(message), "signature": b64(signature)}


def evidence(key=HARDWARE, device="dev", signer=AK, log=MADE, ak=MADE | RESTRICTED, ek=2 | RESTRICTED | DECRYPT, kind=0x8017, **more):
    def certified(area):
        return {"public": b64(area), **said(attest(kind, sha(b"jurat/certify/v1\0" + device.encode()), name_of(area) + sized(b"")), signer)}
    return json.dumps({"ek": b64(public(OTHER_EK, ek)), "ak": b64(public(AK, ak, (0x18, 0xb))),
                       "log": certified(public(key, log)), "tls": certified(public(TLS, MADE)), **more}).encode()


def quote(size, head, after=None, counter=None, kind=0x8018, selection=SELECTION, pcrs=PCRS, extra=None, signer=AK, rest=b"", **clock):
    text = "%s\n%d\n%s\n" % (ORIGIN, size, b64(head))
    detail = {"size": size, "root": head.hex(), "pcrs": {"sha256": {str(pcr): value.hex() for pcr, value in pcrs.items()}}}
    nonce = bytes(32)
    if after:
        by, when = after
        line = base64.b64decode(by.line(text, when).split(" ")[2])[4:]
        detail["after"] = {"size": size, "root": head.hex(), "by": by.name, "cosignature": b64(line)}
        nonce = sha(b"jurat/nonce/v1\0" + line)
    extra = extra or sha(b"jurat/quote/v1\0" + text.encode() + nonce)
    detail.update(said(attest(kind, extra, selection + sized(sha(b"".join(pcrs.values()))) + rest, **clock), signer))
    if counter is not None:
        detail["counter"] = said(attest(0x8014, extra, name_of(b"index") + b"\0\0" + sized(struct.pack(">Q", counter)), **clock))
    return detail


def started():
    return Log().opened().said("s").batch().head((HARDWARE,), (W1, T0 + 10)).quote(3, counter=7, restarts=1)


def enrolled(shown=None, kind="tpm-verified", index=1, word="device.enrolled", **changes):
    """The leaf in the collector's log."""
    detail = {"origin": ORIGIN, "key": HARDWARE.key, "key_kind": kind, "ek": "ab", "tpm": {"virtual": False}, **changes}
    if shown:
        detail["evidence"] = sha(shown).hex()
    return json.dumps(Log().fields(word, seq=index, detail=detail), separators=(",", ":")).encode()


def attested(log, shown=None, leaf=None, signers=None, more=b"", **changes):
    """A bundle with an enrolment, and with this evidence."""
    leaf = enrolled(shown) if leaf is None else leaf
    checkpoint = log.signed((HARDWARE,), (W1, T0 + 60))
    return log.bundle(checkpoint=checkpoint, enrolment=receipt(log, entry=leaf, signers=signers, **changes),
                      attestation=shown and shown + more)


def later(log, more=3, signers=((DEVICE,), (W2, T0 + 99)), origin=ORIGIN, proof=None, size=None):
    leaves = log.leaves + [sha(b"later%d" % i) for i in range(more)]
    proof = consistency(len(log.leaves), leaves) if proof is None else proof
    head = note(origin, len(leaves) if size is None else size, root(leaves), *signers)
    return "".join(b64(p) + "\n" for p in proof).encode() + b"\n" + head


def tampered(check, seq=None):
    return {"verdict": "tampered", "seq": seq, "check": check}


def unverifiable(reason, **more):
    return {"verdict": "unverifiable", "reason": reason, **more}


class Whole(unittest.TestCase):
    def test_a_good_bundle_is_verified(self):
        log = good()
        got = run(log.bundle(receipt=None))
        self.assertEqual(got["verdict"], "verified")
        self.assertEqual(got["root"], root(log.leaves).hex())
        self.assertEqual(got["chain"], chain_before(5, log.leaves).hex())
        self.assertEqual(got["keys"], [{"key": DEVICE.key, "from": 0, "leaf": None}])
        self.assertEqual((got["complete"], got["isolation"], got["custody"]), (True, "separate", False))
        self.assertEqual((got["payloads"], got["leaves"]), ({"here": 1, "withheld": 0, "erased": 0},
                                                            {"here": 5, "withheld": 0}))
        self.assertEqual(got["sessions"], {"s": {"leaves": 3, "complete": True, "ended": True}})
        self.assertEqual((got["exposure_s"], got["witnessed_at"]), (60, T0 + 60))
        self.assertEqual((got["redactions"], got["filtered"]), (2, {"duplicate": 3}))
        self.assertEqual(got["cosignatures"], {"w1": {"heads": 1, "first": T0 + 60, "last": T0 + 60}})
        self.assertEqual(got["not_proven"], ["truth", "unseen", "software_key", "collusion", "not_logged"])

    def test_a_range_is_verified_with_its_prefix(self):
        log = good()
        log.head((DEVICE,), (W1, T0 + 10)).said("t").hidden(2).said("t", 3).said("u", 4).batch(count=99)
        for first in 3, 5:
            got = run(log.bundle(first, split=8))
            self.assertEqual(got["verdict"], "verified", got)
            self.assertEqual(got["chain"], chain_before(11, log.leaves).hex())
            self.assertEqual(got["leaves"]["withheld"], 2)
            self.assertEqual(got["exposure_s"], 50)
            self.assertEqual(got["sessions"]["t"], {"leaves": 2, "complete": False, "ended": False})
            self.assertIn([6, "2 leaves withheld"], got["gaps"])

    def test_without_a_batch_in_the_range_the_chain_is_a_claim(self):
        log = good().said("t").said("t")
        got = run(log.bundle(5))
        self.assertIsNone(got["chain"])
        self.assertIn("chain", got["not_proven"])

    def test_a_key_is_followed_through_its_rotation(self):
        log = good().rotate().batch().head((DEVICE,)).said("t").batch()
        got = run(log.bundle(checkpoint=log.signed((NEXT,))))
        self.assertEqual(got["keys"], [{"key": DEVICE.key, "from": 0, "leaf": None},
                                       {"key": NEXT.key, "from": 7, "leaf": 5}])
        self.assertEqual(got["not_proven"][-3:], ["software_key", "no_witness", "not_logged"])

    def test_a_receipt_and_a_later_head_count(self):
        log = good()
        for more in 0, 1, 3, 4, 11:
            got = run(log.bundle(later=later(log, more), receipt=receipt(log, 1, more + 1)))
            self.assertEqual(got["later"], {"size": 5 + more, "names": ["w2"]})
            self.assertEqual(got["logged"], {"leaf": 1, "size": more + 2, "names": ["w1"]})

    def test_foreign_signatures_leave_later_and_receipt_aside(self):
        log = good()
        got = run(log.bundle(later=later(log, signers=((OTHER,),), proof=[]),
                             receipt=receipt(log, signers=((OTHER,),), proof=[])))
        self.assertEqual((got["verdict"], got["later"], got["logged"]), ("verified", None, None))

    def test_missing_payloads_are_erased_or_withheld(self):
        log = good().said("t", payload=b"a", keep=False).said("t", payload=b"b", keep=False)
        log.entry("payload.erased", detail={"ranges": [[5, 6]], "count": 1}).batch()
        got = run(log.bundle())
        self.assertEqual(got["payloads"], {"here": 1, "withheld": 1, "erased": 1})
        self.assertFalse(got["complete"])
        self.assertEqual(got["gaps"], [[7, "payload.erased"]])

    def test_what_is_remembered_has_a_limit_and_the_report_says_so(self):
        names = "MAX_RUNS", "MAX_LISTED", "MAX_BOOTS"
        limits = [getattr(verify, name) for name in names]
        self.addCleanup(lambda: [setattr(verify, name, limit) for name, limit in zip(names, limits)])
        for name in names:
            setattr(verify, name, 1)
        log = Log().opened()
        for session in "t", "u", "u":
            log.said(session, payload=b"a", keep=False).entry("x", boot="c" * 32)
        log.entry("payload.erased", detail={"ranges": [[1, 6]], "count": 99}).entry("session.ended", session="u", session_seq=2,
                                                                                 detail={"count": 3}).said("u", 0)
        got = run(log.bundle())
        self.assertEqual(got["payloads"], {"here": 0, "withheld": 2, "erased": 1})
        self.assertEqual((got["gaps"], got["not_proven"][-1]), ([[3, "boot returned"]], "erasures"))
        self.assertEqual((list(got["sessions"]), got["sessions_more"]), (["t"], 2))
        self.assertEqual(got["events"], {"log.opened": 1, "(others)": 9})

    def test_a_boot_that_returns_is_a_gap(self):
        log = Log().opened().entry("x", boot="b" * 32).entry("agent.started")
        got = run(log.bundle())
        self.assertEqual(got["gaps"], [[2, "agent.started"], [2, "boot returned"]])
        self.assertEqual(got["isolation"], "separate")

    def test_a_witness_on_the_same_host_is_not_independent(self):
        log = good()
        got = run(log.bundle(), TRUST + "same-host w1\n")
        self.assertEqual(got["witness"], {"names": ["w1"], "same_host": ["w1"]})
        self.assertIn("same_host", got["not_proven"])

    def test_groups_and_numbers_make_a_quorum(self):
        log = good()
        one, two = log.bundle(), log.bundle(checkpoint=log.signed((DEVICE,), (W1, T0), (W2, T0)))
        for rule, enough in ("1", 1), ("2", 2), ("none", 0), ("w1", 1), ("w2", 2), ("both", 2), ("any", 1):
            trust = TRUST + "group any any both w1\nquorum %s\n" % rule
            lone = run(one, trust)
            self.assertEqual(lone["verdict"], "verified" if enough < 2 else "unverifiable", rule)
            self.assertEqual(run(two, trust)["verdict"], "verified")
        self.assertEqual(lone["verdict"], "verified")

    def test_the_program_prints_and_exits_as_the_page_says(self):
        log = good()
        paths = [os.path.join(FOLDER, name) for name in ("b.jurat", "trust.txt")]
        with open(paths[1], "w") as file:
            file.write(TRUST)
        for data, arguments, code in [
                (tar(log.bundle()), ["--trust", paths[1]], 0), (tar(log.bundle()), [], 2),
                (tar(log.bundle()), ["--trust", paths[1], "--now", "5"], 2),
                (tar(log.bundle(manifest=log.manifest(size=9))), ["--trust", paths[1], "--now", "none"], 1),
                (b"", ["--trust", paths[0]], 2), (b"", ["--trust", "/does/not/exist"], 2), (b"", ["--what"], 64)]:
            with open(paths[0], "wb") as file:
                file.write(data or b"log none")
            done = subprocess.run([sys.executable, os.path.join(HERE, "verify.py"), paths[0], *arguments],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertEqual(done.stdout == b"", data == b"")


class Attested(unittest.TestCase):
    def test_a_tpm_holds_the_key_and_its_quotes_are_dated(self):
        shown = evidence(ek_certificates=[b64(b"der")])
        log = started().quote(3, after=(W1, T0 + 10), ms=2000, restarts=1).batch()
        got = run(attested(log, shown), TPM_TRUST)
        self.assertEqual(got["key"], "tpm-verified")
        self.assertEqual(got["attestation"], {
            "by": COLLECTOR.name, "leaf": 1, "size": 4, "names": ["w1"], "ek": "ab", "tpm": {"virtual": False},
            "quotes": {"status": "affirming", "good": 2, "bad": 0, "undated": 1, "size": 3, "reboots": 0, "window_s": 50, "findings": []}})
        self.assertEqual(got["not_proven"], ["truth", "unseen", "activation", "collusion", "not_logged"])

    def test_what_the_collector_did_not_see_is_not_claimed(self):
        shown, log = evidence(), started().batch()
        for kind, code in ("hsm", "held_key"), ("external", "held_key"), ("magic", "software_key"), (7, "software_key"):
            got = run(attested(log, leaf=enrolled(kind=kind)), TPM_TRUST)
            self.assertEqual(got["key"], kind if code == "held_key" else "software")
            self.assertIn(code, got["not_proven"])
            self.assertIsNone(got["attestation"]["quotes"])
        got = run(attested(log, leaf=enrolled(shown, kind="tpm-pinned")), TPM_TRUST)
        self.assertEqual((got["key"], got["not_proven"][2:4]), ("tpm-pinned", ["activation", "quotes"]))
        for bundle in (attested(log, shown, signers=((OTHER,),)), attested(log, leaf=enrolled(key=DEVICE.key)),
                       log.bundle(checkpoint=log.signed((HARDWARE,)), attestation=shown)):
            got = run(bundle, TPM_TRUST)
            self.assertEqual((got["verdict"], got["key"], got["attestation"]), ("verified", "software", None))
        turned = started().rotate(old=HARDWARE).batch().head((HARDWARE,)).said("t").batch()
        got = run(turned.bundle(checkpoint=turned.signed((NEXT,)), enrolment=receipt(turned, entry=enrolled(key=NEXT.key))), TPM_TRUST)
        self.assertEqual((got["key"], got["attestation"]), ("software", None))

    def test_every_finding_of_the_page_is_found(self):
        shown = evidence()

        def flipped(field, at):
            def edit(detail):
                data = bytearray(base64.b64decode(detail[field]))
                data[at] ^= 1
                detail[field] = b64(bytes(data))
            return edit

        def put(**fields):
            return lambda detail: detail.update(fields)
        first = {0: sha(b"x")}
        cases = [
            ("malformed", dict(edit=put(size="3"))), ("malformed", dict(edit=put(after=[]))), ("malformed", dict(edit=put(counter={}))),
            ("malformed", dict(edit=put(pcrs={"sha256": {"00": ""}}))), ("malformed", dict(edit=flipped("signature", 1))),
            ("malformed", dict(kind=0x8020)), ("malformed", dict(rest=b"x")),
            ("malformed", dict(selection=SELECTION[:6] + b"\5" + bytes(5))), ("malformed", dict(safe=2)),
            ("values", dict(edit=put(pcrs={"sha1": {}}))), ("values", dict(edit=put(pcrs={"sha256": {"15": "0" * 64}}))),
            ("values", dict(edit=put(pcrs={"sha256": {"0": "A" * 64}}))), ("values", dict(edit=put(pcrs={}))),
            ("signature", dict(edit=flipped("signature", -1))), ("signature", dict(signer=TLS)),
            ("type", dict(kind=0x8017, selection=name_of(b""))), ("qualifying", dict(extra=sha(b""))),
            ("qualifying", dict(after=(W1, T0), edit=put(after=None))), ("selection", dict(selection=SELECTION[:-1] + b"\x80")),
            ("selection", dict(selection=SELECTION[:5] + b"\x0c" + SELECTION[6:])), ("head", dict(size=4)),
            ("after", dict(after=(Signer("x", 4), T0))), ("clock", dict(ms=999)), ("clock", dict(ms=1000)), ("clock", dict(resets=0)), ("clock", dict(restarts=0)),
            ("clock", dict(resets=2, ms=999)), ("counter", dict(counter=7)), ("counter", dict(counter=6)),
            ("missed", dict(counter=9)), ("firmware", dict(firmware=8)), ("pcrs", dict(pcrs={**PCRS, **first})),
            (None, dict(counter=8)), (None, dict(after=(ARCHIVE, T0))), (None, dict(resets=2, restarts=0, pcrs={**PCRS, **first})),
            (None, dict(resets=2, ms=1, safe=0)), (None, dict(size=2)), (None, dict(selection=SELECTION[:6] + b"\2\xff\x43")),
            (None, dict(edit=put(after=None, counter=None, more=7))),
        ]
        warnings = {"missed", "firmware", "pcrs"}
        for code, changes in cases:
            log = started().quote(**{"size": 3, "restarts": 1, "ms": 1001, **changes}).batch()
            got = run(attested(log, shown), TPM_TRUST)
            with self.subTest(code=code, **changes):
                self.assertEqual(got["verdict"], "verified")
                quotes = got["attestation"]["quotes"]
                self.assertEqual(quotes["findings"], [[4, "quote." + code]] if code else [])
                self.assertEqual(quotes["status"], "affirming" if not code else "warning" if code in warnings else "contraindicated")
                self.assertEqual(quotes["bad"], bool(code) and code not in warnings)
        with open(os.path.join(PAGES, "attestation.md")) as file:
            codes = set(re.findall(r"^\| `quote\.([a-z]+)` \|", file.read(), re.M))
        self.assertEqual(codes, {code for code, _ in cases} - {None})


class Checks(unittest.TestCase):
    """One bad bundle, at least, for every code of the page."""

    seen = set()

    def expect(self, want, bundle, *rest, **more):
        self.assertEqual(run(bundle, *rest, **more), want)
        self.seen.add(want.get("check") or want["reason"])

    @classmethod
    def tearDownClass(cls):
        with open(os.path.join(PAGES, "verdict.md")) as file:
            order, stream = file.read().split("## Stream")
        codes = set(re.findall(r"^\| `([a-z.]+)` \|", stream.split("## Report")[0], re.M)) - {"code"}
        steps = {f for f in re.findall(r"`([a-z_]+\.[a-z]+)`", order) if "." in f}
        no_codes = {"jurat.json", "batch.sealed", "frontier.accepted", "log.opened", "device.enrolled"}
        reasons = {"no_trust", "behind", "unknown_origin", "unknown_key", "revoked", "quorum", "future", "tail", "root"}
        missing = (codes | steps | reasons) - no_codes - cls.seen
        if missing:
            raise AssertionError("never failed: %s" % sorted(missing))

    def test_what_is_no_bundle(self):
        log = good()
        members = log.bundle()
        data = tar(members)

        def bad(check):
            return unverifiable("not_a_bundle", check=check)
        self.expect(unverifiable("no_trust"), b"", None)
        for end in 0, 100, 512, 600, len(data) - 1024, len(data) - 513 - 1024, len(data) - 600:
            self.expect(bad("bundle.cut"), data[:end])
        self.assertEqual(run(data[:-512])["verdict"], "verified")
        self.assertEqual(run(data + b"x")["verdict"], "verified")
        first = members[0]
        for header in {"type": b"5"}, {"sum": b"000001\0 "}, {"size": b"\x80" + bytes(10) + b"\1"}, {"size": b"9" * 12}:
            self.expect(bad("bundle.layout"), member(*first, **header) + tar(members[1:]))
        for wrong in (members[1:], members[:2] + members[3:], members[:3] + [("prefix", b"")] + members[3:], members[:-1],
                      members + [("hashes/000002", b"")], members + [("x", b"")], [("./jurat.json", first[1])] + members[1:],
                      members[:3] + [("receipt", b""), ("later", b"")] + members[3:]):
            self.expect(bad("bundle.layout"), wrong)
        for name, limit in ("jurat.json", 1 << 17), ("README.md", 1 << 17), ("records/000000", (3 << 20) + (68 << 10)):
            self.expect(bad("bundle.limit"), replaced(members, name, b" " * (limit + 1)))
        self.expect(bad("bundle.hashes"), replaced(members, "hashes/000000", b" " * 33))
        for change in {"v": 1}, {"v": 2.0}, {"v": True}, {"format": "x"}, {"origin": 1}, {"from": -1}, {"size": 1 << 64}, \
                {"more": 1}, {"session": 7}, {"from": 1.0}:
            self.expect(bad("bundle.manifest"), log.bundle(manifest=log.manifest(**change)))
        for text in b"", b"[]", b"{}", b'{"v":2', json.dumps(log.manifest()).encode()[:-1] + b',"v":2}':
            self.expect(bad("bundle.manifest"), replaced(members, "jurat.json", text))

    def test_notes_are_read_to_the_letter(self):
        log = good()
        whole = log.signed()
        text, lines = whole.split(b"\n\n")
        for bad in (b"", text, whole[:-1], whole.replace(b"\n", b"\r\n"), whole + b"\n", text + b"\nmore\n\n" + lines,
                    text + b"\n\n" + lines.replace("\u2014".encode(), b"-"), whole.replace(b"\n5\n", b"\n05\n"),
                    whole.replace(b"\n5\n", b"\n%d\n" % (1 << 64)), whole.replace(b"\n5\n", b"\n+5\n"), b"\n" + whole,
                    text + b"\n\n" + b"\xff" + lines, text + b"\n\n" + lines + b"\n\n", text + b"\n\n",
                    whole + "\u2014 a+b AAAAAAA=\n".encode(), whole + "\u2014 a AAAAAA==\n".encode(),
                    whole + "\u2014 a AAAAAAB=\n".encode(), whole + "\u2014 a AAAAAAA\n".encode(),
                    whole + "\u2014  AAAAAAA=\n".encode(), whole + "\u2014 a\u2003b AAAAAAA=\n".encode(),
                    whole + "\u2014 a AAAAAAA=\n".encode() * 62, text[:-4] + b"\n\n" + lines):
            self.expect(unverifiable("not_a_bundle", check="note.malformed"), replaced(log.bundle(), "checkpoint", bad))
        many = whole + "\u2014 a AAAAAAA=\n".encode() * 61
        self.assertEqual(run(log.bundle(checkpoint=many))["verdict"], "verified")
        empty = note(ORIGIN, 0, sha(b""), (DEVICE,))
        self.expect(unverifiable("not_a_bundle", check="checkpoint.empty"), log.bundle(checkpoint=empty))

    def test_the_head_and_its_key(self):
        log = good()
        self.expect(unverifiable("unknown_origin", origin=ORIGIN), log.bundle(), "log %s\n" % COLLECTOR.key)
        self.expect(tampered("checkpoint.signature"), log.bundle(checkpoint=log.signed((DEVICE, None, True))))
        for change in {"size": 4}, {"origin": "x"}:
            self.expect(tampered("manifest.head"), log.bundle(manifest=log.manifest(**change)))
        range_of = log.bundle(3)
        self.expect(tampered("manifest.range"),
                    replaced(range_of, "jurat.json", json.dumps(log.manifest(**{"from": 5})).encode()))
        self.expect(tampered("prefix.length"), replaced(range_of, "prefix", b" " * 64))
        self.expect(unverifiable("unknown_key", origin=ORIGIN), log.bundle(checkpoint=log.signed((OTHER,))))
        turned = good().rotate().batch().head((DEVICE,)).said("t").batch()
        self.expect(tampered("checkpoint.retired"), turned.bundle(checkpoint=turned.signed((DEVICE,))))
        self.expect(tampered("checkpoint.signature"), turned.bundle(checkpoint=turned.signed((DEVICE,), (NEXT, None, True))))

    def test_places(self):
        log = good()
        members = log.bundle()
        records = dict(members)["records/000000"]
        self.expect(tampered("leaf.changed", 2), replaced(members, "records/000000",
                                                          records.replace(b'"seq":2', b'"seq":7')))
        self.expect(tampered("tail", 4), log.bundle(manifest=log.manifest(size=4), checkpoint=log.signed(size=4)))
        self.expect(tampered("tail", 5), Log.bundle(log, manifest=log.manifest(size=6),
                                                    checkpoint=note(ORIGIN, 6, sha(b"x"), (DEVICE,))))
        self.expect(tampered("root"), log.bundle(checkpoint=note(ORIGIN, 5, sha(b"x"), (DEVICE,))))
        self.expect(tampered("leaf.list"), log.bundle(change_list=lambda those: those.append(sha(b"x"))))
        self.expect(tampered("leaf.list"), log.bundle(change_list=lambda those: those.reverse()))
        self.expect(tampered("leaf.unlisted", 4), log.bundle(change_list=lambda those: those.pop()))
        seen = TRUST + "seen %s %%d %s\n" % (ORIGIN, sha(b"x").hex())
        self.expect(tampered("seen.root"), log.bundle(), seen % 4)
        self.expect(unverifiable("behind", size=6), log.bundle(), seen % 6)
        asked = seen % 6 + "quorum w2\n"
        witnessed = log.signed((DEVICE,), (W2, T0))
        self.expect(unverifiable("behind", size=6), log.bundle(checkpoint=witnessed), asked)
        self.expect(unverifiable("behind", size=6), log.bundle(checkpoint=witnessed, later=later(log, 2, signers=((DEVICE,),))), asked)
        self.expect(tampered("seen.root"), log.bundle(checkpoint=witnessed, later=later(log, 1)), asked)
        self.assertEqual(run(log.bundle(checkpoint=witnessed, later=later(log, 2)), asked)["not_proven"][-1], "seen")

    def test_later_heads(self):
        log = good()
        for bad in b"", b"\n", later(log)[1:], b"\n" + later(log), later(log, proof=[b"x" * 31]), later(log, proof=[sha(b"")] * 65):
            self.expect(tampered("later.malformed"), log.bundle(later=bad))
        self.expect(tampered("later.origin"), log.bundle(later=later(log, origin="x")))
        self.expect(tampered("later.size"), log.bundle(later=later(log, size=4)))
        self.expect(tampered("later.signature"), log.bundle(later=later(log, signers=((DEVICE, None, True),))))
        for proof in [], [sha(b"")] * 4:
            self.expect(tampered("later.consistency"), log.bundle(later=later(log, proof=proof)))
        self.expect(tampered("later.consistency"), log.bundle(later=later(log, 0, proof=[sha(b"")])))

    def test_cosignatures(self):
        log = good()
        for who in W1, ARCHIVE:
            self.expect(tampered("cosignature.signature"), log.bundle(checkpoint=log.signed((DEVICE,), (who, T0, True))))
        log.head((DEVICE,), (W1, T0 + 61))
        self.expect(tampered("cosignature.order"), log.bundle())
        late = unverifiable("future", time=T0 + 61)
        log = good()
        self.expect(late, log.bundle(), now=T0 - 240)
        self.assertEqual(run(log.bundle(), now=T0 - 239)["verdict"], "verified")

    def test_receipts(self):
        log = good()
        for bad in (b"", receipt(log, entry=b"{}"), receipt(log, spoil=lambda t: t.replace("index 1", "index 01")),
                    receipt(log, spoil=lambda t: t.replace("index 1", "index 4")), receipt(log, spoil=lambda t: t[1:]),
                    receipt(log, spoil=lambda t: t + "AAAA\n"), receipt(log, proof=[sha(b"")] * 65),
                    receipt(log, spoil=lambda t: re.sub("extra.*\n", "", t))):
            self.expect(tampered("receipt.malformed"), log.bundle(receipt=bad))
        self.expect(tampered("receipt.origin"), log.bundle(receipt=receipt(log, origin="x")))
        for signers in ((COLLECTOR, None, True),), ((COLLECTOR,), (W2, T0, True)):
            self.expect(tampered("receipt.signature"), log.bundle(receipt=receipt(log, signers=signers)))
        for change in {"size": 4}, {"root": "0" * 64}, {"origin": "x"}:
            fields = Log().fields("frontier.accepted", detail={"origin": ORIGIN, "size": 5, "root": root(log.leaves).hex(),
                                                               **change})
            entry = json.dumps(fields, separators=(",", ":")).encode()
            self.expect(tampered("receipt.head"), log.bundle(receipt=receipt(log, entry=entry)))
        self.expect(tampered("receipt.inclusion"), log.bundle(receipt=receipt(log, proof=[])))
        revoked = TRUST + "revoked %s " % DEVICE.key
        self.expect(unverifiable("revoked", key=DEVICE.key), log.bundle(), revoked + "9\n")
        self.expect(unverifiable("revoked", key=DEVICE.key), log.bundle(receipt=receipt(log)), revoked + "1\n")
        self.assertEqual(run(log.bundle(receipt=receipt(log)), revoked + "2\n")["verdict"], "verified")
        self.expect(unverifiable("quorum", of="head", found=["w1"]), log.bundle(), TRUST + "quorum both\noutside 1\n")
        self.expect(unverifiable("quorum", of="receipt", found=[]), log.bundle(), TRUST + "quorum 1\noutside 1\n")
        self.assertEqual(run(log.bundle(receipt=receipt(log)), TRUST + "outside w1\n")["verdict"], "verified")

    def test_enrolments_and_evidence(self):
        log, shown = started().batch(), evidence()

        def bad(check, *rest, **more):
            self.expect(tampered(check), attested(log, *rest, **more), TPM_TRUST)
        for spoil in (lambda text: text[1:]), (lambda text: text.replace("index 1", "index 4")):
            bad("enrolment.malformed", shown, spoil=spoil)
        bad("enrolment.malformed", leaf=b"{}")
        bad("enrolment.origin", origin="x")
        for signers in ((COLLECTOR, None, True),), ((COLLECTOR,), (W2, T0, True)):
            bad("enrolment.signature", signers=signers)
        for change in ({"index": 2}, {"word": "x"}, {"origin": "x"}, {"key": None}, {"key": "x"}, {"key": HARDWARE.key + " "}):
            bad("enrolment.leaf", leaf=enrolled(**change))
        bad("enrolment.inclusion", proof=[])
        bad("attestation.evidence", shown, more=b" ")
        bad("attestation.evidence", shown, leaf=enrolled())
        for wrong in (evidence(key=TLS), evidence(device="x"), evidence(signer=TLS), evidence(log=MADE - 2), evidence(log=MADE | RESTRICTED),
                      evidence(ak=MADE), evidence(ak=MADE | RESTRICTED | DECRYPT), evidence(ek=2 | DECRYPT), evidence(kind=0x8018),
                      evidence(more=1), evidence(ek_certificates=None), evidence(ek_certificates=[""] * 9),
                      evidence(ek_certificates=[b64(bytes(8193))]), shown.replace(b'"ek": "', b'"ek": "='), shown[1:], b"[]"):
            bad("attestation.key", wrong)
        self.expect(unverifiable("future", time=T0 + 70), attested(log, shown), TPM_TRUST, now=T0 - 231)

    def stream(self, code, seq, log, **more):
        self.expect(tampered(code, seq), log.bundle(**more))

    def test_records(self):
        hidden = struct.pack("<Q", 5)
        for kind, body in (0, b""), (5, b""), (4, hidden), (4, hidden + bytes(31)), (4, b""), (1, bytes((1 << 20) + 4097)):
            self.stream("record.framing", 5, good().raw(kind, body))
        log = good()
        for cut in 1, 4, 5, 100:
            members = log.bundle()
            data = dict(members)["records/000000"]
            self.expect(tampered("record.framing", 4), replaced(members, "records/000000", data[:-cut]))
        self.stream("leaves.place", 5, good().hidden(2, place=6))
        stray = bytes(40)
        self.stream("payload.stray", 4, good().raw(2, stray))
        self.stream("payload.stray", 2, Log().opened().said("s").said("s", payload=b"x").raw(2, stray))
        self.stream("payload.stray", 6, good().hidden(2).raw(2, stray))
        self.stream("payload.stray", 0, Log().raw(2, stray).opened())
        self.expect(tampered("payload.stray", 2),
                    good().bundle(3)[:-1] + [("records/000000", b"\2\x20\0\0\0" + bytes(32))])
        for payload in bytes(37), bytes(36), bytes(32):
            self.stream("payload.commitment", 5, good().said("t", payload=b"hello", keep=False).raw(2, payload))

    def test_entries(self):
        plain = json.dumps(good().fields("x"), separators=(",", ":"))[:-1]
        deep = '"a":' + "[" * 126 + "]" * 126
        wide = ",".join('"f%d":0' % i for i in range(250))
        for more in ("", deep, wide, '"x":"\\ud83d\\ude00"', '"x":18446744073709551616', '"x":1e308', '"detail":{"batch":1}', '"labels":7,"custody":1,"agent":{},"detail":[]', '"session":"t"'):
            log = good().bytes_entry((plain + "," * bool(more) + more + "}").encode())
            self.assertEqual(run(log.bundle())["verdict"], "verified", more)
        for more in (deep.replace("[", "[[", 1).replace("]", "]]", 1), wide + ',"g":0', '"x":"\\ud83d"', '"x":1e309', '"x":NaN', '"x":-Infinity',
                     '"x":{"a":1,"\\u0061":1}', '"v":1', '"x":01', '"x":"\t"', '"x":"\x7f"' + "\n", '"batch":1', '"device":"x"',
                     '"full_context":1', '"x":1' + "0" * 400, '"session":1', '"session_seq":1.0', '"session":null',
                     '"context":{}', '"raw":["x",1]', '"raw":{"sha256":"%s","len":1,"redactions":1}' % ("0" * 64),
                     '"context":{"sha256":"%s","len":1}' % ("A" * 64), '"x":"' + "x" * 17000 + '"',
                     '"x":' + "[" * 9000 + "]" * 9000, '"of":-1', '"of":18446744073709551616', '"session_seq":-0'):
            self.stream("entry.malformed", 5, good().bytes_entry((plain + "," + more + "}").encode()))
        for data in (b"", b"{}", plain.encode(), (" " + plain + "}").encode(), (plain + "} ").encode(), plain.encode() + b',"x":"\xff"}',
                     plain.replace('"v":1', '"v":2').encode() + b"}", plain.replace('"kind":"x"', '"kinf":"x"').encode() + b"}",
                     plain.replace('"seq":5', '"seq":5.0').encode() + b"}", plain.replace('{"v"', '{ "v"').encode() + b"}"):
            self.stream("entry.malformed", 5, good().bytes_entry(data))
        self.stream("entry.seq", 5, good().entry("x", seq=6))
        self.stream("entry.opening", 0, Log().opened(origin="x"))
        self.stream("entry.opening", 0, Log().entry("x"))

    def test_sessions_and_batches(self):
        self.stream("session.gap", 5, good().said("t", 1))
        self.stream("session.gap", 6, good().said("t").said("t", 2))
        self.stream("session.gap", 5, good().said("s", 3))
        for count in 1, 3, None, 2.0:
            self.stream("session.count", 6, good().said("t").entry("session.ended", session="t", session_seq=1,
                                                                   detail={"count": count}))
        self.stream("batch.count", 6, good().said("t").batch(count=2))
        self.stream("batch.chain", 6, good().said("t").batch(chain="0" * 64))
        self.expect(tampered("batch.chain", 4), replaced(good().bundle(3), "prefix", bytes(32) + dict(good().bundle(3))["prefix"][32:]))
        limit, verify.MAX_SESSIONS = verify.MAX_SESSIONS, 2
        try:
            self.stream("session.many", 7, good().said("t").said("u").said("v"))
        finally:
            verify.MAX_SESSIONS = limit

    def test_rotations_and_erasures(self):
        for changed in {"from": OTHER.key}, {"from": HARDWARE.key}, {"key": HARDWARE.key}, {"key": DEVICE.key}, {"key": COLLECTOR.key}, {"proof": b64(bytes(64))}, {"key": None}:
            self.stream("rotation", 5, good().rotate(**changed))
        self.stream("rotation.pending", 6, good().rotate().rotate())
        limit, verify.MAX_ROTATIONS = verify.MAX_ROTATIONS, 0
        try:
            self.stream("rotation.many", 5, good().rotate())
        finally:
            verify.MAX_ROTATIONS = limit
        log = good().rotate().batch().head((DEVICE,)).said("t").batch().head((DEVICE,))
        self.stream("head.key", 9, log, checkpoint=log.signed((NEXT,)))
        for ranges in [[0, 99]], [[3, 2]], [[2, 3, 4]], None, 7, [[2, True]]:
            log = good().hidden(1).entry("payload.erased", detail={"ranges": ranges})
            self.assertEqual(run(log.bundle())["payloads"], {"here": 1, "withheld": 0, "erased": 0})

    def test_heads(self):
        self.stream("head.malformed", 5, good().raw(3, b"x"))
        self.stream("head.origin", 5, good().head((DEVICE,), origin="x"))
        self.stream("head.root", 5, good().head((DEVICE,), size=4))
        self.stream("head.signature", 5, good().head((DEVICE, None, True)))
        self.stream("head.key", 5, good().head((OTHER,)))
        self.stream("head.cosignature", 5, good().head((DEVICE,), (W1, T0, True)))
        self.stream("head.order", 5, good().head((DEVICE,), (W1, T0)).head((DEVICE,), (W1, T0 - 1)))


class TrustFiles(unittest.TestCase):
    def test_what_is_wrong_is_refused_with_its_line(self):
        identity = "x+%s+%s"
        blob = bytes([1, 1]) + bytes(31)
        weak = identity % (sha(b"x\n" + blob)[:4].hex(), b64(blob))
        wide = bytes([1]) + (2**255 - 10).to_bytes(32, "little")
        for line in ("what", "log x", "log " + W1.key, "witness w3 " + DEVICE.key, "witness w1 " + Signer("x", 4).key,
                     "witness w3 " + W1.key, "archive arc2 " + ARCHIVE.key, "log " + DEVICE.key[:-1], "log " + weak,
                     "log " + identity % (sha(b"x\n" + wide)[:4].hex(), b64(wide)), "log %s more" % DEVICE.key,
                     "group g any w9", "group g 0 w1", "group g 2 w1", "group both any w1", "group w1 any w2", "quorum 0", "quorum 3", "quorum 01",
                     "quorum who", "quorum", "outside 3", "collector " + COLLECTOR.key, "same-host w9", "revoked " + DEVICE.key,
                     "revoked %s -1" % DEVICE.key, "log " + DEVICE.key.replace("+", "+0", 1)):
            with self.assertRaisesRegex(verify.TrustError, "line 8"):
                verify.Trust((TRUST + line + "\n").encode())
        for word in "quorum", "outside":
            with self.assertRaisesRegex(verify.TrustError, "line 9"):
                verify.Trust((TRUST + (word + " 1\n") * 2).encode())

    def test_the_points_of_small_order_are_the_five(self):
        p = verify.P
        d = -121665 * pow(121666, p - 2, p) % p

        def add(a, b):
            (x1, y1), (x2, y2) = a, b
            k = d * x1 * x2 * y1 * y2 % p
            return (x1 * y2 + x2 * y1) * pow(1 + k, p - 2, p) % p, (y1 * y2 + x1 * x2) * pow(1 - k, p - 2, p) % p
        for y in verify.SMALL_ORDER:
            x2 = (y * y - 1) * pow(d * y * y + 1, p - 2, p) % p
            x = pow(x2, (p + 3) // 8, p)
            x = x if x * x % p == x2 else x * pow(2, (p - 1) // 4, p) % p
            point = (x, y)
            self.assertEqual(x * x % p, x2)
            for _ in range(3):
                point = add(point, point)
            self.assertEqual(point, (0, 1))


class Vectors(unittest.TestCase):
    """The bundles in vectors/ that every verifier must judge alike."""

    def test_all(self):
        if not os.path.isdir(VECTORS):
            self.skipTest("no vectors here")
        for folder, _, files in sorted(os.walk(VECTORS)):
            if "expected.json" not in files:
                continue
            def text(name):
                path = os.path.join(folder, name)
                if os.path.exists(path):
                    with open(path, encoding="utf-8") as file:
                        return file.read()
            now = text("now")
            with self.subTest(folder=os.path.relpath(folder, VECTORS)):
                with open(os.path.join(folder, "bundle.jurat"), "rb") as file:
                    got = run(file.read(), text("trust.txt"), int(now))
                self.assertEqual(got, json.loads(text("expected.json")))


if __name__ == "__main__":
    unittest.main()
