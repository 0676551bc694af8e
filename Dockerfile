# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies, in a layer that is built again only when the manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src

COPY . .
# The sources may be older than the stand-ins above; cargo goes by their time.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin postern \
    && mkdir /data

# glibc, libgcc and CA certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/postern /usr/local/bin/postern
COPY --from=build --chown=65532:65532 /data /var/lib/postern

# Nothing else is written to, so the root may be read-only. Inside a container, the loopback address reaches nobody.
ENV POSTERN_CONFIG=/etc/postern/gateway.toml \
    POSTERN__SERVER__LISTEN=0.0.0.0:8080 \
    POSTERN__SERVER__ADMIN_LISTEN=0.0.0.0:9090
USER 65532:65532
VOLUME ["/var/lib/postern"]
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/postern"]
CMD ["serve"]
