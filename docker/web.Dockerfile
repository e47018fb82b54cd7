# The web server of Luthier: no torch, no GPU. Build from the root of the repository: docker build -f docker/web.Dockerfile .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LUTHIER_HOME=/data LUTHIER_HOST=0.0.0.0
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/wheels/*.whl \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && groupadd --gid 10001 luthier \
    && useradd --uid 10001 --gid luthier --no-create-home --home-dir /data --shell /usr/sbin/nologin luthier \
    && install -d -o luthier -g luthier -m 0700 /data
USER luthier
WORKDIR /data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["luthier"]
CMD ["web"]
