# The workers of cmaev: they run every kind of job, export included
#
#   docker build -f docker/trainer.Dockerfile -t cmaev-trainer:0.1.0 .
#
# BASE is any image with Python 3.11 to 3.13 and a C library. Pin it by digest for a release:
#   --build-arg BASE=docker.io/library/python@sha256:…
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/cmaev
ENV PATH=/opt/cmaev/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,tensorboard,s3,worker,serve]'

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cmaev-trainer" \
      org.opencontainers.image.description="The workers of cmaev: they run every kind of job, export included" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 cmaev \
 && useradd --uid 10001 --gid cmaev --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cmaev \
 && install --directory --owner=cmaev --group=cmaev --mode=0750 /runs
COPY --from=build /opt/cmaev /opt/cmaev
ENV PATH=/opt/cmaev/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CMAEV_RUNS_DIR=/runs
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
# No health check: a worker answers nobody. The control plane notices a lost lease.
CMD ["python", "-m", "cmaev_trainer"]
