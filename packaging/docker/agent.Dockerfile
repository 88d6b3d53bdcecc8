# The agent, for amd64 and arm64. At the repository's root:
#   docker build -f packaging/docker/agent.Dockerfile -t edgekit .
#   docker run --device /dev/video0 -v edgekit:/var/lib/edgekit -v ./config:/etc/edgekit:ro edgekit
# BASE is any image with Python 3.10 to 3.14 and its venv module; RUNTIMES are extras of edgekit-runtime.
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
ARG RUNTIMES=litert
COPY . /src
RUN python3 -m venv /opt/edgekit \
 && /opt/edgekit/bin/pip install --no-cache-dir "/src[update,vision,serial,serve,${RUNTIMES}]" \
 && touch /opt/edgekit/edgekit-image

FROM ${BASE}
COPY --from=build /opt/edgekit /opt/edgekit
# The groups by which a host's kernel guards cameras, serial ports and accelerators have numbers of the host: add
# them with --group-add.
RUN useradd --system --uid 990 --user-group --groups video,dialout,plugdev \
      --create-home --home-dir /var/lib/edgekit edgekit \
 && install -d -o edgekit -g edgekit /var/cache/edgekit /etc/edgekit
ENV EDGEKIT_CONFIG=/etc/edgekit/agent.toml \
    EDGEKIT_STATE=/var/lib/edgekit \
    EDGEKIT_CACHE=/var/cache/edgekit \
    OPENBLAS_NUM_THREADS=1
USER 990
VOLUME /var/lib/edgekit
ENTRYPOINT ["/opt/edgekit/bin/edgekit"]
CMD ["agent", "run"]
