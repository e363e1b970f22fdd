# A device: drafts on ONNX Runtime and serves a local endpoint. No torch. Build from the repository's root, for any
# architecture that onnxruntime and tokenizers have wheels for:
#   docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/edge.Dockerfile -t paceline-edge .
FROM python:3.13-slim-bookworm AS build
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
RUN python -m venv /opt/paceline \
 && /opt/paceline/bin/pip install --no-cache-dir -c constraints.txt '.[edge,otel]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/paceline /opt/paceline
COPY models/LICENSE-PYTHON.txt /opt/paceline/models/
COPY models/pico /opt/paceline/models/pico
ENV PATH=/opt/paceline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    PACELINE_LOG_FORMAT=json
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["paceline"]
CMD ["edge", "serve", "--listen", "0.0.0.0:8080", "--draft-model", "/opt/paceline/models/pico"]
