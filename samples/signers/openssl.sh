#!/bin/sh
# A signer for Jurat (docs/formats/signer.md) in POSIX sh, with the key in a file and nothing but openssl:
#   umask 077; openssl ecparam -name prime256v1 -genkey -noout -out log.key
#   sh openssl.sh log.key
# For a KMS, replace what `point` and `sign` do.
set -u
key=$1

point() {
  # The last 65 bytes of the public key in DER are the uncompressed point.
  openssl pkey -in "$key" -pubout -outform DER | tail -c 65 | openssl base64 -A
}

sign() {
  bytes "$1" | openssl pkeyutl -sign -inkey "$key" | openssl base64 -A
}

# Hexadecimal digits as bytes.
bytes() {
  digits=$1
  while [ -n "$digits" ]; do
    rest=${digits#??}
    printf "\\$(printf %03o "0x${digits%"$rest"}")"
    digits=$rest
  done
}

answer() {
  if [ -n "$2" ]; then echo "$1 $2"; else echo "error openssl cannot use $key"; fi
}

while IFS= read -r request; do
  case $request in
    jurat-signer/v1) answer jurat-signer/v1 "$(point)" ;;
    "sign "*[!0-9a-f]*) echo "error not a digest" ;;
    "sign "????????????????????????????????????????????????????????????????) answer ok "$(sign "${request#sign }")" ;;
    *) echo "error unknown request" ;;
  esac
done
