# Sourced by the scripts beside it, after setup.sh: a throwaway PostgreSQL in a temporary directory.
#
# Comes in: PostgreSQL's programs. Goes out: a server on a private socket, PGHOST, PGPORT and PGUSER set to it,
# and a directory, $throwaway, that is removed with all that is in it when the script ends, however it ends.
# It listens on no network address.
# shellcheck shell=bash

throwaway=
programs=
# Processes that end with the script.
companions=()

# open_throwaway NAME [DIRECTORY]: makes the temporary directory, below /tmp unless told otherwise.
open_throwaway() {
  # Settings of the caller's own PostgreSQL and Belay must not leak into this.
  unset "${!PG@}" "${!BELAY_@}"
  programs=$(postgresql_programs) || die "PostgreSQL's programs are missing"
  trap close_throwaway EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  throwaway=$(mktemp -d "${2:-/tmp}/belay-$1.XXXXXX")
  # The server's user goes through it; PostgreSQL's path of a socket may have 107 bytes.
  chmod 755 "$throwaway"
  [ "$(id -u)" -ne 0 ] || chown postgres: "$throwaway"
  export PGHOST=$throwaway PGPORT=5432 PGUSER=postgres PATH=$programs:$PATH
  cd "$throwaway"
}

# Runs a command as the user that owns the cluster: PostgreSQL's server refuses root.
as_owner() {
  if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# start_server [SETTING…]: settings as lines of postgresql.conf.
start_server() {
  as_owner initdb --pgdata="$throwaway/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
    --no-sync >"$throwaway/initdb.log" 2>&1 || die "initdb: $(tail -n 5 "$throwaway/initdb.log")"
  printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$throwaway'" "$@" |
    as_owner tee -a "$throwaway/data/postgresql.conf" >/dev/null
  as_owner pg_ctl --pgdata="$throwaway/data" --log="$throwaway/server.log" --wait --silent start ||
    die "the server does not start: $(tail -n 5 "$throwaway/server.log")"
}

# query DATABASE SQL [ARGUMENT…]: bare rows, as psql prints them with -At.
query() {
  local database=$1 sql=$2
  shift 2
  psql -XqAt -v ON_ERROR_STOP=1 -d "$database" "$@" -c "$sql"
}

close_throwaway() {
  local status=$?
  # A second Ctrl-C must not stop the cleaning.
  trap '' INT TERM HUP
  trap - EXIT
  for companion in "${companions[@]}"; do kill "$companion" 2>/dev/null || true; done
  if [ -n "$throwaway" ]; then
    cd /
    if [ -e "$throwaway/data/postmaster.pid" ]; then
      as_owner pg_ctl --pgdata="$throwaway/data" --mode=immediate --wait --silent stop || true
    fi
    rm -rf "$throwaway"
  fi
  exit "$status"
}
