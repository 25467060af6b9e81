FROM scratch
COPY brainy-versitygw /versitygw
USER 65532:65532
ENTRYPOINT ["/versitygw"]
