#!/usr/bin/env bash
# What a newcomer and a bad day would do, on a fresh clone in a temporary folder: up, up again, use, kill -9 of `make up`
# at random moments followed by `make up`, down; then proof that nothing is left. Needs root, as the lab's full rung does.
#
# Usage: scripts/acceptance.sh [KILLS]        default 3; SEED=n repeats a run, KEEP=1 keeps the clone
# Exit code: 0 when every row of the table says ok.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
kills=${1:-3}
RANDOM=${SEED:=$$}
UP_LIMIT_S=240 SECOND_UP_LIMIT_S=60 LATEST_KILL_MS=20000

[ "$(id -u)" = 0 ] || { echo "acceptance: needs root (the lab's full rung)" >&2; exit 2; }
folder=$(mktemp -d) clone=$folder/ztna log=$folder/log rows="" failed=0
run=""

finish() {
  [ -d "$clone" ] && make -s -C "$clone" down >>"$log" 2>&1
  if [ "${KEEP:-0}" = 1 ] || [ "$failed" != 0 ]; then echo "acceptance: clone and log are in $folder"; else rm -rf "$folder"; fi
}
trap finish EXIT

row() { # NAME VERDICT SECONDS LIMIT
  rows+=$(printf '| %-46s | %-6s | %7s | %5s |' "$1" "$2" "$3" "$4")$'\n'
  echo "acceptance: $1: $2 ${3:+($3 s)}"
  [ "$2" = ok ] || failed=1
}

timed() { # NAME LIMIT_S COMMAND...
  local name=$1 limit=$2 began took verdict=ok
  shift 2
  began=$(date +%s%N)
  echo "== $name: $*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null || verdict=FAILED
  took=$((($(date +%s%N) - began) / 1000000))
  [ "$took" -lt $((limit * 1000)) ] || verdict=SLOW
  row "$name" "$verdict" "$((took / 1000)).$((took % 1000 / 100))" "$limit"
}

kill_up() { # Start `make up` from nothing and kill it with everything in its process group after a random time.
  local after=$((RANDOM % LATEST_KILL_MS)) pid
  timed "make down" 60 make down
  setsid make up >>"$log" 2>&1 </dev/null &
  pid=$!
  sleep "$((after / 1000)).$(printf %03d $((after % 1000)))"
  kill -9 -- "-$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  timed "make up after kill -9 at $after ms" "$UP_LIMIT_S" make up
}

outside() { # What a lab must not change outside of its namespaces.
  { nft list tables; ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/link \1/'; ip route; cut -d' ' -f2 /proc/mounts; } | sort
}

gone() { # NAME COMMAND...: the command must print nothing.
  local name=$1 found
  shift
  found=$("$@" 2>/dev/null)
  if [ -z "$found" ]; then row "nothing left: $name" ok "" ""; else row "nothing left: $name" FAILED "" "" && echo "$found" | head -20; fi
}

processes() { # Processes that carry the run's mark or run from the clone.
  grep -lzE "^ZTNA_LAB_RUN_DIR=.*/$run\$" /proc/[0-9]*/environ
  grep -lz "${clone%ztna}[z]tna/" /proc/[0-9]*/cmdline # not this grep itself
}

cd "$root" || exit 2
git clone --quiet "$root" "$clone" && cd "$clone" || exit 2
echo "acceptance: commit $(git rev-parse --short HEAD), seed $SEED, log $log, load $(cut -d" " -f1 /proc/loadavg) on $(nproc) CPUs"
outside >"$folder/before"

timed "make up on a fresh clone" "$UP_LIMIT_S" make up
timed "make up again" "$SECOND_UP_LIMIT_S" make up
run=$(.venv/bin/ztna output --stack lab run)
timed "ztna exec agent -- ping" 30 .venv/bin/ztna exec --stack lab agent -- ping -c 3 100.64.0.100
timed "ztna exec agent -- curl" 30 .venv/bin/ztna exec --stack lab agent -- curl -sf http://100.64.0.101/get
for _ in $(seq "$kills"); do kill_up; done
timed "make down" 60 make down

gone "namespaces" bash -c "ip netns list | grep -F 'ztna.$run.'"
gone "processes" processes
gone "mounts" grep -F "$run" /proc/mounts
gone "files of the run" ls -d "/run/ztna-lab/$run"
gone "tables, links, routes, mounts" bash -c "diff '$folder/before' <($(declare -f outside); outside) | grep '^>' | grep -v ' /run/netns'"

printf '\n| %-46s | %-6s | %7s | %5s |\n|---|---|---:|---:|\n%s' "step" "result" "seconds" "limit" "$rows"
exit "$failed"
