# Both stages in one image: for NVIDIA GPUs, or small and for the CPU with --build-arg TORCH_INDEX=URL.
# docs/install.md says how it is built and used.
FROM python:3.12.11-slim-bookworm AS build
ARG TORCH_INDEX=
ARG EXTRAS=sweep,tensorboard,onnx
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/avel
WORKDIR /source
COPY requirements.txt constraints.txt ./
# torch and torchvision from one place, then what they and we need, as `make setup` does it.
RUN /opt/avel/bin/pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        --constraint constraints.txt torch torchvision \
    && /opt/avel/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY cache cache
COPY extract extract
COPY train train
RUN /opt/avel/bin/pip install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12.11-slim-bookworm
# OpenCV's wheels need these two, whatever their version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home avel \
    && install --directory --owner=avel /data
COPY --from=build /opt/avel /opt/avel
ENV PATH=/opt/avel/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba
USER 1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["python", "-m"]
CMD ["train", "--help"]
