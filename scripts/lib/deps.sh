# shellcheck shell=bash
# Installs missing programs on Debian 12 and Ubuntu 22.04/24.04. It does not touch installed ones.

AIDER_VERSION=0.86.2
AIDER_DIR="$DATA/aider"
CODEX_VERSION=0.169.0
CLAUDE_VERSION=2.1.197
AGENTS_DIR="$DATA/agents"
SCHEMATHESIS_VERSION=4.32.5
SCHEMATHESIS_DIR="$DATA/schemathesis"
RABBITMQ_BIN="${RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}"
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="written by programmer-pool"

# --- packages of the distribution ---------------------------------------------------------------------------------

# Prints the names of missing packages. Arguments: broker, agent, build, pika, clients (of examples/), faketime, browser, prometheus.
missing_packages() {
    local want
    for want in "$@"; do
        case "$want" in
        broker) [ -x "$RABBITMQ_BIN/rabbitmq-server" ] || echo rabbitmq-server ;;
        agent) agent_python >/dev/null || echo python3 python3-venv ;;
        build) { has cc || echo gcc libc6-dev; } && { has git || echo git; } ;;
        pika) /usr/bin/python3 -c 'import pika' 2>/dev/null || echo python3-pika ;;
        clients)
            has curl || echo curl
            has jq || echo jq
            { has node && has npm; } || echo nodejs npm
            ;;
        faketime) compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || echo libfaketime ;;
        prometheus) { has promtool && has prometheus; } || echo prometheus ;;
        browser) { has chromium && has chromedriver; } || echo chromium chromium-driver fonts-dejavu-core ;;
        *) fail "unknown kind of dependency: $want" ;;
        esac
    done
    has python3 || echo python3
}

install_packages() {
    local missing list
    missing="$(missing_packages "$@")"
    [ -n "$missing" ] || return 0
    # On one line, without repetitions.
    list="$(printf '%s\n' "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ')"
    has apt-get || fail "these packages are missing, and this system has no apt-get: install them, then run this again: $list"
    say "installing packages of the distribution: $list"
    # shellcheck disable=SC2086 # a list of names
    apt_install $list
    missing="$(missing_packages "$@")"
    # Debian 13 and later have a Python that is too new for aider.
    [ -z "$missing" ] || explain_missing "$missing"
}

explain_missing() {
    case "$1" in
    *venv*) fail "aider $AIDER_VERSION needs Python 3.10, 3.11 or 3.12 with its venv module, which this system does not have: install one of them so that python3.12, python3.11 or python3.10 is in the PATH" ;;
    *) fail "these packages are still missing after the installation: $1: install their programs yourself, then run this again" ;;
    esac
}

# In a subshell, whose trap removes the policy however the installation ends.
apt_install() (
    local as_root=(env) had_broker=no had_erlang=no had_prometheus=no
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || fail "packages are missing, and you are not root and have no sudo: ask an administrator to run: apt-get install --no-install-recommends $*"
        as_root=(sudo)
    fi
    installed rabbitmq-server && had_broker=yes
    installed erlang-base && had_erlang=yes
    installed prometheus && had_prometheus=yes
    trap 'allow_services "${as_root[@]}"' EXIT
    trap 'exit 130' INT TERM HUP
    forbid_services "${as_root[@]}"
    apt_get "${as_root[@]}" update
    apt_get "${as_root[@]}" install -y --no-install-recommends "$@"
    # RabbitMQ was installed for private nodes, so the system's own node must not start at the next boot either.
    [ "$had_broker" = yes ] || disable_service "${as_root[@]}" rabbitmq-server.service
    [ "$had_erlang" = yes ] || disable_service "${as_root[@]}" epmd.socket epmd.service
    [ "$had_prometheus" = yes ] || ! installed prometheus || disable_service "${as_root[@]}" prometheus.service
)

