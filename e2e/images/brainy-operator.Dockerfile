FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY brainy-operator /brainy-operator
USER 65532:65532
ENTRYPOINT ["/brainy-operator"]
