FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY brainy-sidecar /brainy-sidecar
# One arena of allocations for the threads that work: more of them only hold on to what was freed. So that they don't wait for each
# other at it, each keeps some of what it freed last, up to the size of a connection's buffer.
ENV MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=65536 MALLOC_TOP_PAD_=65536 \
    GLIBC_TUNABLES=glibc.malloc.tcache_max=8192:glibc.malloc.tcache_count=16
USER 65532:65532
ENTRYPOINT ["/brainy-sidecar"]
