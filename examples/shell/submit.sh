#!/usr/bin/env bash
# Submits one task over HTTP, waits for its result and prints "ID STATUS COMMIT". Needs curl and jq.
#
#   POOL_URL=http://127.0.0.1:6141 ./submit.sh
#
# POOL_API_TOKEN is sent when it is set. If the task does not succeed, it prints the reason and ends with status 1.
set -euo pipefail

WAIT_S=600

fail() {
    echo "$*" >&2
    exit 1
}

[ -n "${POOL_URL:-}" ] || fail "POOL_URL is not set; expected the address of a dispatcher, http://127.0.0.1:6141"
answer="$(mktemp)"
trap 'rm -f "$answer"' EXIT

# call PATH [CURL OPTION…]: writes the answer into the file $answer. Sends the request again when a dispatcher is
# missing, or busy (429, 503).
call() {
    local path="$1"
    shift
    [ -z "${POOL_API_TOKEN:-}" ] || set -- -H "authorization: Bearer $POOL_API_TOKEN" "$@"
    curl -sS --fail-with-body --retry 3 --retry-connrefused -o "$answer" "$@" "$POOL_URL$path"
}

# An id of your own makes it safe to repeat the request: the pool does the task once.
id="shell-$(cat /proc/sys/kernel/random/uuid)"
task="$(jq -n --arg id "$id" '{
    $id,
    instruction: "Give every public function of ledger/text.py a docstring",
    repository: "sample",
    files: ["ledger/text.py"],
    capabilities: ["fast"]
}')"

call /tasks -H 'content-type: application/json' --data "$task" ||
    fail "the dispatcher at $POOL_URL did not accept the task: $(cat "$answer")"

deadline=$((SECONDS + WAIT_S))
until call "/tasks/$id" && jq -e '.result' "$answer" >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || fail "no result of $id within $WAIT_S s; the task stays in its queue"
    sleep 1
done

jq -e '.result.status == "succeeded"' "$answer" >/dev/null ||
    fail "$(jq -r '.result | "\(.task_id) \(.status): \(.error.message)"' "$answer")"
jq -r '.result | "\(.task_id) \(.status) \(.commit)"' "$answer"
