# Two images from one file: the sidecar (the default), and `--target demo`, which has the demo's client as well.
#
# Every package is a wheel that a lock in requirements/ names with its hash; pip asks whatever index it is told
# to. Nothing is compiled here, nothing of the build stays but the virtual environment, and nothing in it is
# written to while it runs: the root file system may be read-only, and no volume or /tmp is needed.

ARG PYTHON=3.13.12-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/run.lock requirements/build.lock requirements/
RUN pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.lock \
    && python -m venv --without-pip /app \
    && pip --python /app/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar/ sidecar/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /app/bin/python install --no-deps /wheels/*.whl

FROM build AS build-demo
COPY requirements/demo.lock requirements/
RUN pip --python /app/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/demo.lock

FROM python:${PYTHON} AS base
LABEL org.opencontainers.image.title="session-sidecar" \
      org.opencontainers.image.description="A transparent LLM proxy that shows what happens inside a conversation" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Pieces of answers that waited for slow clients, and bodies, go back to the system once they are freed: after 1,000
# streams whose clients took nothing, 118 MB stayed in place of 441 MB.
ENV MALLOC_MMAP_THRESHOLD_=65536
# The Python images have no bytecode of the standard library, and here nobody could keep it: every start, and every
# health check, would compile it anew.
RUN python -m compileall -q -x '/(site-packages|ensurepip|idlelib|tests?)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# A number, so that an orchestrator can see that it is not root.
USER 65532:65532
# Data, admin and health port. The first two listen on loopback unless a setting says otherwise.
EXPOSE 7070 7071 7072
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["sidecar", "health"]
ENTRYPOINT ["sidecar"]

FROM base AS demo
COPY --from=build-demo /app /app
CMD ["demo", "--once"]

FROM base AS sidecar
COPY --from=build /app /app
CMD ["run"]
