#!/usr/bin/env bash
# Takes the pictures of the dashboard in docs/images from the pool of this checkout, which must run the trial.
#
#   scripts/local-pool start --trial config/trial.yaml
#   scripts/lib/pictures.sh [DIRECTORY]          default: docs/images
#   scripts/local-pool stop
#
# It submits the task of the README, the twelve tasks of the trial, and one task whose check cannot pass; these take two
# minutes. Then it submits the trial again and takes the pictures while programmers work. Needs chromium and pngquant.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=scripts/lib/common.sh
. "$HERE/lib/common.sh"
help_only "$@"
# shellcheck source=scripts/lib/build.sh
. "$HERE/lib/build.sh"

LARGEST=122880
IMAGES="$(realpath "${1:-$ROOT/docs/images}")"
# Ids that nobody else has, and that a reader can read.
RUN="$(date -u +%H%M)"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT

# take NAME SIZE PLACE : PLACE is what stands behind the # in the dashboard's address.
take() {
    local file="$IMAGES/dashboard-$1.png" large="$WORK/$1.png" bytes
    # The virtual time is what the page gets to load and draw.
    timeout 60 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="$2" \
        --virtual-time-budget=4000 --screenshot="$large" "$POOL_URL/#$3" 2>/dev/null
    pngquant --force --output "$file" 256 "$large"
    bytes="$(stat -c %s "$file")"
    [ "$bytes" -le "$LARGEST" ] || fail "$file has $bytes bytes; $LARGEST are allowed: make its window smaller"
    say "$file ($bytes bytes)"
}

submit() { "$BIN/pool" submit "$@" >/dev/null || true; }

{ has chromium && has pngquant; } || fail "chromium or pngquant is missing: apt-get install chromium pngquant"
settings="$("$HERE/local-pool" env)"
while IFS='=' read -r name value; do
    export "$name=$value"
done <<<"$settings"

step "Tasks"
submit --wait --id "median-$RUN" --label run_id=readme --repository sample --capability fast --file ledger/stats.py \
    --instruction 'Write the function median in ledger/stats.py that tests/test_stats.py asks for. The result is in whole cents, rounded down.' \
    --check 'python3 -m unittest tests.test_stats'
submit --wait --id "mean-$RUN" --label run_id=readme --repository sample --capability fast --file ledger/stats.py \
    --instruction 'Write the function median in ledger/stats.py that tests/test_stats.py asks for.' --check 'grep -q geometric ledger/stats.py'
submit --wait --batch "monday-$RUN" --label run_id=monday "$ROOT/config/trial/tasks.yaml"
submit --batch "tuesday-$RUN" --label run_id=tuesday "$ROOT/config/trial/tasks.yaml"
submit --batch "wednesday-$RUN" --label run_id=wednesday "$ROOT/config/trial/tasks.yaml"

step "Pictures"
take pool 1200,860 /
take budget 1200,560 /budget
# Some of the newest tasks have ended then, and others run.
"$BIN/pool" watch --label run_id=tuesday >/dev/null || true
take tasks 1200,760 /tasks
take task 1200,840 "/tasks/median-$RUN"
take report 1280,460 /report
