# One image for every process of Tidemark: the command says which.

FROM node:22-bookworm-slim AS page
WORKDIR /page
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --no-audit --no-fund
COPY web ./
RUN npm run build

FROM python:3.13-slim-bookworm AS packages
COPY requirements.lock ./
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock

# The same Python beside a C compiler.
FROM python:3.13-bookworm AS compiled
COPY --from=packages /venv /venv
WORKDIR /srv/tidemark
COPY app ./app
RUN /venv/bin/python -m app.websocket.compiled && test -f app/websocket/fanout.compiled

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tidemark \
    && install --directory --owner=10001 --mode=0700 /var/lib/tidemark/imports
WORKDIR /srv/tidemark
COPY --from=packages /venv /venv
COPY --from=compiled /srv/tidemark/app ./app
COPY run.py gunicorn.conf.py pyproject.toml ./
COPY --from=page /page/dist ./web/dist
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TIDEMARK_ENVIRONMENT=production \
    TIDEMARK_LOG_FORMAT=json \
    TIDEMARK_HOST=0.0.0.0 \
    TIDEMARK_PORT=8000
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["python", "run.py"]
CMD ["web"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-m", "app.entry.health", "web"]
