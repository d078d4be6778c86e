#!/usr/bin/env bash
# Redis's own test suite, run by a client that cannot see the proxy's inside, as the judge of what clients see (I3); and
# the comparer, after every unit, as the judge of what the mirror holds (I5).
#
# The suite is in Debian's source package of Redis 7.0.15. It is fetched with apt into .servers/redis-suite (git-ignored)
# with package lists of its own, so the machine's apt configuration is not touched and nothing is installed. Two servers
# and the proxy run on free ports, in a folder of their own.
#
#   tests/conformance/run.sh                      all units
#   tests/conformance/run.sh unit/type/string ... these
#
# skip.txt names every test that is left out, with its reason. What is not in it must pass. A unit that hangs is ended
# after UNIT_SECONDS; its remaining tests count as failed. FLOOR is the number of tests that must pass in a full run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
store=${TWINLANE_SERVERS:-$root/.servers}
suite=${TWINLANE_SUITE:-$store/redis-suite}
target=${CARGO_TARGET_DIR:-$root/target}
profile=${PROFILE:-release}
limit=${UNIT_SECONDS:-600}
floor=${FLOOR:-1700}
skip=$root/tests/conformance/skip.txt
version=7.0.15

# Tests that need what the proxy refuses on purpose, by the suite's own tags; encodings and digests are the server's.
flags=(--tags "-needs:debug -needs:repl -needs:save -needs:reset -slow" --ignore-encoding --ignore-digest --durable)
allow="CONFIG SET, CONFIG RESETSTAT, CONFIG REWRITE, SLOWLOG RESET, LATENCY RESET, MEMORY PURGE, BGSAVE, BGREWRITEAOF, ACL SETUSER, ACL DELUSER, ACL LIST, ACL GETUSER, ACL LOG, ACL USERS, ACL DRYRUN"

say() { echo "conformance: $*"; }

fetch_suite() {
    [ -x "$suite/runtest" ] && return
    local work parts options file
    say "downloading Debian's source package of redis into $suite (nothing is installed, no apt setting is changed)"
    work=$(mktemp -d)
    parts=$work/parts
    mkdir -p "$parts" "$work/lists/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        if [ -f "$file" ]; then sed -n 's/^deb /deb-src /p' "$file" >"$parts/$(basename "$file" .list).list"; fi
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        if [ -f "$file" ]; then sed 's/^Types:.*/Types: deb-src/' "$file" >"$parts/$(basename "$file")"; fi
    done
    options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$parts" -o "Dir::State::lists=$work/lists" -o "APT::Sandbox::User=$(id -un)")
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" source --download-only redis)
    if [ ! -f "$work/redis_$version.orig.tar.gz" ]; then
        say "this Debian's redis is not $version: $(ls "$work")" >&2
        exit 2
    fi
    rm -rf "$suite.part"
    mkdir -p "$suite.part"
    tar -xzf "$work/redis_$version.orig.tar.gz" -C "$suite.part" --strip-components=1
    # Debian's security fixes bring tests of their own, for the servers that Debian ships.
    tar -xJf "$work"/redis_"$version"-*.debian.tar.xz -C "$work"
    while read -r file; do
        patch --directory="$suite.part" --strip=1 --quiet --forward --batch <"$work/debian/patches/$file" >/dev/null
    done < <(grep -v '^#' "$work/debian/patches/series")
    mv "$suite.part" "$suite"
    rm -rf "$work"
}

link_servers() {
    local name place
    for name in redis-server redis-cli redis-benchmark; do
        place=$(command -v "$name" || echo "$store/debian/usr/bin/$name")
        ln -sf "$place" "$suite/src/$name"
    done
    if [ -d "$store/debian/usr/lib" ]; then
        LD_LIBRARY_PATH=$(find "$store/debian/usr/lib" -maxdepth 1 -type d | paste -sd:)
        export LD_LIBRARY_PATH
    fi
}

