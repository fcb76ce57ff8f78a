# docker build .                 the image for NVIDIA GPUs
# docker build --target=cpu .    the same without CUDA
ARG BASE=python:3.12.12-slim-trixie

# What a run finds: its user, its folders and how it starts.
FROM ${BASE} AS base
LABEL org.opencontainers.image.title="Autoencoder trainer" \
    org.opencontainers.image.description="Trains, measures and keeps autoencoders" \
    org.opencontainers.image.licenses="Apache-2.0"
# The driver compiles kernels that TensorFlow has as PTX alone, and caches 4 GiB at most: on Hopper
# the elementwise ones, on newer cards all.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TFDS_DATA_DIR=/data \
    CUDA_CACHE_PATH=/cache/cuda \
    CUDA_CACHE_MAXSIZE=4294967296
# Another uid may read the configs at home. The README's --workdir=runs/... leads to the volume.
RUN useradd --uid=1000 --user-group --create-home --key=HOME_MODE=0755 trainer \
    && install --directory --owner=trainer --group=trainer /runs /data /cache/cuda \
    && ln --symbolic /runs /home/trainer/runs
VOLUME ["/runs", "/data", "/cache/cuda"]
WORKDIR /home/trainer
STOPSIGNAL SIGTERM
# A run serves nothing: its exit status says how it went, and Docker restarts none for its health.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "trainer"]

# An empty README and no package: a change of the text or the code reinstalls nothing.
FROM base AS dependencies
WORKDIR /build
COPY constraints.txt setup.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md \
    && python3 -m venv /opt/venv \
    && pip install --constraint constraints.txt . \
    && pip uninstall --yes autoencoder-trainer

FROM dependencies AS cuda-dependencies
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ".[cuda]" \
    && pip uninstall --yes autoencoder-trainer

FROM dependencies AS package
COPY . .
RUN pip install --no-build-isolation --no-cache-dir --no-deps --prefix=/package .

FROM dependencies AS cpu
WORKDIR /home/trainer
COPY --from=package /package /opt/venv
COPY configs configs
# By number: Kubernetes' runAsNonRoot can't tell who a name is.
USER 1000:1000

FROM cuda-dependencies AS cuda
WORKDIR /home/trainer
COPY --from=package /package /opt/venv
COPY configs configs
USER 1000:1000
