# bidsrep as a container: the program, its bundled weights and its template; nothing is fetched when it runs.
#
#   docker build -t bidsrep:cpu .                              without CUDA
#   docker build -t bidsrep:cuda --build-arg VARIANT=cuda .    for NVIDIA GPUs
#
# The tested versions are installed (constraints.txt). containers/smoke.sh tries an image out.

ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
ENV DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/bidsrep
ENV PATH=/opt/bidsrep/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG VARIANT=cpu
# Where pip finds PyTorch besides its usual index; empty: nowhere else.
ARG TORCH_INDEX_CPU=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX_CUDA=
WORKDIR /src
COPY constraints.txt .
RUN case "${VARIANT}" in \
      cpu) index=${TORCH_INDEX_CPU} ;; \
      cuda) index=${TORCH_INDEX_CUDA} ;; \
      *) echo "VARIANT is cpu or cuda, not ${VARIANT}" >&2; exit 2 ;; \
    esac \
 && pip install -c constraints.txt ${index:+--extra-index-url "${index}"} torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY bidsrep bidsrep
COPY workflows workflows
RUN pip install -c constraints.txt . \
 && pip uninstall -y pip \
 && rm -rf /opt/bidsrep/lib/python3*/site-packages/torch/include

FROM python AS run
ARG VARIANT=cpu
ARG VERSION=
ARG COMMIT=
ARG IMAGE_DIGEST=
LABEL org.opencontainers.image.title="bidsrep" \
      org.opencontainers.image.description="A BIDS App for contrast-invariant representations of brain MRI (${VARIANT})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
# Any user may run it, with or without a home folder, and nothing but /tmp and the output need be writable.
RUN useradd --system --no-create-home --home-dir /tmp --uid 10001 bidsrep \
 && mkdir -p /data /out /work /bidsrep/work /bidsrep/scripts && chmod 1777 /out /work
COPY --from=build /opt/bidsrep /opt/bidsrep
ENV PATH=/opt/bidsrep/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NO_ET=1 \
    BIDSREP_COMMIT=${COMMIT} \
    BIDSREP_IMAGE_DIGEST=${IMAGE_DIGEST}
USER 10001
WORKDIR /work
ENTRYPOINT ["bidsrep"]
CMD ["--help"]
