# syntax=docker/dockerfile:1

# Named by its tag. For a byte-identical image from the same sources, name the base image's digest (--build-context
# rust:1.95-bookworm=docker-image://rust@sha256:…) and give the commit's time (--build-arg SOURCE_DATE_EPOCH="$(git log
# -1 --format=%ct)").
FROM rust:1.95-bookworm AS build
# A pipe fails if any of its parts does.
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build

# The dependencies, in a layer that is rebuilt only if the manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src

COPY . .
# The sources may be older than the stand-ins above, and cargo compares times.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin postern

# The image's whole content: the program, its shared libraries, CA certificates, name service settings, and a writable
# folder. All with one timestamp, so that the same files make the same layer.
ARG SOURCE_DATE_EPOCH=0
RUN mkdir -p /image/usr/local/bin /image/var/lib/postern \
    && cp target/release/postern /image/usr/local/bin/ \
    && ldd target/release/postern | grep -o '/[^ ]*' | xargs -I {} cp --parents --dereference {} /image \
    && cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /image \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && chown -R 65532:65532 /image/var/lib/postern \
    && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# No shell, no package manager, nothing to patch but the above. tests/image/run builds and runs this.
FROM scratch
COPY --from=build /image/ /

ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="Postern" \
      org.opencontainers.image.description="A REST gateway in front of Microsoft Graph's Intune assign action" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Only the volume is written to, so the root may be read-only; the store is in it unless store.url says otherwise.
# Loopback addresses are not reachable from outside a container.
ENV POSTERN_CONFIG=/etc/postern/gateway.toml \
    POSTERN__SERVER__LISTEN=0.0.0.0:8080 \
    POSTERN__SERVER__ADMIN_LISTEN=0.0.0.0:9090
WORKDIR /var/lib/postern
USER 65532:65532
VOLUME ["/var/lib/postern"]
EXPOSE 8080 9090
# Checks that the process runs, not that it is ready: restarting the container would not repair a database. Kubernetes
# has its own probes and ignores this.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/postern", "probe", "live"]
ENTRYPOINT ["/usr/local/bin/postern"]
CMD ["serve"]
