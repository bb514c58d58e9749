# MXFlex in a container; docs/deploy.md says how to build and run it.

FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/mxflex
RUN /opt/mxflex/bin/python -m pip install --no-cache-dir --disable-pip-version-check .
# Twisted's list of plugins, which nobody may write later.
RUN /opt/mxflex/bin/python -c "from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))"

FROM python:3.13-slim
# Another malloc; docs/operation.md, "Memory", says why. Any version will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libjemalloc2 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/mxflex \
        --shell /usr/sbin/nologin mxflex \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/mxflex
COPY --from=build /opt/mxflex /opt/mxflex
COPY contrib/container.yaml /etc/mxflex/mxflex.yaml
ENV LD_PRELOAD=libjemalloc.so.2 \
    PYTHONDONTWRITEBYTECODE=1 \
    STATE_DIRECTORY=/var/lib/mxflex \
    MXFLEX_MONITOR_LISTEN=tcp:9464:interface=127.0.0.1
# The folder html is looked for here.
WORKDIR /opt/mxflex/share/mxflex
# A certificate by ACME, the key of the account, what waits for webhooks, and who has logged out.
VOLUME ["/var/lib/mxflex"]
EXPOSE 8080
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["/opt/mxflex/bin/python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 9464, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["/opt/mxflex/bin/twistd", "--nodaemon", "--pidfile=", "mxflex"]
CMD ["--config", "/etc/mxflex/mxflex.yaml"]
