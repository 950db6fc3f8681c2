"""Judges statements of Jurat with packages that nobody at Jurat wrote.

    judge.py cose RECEIPT ENTRY KEY.pem    scitt-cose: is this entry in the log?
    judge.py dsse ENVELOPE KEY.pem         securesystemslib: signed? in-toto-attestation: a statement?

Prints what the statement says as JSON; ends with 1 and the reason when it is refused.
"""
import json
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key


def cose(receipt, entry, key):
    from scitt_cose.receipt import verify_receipt

    result = verify_receipt(receipt, leaf_entry_hex=entry.hex(), log_public_key_pem=key)
    if not result.ok:
        sys.exit("refused: " + "; ".join(result.errors))
    return {
        "root": result.root,
        "size": result.tree_size,
        "index": result.leaf_index,
        "issuer": result.issuer,
        "subject": result.subject,
        "kid": result.protected_header_ext[4].hex(),
    }


def dsse(envelope, key):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    envelope = json.loads(envelope)
    # The key is given; its id in the envelope is only how securesystemslib finds it.
    key_id = envelope["signatures"][0]["keyid"]
    key = SSlibKey.from_crypto(load_pem_public_key(key), keyid=key_id)
    envelope = Envelope.from_dict(envelope)
    try:
        envelope.verify([key], 1)
    except VerificationError as error:
        sys.exit(f"refused: {error}")
    if envelope.payload_type != "application/vnd.in-toto+json":
        sys.exit("refused: not an in-toto statement")
    # Unknown fields, and fields of another type, are refused here.
    statement = json_format.Parse(envelope.payload, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    return json.loads(envelope.payload)


def main():
    kind, *paths = sys.argv[1:]
    files = [open(path, "rb").read() for path in paths]
    print(json.dumps({"cose": cose, "dsse": dsse}[kind](*files)))


main()
