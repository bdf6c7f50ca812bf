# One target for each role: docker build --target gateway|text-worker|image-worker .
#
# The workers need the CPU build of PyTorch. If pip's index does not have it, pass the address of
# PyTorch's CPU packages (--build-arg PIP_EXTRA_INDEX_URL=...), put wheels into ./wheels, or mount a
# pip.conf as the build secret `pip`. PYTHON_IMAGE may be any Python from 3.11 to 3.13.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN groupadd --gid 10001 mmi && useradd --uid 10001 --gid 10001 --no-create-home mmi \
    && mkdir -p /cache && chown mmi:mmi /cache && python -m venv /opt/venv
WORKDIR /app

FROM base AS gateway-packages
COPY deploy/requirements/gateway.txt /tmp/requirements.txt
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --requirement /tmp/requirements.txt

FROM base AS worker-packages
COPY deploy/requirements/worker-cpu.txt /tmp/requirements.txt
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,source=.,target=/context \
    if [ -d /context/wheels ]; then export PIP_FIND_LINKS=/context/wheels; fi; \
    sed --quiet 's/^torch==.*/&+cpu/p' /tmp/requirements.txt > /tmp/cpu.txt; \
    pip install --no-deps --requirement /tmp/requirements.txt --constraint /tmp/cpu.txt

FROM base AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
# Of the model, the gateway imports model.sampling_params alone, which needs no package.
COPY model ./model
COPY service ./service
USER 10001:10001
ENV MMI_HOST=0.0.0.0 MMI_CACHE_DIR=/cache HOME=/cache
EXPOSE 8000
ENTRYPOINT ["python", "-m", "service"]
CMD ["gateway"]

FROM base AS worker
# Torch and vLLM need an OpenMP runtime; the fused operators are compiled once with g++.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY model ./model
COPY service ./service
COPY deploy ./deploy
# The project itself, for vLLM's plugin entry point.
RUN pip install --no-deps --no-build-isolation --no-index --editable .
USER 10001:10001
ENV MMI_HEALTH_HOST=0.0.0.0 MMI_CACHE_DIR=/cache HOME=/cache
VOLUME /cache
ENTRYPOINT ["python", "-m", "service"]

FROM worker AS text-worker
EXPOSE 9101
CMD ["text-worker"]

FROM worker AS image-worker
EXPOSE 9102
CMD ["image-worker"]
