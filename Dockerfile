FROM python:3.13-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/planfix-bridge
# What was pinned and hashed, and nothing else; first, so that a change of the code does not fetch it again.
COPY requirements.lock .
RUN /opt/planfix-bridge/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/planfix-bridge/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl


FROM python:3.13-slim-bookworm
COPY --from=build /opt/planfix-bridge /opt/planfix-bridge
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
ENV PATH=/opt/planfix-bridge/bin:$PATH \
    PLANFIX_BRIDGE_CONFIG=/etc/planfix-bridge/config.yaml \
    PYTHONUNBUFFERED=1
# Settings name their files under data/ by default: from here they are in the one folder that is written to.
WORKDIR /
VOLUME /data
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python", "-c", "\
from urllib.request import urlopen; \
from bridge.config import config_path, load; \
urlopen(f'http://127.0.0.1:{load(config_path(None)).server.port}/healthz', timeout=5)"]
ENTRYPOINT ["planfix-bridge"]
CMD ["serve"]
