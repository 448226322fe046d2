#!/bin/sh
# Makes the server's certificate for docker-compose.yml, once, if TLS is on, and the CA that signs it.
# The CA's key is not kept: it signs nothing else.
set -eu
umask 077
# valkey.sh refuses the values that are neither yes nor no.
if [ "$EGREGORE_BROKER_TLS" != yes ] || [ -e /tls/server.pem ]; then
  exit 0
fi
cd /tls
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $key -days 3650 -subj "/CN=egregore-dist CA" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -keyout "$temporary/ca.key" -out "$temporary/ca.pem"
openssl req $key -subj "/CN=valkey" -keyout "$temporary/server.key" -out "$temporary/server.csr"
printf 'subjectAltName=DNS:valkey,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > "$temporary/extensions"
openssl x509 -req -in "$temporary/server.csr" -CA "$temporary/ca.pem" -CAkey "$temporary/ca.key" -CAcreateserial \
  -days 3650 -extfile "$temporary/extensions" -out "$temporary/server.pem"
install -m 0400 "$temporary/server.key" server.key
install -m 0444 "$temporary/ca.pem" ca.pem
# Last: its presence means that the certificate is complete.
install -m 0444 "$temporary/server.pem" server.pem
