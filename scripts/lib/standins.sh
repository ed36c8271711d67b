# shellcheck shell=bash
# Makes stand-ins for the base images of Dockerfile and docker-compose.yml, under their names, from Debian's packages and
# this machine's Rust toolchain. scripts/test-compose uses them on machines that cannot pull images.

# The names of the base images in Dockerfile and docker-compose.yml.
base_image() { sed -n "s/^FROM \\($1[^ ]*\\) AS.*/\\1/p" "$ROOT/Dockerfile" | head -n 1; }
service_image() { sed -n "s|^ *image: .*:-\\($1[^}]*\\)}\$|\\1|p" "$ROOT/docker-compose.yml" | head -n 1; }

make_standins() {
    standin "$(base_image debian:)" debian_standin
    standin "$(base_image rust:)" rust_standin
    standin "$(service_image rabbitmq:)" rabbitmq_standin
    standin "$(service_image prom/)" prometheus_standin
}

# standin IMAGE FUNCTION : makes the image with this function unless it exists.
standin() {
    if ! docker image inspect "$1" >/dev/null 2>&1; then
        say "$1"
        "$2" "$1" >&2
    fi
}

debian_standin() {
    local root="$WORK/bookworm"
    if [ ! -e "$root/.complete" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase bookworm "$root"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        touch "$root/.complete"
    fi
    tar -C "$root" -c . | docker import - "$1.bare"
    with_registries "$1.bare" "$1"
}

# with_registries IMAGE NEW : adds this machine's settings for package registries: certificates, Debian's sources, pip.
with_registries() {
    local context="$WORK/registries" path
    rm -rf "$context" && mkdir -p "$context/files"
    for path in /etc/apt/sources.list.d/debian.sources /etc/pip.conf /usr/local/share/ca-certificates \
        /etc/ssl/certs/ca-certificates.crt; do
        [ ! -e "$path" ] || cp -rL --parents "$path" "$context/files"
    done
    {
        printf 'FROM %s\nCOPY files /\n' "$1"
        [ ! -e "$context/files/etc/apt/sources.list.d/debian.sources" ] || printf 'RUN rm -f /etc/apt/sources.list\n'
        # Variables such as PIP_CERT, without those that name a directory of this machine.
        env | sed -n 's/^\(PIP_[A-Z_]*\)=\(.*\)$/ENV \1="\2"/p' | grep -v FIND_LINKS || true
    } >"$context/Dockerfile"
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$2" "$context"
}

# build_from IMAGE PACKAGES LINES : builds an image from the stand-in of Debian with these packages.
build_from() {
    printf 'FROM %s\nRUN apt-get update && apt-get install -y --no-install-recommends %s\n%s\n' \
        "$(base_image debian:)" "$2" "$3" | DOCKER_BUILDKIT=0 docker build --quiet --network host --tag "$1" -
}

rust_standin() {
    local toolchain container
    toolchain="$(rustc --print sysroot)"
    build_from "$1.bare" "gcc libc6-dev ca-certificates" "ENV PATH=/usr/local/rust/bin:/usr/local/bin:/usr/bin:/bin"
    container="$(docker create "$1.bare" true)"
    tar -C "$toolchain" -c --transform 's,^\.,./usr/local/rust,' ./bin ./lib |
        docker cp - "$container:/"
    docker commit "$container" "$1"
    docker rm "$container"
}

prometheus_standin() {
    build_from "$1" prometheus 'RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]'
}

# Debian's RabbitMQ with the management UI and the metrics, which logs to the console as the original image does.
rabbitmq_standin() {
    "$ROOT/scripts/broker-root" trixie "$WORK/broker"
    local context="$WORK/rabbitmq-standin" version
    # shellcheck disable=SC2016 # for dpkg-query
    version="$(chroot "$WORK/broker" dpkg-query -W -f '${Version}' rabbitmq-server)"
    rm -rf "$context" && mkdir -p "$context"
    tar -C "$WORK/broker" -c --exclude ./var/cache/apt/archives/\*.deb --exclude ./var/lib/apt/lists/\* . |
        docker import - "$1.bare"
    cat >"$context/entrypoint" <<'SH'
#!/bin/bash
set -e
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq
exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups "/usr/lib/rabbitmq/bin/$@"
SH
    chmod +x "$context/entrypoint"
    cat >"$context/Dockerfile" <<DOCKERFILE
FROM $1.bare
COPY entrypoint /usr/local/bin/
RUN mkdir -p /etc/rabbitmq/conf.d && echo 'log.console = true' >/etc/rabbitmq/conf.d/10-defaults.conf \\
    && echo '[rabbitmq_management,rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins && rm -f /etc/rabbitmq/rabbitmq-env.conf
ENV HOME=/var/lib/rabbitmq RABBITMQ_LOGS=- RABBITMQ_VERSION=${version%%-*}
ENTRYPOINT ["entrypoint"]
CMD ["rabbitmq-server"]
DOCKERFILE
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$1" "$context"
}
