FROM scratch
COPY brainy-e2e-tools /e2e-tools
USER 65532:65532
ENTRYPOINT ["/e2e-tools"]