apt_get() {
    "$1" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "${@:2}" >&2
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# Debian asks this program before a package starts a service. Containers often have one that forbids all services.
forbid_services() {
    if [ -e "$POLICY" ] && ! grep -q "$POLICY_MARK" "$POLICY"; then
        local status=0
        "$POLICY" rabbitmq-server start >/dev/null 2>&1 || status=$?
        [ "$status" -eq 101 ] ||
            fail "$POLICY allows new services to start, and this script does not replace it: install the packages yourself, then run this again"
        return
    fi
    printf '#!/bin/sh\n# %s while it installs packages; may be deleted\ncase "$*" in *rabbitmq*|*epmd*|*prometheus*) exit 101 ;; esac\nexit 0\n' \
        "$POLICY_MARK" | "$@" tee "$POLICY" >/dev/null
    "$@" chmod 755 "$POLICY"
}

allow_services() {
    [ ! -e "$POLICY" ] || ! grep -q "$POLICY_MARK" "$POLICY" || "$@" rm -f "$POLICY"
}

# disable_service env|sudo UNIT… : disables units that were installed just now. Without systemd a unit has at most a boot
# script; in containers nothing starts it.
disable_service() {
    local as_root="$1" unit
    shift
    for unit in "$@"; do
        if has systemctl; then
            "$as_root" systemctl disable --quiet "$unit" >&2 || warn "could not disable the system service $unit"
        elif [ -x "/etc/init.d/${unit%.service}" ]; then
            "$as_root" update-rc.d "${unit%.service}" disable >&2 || warn "could not disable the boot script of $unit"
        fi
    done
}

# --- the agent ----------------------------------------------------------------------------------------------------

# Prints the first Python that aider runs on and that can make a virtual environment.
agent_python() {
    local candidate
    for candidate in /usr/bin/python3 python3.12 python3.11 python3.10 python3; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# A virtual environment cannot be built elsewhere and renamed, so a stamp, written last, marks it as complete.
install_aider() {
    local stamp="$AIDER_DIR/.complete" started=$SECONDS
    mkdir -p "$DATA"
    exec 7>"$DATA/aider.lock"
    flock 7
    if [ "$(cat "$stamp" 2>/dev/null)" = "$AIDER_VERSION" ] && [ -x "$AIDER_DIR/bin/python" ]; then
        exec 7>&-
        return
    fi
    say "installing aider $AIDER_VERSION into ${AIDER_DIR#"$ROOT"/} (570 MB, half a minute or more)"
    rm -rf "$AIDER_DIR"
    build_aider
    printf '%s\n' "$AIDER_VERSION" >"$stamp"
    exec 7>&-
    say "aider is installed after $((SECONDS - started)) s"
}

build_aider() {
    local python
    python="$(agent_python)" || fail "no Python for aider: install Python 3.10, 3.11 or 3.12 with its venv module"
    "$python" -m venv "$AIDER_DIR"
    "$AIDER_DIR/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile \
        "aider-chat==$AIDER_VERSION" >&2
    say "compiling aider, so that its first runs are as fast as later ones"
    # Some packages contain templates that are not valid Python; that they fail to compile does not matter.
    "$AIDER_DIR/bin/python" -m compileall -q -j 0 "$AIDER_DIR/lib" >/dev/null 2>&1 || true
}

# Installs codex and claude for the tests with real agents. On a failure it prints the reason and returns 1, because the
# pool itself does not need them.
install_codex_claude() {
    local stamp="$AGENTS_DIR/.complete" want="codex $CODEX_VERSION, claude $CLAUDE_VERSION" status=0
    if ! has node || ! has npm; then
        warn "codex and claude are not installed, because node or npm is missing: install both to run the tests with them"
        return 1
    fi
    mkdir -p "$DATA"
    exec 7>"$DATA/agents.lock"
    flock 7
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        say "installing $want into ${AGENTS_DIR#"$ROOT"/} (640 MB, a few seconds or more)"
        rm -rf "$AGENTS_DIR"
        if build_codex_claude; then
            printf '%s\n' "$want" >"$stamp"
        else
            status=1
            warn "npm failed to install codex and claude (its messages are above)"
        fi
    fi
    exec 7>&-
    return "$status"
}

# `&&`, because `set -e` does not hold in a condition. Calls both programs, because npm may skip the package with the
# executable.
build_codex_claude() {
    mkdir -p "$AGENTS_DIR" &&
        npm install --prefix "$AGENTS_DIR" --no-audit --no-fund --loglevel=error \
            "@openai/codex@$CODEX_VERSION" "@anthropic-ai/claude-code@$CLAUDE_VERSION" >&2 &&
        "$AGENTS_DIR/node_modules/.bin/codex" --version >&2 &&
        "$AGENTS_DIR/node_modules/.bin/claude" --version >&2
}

# --- the library of examples/node ---------------------------------------------------------------------------------

# npm writes .package-lock.json last: it says that the installation is complete.
install_amqplib() {
    local client="$ROOT/examples/node"
    node -e 'process.exit(Number(process.versions.node.split(".")[0] < 18))' ||
        fail "examples/node needs Node 18 or later, and this is $(node --version): install a newer one"
    mkdir -p "$DATA"
    exec 7>"$DATA/amqplib.lock"
    flock 7
    if [ ! "$client/node_modules/.package-lock.json" -nt "$client/package-lock.json" ]; then
        say "installing amqplib into examples/node/node_modules (1 MB)"
        (cd "$client" && npm ci --no-audit --no-fund --loglevel=error >&2)
    fi
    exec 7>&-
}

# --- schemathesis, which tests the HTTP API against its description ---------------------------------------------------

install_schemathesis() {
    local stamp="$SCHEMATHESIS_DIR/.complete" python
    mkdir -p "$DATA"
    exec 7>"$DATA/schemathesis.lock"
    flock 7
    if [ "$(cat "$stamp" 2>/dev/null)" != "$SCHEMATHESIS_VERSION" ] || [ ! -x "$SCHEMATHESIS_DIR/bin/python" ]; then
        say "installing schemathesis $SCHEMATHESIS_VERSION into ${SCHEMATHESIS_DIR#"$ROOT"/} (95 MB)"
        rm -rf "$SCHEMATHESIS_DIR"
        python="$(agent_python)" || fail "no Python for schemathesis: install Python 3.10, 3.11 or 3.12 with its venv module"
        "$python" -m venv "$SCHEMATHESIS_DIR"
        "$SCHEMATHESIS_DIR/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
            "schemathesis==$SCHEMATHESIS_VERSION" >&2
        printf '%s\n' "$SCHEMATHESIS_VERSION" >"$stamp"
    fi
    exec 7>&-
}

# --- the toolchain ------------------------------------------------------------------------------------------------

need_cargo() {
    if ! has cargo && [ -r "${CARGO_HOME:-${HOME:-/root}/.cargo}/env" ]; then
        # shellcheck disable=SC1091 # written by rustup
        . "${CARGO_HOME:-${HOME:-/root}/.cargo}/env"
    fi
    has cargo || fail "there is no Rust toolchain: install it with rustup (see the Rust project's installation page); rust-toolchain.toml names the version"
}
