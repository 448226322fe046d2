#!/bin/sh
# Starts the server of docker-compose.yml with one user for each role and, with EGREGORE_BROKER_TLS=yes, with TLS alone.
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
case "$EGREGORE_BROKER_TLS" in
  yes) set -- "$@" --include /etc/valkey/tls.conf ;;
  no)
    # A command that does not see the variable must not turn TLS off.
    if [ -e /tls/server.pem ]; then
      echo "the volume tls has a certificate, but TLS is off: write EGREGORE_BROKER_TLS=yes into .env," \
        "or remove the volume to use no TLS" >&2
      exit 1
    fi
    ;;
  *)
    echo "EGREGORE_BROKER_TLS is '$EGREGORE_BROKER_TLS': it must be yes or no" >&2
    exit 1
    ;;
esac
exec valkey-server "$@"
