# shellcheck shell=bash
# Builds the programs and says where they are. POOL_PROFILE=debug builds without optimisation; POOL_BUILD=no uses existing
# programs.

use_profile() {
    PROFILE="$1"
    case "$PROFILE" in
    debug | release) ;;
    *) fail "POOL_PROFILE is $PROFILE: set it to debug or release" ;;
    esac
    # shellcheck disable=SC2034 # used by the scripts that source this file
    BIN="${CARGO_TARGET_DIR:-$ROOT/target}/$PROFILE"
}

use_profile "${POOL_PROFILE:-release}"

# build_binaries [NAME…] : these programs, or all. The features are those of the whole workspace either way, so that
# nothing is built twice.
build_binaries() {
    local options=(--locked --workspace) name
    if [ "${POOL_BUILD:-}" = no ]; then
        [ -x "$BIN/pool" ] || fail "POOL_BUILD is no, but $BIN/pool is missing: unset POOL_BUILD to build it"
        return
    fi
    [ $# -gt 0 ] || options+=(--bins)
    for name in "$@"; do
        options+=(--bin "$name")
    done
    [ "$PROFILE" = debug ] || options+=(--release)
    (cd "$ROOT" && cargo build "${options[@]}")
}
