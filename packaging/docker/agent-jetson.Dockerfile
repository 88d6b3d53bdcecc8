# The agent on a Jetson with JetPack 6, where TensorRT and its binding are those of the image's own Python 3.10:
#   docker build -f packaging/docker/agent-jetson.Dockerfile -t edgekit-jetson .
#   docker run --runtime nvidia --device /dev/video0 -v edgekit:/var/lib/edgekit -v ./config:/etc/edgekit:ro edgekit-jetson
# Not built by any test: the base image is in NVIDIA's registry only.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /opt/edgekit \
 && /opt/edgekit/bin/pip install --no-cache-dir "/src[update,vision,serial,serve,litert,onnxruntime]" \
 && touch /opt/edgekit/edgekit-image \
 && useradd --system --uid 990 --user-group --groups video,dialout,plugdev \
      --create-home --home-dir /var/lib/edgekit edgekit \
 && install -d -o edgekit -g edgekit /var/cache/edgekit /etc/edgekit
ENV EDGEKIT_CONFIG=/etc/edgekit/agent.toml \
    EDGEKIT_STATE=/var/lib/edgekit \
    EDGEKIT_CACHE=/var/cache/edgekit
USER 990
VOLUME /var/lib/edgekit
ENTRYPOINT ["/opt/edgekit/bin/edgekit"]
CMD ["agent", "run"]
