# One image for head, workers and driver: KubeRay, `ray start` and `ray job submit` find the same packages and code in it.
#
#   docker build --build-arg DEVICE=gpu --tag REGISTRY/mmbatch:0.1.0 .        NVIDIA GPUs, and CPUs too
#   docker build --build-arg DEVICE=cpu --tag REGISTRY/mmbatch:0.1.0-cpu .    CPUs only: without gigabytes of CUDA
#
# Both are for linux/amd64 and hold the versions of requirements.txt. To pin the base by content too, add
# --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:DIGEST. `cluster/check-image.sh` runs these steps without
# a container engine.
#
# Not in the image: secrets (they come as environment variables at run time: cluster/object-store.env), a compiler
# (`--training compile=True` needs one), and RAY_AUTH_MODE. Give head, workers and whoever submits the same
# RAY_AUTH_MODE, and with `token` the same RAY_AUTH_TOKEN: how Ray is started decides on tokens otherwise.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG DEVICE=gpu

FROM ${PYTHON_IMAGE} AS packages
ARG DEVICE
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt
COPY requirements.txt ./
# PyPI's torch brings CUDA. PyTorch's own index has the same versions without it, as VERSION+cpu; only those two packages
# are taken from there.
RUN mkdir wheels; \
    case "${DEVICE}" in \
        gpu) cp requirements.txt chosen.txt ;; \
        cpu) sed -E '/^(cuda-|nvidia-|triton=)/d; s/^(torch|torchvision)==[^ ]+/&+cpu/' requirements.txt > chosen.txt; \
            grep -E '^torch(vision)?=' chosen.txt > torch.txt; \
            pip download --no-cache-dir --no-deps --dest wheels --requirement torch.txt \
                --index-url https://download.pytorch.org/whl/cpu ;; \
        *) echo "DEVICE is gpu or cpu, not '${DEVICE}'" >&2; exit 1 ;; \
    esac
RUN python -m venv venv; \
    venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --find-links wheels \
        --requirement chosen.txt; \
    venv/bin/pip check

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="mmbatch" \
      org.opencontainers.image.description="Keeps the category of every product in a catalog right"
# libgomp1: LightGBM. wget: KubeRay asks Ray's health addresses with it. The profile: some versions of KubeRay, and Ray's
# cluster launcher, start login shells, and those forget PATH.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.2.* wget=1.21.* \
    && rm -rf /var/lib/apt/lists/* \
    && echo "export PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/mmbatch.sh \
    && useradd --create-home --uid 1000 --user-group mmbatch
# PYTHONPATH: Ray's workers find the code wherever they start; what `--working-dir .` uploads comes before it.
# No NVIDIA_VISIBLE_DEVICES: it would hand every GPU of a node to a container that asked for none.
# A machine that vanishes closes no connection: Ray's calls to it end after 300 s, by these after 90. Not before Ray
# itself calls the machine dead, by its defaults after up to 65 s: what is tried again meanwhile uses up its attempts.
# The same everywhere: what a server takes for too many pings follows from it.
# A process that waits for its next task keeps what it has imported for a minute, not for a second: starting one that
# reads for the encoders takes six processor seconds.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/home/mmbatch/app \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_grpc_client_keepalive_time_ms=60000 \
    RAY_grpc_client_keepalive_timeout_ms=30000 \
    RAY_idle_worker_killing_time_threshold_ms=60000
COPY --from=packages /opt/venv /opt/venv
WORKDIR /home/mmbatch/app
COPY cluster/health.sh cluster/
COPY mmbatch mmbatch
COPY jobs jobs
USER 1000:1000
# Docker's own; Kubernetes uses KubeRay's probes, which ask the same address.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["sh", "cluster/health.sh"]
CMD ["python", "-m", "jobs.pipeline", "--help"]
