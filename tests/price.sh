#!/usr/bin/env bash
# Instructions per command in the core, for a fixed script of traffic (tests/simulation/src/bin/price.rs), by callgrind: with the journal
# and without, with shadow reads of one per cent and of all reads and without. The count does not depend on the machine's mood. Fails when
# the journal costs more than JOURNAL_MAX per cent, or shadow reads of one per cent more than SHADOW_MAX. What all of them cost a process
# with its sockets tells `prove shadow-price`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v valgrind >/dev/null || { echo "price: valgrind is missing (apt-get install valgrind)" >&2; exit 1; }
cargo build --quiet --release -p twinlane-simulation --bin price
program=${CARGO_TARGET_DIR:-target}/release/price
limit=${JOURNAL_MAX:-5}

counted() { # what price is given -> instructions
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no --toggle-collect='*counted*' "$program" "$@" 2>&1 |
        sed -n 's/.*Collected : *//p'
}
per_command() { # depth [--journal]; the preparation is in both runs
    echo $((($(counted 24000 "$@") - $(counted 8000 "$@")) / 16000))
}
for depth in 1 16; do
    without=$(per_command $depth)
    with=$(per_command $depth --journal)
    echo "depth $depth: $without instructions per command, $with with the journal ($(((with - without) * 1000 / without)) per mille more)"
    if [ $(((with - without) * 100)) -gt $((without * limit)) ]; then
        echo "price: the journal costs more than $limit per cent" >&2
        exit 1
    fi
done

limit=${SHADOW_MAX:-2}
for depth in 1 16; do
    without=$(per_command $depth --reads)
    some=$(per_command $depth --reads --shadow=10000)
    all=$(per_command $depth --reads --shadow=1000000)
    more() { echo $((($1 - without) * 1000 / without)); }
    echo "depth $depth: $without instructions per read, $some with shadow reads of one per cent ($(more "$some") per mille more), $all of all ($(more "$all"))"
    if [ $(((some - without) * 100)) -gt $((without * limit)) ]; then
        echo "price: shadow reads of one per cent cost more than $limit per cent" >&2
        exit 1
    fi
done
