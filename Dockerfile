# Images of the roles and of the HTTP test backend: one file, a target each (intermediate, connector, http-app).
#
#   docker build --target connector --build-arg SOURCE_DATE_EPOCH=0 -t ztna/app-connector .
#
# The final images start from nothing: the interpreter, the libraries it loads and our code, no shell, no package
# manager, nothing of setuid. They run as 65532 with a read-only root file system. The same sources give the same
# layers: dependencies are those of uv.lock by hash, bytecode is checked by hash and not by time, times are fixed.

# The index of python:3.12-slim, for amd64 and arm64. To move it: docker buildx imagetools inspect python:3.12-slim
ARG BASE=docker.io/library/python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY docker/uv.txt docker/
RUN ["python3", "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", "--target=/uv", "-r", "docker/uv.txt"]
COPY pyproject.toml uv.lock ./
COPY docker/install.py docker/

FROM build AS role-files
RUN ["python3", "docker/install.py", "dependencies", "role", "/tree/opt/ztna/lib"]
COPY docker/ docker/
COPY infra/__init__.py infra/echo.py infra/http_probe.py infra/
COPY ztna/ ztna/
RUN ["python3", "docker/install.py", "sources", "/tree/opt/ztna/app"]
# hadolint ignore=DL3059
RUN ["python3", "docker/rootfs.py", "/tree"]

FROM build AS http-files
RUN ["python3", "docker/install.py", "dependencies", "backend", "/tree/opt/ztna/lib"]
COPY docker/ docker/
COPY infra/__init__.py infra/echo.py infra/http_probe.py infra/
RUN ["python3", "docker/install.py", "sources", "/tree/opt/ztna/app"]
# hadolint ignore=DL3059
RUN ["python3", "docker/rootfs.py", "/tree"]

FROM scratch AS runtime
# HOME is not there on purpose: nothing may be kept. What wants to write is given /tmp.
ENV PATH=/usr/local/bin:/usr/bin PYTHONPATH=/opt/ztna/app:/opt/ztna/lib PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 LANG=C.UTF-8 HOME=/nonexistent
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "/opt/ztna/app/entrypoint.py"]

FROM runtime AS intermediate
COPY --from=role-files /tree/ /
EXPOSE 4433/udp 4434/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-m", "ztna", "status", "--url", "http://127.0.0.1:9090"]
CMD ["intermediate", "--config", "/etc/ztna/intermediate.json"]

FROM runtime AS connector
COPY --from=role-files /tree/ /
EXPOSE 4434/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-m", "ztna", "status", "--url", "http://127.0.0.1:9091"]
CMD ["connector", "--config", "/etc/ztna/connector.json"]

FROM runtime AS http-app
COPY --from=http-files /tree/ /
EXPOSE 8080/tcp 9999/tcp 9999/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-m", "infra.http_probe", "http://127.0.0.1:8080/status/200"]
ENTRYPOINT ["python", "-m"]
CMD ["waitress", "--listen=0.0.0.0:8080", "--threads=8", "httpbin:app"]
