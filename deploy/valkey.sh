#!/bin/sh
# Starts the server of docker-compose.yml with one user for each role and, in the profile tls, with TLS alone.
# `read` and `printf` are part of the shell: no password is in any process's arguments.
set -eu
umask 077
{
  echo "user default off"
  for role in worker client viewer operator; do
    password=
    read -r password < "/run/secrets/${role}_password" || [ -n "$password" ]
    while read -r line; do
      case "$line" in
        "user "*) printf '%s >%s\n' "$line" "$password" ;;
      esac
    done < "/etc/valkey/acl/egregore-$role.acl"
  done
} > /run/valkey/users.acl
set -- /etc/valkey/valkey.conf
if [ "${EGREGORE_BROKER_TLS:-}" = yes ]; then
  set -- "$@" --include /etc/valkey/tls.conf
fi
exec valkey-server "$@"
