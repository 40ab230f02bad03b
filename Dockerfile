# One image for head, workers and driver: `ray job submit` and KubeRay both run `python -m jobs.NAME` in it.
FROM python:3.11.14-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.2.0-14+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 mmbatch
WORKDIR /home/mmbatch/app
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY --chown=mmbatch jobs jobs
COPY --chown=mmbatch mmbatch mmbatch
USER mmbatch
ENTRYPOINT ["python", "-m"]
CMD ["jobs.pipeline", "--help"]
