#!/usr/bin/env bash
# Twinlane beside its peers, all in turn in one run on servers of their own: `loadtest bench`, memory of idle connections, fairness.
#
#   loadtest/bench.sh [--rounds N] [--seconds S] [--filter TEXT] [--out DIRECTORY]
#
# Writes mirroring.{json,html,md} and, with mirroring off, single.{json,html,md} into DIRECTORY (target/bench). Peers that are not there are left out and named: nutcracker and
# haproxy (Debian's packages of that name), PREDIXY=path of a predixy, ENVOY=path of an envoy, SHOTOVER=path of a shotover-proxy, whose Tee writes to both servers. Loopback only; everything that is started here ends here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=5 seconds=3 filter="" out=${CARGO_TARGET_DIR:-target}/bench
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 ;;
    --seconds) seconds=$2 ;;
    --filter) filter=$2 ;;
    --out) out=$2 ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
bin=${CARGO_TARGET_DIR:-target}/${PROFILE:-release}
loadtest=$bin/loadtest
mkdir -p "$out"
work=$(mktemp -d)
pids=""
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT

server=$(command -v redis-server || echo .servers/redis-7.0)
start() { # number -> "port pid" of a server of our own
    local port
    for _ in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 10000))
        mkdir -p "$work/$1"
        "$server" --port "$port" --bind 127.0.0.1 --dir "$work/$1" --save "" --appendonly no --maxclients 15000 >"$work/$1/log" &
        local pid=$!
        for _ in $(seq 100); do
            if grep -q "Ready to accept" "$work/$1/log" && kill -0 $pid; then
                echo "$port $pid"
                return
            fi
            kill -0 $pid 2>/dev/null || break
            sleep 0.05
        done
        kill $pid 2>/dev/null || true
    done
    echo "bench: $server does not start" >&2
    return 1
}
# Each run has two servers of its own: a twinlane refuses a pair that carries the mark of another one.
number=0
pair() {
    number=$((number + 1))
    start "old$number" >"$work/where"; read -r old old_pid <"$work/where"; pids="$pids $old_pid"
    start "new$number" >"$work/where"; read -r new new_pid <"$work/where"; pids="$pids $new_pid"
    direct=direct=127.0.0.1:$old,pid=$old_pid
    twinlane=spawn:127.0.0.1:$old,new=127.0.0.1:$new,binary=$bin/twinlane
    peers=()
    for name in nutcracker haproxy; do
        if command -v $name >/dev/null; then peers+=(--target "$name=spawn:127.0.0.1:$old"); fi
    done
    if [ -n "${PREDIXY:-}" ]; then peers+=(--target "predixy=spawn:127.0.0.1:$old,binary=$PREDIXY"); fi
    if [ -n "${ENVOY:-}" ]; then peers+=(--target "envoy=spawn:127.0.0.1:$old,binary=$ENVOY"); fi
    dual=()
    if [ -n "${SHOTOVER:-}" ]; then dual+=(--target "shotover=spawn:127.0.0.1:$old,new=127.0.0.1:$new,binary=$SHOTOVER"); fi
}
for name in nutcracker haproxy; do command -v $name >/dev/null || echo "bench: no $name here" >&2; done
[ -n "${ENVOY:-}" ] || echo "bench: no envoy here (ENVOY=path)" >&2
[ -n "${SHOTOVER:-}" ] || echo "bench: no shotover here (SHOTOVER=path)" >&2
[ -n "${PREDIXY:-}" ] || echo "bench: no predixy here (PREDIXY=path)" >&2

run() { # name of the report, then what bench is given
    local name=$1
    shift
    "$loadtest" bench --target "$direct" "${peers[@]}" "$@" --rounds "$rounds" --seconds "$seconds" ${filter:+--filter "$filter"} \
        --json "$out/$name.json" --html "$out/$name.html" --markdown "$out/$name.md"
}
pair
run mirroring "${dual[@]}" --target "twinlane=$twinlane" --server-pid "$old_pid" --server-pid "$new_pid"
pair
run single --target "twinlane=$twinlane,mirroring=off" --server-pid "$old_pid"
if [ -z "$filter" ]; then
    pair
    "$loadtest" idle --target "twinlane=$twinlane" --connections 10000 --mib-max 100 | tee "$out/idle.txt"
    pair
    "$loadtest" fairness --target "$direct" "${peers[@]}" --target "twinlane=$twinlane" | tee "$out/fairness.txt"
fi
echo "bench: reports are in $out"
