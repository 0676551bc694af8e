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
    && cargo build --release --locked --bin postern

# The image's whole content: the program, the libraries that it names, CA certificates, and a folder to write to.
RUN mkdir -p /image/usr/local/bin /image/var/lib/postern \
    && cp target/release/postern /image/usr/local/bin/ \
    && ldd target/release/postern | grep -o '/[^ ]*' | xargs -I {} cp --parents --dereference {} /image \
    && cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /image \
    && chown -R 65532:65532 /image/var/lib/postern

# No shell, no package manager, nothing to patch but what is above.
FROM scratch
COPY --from=build /image/ /

# Nothing but the volume is written to, so the root may be read-only. Inside a container, the loopback address reaches
# nobody.
ENV POSTERN_CONFIG=/etc/postern/gateway.toml \
    POSTERN__SERVER__LISTEN=0.0.0.0:8080 \
    POSTERN__SERVER__ADMIN_LISTEN=0.0.0.0:9090
USER 65532:65532
VOLUME ["/var/lib/postern"]
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/postern"]
CMD ["serve"]
