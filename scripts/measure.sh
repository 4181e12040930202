# Sourced by the scripts that measure, after cluster.sh: builds, rounds, figures and their ratios.
#
# Comes in: $binary (measured instead of a build, if it is not empty) and $round. Goes out: $throwaway/belay, and
# lines of $throwaway/figures: round, what was measured, the figure.
# shellcheck shell=bash

say() {
  printf '%s  %s\n' "$(date +%H:%M:%S)" "$1" >&2
}

build() {
  local target=${CARGO_TARGET_DIR:-$root/target}
  if [ -n "$binary" ]; then
    install -m 755 "$binary" "$throwaway/belay"
    return
  fi
  if [ "$both" = yes ]; then
    say "building without ISA-L"
    (cd "$root" && cargo build --locked --quiet --release --bin belay)
    install -m 755 "$target/release/belay" "$throwaway/belay-plain"
  fi
  say "building with ISA-L"
  (cd "$root" && cargo build --locked --quiet --release --features isal --bin belay)
  install -m 755 "$target/release/belay" "$throwaway/belay"
}

# note WHAT VALUE: a measurement of the round that runs.
note() {
  printf '%s\t%s\t%s\n' "$round" "$1" "$2" >>"$throwaway/figures"
}

# timed WHAT COMMAND…: notes how long it took; the disk is quiet when it begins.
timed() {
  local what=$1 from
  shift
  query postgres CHECKPOINT
  sync
  from=$EPOCHREALTIME
  "$@"
  note "$what" "$(LC_ALL=C awk -v from="${from/,/.}" -v to="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.3f", to - from }')"
}

# belay PROGRAM WHAT ARGUMENT…: notes the peak of its memory, in KiB; what its children take counts if it is more.
belay() {
  local program=$1 what=$2
  shift 2
  /usr/bin/time --quiet -f %M -o "$throwaway/peak" "$throwaway/$program" --quiet --config "$throwaway/belay.toml" --json "$@" \
    >"$throwaway/said.json"
  note "peak $what" "$(cat "$throwaway/peak")"
}

# in_turn FUNCTION CONTENDER…: calls it for each, in reverse in every second round.
in_turn() {
  local call=$1 one order=()
  shift
  for one in "$@"; do
    if [ $((round % 2)) -eq 1 ]; then order+=("$one"); else order=("$one" "${order[@]}"); fi
  done
  for one in "${order[@]}"; do
    say "round $round: ${call%_by} by $one"
    "$call" "$one"
  done
}

# What the tables of figures are made with, for awk: a row fails the whole when its target is missed.
# shellcheck disable=SC2034,SC2016 # it is used by those who source this, and expanded by awk
table_functions='
    function median(text,   parts, n, i, j, held) {
      n = split(text, parts, " ")
      for (i = 2; i <= n; i++)
        for (j = i; j > 1 && parts[j - 1] + 0 > parts[j] + 0; j--) { held = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = held }
      return n % 2 ? parts[(n + 1) / 2] + 0 : (parts[n / 2] + parts[n / 2 + 1]) / 2
    }
    # ratios OVER UNDER: of each round, in one text.
    function ratios(over, under,   r, text) {
      for (r = 1; r <= rounds; r++) text = text " " at[over, r] / at[under, r]
      return text
    }
    function all(what,   r, text) {
      for (r = 1; r <= rounds; r++) text = text " " at[what, r]
      return text
    }
    function row(what, target, measured, passes, detail) {
      printf "%-54s %10s %10s  %s%s\n", what, target, measured, passes ? "PASS" : "FAIL", detail == "" ? "" : "  " detail
      failed += !passes
    }
    function memory(what, key) {
      row(what, "<= 160 MiB", sprintf("%.0f MiB", peak[key] / 1024), peak[key] <= 160 * 1024, "")
    }
    { at[$2, $1] = $3 }
    $2 ~ /^peak / { key = substr($2, 6); if ($3 > peak[key]) peak[key] = $3 }
'
