#!/usr/bin/env bash
# Instructions per command in the core, for a fixed script of traffic (tests/simulation/src/bin/price.rs), by callgrind: with the journal
# and without. The count does not depend on the machine's mood. Fails when the journal costs more than JOURNAL_MAX per cent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v valgrind >/dev/null || { echo "price: valgrind is missing (apt-get install valgrind)" >&2; exit 1; }
cargo build --quiet --profile fast -p twinlane-simulation --bin price
program=${CARGO_TARGET_DIR:-target}/fast/price
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
