# One target for each role: docker build --target gateway|text-worker|image-worker .
#
# --build-arg VARIANT=gpu takes the locks for GPUs. The base may be any Python from 3.11 to 3.13 on
# Debian or Ubuntu; pin it by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
# deploy/pip is the place for a pip.conf and wheels of your own.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS builder
ENV PYTHONDONTWRITEBYTECODE=1 PIP_CONFIG_FILE=/pip/pip.conf PIP_FIND_LINKS=/pip \
    UV_LINK_MODE=copy PATH=/opt/tools/bin:$PATH
WORKDIR /build
RUN --mount=type=bind,source=deploy/pip,target=/pip \
    python3 -m venv --without-pip /opt/venv \
    && python3 -m venv /opt/tools \
    && pip install --no-cache-dir uv==0.13.9 setuptools==80.9.0
COPY deploy/installer.py ./

FROM builder AS gateway-packages
COPY deploy/requirements/gateway.txt ./
RUN --mount=type=bind,source=deploy/pip,target=/pip \
    --mount=type=cache,target=/root/.cache/uv \
    python installer.py gateway.txt --python /opt/venv/bin/python

FROM builder AS image-packages
ARG VARIANT
COPY deploy/requirements/image-worker-${VARIANT}.txt ./
# Nothing on a CPU imports Triton, the largest package of all; headers and tests are for builds.
# hadolint ignore=SC2086
RUN --mount=type=bind,source=deploy/pip,target=/pip \
    --mount=type=cache,target=/root/.cache/uv \
    if [ "${VARIANT}" = cpu ]; then without="--without=triton"; fi \
    && python installer.py "image-worker-${VARIANT}.txt" --python /opt/venv/bin/python \
        ${without:-} \
    && site=$(echo /opt/venv/lib/python3*/site-packages) \
    && find "$site" -depth -type d \( -name tests -o -path '*/torch/include' \) -exec rm -r {} + \
    && echo /opt/text > "$site/text.pth"

# What the text worker has in addition: both workers share the layers of the image worker. vLLM uses
# OpenCV for videos alone.
FROM image-packages AS text-packages
COPY deploy/requirements/worker-${VARIANT}.txt ./
RUN --mount=type=bind,source=deploy/pip,target=/pip \
    --mount=type=cache,target=/root/.cache/uv \
    python installer.py "worker-${VARIANT}.txt" --python /opt/venv/bin/python --target /opt/text \
        --beyond "image-worker-${VARIANT}.txt" --without opencv-python-headless

# The project with its metadata: vLLM finds the plugin by its entry point.
FROM builder AS app
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY model ./model
COPY service ./service
RUN uv pip install --python /opt/tools/bin/python --target /app \
        --no-deps --no-index --no-build-isolation --no-cache .

FROM ${PYTHON_IMAGE} AS base
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title=mm-interleaved-serving \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION}
ENV PYTHONUNBUFFERED=1 PYTHONPATH=/app PATH=/opt/venv/bin:$PATH \
    MMI_CACHE_DIR=/cache HOME=/cache PYTHONPYCACHEPREFIX=/cache/bytecode
# Nothing is installed at run time: pip goes. The init process ends a role that is told to before it
# can listen, and reaps what an engine that has died leaves behind.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && groupadd --gid 10001 mmi && useradd --uid 10001 --gid 10001 --no-create-home mmi \
    && mkdir /cache && chown mmi:mmi /cache \
    && find / -xdev -path '*-packages/pip*' -prune -exec rm -rf {} +
WORKDIR /app
ENTRYPOINT ["tini", "-s", "--", "python", "-m", "service"]

FROM base AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --from=app /app /app
USER 10001:10001
ENV MMI_HOST=0.0.0.0 MMI_HEALTH_HOST=0.0.0.0
EXPOSE 8000 9100
CMD ["gateway"]

FROM base AS worker
ARG VARIANT
# An OpenMP runtime and libnuma for PyTorch and vLLM. Triton, on GPUs only, builds its launchers
# with a C compiler and Python's headers at run time, which a distribution's Python lacks.
# hadolint ignore=DL3008,SC2086
RUN if [ "${VARIANT}" = gpu ]; then \
        compiler="gcc libc6-dev"; \
        include=$(python3 -c "import sysconfig; print(sysconfig.get_path('include'))"); \
        [ -f "${include}/Python.h" ] || compiler="${compiler} python3-dev"; \
    fi \
    && apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libnuma1 ${compiler:-} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=image-packages /opt/venv /opt/venv
COPY deploy/checkpoints /app/deploy/checkpoints
ENV MMI_HEALTH_HOST=0.0.0.0
VOLUME /cache

FROM worker AS image-worker
COPY --from=app /app /app
USER 10001:10001
EXPOSE 9102
CMD ["image-worker"]

FROM worker AS text-worker
COPY --from=text-packages /opt/text /opt/text
COPY --from=app /app /app
USER 10001:10001
EXPOSE 9101
CMD ["text-worker"]
