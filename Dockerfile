# Two images of one source: `--target api` (no torch) and `--target worker` (no HTTP server).
# A GPU worker: build with `--build-arg BASE=<a CUDA runtime image with Python 3.11 or newer>`; torch's wheels contain
# CUDA on platforms that support it. Pass pip settings (your own index, for example) as a build secret named pip.conf.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY soul_store soul_store
COPY worker worker
COPY soul_core soul_core
COPY soul_cli soul_cli
COPY migrations migrations

FROM build AS build-api
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf pip install '.[api,pdf]'

FROM build AS build-worker
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf pip install '.[worker]'

FROM ${BASE} AS runtime
RUN useradd --system --uid 10001 --create-home soul && mkdir -p /data && chown soul /data
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER soul
WORKDIR /home/soul
VOLUME /data

FROM runtime AS api
# Reports as PDF: weasyprint's system libraries and a font.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends libpango-1.0-0 libpangoft2-1.0-0 \
  libharfbuzz-subset0 fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
USER soul
COPY --from=build-api /venv /venv
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["uvicorn", "api.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "10"]

FROM runtime AS worker
COPY --from=build-worker /venv /venv
# On SIGTERM the running job writes a checkpoint and is requeued before the worker exits.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker.celery_app", "worker", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
