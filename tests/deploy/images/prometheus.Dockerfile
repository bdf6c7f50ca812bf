# Stands in for prom/prometheus: Debian's build with the layout of the official image.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus \
    && mkdir -p /prometheus && chown 65534:65534 /prometheus
VOLUME /prometheus
USER 65534:65534
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
