# An image of this checkout: docs/how_to/install.md.
#
#   docker build --tag hyperprompt .                           for CPUs
#   docker build --build-arg EXTRA=cuda --tag hyperprompt .    for GPUs; CUDA comes with JAX
#   docker build --build-arg EXTRA=tpu --tag hyperprompt .     for TPU VMs
#
# constraints.txt holds the versions that the tests passed with on this Python.
FROM python:3.11-slim
ARG EXTRA=
WORKDIR /hyperprompt
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRA:+[$EXTRA]}"
# Data and MODEL_DIR are mounted; another folder keeps the checkout from being imported.
WORKDIR /data
ENTRYPOINT ["hyperprompt"]
