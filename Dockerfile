# Three images: dispatcher, worker (with git and aider), and the scripted LLM of the trial. docker-compose.yml builds
# them, with Docker's classic builder or BuildKit. Building needs no secrets, and the images contain none.

# The version of rust-toolchain.toml.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# One step, so that no layer contains the intermediate files.
RUN cargo build --release --locked --target-dir /tmp/target -p dispatcher -p worker -p pool-cli -p pool-tests --bins \
    && install -D -s -t /out /tmp/target/release/dispatcher /tmp/target/release/pool /tmp/target/release/worker /tmp/target/release/scripted-llm \
    && rm -rf /tmp/target

FROM debian:bookworm-slim AS base
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/pool

FROM base AS dispatcher
COPY --from=build /out/dispatcher /out/pool /usr/local/bin/
USER 10001:10001
EXPOSE 6141
CMD ["dispatcher", "serve", "--pool", "/srv/pool/config/pool.yaml", "--listen", "0.0.0.0:6141"]

FROM base AS scripted-llm
COPY --from=build /out/scripted-llm /usr/local/bin/
USER 10003:10003
EXPOSE 6190
CMD ["scripted-llm", "--address", "0.0.0.0", "--port", "6190", "--answers", "/srv/pool/config/trial/answers.yaml"]

# A virtual environment cannot be moved, so it is made where config/pool.yaml expects it: ../.pool/aider/bin/aider.
# Its Python files are compiled here, because the container's file system is read-only later.
FROM base AS aider
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv .pool/aider \
    && .pool/aider/bin/python -m pip install --no-cache-dir --no-input --disable-pip-version-check --no-compile \
        aider-chat==0.86.2 \
    && .pool/aider/bin/python -m pip uninstall --yes --disable-pip-version-check pip \
    && { .pool/aider/bin/python -m compileall -q -j 0 .pool/aider/lib >/dev/null 2>&1 || true; }

FROM base AS worker
RUN apt-get update \
    && apt-get install -y --no-install-recommends git openssh-client python3 tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=aider /srv/pool/.pool/aider .pool/aider
# Mount points. docker-compose.yml chooses the user at the start, so every user may write to .pool/work.
RUN mkdir -p .pool/repositories .pool/work && chmod 1777 .pool/work
COPY --from=build /out/worker /usr/local/bin/
USER 1000:1000
EXPOSE 6150
# tini is process 1 and reaps the processes that agents leave behind.
ENTRYPOINT ["tini", "--"]
CMD ["worker", "run", "--any", "2", "--pool", "/srv/pool/config/pool.yaml", "--listen", "0.0.0.0:6150"]
