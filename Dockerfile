# TabAgent in a container: `cpu` runs on any x86-64 or ARM processor, `cuda` on NVIDIA's cards too.
#
#   docker build --target cpu -t tabagent:cpu .
#   docker build --target cuda -t tabagent:cuda .
#
# compose.yaml starts them as they should be started.

ARG DEBIAN=13-slim
ARG CUDA=13.0.1
ARG UBUNTU=24.04

# ---- Built for any processor ---------------------------------------------------------------------
FROM debian:${DEBIAN} AS cpu-build

RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates cmake g++ make ninja-build python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# First what takes minutes and seldom changes. Each kind of processor gets a library of its own, and
# the best one is chosen when a model is loaded; they lie where our workers look for them. What is
# removed is installed a second time, for programs that are linked with it.
COPY constraints.txt ./
RUN python3 -m venv /opt/tabagent \
    && CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_INSTALL_BINDIR=llama_cpp/lib" \
        /opt/tabagent/bin/pip install --no-binary llama-cpp-python -c constraints.txt llama-cpp-python \
    && rm -rf /opt/tabagent/lib/python3*/site-packages/lib /opt/tabagent/lib/python3*/site-packages/include

COPY pyproject.toml README.md LICENSE ./
COPY tabagent tabagent
COPY native_host native_host
COPY extension-manifest extension-manifest
RUN /opt/tabagent/bin/pip install -c constraints.txt ".[postgresql,webrtc]"

# ---- Built for NVIDIA's cards --------------------------------------------------------------------
FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS cuda-build

# The compiler's version 14 knows Intel's matrix tiles; Ubuntu's own gets them wrong.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates cmake g++-14 gcc-14 make ninja-build python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 CC=gcc-14 CXX=g++-14 CUDAHOSTCXX=g++-14
WORKDIR /src

# With the cards' code in a library of its own, a machine without their driver still has its processor.
COPY constraints.txt ./
RUN python3 -m venv /opt/tabagent \
    && CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_INSTALL_BINDIR=llama_cpp/lib" \
        /opt/tabagent/bin/pip install --no-binary llama-cpp-python -c constraints.txt llama-cpp-python \
    && rm -rf /opt/tabagent/lib/python3*/site-packages/lib /opt/tabagent/lib/python3*/site-packages/include

COPY pyproject.toml README.md LICENSE ./
COPY tabagent tabagent
COPY native_host native_host
COPY extension-manifest extension-manifest
RUN /opt/tabagent/bin/pip install -c constraints.txt ".[postgresql,webrtc]"

# ONNX Runtime comes in two packages that are one module: the one for cards takes the other's place.
RUN version="$(sed -n 's/^onnxruntime==//p' constraints.txt)" \
    && /opt/tabagent/bin/pip uninstall -y onnxruntime \
    && /opt/tabagent/bin/pip install --no-deps "onnxruntime-gpu==${version}"

# ---- What runs -----------------------------------------------------------------------------------
FROM debian:${DEBIAN} AS cpu

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tabagent \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tabagent \
    && install -d -m 0700 -o 10001 -g 10001 /data

COPY --from=cpu-build /opt/tabagent /opt/tabagent

# Beyond this machine nobody gets in without a token; TABAGENT_TOKEN_FILE says where it lies.
ENV PATH=/opt/tabagent/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    TABAGENT_DATA_DIR=/data \
    TABAGENT_HOST=0.0.0.0 \
    TABAGENT_PORT=8080 \
    TABAGENT_MODE=http \
    TABAGENT_LOG_FORMAT=json

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['TABAGENT_PORT']), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["tini", "--", "tabagent"]
CMD ["serve"]

# ---- And on cards: its libraries are those that ONNX Runtime and llama.cpp were built with --------
FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu${UBUNTU} AS cuda

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tabagent \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tabagent \
    && install -d -m 0700 -o 10001 -g 10001 /data

COPY --from=cuda-build /opt/tabagent /opt/tabagent

ENV PATH=/opt/tabagent/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    TABAGENT_DATA_DIR=/data \
    TABAGENT_HOST=0.0.0.0 \
    TABAGENT_PORT=8080 \
    TABAGENT_MODE=http \
    TABAGENT_LOG_FORMAT=json

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['TABAGENT_PORT']), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["tini", "--", "tabagent"]
CMD ["serve"]
