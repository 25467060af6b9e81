FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY brainy-sidecar /brainy-sidecar
USER 65532:65532
ENTRYPOINT ["/brainy-sidecar"]
