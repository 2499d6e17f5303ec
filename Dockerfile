# needle serve, as a user without rights, with the reader inside. For the CPU:
#     docker build --tag needle .
# for NVIDIA GPUs (run with --gpus all):
#     docker build --tag needle:gpu --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
# Tokens first, then the server; the store stays in the volume:
#     docker run --rm --volume needle:/data needle token add NAME --scope write --tokens /data/tokens.json
#     docker run --publish 127.0.0.1:8000:8000 --volume needle:/data needle
FROM python:3.11-slim AS build
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/needle
ENV PATH=/opt/needle/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# torch by itself, so that a change of needle does not install it again.
COPY constraints.txt .
RUN pip install --constraint constraints.txt --index-url "$TORCH" torch
COPY pyproject.toml README.md LICENSE ./
COPY data data
COPY components components
COPY pipelines pipelines
RUN pip install --constraint constraints.txt ".[serve]"
# The reader's kernels are compiled for the processor at hand at the first start, and kept in the volume.

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home needle && install --directory --owner needle --mode 700 /data
COPY --from=build /opt/needle /opt/needle
ENV PATH=/opt/needle/bin:$PATH HF_HUB_OFFLINE=1 NUMBA_CACHE_DIR=/data/cache/numba XDG_CACHE_HOME=/data/cache
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready')"]
# Not a shell: SIGTERM must reach the server, which then finishes what it has accepted; give it --stop-timeout 40.
ENTRYPOINT ["needle"]
CMD ["serve", "--store", "/data/store", "--host", "0.0.0.0", "--tokens", "/data/tokens.json"]
