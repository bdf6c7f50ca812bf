# Stands in for valkey/valkey: the server from the wheel, the client from Debian's redis-tools.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends redis-tools \
    && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli \
    && groupadd --gid 999 valkey && useradd --uid 999 --gid 999 --no-create-home valkey \
    && mkdir /data && chown valkey:valkey /data
COPY valkey-server /usr/local/bin/valkey-server
WORKDIR /data
VOLUME /data
USER 999:999
CMD ["valkey-server"]
