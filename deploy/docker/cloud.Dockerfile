# A verifier or relay on an NVIDIA GPU; without one it serves on the CPU. torch brings its own CUDA libraries, so the base
# image has little more than the driver's hooks. Build from the repository's root:
#   docker build -f deploy/docker/cloud.Dockerfile -t paceline-cloud .
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY common common
COPY edge edge
COPY cloud cloud
COPY relay relay
COPY training training
COPY simulation simulation
COPY benchmarks benchmarks
COPY cli cli
RUN python3 -m venv /opt/paceline \
 && /opt/paceline/bin/pip install --no-cache-dir -c constraints.txt '.[cloud,otel]'

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/paceline /opt/paceline
COPY models/LICENSE-PYTHON.txt /opt/paceline/models/
COPY models/base /opt/paceline/models/base
ENV PATH=/opt/paceline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/cache/huggingface \
    PACELINE_LOG_FORMAT=json
USER 65532:65532
EXPOSE 7443 9090
STOPSIGNAL SIGTERM
# The metrics port opens once the model is loaded. Kubernetes asks by its own probes instead.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/metrics', timeout=4)"]
ENTRYPOINT ["paceline"]
CMD ["cloud", "serve", "--model", "/opt/paceline/models/base", "--listen", "0.0.0.0:7443", "--metrics-port", "9090"]
