# Two images of one source: `--target api` (no torch) and `--target worker` (no HTTP server).
# torch's wheels contain CUDA, so a GPU worker needs no other base. A worker without a GPU is gigabytes smaller with
# `--build-arg TORCH_INDEX=<index of torch's CPU wheels>`. `--build-arg CONSTRAINTS=` goes without the tested versions.
# Pass pip settings (your own index, for example) as a build secret named pip.conf.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY api api
COPY soul_store soul_store
COPY worker worker
COPY soul_core soul_core
COPY soul_cli soul_cli
COPY migrations migrations

FROM build AS build-api
ARG CONSTRAINTS=constraints.txt
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
  pip install ${CONSTRAINTS:+--constraint $CONSTRAINTS} '.[api,pdf,telemetry]'

FROM build AS build-worker
ARG CONSTRAINTS=constraints.txt
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
  if [ -n "$TORCH_INDEX" ]; then \
    pip install ${CONSTRAINTS:+--constraint $CONSTRAINTS} --index-url "$TORCH_INDEX" torch; fi && \
  pip install ${CONSTRAINTS:+--constraint $CONSTRAINTS} '.[worker,telemetry]'

FROM ${BASE} AS runtime
# Volumes take the owner of the folder that they are mounted on. The root file system may be read-only.
RUN useradd --system --uid 10001 --create-home soul && mkdir -p /data /admin && chown soul /data /admin
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
USER 10001
WORKDIR /home/soul
VOLUME /data

FROM runtime AS api
# Debian removes old versions from its mirrors, so none is pinned.
# Reports as PDF: weasyprint's system libraries and a font.
USER root
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libpango-1.0-0 libpangoft2-1.0-0 \
  libharfbuzz-subset0 fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
USER 10001
COPY --from=build-api /venv /venv
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["uvicorn", "api.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "10"]

FROM runtime AS worker
COPY --from=build-worker /venv /venv
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["python", "-m", "worker.liveness", "worker"]
# On SIGTERM the running job writes a checkpoint and is requeued before the worker exits.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker.celery_app", "worker", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
