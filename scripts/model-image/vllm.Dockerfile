# vLLM's image with one model in it, laid out as the hub's own library does it, so that
# `vllm serve MODEL`, with or without --revision, finds it and asks nobody.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

ENV HF_HOME=/model-cache
ARG HF_ENDPOINT
ARG MODEL
ARG COMMIT
# What the stack calls the commit: a branch or a tag.
ARG REVISION
# One a line: what the engine needs, and not the same weights again in other formats.
ARG FILES

# Xet's cache would hold the weights once more. The library notes what a branch or a tag means only
# where it was asked for one, and a commit is what must be asked for.
RUN --mount=type=secret,id=hugging-face-token \
    export HF_TOKEN_PATH=/run/secrets/hugging-face-token HF_HUB_DISABLE_PROGRESS_BARS=1 \
 && printf '%s\n' "$FILES" \
  | xargs --delimiter='\n' hf download "$MODEL" --revision "$COMMIT" --quiet \
 && rm -rf "$HF_HOME/xet" \
 && cd "$HF_HOME"/hub/models--*/snapshots/"$COMMIT"/../.. \
 && printf '%s' "$COMMIT" | install -D -m 644 /dev/stdin "refs/$REVISION" \
 && du -sh "$HF_HOME"

ENV HF_HUB_OFFLINE=1
