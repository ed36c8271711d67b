# Dispatcher and worker in one image: they share everything but the command.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p dispatcher -p worker \
    && install -D -t /out target/release/dispatcher target/release/worker

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git openssh-client python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*
# Nothing in here needs root; what agents do least of all.
RUN useradd --create-home --home-dir /srv/pool --shell /usr/sbin/nologin pool
USER pool
WORKDIR /srv/pool
# Where config/pool.yaml looks for it. Compiled, so that the first run is as fast as every other.
RUN python3 -m venv .pool/aider \
    && .pool/aider/bin/python -m pip install --no-cache-dir --no-input --disable-pip-version-check aider-chat==0.86.2 \
    && mkdir -p .pool/work .pool/repositories config
COPY --from=build /out/ /usr/local/bin/
# As process 1, to wait for what agents leave behind.
ENTRYPOINT ["tini", "--"]
CMD ["worker", "run", "--all", "--pool", "/srv/pool/config/pool.yaml"]
