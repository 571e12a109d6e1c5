# Ollama's image with one model in it: a store at /weights, from which scripts/ollama.sh serves.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

ARG MODEL
# Where Ollama puts the model's manifest, and its digest when the build was asked for: a tag can move.
ARG MANIFEST
ARG COMMIT

# HOME: the server makes a key pair of its own there, which is nobody's business.
RUN export HOME=/tmp/home OLLAMA_MODELS=/weights OLLAMA_HOST=127.0.0.1:11434 \
 && { ollama serve & } \
 && timeout 60 sh -c 'until ollama list; do sleep 1; done' >/dev/null 2>&1 \
 && { ollama pull "$MODEL" >/tmp/pull 2>&1 || { tail -n 1 /tmp/pull; exit 1; }; } \
 && echo "$COMMIT  /weights/manifests/$MANIFEST" | sha256sum --check \
 && rm -rf /tmp/home /tmp/pull
