#!/bin/sh
# Makes the passwords of docker-compose.yml, one for each role, in secrets/; those that exist are kept. Needs sudo:
# the server and the programs of one role read a password by their group, 10001.
set -eu
cd "$(dirname "$0")/.."
mkdir -p secrets
for role in worker client viewer operator; do
  file=secrets/${role}_password
  if [ ! -e "$file" ]; then
    (umask 077; openssl rand -hex 32 > "$file")
    sudo chown root:10001 "$file"
    sudo chmod 0440 "$file"
  fi
done
