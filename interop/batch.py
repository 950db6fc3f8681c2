#!/usr/bin/env python3
"""Judges many bundles in one process: a line `BUNDLE TAB TRUST TAB SECONDS` in, the verdict as one line of JSON out.

For tests that compare verifiers. TRUST is a file, or nothing; what is refused gives null.
"""
import json
import sys

import verify


def judge(bundle, trust, now):
    try:
        if trust:
            with open(trust, "rb") as file:
                trust = verify.Trust(file.read(verify.MIB + 1))
        with open(bundle, "rb") as file:
            return verify.verify(file, trust or None, int(now))
    except (verify.Tampered, verify.Unverifiable) as failure:
        return failure.verdict
    except verify.TrustError:
        return None


for line in sys.stdin:
    print(json.dumps(judge(*line.rstrip("\n").split("\t"))), flush=True)