# A free port of the thousand from $1 on. Each use has its own range, so that no two are given the same one; all lie below those that the
# tests' harness draws from (10,000) and the kernel (32,768).
free_port() {
    local port
    while :; do
        port=$(($1 + RANDOM % 1000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

pids=()
# SIGKILL, because a server that runs an endless script takes nothing else.
stop() {
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
    rm -rf "$dir/old" "$dir/new" "$dir/state"
}

start() {
    old=$(free_port 3000) new=$(free_port 4000) port=$(free_port 5000) admin=$(free_port 6000)
    for side in old new; do
        mkdir "$dir/$side"
        "$suite/src/redis-server" --port "${!side}" --save "" --dir "$dir/$side" --enable-debug-command yes --enable-protected-configs yes \
            --daemonize no >"$dir/$side.log" &
        pids+=($!)
    done
    for _ in $(seq 600); do
        if "$suite/src/redis-cli" -p "$old" ping >/dev/null 2>&1 && "$suite/src/redis-cli" -p "$new" ping >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
    TWINLANE__COMMANDS__ALLOW=$allow "$target/$profile/twinlane" serve --listen "127.0.0.1:$port" --admin "127.0.0.1:$admin" \
        --old "redis://127.0.0.1:$old" --new "redis://127.0.0.1:$new" --state-dir "$dir/state" >"$dir/proxy.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 600); do
        if curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null; then return; fi
        sleep 0.1
    done
    say "the proxy does not become ready; its log: $dir/proxy.log" >&2
    exit 2
}

# Waits until the mirror has confirmed everything, then compares. True when both servers hold the same.
equal() {
    local status report
    for _ in $(seq 150); do
        status=$(curl -s "http://127.0.0.1:$admin/v1/status")
        if [[ $status == *'"queued_effects":0,'* && $status == *'"dirty_keys":0,'* && $status == *'"unsynced_databases":[]'* ]]; then
            report=$("$target/$profile/compare" --old "127.0.0.1:$old" --new "127.0.0.1:$new" 2>&1) && return 0
            echo "$report" | sed 's/^/    /' | head -20
            return 1
        fi
        sleep 0.2
    done
    say "the mirror does not come to rest: $status"
    return 1
}

# One unit: its log, its numbers. Adds to passed, failed, different.
run_unit() {
    local unit=$1 log names ok err rest="" over=""
    log=$dir/$(echo "$unit" | tr / -).log
    names=$dir/skip
    awk -F '\t' -v unit="$unit" '$1 == unit { print $2 }' "$skip" >"$names"
    if grep -qx '\*' "$names"; then
        echo "$unit: left out ($(awk -F '\t' -v unit="$unit" '$1 == unit && $2 == "*" { print $3 }' "$skip"))"
        return
    fi
    (cd "$suite" && timeout --signal=KILL "$limit" ./runtest --baseport "$(free_port 7000)" --host 127.0.0.1 --port "$port" --single "$unit" --skipfile "$names" "${flags[@]}" </dev/null) >"$log" 2>&1 || over=$?
    sed -i 's/\x1b\[[0-9;]*m//g' "$log"
    ok=$(grep -c '^\[ok\]' "$log" || true)
    err=$(grep -c '^\[err\]\|^\[exception\]' "$log" || true)
    if [ "$over" = 137 ]; then rest=", ended after ${limit}s at: $(grep '^\[ok\]\|^\[err\]' "$log" | tail -1)" && err=$((err + 1)); fi
    if [ -n "$over" ] && [ "$err" = 0 ]; then rest=", the suite itself failed: $(tail -1 "$log")" && err=1; fi
    equal >"$dir/report" || { rest="$rest, THE SERVERS DIFFER" && different=$((different + 1)); }
    passed=$((passed + ok)) failed=$((failed + err))
    if [ "$ok$err$rest" != 00 ]; then echo "$unit: $ok ok, $err failed$rest"; fi
    grep '^\[err\]\|^\[exception\]' "$log" | sort -u | sed 's/^/    /' || true
    cat "$dir/report"
    # What a unit left behind (settings, endless scripts) must not judge the next one.
    stop && start
}

# Read as a whole before it runs: a change of this file does not reach a run that goes on.
main() {
    fetch_suite
    link_servers
    cargo build --profile "$profile" -p twinlane -p twinlane-tests --bin twinlane --bin compare
    dir=$(mktemp -d -t twinlane-conformance.XXXXXX)
    trap stop EXIT
    start
    passed=0 failed=0 different=0
    units=("$@")
    if [ $# = 0 ]; then mapfile -t units < <(cd "$suite" && ./runtest --list-tests </dev/null | grep .); fi
    for unit in "${units[@]}"; do run_unit "$unit"; done
    say "$passed ok, $failed failed, servers differed after $different units, $(grep -c '^[^#]' "$skip") entries in skip.txt; logs in $dir"
    [ "$failed" = 0 ] && [ "$different" = 0 ] && { [ $# != 0 ] || [ "$passed" -ge "$floor" ]; }
}

main "$@"
