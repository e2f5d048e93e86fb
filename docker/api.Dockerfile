# The control plane and inference gateway of cmaev
#
#   docker build -f docker/api.Dockerfile -t cmaev-api:0.1.0 .
#
# BASE is any image with Python 3.11 to 3.13 and a C library. Pin it by digest for a release:
#   --build-arg BASE=docker.io/library/python@sha256:…
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/cmaev
ENV PATH=/opt/cmaev/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[api]'

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cmaev-api" \
      org.opencontainers.image.description="The control plane and inference gateway of cmaev" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 cmaev \
 && useradd --uid 10001 --gid cmaev --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cmaev \
 && install --directory --owner=cmaev --group=cmaev --mode=0750 /state /runs
COPY --from=build /opt/cmaev /opt/cmaev
ENV PATH=/opt/cmaev/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CMAEV_HOST=0.0.0.0 \
    CMAEV_PORT=8080 \
    CMAEV_STATE_DIR=/state \
    CMAEV_RUNS_DIR=/runs
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
CMD ["python", "-m", "cmaev_api"]
