# syntax=docker/dockerfile:1
# TextDiffSeg in a container (docs/docker.md):
#   docker build -t textdiffseg .
#   docker build -t textdiffseg --build-arg DEVICE=cuda .
FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# torch.compile, which training on a GPU uses, needs a C compiler.
# hadolint ignore=DL3008
RUN if [ "$DEVICE" = cuda ]; then \
      apt-get update && \
      apt-get install --yes --no-install-recommends gcc libc6-dev && \
      rm -rf /var/lib/apt/lists/*; \
    fi

# The CPU build of torch. With CUDA, the next step installs the usual build.
COPY constraints.txt /opt/textdiffseg/
RUN if [ "$DEVICE" = cpu ]; then \
      pip install --no-deps --constraint /opt/textdiffseg/constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch; \
    fi

COPY setup.cfg pyproject.toml README.md LICENSE /opt/textdiffseg/
COPY plans /opt/textdiffseg/plans
COPY textdiffseg /opt/textdiffseg/textdiffseg
COPY textdiffseg_cli /opt/textdiffseg/textdiffseg_cli
RUN pip install --constraint /opt/textdiffseg/constraints.txt "/opt/textdiffseg[train,dicom,track]"

RUN useradd --create-home --uid 1000 tds && mkdir /data && chown tds:tds /data

# Caches lie in /tmp, and a user name is set, so that any --user works. No model is looked for on the network.
ENV HOME=/tmp \
    USER=tds \
    HF_HUB_OFFLINE=1
USER 1000
WORKDIR /data
CMD ["tds_doctor"]
