FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY brainy-sidecar /brainy-sidecar
# One arena of allocations for the threads that work; more of them only hold on to what was freed.
ENV MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=65536 MALLOC_TOP_PAD_=65536
USER 65532:65532
ENTRYPOINT ["/brainy-sidecar"]
